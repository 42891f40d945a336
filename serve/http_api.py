"""The HTTP contract as a FastAPI application around a `Service`. No Ray: `application` puts it on Ray Serve."""

import asyncio
import hmac
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from email.message import Message as MailMessage
from http import HTTPStatus
from typing import Any, get_args

import orjson
from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..physics import InputError
from .arrow_stream import MEDIA_TYPE, read_problems, write_orbits
from .batching import Busy
from .memory import LARGE_BYTES, give_back
from .model import Verify
from .motion import MotionProblem, map_potential_of_motion
from .orbit import TRUST_FIELDS
from .schema import (
    MAX_PLACES,
    PARTS,
    PotentialRequest,
    PotentialResponse,
    Refusal,
    TrajectoriesRequest,
    TrajectoriesResponse,
    parse_request,
    to_response,
)
from .service import Service
from .solutions import MAX_REFERENCES, find_references
from .static_page import add_page

RETRY_AFTER_SECONDS = 1

_PIECE_BYTES = 2**18  # of a response: a proxy passes on pieces, and keeps a whole response in memory otherwise
_LONGEST_INLINE = 2**15  # bytes; reading more of a body at once would hold up other requests
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_OPTIONS = ("verify", "model")
_REQUEST_COLUMNS = f"{', '.join(PARTS)}, all optional: the fields of a trajectory in JSON, null where one is not given"
_RESPONSE_COLUMNS = f"times, q, p, {', '.join(TRUST_FIELDS)}; energy, period, turning_points where any trajectory has its own units"
_COMPONENT = "#/components/schemas/{model}"
_REQUESTS = (TrajectoriesRequest, PotentialRequest)
_REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"model": Refusal, "description": "This endpoint has an API key, and the request did not bring it"},
    408: {"model": Refusal, "description": "The body did not arrive in time"},
    413: {"model": Refusal, "description": "The body is too large"},
    422: {"model": Refusal, "description": "What was sent is wrong; the sentence names the field"},
    503: {"model": Refusal, "description": "Overloaded; try again after Retry-After seconds"},
}


