"""A trained network behind one question: given potentials, where are the particles, and can the answer be trusted?

Shapes: B trajectories, S sensors, T query times.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from ..architectures import load_model, read_card
from ..physics import Curves, InputError, evaluate_expression, solve
from ..physics.diagnostics import energy_drift
from ..physics.potentials.textbook import WALL_HEIGHT

HORIZON = 2.0

Verify = Literal["none", "energy", "solver"]
Source = Literal["model", "solver"]

MAX_TIMES = 10_000
MAX_POINTS = 1_000_000  # query times of one batch, all trajectories together: bounds memory and the size of an answer
MAX_HEIGHT = 1e3  # heights beyond it are far outside any training data, and single precision loses the well
WALL_TOLERANCE = 0.1
ENERGY_TOLERANCE = 1e-6
SOLVER_STEP = 1e-3

_POINTS_PER_PASS = 5_000  # sensors or query times of one forward pass: the default MambONet then works in about 200 MB
_SHALLOWEST_WELL = 1e-6
_STEEPEST_RISE = 1e-3

SHIPPED_MODELS = Path(__file__).parent / "models"
SHIPPED_MODEL = SHIPPED_MODELS / "orbitnet"  # served where nothing else is named


@dataclass(frozen=True)
class Query:
    """One question: V at the model's sensors (S,), or an expression in q; a start; times (T,), by default 100 on [0, 2]."""

    potential: np.ndarray | str
    q0: float = 0.0
    p0: float = 0.0
    times: np.ndarray | None = None


@dataclass(frozen=True)
class Answer:
    """q and p at `times` (T,), and what is known about their quality.

    `energy_drift` belongs to the answer given (None where it was not asked for); `solver_error` is the
    largest difference of the model's q or p from the solver's, also where the solver's answer is given.
    """

    times: np.ndarray
    q: np.ndarray
    p: np.ndarray
    energy_drift: float | None
    solver_error: float | None
    source: Source


@dataclass(frozen=True)
class _Problem:
    """A query that passed every check."""

    name: str
    sensors: np.ndarray
    curve: Curves
    lowest: float
    q0: float
    p0: float
    times: np.ndarray

    def drift(self, q: np.ndarray, p: np.ndarray) -> float:
        energy = 0.5 * self.p0 * self.p0 + self.curve.value(np.array(self.q0))
        with np.errstate(all="ignore"):  # a network can answer numbers whose energy overflows
            return float(energy_drift(self.curve.value(q), p, energy, np.array(WALL_HEIGHT - self.lowest)))

    def solve(self) -> tuple[np.ndarray, np.ndarray]:
        """q, p by RK4, in the order of `times`."""
        order = np.argsort(self.times, kind="stable")
        q, p = np.empty(self.times.size), np.empty(self.times.size)
        q[order], p[order], _ = solve(self.curve, self.q0, self.p0, self.times[order], method="rk4", step=SOLVER_STEP)
        if not (np.isfinite(q).all() and np.isfinite(p).all() and np.isfinite(self.drift(q, p))):
            raise InputError(f"{self.name} has no finite answer, from the model or from the solver; soften the potential")
        return q, p


