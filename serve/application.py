"""The HTTP interface as a Ray Serve application, and how to start and stop it. Ray must be initialised by the caller.

From a checkout, on a cluster:  serve run neural_hamilton.serve.application:application num_replicas=2
"""

import asyncio
import contextlib
import io
import json
import logging
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.schema import LoggingConfig
from ray.util import metrics

from ..physics import InputError
from ..platform.storage import Location
from .address import check_address, url_of
from .catalogue import Catalogue, load_catalogue
from .http_api import RETRY_AFTER_SECONDS, build_api
from .instruments import Instruments
from .service import Limits, Service, read_api_key
from .shipped import find_model, locate_model, name_of, shipped_models_in_order

NAME = "neural-hamilton"
_DEPLOYMENT = "trajectories"
_READY_TIMEOUT_SECONDS = 60
_DRAIN_SECONDS = 5.5
_STOP_SECONDS = 7.5  # who sends a signal expects less than 10
# The queue is the service's own: slots of Ray would be taken before a body has been read, and waited for with an exponential back-off.
_MAX_ONGOING_REQUESTS = 10_000
_REQUESTS_PER_REPLICA = 4.0  # in progress, on average, above which replicas are added

_log = logging.getLogger("ray.serve")


class ModelSettings(BaseModel):
    """The `user_config` of the deployment: what may be changed while it serves."""

    model_config = ConfigDict(extra="forbid")

    models: dict[str, str] = Field(
        min_length=1,
        description="by name, shipped models, or model folders that every node with a replica can read; the first is the default",
    )
    solver_threshold: float = Field(0.05, ge=0, description="with verify=solver, predictions further off are replaced by the solver's")


class ServeOptions(BaseModel):
    """What `serve run` accepts as key=value, and a Serve configuration as `args`. Ray replaces every replica where one of them changes."""

    model_config = ConfigDict(extra="forbid")

    num_replicas: int = Field(1, ge=1, description="processes that predict, each on one core")
    max_replicas: int | None = Field(None, ge=1, description="under load, at most this number")
    max_queued_requests: int = Field(128, ge=1, description="requests that a replica works on or keeps waiting; beyond them, 503")
    max_queue_seconds: float = Field(1.5, gt=0, description="work that waits for a replica; beyond it, 503")
    request_timeout_seconds: float = Field(60.0, gt=0, description="from the first byte to the response")
    max_body_mb: float = Field(32.0, gt=0, description="of a request, unpacked, in MiB")
    api_key_file: str | None = Field(None, description="file with a key that every request to /v1 must bring")
    cors_origins: list[str] = Field(default_factory=list, description="pages from these addresses may read responses")


@serve.deployment(
    name=_DEPLOYMENT,
    max_constructor_retry_count=2,
    health_check_period_s=1.0,  # how soon a replica that was lost is noticed; the default is 10 s
    graceful_shutdown_wait_loop_s=0.2,
    graceful_shutdown_timeout_s=_DRAIN_SECONDS,
)
@serve.ingress()
class TrajectoryDeployment:
    """A replica. `reconfigure` swaps its models without a restart; a model that cannot be used leaves those before it in use."""

    def __init__(self, limits: dict[str, Any], api_key_file: str | None) -> None:
        api_key = None if api_key_file is None else read_api_key(api_key_file)
        kinds = {kind: getattr(metrics, kind) for kind in ("Counter", "Gauge", "Histogram")}
        name = serve.get_replica_context().app_name
        instruments = Instruments(kinds, name)
        self._service = Service(Catalogue({}), Limits(**limits, api_key=api_key), instruments, lambda: read_metrics(name))

    async def reconfigure(self, settings: dict[str, Any]) -> None:
        wanted = ModelSettings.model_validate(settings)
        folders = {name: locate_model(model) for name, model in wanted.models.items()}
        # In a thread: requests go on meanwhile, each with the model that it started with.
        catalogue = await asyncio.to_thread(load_catalogue, folders, wanted.solver_threshold, self._service.catalogue)
        for name, reason in catalogue.rejected.items():
            _log.error("model %s is rejected, and what was served before still is: %s", name, reason)
        self._service.catalogue = catalogue

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self._service)


