"""One thread that predicts for many requests: together where they fit, and in turns, so that no request waits for all of a large one.

Nothing here knows HTTP or Ray.
"""

import asyncio
import logging
import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from .model import Model
from .motion import Motion, MotionProblem, predict_all
from .orbit import Orbit, Verify
from .passes import POINTS_PER_PASS
from .problems import MAX_POINTS, Problem, check_number_of_times

_log = logging.getLogger(__name__)

_MAX_POINTS_AT_ONCE = 4 * MAX_POINTS  # query times of all requests that wait: bounds memory
_MAX_BYTES_AT_ONCE = 256 * 2**20  # bodies of all requests that wait
_SMALLEST_PASS = POINTS_PER_PASS // 8  # a smaller one takes as long, and tells nothing of what full ones do
_PASSES_OF_LATE = 9  # whose median is the speed: one that the machine held up must not make all wait in vain


class Busy(Exception):
    """There is more to do than may wait."""


@dataclass(frozen=True)
class Pass:
    """What was predicted together, for those who measure: problems, the requests they came from, seconds."""

    model: Model
    num_problems: int
    num_requests: int
    seconds: float


@dataclass(eq=False)
class _Request:
    model: Model
    verify: Verify
    problems: Sequence[Problem | MotionProblem]
    arrival: float = field(default_factory=time.monotonic)
    future: "Future[list[Orbit | Motion]]" = field(default_factory=Future)
    predicted: list[Orbit | Motion] = field(default_factory=list)

    def __post_init__(self) -> None:
        #: Of each problem: sensors or query times, whichever are more.
        self.costs = [max(self.model.task.num_sensors, problem.num_times) for problem in self.problems]
        self.cost_left = sum(self.costs)

    def next_costs(self, count: int) -> list[int]:
        return self.costs[len(self.predicted) : len(self.predicted) + count]

    def add(self, predicted: list[Orbit | Motion]) -> None:
        self.cost_left -= sum(self.next_costs(len(predicted)))
        self.predicted += predicted

    def next_problems(self, count: int) -> Sequence[Problem | MotionProblem]:
        return self.problems[len(self.predicted) : len(self.predicted) + count]


