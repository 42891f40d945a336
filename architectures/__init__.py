"""Neural operators in PyTorch: networks, the selective scan, and model folders."""

from .card import MODEL_SCHEMA_VERSION, TrainedFor, read_card
from .examples import check_examples, example_inputs
from .model_folder import load_model, record_calibration, record_examples, save_model
from .operator import ArchitectureConfig, DirectConfig, DirectOperator, Operator, OperatorOutput
from .registry import available_architectures, build_operator, get_architecture, parse_architecture
from .selective_scan import threads as _threads  # noqa: F401  forked children of a process with networks must not hang
from .task import Task

__all__ = [
    "MODEL_SCHEMA_VERSION",
    "ArchitectureConfig",
    "DirectConfig",
    "DirectOperator",
    "Operator",
    "OperatorOutput",
    "Task",
    "TrainedFor",
    "available_architectures",
    "build_operator",
    "check_examples",
    "example_inputs",
    "get_architecture",
    "load_model",
    "parse_architecture",
    "read_card",
    "record_calibration",
    "record_examples",
    "save_model",
]
