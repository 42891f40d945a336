"""What Ray Serve's proxy does before a request reaches a replica, and instead of its own plain-text errors.

A request that is passed on costs several milliseconds of two processes whatever becomes of it, so too many are refused here, where that
costs a tenth. A body is read here before its request takes a place: a slow sender holds up nobody.

A proxy calls `middlewares` as it starts, if its environment is that of `environment`.
"""

import asyncio
import contextlib
import math
import os
import time
from collections.abc import Iterator
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .environment import PROXY_LIMITS
from .memory import LARGE_BYTES, give_back

_MAX_BYTES_AT_ONCE = 256 * 2**20  # bodies that are being read or wait
_SMALL_BYTES = 2**18  # bodies below are always read: large ones that do not end shall stop nobody
_PART_LEFT, _DOUBLING_SECONDS = 0.7, 5.0  # of what is passed on, after a replica refused; and then it grows
# Of a request, those that would change how Ray treats it; and an id that is no text, on which Ray fails.
_RAY_HEADERS = (b"x-request-timeout-seconds", b"x-request-disconnect-disabled", b"serve_multiplexed_model_id")
_LINGER_SECONDS = 10.0
_RETRY_LATER = (b"retry-after", b"1")


class ProxyLimits(BaseModel):
    """What one proxy lets through; JSON in the environment variable `environment.PROXY_LIMITS`."""

    model_config = ConfigDict(extra="forbid")

    max_requests: int = Field(256, ge=1, description="requests with a body that are passed on at once; beyond them, 503")
    max_body_mb: float = Field(32.0, gt=0, description="of one request, in MiB")
    request_timeout_seconds: float = Field(60.0, gt=0, description="for the body to arrive")
    cors_origins: list[str] = Field(default_factory=list, description="pages from these addresses may read refusals too")


class Gate:
    """Bodies in whole and not too many at once; errors in JSON, and 503 where a replica was lost."""

    def __init__(self, app: ASGIApp, limits: ProxyLimits) -> None:
        self._app, self._limits = app, limits
        self._num_bytes = 0
        self._places = _Places(limits.max_requests)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/-/"):  # Ray's own probes
            await self._app(scope, receive, send)
            return
        scope = {**scope, "headers": [header for header in scope["headers"] if _may_pass(*header)]}
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._pass_on(scope, receive, send)
        else:
            await self._admit(scope, receive, send)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._places.are_taken(_declared_bytes(scope)):  # which costs less than reading the body
            await self._refuse(scope, send, *_TOO_MANY)
            return
        body = bytearray()
        with contextlib.ExitStack() as place:
            place.callback(self._forget, body)
            try:
                whole = await self._receive(scope, receive, body)
            except _Refused as refused:
                await self._refuse(scope, send, *refused.args, (b"connection", b"close"), rest=receive if refused.more_comes else None)
                return
            except _Gone:
                return
            if self._places.are_taken(len(whole)):
                await self._refuse(scope, send, *_TOO_MANY)
                return
            place.enter_context(self._places.take(len(whole)))
            passed_on = time.monotonic()
            is_full = await self._pass_on(scope, _replay(whole, receive), send, place)
        if is_full:
            self._places.learn_refusal(len(whole), passed_on)

    def _forget(self, body: bytearray) -> None:
        self._num_bytes -= len(body)

    async def _receive(self, scope: Scope, receive: Receive, body: bytearray) -> bytes:
        try:
            async with asyncio.timeout(self._limits.request_timeout_seconds):
                await self._read(scope, receive, body)
        except TimeoutError:
            seconds = f"{self._limits.request_timeout_seconds:g} s"
            raise _Refused(408, f"the body did not arrive within {seconds}; send it faster") from None
        return bytes(body)

    async def _read(self, scope: Scope, receive: Receive, body: bytearray) -> None:
        """The whole body into `body`, given up at the first byte over the limit whatever Content-Length said."""
        limit = int(self._limits.max_body_mb * 2**20)
        too_large = 413, f"body is larger than {self._limits.max_body_mb:g} MiB; send fewer trajectories a request"
        if _declared_bytes(scope) > limit:
            raise _Refused(*too_large, more_comes=True)
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            piece, more = message.get("body", b""), message.get("more_body", False)
            is_large = bool(piece) and len(body) + len(piece) > _SMALL_BYTES
            if is_large and self._num_bytes + len(piece) > _MAX_BYTES_AT_ONCE:
                raise _Refused(503, "there are too many bytes on their way; try again", _RETRY_LATER, more_comes=more)
            body += piece
            self._num_bytes += len(piece)
            if len(body) > limit:
                raise _Refused(*too_large, more_comes=more)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, place: contextlib.ExitStack | None = None) -> bool:
        """Give a request to Ray, and return whether a replica refused it because there is too much to do.

        Its `place` is free as the response begins: all is computed then, and a slow reader holds up nobody.
        """
        is_started = is_replaced = is_full = False
        num_bytes = 0

        async def translate(message: Message) -> None:
            nonlocal is_started, is_replaced, is_full, num_bytes
            num_bytes += len(message.get("body", b""))
            if message["type"] == "http.response.start":
                is_started, is_replaced = True, _is_of_the_proxy(message)
                is_full = message["status"] == 503 and not is_replaced
                if place is not None:
                    place.close()
                routes = await self._routes(scope) if is_replaced and message["status"] == 404 else []
                if routes:
                    sentence = f"there is no endpoint at {scope['path'][:100]}; those here are at {', '.join(routes)}"
                    await self._refuse(scope, send, 404, sentence)
                elif is_replaced:
                    await self._refuse(scope, send, 503, _LOST, _RETRY_LATER)
            if not is_replaced:
                async with asyncio.timeout(self._limits.request_timeout_seconds):  # of a reader who takes nothing any more
                    await send(message)

        await self._app(scope, receive, translate)
        if not is_started:  # Ray sends nothing where a replica was lost at work
            await self._refuse(scope, send, 503, _LOST, _RETRY_LATER)
        if num_bytes > LARGE_BYTES:
            give_back()
        return is_full

    async def _routes(self, scope: Scope) -> list[str]:
        """Of all endpoints; none while the proxy is yet to learn them, or there are none."""
        messages: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def collect(message: Message) -> None:
            messages.append(message)

        await self._app({**scope, "method": "GET", "path": "/-/routes", "raw_path": b"/-/routes"}, receive, collect)
        if messages[0]["status"] != 200:
            return []
        return sorted(orjson.loads(b"".join(message.get("body", b"") for message in messages)))

    async def _refuse(
        self, scope: Scope, send: Send, status: int, sentence: str, *headers: tuple[bytes, bytes], rest: Receive | None = None
    ) -> None:
        """Respond, and first read the `rest` of a body for a while: a client that is cut off while it sends sees nothing else."""
        body = orjson.dumps({"detail": sentence})
        all_headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
        origin = dict(scope["headers"]).get(b"origin", b"").decode("latin-1")
        for allowed in {origin, "*"} & set(self._limits.cors_origins):  # as Starlette does it for what replicas send
            all_headers += [(b"access-control-allow-origin", allowed.encode("latin-1")), (b"vary", b"Origin")]
        await send({"type": "http.response.start", "status": status, "headers": all_headers})
        if rest is not None:
            await send({"type": "http.response.body", "body": body, "more_body": True})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LINGER_SECONDS):
                    while (await rest()).get("more_body"):
                        pass
            body = b""
        await send({"type": "http.response.body", "body": body})


