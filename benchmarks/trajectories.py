"""Trajectories a second at equal accuracy: our Taylor series against diffrax, torchdiffeq and SciPy, in one run.

Everyone solves the same orbits of the ensemble `paper` in the same form, the curve's own parameter, which needs no
root finding; everyone runs in float64 on the same two cores, in the way that serves it best: ours in two threads,
diffrax vmapped and jitted, torchdiffeq as one batch, SciPy orbit by orbit with a right-hand side of plain floats.
Accuracy is measured, not promised: each solver takes the loosest of its settings whose worst error over all the orbits
is at most the target, and of a library's methods the fastest one counts.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from neural_hamilton.physics import Curves, certify, solvers
from neural_hamilton.physics.systems import Rows, draw_rows, get_system

from .timing import compare, time_in_turns

_NUM_ORBITS = 1000
_NUM_SLOW = 20  # orbits that SciPy is timed on; its time is linear in them
_TARGET = 2e-6  # worst error over all the orbits; solvers that step across the knots of V hardly get below it
_TOLERANCES = (1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11)
_REPEATS = 3
_OUR_CALLS = 10  # a turn: one call takes 10 ms, and for the first few of them the threads of XLA and torch still spin
_THREADS = 2

Answer = tuple[np.ndarray, np.ndarray]  # q, p (B, T)
Solver = Callable[[], Answer]


def measure() -> dict[str, Any]:
    """Seconds of every contestant for the same orbits, and how its errors turned out."""
    well = get_system("well")
    rows, _ = draw_rows(well, well.get_ensemble("paper")(), 0, "test", np.arange(_NUM_ORBITS))
    few = _first(rows, _NUM_SLOW)
    contestants: dict[str, tuple[Rows, Solver]] = {}
    accuracy: dict[str, dict[str, float]] = {}
    for label, problems, family in (
        ("ours", rows, _ours),
        ("diffrax", rows, _diffrax),
        ("torchdiffeq", rows, _torchdiffeq),
        ("SciPy", few, _scipy),
    ):
        for method, make in family(problems).items():
            found = _loosest(problems, make)
            if found is not None:
                tolerance, errors, solve = found
                name = f"{label} {method}, tolerance {tolerance:g}"
                contestants[name], accuracy[name] = (problems, solve), errors
    for method in ("taylor", "dop853", "rk4"):
        count = few if method == "rk4" else _first(rows, 200)
        contestants[f"certified by {method} to 1e-09"] = (count, _certified(count, method))
    calls = {name: _OUR_CALLS for name in contestants if name.startswith("ours")}
    seconds = time_in_turns({name: solve for name, (_, solve) in contestants.items()}, _REPEATS, calls)
    each = {name: [value / len(contestants[name][0]) for value in values] for name, values in seconds.items()}
    fastest = {
        label: min((n for n in each if n.startswith(label)), key=lambda n: np.median(each[n]))
        for label in ("ours", "diffrax", "torchdiffeq")
    }
    comparisons = [compare(each, fastest["ours"], fastest[label]) for label in ("diffrax", "torchdiffeq")]
    comparisons += [compare(each, fastest["ours"], name) for name in each if name.startswith("SciPy")]
    comparisons += [compare(each, "certified by taylor to 1e-09", f"certified by {method} to 1e-09") for method in ("dop853", "rk4")]
    return {
        "what": f"seconds an orbit of the ensemble paper, 100 query times; worst error of {_NUM_ORBITS} orbits at most {_TARGET:g}",
        "comparisons": comparisons,
        "trajectories_per_second": {name: 1 / float(np.median(values)) for name, values in each.items()},
        "errors": accuracy,
        "note": f"{_THREADS} threads for ours, XLA and torch; SciPy, on {_NUM_SLOW} orbits, is one Python thread by nature, and so are the "
        "three lines of certificates, which solve each orbit at least twice.",
    }


def _first(rows: Rows, count: int) -> Rows:
    return Rows({name: column[:count] for name, column in rows.columns.items()}, rows.hamiltonians.take(np.arange(count)))


def _loosest(rows: Rows, make: Callable[[float], Solver]) -> tuple[float, dict[str, float], Solver] | None:
    for tolerance in _TOLERANCES:
        solve = make(tolerance)
        q, p = solve()
        errors = np.maximum(np.abs(q - rows.q).max(axis=1), np.abs(p - rows.p).max(axis=1))
        if errors.max() <= _TARGET:
            return tolerance, {"median": float(np.median(errors)), "worst": float(errors.max())}, solve
    return None


def _ours(rows: Rows) -> dict[str, Callable[[float], Solver]]:
    def make(tolerance: float) -> Solver:
        def solve() -> Answer:
            orbits = rows.hamiltonians.curves, rows.q0, rows.p0, rows.times
            q, p, _ = solvers.solve(*orbits, method="taylor", tolerance=tolerance, num_threads=_THREADS)
            return q, p

        return solve

    return {"taylor": make}


def _certified(rows: Rows, method: str) -> Solver:
    def solve() -> Answer:
        scale = np.ones(len(rows))
        certified = certify(rows.hamiltonians.curves, rows.q0, rows.p0, rows.times, energy_scale=scale, domain=(0.0, 1.0), method=method)
        return certified.q, certified.p

    return solve


def _position(curves: Curves, s: np.ndarray) -> np.ndarray:
    """q (B, T) at curve parameters s (B, T), counted over all pieces."""
    piece = np.clip(np.floor(s).astype(int), 0, curves.num_pieces[:, None] - 1)
    u = s - piece
    c = np.moveaxis(np.take_along_axis(curves.poly_q, piece[..., None], axis=1), -1, 0)
    return c[0] + u * (c[1] + u * (c[2] + u * c[3]))


def _diffrax(rows: Rows) -> dict[str, Callable[[float], Solver]]:
    os.environ.setdefault("XLA_FLAGS", f"--xla_cpu_multi_thread_eigen=true intra_op_parallelism_threads={_THREADS}")
    import diffrax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    curves = rows.hamiltonians.curves
    arrays = tuple(jnp.asarray(x) for x in (curves.poly_q, curves.poly_v, curves.num_pieces, rows.p0, rows.times))

    def field(_: Any, state: Any, curve: Any) -> Any:
        poly_q, poly_v, count = curve
        piece = jnp.clip(jnp.floor(state[0]).astype(int), 0, count - 1)
        u, c, v = state[0] - piece, poly_q[piece], poly_v[piece]
        stretch = c[1] + u * (2 * c[2] + 3 * u * c[3])
        return jnp.stack([state[1] / stretch, -(v[1] + u * (2 * v[2] + 3 * u * v[3])) / stretch])

    def family(solver: Any) -> Callable[[float], Solver]:
        def make(tolerance: float) -> Solver:
            def one(poly_q: Any, poly_v: Any, count: Any, p0: Any, times: Any) -> Any:
                controller = diffrax.PIDController(rtol=tolerance, atol=tolerance)
                answer = diffrax.diffeqsolve(
                    diffrax.ODETerm(field), solver(), 0.0, 2.0, None, jnp.stack([jnp.zeros(()), p0]), args=(poly_q, poly_v, count),
                    saveat=diffrax.SaveAt(ts=times), stepsize_controller=controller, max_steps=100_000, adjoint=diffrax.ForwardMode(),
                )  # fmt: skip
                return answer.ys

            batched = jax.jit(jax.vmap(one))

            def solve() -> Answer:
                states = np.asarray(batched(*arrays))
                return _position(curves, states[..., 0]), states[..., 1]

            return solve

        return make

    return {solver.__name__: family(solver) for solver in (diffrax.Tsit5, diffrax.Dopri5, diffrax.Dopri8)}


def _torchdiffeq(rows: Rows) -> dict[str, Callable[[float], Solver]]:
    import torch
    from torchdiffeq import odeint

    torch.set_num_threads(_THREADS)
    curves = rows.hamiltonians.curves
    poly_q, poly_v, last = (torch.as_tensor(x) for x in (curves.poly_q, curves.poly_v, curves.num_pieces - 1))
    start = (torch.zeros(len(rows), dtype=torch.float64), torch.as_tensor(rows.p0))
    times, index = torch.as_tensor(rows.times[0]), torch.arange(len(rows))

    def field(_: Any, state: Any) -> Any:
        s, p = state
        piece = torch.minimum(s.floor().long().clamp_min(0), last)
        u, c, v = s - piece, poly_q[index, piece].T, poly_v[index, piece].T
        stretch = c[1] + u * (2 * c[2] + 3 * u * c[3])
        return p / stretch, -(v[1] + u * (2 * v[2] + 3 * u * v[3])) / stretch

    def family(method: str) -> Callable[[float], Solver]:
        def make(tolerance: float) -> Solver:
            @torch.no_grad()
            def solve() -> Answer:
                s, p = odeint(field, start, times, rtol=tolerance, atol=tolerance, method=method)
                return _position(curves, s.T.numpy()), p.T.numpy()

            return solve

        return make

    return {method: family(method) for method in ("dopri5", "dopri8")}


def _scipy(rows: Rows) -> dict[str, Callable[[float], Solver]]:
    from scipy.integrate import solve_ivp

    curves = rows.hamiltonians.curves

    def slope(row: int) -> Callable[[float, np.ndarray], tuple[float, float]]:
        count = int(curves.num_pieces[row])
        pieces = list(zip(curves.poly_q[row, :count].tolist(), curves.poly_v[row, :count].tolist(), strict=True))

        def field(_: float, state: np.ndarray) -> tuple[float, float]:
            s, p = state.tolist()
            piece = min(max(int(s), 0), count - 1)
            u, ((_, c1, c2, c3), (_, v1, v2, v3)) = s - piece, pieces[piece]
            stretch = c1 + u * (2 * c2 + 3 * u * c3)
            return p / stretch, -(v1 + u * (2 * v2 + 3 * u * v3)) / stretch

        return field

    def family(method: str) -> Callable[[float], Solver]:
        def make(tolerance: float) -> Solver:
            def solve() -> Answer:
                states = [
                    solve_ivp(slope(row), (0.0, 2.0), (0.0, rows.p0[row]), method, t_eval=rows.times[row], rtol=tolerance, atol=tolerance).y
                    for row in range(len(rows))
                ]
                s, p = np.moveaxis(np.stack(states), 1, 0)
                return _position(curves, s), p

            return solve

        return make

    return {method: family(method) for method in ("DOP853", "RK45", "LSODA")}
