"""The command `plan`: what another command would cost here."""

from typing import Any

import click

from ..storage import Location
from .console import DATASET, NEW_DATASET, OUT, architecture_option, config_options, emit, json_option, resolve_config, study_options
from .data import generation_options, resolve_data
from .tables import format_facts, format_table


@click.group(invoke_without_command=True)
@click.pass_context
def plan(ctx: click.Context) -> None:
    """Estimate what a command would cost here.

    Rows, disk, memory and time, from a micro-run.
    """
    if ctx.invoked_subcommand is None:
        raise click.UsageError("plan needs a command: generate, train, sweep or scale")


@plan.command("generate")
@click.argument("dest", type=NEW_DATASET, required=False)
@generation_options
@json_option
def plan_generate(dest: Location | None, config_source: str | None, assignments: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Estimate the cost of a dataset; takes the options of `generate`."""
    from .. import planning

    _emit(planning.plan_generate(resolve_data(config_source, assignments, flags)), as_json)


@plan.command("train")
@click.argument("dataset", type=DATASET)
@architecture_option
@click.option("--out", type=OUT, help="Taken, so that a train command can be planned as it stands; nothing is written.")
@click.option("--workers", default=1, type=click.IntRange(1), help="Ray Train workers (DDP).")
@click.option("--local", is_flag=True, help="Run in one process, without Ray.")
@config_options
@json_option
def plan_train(
    dataset: Location,
    out: Location | None,
    workers: int,
    local: bool,
    config_source: str | None,
    assignments: tuple[str, ...],
    as_json: bool,
    **flags: Any,
) -> None:
    """Estimate the cost of one training run."""
    from .. import planning

    _emit(planning.plan_train(resolve_config(config_source, assignments, **flags), dataset, 0 if local else workers), as_json)


@plan.command("sweep")
@click.argument("dataset", type=DATASET)
@architecture_option
@click.option("--trials", required=True, type=click.IntRange(1))
@click.option("--out", type=OUT, help="Folder of the sweep: the plan is kept there, beside what the sweep then takes.")
@click.option("--storage", metavar="URL", help="Taken, so that a sweep command can be planned as it stands; nothing is written there.")
@config_options
@json_option
def plan_sweep(
    dataset: Location,
    trials: int,
    out: Location | None,
    storage: str | None,
    config_source: str | None,
    assignments: tuple[str, ...],
    as_json: bool,
    **flags: Any,
) -> None:
    """Estimate the cost of a sweep on this machine, early stopping included."""
    from ...tune.sweeps import planning

    _emit(planning.plan_sweep(resolve_config(config_source, assignments, **flags), dataset, trials, out), as_json)


@plan.command("scale")
@click.argument("dataset", type=DATASET)
@study_options
@click.option("--out", type=OUT, help="The folder of the study; the plan is kept there, beside what the study then takes.")
@config_options
@json_option
def plan_scale(
    dataset: Location,
    names: str,
    sizes: str,
    seeds: int,
    draws: int,
    trajectories: str | None,
    out: Location | None,
    local: bool,
    config_source: str | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Estimate the cost of a dataset-size study on the CPUs of this machine; takes the options of `scale`."""
    from ...tune.commands import parse_names, parse_numbers, scale_config
    from ...tune.scaling.planning import plan_scale

    listed = parse_names(names)
    result = plan_scale(
        scale_config(config_source, assignments, listed),
        dataset,
        listed,
        parse_numbers("--sizes", sizes),
        seeds,
        draws=draws,
        trajectories=None if trajectories is None else parse_numbers("--trajectories", trajectories),
        out=out,
        local=local,
    )
    rows = [row | {"hours": f"{row['seconds'] / 3600:.3g}"} for row in result["contestants"]]
    table = format_table([{key: row[key] for key in ("name", "parameters", "runs", "steps", "seconds_per_step", "hours")} for row in rows])
    facts = format_facts({key: value for key, value in result.items() if key != "contestants"})
    emit(result, as_json, f"{table}\n{facts}")


def _emit(result: dict[str, Any], as_json: bool) -> None:
    emit(result, as_json, format_facts(result))


COMMANDS = (plan,)
