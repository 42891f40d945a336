"""Orbits on random surfaces at equal accuracy: the compiled solver against diffrax, vmapped and jitted, in one run; and whole rows.

Everyone solves the same orbits of the system `surface` in float64 on the same two cores. Accuracy is measured, not promised: each
solver takes the loosest of its tolerances whose worst error over all the orbits is at most the target, and of diffrax's methods the
fastest counts.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from neural_hamilton.physics.solvers.flows import solve_flow
from neural_hamilton.physics.systems import Rows, draw_rows, get_system
from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.data.generation import generate

from .timing import compare, time_in_turns

_NUM_ORBITS = 400
_TARGET = 1e-6
_TOLERANCES = (1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12)
_REPEATS = 3
_THREADS = 2
_NUM_ROWS = 100_000  # written, with 24 x 24 sensors

Solver = Callable[[], np.ndarray]  # states (R, T, 4)


def measure() -> dict[str, Any]:
    """Seconds an orbit of every contestant."""
    system = get_system("surface")
    rows, _ = draw_rows(system, system.get_ensemble("random")(), 0, "test", np.arange(_NUM_ORBITS))
    contestants: dict[str, Solver] = {}
    errors: dict[str, float] = {}
    for label, make in _families(rows).items():
        found = _loosest(rows, make)
        if found is not None:
            tolerance, error, solve = found
            contestants[f"{label}, tolerance {tolerance:g}"], errors[f"{label}, tolerance {tolerance:g}"] = solve, error
    seconds = {name: [x / _NUM_ORBITS for x in values] for name, values in time_in_turns(contestants, _REPEATS).items()}
    ours, *others = seconds
    fastest = min(others, key=lambda name: np.median(seconds[name]))
    return {
        "what": f"seconds an orbit on a random surface, 100 query times; worst error of {_NUM_ORBITS} orbits at most {_TARGET:g}",
        "comparisons": [compare(seconds, ours, fastest)],
        "trajectories_per_second": {name: 1 / float(np.median(values)) for name, values in seconds.items()},
        "errors": errors,
        "generate": _generate(),
    }


def _generate() -> dict[str, Any]:
    """`generate` in this process's threads: rows drawn, certified twice over, with their exponents, and written."""
    with tempfile.TemporaryDirectory() as scratch:
        config = load_config(None, {"data.system": "surface", "data.train": _NUM_ROWS, "data.val": 0, "data.test": 0}).data
        started = time.perf_counter()
        manifest = generate(Path(scratch) / "dataset", config, local=True)
        seconds = time.perf_counter() - started
        size = sum(path.stat().st_size for path in Path(scratch).rglob("*.parquet"))
    return {"rows": _NUM_ROWS, "seconds": seconds, "bytes": size, "rejections": manifest["rejections"]}


def _loosest(rows: Rows, make: Callable[[float], Solver]) -> tuple[float, float, Solver] | None:
    truth = np.concatenate([rows.q, rows.p], axis=-1)
    for tolerance in _TOLERANCES:
        solve = make(tolerance)
        error = float(np.abs(solve() - truth).max())
        if error <= _TARGET:
            return tolerance, error, solve
    return None


def _families(rows: Rows) -> dict[str, Callable[[float], Solver]]:
    return {"ours": _ours(rows)} | _diffrax(rows)


def _ours(rows: Rows) -> Callable[[float], Solver]:
    flow, packed, start = get_system("surface").flow, rows.hamiltonians.packed, np.concatenate([rows.q0, rows.p0], axis=1)
    return lambda tolerance: lambda: solve_flow(flow, packed, start, rows.times, tolerance, _THREADS)[0]


def _diffrax(rows: Rows) -> dict[str, Callable[[float], Solver]]:
    os.environ.setdefault("XLA_FLAGS", f"--xla_cpu_multi_thread_eigen=true intra_op_parallelism_threads={_THREADS}")
    import diffrax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    packed = rows.hamiltonians.packed
    size = int(packed[:, 1].max())
    coefficients = np.zeros((len(rows), size, size))
    for row, values in enumerate(packed):
        own = int(values[1])
        coefficients[row, :own, :own] = values[2 : 2 + own * own].reshape(own, own)
    wave = np.pi * np.arange(1, (size - 1) // 2 + 1)
    arrays = tuple(jnp.asarray(x) for x in (packed[:, 0], coefficients, np.concatenate([rows.q0, rows.p0], axis=1), rows.times))

    def modes(x: Any) -> tuple[Any, Any]:
        c, s = jnp.cos(wave * x), jnp.sin(wave * x)
        values = jnp.concatenate([jnp.ones(1), jnp.stack([c, s], axis=-1).ravel()])
        return values, jnp.concatenate([jnp.zeros(1), jnp.stack([-wave * s, wave * c], axis=-1).ravel()])

    def field(_: Any, state: Any, surface: Any) -> Any:
        scale, matrix = surface
        x, y = state[0], state[1]
        (fx, dx), (fy, dy) = modes(x), modes(y)
        along = matrix @ fy
        u, v = 4 * x * (1 - x), 4 * y * (1 - y)
        e = -scale * jnp.exp(fx @ along)
        by_x = e * v * (4 - 8 * x + u * (dx @ along))
        by_y = e * u * (4 - 8 * y + v * (fx @ (matrix @ dy)))
        return jnp.stack([state[2], state[3], -by_x, -by_y])

    def family(solver: Any) -> Callable[[float], Solver]:
        def make(tolerance: float) -> Solver:
            def one(scale: Any, matrix: Any, start: Any, times: Any) -> Any:
                controller = diffrax.PIDController(rtol=tolerance, atol=tolerance)
                answer = diffrax.diffeqsolve(
                    diffrax.ODETerm(field), solver(), 0.0, 2.0, None, start, args=(scale, matrix), saveat=diffrax.SaveAt(ts=times),
                    stepsize_controller=controller, max_steps=100_000, adjoint=diffrax.ForwardMode(),
                )  # fmt: skip
                return answer.ys

            batched = jax.jit(jax.vmap(one))
            return lambda: np.asarray(batched(*arrays))

        return make

    return {f"diffrax {solver.__name__}": family(solver) for solver in (diffrax.Tsit5, diffrax.Dopri5, diffrax.Dopri8)}
