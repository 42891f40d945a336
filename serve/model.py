"""A trained model in use: potentials, initial states and times in; orbits with a measure of trust out.

Shapes: R problems, B of them in one forward pass, T query times, d degrees of freedom.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, get_args

import numpy as np

from ..architectures import Task, TrainedFor, check_examples, load_model, read_card
from ..physics import InputError
from ..physics.potential_map import potential_on_grid
from ..physics.potentials.expressions import Expression
from ..physics.systems import Ensemble, Names, System, get_system
from ..physics.systems.functions import FunctionHamiltonians
from ..physics.systems.generic import Solved, largest_difference
from ..platform.config.data import DataConfig
from ..platform.data.datasets import stack_fields
from ..platform.storage import Location, locate
from .orbit import Orbit, Trust, Verdict, Verify, finite_or_none, judge
from .parameters import typical_parameters
from .passes import Passes
from .problems import (
    Potential,
    Problem,
    as_problems,
    calling_it,
    check_number_of_times,
    exact_hamiltonians,
    read_fields,
    read_state,
    read_times,
    within_rounding,
)
from .reference import drift_in, known_hamiltonians, sensor_error, solve_reference
from .shipped import find_model, models_accepting


class Model:
    """The network of a model folder, with the system it was trained for. Call it, or `predict` many problems at once.

    Parameters
    ----------
    folder
        The model folder.
    solver_threshold
        With verify="solver", a prediction further than this from the reference solution is replaced by it, unless the reference's own
        error may explain the difference.
    device
        Where the network runs, such as "cpu" or "cuda".

    Attributes
    ----------
    card
        The content of `model.json`.
    trained_for
        The system, ensemble, initial state and sensors of the training data; part of the card.
    system
        The `System` that the model predicts.

    Raises
    ------
    InputError
        Where the folder holds no usable model, or its system is not installed.
    """

    def __init__(self, folder: str | Location, solver_threshold: float = 0.05, device: str = "cpu") -> None:
        if not solver_threshold >= 0:
            raise InputError(f"solver_threshold is {solver_threshold}; it must be 0 or more")
        self.folder = locate(folder)
        self.card: dict[str, Any] = read_card(self.folder)
        self.trained_for = TrainedFor.model_validate(self.card["trained_for"])
        self.system = get_system(self.trained_for.system)
        self.solver_threshold = solver_threshold
        self.drift_threshold = _calibrated_drift(self.card, self.folder)
        network = load_model(self.folder, device)
        if "example_predictions" in self.card:
            check_examples(network, self.card["example_predictions"], f"the model in {str(self.folder)!r}")
        self._network = Passes(network, self.task, device)
        self._warm_up()

    @cached_property
    def task(self) -> Task:
        """What the network was built for: sensors, domain, horizon and channels."""
        return self.trained_for.task

    @cached_property
    def ensemble(self) -> Ensemble | None:
        """The distribution of the training problems; None where this installation has none of its name."""
        if self.trained_for.ensemble.get("name") not in self.system.ensembles:
            return None
        return DataConfig.model_validate({"system": self.system.name, "ensemble": self.trained_for.ensemble}).distribution

    @property
    def summary(self) -> dict[str, Any]:
        """The model, as responses describe it."""
        return {
            "architecture": self.card["architecture"]["name"],
            "system": self.system.name,
            "num_sensors": self.task.num_sensors,
            "num_parameters": self.card.get("num_parameters"),
            "weights_sha256": self.card.get("weights_sha256"),
            "drift_threshold": self.drift_threshold,
        }

    @property
    def description(self) -> dict[str, Any]:
        """The card, and at its top level what a client needs to pose problems."""
        trained_for = self.trained_for.model_dump(mode="json")
        asked = ("system", "ensemble", "initial_state", "sensors", "domain", "horizon")
        system = self.system
        typical = typical_parameters(system)
        about = {
            "requirements": system.requirements,
            "examples": dict(system.examples) or ({typical: typical} if typical else {}),
            "energy_scale": system.energy_scale_name,
            "has_unit_mass": system.has_unit_mass,
            "fields": dict(system.fields),
        }
        return self.card | {name: trained_for[name] for name in asked} | about

    def __repr__(self) -> str:
        trained_for = self.trained_for
        start = "any admissible initial state" if trained_for.any_initial_state else f"initial state {trained_for.initial_state}"
        return (
            f"Model({str(self.folder)!r}: {self.card['architecture']['name']} with {self.card.get('num_parameters'):,} parameters, "
            f"system {self.system.name!r}, {' x '.join(map(str, self.task.sensors))} sensors, times up to {self.task.horizon:g}, {start})"
        )

    def __call__(self, potential: Potential, q0: Any = None, p0: Any = None, times: Any = None, *, verify: Verify = "energy") -> Any:
        """The orbit of a particle in a potential, or a list of orbits for a batch.

        Everything is dimensionless, for a particle of unit mass; `motion` has units, named parameters and any mass.

        Parameters
        ----------
        potential
            Text such as "8*(q-0.5)**2" (coordinates q1, q2, ... with several degrees of freedom), the parameters of the system as
            text such as "mass=1, length=0.8", a function of arrays, V at the model's sensors (S,) or (S1, S2), or an exact
            Hamiltonian with one row.
        q0, p0
            Initial state: a number each, or d numbers with d degrees of freedom. By default the only state that the model was
            trained for, else 0; of several coordinates, q0 is then the centre of the domain.
        times
            Query times in any order, (T,), up to the model's horizon. By default 100 uniform ones.
        verify
            "none" runs the network alone. "energy", the default, adds the energy drift and what the sensors cannot resolve, and compares a
            prediction with a reference solution where one of them is larger than calibration found accurate (`drift_threshold`; 0 where it
            found none). "solver" compares all of them. A prediction is replaced by the reference where the difference is more than three
            times the reference's own error, and with "solver" more than `solver_threshold`. See `Trust`.

        Returns
        -------
        Orbit or list of Orbit
            A list where any argument has one dimension more than above, or `potential` is a list of texts, functions or
            Hamiltonians. Arguments without it stand for every problem of the batch.

        Raises
        ------
        InputError
            For a problem that the model cannot predict; the message names the argument.
        """
        problems, is_batch = as_problems(potential, q0, p0, times, self.system)
        orbits = self.predict(problems, verify)
        return orbits if is_batch else orbits[0]

    def predict(self, problems: Sequence[Problem], verify: Verify = "energy") -> list[Orbit]:
        """One orbit for each problem, in order; problems may have different numbers of times.

        A prediction that is not finite is replaced by the solver's trajectory whatever `verify` says. When others are, see `__call__`.

        Raises
        ------
        InputError
            For a problem that the model cannot predict, with the problem's own names.
        """
        if verify not in get_args(Verify):
            raise InputError(f"verify is {verify!r}; choose one of {', '.join(get_args(Verify))}")
        check_number_of_times(sum(problem.num_times for problem in problems))
        if not problems:
            return []
        batch = _Batch(self, problems)
        groups: dict[int, list[int]] = {}
        for row, times in enumerate(batch.times):
            groups.setdefault(times.size, []).append(row)
        orbits: dict[int, Orbit] = {}
        for rows in groups.values():
            orbits |= self._predict_rows(batch, np.array(rows), verify)
        return [orbits[row] for row in range(len(problems))]

    def map_potential(self, problem: Problem, num_places: int) -> tuple[np.ndarray, float]:
        """V of a problem at uniform places over the domain, (N,) or (N, N), and the energy of its particle.

        V given as text or as a function is evaluated exactly, V at sensors is interpolated. The particle may have more energy
        than a prediction allows.

        Raises
        ------
        InputError
            For a potential that cannot be read or is not finite, or an initial state outside the domain.
        """
        names, system = problem.names, self.system
        hamiltonian = exact_hamiltonians(problem.potential, system, names) or system.from_sensors(
            {name: values[None] for name, values in read_fields(problem, system, self.task.sensors).items()}
        )
        q0, p0 = _read_states(self, [problem])
        System.check_initial_state(system, hamiltonian, q0, p0, [names])  # not that the energy is one that networks know
        with calling_it(names.potential), np.errstate(all="ignore"):
            values, energy = potential_on_grid(hamiltonian, system.domain, num_places), float(hamiltonian.energy(q0, p0)[0])
        if not np.isfinite(values).all():
            raise InputError(f"{names.potential} is not finite everywhere in the domain")
        if not np.isfinite(energy):
            raise InputError(f"{names.p0} is too large: the energy of the particle is {energy}")
        return values, energy

    def prepare_references(self) -> None:
        """Compile what reference solutions need, which else the first one waits for: half a minute, once for an installation.

        It needs no network and may run in a thread, while predictions are made.
        """
        system, sensors = self.system, self.task.sensors
        fields = {name: np.zeros((1, *((channels,) if channels > 1 else ()), *sensors)) for name, channels in system.fields.items()}
        shape = (1,) if system.degrees_of_freedom == 1 else (1, system.degrees_of_freedom)
        centre = np.array([0.5 * (low + high) for low, high in system.domain]).reshape(shape)
        with np.errstate(all="ignore"):
            candidates = list(system.plausible(fields, self.ensemble, self.trained_for.noise))
            if dict(system.fields) == {"potential": 1}:
                candidates.append(FunctionHamiltonians([Expression("0", system.degrees_of_freedom)], system.domain))
            solve_reference(system, candidates, centre, 0.0 * centre, np.array([[system.horizon]]))

    def _predict_rows(self, batch: "_Batch", rows: np.ndarray, verify: Verify) -> dict[int, Orbit]:
        """The orbits of rows with equally many times: the network's, or a reference solution where that is better."""
        times = np.stack([batch.times[row] for row in rows])
        q, p = self._network(batch.fields[rows], times, batch.initial[rows])
        usable = _is_finite(q) & _is_finite(p)
        drift, unresolved = np.full((2, rows.size), np.nan)
        trusted = usable
        if verify != "none":
            drift, unresolved = batch.drift(rows, q, p), batch.sensor_errors[rows]
            usable = usable & np.isfinite(drift)
            limit = np.inf if self.drift_threshold is None else self.drift_threshold
            trusted = usable & (drift <= limit) & ~(unresolved > limit)
        # Of a model that was never calibrated, no drift is known to be too large: nothing was checked.
        passed: Verdict | None = None if verify == "none" or self.drift_threshold is None else "accepted"
        orbits = {}
        for k, row in enumerate(rows.tolist()):
            verdict = passed
            difference, error = np.nan, np.nan
            if verify == "solver" or not trusted[k]:
                reference_q, reference_p, error = batch.solve(row)
                if usable[k]:
                    difference = float(largest_difference((q[k : k + 1], p[k : k + 1]), (reference_q[None], reference_p[None]))[0])
                    verdict = judge(difference, error, self.solver_threshold, verify)
                else:
                    _check_finite(reference_q, reference_p, batch.names[row])
                    verdict = "replaced"
                if verdict == "replaced":
                    q[k], p[k] = reference_q, reference_p
                    if verify != "none":
                        drift[k] = batch.drift(rows[k : k + 1], q[k : k + 1], p[k : k + 1])[0]
            orbits[row] = batch.orbit(
                row,
                q[k],
                p[k],
                Trust(
                    energy_drift=finite_or_none(drift[k]),
                    solver_error=finite_or_none(difference) if verify == "solver" else None,
                    source="solver" if verdict == "replaced" else "model",
                    reference_error=finite_or_none(error),
                    sensor_error=finite_or_none(unresolved[k]),
                    verdict=verdict,
                ),
            )
        return orbits

    def _warm_up(self) -> None:
        """Run the solver once: the first call compiles it, better now than in someone's request."""
        system, sensors = self.system, self.task.sensors
        fields = {name: np.zeros((1, *((channels,) if channels > 1 else ()), *sensors)) for name, channels in system.fields.items()}
        hamiltonians = system.from_sensors(fields)
        centre = np.array([[(low + high) / 2 for low, high in system.domain]])
        q0 = centre[:, 0] if system.degrees_of_freedom == 1 else centre
        p0, times = np.zeros_like(q0), np.array([[self.task.horizon]])
        q, p = system.solve(hamiltonians, q0, p0, times)
        system.energy_drift(hamiltonians, q0, p0, q, p)


