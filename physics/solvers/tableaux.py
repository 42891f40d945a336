"""Every fixed-step method as data: a Runge-Kutta-Nystrom tableau that one stepper runs (`nystrom.make_nystrom_step`).

Three families meet in this form.

- A Runge-Kutta method (A, b, c) applied to the pair q' = p, p' = f(q) is exactly the Nystrom method with
  matrix A^2, position weights A^T b and momentum weights b; so are implicit ones.
- A splitting method, drifts q += d_i h p and kicks p += b_i h f(q) in turn, has its kicks at
  c_i = d_1 + ... + d_i, and matrix b_j (c_i - c_j) below the diagonal.
- A symmetric composition of Stormer-Verlet steps w_1 h, w_2 h, ... is a splitting method: with
  Verlet as drift-kick-drift, neighbouring half drifts merge, and a step costs one force a factor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.integrate import DOP853

Tableau = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
_EXACT = 1e-12  # what the algebraic conditions on published digits may miss by


@dataclass(frozen=True)
class FixedStepMethod:
    """A method for q'' = f(q): `tableau` is (nodes (s,), matrix (s, s), weights_q (s,), weights_p (s,)).

    `order` is the order on smooth potentials. One below 4 must be the one that the order conditions give, one of 4
    and more must meet those up to 4: a tableau that does not converge as claimed cannot be constructed.
    """

    name: str
    order: int
    tableau: Tableau
    source: str

    def __post_init__(self) -> None:
        attained = _attained_order(self.tableau)
        if attained != min(self.order, 4):
            raise ValueError(f"method {self.name} claims order {self.order}; its coefficients give {attained} (of the 4 checked)")


def _attained_order(tableau: Tableau) -> int:
    """The order r <= 4 up to which the coefficients meet the conditions of a Nystrom method (Hairer, Norsett & Wanner, II.14)."""
    c, a, weights_q, b = tableau
    row_sums = a.sum(axis=1)
    conditions: list[list[tuple[Any, float]]] = [
        [(b.sum(), 1)],
        [(b @ c, 1 / 2), (weights_q.sum(), 1 / 2)],
        [(b @ c**2, 1 / 3), (b @ row_sums, 1 / 6), (weights_q @ c, 1 / 6)],
        [
            (b @ c**3, 1 / 4),
            (b @ (c * row_sums), 1 / 8),
            (b @ (a @ c), 1 / 24),
            (weights_q @ c**2, 1 / 12),
            (weights_q @ row_sums, 1 / 24),
        ],
    ]
    for order, group in enumerate(conditions):
        if not all(abs(have - want) <= _EXACT for have, want in group):
            return order
    return len(conditions)


def _nystrom(nodes: Any, a: Any, weights_q: Any, weights_p: Any) -> Tableau:
    arrays = (np.ascontiguousarray(x, dtype=np.float64) for x in (nodes, a, weights_q, weights_p))
    return tuple(arrays)  # type: ignore[return-value]


def _runge_kutta(nodes: Any, a: Any, weights: Any) -> Tableau:
    matrix, b = np.array(a, dtype=np.float64), np.array(weights, dtype=np.float64)
    return _nystrom(nodes, matrix @ matrix, b @ matrix, b)


def _splitting(drifts: Sequence[float], kicks: Sequence[float]) -> Tableau:
    """Drifts and kicks in turn; after the last kick comes what is left of the step."""
    nodes, b = np.cumsum(drifts), np.array(kicks)
    return _nystrom(nodes, np.tril(b * (nodes[:, None] - nodes), -1), b * (1.0 - nodes), b)


def _palindrome(drifts: Sequence[float], kicks: Sequence[float]) -> Tableau:
    """A symmetric splitting with an even number of kicks: those of its first half but the last drift and kick, which are what is left."""
    drifts, kicks = [*drifts, 1.0 - 2.0 * sum(drifts)], [*kicks, 0.5 - sum(kicks)]
    return _splitting([*drifts, *reversed(drifts[1:-1])], [*kicks, *reversed(kicks)])


def _composition(factors: Sequence[float]) -> Tableau:
    """Drift-kick-drift Verlet steps of lengths factors[i] h, one after the other."""
    return _splitting([factors[0] / 2, *((left + right) / 2 for left, right in pairwise(factors))], factors)


def _symmetric(outer: Sequence[float]) -> Tableau:
    """The composition w_m, ..., w_1, w_0, w_1, ..., w_m, given as `outer` = (w_1, ..., w_m); w_0 makes the sum 1."""
    return _composition([*reversed(outer), 1.0 - 2.0 * sum(outer), *outer])


_BLANES_MOAN = "Blanes & Moan, Journal of Computational and Applied Mathematics 142 (2002) 313"
_YOSHIDA = "Yoshida, Physics Letters A 150 (1990) 262"
_ROOT_3 = np.sqrt(3.0)

FIXED_STEP_METHODS: dict[str, FixedStepMethod] = {
    method.name: method
    for method in (
        FixedStepMethod(
            "rk4",
            4,
            _runge_kutta(
                [0, 1 / 2, 1 / 2, 1], [[0, 0, 0, 0], [1 / 2, 0, 0, 0], [0, 1 / 2, 0, 0], [0, 0, 1, 0]], [1 / 6, 1 / 3, 1 / 3, 1 / 6]
            ),
            "Kutta, Zeitschrift für Mathematik und Physik 46 (1901) 435",
        ),
        FixedStepMethod("stormer-verlet", 2, _composition([1.0]), "Verlet, Physical Review 159 (1967) 98; drift-kick-drift"),
        FixedStepMethod("yoshida4", 4, _symmetric([1.0 / (2.0 - 2.0 ** (1 / 3))]), f"{_YOSHIDA}, eq. 2.11; also Forest & Ruth (1990)"),
        FixedStepMethod(
            "yoshida6",
            6,
            _symmetric([-1.17767998417887100695, 0.23557321335935813368, 0.78451361047755726382]),
            f"{_YOSHIDA}, table 1, solution A",
        ),
        FixedStepMethod(
            "yoshida8",
            8,
            _symmetric(
                [
                    0.102799849391985,
                    -1.96061023297549,
                    1.93813913762276,
                    -0.158240635368243,
                    -1.44485223686048,
                    0.253693336566229,
                    0.914844246229740,
                ]
            ),
            f"{_YOSHIDA}, table 2, solution D",
        ),
        FixedStepMethod(
            "blanes-moan4",
            4,
            _palindrome([0.0792036964311957, 0.353172906049774, -0.0420650803577195], [0.209515106613362, -0.143851773179818]),
            f"{_BLANES_MOAN}, S6",
        ),
        FixedStepMethod(
            "blanes-moan6",
            6,
            _palindrome(
                [
                    0.0378593198406116,
                    0.102635633102435,
                    -0.0258678882665587,
                    0.314241403071447,
                    -0.130144459517415,
                    0.106417700369543,
                    -0.00879424312851058,
                ],
                [0.09171915262446165, 0.183983170005006, -0.05653436583288827, 0.004914688774712854, 0.143761127168358, 0.328567693746804],
            ),
            f"{_BLANES_MOAN}, SRKN14a",
        ),
        FixedStepMethod(
            "gauss-legendre4",
            4,
            _runge_kutta(
                [1 / 2 - _ROOT_3 / 6, 1 / 2 + _ROOT_3 / 6],
                [[1 / 4, 1 / 4 - _ROOT_3 / 6], [1 / 4 + _ROOT_3 / 6, 1 / 4]],
                [1 / 2, 1 / 2],
            ),
            "Hammer & Hollingsworth, MTAC 9 (1955) 92; two stages, implicit",
        ),
        FixedStepMethod(
            "dop853-fixed",
            8,
            _runge_kutta(DOP853.C[:12], DOP853.A[:12, :12], DOP853.B),
            "Dormand & Prince's eighth-order tableau in fixed steps (Hairer, Norsett & Wanner, II.5)",
        ),
        # What the solver behind the published "RK4" figures computed: a reused stage index left one
        # effective force evaluation and a position weight of 5/12, so the scheme is of first order.
        # It exists only to reproduce those figures under a name that shows it.
        FixedStepMethod("rk4-as-published", 1, _nystrom([0], [[0]], [5 / 12], [1]), "the figures of arXiv 2410.20951"),
    )
}
