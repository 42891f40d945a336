"""A model behind an HTTP endpoint, used as if it were here: what `nh.connect` returns. Needs neither torch nor Ray.

    model = nh.connect("http://127.0.0.1:8000")
    orbit = model("8*(q-0.5)**2", q0=0, p0=0, times=[0, 1, 2])     # as of `nh.load`
    for orbit in model.stream(potentials):                          # any number of them, in constant memory
        ...
    swing = nh.motion("q**4", q0=1, domain=(-2, 2), model=model)    # reduced here; the network runs there

Predictions have no side effects, so a request that got no response, or 503, is sent again.

Shapes: T query times, S sensors, d degrees of freedom.
"""

import json
import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self, get_args
from urllib.parse import quote

import numpy as np

from ..physics import InputError
from ..physics.systems import Names, System, get_system
from .arrow_stream import MEDIA_TYPE, read_trajectories, write_problems
from .endpoint import JSON, Endpoint, EndpointError, TooLarge, excerpt
from .motion import Motion, MotionNames, MotionProblem, predict_motions
from .orbit import Orbit, Source, Trust, Verify
from .problems import Potential, Problem, as_problems, calling_it, exact_hamiltonians, read_fields, read_state, read_times
from .schema import MAX_TRAJECTORIES

_VALUES_PER_REQUEST = 1_000_000  # sensors and query times together: some 8 MB as Arrow, 25 MB as JSON
_PLACE = re.compile(r"trajectories\[(\d+)\](?:\.(\w+))?")


@dataclass(frozen=True)
class ServedTask:
    """What the served model was trained for, with the fields of a local model's `trained_for` and of its `task`."""

    system: str
    ensemble: dict[str, Any]
    initial_state: tuple[tuple[float, ...], tuple[float, ...]] | None
    sensors: tuple[int, ...]
    domain: tuple[tuple[float, float], ...]
    horizon: float
    channels: int
    noise: float

    @classmethod
    def of(cls, card: dict[str, Any]) -> "ServedTask":
        given = {field.name: card["trained_for"][field.name] for field in fields(cls)}
        return cls(**{name: _as_tuple(value) for name, value in given.items()})

    @property
    def any_initial_state(self) -> bool:
        return self.initial_state is None

    @property
    def num_sensors(self) -> int:
        """Sensors of one field, along all coordinates together."""
        return int(np.prod(self.sensors))

    @property
    def degrees_of_freedom(self) -> int:
        return len(self.domain)


