"""Requests to an HTTP endpoint that are sent again until they succeed or time is up. They must be free of side effects."""

import http.client
import io
import json
import logging
import random
import re
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from ..physics import InputError

JSON = "application/json"
_LOG = logging.getLogger(__name__)
_RETRIED = (408, 429, 502, 503, 504)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds between attempts, where the endpoint gives no time
_CONNECT_SECONDS = 10.0
_PIECE = 1 << 16  # bytes read at once
_MAX_BODY = 1 << 30  # bytes of a response; many times what the largest request is for
_CONNECTION = re.compile(r"^<?\w+\([^)]*\)[^:]*: ")  # what urllib3 puts in front of a reason


class EndpointError(Exception):
    """An endpoint that cannot be reached, refuses the client, or responds with what is no prediction.

    Attributes
    ----------
    status
        The HTTP status of the last response; None where there was none.
    """

    def __init__(self, sentence: str, status: int | None = None) -> None:
        super().__init__(sentence)
        self.status = status


class TooLarge(Exception):
    """A request body that is larger than the endpoint reads."""


class _TimedReader(io.RawIOBase):
    """What a socket receives, all of it within the timeout that the socket has now; by itself it allows as much to each read."""

    def __init__(self, source: io.RawIOBase, connected: socket.socket) -> None:
        self._source, self._connected = source, connected
        self._ends = time.monotonic() + (connected.gettimeout() or 0.0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        seconds = self._ends - time.monotonic()
        if seconds <= 0.0:
            raise TimeoutError("timed out")
        self._connected.settimeout(seconds)
        return self._source.readinto(buffer)  # pyright: ignore[reportAttributeAccessIssue]

    def close(self) -> None:
        super().close()
        self._source.close()


class _TimedResponse(http.client.HTTPResponse):
    """A response whose headers and body together take no longer than the timeout."""

    def __init__(self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, url: str | None = None) -> None:
        super().__init__(sock, debuglevel, method, url)
        self.fp = io.BufferedReader(_TimedReader(self.fp.detach(), sock))


class _Connection(HTTPConnection):
    response_class = _TimedResponse


class _SecureConnection(HTTPSConnection):
    response_class = _TimedResponse


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection  # pyright: ignore[reportAssignmentType]  as in urllib3 itself


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection  # pyright: ignore[reportAssignmentType]  as in urllib3 itself


class Endpoint:
    """An address with its connections, which several threads may use; the parameters are those of `Client`."""

    def __init__(self, url: str, api_key: str | None, timeout: float, time_limit: float, connections: int) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise InputError(f"url is {url!r}; give the address of an endpoint, such as http://127.0.0.1:8000")
        for name, value in (("timeout", timeout), ("time_limit", time_limit)):
            if not 0.0 < value < np.inf:
                raise InputError(f"{name} is {value}; give a number of seconds above 0")
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise InputError("api_key has characters that no header can hold; give printable ASCII")
        self.url = url.rstrip("/")
        self._timeout, self._time_limit = timeout, time_limit
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._pool = urllib3.PoolManager(maxsize=connections, retries=False)
        self._pool.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}

    def close(self) -> None:
        self._pool.clear()

    def get_json(self, path: str) -> dict[str, Any]:
        """The object that GET returns; EndpointError as `exchange`, and where it returns anything else."""
        body = self.exchange("GET", path, {})
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise EndpointError(f"GET {self.url}{path} did not return JSON, but {excerpt(body)}", 200)
        return content

    def exchange(self, method: str, path: str, query: Mapping[str, str], body: bytes | None = None, media_type: str | None = None) -> bytes:
        """The body of the response 200, after as many attempts as the time limit allows.

        Raises
        ------
        InputError
            With the sentence of a 422.
        TooLarge
            For a 413.
        EndpointError
            For any other response that another attempt will not change, for a body above 1 GiB, and when time is up.
        """
        target = f"{self.url}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = self._headers | ({"Content-Type": media_type} if media_type else {})
        deadline = time.monotonic() + self._time_limit
        pause, level = _FIRST_PAUSE, logging.WARNING
        while True:
            asked, status = 0.0, None
            try:
                status, received, content = self._attempt(method, target, body, headers, deadline)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                reason = f"{self.url} gave no response: {_CONNECTION.sub('', str(error))}"
                if isinstance(error, urllib3.exceptions.SSLError | urllib3.exceptions.NameResolutionError):
                    raise EndpointError(f"{reason}; check the address") from error  # another attempt cannot mend it
            else:
                if status == 200:
                    return content
                if status not in _RETRIED:
                    raise _refusal(self.url, status, content)
                reason = f"{self.url} responded {status}: {_detail(content)}"
                asked = _retry_after(received.get("retry-after"))
            wait = max(asked, pause * random.uniform(0.5, 1.0))
            if time.monotonic() + wait > deadline:
                waiting = f", and asks to wait {asked:g} s" if asked > self._time_limit else ""
                raise EndpointError(f"{reason}{waiting}; given up after the time limit of {self._time_limit:g} s", status)
            _LOG.log(logging.INFO if status else level, "%s; next attempt in %.1f s", reason, wait)
            level = logging.INFO  # one line tells a user why it takes long
            time.sleep(wait)
            pause = min(2.0 * pause, _LONGEST_PAUSE)

    def _attempt(self, method: str, target: str, body: bytes | None, headers: dict[str, str], deadline: float) -> tuple[int, Any, bytes]:
        """Status, headers and body of one response, read to its end within the timeout."""
        seconds = max(0.01, min(deadline - time.monotonic(), self._timeout))
        timeout = urllib3.Timeout(connect=min(_CONNECT_SECONDS, seconds), total=seconds)
        response = self._pool.request(method, target, body=body, headers=headers, timeout=timeout, redirect=False, preload_content=False)
        try:
            content = bytearray()
            while piece := response.read1(_PIECE):
                content += piece
                if len(content) > _MAX_BODY:
                    sentence = f"{self.url} responded with more than {_MAX_BODY:,} bytes; check the address"
                    raise EndpointError(sentence, response.status)
        except BaseException:
            response.close()
            raise
        response.release_conn()
        return response.status, response.headers, bytes(content)


def _retry_after(header: str | None) -> float:
    """Seconds that a Retry-After header, seconds or a date, asks to wait; 0 where there is none that can be read."""
    try:
        if header is None:
            return 0.0
        if header.strip().isdecimal():
            return float(header)
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _refusal(url: str, status: int, content: bytes) -> Exception:
    if status == 413:
        return TooLarge()
    if status == 422:
        return InputError(_detail(content))
    remedies = {
        401: "; give a valid api_key",
        403: "; give a valid api_key",
        404: "; check the address of the endpoint and the name of the model",
    }
    return EndpointError(f"{url} responded {status}: {_detail(content)}{remedies.get(status, '')}", status)


def _detail(content: bytes) -> str:
    """The sentence of a refusal, or the beginning of whatever came instead."""
    try:
        detail = json.loads(content)["detail"]
        if isinstance(detail, str):
            return detail
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return excerpt(content)


def excerpt(content: bytes) -> str:
    """The beginning of a body, to show in a message."""
    return repr(content[:100].decode("utf-8", "replace")) if content else "nothing"
