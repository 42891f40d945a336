"""The configuration: one typed tree, loaded from YAML and overridden by dotted keys.

Nothing here imports the networks before an `architecture` section is read, so a process that only makes data never loads torch.
"""

from .data import DataConfig, Section
from .load import SHIPPED_CONFIGS, load_config, load_data_config, parse_assignments
from .tree import Config, EvaluationConfig, ScalingConfig, ServingConfig, SweepConfig, TrainingConfig

__all__ = [
    "SHIPPED_CONFIGS",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "ScalingConfig",
    "Section",
    "ServingConfig",
    "SweepConfig",
    "TrainingConfig",
    "load_config",
    "load_data_config",
    "parse_assignments",
]