def load(model: str | Location, *, solver_threshold: float = 0.05, device: str = "cpu") -> Model:
    """A model by the name of a shipped one (see `shipped_models`), by its folder or by its URL; a model's folder goes before a name.

    Parameters
    ----------
    model
        Such as "orbitnet", "runs/deeponet/model" or "s3://bucket/runs/deeponet/model".
    solver_threshold
        With verify="solver", a prediction further than this from the solver is replaced by the solver's trajectory.
    device
        Where the network runs, such as "cpu" or "cuda".

    Raises
    ------
    InputError
        Where there is no such model, or it is damaged.
    """
    return Model(find_model(model), solver_threshold, device)


def predict(model: str | Location | Model, potential: Potential, q0: Any = None, p0: Any = None, times: Any = None, **options: Any) -> Any:
    """`load(model)(potential, q0, p0, times, **options)`: for one prediction. To make more, load the model once."""
    loaded = model if isinstance(model, Model) else load(model)
    return loaded(potential, q0, p0, times, **options)


class _Batch:
    """R problems that passed every check, as arrays: fields at the sensors, Hamiltonians, initial states and times."""

    def __init__(self, model: Model, problems: Sequence[Problem]) -> None:
        self.model, self.system = model, model.system
        self.names = [problem.names for problem in problems]
        self.known = [known_hamiltonians(problem.potential, self.system, problem.names) for problem in problems]
        exact = (known[0] if known else None for known in self.known)
        rows = [read_fields(problem, self.system, model.task.sensors, one) for problem, one in zip(problems, exact, strict=True)]
        self._given = {name: np.stack([row[name] for row in rows]) for name in self.system.fields}
        self.times = [read_times(problem.times, model.task.horizon, problem.names.times) for problem in problems]
        self.q0, self.p0 = _read_states(model, problems)
        self.system.check_potential(self._given, self.names)
        self.fields = stack_fields(self._given, self.system)
        self.sensed = self.system.from_sensors(self._given)
        self._check_initial_states()
        _check_trained_for(model.trained_for, self.q0, self.p0, self.names)

    def _check_initial_states(self) -> None:
        """In the exact Hamiltonians where they are known, else in the interpolations."""
        if not any(self.known):
            with suppress(InputError):
                self._check_start(self.sensed, slice(None))
                return
        for row, known in enumerate(self.known):
            try:
                with calling_it(self.names[row].potential):
                    self._check_start(known[0] if known else self._interpolation(row), slice(row, row + 1))
            except InputError:
                # An interpolation may be wrong at a wall, above all with noise. Others have the last word.
                if known or not (candidates := self._candidates(row)):
                    raise
                self._check_start(candidates[0], slice(row, row + 1))

    def _check_start(self, hamiltonians: Any, rows: slice) -> None:
        with np.errstate(all="ignore"):  # an energy may overflow, which is refused
            self.system.check_initial_state(hamiltonians, self.q0[rows], self.p0[rows], self.names[rows])

    def _interpolation(self, row: int) -> Any:
        return self.sensed.take(np.array([row]))

    @property
    def initial(self) -> np.ndarray:
        """(q0, p0) as a network reads them, (R, 2 d)."""
        return np.concatenate([state.reshape(len(self.times), -1) for state in (self.q0, self.p0)], axis=1)

    def orbit(self, row: int, q: np.ndarray, p: np.ndarray, trust: Trust) -> Orbit:
        given = (self.times[row], q, p, np.asarray(self.q0[row]), np.asarray(self.p0[row]))
        hamiltonians, place = (self.known[row][0], 0) if self.known[row] else (self.sensed, row)
        return Orbit(*given, trust, system=self.system, hamiltonians=hamiltonians, row=place)

    def drift(self, rows: np.ndarray, q: np.ndarray, p: np.ndarray) -> np.ndarray:
        everything = rows.size == len(self.times)  # in order, as every set of rows here
        sensed = self.sensed if everything else self.sensed.take(rows)
        drift = self.system.energy_drift(sensed, self.q0[rows], self.p0[rows], q, p)
        for k, row in enumerate(rows.tolist()):
            if self.known[row]:
                one = slice(row, row + 1)
                scale = float(self._energy_scales[row])
                drift[k] = drift_in(self.system, self.known[row][0], self.q0[one], self.p0[one], q[k : k + 1], p[k : k + 1], scale)
        return drift

    @cached_property
    def _energy_scales(self) -> np.ndarray:
        """Of the exact Hamiltonians, (R,); nan where they are not known."""
        return np.array([float(self.system.energy_scale(known[0])[0]) if known else np.nan for known in self.known])

    @cached_property
    def sensor_errors(self) -> np.ndarray:
        """See `Trust.sensor_error`, (R,); nan where V is known at the sensors only."""
        errors = np.full(len(self.known), np.nan)
        for row, known in enumerate(self.known):
            if known:
                energy = float(known[0].energy(self.q0[row : row + 1], self.p0[row : row + 1])[0])
                about = (self.model.task.sensors, energy, self._energy_scales[row])
                with calling_it(self.names[row].potential):
                    errors[row] = sensor_error(self.system, known[0], self._interpolation(row), *about)
        return errors

    def _candidates(self, row: int) -> list[Any]:
        """The Hamiltonians that a problem may have, the most probable first."""
        if self.known[row]:
            return self.known[row]
        fields = {name: values[row : row + 1] for name, values in self._given.items()}
        with np.errstate(all="ignore"):
            return self.system.plausible(fields, self.model.ensemble, self.model.trained_for.noise)

    def solve(self, row: int) -> tuple[np.ndarray, np.ndarray, float]:
        """q, p of the reference in the order of the times, (T,) or (T, d), and its error; inf where that cannot be estimated."""
        order = np.argsort(self.times[row], kind="stable")
        start = self.q0[row : row + 1], self.p0[row : row + 1], self.times[row][order][None]
        with np.errstate(all="ignore"):
            solved = solve_reference(self.system, self._candidates(row), *start)
            if solved is None:
                solved = Solved(*self.system.solve(self._interpolation(row), *start), np.array([np.inf]))
        back = np.argsort(order)
        return solved.q[0, back], solved.p[0, back], float(solved.error[0])


