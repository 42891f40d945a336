"""Measurement: networks and baselines on the same problems, against certified truth.

The names below are resolved when they are first used, so that listing the studies loads no network.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .comparison import compare
    from .evaluation import evaluate
    from .predictions import predict_split

__all__ = ["compare", "evaluate", "predict_split"]

_HOMES = {"compare": "comparison", "evaluate": "evaluation", "predict_split": "predictions"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value  # looked up once
    return value