class _Refused(Exception):
    """A request that ends without work: its status, the reason as metrics have it, and a sentence."""

    def __init__(self, status: int, reason: str, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status, self.reason, self.sentence = status, reason, sentence
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def build_api(service: Service) -> FastAPI:
    """The application. The service is looked at anew by each request, so that its models can be swapped meanwhile."""
    summary = "q(t), p(t) for a potential V(q), from a neural operator"
    api = FastAPI(title="Neural Hamilton", version="1", summary=summary, docs_url=None, redoc_url=None, redirect_slashes=False)
    _add_common(api, service)
    add_page(api)

    @_get(api, "/v1/model", summary="The default model's card, with what the model was trained for")
    async def show_model() -> dict[str, Any]:
        return service.catalogue.find(None)[1].description

    @_get(api, "/v1/models", summary="All models by name, which is the default, and what could not be loaded")
    async def show_models() -> dict[str, Any]:
        return service.catalogue.describe()

    @_get(api, "/v1/models/{name}", summary="A model's card", responses={404: {"model": Refusal}})
    async def show_named_model(name: str) -> dict[str, Any]:
        try:
            return service.catalogue.find(name)[1].description
        except InputError as error:
            raise _Refused(404, "unknown_model", str(error)) from None

    @_get(api, "/healthz", summary="Whether the process is alive")
    async def show_health() -> dict[str, str]:
        return {"status": "ok", "architecture": service.catalogue.find(None)[1].summary["architecture"]}

    @_get(api, "/readyz", summary="Whether requests are taken")
    async def show_readiness() -> dict[str, Any]:
        return {"status": "ready", "models": list(service.catalogue.models), "requests_in_progress": service.queue.num_requests}

    if service.read_metrics is not None:
        read_metrics = service.read_metrics

        @_get(api, "/metrics", response_class=PlainTextResponse, summary="Counters for Prometheus")
        async def show_metrics() -> PlainTextResponse:
            return PlainTextResponse(await run_in_threadpool(read_metrics), media_type="text/plain; version=0.0.4")

    @api.post(
        "/v1/trajectories",
        summary="Trajectories of a batch of potentials",
        responses={
            200: {"model": TrajectoriesResponse, "content": {MEDIA_TYPE: _binary(_RESPONSE_COLUMNS)}},
            **_REFUSALS,
        },
        openapi_extra=_body(TrajectoriesRequest, {MEDIA_TYPE: _binary(_REQUEST_COLUMNS)})
        | {
            "parameters": [
                _query("verify", "with JSON, either here or in the body", {"enum": list(get_args(Verify)), "default": "energy"}),
                _query("model", "a name of GET /v1/models; with JSON, either here or in the body", {"type": "string"}),
            ],
        },
    )
    async def predict_trajectories(request: Request) -> Response:
        media_type = _media_type(request, "application/json", MEDIA_TYPE)
        options = _read_options(request)
        predict = _predict_json if media_type == "application/json" else _predict_arrow
        return await _work_on(service, request, lambda body: predict(service, body, options))

    @api.post(
        "/v1/potential",
        summary="V on a grid over the domain, and the energy of a particle",
        responses={200: {"model": PotentialResponse}, **_REFUSALS},
        openapi_extra=_body(PotentialRequest),
    )
    async def map_potential(request: Request) -> Response:
        _media_type(request, "application/json")
        if request.query_params:
            raise InputError(f"query parameters are {', '.join(request.query_params)[:100]}; everything belongs in the body")

        async def evaluate(body: bytes) -> Response:
            return await run_in_threadpool(_map_potential, service, body)

        return await _work_on(service, request, evaluate)

    api.openapi = lambda: _describe(api)  # type: ignore[method-assign]
    return api


def _add_common(api: FastAPI, service: Service) -> None:
    """What all routes share: refusals, the key, origins, counting."""

    def refuse(_: Request, refused: Any) -> Response:
        service.instruments.reject(refused.reason)
        return _refuse(refused.status, refused.sentence, refused.headers)

    def refuse_input(_: Request, error: Exception) -> Response:
        service.instruments.reject("invalid")
        return _refuse(422, str(error))

    api.add_exception_handler(_Refused, refuse)

    def refuse_address(request: Request, error: Any) -> Response:
        methods = {
            method for route in api.routes if route.matches(request.scope)[0] != Match.NONE for method in getattr(route, "methods", ())
        }
        path = request.url.path[:100]
        if error.status_code == 405:
            allowed = ", ".join(sorted(methods))
            return _refuse(405, f"{request.method[:20]} is no method of {path}; use {allowed}", {"Allow": allowed})
        has_own_words = error.detail != HTTPStatus(error.status_code).phrase
        sentence = error.detail if has_own_words else f"there is nothing at {path}; GET /openapi.json describes what there is"
        return _refuse(error.status_code, sentence)

    api.add_exception_handler(InputError, refuse_input)
    api.add_exception_handler(HTTPException, refuse_address)
    # In JSON: a proxy takes plain text for its own word that a replica was lost.
    api.add_exception_handler(Exception, lambda _, __: _refuse(500, "this is a fault of the endpoint; its log has the details"))

    api.add_middleware(_Entrance, service=service)
    if service.limits.cors_origins:
        origins = list(service.limits.cors_origins)
        api.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"])


class _Entrance:
    """Every request comes in here: it needs the key, and it is counted. Plain ASGI, as Starlette's own base class costs more."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 500

        async def note_status(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        instruments = self._service.instruments
        try:
            if self._may_enter(Request(scope)):
                await self._app(scope, receive, note_status)
            else:
                instruments.reject("unauthorized")
                sentence = "this endpoint has an API key; send it as the header Authorization: Bearer KEY"
                await _refuse(401, sentence, {"WWW-Authenticate": "Bearer"})(scope, receive, note_status)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            instruments.finish_request(route, status, time.perf_counter() - begun)

    def _may_enter(self, request: Request) -> bool:
        """Whether a request brings the key, or needs none: probes, metrics and the page reveal nothing."""
        key = self._service.limits.api_key
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))  # of one of several endpoints
        if key is None or not path.startswith("/v1/"):
            return True
        return hmac.compare_digest(request.headers.get("authorization", "").encode(), f"Bearer {key}".encode())


def _get(api: FastAPI, path: str, **options: Any) -> Callable[[Any], Any]:
    """A route for GET and, as HTTP demands, for HEAD."""

    def register(handler: Any) -> Any:
        api.head(path, include_in_schema=False, **{name: value for name, value in options.items() if name == "response_class"})(handler)
        return api.get(path, **options)(handler)

    return register


async def _work_on(service: Service, request: Request, work: Callable[[bytes], Awaitable[Response]]) -> Response:
    """Read the body and work on it, in the time and with the memory that requests have.

    A body is read before its request takes one of the places in the queue: a slow sender holds up nobody.
    """
    limits = service.limits
    arrived, body = False, b""
    try:
        async with asyncio.timeout(limits.request_timeout_seconds):
            body = await _read_body(request, limits.max_body_bytes)
            arrived = True
            with service.queue.admit(len(body)):
                service.instruments.waiting(service.queue.num_requests)
                return await work(body)
    except ClientDisconnect:
        return Response(status_code=499)  # nobody is there to read it
    except Busy:
        raise _unavailable("overloaded", "there are too many requests; try again") from None
    except TimeoutError:
        seconds = f"{limits.request_timeout_seconds:g} s"
        if arrived:
            raise _unavailable("timeout", f"the request was not done after {seconds}; send less, or try again") from None
        raise _Refused(408, "slow_body", f"the body did not arrive within {seconds}; send it faster", Connection="close") from None
    finally:
        if len(body) > LARGE_BYTES:
            del body
            give_back()


def _unavailable(reason: str, sentence: str) -> _Refused:
    return _Refused(503, reason, sentence, Retry_After=str(RETRY_AFTER_SECONDS))


async def _predict_json(service: Service, body: bytes, options: dict[str, str]) -> Response:
    def read() -> tuple[str | None, Verify, bool, list[Any]]:
        request = parse_request(TrajectoriesRequest, body)
        for name, value in options.items():
            if name in request.model_fields_set:
                raise InputError(f"{name} is given in the query and in the body; give it once")
            request = request.model_copy(update={name: value})
        if request.reference and len(request.trajectories) > MAX_REFERENCES:
            count = len(request.trajectories)
            raise InputError(f"reference is for at most {MAX_REFERENCES} trajectories; this request has {count}, so split it")
        problems = [trajectory.to_problem(index) for index, trajectory in enumerate(request.trajectories)]
        return request.model, request.verify, request.reference, problems

    asked, verify, with_reference, problems = await _in_thread_if_long(len(body), read)
    name, model = service.catalogue.choose(asked, problems)
    predicted = await service.queue.predict(model, problems, verify)
    service.instruments.predicted(name, predicted)
    references = await run_in_threadpool(find_references, problems, predicted) if with_reference else None
    summary = {"name": name, **model.summary}
    return await _in_thread_if_long(_size(predicted), lambda: _json(to_response(summary, predicted, verify, references)))


async def _predict_arrow(service: Service, body: bytes, options: dict[str, str]) -> Response:
    wanted = options.get("model")
    system = service.catalogue.find(wanted)[1].system
    problems = await _in_thread_if_long(len(body), lambda: read_problems(body, system))
    name, model = service.catalogue.choose(wanted, problems)
    orbits = await service.queue.predict(model, problems, options.get("verify", "energy"))  # type: ignore[arg-type]
    service.instruments.predicted(name, orbits)
    content = await _in_thread_if_long(_size(orbits), lambda: write_orbits(orbits, model.system))  # type: ignore[arg-type]
    return _respond(content, MEDIA_TYPE)


def _map_potential(service: Service, body: bytes) -> Response:
    request = parse_request(PotentialRequest, body)
    problem = request.to_problem()
    if isinstance(problem, MotionProblem):
        domain, values, energy = map_potential_of_motion(problem, request.places)
        return _json({"domain": [domain], "values": values, "energy": energy})
    _, model = service.catalogue.find(request.model)
    num_places = request.places ** len(model.system.domain)
    if num_places > MAX_PLACES**2:
        raise InputError(f"places is {request.places}, which makes {num_places} in all; at most {MAX_PLACES**2} are allowed")
    values, energy = model.map_potential(problem, request.places)
    return _json({"domain": model.system.domain, "values": values, "energy": energy})


async def _in_thread_if_long(num_bytes: int, work: Callable[[], Any]) -> Any:
    """Short work is done at once: a thread costs more."""
    return work() if num_bytes <= _LONGEST_INLINE else await run_in_threadpool(work)


def _size(trajectories: list[Any]) -> int:
    """Of a response, in bytes: each time comes with q and p."""
    return 60 * sum(len(one) for one in trajectories)


def _json(content: dict[str, Any]) -> Response:
    return _respond(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), "application/json")


def _respond(content: bytes, media_type: str) -> Response:
    if len(content) <= _PIECE_BYTES:
        return Response(content, media_type=media_type)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(content), _PIECE_BYTES):
            yield content[start : start + _PIECE_BYTES]
        if len(content) > LARGE_BYTES:
            give_back()

    return StreamingResponse(pieces(), media_type=media_type, headers={"Content-Length": str(len(content))})


def _media_type(request: Request, *known: str) -> str:
    """Of the body, one of those that a route knows."""
    message = MailMessage()
    message["Content-Type"] = request.headers.get("content-type", known[0])
    if (media_type := message.get_content_type()) not in known:
        raise InputError(f"Content-Type is {media_type[:100]!r}; send {' or '.join(known)}")
    charset = str(message.get_param("charset", "utf-8"))
    if charset.lower() not in ("utf-8", "utf8", "us-ascii"):
        raise InputError(f"Content-Type has the charset {charset[:100]!r}; send UTF-8")
    return media_type


async def _read_body(request: Request, limit: int) -> bytes:
    """The body, given up at the first byte over the limit whatever Content-Length said.

    It is read here, not by FastAPI: it must stop at the limit, and FastAPI's own refusals echo the input, which JSON cannot hold when the
    input is NaN.
    """
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared[:20]) > limit:
        raise _too_large(limit)
    unpack, check_end = _unpacker(request.headers.get("content-encoding", "identity").strip().lower(), limit)
    body = bytearray()
    async for chunk in request.stream():
        body += unpack(chunk, limit + 1 - len(body))
        if len(body) > limit:
            raise _too_large(limit)
    check_end()
    return bytes(body.removeprefix(_BYTE_ORDER_MARK))


def _too_large(limit: int) -> _Refused:
    return _Refused(413, "too_large", f"body is larger than {limit / 2**20:g} MiB; send fewer trajectories a request")


def _unpacker(encoding: str, limit: int) -> tuple[Callable[[bytes, int], bytes], Callable[[], None]]:
    """A function of a chunk and the most bytes that it may become, and one that refuses a body that is not whole."""
    if encoding in ("identity", ""):
        return lambda chunk, _: chunk, lambda: None
    if encoding != "gzip":
        raise InputError(f"Content-Encoding is {encoding[:100]!r}; send gzip or none")
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)

    def unpack(chunk: bytes, most: int) -> bytes:
        try:
            unpacked = stream.decompress(chunk, most)
        except zlib.error as error:
            raise InputError(f"body is not gzip, which Content-Encoding promises: {error}") from None
        if stream.unconsumed_tail:
            raise _too_large(limit)
        return unpacked

    def check_end() -> None:
        if not stream.eof or stream.unused_data:
            raise InputError("body is not one whole gzip stream, which Content-Encoding promises; send it again")

    return unpack, check_end


def _read_options(request: Request) -> dict[str, str]:
    """`verify` and `model` of the query."""
    given = [name for name, _ in request.query_params.multi_items()]
    if set(given) - set(_OPTIONS):
        raise InputError(f"query parameters are {', '.join(request.query_params)[:100]}; only {' and '.join(_OPTIONS)} are known")
    if repeated := [name for name in _OPTIONS if given.count(name) > 1]:
        raise InputError(f"{repeated[0]} is given {given.count(repeated[0])} times in the query; give it once")
    verify = request.query_params.get("verify", "energy")
    if verify not in get_args(Verify):
        raise InputError(f"verify is {verify[:100]!r}; choose one of {', '.join(get_args(Verify))}")
    return dict(request.query_params)


def _refuse(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(Refusal(detail=sentence).model_dump(), status, headers)


def _body(request: type[BaseModel], others: dict[str, Any] | None = None) -> dict[str, Any]:
    """The description of a request body in JSON, or in `others` by media type."""
    schema = {"schema": {"$ref": _COMPONENT.format(model=request.__name__)}}
    return {"requestBody": {"required": True, "content": {"application/json": schema} | (others or {})}}


def _query(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _binary(columns: str) -> dict[str, Any]:
    return {"schema": {"type": "string", "format": "binary", "description": f"an Arrow stream with the columns {columns}"}}


def _describe(api: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the request models added: FastAPI does not see them, as the routes read their own bodies."""
    if api.openapi_schema is None:
        document = get_openapi(title=api.title, version=api.version, summary=api.summary, routes=api.routes)
        for request in _REQUESTS:
            schema = request.model_json_schema(ref_template=_COMPONENT)
            document["components"]["schemas"] |= schema.pop("$defs", {}) | {request.__name__: schema}
        api.openapi_schema = document
    return api.openapi_schema
