"""The command line, and the one place that knows every room."""

import contextlib
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from ..physics import InputError
from .commands.console import collect_overrides, config_options, emit, format_table, json_option, resolve_config, run_command
from .config.tree import DataConfig, load_data_config
from .ray_runtime import choose_authentication

_PATH = click.Path(path_type=Path)
_MINUTES = click.FloatRange(0.0, min_open=True)


class _Group(click.Group):
    """Commands of the rooms above are imported when they are asked for, so that nobody waits for Ray in vain."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [
            "generate", "inspect", "train", "evaluate", "compare", "sweep", "scale",
            "serve", "predict", "plan", "doctor", "demo", "reproduce",
        ]  # fmt: skip

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in ("sweep", "scale"):
            from ..tune import commands as tune_commands

            return getattr(tune_commands, f"{cmd_name}_command")
        if cmd_name in ("serve", "predict"):
            from ..serve import commands as serve_commands

            return getattr(serve_commands, f"{cmd_name}_command")
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Group, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Neural operators for Hamiltonian mechanics: make data, train, sweep, measure and serve them."""


def generation_options(command: Any) -> Any:
    """The options that describe a dataset."""
    for option in (
        click.option(
            "--dtype", "data__dtype", type=click.Choice(["float32", "float64"]), help="Of the tensor columns.  [default: float32]"
        ),
        click.option("--noise", "data__noise", type=float, help="Standard deviation of noise on the sensors.  [default: 0]"),
        click.option("--seed", "data__seed", type=int, help="[default: 0]"),
        click.option("--times", "data__times", type=int, help="Query times of a trajectory.  [default: 100]"),
        click.option("--sensors", "data__sensors", type=int, help="Uniform sensors of V.  [default: 100]"),
        click.option("--system", "data__system", metavar="NAME", help="Hamiltonian system.  [default: well]"),
        click.option(
            "--ensemble", "data__ensemble__name", metavar="NAME", help="Distribution of problems.  [default: the first of the system]"
        ),
        click.option("--test", "data__test", type=int, help="Rows of the test split.  [default: 0]"),
        click.option("--val", "data__val", type=int, help="Rows of the validation split.  [default: 0]"),
        click.option("--train", "data__train", type=int, help="Rows of the training split.  [default: 0]"),
    ):
        command = option(command)
    return config_options(command)


def _data_config(config_source: str | None, assignments: tuple[str, ...], flags: dict[str, Any]) -> DataConfig:
    data = load_data_config(config_source, collect_overrides(assignments, flags))
    if sum(data.counts.values()) == 0:
        raise InputError("--train, --val and --test are all 0; ask for at least one row")
    return data


@cli.command()
@click.argument("dest", type=_PATH)
@generation_options
@click.option("--workers", type=click.IntRange(1), help="Tasks at once.  [default: one a CPU]")
@click.option("--local", is_flag=True, help="In this process, on threads, without Ray.")
@json_option
def generate(
    dest: Path, config_source: str | None, assignments: tuple[str, ...], workers: int | None, local: bool, as_json: bool, **flags: Any
) -> None:
    """Write a dataset of certified trajectories to the folder DEST with Ray Data.

    Run again, it completes what is missing or damaged and changes nothing else.
    """
    from .data.generation import generate as run

    data = _data_config(config_source, assignments, flags)
    manifest = run(dest, data, workers=workers, local=local)
    rejected = sum(manifest["rejections"].values())
    counts = ", ".join(f"{split} {count}" for split, count in manifest["counts"].items())
    text = f"dataset {dest}: {counts} rows, {rejected} draws rejected, hash {manifest['dataset_hash'][:16]}"
    emit({key: value for key, value in manifest.items() if key != "files"} | {"dataset": str(dest)}, as_json, text)


