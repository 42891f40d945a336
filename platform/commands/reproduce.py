"""The command `reproduce`."""

from pathlib import Path
from typing import Any

import click

from ...physics.files import read_json
from .console import LOCAL_OUT, config_options, deadline_after, emit, json_option, minutes_option, resolve_config
from .tables import evaluation_table


@click.command()
@click.argument("ensemble")
@click.option("--out", required=True, type=LOCAL_OUT, help="Folder for the dataset, the run and the report; run again, it continues there.")
@minutes_option
@config_options
@json_option
def reproduce(
    ensemble: str, out: Path, minutes: float | None, config_source: str | None, assignments: tuple[str, ...], as_json: bool
) -> None:
    """Make the shipped model of ENSEMBLE from nothing.

    Its data, its training and its evaluation, without Ray. Each call does what --out still lacks and lists what is left. The
    default configuration is the shipped one for the ensemble: winner-... where there is a GPU, else shipped-....
    """
    deadline = deadline_after(minutes)
    from .. import reproduction

    if config_source is None:
        config_source = reproduction.default_config(ensemble)
        click.echo(f"configuration: {config_source}", err=True)
    result = reproduction.reproduce(resolve_config(config_source, assignments, data__ensemble__name=ensemble), out, deadline)
    emit(result, as_json, _text(result))


def _text(result: dict[str, Any]) -> str:
    if not result["finished"]:
        return f"left to do: {', '.join(result['left'])}; the same command continues"
    evaluation = read_json(Path(result["report"]).parent / "evaluation.json")
    return f"{evaluation_table(evaluation)}\nreport: {result['report']}\nmodel: {result['model']}"


COMMANDS = (reproduce,)