def application(options: ServeOptions) -> Application:
    """The Serve application of `options`, with all shipped models; what `serve run` and a Serve config file import.

    A Serve config file gives other models as the `user_config` of its deployment `trajectories`, see `ModelSettings`.
    """
    return _bind(options, ModelSettings.model_validate({"models": {name: name for name in shipped_models_in_order()}}))


def _bind(options: ServeOptions, models: ModelSettings) -> Application:
    limits = options.model_dump(include={"max_queued_requests", "max_queue_seconds", "request_timeout_seconds", "max_body_mb"})
    limits["cors_origins"] = tuple(options.cors_origins)
    if options.max_replicas is None:
        scale: dict[str, Any] = {"num_replicas": options.num_replicas}
    else:
        autoscaling = AutoscalingConfig(
            min_replicas=options.num_replicas, max_replicas=options.max_replicas, target_ongoing_requests=_REQUESTS_PER_REPLICA
        )
        scale = {"autoscaling_config": autoscaling}
    deployment = TrajectoryDeployment.options(
        **scale,
        max_ongoing_requests=_MAX_ONGOING_REQUESTS,
        max_queued_requests=options.max_queued_requests,  # while no replica is there
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=RETRY_AFTER_SECONDS),
        logging_config=LoggingConfig(encoding="JSON", enable_access_log=True),
        user_config=models.model_dump(),
    )
    return deployment.bind(limits, options.api_key_file)


def read_metrics(application: str) -> str:
    """What the Ray of every node exports about this endpoint, in the format of Prometheus."""
    texts = []
    for node in ray.nodes():
        if node["Alive"] and node["MetricsExportPort"] > 0:
            with contextlib.suppress(OSError):
                url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
                with _DIRECTLY.open(url, timeout=5) as response:
                    texts.append(response.read().decode())
    prefix, label = "ray_neural_hamilton_", f'application="{application}"'
    lines = (line for text in texts for line in text.splitlines() if prefix in line.split("{")[0])
    lines = (line for line in lines if line.startswith("#") or label in line)
    described: set[str] = set()  # each node describes each metric
    kept = []
    for line in lines:
        if not line.startswith("#") or line not in described:
            kept.append(line)
            described.add(line)
    return "\n".join(kept) + "\n"


_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def start(
    models: str | Location | Mapping[str, str | Location],
    host: str = "127.0.0.1",
    port: int = 8000,
    solver_threshold: float = 0.05,
    route: str = "/",
    **options: Any,
) -> str:
    """Serve models and return their URL once it is ready; `options` are the fields of `ServeOptions`. Stop it with `stop`.

    Several endpoints may share a cluster, and with it host and port, each with a `route` of its own before all its paths.

    Parameters
    ----------
    models
        A shipped model, a model folder or the URL of one, or several by the names that requests use; the first is the default.

    Raises
    ------
    InputError
        Where there is no model, the address cannot be bound, the cluster has no core for a replica, or Ray Serve runs there at another
        address, which is fixed when it starts, or with another application at this route.
    """
    _log.setLevel(logging.ERROR)  # importing Ray Serve set it to INFO
    by_name = models if isinstance(models, Mapping) else {name_of(models): models}
    folders = {name: str(find_model(model).resolve()) for name, model in by_name.items()}
    asked = ServeOptions(**options)
    if asked.api_key_file is not None:
        asked.api_key_file = str(Path(asked.api_key_file).resolve())
        read_api_key(asked.api_key_file)
    if _is_serving():
        _check_joins(host, port, route)
    else:
        check_address(host, port)
    _check_cores(asked)
    try:
        backstop = asked.request_timeout_seconds + 10.0
        http_options = {"host": host, "port": port, "request_timeout_s": backstop}
        with ThreadPoolExecutor(1) as pool:  # it returns when the proxy is up; replicas can start before
            proxy = pool.submit(serve.start, proxy_location="HeadOnly", http_options=http_options)
            while not (proxy.done() or _is_serving()):
                time.sleep(0.02)
            app = _bind(asked, ModelSettings(models=folders, solver_threshold=solver_threshold))
            serve.run(app, name=_name_of(route), route_prefix=route)
            proxy.result()
        url = url_of(host, port) + route.rstrip("/")
        _wait_until_ready(url)
    except BaseException:
        stop(route=route)
        raise
    return url


