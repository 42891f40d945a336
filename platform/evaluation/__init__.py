"""Honest measurement: networks and working solvers on the same problems, against certified truth."""

from .answers import predict_split
from .compare import compare
from .evaluate import evaluate

__all__ = ["compare", "evaluate", "predict_split"]
