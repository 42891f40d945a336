"""The JSON of POST /v1/trajectories and POST /v1/potential, as Pydantic models."""

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from ..physics import InputError
from ..physics.systems import Names
from .model import Verify
from .orbit import Orbit, Source
from .problems import MAX_TIMES, Problem

MAX_TRAJECTORIES = 1024
MAX_PLACES = 201  # along an axis of the grid on which V is evaluated
_MAX_REPORTED = 3  # errors reported at once; a wrong batch would fill pages

Body = TypeVar("Body", bound=BaseModel)
Number = Annotated[float, Field(allow_inf_nan=False)]
_SHAPES = ("number", "list", "grid")  # how deep a value is nested; part of no error message


def _shape_of(value: Any) -> str:
    depth = 0
    while isinstance(value, list) and depth < 2:
        value, depth = value[0] if value else None, depth + 1
    return _SHAPES[depth]


_List = Annotated[list[Number], Tag("list")]
Coordinates = Annotated[Annotated[Number, Tag("number")] | _List, Discriminator(lambda value: _shape_of(value).replace("grid", "list"))]
Sensors = Annotated[
    _List | Annotated[list[list[Number]], Tag("grid")], Discriminator(lambda value: _shape_of(value).replace("number", "list"))
]


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
_P0 = "like q0, by default the model's only initial state, else 0"


class TrajectoryRequest(_Strict):
    """One problem: exactly one of `potential` and `expression`. The domain and the horizon are those of GET /v1/model."""

    potential: Sensors | None = Field(
        None, description="V at the model's uniform sensors over the domain; a list of lists with two degrees of freedom"
    )
    expression: str | None = Field(None, description=_EXPRESSION, examples=["8*(q-0.5)**2"])
    q0: Coordinates | None = Field(None, description=_Q0)
    p0: Coordinates | None = Field(None, description=_P0)
    times: list[Number] | None = Field(
        None, min_length=1, max_length=MAX_TIMES, description="from 0 to the horizon, in any order; by default 100 uniform"
    )

    @model_validator(mode="after")
    def _one_potential(self) -> "TrajectoryRequest":
        if (self.potential is None) == (self.expression is None):
            raise ValueError("give exactly one of potential and expression")
        return self

    def to_problem(self, index: int) -> Problem:
        """The problem, with its fields named as in the request."""
        names = request_names(index, "potential" if self.expression is None else "expression")
        return Problem(self.potential if self.expression is None else self.expression, self.q0, self.p0, self.times, names)


class TrajectoriesRequest(_Strict):
    """A batch; `verify` sets how far to check the predictions: not, by energy, or against a solver."""

    trajectories: list[TrajectoryRequest] = Field(min_length=1, max_length=MAX_TRAJECTORIES)
    verify: Verify = "energy"


class PotentialRequest(_Strict):
    """A potential to draw, and the particle whose energy is wanted; the domain is that of GET /v1/model."""

    expression: str = Field(description=_EXPRESSION, examples=["8*(q-0.5)**2"])
    q0: Coordinates | None = Field(None, description=_Q0)
    p0: Coordinates | None = Field(None, description=_P0)
    places: int = Field(65, ge=2, le=MAX_PLACES, description="along each axis, uniform, ends of the domain included")

    def to_problem(self) -> Problem:
        return Problem(self.expression, self.q0, self.p0, names=Names("expression", "q0", "p0"))


class PotentialResponse(_Strict):
    """V at the places of the grid, for two degrees of freedom one list for each place along q1; and H of the initial state."""

    domain: list[tuple[float, float]]
    values: list[float] | list[list[float]]
    energy: float


class TrustBody(_Strict):
    """`energy_drift` is max abs(H - H0) over the energy scale, null if not asked for; `solver_error` comes with verify=solver."""

    energy_drift: float | None
    solver_error: float | None = None
    source: Source


class TrajectoryBody(_Strict):
    """q and p have one number per time, or one list of d numbers with d degrees of freedom."""

    times: list[float]
    q: list[float] | list[list[float]]
    p: list[float] | list[list[float]]
    trust: TrustBody


class ModelSummary(_Strict):
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
        problems = error.errors(include_url=False, include_input=True, include_context=False)
        reported = [_sentence(problem) for problem in problems[:_MAX_REPORTED]]
        rest = len(problems) - len(reported)
        raise InputError("; ".join(reported) + (f"; and {rest} more" if rest > 0 else "")) from None


def request_names(index: int, potential: str = "potential") -> Names:
    """What the parts of a problem are called in a request."""
    return Names(*(f"trajectories[{index}].{name}" for name in (potential, "q0", "p0", "times")))


def trust_of(orbit: Orbit, verify: Verify) -> dict[str, Any]:
    """The `trust` object; `solver_error` is there only with verify="solver" (null: the prediction was not finite)."""
    trust: dict[str, Any] = {"energy_drift": orbit.trust.energy_drift, "source": orbit.trust.source}
    return trust | ({"solver_error": orbit.trust.solver_error} if verify == "solver" else {})


def to_response(model: dict[str, Any], orbits: Sequence[Orbit], verify: Verify) -> dict[str, Any]:
    """The JSON-able response. Built by hand: validating a million numbers that this process computed would cost seconds."""
    trajectories = [
        {name: getattr(orbit, name).tolist() for name in ("times", "q", "p")} | {"trust": trust_of(orbit, verify)} for orbit in orbits
    ]
    return {"model": model, "trajectories": trajectories}


def _sentence(problem: Any) -> str:
    """One Pydantic error as `trajectories[3].potential: ...`; only short scalars are echoed."""
    path = [part for part in problem["loc"] if part not in _SHAPES]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".") or "body"
    message = problem["msg"].removeprefix("Value error, ")
    received = problem["input"] if not isinstance(problem["input"], (dict, list, bytes)) else None
    echo = f" (received {received!r})" if received is not None and len(repr(received)) <= 60 else ""
    return f"{field[:200]}: {message[:1].lower()}{message[1:]}{echo}"
