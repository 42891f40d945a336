"""Jobs on a cluster: the code of this checkout is uploaded, its log followed, its state asked for until it has ended.

Ray's own client ends with the log, whose stream may break long before the job does, and refuses an identifier that was used before.
"""

import asyncio
import hashlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ...physics import InputError
from ..ray_runtime import choose_authentication

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
_ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_DASHBOARD_ADDRESS")
_LOGGERS = ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
_CONNECT_SECONDS = 3.0
_POLL_SECONDS = 2.0  # between looks at the state of a job whose log is silent
_AGENT_SECONDS = 30.0  # that a new head may take until it accepts jobs
_REPLY_SECONDS = 60.0  # for one of the dashboard, which may be busy
_PATIENCE_SECONDS = 120.0  # how long the dashboard may be out of reach before the command gives up

Write = Callable[[str], None]


def dashboard_address(given: str | None) -> str:
    """The address that jobs are sent to: as given, that of the environment, or the one of a cluster on this machine."""
    named = (os.environ.get(variable) for variable in _ADDRESS_VARIABLES)
    address = given or next(filter(None, named), DEFAULT_ADDRESS)
    return (address if "://" in address else f"http://{address}").rstrip("/")


class Jobs:
    """The jobs of the cluster whose dashboard is at `address`. InputError, one sentence, where that cannot be reached or refuses."""

    def __init__(self, address: str) -> None:
        choose_authentication()
        self.address = address
        self._check_reachable()
        from ray.job_submission import JobSubmissionClient

        class Client(JobSubmissionClient):
            """Ray's own waits for a dashboard that does not respond without an end."""

            def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
                options.setdefault("timeout", _REPLY_SECONDS)
                return super()._do_request(method, endpoint, **options)

        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        # Ray's client prefers these to the address that it is given.
        hidden = {name: os.environ.pop(name) for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS") if name in os.environ}
        try:
            with self._refusals():
                self._client = Client(address)
        finally:
            os.environ |= hidden

    def submit(self, entrypoint: str, code: Path | None, job: str | None) -> tuple[str, bool]:
        """Start `entrypoint`, or find it running; the job's identifier, and whether it was there before.

        `code` is the folder to upload; None: the cluster's own installation runs. `job` names one job for good: where there is
        one of this name, running or ended, it is returned. Without a name, the name follows from command and code; a job of that name
        that still runs is returned, and after one that has ended another begins, with a number.

        Raises
        ------
        InputError
            Where a job of this name has another command, or the upload is refused.
        """
        environment = {"working_dir": str(code), "excludes": [".git"]} if code else {}
        base, deadline = job or f"nh-{_digest(entrypoint, code)}", time.monotonic() + _AGENT_SECONDS
        while True:
            name, exists = self._choose(base, numbered=job is None)
            if exists:
                self._check_command(name, entrypoint)
                return name, True
            try:
                with self._refusals():
                    self._client.submit_job(entrypoint=entrypoint, runtime_env=environment, submission_id=name)
            except _AlreadySubmitted:
                continue  # by another process, since `_choose` looked
            except _NoAgent:
                if time.monotonic() > deadline:
                    raise InputError(
                        f"--address is {self.address!r}, where no node accepts jobs after {_AGENT_SECONDS:.0f} s, as when another Ray of "
                        "the machine has the port of the head's agent, 52365; start the head anew with `ray start --head "
                        "--dashboard-agent-listen-port` and a port that is free"
                    ) from None
                time.sleep(_POLL_SECONDS)
                continue
            return name, False

    def follow(self, job: str, write: Write) -> None:
        """Write the log of a job, each part of it once, until the job has ended."""
        log, lost_since = _Log(write), None
        while True:
            try:
                asyncio.run(self._stream(job, log))
                if self.state(job)["ended"]:
                    log.add(0, self._client.get_job_logs(job))  # where the stream was cut off
                    return
                lost_since = None
            except (OSError, RuntimeError) as error:  # of the dashboard or of what is between: the job goes on
                reason = " ".join(str(error).split())
                if "does not exist" in reason:
                    raise InputError(f"--address is {self.address!r}, where job {job} is gone: the cluster was started anew") from None
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > _PATIENCE_SECONDS:
                    raise InputError(
                        f"--address is {self.address!r}, which is out of reach for {_PATIENCE_SECONDS:.0f} s ({reason}); job {job} may go "
                        "on, and the same command finds it again"
                    ) from None
            time.sleep(_POLL_SECONDS)

    def state(self, job: str) -> dict[str, Any]:
        """`status`, in Ray's words, whether that is the end (`ended`), and `exit_code` of the command where there is one."""
        info = self._client.get_job_info(job)
        return {"status": str(info.status.value), "ended": info.status.is_terminal(), "exit_code": info.driver_exit_code}

    async def _stream(self, job: str, log: "_Log") -> None:
        """Write the log until its stream ends, or the job does while the stream is silent."""
        chunks, position = self._client.tail_job_logs(job), 0
        following = asyncio.ensure_future(anext(chunks, None))
        try:
            while True:
                await asyncio.wait({following}, timeout=_POLL_SECONDS)
                if following.done():
                    text = following.result()
                    if text is None:
                        return
                    log.add(position, text)
                    position += len(text)
                    following = asyncio.ensure_future(anext(chunks, None))
                elif self.state(job)["ended"]:  # the connection is dead
                    return
        finally:
            following.cancel()

    def _choose(self, base: str, numbered: bool) -> tuple[str, bool]:
        with self._refusals():
            found = {str(info.submission_id): info.status.is_terminal() for info in self._client.list_jobs() if info.submission_id}
        if not numbered:
            return base, base in found
        numbers = {name: name.removeprefix(base).removeprefix("-") or "1" for name in found if name.startswith(base)}
        running = [name for name in numbers if not found[name]]
        if running:
            return running[0], True
        last = max((int(number) for number in numbers.values() if number.isdecimal()), default=0)
        return (base if last == 0 else f"{base}-{last + 1}"), False

    def _check_command(self, job: str, entrypoint: str) -> None:
        before = self._client.get_job_info(job).entrypoint
        if before != entrypoint:
            raise InputError(f"--submission-id is {job!r}, which is the job of `{before}`; choose another, or leave it out")

    def _check_reachable(self) -> None:
        parts = urlsplit(self.address)
        try:
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            raise InputError(f"--address is {self.address!r}; it must be the dashboard's, such as {DEFAULT_ADDRESS}") from None
        try:
            socket.create_connection((parts.hostname, port), timeout=_CONNECT_SECONDS).close()
        except OSError as error:
            raise InputError(
                f"--address is {self.address!r}, where no dashboard can be reached ({error.strerror or error}); start the cluster with "
                "`ray start --head`, forward its port, or give another address"
            ) from None

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """What Ray's client raises as one sentence each."""
        from ray.exceptions import AuthenticationError

        received = f"--address is {self.address!r}"
        try:
            yield
        except AuthenticationError:
            raise InputError(
                f"{received}, and the cluster refuses the token of this machine; copy the cluster's to ~/.ray/auth_token, "
                "or set RAY_AUTH_TOKEN"
            ) from None
        except (OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            if "already" in reason and "submission_id" in reason:
                raise _AlreadySubmitted from None
            if "No available agent" in reason:
                raise _NoAgent from None
            if "status code 413" in reason or "exceeds the maximum size" in reason:
                raise InputError(
                    "the code is larger than the 100 MiB that Ray takes; move large files out of the checkout, or list them in .gitignore"
                ) from None
            raise InputError(f"{received}, which is no dashboard of Ray or refuses the job: {reason[:300]}") from None


class _Log:
    """Writes a text that arrives in pieces, some of them again, each character once."""

    def __init__(self, write: Write) -> None:
        self._write, self._written = write, 0

    def add(self, position: int, text: str) -> None:
        """The piece `text`, which begins at `position`."""
        fresh = text[max(0, self._written - position) :]
        if fresh:
            self._write(fresh)
            self._written = position + len(text)


class _AlreadySubmitted(Exception):
    """A job of this name began meanwhile."""


class _NoAgent(Exception):
    """No node of the cluster accepts jobs."""


def _digest(entrypoint: str, code: Path | None) -> str:
    from ray._private.runtime_env.packaging import get_uri_for_directory

    upload = get_uri_for_directory(str(code), include_gitignore=True, excludes=[".git"]) if code else None
    return hashlib.sha256(json.dumps([entrypoint, upload]).encode()).hexdigest()[:12]
