"""V over a plane as figures draw it beneath an orbit."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm

from ..physics.potential_map import Domain, potential_on_grid, spread_levels

_PLACES = 161  # along each axis
_LEVELS = 13
_HEADROOM = 4.0  # of the colours, over the particle's energy, both from the lowest V


def draw_plane(axes: Axes, hamiltonian: Any, domain: Domain, energy: float, line: dict[str, Any], bar: dict[str, Any]) -> None:
    """Contours of V of one Hamiltonian over a rectangle, and the line V = `energy`, which its particle cannot cross.

    `line` is the look of that line, "color", "linestyle" and "linewidth"; `bar` is what the colour bar is given.
    """
    values = potential_on_grid(hamiltonian, domain, _PLACES).T  # rows are heights: q2
    places = [np.linspace(*bounds, _PLACES) for bounds in domain]
    lowest, highest = float(values.min()), float(values.max())
    # What lies far above the particle's energy, such as the corners of the Hénon–Heiles square, needs no colours of its own.
    ceiling = min(highest, lowest + _HEADROOM * (energy - lowest)) if energy > lowest else highest
    levels = spread_levels(lowest, ceiling, _LEVELS)
    if levels.size:
        norm = PowerNorm(0.5, levels[0], levels[-1])
        filled = axes.contourf(*places, values, levels, cmap="Blues_r", norm=norm, extend="max" if highest > ceiling else "neither")
        axes.contour(*places, values, levels, colors="black", linewidths=0.4, alpha=0.35, linestyles="solid")
        shown = levels[:: _LEVELS // 4].tolist()
        colours = axes.figure.colorbar(filled, ax=axes, label="$V$", **bar)
        colours.set_ticks(shown, labels=[f"{0.0 if abs(level) < 1e-6 * (ceiling - lowest) else level:.3g}" for level in shown])
    if lowest < energy < highest:
        axes.contour(*places, values, [energy], **{f"{name}s": value for name, value in line.items()})
    axes.plot([], [], label=f"$V$ = energy {energy:.4g}", **line)