class Client:
    """A served model, with the interface of a local `Model`. Call it, `predict` many problems, or `stream` any number of them.

    An instance may be used by several threads, and as a context manager, which closes its connections.

    Parameters
    ----------
    url
        The address of the endpoint, such as "http://127.0.0.1:8000".
    model
        The name of one of its models; by default the endpoint's own default.
    api_key
        Sent as "Authorization: Bearer KEY".
    encoding
        How numbers travel. Both carry every bit of them; "arrow" is faster.
    timeout
        Seconds for one attempt.
    time_limit
        Seconds after which a request that fails is given up, all attempts and the pauses between them together.
    connections
        Requests in flight at once, where there is work for more than one.
    rows_per_request
        Problems in one request, at most 1,024.

    Raises
    ------
    InputError
        For arguments that make no sense. Nothing is sent until the model is used.
    """

    solver_threshold = 0.05  # of motions in units of your own, which are concluded here; that of other problems is the endpoint's

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        api_key: str | None = None,
        encoding: Literal["arrow", "json"] = "arrow",
        timeout: float = 60.0,
        time_limit: float = 120.0,
        connections: int = 4,
        rows_per_request: int = 256,
    ) -> None:
        if encoding not in ("arrow", "json"):
            raise InputError(f"encoding is {encoding!r}; choose one of arrow, json")
        for name, value, most in (("connections", connections, 64), ("rows_per_request", rows_per_request, MAX_TRAJECTORIES)):
            if not 1 <= value <= most:
                raise InputError(f"{name} is {value}; give 1 to {most}")
        self._endpoint = Endpoint(url, api_key, timeout, time_limit, connections)
        self._given_name = self._name = model
        self._description: dict[str, Any] | None = None  # not a `cached_property`: on Python 3.11 all instances wait for one lock
        self._task: ServedTask | None = None
        self._system: System | None = None
        self.url, self.encoding = self._endpoint.url, encoding
        self.connections, self.rows_per_request = connections, rows_per_request

    def __repr__(self) -> str:
        return f"Client({self.url!r}" + (f", model={self._given_name!r})" if self._given_name is not None else ")")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._endpoint.close()

    @property
    def models(self) -> list[str]:
        """The names of the endpoint's models, the default first."""
        catalogue = self._endpoint.get_json("/v1/models")
        try:
            names = [str(model["name"]) for model in catalogue["models"]]
            names.sort(key=lambda name: name != catalogue["default"])
        except (KeyError, TypeError):
            names = []
        if not names:
            raise EndpointError(f"GET {self.url}/v1/models did not list models; check the address", 200)
        return names

    @property
    def name(self) -> str:
        """The name of the model: the one that was given, else the endpoint's default when it was first used."""
        if self._name is None:
            self._name = self.models[0]
        return self._name

    @property
    def description(self) -> dict[str, Any]:
        """The model's card, and at its top level what a client needs to pose problems.

        Raises
        ------
        InputError
            Where the endpoint has no such model.
        EndpointError
            Where the endpoint cannot be reached, or returns no card.
        """
        if self._description is None:
            self._description = self._get_card()
        return self._description

    def _get_card(self) -> dict[str, Any]:
        path = f"/v1/models/{quote(self.name, safe='')}"
        try:
            card = self._endpoint.get_json(path)
        except EndpointError as error:
            if error.status != 404 or self.name in (models := self.models):  # at a wrong address, there is no list of models either
                raise
            raise InputError(f"model is {self.name[:100]!r}; this endpoint has {', '.join(models)}") from None
        try:
            ServedTask.of(card)
        except (KeyError, TypeError, ValueError, RecursionError):
            raise EndpointError(f"GET {self.url}{path} did not return a model card", 200) from None
        return card

    @property
    def card(self) -> dict[str, Any]:
        """As `description`."""
        return self.description

    @property
    def task(self) -> ServedTask:
        """What the model was built for: sensors, domain, horizon and channels."""
        if self._task is None:
            self._task = ServedTask.of(self.description)
        return self._task

    @property
    def trained_for(self) -> ServedTask:
        """The system, ensemble, initial state and sensors of the training data."""
        return self.task

    @property
    def system(self) -> System:
        """The system that the model predicts; it must be installed here too."""
        if self._system is None:
            self._system = get_system(self.task.system)
        return self._system

    @property
    def folder(self) -> str:
        """Where the model is, to show: its name and the address of the endpoint."""
        return f"{self.name} at {self.url}"

    @property
    def drift_threshold(self) -> float | None:
        """The calibrated energy drift below which predictions can be trusted; 0 where none can be, None without calibration."""
        if "calibration" not in self.description:
            return None
        threshold = self.description["calibration"]["scores"]["energy_drift"]["threshold"]
        return 0.0 if threshold is None else float(threshold)

    def __call__(self, potential: Potential, q0: Any = None, p0: Any = None, times: Any = None, *, verify: Verify = "energy") -> Any:
        """The orbit of a particle in a potential, or a list of orbits for a batch; arguments and result are those of a local `Model`.

        Text is evaluated by the endpoint. Functions and exact Hamiltonians are read at the model's sensors here, and judged by what those
        resolve.

        Raises
        ------
        InputError
            For a problem that the model cannot predict; the message names the argument.
        EndpointError
            Where the endpoint gives no prediction.
        """
        problems, is_batch = as_problems(potential, q0, p0, times, self.system)
        orbits = self.predict(problems, verify)
        return orbits if is_batch else orbits[0]

    def predict(self, problems: Sequence[Problem | MotionProblem], verify: Verify = "energy") -> list[Any]:
        """One `Orbit` for each problem, in order, or one `Motion` where it is in units of its own; errors as of a call."""
        return list(self._predict(iter(problems), _checked(verify)))

    def stream(self, problems: Iterable[Any], verify: Verify = "energy") -> Iterator[Any]:
        """One result after the other, in order, for any number of problems: only those in flight are in memory.

        Parameters
        ----------
        problems
            Each a `Problem`, a `MotionProblem`, or a potential alone, as in a call, for the default state and times. An array (N, S)
            holds V at the sensors of N problems. Potentials are read, and functions called, as their turn comes.
        verify
            As in a call.

        Yields
        ------
        Orbit or Motion
            Of the next problem.

        Raises
        ------
        InputError
            For a problem that the model cannot predict, which is called `problems[INDEX]`; the results of earlier requests have been
            yielded.
        EndpointError
            Where the endpoint gives no prediction.
        """
        return self._predict((_with_index(one, index) for index, one in enumerate(problems)), _checked(verify))

    def _predict(self, problems: Iterator[Problem | MotionProblem], verify: Verify) -> Iterator[Orbit | Motion]:
        """Requests are made in this thread, and sent in as many others as there are connections; results keep their order."""
        batches = _Batches(self, problems)
        batch, following = batches.take(), batches.take()
        if batch is not None and following is None:  # not worth a thread
            yield from batch.predict(verify)
        elif batch is not None:
            under_way = deque([_in_background(batch, verify)])
            while following is not None:
                ready = under_way.popleft().result() if len(under_way) >= self.connections else ()
                under_way.append(_in_background(following, verify))
                yield from ready
                following = batches.take()
            while under_way:
                yield from under_way.popleft().result()
        if batches.failure is not None:
            raise batches.failure

    def request_trajectories(self, rows: Sequence[dict[str, Any]], verify: Verify) -> list[dict[str, Any]]:
        """What the endpoint predicts for rows given by their parts: times, q, p as arrays and `trust`, checked to be of the right form.

        Raises
        ------
        InputError
            With the endpoint's sentence, which calls row 2 `trajectories[2]`.
        TooLarge
            Where the endpoint does not read as much.
        EndpointError
            As `predict`.
        """
        received = self._post_arrow(rows, verify) if self.encoding == "arrow" else self._post_json(rows, verify)
        if len(received) != len(rows):
            raise EndpointError(f"{self.url} returned {len(received)} trajectories for {len(rows)} problems", 200)
        for row, one in zip(rows, received, strict=True):
            self._check(row, one)
        return received

    def _check(self, sent: dict[str, Any], received: dict[str, Any]) -> None:
        """A response is used only if it is one: numbers, all finite, as many as were asked for."""
        times, q, p = (received[name] for name in ("times", "q", "p"))
        given = sent.get("times")
        shape = times.shape if self.task.degrees_of_freedom == 1 else (*times.shape, self.task.degrees_of_freedom)
        whole = times.ndim == 1 and q.shape == p.shape == shape and (given is None or np.array_equal(times, given))
        if not whole or not (np.isfinite(q).all() and np.isfinite(p).all()) or received["trust"].source not in get_args(Source):
            raise EndpointError(f"{self.url} returned a trajectory that does not fit its problem", 200)

    def _post_arrow(self, rows: Sequence[dict[str, Any]], verify: Verify) -> list[dict[str, Any]]:
        query = {"verify": verify, "model": self.name}
        body = self._endpoint.exchange("POST", "/v1/trajectories", query, write_problems(rows), MEDIA_TYPE)
        try:
            received = read_trajectories(body)
        except InputError as error:
            raise EndpointError(f"{self.url} did not return an Arrow stream of trajectories: {error}", 200) from None
        return [row | {"trust": _read_trust(row)} for row in received]

    def _post_json(self, rows: Sequence[dict[str, Any]], verify: Verify) -> list[dict[str, Any]]:
        plain = [{name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in row.items()} for row in rows]
        request = {"trajectories": plain, "verify": verify, "model": self.name}
        body = self._endpoint.exchange("POST", "/v1/trajectories", {}, json.dumps(request, separators=(",", ":")).encode(), JSON)
        try:
            received = json.loads(body)["trajectories"]
            return [
                {name: np.array(row[name], dtype=np.float64) for name in ("times", "q", "p")} | {"trust": _read_trust(row["trust"])}
                for row in received
            ]
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
            raise EndpointError(f"{self.url} did not return trajectories in JSON, but {excerpt(body)}", 200) from None