@cli.command()
@click.argument("dataset", type=_PATH)
@click.option("--recheck", default=0, type=click.IntRange(0), help="Random rows to integrate again with an independent solver.")
@json_option
def inspect(dataset: Path, recheck: int, as_json: bool) -> None:
    """Schema, counts, checksums and certificates of DATASET; fails where anything is wrong."""
    from .data.inspection import inspect_dataset
    from .progress import track

    with track("recheck", recheck) if recheck else contextlib.nullcontext() as progress:
        report = inspect_dataset(dataset, recheck, progress.advance if progress else lambda: None)
    lines = [f"{name:18} {kind}" for name, kind in report["schema"].items()]
    lines += [
        f"{key}: {report[key]}"
        for key in ("system", "ensemble", "counts", "rejections", "bytes", "integration_error", "energy_drift", "recheck")
        if key in report
    ]
    if report["problems"]:
        click.echo("\n".join(lines))
        raise InputError(f"dataset {str(dataset)!r}: {'; '.join(report['problems'])}; run generate again to repair it")
    emit(report, as_json, "\n".join([*lines, "no problems found"]))


@cli.command()
@click.argument("dataset", type=_PATH)
@click.option("--arch", "architecture__name", metavar="NAME", help="Architecture.  [default: mambonet]")
@click.option("--out", "run", required=True, type=_PATH, help="Run folder.")
@click.option("--workers", default=1, type=click.IntRange(1), help="Ray Train workers (DDP).")
@click.option("--local", is_flag=True, help="Run the loop in this process, without Ray.")
@click.option("--resume", is_flag=True, help="Continue the run in --out, or start it.")
@click.option("--minutes", type=_MINUTES, help="Stop in time, after a whole epoch, for --resume to continue.  [default: go on to the end]")
@config_options
@json_option
def train(
    dataset: Path,
    run: Path,
    workers: int,
    local: bool,
    resume: bool,
    minutes: float | None,
    config_source: str | None,
    assignments: tuple[str, ...],
    as_json: bool,
    **flags: Any,
) -> None:
    """Train a neural operator on DATASET with Ray Train."""
    deadline = _deadline(minutes)
    from .training.runs import run_training

    if local and workers > 1:
        raise InputError(f"--workers is {workers} with --local; --local is one process")
    config = resolve_config(config_source, assignments, **flags)
    result = run_training(config, dataset, run, 0 if local else workers, resume, deadline)
    if not result["finished"]:
        emit(result, as_json, f"{result['epochs']} of {config.training.epochs} epochs are done; the same command with --resume continues")
        return
    scan = f", selective scan: {result['scan_backend']}" if result["scan_backend"] else ""
    network = f"{result['architecture']} ({result['num_parameters']} parameters, on {result['device']}{scan})"
    best = f"validation loss {result['validation_loss']:.3e} at epoch {result['best_epoch']} of {result['epochs']}"
    warnings = "".join(f"\nwarning: {warning}" for warning in result["warnings"])
    emit(result, as_json, f"{network}: {best}, model in {result['model']}{warnings}")


def _deadline(minutes: float | None) -> float | None:
    """The moment, as `time.time` counts, that a command has until; to be asked first, since imports take their time too."""
    if minutes is None:
        return None
    if math.isnan(minutes):  # which is outside of no range
        raise InputError("--minutes is nan; it must be a number above 0")
    return time.time() + 60.0 * minutes


@cli.command()
@click.argument("preset", type=click.Choice(["paper", "phase-space"]))
@click.option("--out", required=True, type=_PATH, help="Folder for the dataset, the run and the report; run again, it continues there.")
@click.option("--minutes", type=_MINUTES, help="Stop in time, after a whole epoch; run again, it continues.  [default: go on to the end]")
@config_options
@json_option
def reproduce(
    preset: str, out: Path, minutes: float | None, config_source: str | None, assignments: tuple[str, ...], as_json: bool
) -> None:
    """Make the model of PRESET from nothing: its data, its training, its measurement. Without Ray.

    Does what is missing in --out and says what is left. The default configuration is winner-PRESET where there is a GPU,
    else shipped-PRESET.
    """
    deadline = _deadline(minutes)
    from .commands.reproduce import default_config
    from .commands.reproduce import reproduce as run

    if config_source is None:
        config_source = default_config(preset)
        click.echo(f"configuration: {config_source}", err=True)
    result = run(resolve_config(config_source, assignments, data__ensemble__name=preset), out, deadline)
    if result["finished"]:
        evaluation = json.loads((Path(result["report"]).parent / "evaluation.json").read_text())
        text = f"{evaluation_table(evaluation)}\nreport: {result['report']}\nmodel: {result['model']}"
    else:
        text = f"left: {', '.join(result['left'])}; the same command continues"
    emit(result, as_json, text)


