"""The JSON of POST /v1/trajectories and POST /v1/potential, as Pydantic models."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from ..physics import InputError
from ..physics.errors import unknown_key
from ..physics.systems import Names
from .motion import Motion, MotionNames, MotionProblem
from .orbit import Orbit, Source, Trust, Verdict, Verify
from .problems import MAX_TIMES, Problem
from .solutions import MAX_REFERENCES, Reference

MAX_TRAJECTORIES = 1024
MAX_POINTS_OF_A_TABLE = 10_000
MAX_PLACES = 201  # along an axis of the grid on which V is evaluated
_MAX_REPORTED = 3  # errors reported at once; a wrong batch would fill pages

# The parts of a problem, in JSON and as columns; first the three forms of a potential.
_POTENTIALS = ("potential", "expression", "table")
PARTS = (*_POTENTIALS, "domain", "parameters", "mass", "q0", "p0", "times")

Body = TypeVar("Body", bound=BaseModel)
Number = Annotated[float, Field(allow_inf_nan=False)]
# A list stops at its first wrong entry: millions of errors would take minutes and gigabytes, to report three.
Numbers = Annotated[list[Number], Field(fail_fast=True)]
_SHAPES = ("number", "list", "grid")  # how deep a value is nested; part of no error message


def _shape_of(value: Any) -> str:
    depth = 0
    while isinstance(value, list) and depth < 2:
        value, depth = value[0] if value else None, depth + 1
    return _SHAPES[depth]


_List = Annotated[Numbers, Tag("list")]
Coordinates = Annotated[Annotated[Number, Tag("number")] | _List, Discriminator(lambda value: _shape_of(value).replace("grid", "list"))]
_Grid = Annotated[list[Numbers], Field(fail_fast=True), Tag("grid")]
Sensors = Annotated[_List | _Grid, Discriminator(lambda value: _shape_of(value).replace("number", "list"))]


class _Strict(BaseModel):
    """Unknown keys, numbers in quotes, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


_EXPRESSION = (
    "V as arithmetic in q, or in q1, q2, ... with several degrees of freedom; or the parameters of the system, such as mass=1, length=0.8"
)
_Q0 = (
    "inside the domain; a list with several degrees of freedom; by default the model's only initial state, "
    "else 0, or the centre of the domain with several degrees of freedom"
)
_MODEL = "a name of GET /v1/models; by default the best for what is asked"
_P0 = "like q0, by default the model's only initial state, else 0"


class _Particle(_Strict):
    """The fields that both requests share: a particle, in the model's units or in your own."""

    expression: str | None = Field(None, description=_EXPRESSION, examples=["8*(q-0.5)**2"])
    table: Annotated[list[Annotated[list[Number], Field(min_length=2, max_length=2)]], Field(fail_fast=True)] | None = Field(
        None, max_length=MAX_POINTS_OF_A_TABLE, description="points (x, U) in your own units, joined by a cubic spline"
    )
    domain: Numbers | None = Field(
        None, min_length=2, max_length=2, description="in your own units: where the potential is known; by default all of a table"
    )
    parameters: dict[str, Number] | None = Field(None, description="in your own units: numbers for names in the expression")
    mass: Number | None = Field(None, description="in your own units; 1 by default")
    q0: Coordinates | None = Field(None, description=_Q0)
    p0: Coordinates | None = Field(None, description=_P0)

    @property
    def has_own_units(self) -> bool:
        return _has_own_units(self._given)

    @property
    def _given(self) -> dict[str, Any]:
        return {name: value for name in PARTS if (value := getattr(self, name, None)) is not None}


