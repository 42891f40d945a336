"""The map from the start to the state: does it keep area, and does it shear as the exact one does?

For networks that take any start. Derivatives are central differences of a float64 copy of the network.

Shapes: N problems, T query times.
"""

import copy

import numpy as np
import torch

from ....architectures import Operator
from ....physics.diagnostics import jacobian_by_differences, symplecticity_defect, tangent_error
from ....physics.solvers import solve_tangents
from ..problems import Problems

_STEP = 1e-4
_MARGIN = 2.0 * _STEP  # starts are shifted by so much


def measure_maps(model: Operator, problems: Problems, num_times: int = 5) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """`symplecticity`, abs(det J - 1), and `tangent_error`, each the mean over `num_times` query times (M,), and the M rows.

    Rows that start too near a wall to be shifted are left out.
    """
    q0 = problems.initial[:, 0]
    rows = np.flatnonzero((q0 > _MARGIN) & (q0 < 1.0 - _MARGIN))
    chosen = problems.take(rows)
    if not rows.size:
        return {"symplecticity": np.empty(0), "tangent_error": np.empty(0)}, rows
    columns = np.linspace(0, chosen.times.shape[1] - 1, num_times + 1).astype(int)[1:]
    times = np.ascontiguousarray(chosen.times[:, columns])
    network = copy.deepcopy(model).double()

    def flow(start_q: np.ndarray, start_p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        repeats = start_q.size // len(chosen)
        arrays = (np.tile(chosen.sensors, (repeats, 1)), np.tile(times, (repeats, 1)), np.stack([start_q, start_p], axis=1))
        with torch.inference_mode():
            output = network(*(torch.from_numpy(array) for array in arrays))
        return output.q.numpy(), output.p.numpy()

    jacobians = jacobian_by_differences(flow, chosen.initial[:, 0], chosen.initial[:, 1], step=_STEP)
    exact = np.stack([solve_tangents(chosen.exact[i], chosen.initial[i, 0], chosen.initial[i, 1], times[i])[2] for i in range(len(chosen))])
    return {
        "symplecticity": symplecticity_defect(jacobians).mean(axis=1),
        "tangent_error": tangent_error(jacobians, exact).mean(axis=1),
    }, rows