class PredictionQueue:
    """Predictions for many requests at once, on one thread.

    Parameters
    ----------
    max_requests
        Requests that may wait or be worked on; beyond them, `admit` raises `Busy`.
    max_seconds
        How long a request may have to wait for others, at the speed of late; beyond it, `predict` raises `Busy`.
    observe
        Called after every pass, on the thread that predicts.
    """

    def __init__(self, max_requests: int, max_seconds: float = math.inf, observe: Callable[[Pass], None] | None = None) -> None:
        self._max_requests, self._max_seconds, self._observe = max_requests, max_seconds, observe
        self._seconds_per_cost: deque[float] = deque([0.0], maxlen=_PASSES_OF_LATE)
        self._changed = threading.Condition()
        self._waiting: deque[_Request] = deque()
        self._in_pass: list[_Request] = []
        self._num_requests = self._num_points = self._num_bytes = 0
        self._thread = threading.Thread(target=self._work, name="predictions", daemon=True)
        self._thread.start()

    @property
    def num_requests(self) -> int:
        """Requests that wait or are worked on."""
        return self._num_requests

    def admit(self, num_bytes: int) -> "_Admission":
        """A context in which a request with a body of `num_bytes` may be worked on; `Busy` where there are too many."""
        return _Admission(self, num_bytes)

    async def predict(self, model: Model, problems: Sequence[Problem | MotionProblem], verify: Verify) -> list[Orbit | Motion]:
        """One orbit or motion for each problem, in order. Cancelling it ends the work.

        Raises
        ------
        InputError
            For a problem that the model cannot predict, and for more query times than one request may have.
        Busy
            Where too many query times are waited for already.
        """
        num_points = sum(problem.num_times for problem in problems)
        check_number_of_times(num_points)
        new = _Request(model, verify, problems)
        with self._changed:
            is_large = num_points > POINTS_PER_PASS
            if is_large and self._num_points and self._num_points + num_points > _MAX_POINTS_AT_ONCE:
                raise Busy
            # As all take turns, what is done before this request is done is at most as much of each other one.
            own = new.cost_left
            waits = sum(min(own, request.cost_left) for request in (*self._waiting, *self._in_pass))
            if waits * statistics.median(self._seconds_per_cost) > self._max_seconds:
                raise Busy
            self._num_points += num_points
            self._waiting.append(new)
            self._changed.notify()
        try:
            return await asyncio.wrap_future(new.future)
        finally:
            with self._changed:
                self._num_points -= num_points

    def _enter(self, num_bytes: int) -> None:
        with self._changed:
            too_large = self._num_bytes and self._num_bytes + num_bytes > _MAX_BYTES_AT_ONCE
            if self._num_requests >= self._max_requests or too_large:
                raise Busy
            self._num_requests += 1
            self._num_bytes += num_bytes

    def _leave(self, num_bytes: int) -> None:
        with self._changed:
            self._num_requests -= 1
            self._num_bytes -= num_bytes

    def _work(self) -> None:
        while True:
            parts = self._next_pass()
            cost = sum(sum(request.next_costs(count)) for request, count in parts)
            begun = time.perf_counter()
            _predict_together(parts)
            seconds = time.perf_counter() - begun
            self._seconds_per_cost.append(seconds / max(cost, _SMALLEST_PASS))
            if self._observe is not None:
                try:
                    self._observe(Pass(parts[0][0].model, sum(count for _, count in parts), len(parts), seconds))
                except Exception:
                    _log.exception("a pass could not be counted")  # which must not end the thread
            with self._changed:
                self._waiting.extend(request for request in self._in_pass if not request.future.done())
                self._in_pass = []

    def _next_pass(self) -> list[tuple[_Request, int]]:
        """Requests and how many of their next problems are predicted now; they are out of the queue meanwhile.

        The first in the queue chooses the model. Of the requests that go with it, the oldest has half of the pass, so that requests of
        one size end one after the other and not all at once; then all take turns, a problem each.
        """
        with self._changed:
            self._forget_those_done()
            while not self._waiting:
                self._changed.wait()
                self._forget_those_done()
            first = self._waiting[0]
            turns = deque(request for request in self._waiting if request.model is first.model and request.verify == first.verify)
            oldest = min(turns, key=lambda request: request.arrival)
            counts: dict[_Request, int] = {}
            left = POINTS_PER_PASS
            while turns:
                request = oldest if left > POINTS_PER_PASS // 2 and oldest in turns else turns[0]
                turns.remove(request)
                count = counts.get(request, 0)
                cost = request.costs[len(request.predicted) + count]
                if cost > left and counts:
                    continue
                counts[request], left = count + 1, left - cost
                if len(request.predicted) + count + 1 < len(request.problems):
                    turns.append(request)
            self._waiting = deque(request for request in self._waiting if request not in counts)
            self._in_pass = list(counts)
        return list(counts.items())

    def _forget_those_done(self) -> None:
        """Those that nobody waits for any more."""
        self._waiting = deque(request for request in self._waiting if not request.future.done())


def _predict_together(parts: list[tuple[_Request, int]]) -> None:
    """Predict the next problems of each request. What is wrong with one request concerns no other."""
    first = parts[0][0]
    chosen = [request.next_problems(count) for request, count in parts]
    try:
        predicted = iter(predict_all(first.model, [problem for problems in chosen for problem in problems], first.verify))
    except Exception as error:
        if len(parts) > 1:
            for part in parts:
                _predict_together([part])
        else:
            _conclude(first, error)
        return
    for (request, _), problems in zip(parts, chosen, strict=True):
        request.add([next(predicted) for _ in problems])
        if len(request.predicted) == len(request.problems):
            _conclude(request, None)


def _conclude(request: _Request, error: Exception | None) -> None:
    if request.future.set_running_or_notify_cancel():
        if error is None:
            request.future.set_result(request.predicted)
        else:
            request.future.set_exception(error)


class _Admission:
    def __init__(self, queue: PredictionQueue, num_bytes: int) -> None:
        self._queue, self._num_bytes = queue, num_bytes

    def __enter__(self) -> None:
        self._queue._enter(self._num_bytes)

    def __exit__(self, *_: object) -> None:
        self._queue._leave(self._num_bytes)
