"""The card of a model, `model.json`: what it says, and how cards of older schemas are read.

    {"schema_version": 2, "architecture": {sizes}, "trained_for": {"system", "ensemble", "initial_state", "sensors", "horizon",
     "domain", "channels", "noise"}, "normalisation", "num_parameters", "weights_sha256", "provenance", "calibration"}

`calibration` is absent until `evaluate --record` has measured it.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..physics.errors import InputError
from ..physics.files import Migration, Place, as_place, read_json
from .task import Task

MODEL_SCHEMA_VERSION = 2
CARD_FILE = "model.json"


class TrainedFor(BaseModel):
    """What a model was trained for. Everything that depends on it asks the card, which stores it once.

    `ensemble` holds the name of the distribution of training problems and its parameters. `initial_state` is (q0, p0), each with
    one number per degree of freedom, where the ensemble has a single one; None where any admissible initial state may be given.
    `noise` is the standard deviation of the noise of V at the sensors. The other fields are those of `Task`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    system: str
    ensemble: dict[str, Any]
    initial_state: tuple[tuple[float, ...], tuple[float, ...]] | None
    sensors: tuple[int, ...]
    horizon: float
    domain: tuple[tuple[float, float], ...]
    channels: int
    noise: float = Field(ge=0)

    @classmethod
    def of(
        cls,
        task: Task,
        *,
        system: str,
        ensemble: dict[str, Any],
        initial_state: tuple[tuple[float, ...], tuple[float, ...]] | None,
        noise: float = 0.0,
    ) -> "TrainedFor":
        """The record of a network for `task`, trained on an ensemble of a system."""
        return cls(
            system=system,
            ensemble=ensemble,
            initial_state=initial_state,
            sensors=task.sensors,
            horizon=task.horizon,
            domain=task.domain,
            channels=task.channels,
            noise=noise,
        )

    @property
    def task(self) -> Task:
        return Task(self.sensors, self.domain, self.horizon, self.channels)

    @property
    def any_initial_state(self) -> bool:
        """Whether the model was trained on many initial states, so that any admissible one may be given."""
        return self.initial_state is None


def read_card(folder: str | Place) -> dict[str, Any]:
    """The card of a model folder in today's schema.

    Raises
    ------
    InputError
        Where there is no readable card, or it does not say what the model was trained for.
    """
    path = as_place(folder) / CARD_FILE
    card = read_json(path, f"model folder {str(folder)!r}", MODEL_SCHEMA_VERSION, _MIGRATIONS)
    parse_trained_for(card, path)
    return card


def parse_trained_for(card: dict[str, Any], path: Place) -> TrainedFor:
    """The typed record `trained_for` of the card at `path`; InputError where it is incomplete or inconsistent."""
    try:
        trained_for = TrainedFor.model_validate(card.get("trained_for"))
        trained_for.task  # noqa: B018  its checks
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(["trained_for", *(str(part) for part in problem["loc"])])
        raise InputError(f"{path} does not say what the model was trained for: {place}: {problem['msg']}") from None
    except InputError as error:
        raise InputError(f"{path} does not say what the model was trained for: {error}") from None
    if not isinstance(card.get("provenance"), dict):
        raise InputError(f"{path} has no provenance; the file is damaged")
    return trained_for


# Schema 1 had one system. Its presets had these initial states.
_ENSEMBLE_KEYS = ("control_points", "length_scale", "depth")  # a depth that was left out was null
_SCHEMA_1_INITIAL_STATES = {"paper": [[0.0], [0.0]], "phase-space": None}


def _from_schema_1(card: dict[str, Any]) -> dict[str, Any]:
    architecture, data = _section(card, "architecture"), _section(card, "provenance", "config", "data")
    preset = data["preset"]
    if preset not in _SCHEMA_1_INITIAL_STATES:
        raise InputError(f"provenance.config.data.preset is {preset!r}; known are {', '.join(_SCHEMA_1_INITIAL_STATES)}")
    ensemble = {"name": preset} | {key: data[key] for key in _ENSEMBLE_KEYS if data[key] is not None}
    if preset == "paper" and "gate_time" not in architecture:
        ensemble.pop("depth", None)  # version 0.1 wrote a depth that this preset did not use
    provenance = {key: value for key, value in card["provenance"].items() if key != "preset"}
    return card | {
        "architecture": _architecture_from_schema_1(architecture),
        "trained_for": {
            "system": "well",
            "ensemble": ensemble,
            "initial_state": _SCHEMA_1_INITIAL_STATES[preset],
            "sensors": [architecture["num_sensors"]],
            "horizon": 2.0,
            "domain": [[0.0, 1.0]],
            "channels": 1,
            "noise": data["noise"],
        },
        "provenance": provenance,
    }


def _architecture_from_schema_1(before: dict[str, Any]) -> dict[str, Any]:
    """Sizes under today's names. Cards of version 0.1 have neither `gate_time` nor `orbit`; their networks used powers of t and read V."""
    sizes = {key: value for key, value in before.items() if key not in ("num_sensors", "orbit")}
    if before["name"] == "mambonet":
        orbit = before.get("orbit", "none")
        if orbit == "solved":
            kept = ("d_model", "num_mamba_layers", "d_state", "num_shapes", "exact_sensors")
            return {"name": "orbitnet"} | {key: sizes[key] for key in kept if key in sizes}
        if orbit not in ("none", "angle"):
            raise InputError(f"architecture.orbit is {orbit!r}, which networks no longer have")
        sizes = {key: value for key, value in sizes.items() if key not in ("num_shapes", "exact_sensors")}
        sizes["phase_angle"] = orbit == "angle"
    gate_time = before.get("gate_time") if before.get("hard_initial_condition", True) else None
    return sizes | {"gate_time": gate_time}


def _section(card: dict[str, Any], *path: str) -> dict[str, Any]:
    """A mapping at a path of keys; KeyError names the path that is not there."""
    node: Any = card
    for depth, key in enumerate(path, start=1):
        node = node.get(key) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise KeyError(".".join(path[:depth]))
    return node


_MIGRATIONS: dict[int, Migration] = {1: _from_schema_1}
