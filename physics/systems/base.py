"""What a Hamiltonian system is. Everything particular to one lives in a subclass; everything else asks it.

Array shapes, for R rows and T query times: positions and momenta are (R, T) with one degree of freedom and (R, T, d) with
d of them; initial states are (R,) and (R, d).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, Self

import numpy as np

from ..errors import InputError, shown
from ..solvers.certify import Rejection, Trajectories
from . import generic
from .draws import Draws
from .functions import FunctionHamiltonians
from .generic import Solved

if TYPE_CHECKING:
    from .baselines import Baseline
    from .problems import Problems

__all__ = [
    "Column",
    "Drawn",
    "Ensemble",
    "Group",
    "Hamiltonians",
    "NamedCase",
    "Names",
    "Rejection",
    "Shapes",
    "State",
    "System",
    "Trajectories",
]

State = tuple[float, ...]


class Names(NamedTuple):
    """What the caller calls the parts of a problem, for error messages: a JSON field, an argument, or an option."""

    potential: str = "potential"
    q0: str = "q0"
    p0: str = "p0"
    times: str = "times"


class Hamiltonians(Protocol):
    """R Hamiltonians of one system, evaluated row by row: no row's numbers depend on another row."""

    def __len__(self) -> int: ...

    def take(self, rows: np.ndarray) -> Self:
        """The Hamiltonians at `rows` (any number of them, repeats allowed)."""
        ...

    def energy(self, q: np.ndarray, p: np.ndarray) -> np.ndarray:
        """H(q, p) of each row: (R,), or (R, T) along trajectories."""
        ...

    def gradient(self, q: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """dH/dq and dH/dp of each row, each in the shape of q."""
        ...

    def sense(self, sensors: tuple[int, ...]) -> dict[str, np.ndarray]:
        """The fields of `System.fields` on the grid of sensors: (R, *sensors), or (R, channels, *sensors) with several channels."""
        ...


class Column(NamedTuple):
    """A column of the dataset that belongs to the system.

    `list` columns hold a list of float64 in each row; in memory they are (R, n) and a row ends at its first nan. Scalars that
    are nan, or negative where they are integers, are stored as null where `nullable`.
    """

    name: str
    kind: Literal["float64", "int8", "list"]
    meaning: str
    nullable: bool = False


class Drawn(NamedTuple):
    """What an ensemble draws for R rows: the system's own columns, the Hamiltonians, initial states and sorted query times (R, T)."""

    columns: dict[str, np.ndarray]
    hamiltonians: Any
    q0: np.ndarray
    p0: np.ndarray
    times: np.ndarray


@dataclass(frozen=True)
class Ensemble(ABC):
    """A distribution of problems. A subclass is a frozen dataclass whose fields are the keys of `data.ensemble`.

    `fixed_initial_state` is (q0, p0), each a tuple of length d, where all problems start from one state, and None where they
    start anywhere that the system admits. A model trained on the ensemble accepts the same initial states.
    """

    name: ClassVar[str]
    fixed_initial_state: ClassVar[tuple[State, State] | None] = None
    orbits_per_hamiltonian: ClassVar[int] = 1
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}

    @abstractmethod
    def draw(self, draws: Draws, num_times: int) -> Drawn:
        """The problems of the rows that `draws` addresses: a pure function, the same for a row alone or with others."""

    def describe(self) -> str:
        """How problems are sampled, in Markdown, for the dataset card."""
        return self.__doc__ or ""

    def variants(self) -> dict[str, "Ensemble"]:
        """Ensembles that differ from this one in one respect each, to measure a model out of distribution."""
        return {}

    def dump(self) -> dict[str, Any]:
        """The name and the fields, as configurations and cards hold them."""
        return {"name": self.name} | asdict(self)


@dataclass(frozen=True)
class NamedCase:
    """A single problem with a name and a known solution.

    `hamiltonian` holds one row: oracle baselines integrate it, and its sensors are read. `truth(times)` returns q, p of shape
    (T,) or (T, d). Cases of one `kind` stand in one table; those of kind "textbook" are part of every evaluation.
    """

    name: str
    kind: Literal["textbook", "non-smooth"]
    hamiltonian: Any
    q0: State
    p0: State
    truth: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Shapes(NamedTuple):
    """R problems of one kind that no ensemble draws, with known solutions: `truth(times)` returns q, p (R, T) or (R, T, d)."""

    hamiltonians: Any
    q0: np.ndarray
    p0: np.ndarray
    truth: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Group(NamedTuple):
    """A division of N problems: the rows (N,), as booleans, under each label. `title` says what the labels measure."""

    name: str
    title: str
    rows: dict[str, np.ndarray]


class EquivalentWell(NamedTuple):
    """The wells of a system to which any bounded motion along a line can be reduced: particles start from rest at a wall."""

    wall_height: float
    usual_depth: float
    largest_depth: float  # of those that are common in training