@cli.command()
@click.argument("model", type=_PATH)
@click.option("--dataset", required=True, type=_PATH, help="Dataset folder.")
@click.option("--split", default="test", help="train, val or test.")
@click.option("--out", required=True, type=_PATH, help="Folder for evaluation.json, trajectories.parquet, report.html and figures.")
@click.option("--record", is_flag=True, help="Write what was found to the model folder: its card, and the threshold serving uses.")
@config_options
@json_option
def evaluate(
    model: Path, dataset: Path, split: str, out: Path, record: bool, config_source: str | None, assignments: tuple[str, ...], as_json: bool
) -> None:
    """Measure the model folder MODEL against working solvers; writes a self-contained report."""
    from .evaluation import evaluate as run

    result = run(model, dataset, out, split, resolve_config(config_source, assignments).evaluation, record=record)
    emit(result | {"report": str(out / "report.html")}, as_json, f"{evaluation_table(result)}\nreport: {out / 'report.html'}")


@cli.command()
@click.argument("models", type=_PATH, nargs=-1, required=True)
@click.option("--dataset", required=True, type=_PATH, help="Dataset folder.")
@click.option("--split", default="test", help="train, val or test.")
@click.option("--out", required=True, type=_PATH, help="Folder for comparison.json, comparison.html and figures.")
@config_options
@json_option
def compare(
    models: tuple[Path, ...], dataset: Path, split: str, out: Path, config_source: str | None, assignments: tuple[str, ...], as_json: bool
) -> None:
    """Measure several model folders MODELS on the same problems, in one table."""
    from .evaluation import compare as run

    result = run(list(models), dataset, out, split, resolve_config(config_source, assignments).evaluation)
    table = _loss_table([(name, entry, entry["seconds_per_trajectory"]) for name, entry in result["entries"].items()])
    page = out / "comparison.html"
    emit(result | {"report": str(page)}, as_json, f"{table}{_warning_lines(result)}\nreport: {page}")


def evaluation_table(result: dict[str, Any]) -> str:
    """Median and mean total loss of the model and every solver, and their time a trajectory."""
    seconds = result["timing"]["model_seconds_per_trajectory"]
    entries = [("model", result["metrics"], seconds)]
    entries += [(name, figures, figures["seconds_per_trajectory"]) for name, figures in result["baselines"].items()]
    return _loss_table(entries) + _warning_lines(result)


def _loss_table(entries: list[tuple[str, dict[str, Any], float]]) -> str:
    rows = [
        {
            "solver": name,
            "median loss": figures["total_loss"]["median"],
            "mean loss": figures["total_loss"]["mean"],
            "p99": figures["total_loss"]["p99"],
            "s/trajectory": cost,
        }
        for name, figures, cost in entries
    ]
    return format_table(rows)


def _warning_lines(result: dict[str, Any]) -> str:
    return "".join(f"\nwarning: {warning}" for warning in result["warnings"])


@cli.group(invoke_without_command=True)
@click.pass_context
def plan(ctx: click.Context) -> None:
    """What a command would cost here: rows, disk, memory and time, measured by a micro-run."""
    if ctx.invoked_subcommand is None:
        raise click.UsageError("plan needs a command: generate, train, sweep or scale")


