"""The figure of an orbit, which a notebook shows without pyplot: its state and backend belong to the user.

Shapes: T query times, d degrees of freedom, N places along an axis.
"""

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..physics.potential_map import potential_on_grid
from ..physics.sections import crossings
from ..platform.plane_figure import draw_plane

if TYPE_CHECKING:
    from .motion import Motion
    from .orbit import Orbit

_SIZES = {1: (9.0, 6.5), 2: (14.5, 5.4)}  # of the figure, in inches, by degrees of freedom
_BEYOND = 0.15  # of the distance between the turning points, drawn on both sides of them
_PLACES = 161  # along each axis of a section
_PLACES_OF_CYCLE = 801  # along the curve of a periodic motion
_PATH = "tab:orange"


class OrbitFigure(Figure):
    """What `Orbit.plot` returns."""

    def __init__(self, figsize: tuple[float, float], layout: str) -> None:
        super().__init__(figsize=figsize, layout=layout)  # pyright: ignore[reportArgumentType]
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png", dpi=100)
        return content.getvalue()


def plot_orbit(orbit: "Orbit", title: str) -> OrbitFigure:
    """The figure of `Orbit.plot`."""
    degrees = 1 if orbit.q.ndim == 1 else orbit.q.shape[1]
    figure = OrbitFigure(figsize=_SIZES.get(degrees, (12.0, 3.8)), layout="constrained")
    order = np.argsort(orbit.times, kind="stable")
    t, q, p = orbit.times[order], orbit.q[order], orbit.p[order]
    if degrees == 2:
        _plot_plane(figure, orbit, t, q, p)
    else:
        _plot_line(figure, orbit, t, q, p)
    # Not as mathematics: a title may hold what matplotlib's mathtext would try to read.
    figure.suptitle(title, parse_math=False)
    return figure


def plot_motion(motion: "Motion", title: str) -> OrbitFigure:
    """The figure of `Motion.plot`."""
    figure = OrbitFigure(figsize=_SIZES[1], layout="constrained")
    panels = list(figure.subplots(2, 2).flat)
    left, right = motion.turning_points
    margin = _BEYOND * (right - left)
    places = np.linspace(max(motion.domain[0], left - margin), min(motion.domain[1], right + margin), 400)
    _draw_potential(panels[0], places, motion.bounded.potential(places), motion.energy)
    order = np.argsort(motion.times, kind="stable")
    _draw_cycle(panels[1], motion)
    _draw_over_time(panels[2:], motion.times[order], motion.q[order], motion.p[order])
    figure.suptitle(title, parse_math=False)
    return figure


def _draw_cycle(axes: Any, motion: "Motion") -> None:
    """The curve of the energy, p = ±sqrt(2 m (E - U(q))), and the predicted states on it: chords between sparse times would leave it."""
    left, right = motion.turning_points
    angle = np.linspace(0.0, 2.0 * np.pi, _PLACES_OF_CYCLE)  # in which p is smooth at the turning points
    q = 0.5 * (left + right) - 0.5 * (right - left) * np.cos(angle)
    p = np.sign(np.sin(angle)) * np.sqrt(2.0 * motion.mass * np.maximum(motion.energy - motion.bounded.potential(q), 0.0))
    axes.plot(q, p, color="tab:red", linewidth=1.0, label="energy")
    axes.plot(motion.q, motion.p, "o", markersize=3.0, label="predicted")
    axes.set(xlabel="$q$", ylabel="$p$")
    axes.grid(alpha=0.3)
    axes.legend(loc="center")


def _plot_line(figure: OrbitFigure, orbit: "Orbit", t: np.ndarray, q: np.ndarray, p: np.ndarray) -> None:
    """V and the energy where there is one coordinate; the phase portrait, q(t) and p(t), with a line for each coordinate."""
    panels = list(figure.subplots(2, 2).flat) if q.ndim == 1 else list(figure.subplots(1, 3))
    if q.ndim == 1:
        ((low, high),) = orbit.system.domain
        values = potential_on_grid(orbit.hamiltonian, orbit.system.domain, 400)
        _draw_potential(panels.pop(0), np.linspace(low, high, 400), values, orbit.energy)
    _draw_motion(panels, t, q, p)


def _draw_motion(panels: list[Any], t: np.ndarray, q: np.ndarray, p: np.ndarray) -> None:
    _draw_curves(panels[0], q, p, "q", "p")
    _draw_over_time(panels[1:], t, q, p)


def _draw_over_time(panels: list[Any], t: np.ndarray, q: np.ndarray, p: np.ndarray) -> None:
    for axes, values, name in zip(panels, (q, p), "qp", strict=True):
        _draw_curves(axes, t, values, "t", name)


