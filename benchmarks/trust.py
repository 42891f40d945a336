"""Whether checks of predictions are right: shipped models on rows of their own ensembles, where the truth is known.

Each model predicts rows of its ensemble from their sensors, with `verify` at energy and at solver. Measured is how many predictions were
replaced, and how many of these wrongly, by a solution further from the truth; the error that the check charged against the true one; how
often the reference was further off than three times the error that it claims; and the seconds that a row took.
"""

import time
from typing import Any

import numpy as np
import torch

from neural_hamilton.physics import InputError
from neural_hamilton.physics.systems import Problems
from neural_hamilton.physics.systems.generic import largest_difference
from neural_hamilton.platform.evaluation.problems import draw_problems
from neural_hamilton.serve.model import Model, Verify, load
from neural_hamilton.serve.orbit import Orbit
from neural_hamilton.serve.problems import Problem
from neural_hamilton.serve.shipped import shipped_models

_NUM_ROWS = 200
_SEED = 11  # not one that a model was trained with
_MODES: tuple[Verify, ...] = ("energy", "solver")


def measure(num_rows: int = _NUM_ROWS) -> dict[str, Any]:
    """Of every shipped model."""
    torch.set_num_threads(1)
    models = {}
    for name in shipped_models():
        models[name] = measure_model(load(name), num_rows)
        for verify, found in models[name]["verify"].items():
            print(
                f"{name:24} {verify:7} {found['replaced']:4} replaced, {found['replaced_wrongly']} of them wrongly; {found['undecided']} "
                f"undecided; error charged {found['charged']['median']:.1e} / {found['charged']['max']:.1e} where it is "
                f"{found['true']['median']:.1e} / {found['true']['max']:.1e}; {1e3 * found['seconds_each']:.1f} ms a row",
                flush=True,
            )
    return {"what": f"checks of predictions, on {num_rows} rows of each shipped model's ensemble", "comparisons": [], "models": models}


def measure_model(model: Model, num_rows: int) -> dict[str, Any]:
    """One model on test rows of the ensemble that it was trained on."""
    problems, asked, refused = draw(model, num_rows)
    plain = model.predict(asked, "none")
    true = errors(plain, problems)
    model.predict(asked[:1], "solver")  # compiles
    result = {}
    for verify in _MODES:
        started = time.perf_counter()
        orbits = model.predict(asked, verify)
        seconds = time.perf_counter() - started
        result[verify] = summarise(orbits, true, errors(orbits, problems)) | {"seconds_each": seconds / len(asked)}
    return {"rows": len(asked), "refused": refused, "verify": result}


def draw(model: Model, num_rows: int) -> tuple[Problems, list[Problem], int]:
    """Rows that the model accepts, as truth and as its user poses them, and how many it refused."""
    ensemble, trained_for = model.ensemble, model.trained_for
    assert ensemble is not None
    drawn = draw_problems(model.system, ensemble, ensemble, _SEED, num_rows, trained_for.sensors)
    drawn = drawn.at_sensors(trained_for.sensors, trained_for.noise, _SEED)
    asked, kept = [], []
    for row in range(num_rows):
        fields = {name: values[row] for name, values in drawn.fields.items()}
        problem = Problem(fields, drawn.q0[row], drawn.p0[row], drawn.times[row])
        try:
            model.predict([problem], "none")
        except InputError:
            continue
        asked.append(problem)
        kept.append(row)
    return drawn.take(np.array(kept)), asked, num_rows - len(kept)


def errors(orbits: list[Orbit], problems: Problems) -> np.ndarray:
    """The largest error of any q or p of each row."""
    return largest_difference((np.stack([orbit.q for orbit in orbits]), np.stack([orbit.p for orbit in orbits])), (problems.q, problems.p))


def summarise(orbits: list[Orbit], true: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """What became of the predictions, whose errors are `true` (N,), and `after` in what was returned."""
    replaced = np.array([orbit.trust.source == "solver" for orbit in orbits])
    charged = np.array([np.nan if orbit.trust.solver_error is None else orbit.trust.solver_error for orbit in orbits])
    claimed = np.array([np.nan if orbit.trust.reference_error is None else orbit.trust.reference_error for orbit in orbits])
    return {
        "replaced": int(replaced.sum()),
        "replaced_wrongly": int((replaced & (after > true)).sum()),
        "undecided": sum(orbit.trust.verdict == "undecided" for orbit in orbits),
        "references_worse_than_claimed": int((replaced & (after > 3.0 * claimed + 1e-6)).sum()),
        "true": _spread(true),
        "after": _spread(after),
        "charged": _spread(charged),
        "largest_overcharge": _spread(charged - true)["max"],
    }


def _spread(values: np.ndarray) -> dict[str, float]:
    known = values[np.isfinite(values)]
    return {"median": float(np.median(known)), "max": float(known.max())} if known.size else {"median": 0.0, "max": 0.0}