class _Places:
    """Bodies in progress by their sizes. How many may be is learnt from the replicas, which refuse what they have no time for.

    A request that a replica refuses costs it time to predict, so only as many are passed on as find out whether it takes more by now:
    as TCP finds the capacity of a network, fewer by a part at each refusal, then slowly more.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._sizes: list[int] = []
        self._from_size, self._limit, self._limited_when = 0, math.inf, 0.0

    def are_taken(self, size: int) -> bool:
        """For another request of this size."""
        if len(self._sizes) >= self._most:
            return True
        return size >= self._from_size and self._num_from(self._from_size) >= self._limit_now()

    @contextlib.contextmanager
    def take(self, size: int) -> Iterator[None]:
        self._sizes.append(size)
        try:
            yield
        finally:
            self._sizes.remove(size)

    def learn_refusal(self, size: int, passed_on: float) -> None:
        """A replica refused a request of this size: it has enough of those at least half as large. A smaller one it might take."""
        if passed_on < self._limited_when and size // 2 >= self._from_size:
            return  # it was on its way already when the limit was lowered
        limit = min(self._num_from(size // 2), self._limit_now())
        self._limit, self._limited_when = max(1.0, _PART_LEFT * limit), time.monotonic()
        self._from_size = size // 2

    def _limit_now(self) -> float:
        return self._limit * 2.0 ** min((time.monotonic() - self._limited_when) / _DOUBLING_SECONDS, 30.0)

    def _num_from(self, size: int) -> int:
        return sum(other >= size for other in self._sizes)


_TOO_MANY = (503, "there are too many requests; try again", _RETRY_LATER)
_LOST = "the process that worked on this request was lost, or is not there yet; try again"


class _Refused(Exception):
    """A status, a sentence and headers; and whether more of a body comes that the client may be sending before it looks."""

    def __init__(self, *parts: Any, more_comes: bool = False) -> None:
        super().__init__(*parts)
        self.more_comes = more_comes


class _Gone(Exception):
    """Who asked has hung up."""


def _declared_bytes(scope: Scope) -> int:
    """What Content-Length promises, 0 where it is missing or no number."""
    declared = dict(scope["headers"]).get(b"content-length", b"")
    return int(declared[:20]) if declared.isdigit() else 0


def _may_pass(name: bytes, value: bytes) -> bool:
    return name.lower() not in _RAY_HEADERS and (name.lower() != b"x-request-id" or value.isascii())


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that has the body in one piece, and then what else comes."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return pending.pop() if pending else await receive()

    return next_message


def _is_of_the_proxy(start: Message) -> bool:
    """An error in plain text: a lost replica (500), none yet (503), no application (404), no reply in time (408)."""
    headers: dict[Any, bytes] = {name.lower(): value for name, value in start.get("headers", ())}
    return start["status"] in (404, 408, 500, 503) and headers.get(b"content-type", b"").startswith(b"text/plain")


def middlewares() -> list[Middleware]:
    """What Ray's setting RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names."""
    return [Middleware(Gate, limits=ProxyLimits.model_validate_json(os.environ.get(PROXY_LIMITS, "{}")))]