def connect(url: str, model: str | None = None, **options: Any) -> Client:
    """The model behind an endpoint, ready to use; `options` are those of `Client`, such as `api_key`.

    Raises
    ------
    InputError
        For arguments that make no sense, and a model that the endpoint does not have.
    EndpointError
        Where the endpoint cannot be reached.
    """
    client = Client(url, model, **options)
    client.description  # noqa: B018  fails here rather than at the first prediction
    return client


class _Batches:
    """Problems in requests of bounded size. What is wrong with one of them is kept until those before it were taken."""

    def __init__(self, client: Client, problems: Iterator[Problem | MotionProblem]) -> None:
        self._client, self._problems = client, problems
        self.failure: Exception | None = None

    def take(self) -> "_Batch | None":
        """The next request; None where there are no more problems, or the next has a `failure`."""
        if self.failure is not None:
            return None
        batch = _Batch(self._client)
        try:
            while not batch.is_full and (problem := next(self._problems, None)) is not None:
                batch.add(problem)
        except Exception as error:
            self.failure = error
        return batch if batch.problems else None


class _Batch:
    """The problems of one request, with their parts as it holds them; motions are reduced when it is sent."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.problems: list[Problem | MotionProblem] = []
        self._rows: list[dict[str, Any]] = []
        self._num_values = 0

    @property
    def is_full(self) -> bool:
        return len(self.problems) >= self._client.rows_per_request or self._num_values >= _VALUES_PER_REQUEST

    def add(self, problem: Problem | MotionProblem) -> None:
        if isinstance(problem, Problem):
            self._rows.append(self._parts(problem))
        self.problems.append(problem)
        self._num_values += problem.num_times + self._client.task.num_sensors

    def _parts(self, problem: Problem) -> dict[str, Any]:
        """The fields of a request; InputError for what no request can hold."""
        client, names, system = self._client, problem.names, self._client.system
        q0, p0 = self._state(problem)
        parts = {"q0": q0.tolist(), "p0": p0.tolist()}
        if isinstance(problem.potential, str):
            parts["expression"] = problem.potential
        else:
            sensed = _sense(problem, system, client.task.sensors)
            if sensed.keys() != {"potential"}:
                raise InputError(
                    f"{names.potential} is not text; of system {system.name!r}, an endpoint takes the parameters only, as text"
                )
            parts["potential"] = sensed["potential"]
        if problem.times is not None:
            parts["times"] = read_times(problem.times, client.task.horizon, names.times)
        return parts

    def _state(self, problem: Problem) -> tuple[np.ndarray, np.ndarray]:
        task, system = self._client.task, self._client.system
        anywhere = (0.0,) if len(task.domain) == 1 else tuple(0.5 * (low + high) for low, high in task.domain)
        q0, p0 = task.initial_state or (anywhere, (0.0,) * len(task.domain))
        return (
            read_state(q0 if problem.q0 is None else problem.q0, system, problem.names.q0),
            read_state(p0 if problem.p0 is None else problem.p0, system, problem.names.p0),
        )

    def predict(self, verify: Verify) -> list[Orbit | Motion]:
        """The results, in order."""
        plain = [problem for problem in self.problems if isinstance(problem, Problem)]
        own = [problem for problem in self.problems if isinstance(problem, MotionProblem)]
        orbits = iter(self._orbits(plain, self._rows, verify) if plain else ())
        motions = iter(predict_motions(self._client, own, verify) if own else ())
        return [next(orbits) if isinstance(problem, Problem) else next(motions) for problem in self.problems]

    def _orbits(self, problems: list[Problem], rows: list[dict[str, Any]], verify: Verify) -> list[Orbit]:
        """The orbits of some of the problems, in two requests where one is too large for the endpoint."""
        try:
            received = self._client.request_trajectories(rows, verify)
        except TooLarge:
            if len(rows) == 1:
                raise EndpointError(f"{self._client.url} finds a single problem too large; ask for fewer times", 413) from None
            half = len(rows) // 2
            return [*self._orbits(problems[:half], rows[:half], verify), *self._orbits(problems[half:], rows[half:], verify)]
        except InputError as error:
            raise InputError(_PLACE.sub(lambda match: _called(problems[int(match[1])].names, match[2]), str(error))) from None
        return [self._orbit(*one) for one in zip(problems, rows, received, strict=True)]

    def _orbit(self, problem: Problem, sent: dict[str, Any], received: dict[str, Any]) -> Orbit:
        given = (received["times"], received["q"], received["p"], np.array(sent["q0"]), np.array(sent["p0"]))
        return Orbit(*given, received["trust"], system=self._client.system, hamiltonians=_Sensed(problem, self._client))


class _Sensed:
    """The Hamiltonian of one problem, exact or interpolated between the sensors; made when it is asked for."""

    def __init__(self, problem: Problem, client: Client) -> None:
        self._problem, self._system, self._sensors = problem, client.system, client.task.sensors

    def __len__(self) -> int:
        return 1

    def take(self, rows: np.ndarray) -> Any:
        problem, system = self._problem, self._system
        exact = exact_hamiltonians(problem.potential, system, problem.names)
        if exact is not None:
            return exact.take(rows)
        sensed = read_fields(problem, system, self._sensors)
        return system.from_sensors({name: values[None] for name, values in sensed.items()}).take(rows)


def _sense(problem: Problem, system: System, sensors: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The fields of a problem at the sensors, without the rows: read, where they were given, and else computed."""
    exact = exact_hamiltonians(problem.potential, system, problem.names)
    if exact is None:
        return read_fields(problem, system, sensors)
    with calling_it(problem.names.potential):
        return {name: values[0] for name, values in exact.sense(sensors).items()}


