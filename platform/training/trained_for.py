"""What the network of a run is built for, and what its card says of that, from the data it trains on."""

from ...architectures import Task, TrainedFor
from ...physics.ensembles import HORIZON
from ..config.data import DataConfig


def task_of(data: DataConfig) -> Task:
    """The task of a network that trains on a dataset of this configuration."""
    return Task(sensors=(data.sensors,), domain=((0.0, 1.0),), horizon=HORIZON)


def trained_for(data: DataConfig) -> TrainedFor:
    """What the card of a model records of the data it was trained on."""
    ensemble = {"name": data.preset} | data.model_dump(mode="json", include={"control_points", "length_scale", "depth"})
    fixed = ((0.0,), (0.0,)) if data.ensemble.orbits_per_potential == 1 else None
    return TrainedFor.of(task_of(data), system="well", ensemble=ensemble, initial_state=fixed, noise=data.noise)
