"""What the network of a run is built for, and what its card records of the data it trains on."""

from typing import Any

from ...architectures import Task, TrainedFor
from ..config.data import DataConfig


def task_of(data: DataConfig) -> Task:
    """The task of a network that trains on a dataset of this configuration."""
    system = data.get_system()
    return Task(data.sensor_shape, system.domain, system.horizon, sum(system.fields.values()))


def trained_for(data: DataConfig) -> TrainedFor:
    """What the card of a model records of the data it was trained on."""
    ensemble = data.model_dump(mode="json")["ensemble"]
    initial_state = data.distribution.fixed_initial_state
    return TrainedFor.of(task_of(data), system=data.system, ensemble=ensemble, initial_state=initial_state, noise=data.noise)


def data_like(card: TrainedFor, **changes: Any) -> DataConfig:
    """The data section that draws problems like those a model was trained on, with other keys of the section changed."""
    known = {"system": card.system, "ensemble": card.ensemble, "sensors": card.sensors, "noise": card.noise}
    return DataConfig.model_validate(known | changes)
