"""V on a grid over the domain: what figures and the web page draw beneath an orbit."""

from typing import Any

import numpy as np

Domain = tuple[tuple[float, float], ...]


def potential_on_grid(hamiltonian: Any, domain: Domain, num_places: int) -> np.ndarray:
    """V of a Hamiltonian, one row, at `num_places` uniform places along each axis, ends included: (N,), or (N, N) with d = 2.

    Values may be infinite or nan. A formula raises InputError instead.
    """
    # Not `sensor_positions`, which keeps every grid it was ever asked for.
    axes = [np.linspace(low, high, num_places) for low, high in domain]
    grid = axes[0] if len(axes) == 1 else np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    return hamiltonian.energy(grid[None], np.zeros_like(grid)[None])[0].reshape((num_places,) * len(axes))


def spread_levels(low: float, high: float, num_levels: int) -> np.ndarray:
    """Levels from `low` to `high`, evenly spaced in the square root of the height above `low`; none where there is no room.

    In a smooth well, contours at these levels are about evenly spaced, however high V rises elsewhere.
    """
    return low + (high - low) * np.linspace(0.0, 1.0, num_levels) ** 2 if high > low else np.empty(0)
