"""The commands `generate`, `import` and `inspect`."""

import contextlib
from pathlib import Path
from typing import Any

import click

from ...physics import InputError
from ..config import DataConfig, load_data_config
from ..storage import Location
from .console import DATASET, NEW_DATASET, PATH, collect_overrides, config_options, emit, json_option
from .tables import format_facts


def generation_options(command: Any) -> Any:
    """The options that describe a dataset."""
    for option in (
        click.option(
            "--dtype", "data__dtype", type=click.Choice(["float32", "float64"]), help="Type of the tensor columns.  [default: float32]"
        ),
        click.option("--noise", "data__noise", type=float, help="Standard deviation of the noise on the sensors.  [default: 0]"),
        click.option("--seed", "data__seed", type=int, help="[default: 0]"),
        click.option("--times", "data__times", type=int, help="Query times of a trajectory.  [default: 100]"),
        click.option(
            "--sensors", "data__sensors", type=int, help="Uniform sensors of V along every axis.  [default: the system's, 100 for well]"
        ),
        click.option("--ensemble", "data__ensemble__name", metavar="NAME", help="Distribution of problems.  [default: the system's first]"),
        click.option("--system", "data__system", metavar="NAME", help="Hamiltonian system.  [default: well]"),
        click.option("--test", "data__test", type=int, help="Rows of the test split.  [default: 0]"),
        click.option("--val", "data__val", type=int, help="Rows of the validation split.  [default: 0]"),
        click.option("--train", "data__train", type=int, help="Rows of the training split.  [default: 0]"),
    ):
        command = option(command)
    return config_options(command)


def resolve_data(config_source: str | None, assignments: tuple[str, ...], flags: dict[str, Any]) -> DataConfig:
    """The section `data` as a file, `--set` and the options describe it."""
    data = load_data_config(config_source, collect_overrides(assignments, flags))
    if sum(data.counts.values()) == 0:
        raise InputError("--train, --val and --test are all 0; ask for at least one row")
    return data


@click.command()
@click.argument("dest", type=NEW_DATASET)
@generation_options
@click.option("--workers", type=click.IntRange(1), help="Tasks at once.  [default: one per CPU]")
@click.option("--local", is_flag=True, help="Run in this process, on threads, without Ray.")
@json_option
def generate(
    dest: Location, config_source: str | None, assignments: tuple[str, ...], workers: int | None, local: bool, as_json: bool, **flags: Any
) -> None:
    """Write a dataset of certified trajectories to DEST, a folder or a URL.

    Ray Data runs the tasks. Run again, the command completes what is missing or damaged and changes nothing else.
    """
    data = resolve_data(config_source, assignments, flags)
    from ..data.generation import generate as run

    manifest = run(dest, data, workers=workers, local=local)
    rejected = sum(manifest["rejections"].values())
    counts = ", ".join(f"{split} {count}" for split, count in manifest["counts"].items())
    text = f"dataset {dest}: {counts} rows, {rejected} draws rejected, hash {manifest['dataset_hash'][:16]}"
    emit({key: value for key, value in manifest.items() if key != "files"} | {"dataset": str(dest)}, as_json, text)


@click.command("import")
@click.argument("source", type=PATH)
@click.argument("dest", type=NEW_DATASET)
@click.option("--system", default="well", metavar="NAME", help="Hamiltonian system of the trajectories.")
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="NAME=COLUMN",
    help="What SOURCE calls the column NAME: potential, times, q, p, q0, p0, potential_id or split; repeatable.",
)
@click.option("--until", type=float, metavar="T", help="Without a column of times: they are uniform from 0 to T.")
@click.option("--val", type=float, help="Fraction of the rows for the validation split.  [default: 0.1]")
@click.option("--test", type=float, help="Fraction of the rows for the test split.  [default: 0.1]")
@click.option("--seed", default=0, type=click.IntRange(0), help="Of the division into splits and the order of rows.")
@click.option("--noise", default=0.0, type=click.FloatRange(0.0), help="Standard deviation of the noise that the sensors of SOURCE have.")
@click.option("--dtype", default="float32", type=click.Choice(["float32", "float64"]), help="Type of the tensor columns.")
@json_option
def import_rows(
    source: Path, dest: Location, columns: tuple[str, ...], val: float | None, test: float | None, as_json: bool, **options: Any
) -> None:
    """Write trajectories made elsewhere, in SOURCE, as a dataset to DEST, a folder or a URL.

    SOURCE is an .npz, .csv, .h5 or .parquet file with a row for each trajectory. Rows are checked, and carry no certificate. All rows of
    a potential are in one split.
    """
    from ..data.importing import ImportOptions, import_dataset

    named = dict(_split_at_equals(text) for text in columns)
    if "split" in named and (val is not None or test is not None):
        raise InputError(f"--val and --test divide the rows, and column {named['split']!r} holds their splits; leave one of them out")
    fractions = {name: value for name, value in (("val", val), ("test", test)) if value is not None}
    manifest = import_dataset(source, dest, ImportOptions(columns=named, **fractions, **options))
    counts = ", ".join(f"{split} {count}" for split, count in manifest["counts"].items())
    text = f"dataset {dest}: {counts} imported rows, without certificates; hash {manifest['dataset_hash'][:16]}"
    emit({key: value for key, value in manifest.items() if key != "files"} | {"dataset": str(dest)}, as_json, text)


def _split_at_equals(text: str) -> tuple[str, str]:
    name, equals, column = text.partition("=")
    if not (name and equals and column):
        raise InputError(f"--column is {text!r}; give NAME=COLUMN, such as potential=V")
    return name, column


@click.command()
@click.argument("dataset", type=DATASET)
@click.option("--recheck", default=0, type=click.IntRange(0), help="Random rows to integrate again with an independent solver.")
@json_option
def inspect(dataset: Location, recheck: int, as_json: bool) -> None:
    """Check DATASET, and show what it holds.

    Shows schema, counts, checksums and certificates; fails where anything is wrong.
    """
    from ..data.inspection import inspect_dataset
    from ..progress import track

    with track("recheck", recheck) if recheck else contextlib.nullcontext() as progress:
        report = inspect_dataset(dataset, recheck, progress.advance if progress else lambda: None)
    lines = [format_facts({key: value for key, value in report.items() if key not in ("dataset", "problems", "dataset_hash")})]
    if report["problems"]:
        click.echo("\n".join(lines))
        command = "import" if "imported" in report else "generate"
        raise InputError(f"dataset {str(dataset)!r}: {'; '.join(report['problems'])}; run {command} again to repair it")
    verdict = "no problems found" + ("; the rows were imported and carry no certificate" if "imported" in report else "")
    emit(report, as_json, "\n".join([*lines, verdict]))


COMMANDS = (generate, import_rows, inspect)
