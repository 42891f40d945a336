"""The commands `evaluate` and `compare`."""

import click

from ..storage import Location
from .console import DATASET, MODEL_FOLDER, OUT, config_options, emit, json_option, resolve_config
from .tables import benchmark_lines, comparison_table, evaluation_table


@click.command()
@click.argument("model", type=MODEL_FOLDER)
@click.option("--dataset", required=True, type=DATASET, help="Dataset folder, or its URL.")
@click.option("--split", default="test", help="train, val or test.")
@click.option("--out", required=True, type=OUT, help="Folder for evaluation.json, trajectories.parquet, report.html and figures.")
@click.option("--record", is_flag=True, help="Write the results to the model folder: its card, and the threshold that serving uses.")
@click.option("--scaling", type=DATASET, help="With --record: a folder of `scale`, whose losses against training rows the card shows.")
@config_options
@json_option
def evaluate(
    model: Location,
    dataset: Location,
    split: str,
    out: Location,
    record: bool,
    scaling: Location | None,
    config_source: str | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure MODEL, a model folder or its URL, against working solvers.

    Writes a self-contained report.
    """
    from ..evaluation import evaluate as run

    result = run(model, dataset, out, split, resolve_config(config_source, assignments).evaluation, record=record, scaling=scaling)
    page = out / "report.html"
    words = [evaluation_table(result), *benchmark_lines(result["benchmark"]), f"report: {page}"]
    emit(result | {"report": str(page)}, as_json, "\n".join(words))


@click.command()
@click.argument("models", type=MODEL_FOLDER, nargs=-1, required=True)
@click.option("--dataset", required=True, type=DATASET, help="Dataset folder, or its URL.")
@click.option("--split", default="test", help="train, val or test.")
@click.option("--out", required=True, type=OUT, help="Folder for comparison.json, comparison.html and figures.")
@config_options
@json_option
def compare(
    models: tuple[Location, ...],
    dataset: Location,
    split: str,
    out: Location,
    config_source: str | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure MODELS, model folders or their URLs, on the same problems.

    The results are one table.
    """
    from ..evaluation import compare as run

    result = run(list(models), dataset, out, split, resolve_config(config_source, assignments).evaluation)
    page = out / "comparison.html"
    emit(result | {"report": str(page)}, as_json, f"{comparison_table(result)}\nreport: {page}")


COMMANDS = (evaluate, compare)