def _in_background(batch: _Batch, verify: Verify) -> Future[list[Orbit | Motion]]:
    """The results, made in a thread that does not keep the process alive: a notebook may end in the middle of a stream."""
    future: Future[list[Orbit | Motion]] = Future()

    def work() -> None:
        try:
            future.set_result(batch.predict(verify))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True, name="neural-hamilton-request").start()
    return future


def _with_index(given: Any, index: int) -> Problem | MotionProblem:
    """A problem whose parts are called by its index, unless it has names of its own."""
    problem = given if isinstance(given, Problem | MotionProblem) else Problem(given)
    place = f"problems[{index}]."
    if problem.names == Names():
        return replace(problem, names=Names(*(place + name for name in Names())))
    if problem.names == MotionNames():
        return replace(problem, names=MotionNames(*(place + field.name for field in fields(MotionNames))))
    return problem


def _called(names: Names, part: str | None) -> str:
    """What the caller calls a part of a request."""
    return getattr(names, part, part) if part in ("q0", "p0", "times") else names.potential


def _checked(verify: Verify) -> Verify:
    if verify not in get_args(Verify):
        raise InputError(f"verify is {verify!r}; choose one of {', '.join(get_args(Verify))}")
    return verify


def _read_trust(given: dict[str, Any]) -> Trust:
    return Trust(**{field.name: given.get(field.name) for field in fields(Trust)})  # pyright: ignore[reportArgumentType]


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value
