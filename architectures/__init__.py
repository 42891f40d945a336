"""Neural operators in PyTorch: networks, the selective scan, and model folders."""

from .model_folder import MODEL_SCHEMA_VERSION, load_model, read_card, record_calibration, save_model
from .operator import Answer, ArchitectureConfig, Operator, OperatorOutput
from .registry import ARCHITECTURES, build_operator, get_architecture, parse_architecture

__all__ = [
    "ARCHITECTURES",
    "MODEL_SCHEMA_VERSION",
    "Answer",
    "ArchitectureConfig",
    "Operator",
    "OperatorOutput",
    "build_operator",
    "get_architecture",
    "load_model",
    "parse_architecture",
    "read_card",
    "record_calibration",
    "save_model",
]
