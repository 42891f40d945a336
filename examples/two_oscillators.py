"""Two oscillators with a random coupling: a system of two degrees of freedom, in one file.

H = (p1² + p2²) / 2 + (a q1² + b q2²) / 2 + c q1² q2² on the square [-1, 1]²; a, b and c are random. To use it, a package names
it as an entry point of the group `neural_hamilton.systems`:

    [project.entry-points."neural_hamilton.systems"]
    two-oscillators = "two_oscillators:SYSTEM"
"""

from dataclasses import dataclass, field

import numpy as np

from neural_hamilton.physics.systems import Column, Drawn, Ensemble, System, between


@dataclass(frozen=True)
class CoupledOscillators:
    """R Hamiltonians; `a`, `b` and `c` have shape (R,)."""

    a: np.ndarray
    b: np.ndarray
    c: np.ndarray

    def __len__(self):
        return self.a.size

    def take(self, rows):
        return CoupledOscillators(self.a[rows], self.b[rows], self.c[rows])

    def potential(self, q1, q2):
        """V at positions of shape (R, ...)."""
        a, b, c = (x.reshape(-1, *[1] * (np.ndim(q1) - 1)) for x in (self.a, self.b, self.c))
        return 0.5 * (a * q1**2 + b * q2**2) + c * q1**2 * q2**2

    def energy(self, q, p):
        return 0.5 * (p[..., 0] ** 2 + p[..., 1] ** 2) + self.potential(q[..., 0], q[..., 1])

    def gradient(self, q, p):
        (a, b, c), (q1, q2) = (self.a, self.b, self.c), (q[..., 0], q[..., 1])
        return np.stack([(a + 2 * c * q2**2) * q1, (b + 2 * c * q1**2) * q2], axis=-1), p

    def sense(self, sensors):
        axes = [np.linspace(-1, 1, count) for count in sensors]
        q1, q2 = np.meshgrid(*axes, indexing="ij")
        return {"potential": self.potential(*(np.tile(q, (len(self), 1, 1)) for q in (q1, q2)))}


@dataclass(frozen=True)
class FromRest(Ensemble):
    """Both particles start at rest at random positions within 0.6 of the origin; uniform query times."""

    name = "from-rest"
    coupling: tuple[float, float] = field(default=(0.0, 2.0), metadata={"description": "range of c"})

    def draw(self, draws, num_times):
        stiffness, c = draws.hamiltonian(3)[:, :2], draws.hamiltonian(3)[:, 2]
        a, b = between(stiffness, (1.0, 4.0)).T
        c = between(c, self.coupling)
        q0 = between(draws.orbit(2), (-0.6, 0.6))
        times = np.tile(np.linspace(0.0, SYSTEM.horizon, num_times), (len(q0), 1))
        return Drawn({"a": a, "b": b, "c": c}, CoupledOscillators(a, b, c), q0, np.zeros_like(q0), times)


class TwoOscillators(System):
    """The energy scale is V in a corner of the square, without the coupling."""

    name = "two-oscillators"
    title = "Two coupled oscillators"
    equations = "H = (p1² + p2²) / 2 + (a q1² + b q2²) / 2 + c q1² q2² on [-1, 1]², everything dimensionless."
    domain = ((-1.0, 1.0), (-1.0, 1.0))
    horizon = 3.0
    columns = tuple(Column(name, "float64", f"the coefficient {name} of H") for name in "abc")
    ensembles = {"from-rest": FromRest}  # noqa: RUF012
    default_sensors = 12

    def rebuild(self, columns):
        return CoupledOscillators(*(np.asarray(columns[name]) for name in "abc"))

    def energy_scale(self, hamiltonians):
        ends = np.tile(np.eye(2), (len(hamiltonians), 1, 1))
        return hamiltonians.energy(ends, np.zeros_like(ends)).sum(axis=1)  # a / 2 + b / 2, of interpolated ones too


SYSTEM = TwoOscillators()
