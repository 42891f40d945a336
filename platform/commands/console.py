"""What all commands have in common: options of the configuration tree, JSON output, one sentence for a user's mistake."""

import errno
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from ...physics import InputError
from ...physics.errors import StorageUnavailable
from ..config import Config, load_config, parse_assignments
from ..storage import Location, is_in_job_copy, locate

_USER_ERRNOS = {errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.EDQUOT, errno.EADDRINUSE, errno.ENOTDIR, errno.EISDIR}


class LocationType(click.ParamType):
    """A folder or file: a local path, or with `urls` also the URL of a store. With `made` it is one that the command writes."""

    name = "path"

    def __init__(self, *, urls: bool = False, made: bool = False) -> None:
        self._urls, self._made = urls, made

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Location:
        named = _name_of(param)
        try:
            place = locate(value)
        except InputError as error:
            raise InputError(f"{named}: {error}") from None
        if isinstance(place, Path):
            if self._made and is_in_job_copy(place):
                remedy = "give the absolute path of a folder that all nodes share" + (", or a URL such as s3://BUCKET/FOLDER" * self._urls)
                raise InputError(f"{named} is {str(place)!r}, which lies in the copy of the code that Ray deletes after the job; {remedy}")
        elif not self._urls:
            raise InputError(f"{named} is {str(place)!r}; it must be a local path")
        return place

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


def _name_of(param: click.Parameter | None) -> str:
    """An option as it is typed, or the name of an argument."""
    if param is None:
        return "path"
    return next((option for option in param.opts if option.startswith("--")), (param.name or "path").upper())


PATH = LocationType()  # is read
OUT = LocationType(urls=True, made=True)
LOCAL_OUT = LocationType(made=True)
DATASET = LocationType(urls=True)
MODEL = LocationType(urls=True)  # or the name of a shipped one
NEW_DATASET = LocationType(urls=True, made=True)


class _ModelFolder(LocationType):
    """A model folder; a run folder is refused with the path of the model in it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Location:
        folder = super().convert(value, param, ctx)
        if not (folder / "model.json").exists() and (folder / "model" / "model.json").exists():
            raise InputError(f"{str(folder)!r} is a run folder; its model is {str(folder / 'model')!r}")
        return folder


MODEL_FOLDER = _ModelFolder(urls=True)

architecture_option = click.option("--arch", "architecture__name", metavar="NAME", help="Architecture.  [default: mambonet]")
minutes_option = click.option(
    "--minutes",
    type=click.FloatRange(0.0, min_open=True),
    help="Stop in time, after a whole epoch; the same command continues (train: with --resume).  [default: no limit]",
)


def deadline_after(minutes: float | None) -> float | None:
    """The moment, as `time.time` counts, when `--minutes` are over. Ask for it first: imports take their time too."""
    if minutes is None:
        return None
    if math.isnan(minutes):  # which click's range lets through
        raise InputError("--minutes is nan; it must be a number above 0")
    return time.time() + 60.0 * minutes


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--config` and `--set`; the command receives `config_source` and `assignments`."""
    for option in (
        click.option(
            "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override one key, e.g. training.epochs=3; repeatable."
        ),
        click.option("--config", "config_source", metavar="FILE", help="YAML file, or the name of a shipped configuration."),
    ):
        command = option(command)
    return command


def study_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds what a dataset-size study consists of: `names`, `sizes`, `seeds`, `draws`, `trajectories` and `local`."""
    for option in (
        click.option("--local", is_flag=True, help="Run the cells one after another in one process, without Ray."),
        click.option(
            "--trajectories", metavar="K,L", help="Numbers of trajectories per potential; each contestant is studied with each of them."
        ),
        click.option(
            "--draws", default=1, show_default=True, type=click.IntRange(1), help="Parts of the dataset that every size is drawn from anew."
        ),
        click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="Runs on each draw, with seeds 0, 1, ..."),
        click.option("--sizes", required=True, metavar="N,M", help="Numbers of training rows."),
        click.option(
            "--arch",
            "names",
            default="mambonet",
            show_default=True,
            metavar="A,B",
            help="Architectures, with their default settings; or configurations, shipped ones by name.",
        ),
    ):
        command = option(command)
    return command


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--json`; the command receives `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Make the last line on stdout one JSON object with the result.")(command)


def resolve_config(config_source: str | None, assignments: tuple[str, ...], **flags: Any) -> Config:
    """The tree from a file, then `--set`, then flags (dotted keys, given as `data__seed=3`); None flags are left out."""
    return load_config(config_source, collect_overrides(assignments, flags))


def collect_overrides(assignments: tuple[str, ...], flags: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys of `--set`, then of flags, as `resolve_config` takes them."""
    named = {key.replace("__", "."): value for key, value in flags.items() if value is not None}
    return parse_assignments(assignments) | named


def emit(result: dict[str, Any], as_json: bool, text: str) -> None:
    """The result of a command: readable text, or one JSON object as the last line."""
    click.echo(json.dumps(result, allow_nan=False) if as_json else text)


def run_command(group: click.Command, arguments: list[str] | None = None) -> int:
    """Run a command line; exit code 0 on success, 2 with one sentence on stderr for a user's mistake or a store that is away."""
    try:
        code = group.main(arguments, prog_name="neural-hamilton", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        return _refuse(error.format_message())
    except (InputError, StorageUnavailable) as error:
        return _refuse(str(error))
    except OSError as error:
        if error.errno not in _USER_ERRNOS:
            raise
        return _refuse(f"{error.filename or 'input or output'}: {error.strerror}")
    except (click.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130


def _refuse(sentence: str) -> int:
    print(f"error: {' '.join(sentence.split())}", file=sys.stderr)
    return 2