def _draw_curves(axes: Any, x: np.ndarray, y: np.ndarray, x_name: str, y_name: str) -> None:
    lines = axes.plot(x, y)
    axes.set(xlabel=f"${x_name}$", ylabel=f"${y_name}$")
    axes.grid(alpha=0.3)
    if len(lines) > 1:
        axes.legend(lines, [str(axis + 1) for axis in range(len(lines))], title="coordinate")


def _draw_potential(axes: Any, places: np.ndarray, values: np.ndarray, energy: float) -> None:
    axes.plot(places, values)
    axes.axhline(energy, color="tab:red", linestyle="--", label="energy")
    axes.set(xlabel="$q$", ylabel="$V$")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center")


def _plot_plane(figure: OrbitFigure, orbit: "Orbit", t: np.ndarray, q: np.ndarray, p: np.ndarray) -> None:
    """The path over contours of V; both coordinates and both momenta over time; the Poincaré section."""
    grid = figure.add_gridspec(1, 3, width_ratios=(1.25, 1.0, 1.0))
    _plot_map(figure.add_subplot(grid[0, 0]), orbit, q)
    panels: Any = grid[0, 1].subgridspec(4, 1).subplots(sharex=True)
    for axes, values, name in zip(panels, (*q.T, *p.T), ("q_1", "q_2", "p_1", "p_2"), strict=True):
        axes.plot(t, values)
        axes.set(ylabel=f"${name}$")
        axes.margins(x=0.0)
        axes.grid(alpha=0.3)
    panels[-1].set_xlabel("$t$")
    _plot_section(figure.add_subplot(grid[0, 2]), orbit, t, q, p)


def _plot_map(axes: Any, orbit: "Orbit", q: np.ndarray) -> None:
    (left, right), (bottom, top) = orbit.system.domain
    line = {"color": "tab:red", "linestyle": "--", "linewidth": 1.5}
    draw_plane(axes, orbit.hamiltonian, orbit.system.domain, orbit.energy, line, dict(location="bottom", shrink=0.78, pad=0.02, aspect=40))
    axes.plot(*q.T, color=_PATH, linewidth=2.0, label="path")
    axes.plot(*orbit.q0, "o", color="white", markeredgecolor="black", markersize=8, label="start")
    axes.set(xlabel="$q_1$", ylabel="$q_2$", xlim=(left, right), ylim=(bottom, top))
    axes.set_box_aspect(min(max((top - bottom) / (right - left), 0.6), 1.5))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize="small", columnspacing=1.2)


def _plot_section(axes: Any, orbit: "Orbit", t: np.ndarray, q: np.ndarray, p: np.ndarray) -> None:
    """Where the path crosses the middle of the second coordinate's range upwards: the other coordinate and its momentum."""
    low, high = orbit.system.domain[1]
    middle = 0.5 * (low + high)
    times, first = np.unique(t, return_index=True)
    q, p = q[None, first], p[None, first]
    points = crossings(times, q, p, *orbit.system.rates(orbit.hamiltonian, q, p), axis=1, value=middle).of(0)
    axes.plot(*points.T, "o", color=_PATH, markeredgecolor="black", markeredgewidth=0.5)
    axes.set(title=f"section $q_2$ = {middle:g}, upwards", xlabel="$q_1$", ylabel="$p_1$", xlim=orbit.system.domain[0])
    reach = max(float(np.abs(p[0, :, 0]).max()), 1e-9)
    if orbit.system.has_unit_mass:
        # The section is bounded by p1²/2 + V(q1, middle) = E.
        places = np.linspace(*orbit.system.domain[0], _PLACES)
        line = np.stack([places, np.full_like(places, middle)], axis=-1)
        kinetic = orbit.energy - orbit.hamiltonian.energy(line[None], np.zeros_like(line)[None])[0]
        reach = max(reach, float(np.sqrt(2.0 * np.maximum(kinetic, 0.0)).max()))
        momenta = np.linspace(-1.1 * reach, 1.1 * reach, _PLACES)
        left = kinetic - 0.5 * np.square(momenta)[:, None]
        if left.max() > 0.0:
            axes.contour(places, momenta, left, [0.0], colors="tab:red", linestyles="--", linewidths=1.0)
    axes.set_ylim(-1.15 * reach, 1.15 * reach)
    axes.set_box_aspect(1.0)
    axes.grid(alpha=0.3)
    if not len(points):
        axes.text(0.5, 0.5, f"no crossing up to $t$ = {t[-1]:.3g}", transform=axes.transAxes, ha="center", va="center", color="gray")
