"""Symplecticity: does the map from the initial state to the state preserve phase space, and does it shear as the exact one does?

Derivatives are central differences of a float64 copy of the network.

Shapes: N problems, T query times, d degrees of freedom.
"""

import copy
from dataclasses import replace
from typing import Any

import numpy as np

from ....physics.diagnostics import jacobian_by_differences, symplecticity_defect, tangent_error
from ....physics.systems import Problems
from ..groups import measure_groups
from ..predictions import predict
from ..study import Study, Subject, has_exact_hamiltonians, takes_any_initial_state

_STEP = 1e-4
_MARGIN = 2.0 * _STEP  # by which an initial state is shifted at most
_NUM_TIMES = 5


def measure(subject: Subject) -> dict[str, Any]:
    """Summaries of what `measure_maps` gives over the rows that could be measured, and in the system's groups of them."""
    values, rows = measure_maps(subject.model, subject.problems)

    def summarise_rows(part: np.ndarray) -> dict[str, Any]:
        return {name: subject.summarise(x[part]) for name, x in values.items()}

    groups = measure_groups(subject.problems.take(rows), summarise_rows)
    return {"rows": int(rows.size)} | summarise_rows(np.arange(rows.size)) | {"groups": groups}


def measure_maps(model: Any, problems: Problems) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """`symplecticity`, `log_volume` and `tangent_error`, each the mean over some query times, (M,), and the M rows.

    Symplecticity is the largest entry of J^T Omega J - Omega; with one degree of freedom abs(det J - 1). The log volume is
    abs(log abs(det J)): by which factor a small volume of phase space grows or shrinks. Rows that start too near the boundary of the
    domain to be shifted are left out.
    """
    low, high = np.array(problems.system.domain).T
    q0 = problems.q0.reshape(len(problems), -1)
    rows = np.flatnonzero(((q0 > low + _MARGIN) & (q0 < high - _MARGIN)).all(axis=1))
    chosen = problems.take(rows)
    if not rows.size:
        return dict.fromkeys(("symplecticity", "log_volume", "tangent_error"), np.empty(0)), rows
    columns = np.linspace(0, chosen.times.shape[1] - 1, _NUM_TIMES + 1).astype(int)[1:]
    times = np.ascontiguousarray(chosen.times[:, columns])
    network = copy.deepcopy(model).double()

    def flow(start_q: np.ndarray, start_p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        repeated = chosen.take(np.arange(len(start_q)) % len(chosen))
        moved = replace(repeated, q0=start_q, p0=start_p, times=np.tile(times, (len(start_q) // len(chosen), 1)))
        prediction = predict(network, moved, len(moved))
        return prediction.q, prediction.p

    jacobians = jacobian_by_differences(flow, chosen.q0, chosen.p0, step=_STEP)
    exact = chosen.system.tangents(chosen.hamiltonians, chosen.q0, chosen.p0, times)
    return {
        "symplecticity": symplecticity_defect(jacobians).mean(axis=1),
        "log_volume": np.abs(np.linalg.slogdet(jacobians)[1]).mean(axis=1),
        "tangent_error": tangent_error(jacobians, exact).mean(axis=1),
    }, rows


STUDY = Study("symplecticity", measure, "symplecticity.html.j2", (takes_any_initial_state, has_exact_hamiltonians))
