"""The commands `serve` and `predict`. Ray, torch and matplotlib are imported by the command that needs them."""

import contextlib
import csv
import io
import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from ..physics import InputError, evaluate_expression
from ..physics.files import write_file
from ..platform.commands.console import MODEL_FOLDER, config_options, emit, json_option, resolve_config
from .predictor import SHIPPED_MODEL, SHIPPED_MODELS

if TYPE_CHECKING:
    from .predictor import Answer

_HORIZON = 2.0


@click.command("serve")
@click.argument("model", required=False, type=MODEL_FOLDER)
@click.option("--host", help="Address to listen on; 0.0.0.0 opens it to the network, without any login.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on.  [default: 8000]")
@config_options
@json_option
def serve_command(
    model: Path | None, host: str | None, port: int | None, config_source: str | None, assignments: tuple[str, ...], as_json: bool
) -> None:
    """Serve MODEL over HTTP with Ray Serve, until Ctrl-C or SIGTERM.

    MODEL is a model folder or the name of a shipped model: `paper` (the default) knows starts from rest at the left wall,
    `phase-space` all starts below the walls.
    """
    settings = resolve_config(config_source, assignments, serving__host=host, serving__port=port).serving
    folder = _find_model(model)
    from ..architectures import load_model

    load_model(folder)  # a damaged model should be told here, not in the log of a replica
    from ..platform.ray_runtime import connect

    with _until_signal() as wait:
        connect()
        from . import application

        url = application.start(folder, **settings.model_dump())
        try:
            emit({"url": url, "model": str(folder)}, as_json, f"serving {folder} at {url} (Ctrl-C stops it)")
            wait()
        finally:
            application.stop()
    click.echo("stopped", err=True)


@click.command("predict")
@click.argument("model", required=False, type=MODEL_FOLDER)
@click.option("--potential", required=True, help='V(q) as arithmetic in q, such as "8*(q-0.5)**2"; 2 at both walls.')
@click.option("--q0", default=0.0, help="Position at t = 0.")
@click.option("--p0", default=0.0, help="Momentum at t = 0.")
@click.option("--times", default=100, type=click.IntRange(2, 10_000), help="Uniform query times on [0, 2].")
@click.option("--verify", default="solver", type=click.Choice(["none", "energy", "solver"]), help="How far to check the answer.")
@click.option("--out", type=click.Path(path_type=Path), help="Write a plot (.png), a table (.csv) or everything (.json).")
@json_option
def predict_command(
    model: Path | None, potential: str, q0: float, p0: float, times: int, verify: Any, out: Path | None, as_json: bool
) -> None:
    """Answer one trajectory with MODEL.

    MODEL is a model folder or the name of a shipped model; without it, `paper` answers from (0, 0) and `phase-space` from
    elsewhere.
    """
    if out is not None and out.suffix not in _WRITERS:
        raise InputError(f"--out is {str(out)!r}; its suffix must be one of {', '.join(_WRITERS)}")
    folder = _find_model(model, SHIPPED_MODEL if (q0, p0) == (0.0, 0.0) else SHIPPED_MODELS / "orbitnet-phase-space")
    from .predictor import Predictor, Query
    from .schema import trust_of

    predictor = Predictor(folder)
    try:
        answer = predictor.predict([Query(potential, q0, p0, np.linspace(0.0, _HORIZON, times))], verify)[0]
    except InputError as error:
        raise InputError(_as_options(str(error))) from None
    record = {
        "model": predictor.summary,
        "potential": potential,
        "q0": q0,
        "p0": p0,
        "times": answer.times.tolist(),
        "q": answer.q.tolist(),
        "p": answer.p.tolist(),
        "trust": trust_of(answer, verify),
    }
    if out is not None:
        _write(out, _WRITERS[out.suffix](record))
    emit(record | {"out": None if out is None else str(out)}, as_json, "\n".join(_summarise(answer, folder, out)))


