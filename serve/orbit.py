"""The trajectory of one problem, with what is known about its quality: what models and solvers return to a user."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..physics.systems import System

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Source = Literal["model", "solver"]


@dataclass(frozen=True)
class Trust:
    """How far a trajectory can be trusted.

    Attributes
    ----------
    energy_drift
        max abs(H - H0) over the query times, relative to the system's energy scale (for the well, its depth); None where it was
        not asked for.
    solver_error
        Largest difference of the model's q or p from a solver's; None unless verify="solver". It describes the model also where
        the solver's trajectory is returned.
    source
        Whether the trajectory is the model's or the solver's.
    """

    energy_drift: float | None
    solver_error: float | None
    source: Source


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
        """The Hamiltonian of this orbit, as `Hamiltonians` with one row. For a model it interpolates what the sensors read."""
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

    def plot(self, title: str = "") -> "Figure":
        """A matplotlib figure: V and the energy (with one degree of freedom), the phase portrait, q(t) and p(t)."""
        from .figure import OrbitFigure

        figure = OrbitFigure(figsize=(9, 6.5) if self.q.ndim == 1 else (12, 3.8), layout="constrained")
        panels = list(figure.subplots(2, 2).flat) if self.q.ndim == 1 else list(figure.subplots(1, 3))
        if self.q.ndim == 1:
            self._plot_potential(panels.pop(0))
        order = np.argsort(self.times, kind="stable")
        t, q, p = self.times[order], self.q[order], self.p[order]
        for axes, x, y, labels in zip(panels, (q, t, t), (p, q, p), (("q", "p"), ("t", "q"), ("t", "p")), strict=True):
            lines = axes.plot(x, y)
            axes.set(xlabel=f"${labels[0]}$", ylabel=f"${labels[1]}$")
            axes.grid(alpha=0.3)
            if len(lines) > 1:
                axes.legend(lines, [str(axis + 1) for axis in range(len(lines))], title="coordinate")
        # Not as mathematics: a title may hold what matplotlib's mathtext would try to read.
        figure.suptitle(title, parse_math=False)
        return figure

    def _plot_potential(self, axes: Any) -> None:
        ((low, high),) = self.system.domain
        positions = np.linspace(low, high, 400)[None]
        energy = self.hamiltonian.energy(self.q0[None], self.p0[None])[0]
        axes.plot(positions[0], self.hamiltonian.energy(positions, np.zeros_like(positions))[0])
        axes.axhline(energy, color="tab:red", linestyle="--", label="energy")
        axes.set(xlabel="$q$", ylabel="$V$")
        axes.grid(alpha=0.3)
        axes.legend(loc="upper center")