def _name_of(route: str) -> str:
    """The name of the application at a route."""
    return NAME + route.rstrip("/").replace("/", "-")


def _check_joins(host: str, port: int, route: str) -> None:
    """Raise InputError where the Ray Serve that runs has no place for another endpoint at this address and route."""
    from ray.serve.context import _get_global_client

    client = _get_global_client()
    assert client is not None
    details = client.get_serve_details()  # what Ray's REST API gives too, which needs its dashboard
    used = details["http_options"] or {}
    if (used.get("host"), used.get("port")) != (host, port):
        raise InputError(
            f"host and port are {host!r} and {port}; Ray Serve of this cluster listens at {used.get('host')!r} and {used.get('port')} for "
            "all its endpoints: give these, and a serving.route of its own"
        )
    taken = {application["route_prefix"]: name for name, application in details["applications"].items()}
    if route in taken or _name_of(route) in taken.values():
        raise InputError(
            f"serving.route is {route!r}, which the application {taken.get(route, _name_of(route))!r} of this cluster has; give another, "
            "such as /second, or end that one"
        )


def _check_cores(options: ServeOptions) -> None:
    """Ray would wait for cores that never come."""
    most = max(options.num_replicas, options.max_replicas or 0)
    cores = int(ray.cluster_resources().get("CPU", 0))
    if most > cores:
        raise InputError(f"{most} replicas need a core each, and this cluster has {cores}; ask for at most {cores}")


def stop(seconds: float = _STOP_SECONDS, route: str = "/", leave_serve: bool = False) -> bool:
    """End the endpoint that `start` began at a route, when it has finished the requests that it works on; Ray itself stays, and other
    endpoints do. With the last of them Ray Serve ends, unless `leave_serve`.

    Returns whether it ended in time; it does not where Ray itself has died.
    """
    stopping = threading.Thread(target=_stop, args=(_name_of(route), leave_serve), name="stop", daemon=True)
    stopping.start()
    stopping.join(seconds)
    return not stopping.is_alive()


def _stop(name: str, leave_serve: bool) -> None:
    if not _is_serving():
        return
    serve.delete(name)
    if leave_serve or serve.status().applications:
        return
    # Ray reports the end of Serve's own controller as an error, a moment later and on stdout, where results belong.
    heard = io.StringIO()
    with contextlib.redirect_stdout(heard):
        serve.shutdown()
        deadline = time.monotonic() + 1.0
        while "graceful_shutdown" not in heard.getvalue() and time.monotonic() < deadline:
            time.sleep(0.02)
    sys.stderr.writelines(line for line in heard.getvalue().splitlines(keepends=True) if "graceful_shutdown" not in line)


def _is_serving() -> bool:
    try:
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    except ValueError:
        return False
    return True


def _wait_until_ready(url: str) -> None:
    """The proxy learns its routes a moment after the replicas are up."""
    deadline = time.monotonic() + _READY_TIMEOUT_SECONDS
    while True:
        try:
            with _DIRECTLY.open(f"{url}/readyz", timeout=5) as response:
                json.load(response)
            return
        except (urllib.error.URLError, OSError, ValueError) as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{url} was not ready within {_READY_TIMEOUT_SECONDS} s: {error}") from error
            time.sleep(0.1)