class TrajectoryRequest(_Particle):
    """One problem: exactly one of `potential`, `expression` and `table`.

    The domain and the horizon are those of GET /v1/model, and everything is dimensionless. With `domain` or `table` the particle moves in
    units of your own: it has any mass and moves along a line in any potential, from which it must come back, for any times.
    """

    potential: Sensors | None = Field(
        None, description="V at the model's uniform sensors over the domain; a list of lists with two degrees of freedom"
    )
    times: Numbers | None = Field(
        None,
        min_length=1,
        max_length=MAX_TIMES,
        description="from 0 to the horizon, in any order, by default 100 uniform; in your own units any, by default over a period",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "TrajectoryRequest":
        check_parts(self._given)
        return self

    def to_problem(self, index: int) -> Problem | MotionProblem:
        """The problem, with its fields named as in the request."""
        times = {} if self.times is None else {"times": np.array(self.times)}  # a fifth of the memory of a list, while it waits
        return as_problem(self._given | times, f"trajectories[{index}].")


class TrajectoriesRequest(_Strict):
    """A batch; `verify` sets how far to check the predictions: not, by energy, or against a solver."""

    trajectories: Annotated[list[TrajectoryRequest], Field(fail_fast=True)] = Field(min_length=1, max_length=MAX_TRAJECTORIES)
    verify: Verify = "energy"
    reference: bool = Field(
        False, description=f"the solver's q and p, and H along the prediction, beside each of at most {MAX_REFERENCES} trajectories"
    )
    model: str | None = Field(None, description=_MODEL)


class PotentialRequest(_Particle):
    """A potential to draw, and the particle whose energy is wanted; exactly one of `expression` and `table`.

    The domain is that of GET /v1/model, or with `domain` or `table` your own.
    """

    model: str | None = Field(None, description=_MODEL)
    places: int = Field(65, ge=2, le=MAX_PLACES, description="along each axis, uniform, ends of the domain included")

    @model_validator(mode="after")
    def _fits_together(self) -> "PotentialRequest":
        if (self.expression is None) == (self.table is None):
            raise ValueError("give exactly one of expression and table")
        _check_units(self._given)
        return self

    @property
    def _has_own_units(self) -> bool:
        return self.domain is not None or self.table is not None

    def to_problem(self) -> Problem | MotionProblem:
        """The problem, with its fields named as in the request."""
        return as_problem(self._given, "")


class PotentialResponse(_Strict):
    """V at the places of the grid, for two degrees of freedom one list for each place along q1; and H of the initial state.

    `energy` is null in your own units without `q0`.
    """

    domain: list[list[float]] = Field(description="smallest and largest place along each coordinate")
    values: list[float] | list[list[float]]
    energy: float | None


class TrustBody(_Strict):
    """How far a trajectory can be trusted; null stands for what was not asked for, or cannot be estimated."""

    energy_drift: float | None = Field(description="max abs(H - H0) over the energy scale")
    solver_error: float | None = Field(
        None, description="largest difference of the model's q or p from a reference solution; there with verify=solver only"
    )
    reference_error: float | None = Field(description="estimated error of the reference solution, where there was one")
    sensor_error: float | None = Field(
        description="what the sensors cannot resolve of an expression: its largest difference from an interpolation, over the energy scale"
    )
    source: Source = Field(description="whose trajectory it is")
    verdict: Verdict | None = Field(
        description="whether the prediction passed the check, was replaced by the reference, or may be right where the reference is off"
    )


class ReferenceBody(_Strict):
    """The solver's trajectory, in the shapes of the prediction, with a bound on the absolute error of any q or p.

    In your own units the bound is null: the quadrature is exact to 1e-9 of the ranges of q and p. Where there is no reference, `refusal`
    gives the reason. `energies` is H along the prediction, in V as it was given; null where V is not finite there.
    """

    q: list[float] | list[list[float]] | None
    p: list[float] | list[list[float]] | None
    error_bound: float | None
    energies: list[float] | None
    refusal: str | None


class TrajectoryBody(_Strict):
    """q and p have one number per time, or one list of d numbers with d degrees of freedom.

    In units of your own, `energy`, `period` and `turning_points` of the motion come with them; with reference=true, `reference`.
    """

    times: list[float]
    q: list[float] | list[list[float]]
    p: list[float] | list[list[float]]
    trust: TrustBody
    energy: float | None = None
    period: float | None = None
    turning_points: list[float] | None = None
    reference: ReferenceBody | None = None


class ModelSummary(_Strict):
    name: str
    architecture: str
    system: str
    num_sensors: int
    num_parameters: int | None
    weights_sha256: str | None
    drift_threshold: float | None


class TrajectoriesResponse(_Strict):
    model: ModelSummary
    trajectories: list[TrajectoryBody]


class Refusal(_Strict):
    """Any refusal: one sentence that names the field, the value received and the values allowed."""

    detail: str


def parse_request(model: type[Body], body: bytes) -> Body:
    """The request in a JSON body; InputError names each field that does not fit."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=True)
        reported = [_sentence(problem, model) for problem in problems[:_MAX_REPORTED]]
        rest = len(problems) - len(reported)
        raise InputError("; ".join(reported) + (f"; and {rest} more" if rest > 0 else "")) from None


def check_parts(given: Mapping[str, Any]) -> None:
    """Whether the parts of one problem that were given, by name, fit together; ValueError where they do not."""
    if sum(name in given for name in _POTENTIALS) != 1:
        raise ValueError("give exactly one of potential, expression and table")
    if "potential" in given and "domain" in given:
        raise ValueError("potential holds the model's sensors; in your own units, with domain, give expression or table")
    _check_units(given)
    if _has_own_units(given) and "q0" not in given:
        raise ValueError("q0 is missing; in your own units, give the place of the particle at t = 0")


def _check_units(given: Mapping[str, Any]) -> None:
    for name in () if _has_own_units(given) else ("parameters", "mass"):
        if name in given:
            raise ValueError(f"{name} is for your own units; give domain too, between which the particle moves")


def as_problem(given: Mapping[str, Any], prefix: str) -> Problem | MotionProblem:
    """The problem of parts that fit together, which messages call PREFIX and their name."""
    potential = next(name for name in _POTENTIALS if name in given)
    if not _has_own_units(given):
        names = Names(*(prefix + name for name in (potential, "q0", "p0", "times")))
        return Problem(given[potential], given.get("q0"), given.get("p0"), given.get("times"), names)
    fields = (potential, "parameters", "domain", "mass", "q0", "p0", "times")
    return MotionProblem(
        given[potential],
        given.get("q0"),
        given.get("p0", 0.0),
        given.get("times"),
        mass=given.get("mass", 1.0),
        domain=given.get("domain"),
        parameters=given.get("parameters", {}),
        names=MotionNames(*(prefix + name for name in fields)),
    )


def _has_own_units(given: Mapping[str, Any]) -> bool:
    return "domain" in given or "table" in given


def trust_of(trust: Trust, verify: Verify) -> dict[str, Any]:
    """The `trust` object; `solver_error` is there only with verify="solver" (null: there is no finite prediction)."""
    return {name: value for name, value in vars(trust).items() if name != "solver_error" or verify == "solver"}


def to_response(
    model: dict[str, Any], predicted: Sequence[Orbit | Motion], verify: Verify, references: Sequence[Reference] | None = None
) -> dict[str, Any]:
    """The JSON-able response. Built by hand: validating a million numbers that this process computed would cost seconds."""
    trajectories = [_trajectory(one, verify) for one in predicted]
    for body, reference in zip(trajectories, references or (), strict=references is not None):
        body["reference"] = _reference(reference)
    return {"model": model, "trajectories": trajectories}


def _trajectory(predicted: Orbit | Motion, verify: Verify) -> dict[str, Any]:
    body: dict[str, Any] = {name: np.ascontiguousarray(getattr(predicted, name)) for name in ("times", "q", "p")}
    if not all(np.isfinite(values).all() for values in body.values()):
        raise ValueError("a predicted trajectory is not finite")  # JSON has no word for it
    body["trust"] = trust_of(predicted.trust, verify)
    if isinstance(predicted, Motion):
        body |= {"energy": predicted.energy, "period": predicted.period, "turning_points": list(predicted.turning_points)}
    return body


def _reference(reference: Reference) -> dict[str, Any]:
    arrays = {name: getattr(reference, name) for name in ("q", "p", "energies")}
    lists = {name: None if values is None else values.tolist() for name, values in arrays.items()}
    return lists | {"error_bound": reference.error_bound, "refusal": reference.refusal}


_WORDS = {  # where Pydantic's own name no remedy
    "missing": "missing; give it",
    "too_short": "has {actual_length} entries; give {min_length} or more",
    "too_long": "has {actual_length} entries; give at most {max_length}",
    "json_invalid": "not JSON in UTF-8: {error}",
}


def _sentence(problem: Any, model: type[BaseModel]) -> str:
    """One Pydantic error as `trajectories[3].potential: ...`; only short scalars are echoed."""
    path = [part for part in problem["loc"] if part not in _SHAPES]
    if problem["type"] == "extra_forbidden":
        name = str(path.pop())
        owner = TrajectoryRequest if path and path[0] == "trajectories" else model
        return unknown_key(_field([*path, name])[:200], owner.model_fields)
    field = _field(path)
    words = _WORDS.get(problem["type"])
    message = str(problem["msg"]).removeprefix("Value error, ") if words is None else words.format(**problem.get("ctx", {}))
    received = problem["input"] if not isinstance(problem["input"], (dict, list, bytes)) else None
    echo = f" (received {received!r})" if received is not None and len(repr(received)) <= 60 else ""
    return f"{field[:200]}: {message[:1].lower()}{message[1:]}{echo}"


def _field(path: list[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".") or "body"
