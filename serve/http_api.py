"""The HTTP contract as a FastAPI application around a model. No Ray: `application` puts it on Ray Serve."""

import json
from collections.abc import Callable
from typing import Any, get_args

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from ..physics import InputError
from .arrow_stream import MEDIA_TYPE, read_problems, write_orbits
from .model import Model, Verify
from .motion import MotionProblem, map_potential_of_motion, predict_all
from .schema import (
    MAX_PLACES,
    PotentialRequest,
    PotentialResponse,
    Refusal,
    TrajectoriesRequest,
    TrajectoriesResponse,
    parse_request,
    to_response,
)
from .solutions import MAX_REFERENCES, find_reference
from .static_page import add_page

MAX_BODY_BYTES = 32 * 2**20
RETRY_AFTER_SECONDS = 1

_COMPONENT = "#/components/schemas/{model}"
_REQUESTS = (TrajectoriesRequest, PotentialRequest)
_REFUSALS: dict[int | str, dict[str, Any]] = {
    413: {"model": Refusal, "description": f"The body is larger than {MAX_BODY_BYTES} bytes"},
    422: {"model": Refusal, "description": "What was sent is wrong; the sentence names the field"},
    503: {"description": "Overloaded; try again after Retry-After seconds"},
}


class _TooLarge(Exception):
    pass


def build_api(get_model: Callable[[], Model]) -> FastAPI:
    """The application; `get_model` is called at each request, so that a model can be swapped while serving."""
    summary = "q(t), p(t) for a potential V(q), from a neural operator"
    api = FastAPI(title="Neural Hamilton", version="1", summary=summary, docs_url=None, redoc_url=None)
    too_large = f"body is larger than {MAX_BODY_BYTES} bytes; send fewer trajectories a request"
    api.add_exception_handler(InputError, lambda _, error: _refuse(422, str(error)))
    api.add_exception_handler(_TooLarge, lambda _, __: _refuse(413, too_large, {"Connection": "close"}))
    add_page(api)

    @api.get("/v1/model", summary="The model card, with what the model was trained for")
    async def show_model() -> dict[str, Any]:
        return get_model().description

    @api.get("/healthz", summary="Whether a model is ready")
    async def show_health() -> dict[str, str]:
        return {"status": "ok", "architecture": get_model().summary["architecture"]}

    @api.post(
        "/v1/trajectories",
        summary="Trajectories of a batch of potentials",
        responses={
            200: {"model": TrajectoriesResponse, "content": {MEDIA_TYPE: _binary("times, q, p, energy_drift, solver_error, source")}},
            **_REFUSALS,
        },
        openapi_extra=_body(TrajectoriesRequest, {MEDIA_TYPE: _binary("potential and, if wanted, q0, p0, times")})
        | {
            "parameters": [
                {
                    "name": "verify",
                    "in": "query",
                    "description": "only with an Arrow stream",
                    "schema": {"enum": list(get_args(Verify)), "default": "energy"},
                }
            ],
        },
    )
    async def predict_trajectories(request: Request) -> Response:
        media_type = _media_type(request)
        try:
            if media_type == MEDIA_TYPE:
                verify = _read_verify(request)
                body = await _read_body(request)
                return await run_in_threadpool(_predict_arrow, get_model(), body, verify)
            if media_type == "application/json":
                return await run_in_threadpool(_predict_json, get_model(), await _read_json(request))
        except ClientDisconnect:
            return Response(status_code=499)  # nobody is there to read it
        raise InputError(f"Content-Type is {media_type[:100]!r}; send application/json or {MEDIA_TYPE}")

    @api.post(
        "/v1/potential",
        summary="V on a grid over the domain, and the energy of a particle",
        responses={200: {"model": PotentialResponse}, **_REFUSALS},
        openapi_extra=_body(PotentialRequest),
    )
    async def map_potential(request: Request) -> Response:
        media_type = _media_type(request)
        try:
            if media_type == "application/json":
                return await run_in_threadpool(_map_potential, get_model(), await _read_json(request))
        except ClientDisconnect:
            return Response(status_code=499)
        raise InputError(f"Content-Type is {media_type[:100]!r}; send application/json")

    api.openapi = lambda: _describe(api)  # type: ignore[method-assign]
    return api


def _predict_json(model: Model, body: bytes) -> Response:
    request = parse_request(TrajectoriesRequest, body)
    problems = [trajectory.to_problem(index) for index, trajectory in enumerate(request.trajectories)]
    if request.reference and len(problems) > MAX_REFERENCES:
        raise InputError(f"reference is for at most {MAX_REFERENCES} trajectories; this request has {len(problems)}, so split it")
    predicted = predict_all(model, problems, request.verify)
    references = [find_reference(*pair) for pair in zip(problems, predicted, strict=True)] if request.reference else None
    return _json(to_response(model.summary, predicted, request.verify, references))


def _map_potential(model: Model, body: bytes) -> Response:
    request = parse_request(PotentialRequest, body)
    problem = request.to_problem()
    if isinstance(problem, MotionProblem):
        domain, values, energy = map_potential_of_motion(problem, request.places)
        return _json({"domain": [domain], "values": values.tolist(), "energy": energy})
    num_places = request.places ** len(model.system.domain)
    if num_places > MAX_PLACES**2:
        raise InputError(f"places is {request.places}, which makes {num_places} in all; at most {MAX_PLACES**2} are allowed")
    values, energy = model.map_potential(problem, request.places)
    return _json({"domain": model.system.domain, "values": values.tolist(), "energy": energy})


def _json(content: dict[str, Any]) -> Response:
    return Response(json.dumps(content, allow_nan=False, separators=(",", ":")), media_type="application/json")


def _predict_arrow(model: Model, body: bytes, verify: Verify) -> Response:
    orbits = model.predict(read_problems(body, model.system), verify)
    return Response(write_orbits(orbits, model.system), media_type=MEDIA_TYPE)


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "application/json").split(";")[0].strip().lower()


async def _read_json(request: Request) -> bytes:
    """The body of a request in JSON.

    It is read here, not by FastAPI: it must stop at the limit, and FastAPI's own refusals echo the input, which JSON cannot hold
    when the input is NaN.
    """
    if request.query_params:
        names = ", ".join(request.query_params)[:100]
        raise InputError(f"query parameters are {names}; with JSON, everything belongs in the body")
    return await _read_body(request)


async def _read_body(request: Request) -> bytes:
    """The body, given up at the first byte over the limit whatever Content-Length said."""
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared[:20]) > MAX_BODY_BYTES:
        raise _TooLarge
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise _TooLarge
    return bytes(body)


def _read_verify(request: Request) -> Verify:
    unknown = set(request.query_params) - {"verify"}
    if unknown:
        raise InputError(f"query parameters are {', '.join(request.query_params)[:100]}; only verify is known")
    verify = request.query_params.get("verify", "energy")
    if verify not in get_args(Verify):
        raise InputError(f"verify is {verify[:100]!r}; choose one of {', '.join(get_args(Verify))}")
    return verify  # type: ignore[return-value]


def _refuse(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(Refusal(detail=sentence).model_dump(), status, headers)


def _body(request: type[BaseModel], others: dict[str, Any] | None = None) -> dict[str, Any]:
    """The description of a request body in JSON, or in `others` by media type."""
    schema = {"schema": {"$ref": _COMPONENT.format(model=request.__name__)}}
    return {"requestBody": {"required": True, "content": {"application/json": schema} | (others or {})}}


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