def _find_model(model: Path | None, default: Path = SHIPPED_MODEL) -> Path:
    """The folder of a model that was named or not; a folder goes before a shipped model of the same name."""
    from ..architectures import read_card

    folder = default if model is None else model
    if not folder.exists() and len(folder.parts) == 1 and (SHIPPED_MODELS / folder).exists():
        folder = SHIPPED_MODELS / folder
    if model is None and not folder.exists():
        raise InputError(f"MODEL was not given and no model is shipped at {folder}; give a model folder")
    read_card(folder)
    return folder


@contextlib.contextmanager
def _until_signal() -> Iterator[Callable[[], Any]]:
    """A function that waits for Ctrl-C or SIGTERM. A signal before it waits interrupts what is being started."""
    stopped, waiting = threading.Event(), threading.Event()

    def receive(*_: Any) -> None:
        stopped.set()
        if not waiting.is_set():
            raise KeyboardInterrupt

    def wait() -> None:
        # Ray installs a SIGTERM handler of its own when it starts, so ours are put in place again.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, receive)
        waiting.set()
        stopped.wait()

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wait
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _as_options(sentence: str) -> str:
    """The predictor's sentence with its fields named as on the command line."""
    for field, option in (("expression", "--potential"), ("q0", "--q0"), ("p0", "--p0"), ("times", "--times")):
        sentence = sentence.replace(f"trajectories[0].{field}", option)
    return sentence.replace("trajectories[0]", "--potential")


def _summarise(answer: "Answer", folder: Path, out: Path | None) -> list[str]:
    ranges = [f"{name} in [{values.min():.4f}, {values.max():.4f}]" for name, values in (("q", answer.q), ("p", answer.p))]
    lines = [
        f"{answer.times.size} times on [0, {_HORIZON:g}]; {', '.join(ranges)}",
        f"answered by the {f'model in {_short(folder)}' if answer.source == 'model' else 'solver'}",
    ]
    if answer.solver_error is not None:
        lines.append(f"largest difference between model and solver: {answer.solver_error:.3g}")
    if answer.energy_drift is not None:
        lines.append(f"energy drift: {answer.energy_drift:.3g} of the depth of the well")
    return lines + ([] if out is None else [f"wrote {out}"])


def _short(folder: Path) -> Path:
    """Relative to where we are, if it is below."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _write(path: Path, content: bytes) -> None:
    try:
        write_file(path, content)
    except OSError as error:
        raise InputError(f"--out is {str(path)!r}, which cannot be written: {error.strerror}") from None


def _table(record: dict[str, Any]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["t", "q", "p"])
    writer.writerows(zip(record["times"], record["q"], record["p"], strict=True))
    return text.getvalue().encode()


def _document(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, indent=2) + "\n").encode()


def _plot(record: dict[str, Any]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    positions = np.linspace(0.0, 1.0, 400)
    potential = evaluate_expression(record["potential"], positions)
    energy = 0.5 * record["p0"] ** 2 + float(evaluate_expression(record["potential"], np.array([record["q0"]]))[0])
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2)
    t, q, p = (record[name] for name in ("times", "q", "p"))
    curves = (("q", "V", positions, potential), ("q", "p", q, p), ("t", "q", t, q), ("t", "p", t, p))
    for axes, (x_label, y_label, x, y) in zip(panels.flat, curves, strict=True):
        axes.plot(x, y)
        axes.set(xlabel=f"${x_label}$", ylabel=f"${y_label}$")
        axes.grid(alpha=0.3)
    panels[0, 0].axhline(energy, color="tab:red", linestyle="--", label="energy")
    panels[0, 0].legend()
    # Not as mathematics: an expression may hold what matplotlib's mathtext would try to read.
    figure.suptitle(f"V(q) = {record['potential'][:80]}   (answered by the {record['trust']['source']})", parse_math=False)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()


_WRITERS: dict[str, Callable[[dict[str, Any]], bytes]] = {".png": _plot, ".csv": _table, ".json": _document}

COMMANDS = (serve_command, predict_command)
