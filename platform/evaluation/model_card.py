"""The model card: what a reader of a model folder should know, from its provenance and one evaluation."""

import json
from itertools import accumulate
from pathlib import Path
from typing import Any

from ...physics import InputError
from ...physics.files import write_file
from ...physics.systems import with_role
from ..config.data import DataConfig
from ..data.card import reproduction_command
from ..storage import Location
from .quadrature import QUADRATURE
from .report import describe_task, display_name, render
from .study import Subject

CARD_PAGE = "README.md"
_SCALING_FILE = "scaling.json"  # of a dataset-size study
_SHOWN = ("name", "size", "median", "median_range", "mean", "mean_range", "seeds")  # of a summary in it
_BAD_LOSS = 1e-5  # of a non-smooth case, which the card then names


def read_dataset_sizes(folder: Location, architecture: str) -> dict[str, Any]:
    """The losses of one architecture against training rows, from a folder of `scale`: its `budget` and one of `summaries` per size.

    Raises
    ------
    InputError
        For a folder without such a study, or a study without this architecture.
    """
    try:
        study = json.loads((folder / _SCALING_FILE).read_bytes())
        budget = study["budget"]
        names = {cell["name"] for cell in study["cells"] if cell.get("architecture") == architecture}
        summaries = [{key: summary[key] for key in _SHOWN} for summary in study["summaries"] if summary["name"] in names]
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"--scaling {str(folder)!r} is not a finished study of `scale`; it has no readable {_SCALING_FILE}") from None
    if not summaries:
        raise InputError(f"--scaling {str(folder)!r} has no finished cell of architecture {architecture!r}")
    return {"budget": budget, "summaries": summaries}


def write_model_card(folder: Path, subject: Subject, result: dict[str, Any], config: DataConfig, sizes: dict[str, Any] | None) -> None:
    """Write README.md to a model folder.

    It takes its `model.json`, the entries of evaluation.json, the dataset's configuration and what `read_dataset_sizes` read.
    """
    measured = {name: entry["total_loss"] for name, entry in result["baselines"].items() if entry["track"] == "sensors"}
    labels = {QUADRATURE: "quadrature baseline (built in)"}
    mean = result["metrics"]["total_loss"]["mean"]
    non_smooth = result["non_smooth"] if result["non_smooth"] and "not_measured" not in result["non_smooth"] else {"cases": {}, "kinds": {}}
    ensembles = result["ensembles"] if result["ensembles"] and "not_measured" not in result["ensembles"] else {}
    shown = [baseline.name for baseline in with_role(subject.baselines, "figures") if baseline.name in measured]
    page = render(
        "model_card.md.j2",
        name=display_name(result["model"]["name"]),
        result=result,
        provenance=subject.card["provenance"],
        trained_for=subject.trained_for,
        ensemble=subject.ensemble,
        initial_states=_initial_states(subject),
        dataset_config=config,
        generate_command=reproduction_command(config).replace("DEST", result["dataset"]["folder"], 1),
        rows=[("this model", result["metrics"]["total_loss"]), *((labels.get(name, name), loss) for name, loss in measured.items())],
        cases=["model", *shown],
        bad_cases={case: losses["model"] for case, losses in non_smooth["cases"].items() if (losses["model"] or 0.0) > _BAD_LOSS},
        kinds={kind: values["model"] for kind, values in non_smooth["kinds"].items()},
        variants={name: entry["model"]["mean"] for name, entry in ensembles.items() if "model" in entry},
        better=[name for name, loss in measured.items() if mean is not None and loss["mean"] is not None and loss["mean"] < mean],
        learning=_learning_curve(subject.card["provenance"]),
        sizes=sizes,
        drift=result["calibration"]["scores"]["energy_drift"],
        **describe_task(subject.problems),
    )
    write_file(folder / CARD_PAGE, page.encode())


def _learning_curve(provenance: dict[str, Any]) -> list[tuple[int, int, float]]:
    """(steps, rows, validation loss) after every epoch; none for rows seen again or a model whose stages do not record their losses."""
    stages = provenance.get("stages", [])
    if not provenance["config"]["training"]["endless"] or any("validation_losses" not in stage for stage in stages):
        return []
    steps_each = [stage["steps"] // stage["epochs"] for stage in stages for _ in range(stage["epochs"])]
    losses = [loss for stage in stages for loss in stage["validation_losses"]]
    rows = provenance["rows_drawn"] // max(1, len(losses))
    return [(steps, rows * epoch, loss) for epoch, (steps, loss) in enumerate(zip(accumulate(steps_each), losses, strict=True), 1)]


def _initial_states(subject: Subject) -> str:
    """Which initial states the model accepts, as a sentence."""
    if subject.trained_for.initial_state is None:
        return "It accepts any initial state from which the motion stays in the domain."
    q0, p0 = subject.trained_for.initial_state
    q, p = (str(state[0] if len(state) == 1 else tuple(state)) for state in (q0, p0))
    return f"It accepts one initial state: q0 = {q}, p0 = {p}."
