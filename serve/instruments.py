"""What an endpoint measures about itself. The kinds of instrument come from outside: Ray's, or none."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from .batching import Pass
from .motion import Motion
from .orbit import Orbit

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_PROBLEMS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)
_DRIFT = (1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class Instrument(Protocol):
    """As in `ray.util.metrics`."""

    def inc(self, value: float = 1.0, tags: dict[str, str] | None = None) -> None: ...
    def set(self, value: float, tags: dict[str, str] | None = None) -> None: ...
    def observe(self, value: float, tags: dict[str, str] | None = None) -> None: ...


class Instruments:
    """Counters and histograms, all with the prefix `neural_hamilton_`.

    Parameters
    ----------
    kinds
        Classes as `ray.util.metrics` has them, by the names Counter, Gauge and Histogram; without, nothing is measured.
    application
        A label of all that is measured: a cluster may have several endpoints.
    """

    def __init__(self, kinds: Mapping[str, Any] | None = None, application: str = "") -> None:
        def make(kind: str, name: str, description: str, tags: Sequence[str] = (), **options: Any) -> Any:
            if kinds is None:
                return None
            made = kinds[kind](f"neural_hamilton_{name}", description=description, tag_keys=("application", *tags), **options)
            made.set_default_tags({"application": application})
            return made

        self._requests = make("Counter", "requests_total", "Requests by route and status.", ["route", "status"])
        self._seconds = make("Histogram", "request_seconds", "From request to response.", ["route"], boundaries=_SECONDS)
        self._rejections = make("Counter", "rejections_total", "Requests not worked on, by reason.", ["reason"])
        self._predictions = make("Counter", "predictions_total", "Trajectories by model and source.", ["model", "source"])
        self._drift = make("Histogram", "energy_drift", "Largest energy drift in a request.", ["model"], boundaries=_DRIFT)
        self._problems = make("Histogram", "pass_trajectories", "Trajectories predicted together.", boundaries=_PROBLEMS)
        self._merged = make("Histogram", "pass_requests", "Requests predicted together.", boundaries=_PROBLEMS)
        self._pass_seconds = make("Histogram", "pass_seconds", "Time of one pass.", boundaries=_SECONDS)
        self._waiting = make("Gauge", "requests_in_progress", "Requests that wait or are worked on.")

    def finish_request(self, route: str, status: int, seconds: float) -> None:
        if self._requests is not None:
            self._requests.inc(tags={"route": route, "status": str(status)})
            self._seconds.observe(seconds, tags={"route": route})

    def reject(self, reason: str) -> None:
        if self._rejections is not None:
            self._rejections.inc(tags={"reason": reason})

    def predicted(self, model: str, trajectories: Sequence[Orbit | Motion]) -> None:
        if self._predictions is None:
            return
        for source in ("model", "solver"):
            count = sum(one.trust.source == source for one in trajectories)
            if count:
                self._predictions.inc(count, tags={"model": model, "source": source})
        drifts = [one.trust.energy_drift for one in trajectories if one.trust.energy_drift is not None]
        if drifts:
            self._drift.observe(max(drifts), tags={"model": model})

    def finish_pass(self, done: Pass) -> None:
        if self._problems is not None:
            self._problems.observe(done.num_problems)
            self._merged.observe(done.num_requests)
            self._pass_seconds.observe(done.seconds)

    def waiting(self, count: int) -> None:
        if self._waiting is not None:
            self._waiting.set(count)
