"""The trajectory of one problem, with what is known about its quality: what models and solvers return to a user."""

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..physics.systems import System

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Source = Literal["model", "solver"]
Verdict = Literal["accepted", "replaced", "undecided"]
Verify = Literal["none", "energy", "solver"]  # how far predictions are checked
SAFETY = 3.0  # times the reference's error: what a prediction must differ by before the difference is its own


@dataclass(frozen=True)
class Trust:
    """How far a trajectory can be trusted.

    Attributes
    ----------
    energy_drift
        max abs(H - H0) over the query times, relative to the system's energy scale (for the well, its depth); None where it was
        not asked for. H is exact where the potential was given exactly, and else interpolates what the sensors read.
    solver_error
        Largest difference of the model's q or p from a reference solution's; None unless verify="solver". It describes the model also
        where the reference is returned, and is the sum of both errors at most.
    reference_error
        Estimated error of the reference solution; None where none was computed, or where its error cannot be estimated.
    sensor_error
        What the sensors cannot resolve: the largest difference, where the particle may be, of the potential from its interpolation by the
        model's sensors, relative to the energy scale. None where it was not asked for, or V is known at the sensors only.
    source
        Whether the trajectory is the model's or the reference solver's.
    verdict
        "accepted": the prediction passed the check. "replaced": it failed, and the reference solution is returned. "undecided": it did not
        pass, but the difference may be the reference's own error; the prediction is returned. None where nothing was checked.
    """

    energy_drift: float | None
    solver_error: float | None
    source: Source
    reference_error: float | None = None
    sensor_error: float | None = None
    verdict: Verdict | None = None


TRUST_FIELDS = tuple(one.name for one in fields(Trust))


def judge(difference: float, error: float, threshold: float, verify: Verify) -> Verdict:
    """What follows for a prediction that was not trusted, or not asked about, by its difference from a reference with this `error`."""
    if difference > SAFETY * error and (verify != "solver" or difference > threshold):
        return "replaced"
    return "accepted" if max(difference, SAFETY * error) <= threshold else "undecided"


def finite_or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


@dataclass(frozen=True, eq=False)
class Orbit:
    """q and p at the query times. Everything is dimensionless.

    Attributes
    ----------
    times
        Query times in the order in which they were given, (T,).
    q, p
        (T,) with one degree of freedom, (T, d) with d.
    q0, p0
        Initial state as it was given: a number () each, or (d,).
    trust
        See `Trust`.
    integration_error
        Certified bound on the absolute error of any q or p; None unless `solve` computed the orbit.
    """

    times: np.ndarray
    q: np.ndarray
    p: np.ndarray
    q0: np.ndarray
    p0: np.ndarray
    trust: Trust
    integration_error: float | None = None
    system: System = field(kw_only=True, repr=False)
    hamiltonians: Any = field(kw_only=True, repr=False)
    row: int = field(default=0, kw_only=True, repr=False)  # of `hamiltonians`

    def __len__(self) -> int:
        return self.times.size

    def __repr__(self) -> str:
        error = "" if self.integration_error is None else f", integration_error={self.integration_error:.3g}"
        return f"Orbit({len(self)} times, {self.trust}{error})"

    @cached_property
    def hamiltonian(self) -> Any:
        """The Hamiltonian of this orbit, as `Hamiltonians` with one row: the exact one if it is known, else an interpolation."""
        return self.hamiltonians.take(np.array([self.row]))

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The trajectory as columns (T,): t, q, p, or t, q1, q2, ..., p1, p2, ..."""
        columns = {"t": self.times}
        for name, values in (("q", self.q), ("p", self.p)):
            columns |= {name: values} if values.ndim == 1 else {f"{name}{axis + 1}": column for axis, column in enumerate(values.T)}
        return columns

    def to_pandas(self) -> Any:
        """The trajectory as a pandas DataFrame with the columns of `columns`.

        Raises
        ------
        ImportError
            Where pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ImportError("to_pandas needs pandas, which is not installed; run `pip install pandas`, or use `orbit.columns`") from None
        return pandas.DataFrame(self.columns)

    @cached_property
    def energy(self) -> float:
        """H of the initial state, in the Hamiltonian of this orbit."""
        return float(self.hamiltonian.energy(self.q0[None], self.p0[None])[0])

    def plot(self, title: str = "") -> "Figure":
        """A matplotlib figure of the orbit.

        With one degree of freedom: V and the energy, the phase portrait, q(t) and p(t). With two: the path over contours of V, with
        the line on which V is the energy; q1, q2, p1 and p2 over time; and the Poincaré section, (q1, p1) where the path crosses the
        middle of the domain of q2 upwards.
        """
        from .figure import plot_orbit

        return plot_orbit(self, title)
