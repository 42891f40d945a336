"""What the tests of serving share: one potential in three forms, and a model whose predictions are wrong."""

import socket
from pathlib import Path

import numpy as np
import torch
from fastapi import FastAPI

from neural_hamilton.architectures import Task, TrainedFor, build_operator, parse_architecture, save_model
from neural_hamilton.physics.systems import get_system
from neural_hamilton.serve.catalogue import Catalogue
from neural_hamilton.serve.http_api import build_api
from neural_hamilton.serve.model import Model
from neural_hamilton.serve.service import Limits, Service

NUM_SENSORS = 100
HARMONIC = "8*(q-0.5)**2"
SENSORS = 8 * (np.linspace(0, 1, NUM_SENSORS) - 0.5) ** 2
FROM_REST = ((0.0,), (0.0,))


def save_tiny(folder: Path, initial_state: tuple | None = None, dtype: torch.dtype = torch.float32) -> Path:
    """A random MambONet for the well in `folder`; one that starts from a quadrature baseline would be too good."""
    torch.manual_seed(0)
    sizes = {"d_model": 16, "num_mamba_layers": 1, "d_state": 4, "num_heads": 2, "num_decoder_layers": 1, "d_feedforward": 32}
    well = get_system("well")
    task = Task((NUM_SENSORS,), well.domain, well.horizon)
    name = next(name for name, ensemble in well.ensembles.items() if ensemble.fixed_initial_state == initial_state)
    trained_for = TrainedFor.of(task, system=well.name, ensemble={"name": name}, initial_state=initial_state)
    network = build_operator(parse_architecture({"name": "mambonet", **sizes}), task).to(dtype)
    save_model(network, folder, trained_for, {})
    return folder


def save_plane(folder: Path, system_name: str = "surface") -> Path:
    """A random DeepONet for a system with two degrees of freedom in `folder`, from 12 x 12 sensors."""
    torch.manual_seed(0)
    system = get_system(system_name)
    channels = sum(system.fields.values())
    task = Task((12, 12), system.domain, system.horizon, channels=channels)
    ensemble = next(iter(system.ensembles))
    trained_for = TrainedFor.of(task, system=system.name, ensemble={"name": ensemble}, initial_state=None)
    save_model(build_operator(parse_architecture({"name": "deeponet"}), task), folder, trained_for, {})
    return folder


def api_of(limits: Limits | None = None, **models: Path | Model) -> FastAPI:
    """The HTTP application of models by name, or of those in folders, without Ray."""
    loaded = {name: Model(model) if isinstance(model, Path) else model for name, model in models.items()}
    return build_api(Service(Catalogue(loaded), limits))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def exact_harmonic(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """q, p in `HARMONIC` from rest at q = 0."""
    return 0.5 - 0.5 * np.cos(4 * times), 2 * np.sin(4 * times)