@plan.command("generate")
@click.argument("dest", type=_PATH, required=False)
@generation_options
@json_option
def plan_generate_command(dest: Path | None, config_source: str | None, assignments: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """The cost of a dataset; takes the options of `generate`."""
    from .commands.planning import plan_generate

    _emit_plan(plan_generate(_data_config(config_source, assignments, flags)), as_json)


@plan.command("train")
@click.argument("dataset", type=_PATH)
@click.option("--arch", "architecture__name", metavar="NAME", help="Architecture.  [default: mambonet]")
@click.option("--out", type=_PATH, help="Ignored; so that a train command can be planned unchanged.")
@click.option("--workers", default=1, type=click.IntRange(1), help="Ray Train workers (DDP).")
@click.option("--local", is_flag=True, help="In one process, without Ray.")
@config_options
@json_option
def plan_train_command(
    dataset: Path,
    out: Path | None,
    workers: int,
    local: bool,
    config_source: str | None,
    assignments: tuple[str, ...],
    as_json: bool,
    **flags: Any,
) -> None:
    """The cost of one training run."""
    from .commands.planning import plan_train

    _emit_plan(plan_train(resolve_config(config_source, assignments, **flags), dataset, 0 if local else workers), as_json)


@plan.command("sweep")
@click.argument("dataset", type=_PATH)
@click.option("--arch", "architecture__name", metavar="NAME", help="Architecture.  [default: mambonet]")
@click.option("--trials", required=True, type=click.IntRange(1))
@config_options
@json_option
def plan_sweep_command(
    dataset: Path, trials: int, config_source: str | None, assignments: tuple[str, ...], as_json: bool, **flags: Any
) -> None:
    """The cost of a sweep, as if no trial were stopped early."""
    from .commands.planning import plan_many

    config = resolve_config(config_source, assignments, **flags)
    if config.sweep.epochs:
        config = config.override({"training.epochs": config.sweep.epochs})
    _emit_plan(plan_many(config, dataset, trials, config.sweep.max_concurrent), as_json)


@plan.command("scale")
@click.argument("dataset", type=_PATH)
@click.option("--arch", "architectures", required=True, help="Comma-separated architectures.")
@click.option("--sizes", required=True, help="Comma-separated numbers of training rows.")
@click.option("--seeds", default=1, type=click.IntRange(1))
@config_options
@json_option
def plan_scale_command(
    dataset: Path, architectures: str, sizes: str, seeds: int, config_source: str | None, assignments: tuple[str, ...], as_json: bool
) -> None:
    """The cost of a dataset-size study."""
    from .commands.planning import plan_many

    plans = []
    for name in architectures.split(","):
        for size in sizes.split(","):
            config = resolve_config(config_source, assignments, architecture__name=name.strip(), training__train_rows=size.strip())
            plans.append(plan_many(config, dataset, seeds, config.scaling.max_concurrent))
    total = {key: sum(p[key] for p in plans) for key in ("runs", "seconds", "disk_bytes")}
    _emit_plan(total | {"memory_bytes": max(p["memory_bytes"] for p in plans)}, as_json)


def _emit_plan(result: dict[str, Any], as_json: bool) -> None:
    rows = [{"what": key, "value": value} for key, value in result.items() if not isinstance(value, dict)]
    emit(result, as_json, format_table(rows))


@cli.command()
@json_option
def doctor(as_json: bool) -> None:
    """Versions, devices, Ray set-up and free disk; says what to fix."""
    from .commands.doctor import examine

    report = examine()
    lines = [f"{key}: {value}" for key, value in report.items() if key != "advice"]
    lines += [f"fix: {sentence}" for sentence in report["advice"]] or ["everything needed is here"]
    emit(report, as_json, "\n".join(lines))


@cli.command()
@click.option("--out", default=Path("runs/demo"), type=_PATH, help="Folder for everything the demo makes; run again, it continues there.")
@json_option
def demo(out: Path, as_json: bool) -> None:
    """The whole path at small size: generate, train, sweep, scale, evaluate, serve, and one answered request."""
    from ..serve import application
    from ..tune.scaling import scale
    from ..tune.sweep import sweep
    from .commands.demo import Stages, run_demo
    from .training.runs import run_training

    @contextlib.contextmanager
    def serve(model: Path, host: str, port: int) -> Iterator[str]:
        try:
            yield application.start(model, host, port)
        finally:
            application.stop()

    result = run_demo(out.absolute(), Stages(train=run_training, sweep=sweep, scale=scale, serve=serve))
    emit(result, as_json, result["table"] + f"\nreport: {result['report']}")


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `neural-hamilton`; returns the exit code."""
    choose_authentication()
    return run_command(cli, arguments)
