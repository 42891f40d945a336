"""The system's own divisions of problems, such as by energy, and what was measured in each part."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...physics.systems import Group, Problems


def measure_groups(
    problems: Problems, measure: Callable[[np.ndarray], dict[str, Any]], groups: Sequence[Group] | None = None
) -> dict[str, dict[str, Any]]:
    """`measure(rows)` in each part of each of `groups`, by default the system's own, with its number of rows; empty parts are left out.

    `rows` are the indices (n,) of the problems of a part.
    """
    return {
        group.name: {
            "title": group.title,
            "rows": {label: {"rows": int(part.sum())} | measure(np.flatnonzero(part)) for label, part in group.rows.items() if part.any()},
        }
        for group in (problems.system.groups(problems) if groups is None else groups)
    }
