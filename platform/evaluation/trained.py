"""What a model was trained for, as its card says it; cards of schema 1 are migrated here."""

from dataclasses import dataclass
from typing import Any

from ...physics.systems import get_system
from ..data.manifest import migrate_config


@dataclass(frozen=True)
class TrainedFor:
    system: str
    ensemble: dict[str, Any]
    initial_state: Any
    sensors: tuple[int, ...]
    horizon: float


def parse_trained_for(card: dict[str, Any], path: Any = None) -> TrainedFor:
    if "trained_for" in card:
        t = card["trained_for"]
        return TrainedFor(t["system"], t["ensemble"], t["initial_state"], tuple(t["sensors"]), t["horizon"])
    well = get_system("well")
    data = migrate_config(card["provenance"].get("config", {}).get("data", {}))
    ensemble = data.get("ensemble", {"name": card["provenance"].get("preset", "paper")})
    kind = well.get_ensemble(ensemble["name"])
    return TrainedFor("well", ensemble, kind.fixed_initial_state, (card["architecture"]["num_sensors"],), well.horizon)
