"""The command `train`."""

from typing import Any

import click

from ...physics import InputError
from ..storage import Location
from .console import DATASET, OUT, architecture_option, config_options, deadline_after, emit, json_option, minutes_option, resolve_config


@click.command()
@click.argument("dataset", type=DATASET)
@architecture_option
@click.option("--out", "run", required=True, type=OUT, help="Run folder.")
@click.option("--workers", default=1, type=click.IntRange(1), help="Ray Train workers (DDP).")
@click.option(
    "--cpus-per-worker",
    "cpus",
    type=click.IntRange(1),
    help="CPUs of a worker.  [default: an equal part of those that are there, at least 1]",
)
@click.option("--gpus-per-worker", "gpus", type=click.IntRange(0, 1), help="GPUs of a worker.  [default: one where there are enough]")
@click.option("--local", is_flag=True, help="Run the loop in this process, without Ray.")
@click.option("--resume", is_flag=True, help="Continue the run in --out, or start it.")
@minutes_option
@config_options
@json_option
def train(
    dataset: Location,
    run: Location,
    workers: int,
    cpus: int | None,
    gpus: int | None,
    local: bool,
    resume: bool,
    minutes: float | None,
    config_source: str | None,
    assignments: tuple[str, ...],
    as_json: bool,
    **flags: Any,
) -> None:
    """Train a neural operator on DATASET with Ray Train.

    Where CPUs or GPUs of a worker are given, and the cluster has too few, it may start nodes for them: the command waits ten minutes.
    """
    deadline = deadline_after(minutes)
    if local and workers > 1:
        raise InputError(f"--workers is {workers} with --local, which runs one process; leave one of them out")
    if local and (cpus is not None or gpus is not None):
        raise InputError("--local runs in this process; leave out --cpus-per-worker and --gpus-per-worker")
    from ..training.runs import run_training

    config = resolve_config(config_source, assignments, **flags)
    result = run_training(config, dataset, run, 0 if local else workers, resume, deadline, cpus, gpus)
    emit(result, as_json, _text(result, config.training.epochs))


def _text(result: dict[str, Any], epochs: int) -> str:
    if not result["finished"]:
        return f"{result['epochs']} of {epochs} epochs are done; the same command with --resume continues"
    scan = f", selective scan: {result['scan_backend']}" if result["scan_backend"] else ""
    network = f"{result['architecture']} ({result['num_parameters']} parameters, on {result['device']}{scan})"
    best = f"validation loss {result['validation_loss']:.3e} at epoch {result['best_epoch']} of {result['epochs']}"
    warnings = "".join(f"\nwarning: {warning}" for warning in result["warnings"])
    return f"{network}: {best}, model in {result['model']}{warnings}"


COMMANDS = (train,)
