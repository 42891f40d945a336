"""What Ray Serve's proxy sends in its own words, in those of this endpoint: refusals in JSON, and 503 where a replica was lost.

A proxy calls `middlewares` as it starts, if its environment is that of `environment`.
"""

import orjson
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_UNAVAILABLE = b"the process that worked on this request was lost or is not there yet; try again"
_RETRY_AFTER_SECONDS = b"1"


class OwnWords:
    """Replaces responses of the proxy itself, which are plain text, and passes on those of the application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/-/"):  # Ray's own probes
            await self._app(scope, receive, send)
            return
        is_started = is_replaced = False

        async def translate(message: Message) -> None:
            nonlocal is_started, is_replaced
            if message["type"] == "http.response.start":
                is_started, is_replaced = True, _is_of_the_proxy(message)
                if is_replaced:
                    await _say_unavailable(send)
            if not is_replaced:
                await send(message)

        await self._app(scope, receive, translate)
        if not is_started:  # Ray says nothing where a replica was lost at work
            await _say_unavailable(send)


async def _say_unavailable(send: Send) -> None:
    await send({"type": "http.response.start", "status": 503, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _BODY})


_BODY = orjson.dumps({"detail": _UNAVAILABLE.decode()})
_HEADERS = [
    (b"content-type", b"application/json"),
    (b"content-length", str(len(_BODY)).encode()),
    (b"retry-after", _RETRY_AFTER_SECONDS),
]


def _is_of_the_proxy(start: Message) -> bool:
    """An error in plain text: a lost replica (500), none yet (503), no application (404), no reply in time (408)."""
    headers = {name.lower(): value for name, value in start.get("headers", ())}
    return start["status"] in (404, 408, 500, 503) and headers.get(b"content-type", b"").startswith(b"text/plain")


def middlewares() -> list[Middleware]:
    """What Ray's setting RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names."""
    return [Middleware(OwnWords)]