class System(ABC):
    """A Hamiltonian system: one instance, without state.

    A system with H = p²/2 + V(q) on a box needs `rebuild`, its ensembles and `energy_scale`; the methods with a body are
    general and may be replaced by faster or more accurate ones.
    """

    name: ClassVar[str]
    title: ClassVar[str]  # of the dataset card
    equations: ClassVar[str]  # Markdown: H, the domain and the units
    domain: ClassVar[tuple[tuple[float, float], ...]]  # of each coordinate; the sensors lie on a uniform grid over it
    horizon: ClassVar[float]
    fields: ClassVar[Mapping[str, int]] = {"potential": 1}  # what the sensors read, with the number of channels of each
    has_unit_mass: ClassVar[bool] = True  # H = p²/2 + V(q)
    columns: ClassVar[tuple[Column, ...]]
    ensembles: ClassVar[Mapping[str, type[Ensemble]]]  # the default first
    methods: ClassVar[tuple[str, ...]] = ("dop853",)  # those that certify, the default first
    requirements: ClassVar[str] = ""  # what a potential must satisfy to be one of this system's, as a noun phrase for users
    examples: ClassVar[Mapping[str, str]] = {}  # potentials as expressions, by name, for a user to try
    energy_scale_name: ClassVar[str] = "the energy scale"
    equivalent_well: ClassVar[EquivalentWell | None] = None
    # The value of the first coordinate on the plane of Poincaré sections; None: its mean along each exact orbit.
    section_plane: ClassVar[float | None] = None
    default_sensors: ClassVar[int] = 100  # along each axis
    fewest_sensors: ClassVar[int] = 4
    work_batches: ClassVar[tuple[int, ...]] = (1, 100, 10_000)  # trajectories at once, to measure what solvers and networks cost
    sensor_counts: ClassVar[tuple[int, ...]] = (100, 50, 25, 13)  # along each axis, to measure what few sensors cost

    @property
    def degrees_of_freedom(self) -> int:
        return len(self.domain)

    @abstractmethod
    def rebuild(self, columns: Mapping[str, Sequence[Any]]) -> Hamiltonians:
        """The exact Hamiltonians of R rows from their own columns alone; a `list` column is a sequence of R arrays."""

    @abstractmethod
    def energy_scale(self, hamiltonians: Any) -> np.ndarray:
        """The energy to which drifts are relative, such as the depth of a well, (R,): of exact Hamiltonians and of interpolated ones."""

    def from_sensors(self, fields: Mapping[str, np.ndarray]) -> Hamiltonians:
        """H = p²/2 + V(q) with V interpolated by tensor-product cubic splines through the sensors, fields as in `sense`."""
        return generic.SplineHamiltonians.through(fields["potential"], self.domain)

    def certify(
        self, hamiltonians: Any, q0: np.ndarray, p0: np.ndarray, times: np.ndarray, *, method: str, tolerance: float
    ) -> Trajectories:
        """The orbits at sorted times (R, T), solved again with shorter steps until no q or p changes by more than `tolerance`."""
        self.check_method(method)
        scale = self.energy_scale(hamiltonians)
        return generic.certify(hamiltonians, q0, p0, times, domain=self.domain, energy_scale=scale, tolerance=tolerance)

    def measure(self, hamiltonians: Any, q0: np.ndarray, p0: np.ndarray, times: np.ndarray) -> dict[str, np.ndarray]:
        """The system's own columns that only the motion gives, such as an exponent, of R certified orbits at times (R, T)."""
        return {}

    def reference(
        self, columns: Mapping[str, Sequence[Any]], q0: np.ndarray, p0: np.ndarray, times: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """q, p of R orbits from their rows' own columns, by an independent solver: what certificates are checked against."""
        return generic.reference(self.rebuild(columns), q0, p0, times)

    def solve(self, hamiltonians: Any, q0: np.ndarray, p0: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """q, p of R orbits at sorted times (R, T) by an ordinary solver, fast and without a certificate; nan where it fails."""
        return generic.solve(hamiltonians, q0, p0, times)

    def solve_closely(self, hamiltonians: Any, q0: np.ndarray, p0: np.ndarray, times: np.ndarray) -> Solved:
        """q, p of R orbits at sorted times (R, T) by a careful solver, with their error (R,) as tighter tolerances show it.

        In a formula or a function, which may have features of any width, steps are short besides.
        """
        is_function = isinstance(hamiltonians, FunctionHamiltonians)
        return generic.solve_closely(hamiltonians, q0, p0, times, self.horizon if is_function else np.inf)

    def plausible(self, fields: Mapping[str, np.ndarray], ensemble: Ensemble | None, noise: float) -> "list[Hamiltonians]":
        """Hamiltonians, one row each, that could have the readings `fields` of one row; the best estimate first.

        `ensemble` is what the Hamiltonian may be assumed to come from, `noise` the standard deviation of the readings' errors. How far
        the motions in all of them are apart is what the sensors leave open. There are none where nothing can be concluded. Here: splines of
        degree 5 and 3, for V without noise.
        """
        if noise > 0.0 or dict(self.fields) != {"potential": 1} or not self.has_unit_mass or min(fields["potential"].shape[1:]) < 6:
            return []
        return [generic.SplineHamiltonians.through(fields["potential"], self.domain, degree) for degree in (5, 3)]

    def energy_drift(self, hamiltonians: Any, q0: np.ndarray, p0: np.ndarray, q: np.ndarray, p: np.ndarray) -> np.ndarray:
        """max over the times of abs(H - H0), relative to the energy scale, (R,)."""
        with np.errstate(all="ignore"):  # far outside the domain the energy may overflow
            energy = hamiltonians.energy(q0, p0)
            return np.abs(hamiltonians.energy(q, p) - energy[:, None]).max(axis=1) / self.energy_scale(hamiltonians)

    def check_potential(self, fields: Mapping[str, np.ndarray], names: Sequence[Names]) -> None:
        """Raise InputError unless fields as in `sense`, (R, ...), can be those of Hamiltonians of this system; here: finite."""
        for values in fields.values():
            bad = np.argwhere(~np.isfinite(values))
            if bad.size:
                row, *place = bad[0].tolist()
                where = "".join(f"[{index}]" for index in place)
                raise InputError(f"{names[row].potential}{where} is {values[tuple(bad[0])]:.6g}; it must be finite")

    def check_initial_state(self, hamiltonians: Any, q0: np.ndarray, p0: np.ndarray, names: Sequence[Names]) -> None:
        """Raise InputError unless a particle may start at q0, p0 (R,) or (R, d); here: finite, and inside the domain."""
        low, high = np.array(self.domain).T
        positions = q0.reshape(len(q0), -1)
        inside = (positions >= low) & (positions <= high)
        if inside.all() and np.isfinite(p0).all():
            return
        for name, values in (("q0", q0), ("p0", p0)):
            for row in np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))[:1]:
                raise InputError(f"{getattr(names[row], name)} is {_plain(values[row])}; it must be finite")
        for row, axis in np.argwhere(~inside)[:1]:
            place = f"[{axis}]" if self.degrees_of_freedom > 1 else ""
            received = shown(float(positions[row, axis]), low[axis], high[axis])
            raise InputError(f"{names[row].q0}{place} is {received}; it must be between {low[axis]:g} and {high[axis]:g}")

    def rates(self, hamiltonians: Any, q: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """dq/dt and dp/dt by Hamilton's equations at states along trajectories, (R, T) or (R, T, d)."""
        return generic.rates(hamiltonians, q, p)

    def second_rates(self, hamiltonians: Any, q: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """d²q/dt² and d²p/dt² there."""
        return generic.second_rates(hamiltonians, q, p)

    def tangents(self, hamiltonians: Any, q0: np.ndarray, p0: np.ndarray, times: np.ndarray) -> np.ndarray:
        """d(q, p) / d(q0, p0) of the exact motion at sorted times (R, T): (R, T, 2d, 2d), rows q then p, columns q0 then p0."""
        return generic.tangents(self, hamiltonians, q0, p0, times)

    def baselines(self, steps: Sequence[float]) -> "list[Baseline]":
        """The solvers that networks are measured against; those of fixed step at each of `steps`.

        A system that is a package has one file for each family in its folder `baselines`. Any other system has general ones.
        """
        from .baselines import discover_baselines, general_baselines

        parent = type(self).__module__.rpartition(".")[0]
        if parent not in ("", __package__) and find_spec(f"{parent}.baselines") is not None:
            return discover_baselines(import_module(f"{parent}.baselines"), steps)
        return general_baselines(self, steps)

    def named_cases(self, initial_state: tuple[State, State] | None) -> "list[NamedCase]":
        """Problems with names and exact solutions, from `initial_state`, or from anywhere where it is None."""
        return []

    def shapes(self, initial_state: tuple[State, State] | None, count: int, seed: int) -> Mapping[str, "Shapes"]:
        """`count` random problems of each kind of Hamiltonian that is not smooth, from `initial_state`, or from anywhere."""
        return {}

    def groups(self, problems: "Problems") -> "list[Group]":
        """Ways to divide problems into groups, to see where a prediction is hard."""
        return []

    def check_method(self, method: str) -> None:
        if method not in self.methods:
            raise InputError(f"integrator is {method!r}; system {self.name!r} is certified by {', '.join(self.methods)}")

    def get_ensemble(self, name: str, key: str = "data.ensemble") -> type[Ensemble]:
        """The class of the ensemble called `name`; InputError names the choices, and what the caller calls the ensemble.

        Every system has rows made elsewhere, `imported`, which are no choice for drawing.
        """
        from .imported import Imported

        if name == Imported.name:
            return Imported
        if name not in self.ensembles:
            raise InputError(f"{key}.name is {name!r}; system {self.name!r} has {', '.join(self.ensembles)}")
        return self.ensembles[name]


def _plain(value: Any) -> str:
    return ", ".join(f"{number:.6g}" for number in np.ravel(value))
