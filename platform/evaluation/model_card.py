"""The model card: what a reader of a model folder should know, from its provenance and one evaluation."""

from pathlib import Path
from typing import Any

from ...physics.files import write_file
from .report import display_name, render

CARD_PAGE = "README.md"
_OPPONENTS = ("dop853-quintic", "dop853-cubic", "dop853-hermite", "dop853-prior-fit", "rk4-as-published")


def write_model_card(folder: Path, card: dict[str, Any], result: dict[str, Any], dataset_config: dict[str, Any]) -> None:
    """Write README.md to a model folder from its `model.json`, the entries of evaluation.json and the manifest's configuration."""
    rows = [("this model", result["metrics"]["total_loss"])]
    if result["inputs"]:
        rows.append(("what it is told of q and p", result["inputs"]["total_loss"]))
    rows += [(name, result["baselines"][name]["total_loss"]) for name in _OPPONENTS]
    page = render(
        "model_card.md.j2",
        result=result,
        provenance=card["provenance"],
        dataset_config=dataset_config,
        rows=rows,
        name=display_name(result["model"]["name"]),
        any_start=card["trained_for"]["initial_state"] is None,
        drift_threshold=result["calibration"]["scores"]["energy_drift"]["threshold"],
    )
    write_file(folder / CARD_PAGE, page.encode())
