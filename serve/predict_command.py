"""The command `predict`. Torch and matplotlib are imported when it runs."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from ..physics import InputError
from ..physics.files import write_file
from ..physics.potentials.tables import is_table_path
from ..physics.systems import Names
from ..platform.commands.console import LOCAL_OUT, MODEL, emit, json_option
from ..platform.storage import Location
from .parameters import is_parameters
from .shipped import choose_model, find_model, short_path

if TYPE_CHECKING:
    from .model import Model
    from .motion import Motion
    from .orbit import Orbit

_NAMES = Names("--potential", "--q0", "--p0", "--times")
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


class _Parameter(click.ParamType):
    """NAME=NUMBER; the command receives both."""

    name = "NAME=NUMBER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        name, _, number = value.partition("=")
        try:
            return name.strip(), float(number)
        except ValueError:
            self.fail(f"{value!r} is not a name and its number, such as D=4.6", param, ctx)


@click.command("predict", context_settings={"show_default": True})
@click.argument("model", required=False, type=MODEL)
@click.option(
    "--potential",
    required=True,
    help='V as arithmetic in q, such as "8*(q-0.5)**2", or in q1, q2, ... with several coordinates; or the parameters of the system, '
    'such as "mass=1, length=0.8". In your own units also with names of your own, or a file of points (x, U): .csv, .txt or .npy.',
)
@click.option(
    "--domain", nargs=2, type=float, metavar="A B", help="Your own units: where the potential is known.  [default: of a file, all of it]"
)
@click.option("--param", "parameters", multiple=True, type=_Parameter(), help="Your own units: a number for a name in the potential.")
@click.option("--mass", type=float, help="Your own units: the mass.  [default: 1]")
@click.option("--until", type=float, help="Your own units: the last time.  [default: one period]")
@click.option("--q0", type=_Coordinates(), help=f"Position at t = 0.  {_DEFAULT_POSITION}")
@click.option("--p0", type=_Coordinates(), help=f"Momentum at t = 0.  {_DEFAULT_STATE}")
@click.option("--times", default=100, type=click.IntRange(2, 10_000), help="Uniform query times up to the model's horizon, or --until.")
@click.option("--verify", default="solver", type=click.Choice(["none", "energy", "solver"]), help="How far to check the prediction.")
@click.option("--out", type=LOCAL_OUT, help="Write a plot (.png), a table (.csv) or everything (.json).")
@json_option
def predict_command(
    model: Location | None,
    potential: str,
    domain: tuple[float, float] | None,
    parameters: tuple[tuple[str, float], ...],
    mass: float | None,
    until: float | None,
    q0: tuple[float, ...] | None,
    p0: tuple[float, ...] | None,
    times: int,
    verify: Any,
    out: Path | None,
    as_json: bool,
) -> None:
    """Predict one trajectory with MODEL.

    MODEL is a model folder, its URL or the name of a shipped model. By default it is the shipped model that was trained for the given
    initial state; in your own units, the most accurate one.

    Your own units: with --domain, or with points in a file, the particle has any mass and moves along a line in any potential, from
    which it must come back. Times are then as long as you like.
    """
    if out is not None and out.suffix not in _WRITERS:
        raise InputError(f"--out is {str(out)!r}; its suffix must be one of {', '.join(_WRITERS)}")
    if domain is not None or is_table_path(potential):
        own = {"domain": domain, "parameters": dict(parameters), "mass": 1.0 if mass is None else mass, "until": until}
        result, record, lines, title = _predict_motion(model, potential, q0, p0, times, verify, own)
    else:
        given = {"--param": parameters or None, "--mass": mass, "--until": until}
        for option in [name for name, value in given.items() if value is not None][:1]:
            raise InputError(f"{option} is for your own units; give --domain A B too, between which the particle moves")
        result, record, lines, title = _predict_orbit(model, potential, q0, p0, times, verify)
    if out is not None:
        _write(out, _WRITERS[out.suffix](result, record, title))
        lines.append(f"wrote {out}")
    emit(record | {"out": None if out is None else str(out)}, as_json, "\n".join(lines))


_Predicted = tuple["Orbit | Motion", dict[str, Any], list[str], str]  # what was predicted, as JSON, in words, and its title


def _predict_orbit(model: Location | None, potential: str, q0: Any, p0: Any, times: int, verify: Any) -> _Predicted:
    folder = choose_model(q0, p0) if model is None else find_model(model)
    from .model import Model
    from .problems import Problem

    loaded = Model(folder)
    problem = Problem(potential, q0, p0, np.linspace(0.0, loaded.task.horizon, times), _NAMES)
    orbit = loaded.predict([problem], verify)[0]
    start = {"potential": potential, "q0": orbit.q0.tolist(), "p0": orbit.p0.tolist()}
    record = {"model": loaded.summary} | start | _arrays(orbit) | {"trust": _trust(orbit, verify)}
    lines = [_ranges(orbit, loaded.task.horizon), *_verdict(loaded, orbit, loaded.system.energy_scale_name)]
    coordinates = ", ".join(name for name in orbit.columns if name.startswith("q"))
    shown = _shortened(potential)
    what = f"{orbit.system.title}, {shown}" if is_parameters(potential, orbit.system) else f"V({coordinates}) = {shown}"
    return orbit, record, lines, f"{what}   ({_made_by(orbit)})"


def _predict_motion(model: Location | None, potential: str, q0: Any, p0: Any, times: int, verify: Any, own: dict[str, Any]) -> _Predicted:
    from .model import Model
    from .motion import MotionNames, MotionProblem, find_well_model, predict_motions

    if q0 is None:
        raise InputError("--q0 is missing; in your own units, say where the particle is at t = 0")
    names = MotionNames("--potential", "--param", "--domain", "--mass", "--q0", "--p0", "--times", "--until")
    problem = MotionProblem(potential, q0, 0.0 if p0 is None else p0, uniform_times=times, names=names, **own)
    loaded = Model(find_well_model(model))
    motion = predict_motions(loaded, [problem], verify)[0]
    facts = {"energy": motion.energy, "period": motion.period, "turning_points": list(motion.turning_points)}
    start = {"potential": potential} | own | {"domain": list(motion.domain), "q0": q0[0], "p0": p0[0] if p0 else 0.0}
    record = {"model": loaded.summary} | start | facts | _arrays(motion) | {"trust": _trust(motion, verify)}
    left, right = motion.turning_points
    lines = [
        _ranges(motion, motion.times.max()),
        f"period {motion.period:.9g}, between q = {left:.9g} and {right:.9g}, energy {motion.energy:.9g}",
        *_verdict(loaded, motion, "the energy above the lowest point"),
    ]
    return motion, record, lines, f"{_shortened(potential)}   ({_made_by(motion)})"


def _arrays(result: "Orbit | Motion") -> dict[str, Any]:
    return {name: getattr(result, name).tolist() for name in ("times", "q", "p")}


def _trust(result: "Orbit | Motion", verify: Any) -> dict[str, Any]:
    from .schema import trust_of

    return trust_of(result.trust, verify)


def _ranges(result: "Orbit | Motion", last: float) -> str:
    ranges = [f"{name} in [{values.min():.4f}, {values.max():.4f}]" for name, values in list(result.columns.items())[1:]]
    return f"{result.times.size} times on [0, {last:g}]; {', '.join(ranges)}"


def _verdict(model: "Model", result: "Orbit | Motion", energy_scale: str) -> list[str]:
    """By what a trajectory was computed, and how good it is."""
    trust, folder = result.trust, short_path(model.folder)
    if trust.source == "model":
        lines = [f"predicted by the model in {folder}"]
    elif trust.solver_error is None:
        lines = [f"computed by the solver: the prediction of the model in {folder} could not be trusted"]
    else:
        lines = [f"computed by the solver: the prediction of the model in {folder} is off by more than {model.solver_threshold:g}"]
    if trust.verdict == "undecided":
        lines.append("undecided: the model may be wrong, or the solver, which has the same sensors")
    if trust.solver_error is not None:
        lines.append(f"largest difference between model and solver: {trust.solver_error:.3g}")
    if trust.reference_error is not None:
        lines.append(f"estimated error of the solver: {trust.reference_error:.3g}")
    if trust.energy_drift is not None:
        lines.append(f"energy drift: {trust.energy_drift:.3g} of {energy_scale}")
    if trust.sensor_error is not None:
        lines.append(f"what the sensors cannot resolve of the potential: {trust.sensor_error:.3g} of {energy_scale}")
    return lines


def _made_by(result: "Orbit | Motion") -> str:
    return "predicted by the model" if result.trust.source == "model" else "computed by the solver"


def _shortened(potential: str) -> str:
    return potential if len(potential) <= 80 else f"{potential[:79]}…"


def _write(path: Path, content: bytes) -> None:
    try:
        write_file(path, content)
    except OSError as error:
        raise InputError(f"--out is {str(path)!r}, which cannot be written: {error.strerror}") from None


def _table(result: "Orbit | Motion", *_: Any) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(result.columns)
    writer.writerows(zip(*(column.tolist() for column in result.columns.values()), strict=True))
    return text.getvalue().encode()


def _document(_: "Orbit | Motion", record: dict[str, Any], __: str) -> bytes:
    return (json.dumps(record, indent=2) + "\n").encode()


def _plot(result: "Orbit | Motion", _: dict[str, Any], title: str) -> bytes:
    content = io.BytesIO()
    result.plot(title).savefig(content, format="png", dpi=120)
    return content.getvalue()


_WRITERS: dict[str, Callable[["Orbit | Motion", dict[str, Any], str], bytes]] = {".png": _plot, ".csv": _table, ".json": _document}
