"""The commands `sweep` and `scale`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from ..physics import InputError
from ..platform.commands.console import DATASET, OUT, architecture_option, config_options, emit, json_option, resolve_config, study_options
from ..platform.commands.tables import format_table
from ..platform.config import Config, load_config, parse_assignments
from ..platform.storage import Location, locate

_SHOWN_TRIALS = 10


@click.command("sweep")
@click.argument("dataset", type=DATASET)
@architecture_option
@click.option(
    "--trials", "num_trials", default=20, show_default=True, type=click.IntRange(1), help="Trials in all, those of earlier calls included."
)
@click.option("--out", required=True, type=OUT, help="Folder of the sweep; run again, it completes what is missing.")
@click.option(
    "--storage", metavar="URL", help="Database of the Optuna study, as postgresql://user@host/name.  [default: optuna.db in the folder]"
)
@config_options
@json_option
def sweep_command(
    dataset: Location,
    num_trials: int,
    out: Location,
    storage: str | None,
    config_source: str | None,
    assignments: tuple[str, ...],
    as_json: bool,
    **flags: Any,
) -> None:
    """Search hyperparameters on DATASET.

    Ray Tune runs trials that Optuna proposes and ASHA ends early; the result is best.yaml, a leaderboard and sweep.html.
    The space is sweep.space, or the one shipped for the architecture.
    """
    from .sweeps.sweep import sweep

    with _kept(out):
        result = sweep(resolve_config(config_source, assignments, **flags), dataset, out, num_trials, storage)
    emit(result, as_json, _sweep_text(result))


@click.command("scale")
@click.argument("dataset", type=DATASET)
@study_options
@click.option("--out", required=True, type=OUT, help="Folder of the study; run again, it completes what is missing.")
@config_options
@json_option
def scale_command(
    dataset: Location,
    names: str,
    sizes: str,
    seeds: int,
    draws: int,
    trajectories: str | None,
    out: Location,
    local: bool,
    config_source: str | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure the test loss against the training rows of DATASET.

    Contestants are trained on several draws of the rows with several seeds, measured on the same test rows and compared by the law
    that is fitted to each. scaling.protocol decides how long a cell trains.
    """
    from .scaling.scale import scale

    listed = parse_names(names)
    config = scale_config(config_source, assignments, listed)
    numbers = parse_numbers("--sizes", sizes)
    per_potential = None if trajectories is None else parse_numbers("--trajectories", trajectories)
    with _kept(out):
        result = scale(config, dataset, out, listed, numbers, seeds, draws=draws, trajectories=per_potential, local=local)
    emit(result, as_json, _scale_text(result))


@contextmanager
def _kept(out: Location) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"what is done is kept in {out}; the same command goes on from there", err=True)
        raise


def scale_config(config_source: str | None, assignments: tuple[str, ...], names: list[str]) -> Config:
    """The configuration of a study. Settings of an architecture apply to the one it names, else to the first of `names`."""
    from ..architectures import available_architectures

    named = parse_assignments(assignments).get("architecture.name")
    if named is None and config_source is not None:
        named = load_config(config_source).architecture.name
    if named is None or named not in names:
        named = next((name for name in names if name in available_architectures()), None)
    return resolve_config(config_source, assignments, architecture__name=named)


def parse_names(text: str) -> list[str]:
    """The parts of a list separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def parse_numbers(option: str, text: str) -> list[int]:
    """Whole numbers separated by commas; InputError names the option."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{option} is {text!r}; write whole numbers separated by commas, such as 1000,3000") from None


def _sweep_text(result: dict[str, Any]) -> str:
    from .sweeps.finals import finals_text

    rows = json.loads(locate(result["leaderboard"]).read_text(encoding="utf-8"))
    keys = list(dict.fromkeys(key for row in rows for key in row["parameters"]))  # a parameter may depend on another
    fronts = ["front"] if len(result["objectives"]) > 1 else []
    table = [
        {"rank": rank}
        | {key: row[key] for key in ("trial", "state", *fronts, *result["objectives"], "epochs", "seconds")}
        | {key.rpartition(".")[2]: row["parameters"].get(key) for key in keys}
        for rank, row in enumerate(rows[:_SHOWN_TRIALS], start=1)
    ]
    states = ", ".join(f"{count} {state}" for state, count in result["states"].items() if count)
    failures = [f"trial {row['trial']} failed: {row['reason']}" for row in rows if row["reason"]]
    lines = [f"{result['trials']} trials ({states}), {result['new_trials']} of them new", format_table(table)]
    if len(rows) > _SHOWN_TRIALS:
        lines.append(f"and {len(rows) - _SHOWN_TRIALS} more in the file of all trials")
    lines += failures[:_SHOWN_TRIALS]
    lines += [f"the best trial's {sentence}" for sentence in result["at_edges"]]
    if len(result["objectives"]) > 1:
        lines.append(f"Pareto front: {', '.join(row['trial'] for row in rows if row['front'])}")
    if result["finals"]:
        lines += finals_text(result["finals"])
    files = {"best configuration": "best_config", "all trials": "leaderboard", "figures": "page"}
    return "\n".join([*lines, *(f"{name}: {result[key]}" for name, key in files.items())])


def _scale_text(result: dict[str, Any]) -> str:
    from .scaling.conclusions import STATISTICS, comparison_texts, retuning_texts
    from .scaling.laws import fit_text

    keys = ("name", "size", "draw", "seed", "state", *STATISTICS, "steps", "seconds")
    lines = [f"total loss on the {result['dataset']['split']} split; {result['note']}"]
    lines.append(format_table([{key: row[key] for key in keys} for row in result["cells"]]))
    failed = [row for row in result["cells"] if row["reason"]]
    lines += [f"{row['name']}, {row['size']} rows, draw {row['draw']}, seed {row['seed']} failed: {row['reason']}" for row in failed]
    for name, fits in result["fits"].items():
        lines += [f"{name}, {statistic}: {fit_text(fit, result['confidence'])}" for statistic, fit in fits.items()]
    for heading, texts in [*comparison_texts(result), retuning_texts(result)]:
        lines += [heading, *texts] if texts else []
    return "\n".join([*lines, f"tables: {result['files']['md']}", f"plot: {result['files']['png']}"])


COMMANDS = (sweep_command, scale_command)
