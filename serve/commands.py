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

from ..physics import InputError
from ..physics.files import write_file
from ..physics.systems import Names
from ..platform.commands.console import config_options, emit, json_option, resolve_config
from .parameters import is_parameters
from .shipped import choose_model, find_model

if TYPE_CHECKING:
    from .model import Model
    from .orbit import Orbit

_SETTINGS = {"show_default": True}
_OPTIONS = Names("--potential", "--q0", "--p0", "--times")
_DEFAULT_STATE = "[default: the model's only initial state, else 0]"
_DEFAULT_POSITION = "[default: the model's only initial state, else 0, or the domain's centre with several coordinates]"


class _Coordinates(click.ParamType):
    """A number, or numbers separated by commas; the command receives a tuple."""

    name = "NUMBER[,...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        try:
            return tuple(float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a number, nor numbers separated by commas", param, ctx)


@click.command("serve", context_settings=_SETTINGS)
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option("--host", help="Address to listen on; 0.0.0.0 opens it to the network, without any login.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on.  [default: 8000]")
@config_options
@json_option
def serve_command(
    model: Path | None, host: str | None, port: int | None, config_source: str | None, assignments: tuple[str, ...], as_json: bool
) -> None:
    """Serve MODEL over HTTP with Ray Serve.

    Ctrl-C or SIGTERM ends it. MODEL is a model folder or the name of a shipped model. By default it is the shipped model that
    `predict` uses when no initial state is given.
    """
    settings = resolve_config(config_source, assignments, serving__host=host, serving__port=port).serving
    folder = choose_model() if model is None else find_model(model)
    from ..architectures import load_model

    load_model(folder)  # report a damaged model here, not in the log of a replica
    from ..platform.ray_runtime import connect

    with _until_signal() as wait:
        connect()
        from . import application

        url = application.start(folder, **settings.model_dump())
        try:
            emit({"url": url, "model": str(folder)}, as_json, f"serving {_short(folder)} at {url} (Ctrl-C stops it)")
            wait()
        finally:
            application.stop()
    click.echo("stopped", err=True)


@click.command("predict", context_settings=_SETTINGS)
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option(
    "--potential",
    required=True,
    help='V as arithmetic in q, such as "8*(q-0.5)**2", or in q1, q2, ... with several coordinates; or the parameters of the system, '
    'such as "mass=1, length=0.8".',
)
@click.option("--q0", type=_Coordinates(), help=f"Position at t = 0.  {_DEFAULT_POSITION}")
@click.option("--p0", type=_Coordinates(), help=f"Momentum at t = 0.  {_DEFAULT_STATE}")
@click.option("--times", default=100, type=click.IntRange(2, 10_000), help="Uniform query times up to the model's horizon.")
@click.option("--verify", default="solver", type=click.Choice(["none", "energy", "solver"]), help="How far to check the prediction.")
@click.option("--out", type=click.Path(path_type=Path), help="Write a plot (.png), a table (.csv) or everything (.json).")
@json_option
def predict_command(
    model: Path | None,
    potential: str,
    q0: tuple[float, ...] | None,
    p0: tuple[float, ...] | None,
    times: int,
    verify: Any,
    out: Path | None,
    as_json: bool,
) -> None:
    """Predict one trajectory with MODEL.

    MODEL is a model folder or the name of a shipped model. By default it is the shipped model that was trained for the given
    initial state.
    """
    if out is not None and out.suffix not in _WRITERS:
        raise InputError(f"--out is {str(out)!r}; its suffix must be one of {', '.join(_WRITERS)}")
    folder = choose_model(q0, p0) if model is None else find_model(model)
    from .model import Model
    from .problems import Problem

    loaded = Model(folder)
    problem = Problem(potential, q0, p0, np.linspace(0.0, loaded.task.horizon, times), _OPTIONS)
    orbit = loaded.predict([problem], verify)[0]
    record = _record(loaded, orbit, potential, verify)
    if out is not None:
        _write(out, _WRITERS[out.suffix](orbit, record))
    emit(record | {"out": None if out is None else str(out)}, as_json, "\n".join(_summarise(loaded, orbit, out)))


@contextlib.contextmanager
def _until_signal() -> Iterator[Callable[[], Any]]:
    """A function that waits for Ctrl-C or SIGTERM. A signal before it waits interrupts what is being started."""
    stopped, waiting = threading.Event(), threading.Event()

    def receive(*_: Any) -> None:
        stopped.set()
        if not waiting.is_set():
            raise KeyboardInterrupt

    def wait() -> None:
        # Ray installs a SIGTERM handler of its own when it starts, so these are put in place again.
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


def _record(model: "Model", orbit: "Orbit", potential: str, verify: Any) -> dict[str, Any]:
    """Everything about a prediction, as JSON holds it."""
    from .schema import trust_of

    columns = {name: getattr(orbit, name).tolist() for name in ("times", "q", "p")}
    start = {"q0": orbit.q0.tolist(), "p0": orbit.p0.tolist()}
    return {"model": model.summary, "potential": potential} | start | columns | {"trust": trust_of(orbit, verify)}


def _summarise(model: "Model", orbit: "Orbit", out: Path | None) -> list[str]:
    ranges = [f"{name} in [{values.min():.4f}, {values.max():.4f}]" for name, values in list(orbit.columns.items())[1:]]
    trust = orbit.trust
    lines = [
        f"{orbit.times.size} times on [0, {model.task.horizon:g}]; {', '.join(ranges)}",
        f"predicted by the model in {_short(model.folder)}" if trust.source == "model" else _overruled(model, orbit),
    ]
    if trust.solver_error is not None:
        lines.append(f"largest difference between model and solver: {trust.solver_error:.3g}")
    if trust.energy_drift is not None:
        lines.append(f"energy drift: {trust.energy_drift:.3g} of {model.system.energy_scale_name}")
    return lines + ([] if out is None else [f"wrote {out}"])


def _overruled(model: "Model", orbit: "Orbit") -> str:
    """Why the solver's trajectory stands in place of the model's."""
    error, threshold = orbit.trust.solver_error, model.solver_threshold
    if error is None:
        return f"computed by the solver: the prediction of the model in {_short(model.folder)} could not be trusted"
    return f"computed by the solver: the prediction of the model in {_short(model.folder)} is off by more than {threshold:g}"


def _short(folder: Path) -> Path:
    """Relative to the working directory, if it is inside it."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _write(path: Path, content: bytes) -> None:
    try:
        write_file(path, content)
    except OSError as error:
        raise InputError(f"--out is {str(path)!r}, which cannot be written: {error.strerror}") from None


def _table(orbit: "Orbit", _: dict[str, Any]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(orbit.columns)
    writer.writerows(zip(*(column.tolist() for column in orbit.columns.values()), strict=True))
    return text.getvalue().encode()


def _document(_: "Orbit", record: dict[str, Any]) -> bytes:
    return (json.dumps(record, indent=2) + "\n").encode()


def _plot(orbit: "Orbit", record: dict[str, Any]) -> bytes:
    content = io.BytesIO()
    orbit.plot(_title(orbit, record["potential"])).savefig(content, format="png", dpi=120)
    return content.getvalue()


def _title(orbit: "Orbit", potential: str) -> str:
    shown = potential if len(potential) <= 80 else f"{potential[:79]}…"
    coordinates = ", ".join(name for name in orbit.columns if name.startswith("q"))
    what = f"{orbit.system.title}, {shown}" if is_parameters(potential, orbit.system) else f"V({coordinates}) = {shown}"
    return f"{what}   ({'predicted by the model' if orbit.trust.source == 'model' else 'computed by the solver'})"


_WRITERS: dict[str, Callable[["Orbit", dict[str, Any]], bytes]] = {".png": _plot, ".csv": _table, ".json": _document}

COMMANDS = (serve_command, predict_command)