class Predictor:
    """Answers batches of queries with the network of a model folder.

    Parameters
    ----------
    folder
        The model folder.
    solver_threshold
        With verify="solver", a model further than this from the solver is overruled by it.

    Raises
    ------
    InputError
        Where the folder holds no usable model.
    """

    def __init__(self, folder: str | Path, solver_threshold: float = 0.05, device: str = "cpu") -> None:
        if not solver_threshold >= 0:
            raise InputError(f"solver_threshold is {solver_threshold}; it must be 0 or more")
        self.card: dict[str, Any] = read_card(folder)
        self.solver_threshold = solver_threshold
        self.drift_threshold = _calibrated_drift(self.card, Path(folder))
        self._model = load_model(folder, device)
        self._device = device
        self._only_from_rest = self.card["trained_for"]["initial_state"] is not None
        # The first call compiles the solver and warms the network: better now than in someone's request.
        self.predict([Query(f"{4 * WALL_HEIGHT}*(q-0.5)**2", times=np.array([HORIZON]))], verify="solver")

    @property
    def num_sensors(self) -> int:
        return self._model.task.num_sensors

    @property
    def summary(self) -> dict[str, Any]:
        """What an answer says about the model that gave it."""
        return {
            "architecture": self.card["architecture"]["name"],
            "num_sensors": self.num_sensors,
            "num_parameters": self.card.get("num_parameters"),
            "weights_sha256": self.card.get("weights_sha256"),
            "drift_threshold": self.drift_threshold,
        }

    def predict(self, queries: Sequence[Query], verify: Verify = "energy") -> list[Answer]:
        """One answer a query, in order; queries may have different numbers of times.

        verify="none" runs the model alone, "energy" adds the energy drift, "solver" also compares with RK4.
        An answer that is not finite is replaced by the solver's whatever `verify` says; so is, with "energy", one that drifts
        by more than the threshold at which calibration found the model's answers right (`evaluate --record`).

        Raises
        ------
        InputError
            For the first query that the model cannot answer, naming its field as `trajectories[3].potential`.
        """
        if verify not in get_args(Verify):
            raise InputError(f"verify is {verify!r}; choose one of {', '.join(get_args(Verify))}")
        num_points = sum(100 if query.times is None else np.size(query.times) for query in queries)
        if num_points > MAX_POINTS:
            raise InputError(f"trajectories ask for {num_points} times in total; at most {MAX_POINTS} are allowed")
        problems = [self._check(query, f"trajectories[{index}]") for index, query in enumerate(queries)]
        groups: dict[int, list[int]] = {}
        for index, problem in enumerate(problems):
            groups.setdefault(problem.times.size, []).append(index)
        answers: dict[int, Answer] = {}
        for members in groups.values():
            q_BT, p_BT = self._run_model([problems[index] for index in members])
            for index, q, p in zip(members, q_BT, p_BT, strict=True):
                answers[index] = self._judge(problems[index], q, p, verify)
        return [answers[index] for index in range(len(problems))]

    def _check(self, query: Query, name: str) -> _Problem:
        sensors = self._read_potential(query.potential, name)
        times = self._read_times(query.times, name)
        q0, p0 = _read_number(query.q0, f"{name}.q0"), _read_number(query.p0, f"{name}.p0")
        if not 0.0 <= q0 <= 1.0:
            raise InputError(f"{name}.q0 is {q0:.6g}; it must be between 0 and 1")
        if self._only_from_rest and (q0, p0) != (0.0, 0.0):
            raise InputError(
                f"{name}.q0 and {name}.p0 are ({q0:.6g}, {p0:.6g}); "
                "this model was trained on the preset 'paper' and knows only the start (0, 0); "
                "the shipped model 'orbitnet-phase-space' takes others"
            )
        curve = Curves.from_samples(sensors)
        lowest = float(curve.extrema()[0][0])
        if lowest > WALL_HEIGHT - _SHALLOWEST_WELL:
            raise InputError(f"{name}: the potential has no well; its lowest value is {lowest:.6g} and must be below {WALL_HEIGHT:g}")
        _check_bound(curve, sensors, q0, p0, name)
        return _Problem(name, sensors, curve, lowest, q0, p0, times)

    def _read_potential(self, potential: np.ndarray | str, name: str) -> np.ndarray:
        if isinstance(potential, str):
            field = f"{name}.expression"
            try:
                sensors = evaluate_expression(potential, np.linspace(0.0, 1.0, self.num_sensors))
            except InputError as error:
                raise InputError(f"{name}.{error}") from None
        else:
            field, sensors = f"{name}.potential", np.asarray(potential, dtype=np.float64)
        if sensors.shape != (self.num_sensors,):
            received = sensors.size if sensors.ndim == 1 else f"an array of shape {sensors.shape} as"
            raise InputError(f"{field} has {received} sensors; this model expects {self.num_sensors}")
        bad = np.flatnonzero(~(np.abs(sensors) <= MAX_HEIGHT))
        if bad.size:
            received = f"{field}[{bad[0]}] is {sensors[bad[0]]:.6g}"
            raise InputError(f"{received}; values must be finite and between {-MAX_HEIGHT:g} and {MAX_HEIGHT:g}")
        walls = sensors[[0, -1]]
        if np.any(np.abs(walls - WALL_HEIGHT) > WALL_TOLERANCE):
            raise InputError(
                f"{field} is {walls[0]:.6g} at q = 0 and {walls[1]:.6g} at q = 1; "
                f"the model was trained with V = {WALL_HEIGHT:g} at both walls (within {WALL_TOLERANCE:g})"
            )
        return sensors

    @staticmethod
    def _read_times(times: np.ndarray | None, name: str) -> np.ndarray:
        if times is None:
            return np.linspace(0.0, HORIZON, 100)
        times = np.asarray(times, dtype=np.float64)
        if times.ndim != 1 or not 1 <= times.size <= MAX_TIMES:
            raise InputError(f"{name}.times has {times.size} values; give a list of 1 to {MAX_TIMES} numbers")
        bad = np.flatnonzero(~((times >= 0.0) & (times <= HORIZON)))
        if bad.size:
            raise InputError(f"{name}.times[{bad[0]}] is {times[bad[0]]:.6g}; times must be between 0 and {HORIZON:g}")
        return times

    def _run_model(self, problems: Sequence[_Problem]) -> tuple[np.ndarray, np.ndarray]:
        """q, p (B, T) of problems with equally many times, a bounded number of rows at a time."""
        potential_BS = np.stack([problem.sensors for problem in problems])
        times_BT = np.stack([problem.times for problem in problems])
        initial_B2 = np.array([(problem.q0, problem.p0) for problem in problems])
        rows = max(1, _POINTS_PER_PASS // max(potential_BS.shape[1], times_BT.shape[1]))
        parts = []
        with torch.inference_mode():
            for start in range(0, len(problems), rows):
                arrays = (array[start : start + rows] for array in (potential_BS, times_BT, initial_B2))
                output = self._model(*(torch.as_tensor(array, dtype=self._model.dtype, device=self._device) for array in arrays))
                parts.append(torch.stack([output.q, output.p]).double().cpu().numpy())
        q_BT, p_BT = np.concatenate(parts, axis=1)
        return q_BT, p_BT

    def _judge(self, problem: _Problem, q: np.ndarray, p: np.ndarray, verify: Verify) -> Answer:
        """The model's answer or the solver's, with what was asked to be known about it."""
        drift = problem.drift(q, p)
        source: Source = "model"
        solver_error = None
        usable = bool(np.isfinite(drift) and np.isfinite(q).all() and np.isfinite(p).all())
        trusted = usable and (verify != "energy" or self.drift_threshold is None or drift <= self.drift_threshold)
        if verify == "solver" or not trusted:
            true_q, true_p = problem.solve()
            if usable and verify == "solver":
                solver_error = max(float(np.max(np.abs(q - true_q))), float(np.max(np.abs(p - true_p))))
            if solver_error is None or solver_error > self.solver_threshold:
                q, p, source, drift = true_q, true_p, "solver", problem.drift(true_q, true_p)
        return Answer(problem.times, q, p, None if verify == "none" else drift, solver_error, source)


def _calibrated_drift(card: dict[str, Any], folder: Path) -> float | None:
    """None where `evaluate --record` was never run on the model, or found no threshold: nothing is then known of its drift."""
    if "calibration" not in card:
        return None
    try:
        threshold = card["calibration"]["scores"]["energy_drift"]["threshold"]
        return None if threshold is None else _read_number(threshold, "threshold")
    except (KeyError, TypeError, ValueError, InputError):
        raise InputError(f"the calibration in the model.json of {str(folder)!r} is damaged; evaluate --record writes it again") from None


def _read_number(value: float, field: str) -> float:
    number = float(value)
    if not np.isfinite(number):
        raise InputError(f"{field} is {number}; it must be finite")
    return number


def _check_bound(curve: Curves, sensors: np.ndarray, q0: float, p0: float, name: str) -> None:
    """Refuse a particle that leaves [0, 1], where the model knows nothing.

    Walls may stand up to `WALL_TOLERANCE` above 2 (noise), and a particle may start at rest on such a wall.
    """
    height = float(curve.value(np.array(q0)))
    energy = 0.5 * p0 * p0 + height
    limit = max(WALL_HEIGHT, sensors[0], sensors[-1])
    if not energy <= limit + ENERGY_TOLERANCE:
        raise InputError(
            f"{name}: p0**2/2 + V(q0) is {energy:.6g} for {name}.q0 = {q0:.6g} and {name}.p0 = {p0:.6g}; "
            f"above {WALL_HEIGHT:g} the particle leaves the walls"
        )
    slope = float(curve.gradient(np.array(q0)))
    outward = {0.0: slope, 1.0: -slope}.get(q0, 0.0)
    if outward > _STEEPEST_RISE:
        raise InputError(
            f"{name}: the potential rises inward from the wall at q = {q0:g}, where the particle starts, so the particle leaves the walls"
        )