def _check_finite(q: np.ndarray, p: np.ndarray, names: Names) -> None:
    if not (np.isfinite(q).all() and np.isfinite(p).all()):
        raise InputError(f"{names.potential} has no finite trajectory, from the model or from the solver; make the potential smoother")


def _read_states(model: Model, problems: Sequence[Problem]) -> tuple[np.ndarray, np.ndarray]:
    """q0 and p0, (R,) or (R, d)."""
    domain = model.system.domain
    # At 0 an interval's particle can start; the corner of a square is often a place where none can.
    anywhere = (0.0,) if len(domain) == 1 else tuple(0.5 * (low + high) for low, high in domain)
    default_q0, default_p0 = model.trained_for.initial_state or (anywhere, (0.0,) * len(domain))
    states = [
        (
            read_state(default_q0 if problem.q0 is None else problem.q0, model.system, problem.names.q0),
            read_state(default_p0 if problem.p0 is None else problem.p0, model.system, problem.names.p0),
        )
        for problem in problems
    ]
    q0, p0 = (np.stack(part) for part in zip(*states, strict=True))
    return within_rounding(q0, *np.array(domain).T), p0


def _check_trained_for(trained_for: TrainedFor, q0: np.ndarray, p0: np.ndarray, names: Sequence[Names]) -> None:
    """Refuse an initial state other than the only one that the model was trained for."""
    if trained_for.any_initial_state:
        return
    wanted = [np.reshape(part, q0.shape[1:]) for part in trained_for.initial_state or ()]
    is_other = np.logical_or(*(x != part for x, part in zip((q0, p0), wanted, strict=True))).reshape(len(q0), -1).any(axis=1)
    for row in np.flatnonzero(is_other)[:1]:
        state = q0[row], p0[row]
        others = ", ".join(repr(name) for name in models_accepting(trained_for.system, *state))
        assert trained_for.initial_state is not None
        given, wanted = (", ".join(f"{number:.6g}" for number in np.ravel(pair)) for pair in (state, trained_for.initial_state))
        advice = f"; models for other initial states: {others}" if others else ""
        raise InputError(f"{names[row].q0} and {names[row].p0} are ({given}); this model was trained for ({wanted}) only{advice}")


def _is_finite(values: np.ndarray) -> np.ndarray:
    """Whether all numbers of a row are, (B, ...) -> (B,)."""
    return np.all(np.isfinite(values).reshape(len(values), -1), axis=1)


def _calibrated_drift(card: dict[str, Any], folder: Location) -> float | None:
    """None where `evaluate --record` was never run on the model: nothing is then known of its drift.

    Where it found no drift below which predictions can be trusted, none can be: the threshold is 0.
    """
    if "calibration" not in card:
        return None
    try:
        threshold = card["calibration"]["scores"]["energy_drift"]["threshold"]
        if threshold is None or np.isfinite(float(threshold)):
            return 0.0 if threshold is None else float(threshold)
    except (KeyError, TypeError, ValueError):
        pass
    raise InputError(f"the calibration in the model.json of {str(folder)!r} is damaged; evaluate --record writes it again")
