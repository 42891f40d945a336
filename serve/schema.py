"""The JSON of POST /v1/trajectories, as Pydantic models."""

from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..physics import InputError
from .predictor import MAX_TIMES, Answer, Query, Source, Verify

MAX_TRAJECTORIES = 1024
_MAX_REPORTED = 3  # errors told at once; a wrong batch would fill pages

Number = Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    """Unknown keys, numbers in quotes, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class TrajectoryRequest(_Strict):
    """One particle: exactly one of `potential` and `expression`."""

    potential: list[Number] | None = Field(None, description="V at the model's sensors, uniform on [0, 1], 2 at both walls")
    expression: str | None = Field(None, description="V as arithmetic in q", examples=["8*(q-0.5)**2"])
    q0: Number = Field(0.0, ge=0.0, le=1.0)
    p0: Number = 0.0
    times: list[Number] | None = Field(None, min_length=1, max_length=MAX_TIMES, description="in [0, 2], any order; by default 100 uniform")

    @model_validator(mode="after")
    def _one_potential(self) -> "TrajectoryRequest":
        if (self.potential is None) == (self.expression is None):
            raise ValueError("give exactly one of potential and expression")
        return self

    def to_query(self) -> Query:
        potential = self.expression if self.expression is not None else np.array(self.potential, dtype=np.float64)
        return Query(potential, self.q0, self.p0, None if self.times is None else np.array(self.times, dtype=np.float64))


class TrajectoriesRequest(_Strict):
    """A batch; `verify` says how far to check the answers: not, by energy, or against a solver."""

    trajectories: list[TrajectoryRequest] = Field(min_length=1, max_length=MAX_TRAJECTORIES)
    verify: Verify = "energy"


class Trust(_Strict):
    """`energy_drift` is max abs(H - H0) / (2 - min V), null if not asked for; `solver_error` comes with verify=solver."""

    energy_drift: float | None
    solver_error: float | None = None
    source: Source


class TrajectoryAnswer(_Strict):
    times: list[float]
    q: list[float]
    p: list[float]
    trust: Trust


class ModelSummary(_Strict):
    architecture: str
    num_sensors: int
    num_parameters: int | None
    weights_sha256: str | None
    drift_threshold: float | None


class TrajectoriesResponse(_Strict):
    model: ModelSummary
    trajectories: list[TrajectoryAnswer]


class Refusal(_Strict):
    """Any refusal: one sentence that names the field, the value received and the values allowed."""

    detail: str


def parse_request(body: bytes) -> TrajectoriesRequest:
    """The request in a JSON body; InputError names each field that does not fit."""
    try:
        return TrajectoriesRequest.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=True, include_context=False)
        told = [_sentence(problem) for problem in problems[:_MAX_REPORTED]]
        rest = len(problems) - len(told)
        raise InputError("; ".join(told) + (f"; and {rest} more" if rest > 0 else "")) from None


def trust_of(answer: Answer, verify: Verify) -> dict[str, Any]:
    """The `trust` object; `solver_error` is there only with verify="solver" (null: the model's answer was not finite)."""
    trust: dict[str, Any] = {"energy_drift": answer.energy_drift, "source": answer.source}
    return trust | ({"solver_error": answer.solver_error} if verify == "solver" else {})


def to_response(model: dict[str, Any], answers: list[Answer], verify: Verify) -> dict[str, Any]:
    """The JSON-able answer. Built by hand: validating a million numbers that this process computed would cost seconds."""
    trajectories = [
        {name: getattr(answer, name).tolist() for name in ("times", "q", "p")} | {"trust": trust_of(answer, verify)} for answer in answers
    ]
    return {"model": model, "trajectories": trajectories}


def _sentence(problem: Any) -> str:
    """One Pydantic error as `trajectories[3].potential: ...`; only short scalars are echoed."""
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".") or "body"
    message = problem["msg"].removeprefix("Value error, ")
    received = problem["input"] if not isinstance(problem["input"], (dict, list, bytes)) else None
    echo = f" (received {received!r})" if received is not None and len(repr(received)) <= 60 else ""
    return f"{field[:200]}: {message[:1].lower()}{message[1:]}{echo}"
