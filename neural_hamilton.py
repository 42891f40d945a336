"""Neural operators for Hamiltonian mechanics: a potential and an initial state in, the trajectory out, without time stepping.

    import numpy as np
    import neural_hamilton as nh

    model = nh.load("orbitnet")                                    # the name of a shipped model, or a model folder
    orbit = model("8*(q-0.5)**2", q0=0, p0=0, times=np.linspace(0, 2, 100))
    orbit.q, orbit.p, orbit.trust
    orbit.plot().savefig("orbit.png")

    swing = nh.motion("D*(1-exp(-a*(q-r)))**2", q0=1.5, mass=0.98, domain=(0.7, 4), parameters={"D": 4.6, "a": 1.9, "r": 1.27})
    swing.period, swing.turning_points                             # in your own units, for any times

    remote = nh.connect("http://127.0.0.1:8000")                   # a served model, used in the same way

    exact = nh.solve("8*(q-0.5)**2", q0=0, p0=0, times=orbit.times)    # with a certified bound: exact.integration_error
    split = nh.read_dataset("runs/data", "test")                   # arrays, and the exact Hamiltonians

The names below are imported when they are first used, so that `import neural_hamilton` costs nothing. None of them imports Ray.
"""

import importlib
import pathlib
from typing import TYPE_CHECKING, Any

# The packages lie beside this file in a checkout, and in the folder of the same name where they are installed.
_HERE = pathlib.Path(__file__).resolve().parent
__path__ = [str(folder) for folder in (_HERE / "neural_hamilton", _HERE) if (folder / "physics").is_dir()][:1]

if TYPE_CHECKING:
    from .physics.errors import InputError as InputError
    from .physics.errors import StorageUnavailable as StorageUnavailable
    from .platform.data.datasets import Split as Split
    from .platform.data.datasets import read_split as read_dataset
    from .serve.client import Client as Client
    from .serve.client import EndpointError as EndpointError
    from .serve.client import connect as connect
    from .serve.model import Model as Model
    from .serve.model import load as load
    from .serve.model import predict as predict
    from .serve.motion import Motion as Motion
    from .serve.motion import motion as motion
    from .serve.orbit import Orbit as Orbit
    from .serve.orbit import Trust as Trust
    from .serve.problems import Problem as Problem
    from .serve.shipped import shipped_models as shipped_models
    from .serve.solve import solve as solve

_NAMES = {
    "Client": ("serve.client", "Client"),
    "EndpointError": ("serve.client", "EndpointError"),
    "InputError": ("physics.errors", "InputError"),
    "Motion": ("serve.motion", "Motion"),
    "Model": ("serve.model", "Model"),
    "Orbit": ("serve.orbit", "Orbit"),
    "Problem": ("serve.problems", "Problem"),
    "StorageUnavailable": ("physics.errors", "StorageUnavailable"),
    "Split": ("platform.data.datasets", "Split"),
    "Trust": ("serve.orbit", "Trust"),
    "connect": ("serve.client", "connect"),
    "load": ("serve.model", "load"),
    "motion": ("serve.motion", "motion"),
    "predict": ("serve.model", "predict"),
    "read_dataset": ("platform.data.datasets", "read_split"),
    "shipped_models": ("serve.shipped", "shipped_models"),
    "solve": ("serve.solve", "solve"),
}
__all__ = [
    "Client",
    "EndpointError",
    "InputError",
    "Model",
    "Motion",
    "Orbit",
    "Problem",
    "Split",
    "StorageUnavailable",
    "Trust",
    "connect",
    "load",
    "motion",
    "predict",
    "read_dataset",
    "shipped_models",
    "solve",
]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _NAMES[name]
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    return value


def __dir__() -> list[str]:
    return sorted([*(name for name in globals() if name.startswith("__")), *_NAMES])
