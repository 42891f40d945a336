"""The HTTP interface as a Ray Serve application, and how to start and stop it. Ray must be initialised by the caller.

From a checkout, on a cluster:  serve run neural_hamilton.serve.application:application model_path=/path/to/model
"""

import contextlib
import io
import json
import logging
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import ray
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig

from ..physics import InputError
from .http_api import RETRY_AFTER_SECONDS, build_api
from .model import Model
from .shipped import choose_model, find_model, locate_model

NAME = "neural-hamilton"
_REQUEST_TIMEOUT_SECONDS = 120
_READY_TIMEOUT_SECONDS = 60


class ServeOptions(BaseModel):
    """What `serve run` accepts as key=value."""

    model_config = ConfigDict(extra="forbid")

    model_path: str | None = Field(
        None, description="shipped model, or model folder that every node with a replica can read; by default the model of `predict`"
    )
    solver_threshold: float = Field(0.05, ge=0, description="with verify=solver, predictions further off are replaced by the solver's")
    num_replicas: int = Field(1, ge=1)
    max_ongoing_requests: int = Field(8, ge=1, description="requests a replica works on at once")
    max_queued_requests: int = Field(64, ge=1, description="requests that wait; further ones get 503 with Retry-After")


@serve.deployment(name="trajectories", max_constructor_retry_count=2, graceful_shutdown_wait_loop_s=0.5)
@serve.ingress()
class TrajectoryDeployment:
    """A replica: one model, swapped by `reconfigure` without a restart."""

    _model: Model

    def reconfigure(self, settings: dict[str, Any]) -> None:
        # Load and check first; requests in flight keep the model they started with.
        self._model = Model(settings["model_path"], settings["solver_threshold"])

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(lambda: self._model)


def application(options: ServeOptions) -> Application:
    """The Serve application of `options`; what `serve run` and a Serve config file import."""
    folder = choose_model() if options.model_path is None else locate_model(options.model_path)
    deployment = TrajectoryDeployment.options(
        num_replicas=options.num_replicas,
        max_ongoing_requests=options.max_ongoing_requests,
        max_queued_requests=options.max_queued_requests,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=RETRY_AFTER_SECONDS),
        user_config={"model_path": str(folder.resolve()), "solver_threshold": options.solver_threshold},
    )
    return deployment.bind()


def start(model_path: str | Path, host: str = "127.0.0.1", port: int = 8000, **options: Any) -> str:
    """Serve a model and return its URL once it is ready; `options` are the other fields of `ServeOptions`. Stop it with `stop`.

    Raises
    ------
    InputError
        Where there is no model, the address cannot be bound, or this Ray cluster already serves something
        (Serve's host and port are fixed when it starts, so a second application could not have its own).
    """
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # importing Ray Serve set it to INFO
    app = application(ServeOptions(model_path=str(find_model(model_path)), **options))
    _check_address(host, port)
    if _is_serving():
        raise InputError("Ray Serve already runs on this cluster; stop it first with `serve shutdown`, or use another cluster")
    try:
        serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port, "request_timeout_s": _REQUEST_TIMEOUT_SECONDS})
        serve.run(app, name=NAME, route_prefix="/")
        url = _url(host, port)
        _wait_until_ready(url)
    except BaseException:
        stop()
        raise
    return url


def stop() -> None:
    """End the endpoint that `start` began; Ray itself stays."""
    if not _is_serving():
        return
    # Ray reports the end of Serve's own controller as an error, a moment later and on stdout, where results belong.
    heard = io.StringIO()
    with contextlib.redirect_stdout(heard):
        serve.shutdown()
        deadline = time.monotonic() + 1.0
        while "graceful_shutdown" not in heard.getvalue() and time.monotonic() < deadline:
            time.sleep(0.02)
    sys.stderr.writelines(line for line in heard.getvalue().splitlines(keepends=True) if "graceful_shutdown" not in line)


def _check_address(host: str, port: int) -> None:
    """Serve's proxy would retry a taken port for ever, in a log nobody sees."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port just released is free
            probe.bind(address)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"host and port are {host!r} and {port}, which cannot be bound: {reason}; choose another with --host or --port"
        ) from None


def _is_serving() -> bool:
    try:
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    except ValueError:
        return False
    return True


def _url(host: str, port: int) -> str:
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def _wait_until_ready(url: str) -> None:
    """The proxy learns its routes a moment after the replicas are up."""
    deadline = time.monotonic() + _READY_TIMEOUT_SECONDS
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            with direct.open(f"{url}/healthz", timeout=5) as response:
                json.load(response)
            return
        except (urllib.error.URLError, OSError, ValueError) as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{url} was not ready within {_READY_TIMEOUT_SECONDS} s: {error}") from error
            time.sleep(0.1)
