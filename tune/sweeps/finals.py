"""The finals of a sweep: its best trials trained again with new seeds and the full budget, and a winner where one is significant.

A search picks the luckiest of many runs, so its first place is biased. New seeds are not. Each finalist is compared with the first by
the ratio of their losses, row by row and seed by seed (`scores.compare_pairs`), and the confidence allows for the number of comparisons.
"""

from typing import Any

import numpy as np

from ...platform.config import Config, load_config
from ...platform.storage import Location, remove_folder
from ...platform.training.loop import train
from ...platform.training.run_folder import CHECKPOINTS_FOLDER, CONFIG_FILE, prepare_run
from ...platform.training.runs import steps_of
from ..scores import compare_pairs, is_scored, read_losses, read_score, score_cell
from ..trials import attempt, read_failure
from .datasets import dataset_of

FINALS_FOLDER = "finals"


def final_folder(out: Location, trial: str, seed: int) -> Location:
    """The run folder of a finalist with a training seed."""
    return out / FINALS_FOLDER / f"{trial}-{seed}"


def prepare_finals(config: Config, dataset: Location, out: Location, rows: list[dict[str, Any]]) -> list[Location]:
    """Claim the run folders of the finalists among the rows of a leaderboard; returns those that have not been measured."""
    pending = []
    for row in _finalists(config, rows):
        for seed in _new_seeds(config):
            run = final_folder(out, row["trial"], seed)
            if not is_scored(run):
                own = config.override(row["parameters"] | {"training.seed": seed})
                prepare_run(run, dataset_of(row["parameters"], config, dataset, out), own, resume=True)
                pending.append(run)
    return pending


def run_final(run: Location, dataset: Location, report: Any) -> None:
    """Train and measure one run of the finals, or record why it failed."""

    def work() -> None:
        config = load_config(run / CONFIG_FILE)
        result = train(config, dataset, run, report)
        about = {"validation_loss": result["validation_loss"], "seconds": result["seconds"], "steps": steps_of(config)}
        settings = config.training
        score_cell(run, dataset, "val", settings.val_rows, config.evaluation.batch_size, about, start=settings.val_start)
        remove_folder(run / CHECKPOINTS_FOLDER)

    attempt(run, work)


def judge_finals(config: Config, out: Location, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The finalists, best first, each with its losses and its comparison with the first; and the trial that wins, or None.

    None where there are no finals.
    """
    finalists = [_measured(config, out, row) for row in _finalists(config, rows)]
    complete = [each for each in finalists if not each["failures"]]
    if not complete:
        return {"winner": None, "finalists": finalists} if finalists else None
    losses = {each["trial"]: [read_losses(final_folder(out, each["trial"], seed)) for seed in _new_seeds(config)] for each in complete}
    complete.sort(key=lambda each: float(np.mean([np.log(loss).mean() for loss in losses[each["trial"]]])))
    first, *others = complete
    confidence = 1 - (1 - config.sweep.confidence) / max(len(others), 1)  # Bonferroni's
    for other in others:
        (pair,) = compare_pairs({each["trial"]: losses[each["trial"]] for each in (first, other)}, confidence)
        other |= {"ratio": pair["ratio"], "interval": pair["interval"], "distinguishable": pair["distinguishable"]}
    wins = bool(others) and all(other["distinguishable"] for other in others)
    failed = [each for each in finalists if each["failures"]]
    return {
        "winner": first["trial"] if wins else None,
        "confidence": config.sweep.confidence,
        "seeds": config.sweep.final_seeds,
        "finalists": [*complete, *failed],
    }


def finals_text(finals: dict[str, Any]) -> list[str]:
    """The finals in sentences."""
    lines = []
    for each in finals["finalists"]:
        if each["failures"]:
            lines.append(f"finalist {each['trial']} failed: {each['failures'][0]}")
            continue
        low, high = min(each["validation_losses"]), max(each["validation_losses"])
        text = f"finalist {each['trial']}: validation losses {low:.3g} to {high:.3g} over {len(each['validation_losses'])} new seeds"
        if "ratio" in each:
            text += f", {each['ratio']:.3g} times the first's ({each['interval'][0]:.3g} to {each['interval'][1]:.3g})"
        lines.append(text)
    if sum(not each["failures"] for each in finals["finalists"]) < 2:
        return [*lines, "no finalist wins: there are no two to compare"]
    if finals["winner"] is None:
        return [*lines, "no finalist wins: their differences may be the seeds'"]
    return [*lines, f"trial {finals['winner']} wins at {finals['confidence']:.0%}"]


def _finalists(config: Config, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["state"] != "failed"][: config.sweep.finalists]


def _new_seeds(config: Config) -> range:
    """Training seeds that no trial had."""
    first = config.training.seed + config.sweep.seeds
    return range(first, first + config.sweep.final_seeds)


def _measured(config: Config, out: Location, row: dict[str, Any]) -> dict[str, Any]:
    runs = [final_folder(out, row["trial"], seed) for seed in _new_seeds(config)]
    return {
        "trial": row["trial"],
        "parameters": row["parameters"],
        "validation_losses": [read_score(run)["validation_loss"] for run in runs if is_scored(run)],
        "failures": [read_failure(run) or "it did not end" for run in runs if not is_scored(run)],
    }
