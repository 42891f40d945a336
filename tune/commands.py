"""The commands `sweep` and `scale`."""

import json
from pathlib import Path
from typing import Any

import click

from ..physics import InputError
from ..platform.commands.console import PATH, architecture_option, config_options, emit, json_option, resolve_config
from ..platform.commands.tables import format_table
from ..platform.config import Config, load_config, parse_assignments

_SHOWN_TRIALS = 10


@click.command("sweep")
@click.argument("dataset", type=PATH)
@architecture_option
@click.option(
    "--trials", "num_trials", default=20, show_default=True, type=click.IntRange(1), help="Trials in all, those of earlier calls included."
)
@click.option("--out", required=True, type=PATH, help="Folder of the sweep; run again, it completes what is missing.")
@config_options
@json_option
def sweep_command(
    dataset: Path, num_trials: int, out: Path, config_source: str | None, assignments: tuple[str, ...], as_json: bool, **flags: Any
) -> None:
    """Search hyperparameters on DATASET.

    Ray Tune runs trials that Optuna proposes and ASHA ends early; the result is best.yaml and a leaderboard.
    The space is sweep.space, or the one shipped for the architecture.
    """
    from .sweep import sweep

    result = sweep(resolve_config(config_source, assignments, **flags), dataset, out, num_trials)
    emit(result, as_json, _sweep_text(result))


@click.command("scale")
@click.argument("dataset", type=PATH)
@click.option("--arch", "architectures", default="mambonet", show_default=True, metavar="A,B", help="Architectures.")
@click.option("--sizes", required=True, metavar="N,M", help="Numbers of training rows.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="Runs of each size, with training seeds 0, 1, ...")
@click.option("--out", required=True, type=PATH, help="Folder of the study; run again, it completes what is missing.")
@config_options
@json_option
def scale_command(
    dataset: Path,
    architectures: str,
    sizes: str,
    seeds: int,
    out: Path,
    config_source: str | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure the test loss against the training rows of DATASET.

    A power law is fitted to each architecture. Every cell trains the same number of epochs. Settings of an architecture apply
    to the one the configuration names, else to the first of --arch; the others take their defaults.
    """
    from .scaling import scale

    names = [name.strip() for name in architectures.split(",") if name.strip()]
    result = scale(_scale_config(config_source, assignments, names), dataset, out, names, _parse_sizes(sizes), seeds)
    emit(result, as_json, _scale_text(result))


def _scale_config(config_source: str | None, assignments: tuple[str, ...], names: list[str]) -> Config:
    named = parse_assignments(assignments).get("architecture.name")
    if named is None and config_source is not None:
        named = load_config(config_source).architecture.name
    if named is None or named not in names:
        named = names[0] if names else None
    return resolve_config(config_source, assignments, architecture__name=named)


def _parse_sizes(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--sizes is {text!r}; write whole numbers separated by commas, such as 1000,3000") from None


def _sweep_text(result: dict[str, Any]) -> str:
    rows = json.loads(Path(result["leaderboard"]).read_text())
    table = [
        {"rank": rank} | {key: row[key] for key in ("trial", "state", "validation_loss", "epochs", "seconds")} | _short(row["parameters"])
        for rank, row in enumerate(rows[:_SHOWN_TRIALS], start=1)
    ]
    states = ", ".join(f"{count} {state}" for state, count in result["states"].items() if count)
    failures = [f"trial {row['trial']} failed: {row['reason']}" for row in rows if row["reason"]]
    lines = [f"{result['trials']} trials ({states}), {result['new_trials']} of them new", format_table(table), *failures[:_SHOWN_TRIALS]]
    return "\n".join([*lines, f"best configuration: {result['best_config']}", f"all trials: {result['leaderboard']}"])


def _short(parameters: dict[str, Any]) -> dict[str, Any]:
    return {key.rpartition(".")[2]: value for key, value in parameters.items()}


def _scale_text(result: dict[str, Any]) -> str:
    keys = ("architecture", "size", "seed", "state", "median", "mean", "epochs", "seconds")
    lines = [f"total loss on the {result['dataset']['split']} split; {result['note']}"]
    lines.append(format_table([{key: row[key] for key in keys} for row in result["cells"]]))
    lines += [f"{row['architecture']}-{row['size']}-{row['seed']} failed: {row['reason']}" for row in result["cells"] if row["reason"]]
    for name, fits in result["fits"].items():
        lines += [f"{name}, {statistic}: {_fit_text(fit, result['confidence'])}" for statistic, fit in fits.items()]
    return "\n".join([*lines, f"plot: {result['files']['png']}"])


def _fit_text(fit: dict[str, Any], confidence: float) -> str:
    if fit["b"] is None:
        return fit["note"]
    law = f"loss = {fit['a']:.3g} * size^({-fit['b']:.3f})"
    if fit["b_interval"] is None:
        return f"{law}, {fit['note']}"
    low, high = fit["b_interval"]
    return f"{law}, b in [{low:.3f}, {high:.3f}] at {confidence:.0%} over {fit['points']} cells"


COMMANDS = (sweep_command, scale_command)
