"""The configuration tree: typed, nested, loaded from YAML, overridden by dotted keys.

An unknown or ill-typed key at any depth is refused with its path and the valid choices.
"""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    ValidationError,
    model_validator,
)

from ...physics import InputError
from ..evaluation.studies import study_names
from ..provenance import write_atomically
from .data import DataConfig, Section, start_data

if TYPE_CHECKING:
    from ...architectures import ArchitectureConfig
else:
    ArchitectureConfig = Any  # importing the networks takes seconds, and making data needs none

SHIPPED_CONFIGS = Path(__file__).parent / "shipped"


class TrainingConfig(Section):
    """One training run."""

    epochs: int = Field(default=50, ge=1)
    batch_size: int = Field(default=100, ge=1, description="rows of a global batch, whatever the number of workers")
    train_rows: int | None = Field(default=None, ge=1, description="use only the first rows of the training split")
    endless: bool = Field(default=False, description="draw new rows while training: an epoch has as many as the training split")
    resident_gib: float = Field(default=8.0, gt=0, description="larger training splits are streamed from disk")
    seed: int = Field(default=0, ge=0, lt=2**63)

    optimizer: Literal["adamw", "muon", "soap", "splus", "schedule-free"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0, description="for splus, about a hundred times that of the others")
    final_learning_rate: float = Field(default=1e-6, gt=0, description="where the schedule ends")
    schedule: Literal["cosine", "exp-hyperbolic", "warmup-stable-decay", "constant"] = "cosine"
    warmup_epochs: float = Field(default=0.0, ge=0, description="the rate rises linearly over so many epochs, whatever the schedule")
    decay_share: float = Field(default=0.2, gt=0, le=1, description="share of the epochs in which warmup-stable-decay decays")
    weight_decay: float = Field(default=1e-4, ge=0)
    gradient_clip: float = Field(default=1.0, gt=0, description="largest norm of a gradient")
    ema_decay: float | None = Field(default=None, gt=0, lt=1, description="average the weights by so much a step; the average is the model")

    loss: Literal["mse", "log-cosh"] = "mse"
    energy_weight: float = Field(default=0.0, ge=0, description="of the mean square of H - E along the answer")
    sobolev_weight: float = Field(default=0.0, ge=0, description="of the mean square of the error's slope in time")
    kl_warmup_epochs: float = Field(default=0.0, ge=0, description="the weight of VaRONet's divergence rises over so many epochs")
    patience: int | None = Field(default=None, ge=1, description="stop after so many epochs without a smaller validation loss")

    precision: Literal["float32", "tf32", "bf16"] = "float32"
    float32_epochs: int = Field(default=0, ge=0, description="the last epochs, in float32 whatever the precision of the others")
    compile: bool = Field(default=False, description="run the network through torch.compile; on a GPU, with CUDA graphs")

    keep_checkpoints: int = Field(default=2, ge=1, description="the latest so many, and the best")
    trackers: list[Literal["tensorboard", "mlflow"]] = Field(default=["tensorboard"], description="who else is told of each epoch")

    @model_validator(mode="after")
    def _parts_fit(self) -> "TrainingConfig":
        if self.ema_decay is not None and self.optimizer in ("splus", "schedule-free"):
            raise ValueError(f"ema_decay is {self.ema_decay}; {self.optimizer} averages the weights itself: leave ema_decay out")
        if self.optimizer == "schedule-free" and self.schedule != "constant":
            raise ValueError(f"schedule is {self.schedule!r}; with the optimizer schedule-free it must be constant")
        return self


class SweepConfig(Section):
    """A hyperparameter search. `space` maps dotted keys to {low, high, log} or {choices}; empty means the shipped space."""

    epochs: int | None = Field(default=None, ge=1, description="epochs of a trial; default training.epochs")
    grace_epochs: int = Field(default=2, ge=1, description="epochs before a trial may be stopped early")
    max_concurrent: int = Field(default=2, ge=1)
    seed: int = Field(default=0, ge=0)
    space: dict[str, dict[str, Any]] = Field(default_factory=dict)


class ScalingConfig(Section):
    """A dataset-size study."""

    max_concurrent: int = Field(default=2, ge=1)
    confidence: float = Field(default=0.95, gt=0, lt=1)


def _known_study(name: str) -> str:
    if name not in study_names():
        raise ValueError(f"{name!r} is no study; choose from {', '.join(study_names())}")
    return name


class EvaluationConfig(Section):
    """How a model is measured."""

    batch_size: int = Field(default=256, ge=1)
    solver_steps: list[PositiveFloat] = Field(
        default=[0.02, 0.001], min_length=1, description="time steps of the solvers that do not choose their own"
    )
    max_rows: int | None = Field(default=None, ge=1, description="measure only the first rows of the split")
    bootstrap: int = Field(default=1000, ge=10, description="resamples behind the intervals")
    seed: int = Field(default=0, ge=0)
    studies: list[Annotated[str, AfterValidator(_known_study)]] = Field(
        default_factory=study_names, description="what is measured beside the split"
    )
    study_rows: int = Field(default=200, ge=1, description="problems of a study")
    sensor_counts: list[Annotated[int, Field(ge=6)]] = Field(
        default=[100, 50, 25, 13], min_length=1, description="sensors of the study of sensors"
    )
    noise_levels: list[NonNegativeFloat] = Field(default=[1e-3, 1e-2], description="standard deviations of V at the sensors, beside none")
    work_batches: list[PositiveInt] = Field(
        default=[1, 100, 10_000], min_length=1, description="trajectories at once, in the study of work"
    )
    windows: int = Field(default=10, ge=1, description="windows chained in the study of long horizons")
    tolerated_error: float = Field(default=0.01, gt=0, description="largest error of q or p of an answer that counts as right")
    risk: float = Field(default=0.01, gt=0, lt=1, description="share of wrong answers that a trusted score may let through")


class ServingConfig(Section):
    """How a model is served."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    solver_threshold: float = Field(default=0.05, ge=0, description="with verify=solver, a model further off than this is overruled")
    num_replicas: int = Field(default=1, ge=1)
    max_ongoing_requests: int = Field(default=8, ge=1, description="requests a replica works on at once")
    max_queued_requests: int = Field(default=64, ge=1, description="requests that wait; beyond them the answer is 503")


def _typed_architecture(value: Any) -> Any:
    from ...architectures import ArchitectureConfig, parse_architecture

    if isinstance(value, dict):
        return parse_architecture({"name": "mambonet", **value})
    if not isinstance(value, ArchitectureConfig):
        raise ValueError(f"{value!r} is no mapping of keys")
    return value


def _default_data() -> DataConfig:
    return DataConfig.model_validate({})


class Config(Section):
    """The whole tree. A run folder holds its resolved form as `config.yaml`."""

    data: DataConfig = Field(default_factory=_default_data)
    architecture: Annotated[SerializeAsAny[ArchitectureConfig], BeforeValidator(_typed_architecture)] = Field(
        default_factory=lambda: _typed_architecture({})
    )
    training: TrainingConfig = TrainingConfig()
    sweep: SweepConfig = SweepConfig()
    scaling: ScalingConfig = ScalingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    serving: ServingConfig = ServingConfig()

    def dump(self) -> dict[str, Any]:
        """Plain values, as YAML and JSON hold them."""
        return self.model_dump(mode="json")

    def save(self, path: Path) -> None:
        write_atomically(path, yaml.safe_dump(self.dump(), sort_keys=False).encode())

    def override(self, overrides: dict[str, Any]) -> "Config":
        """A copy with dotted keys replaced; InputError as in `load_config`."""
        return _validate(_merge(self.dump(), overrides), Config)


def load_config(source: str | Path | None = None, overrides: dict[str, Any] | None = None) -> Config:
    """The tree from a YAML file (a path, or the name of a shipped one) and dotted overrides, defaults elsewhere.

    Raises
    ------
    InputError
        For an unreadable file, or an unknown or ill-typed key, with its path and the valid choices.
    """
    return _validate(_read_values(source, overrides), Config)


class _DataAlone(Section):
    data: DataConfig = Field(default_factory=_default_data)


def load_data_config(source: str | Path | None = None, overrides: dict[str, Any] | None = None) -> DataConfig:
    """The section `data` of `load_config`, without loading the networks where nothing else is said."""
    values = _read_values(source, overrides)
    return _validate(values, Config if set(values) - {"data"} else _DataAlone).data


def parse_assignments(assignments: tuple[str, ...] | list[str]) -> dict[str, Any]:
    """`("training.epochs=3", ...)` -> `{"training.epochs": 3, ...}`; values are read as YAML."""
    overrides = {}
    for assignment in assignments:
        key, separator, value = assignment.partition("=")
        if not separator or not key.strip():
            raise InputError(f"--set got {assignment!r}; write it as section.key=value")
        try:
            overrides[key.strip()] = _parse_scalar(value)
        except yaml.YAMLError:
            raise InputError(f"--set {key.strip()} got {value!r}, which is not a YAML value") from None
    return overrides


def _parse_scalar(text: str) -> Any:
    value = yaml.safe_load(text)
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as text; people mean the number
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _read_values(source: str | Path | None, overrides: dict[str, Any] | None) -> dict[str, Any]:
    return _merge(_read_yaml(source) if source is not None else {}, overrides or {})


def _read_yaml(source: str | Path) -> dict[str, Any]:
    path = Path(source)
    if not path.exists() and (SHIPPED_CONFIGS / f"{source}.yaml").exists():
        path = SHIPPED_CONFIGS / f"{source}.yaml"
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        shipped = ", ".join(sorted(p.stem for p in SHIPPED_CONFIGS.glob("*.yaml")))
        raise InputError(f"--config {str(source)!r} cannot be read ({error.strerror}); give a file, or a shipped one: {shipped}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--config {str(source)!r} is not YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"--config {str(source)!r} holds {type(values).__name__}; it must hold a mapping of sections")
    return values


def _merge(values: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    merged = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    if isinstance(merged.get("architecture"), dict):
        merged["architecture"] = _start_architecture(merged["architecture"], overrides)
    if isinstance(merged.get("data"), dict):
        merged["data"] = start_data(merged["data"], overrides)
    for dotted, value in overrides.items():
        *parents, leaf = dotted.split(".")
        node = merged
        for depth, parent in enumerate(parents):
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise InputError(f"{dotted} does not exist: {'.'.join(parents[: depth + 1])} is a value, not a section")
        node[leaf] = value
    return merged


def _start_architecture(values: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Nothing but what the overrides leave standing: another architecture or preset starts from its own values."""
    name, preset = overrides.get("architecture.name"), overrides.get("architecture.preset")
    if name is not None and values.get("name", name) != name:
        return {}
    if preset is not None and values.get("preset") != preset:
        return {key: value for key, value in values.items() if key == "name"}
    return dict(values)


_Tree = TypeVar("_Tree", bound=Section)


def _validate(values: dict[str, Any], tree: type[_Tree]) -> _Tree:
    try:
        return tree.model_validate(values)
    except ValidationError as error:
        raise InputError("; ".join(_describe(problem, values) for problem in error.errors())) from None


def _describe(problem: Any, values: dict[str, Any]) -> str:
    location = [str(part) for part in problem["loc"]]
    path = ".".join(location) or "configuration"
    if problem["type"] == "extra_forbidden":
        choices = _valid_keys(location[:-1], values)
        close = difflib.get_close_matches(location[-1], choices, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{path} is not a known key; {hint}valid keys are {', '.join(choices)}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] in ("value_error", "model_type", "model_attributes_type"):
        return f"{path}: {message}" if location and not message.startswith(f"{location[0]}.") else message
    return f"{path} is {problem['input']!r}; {message[0].lower()}{message[1:]}"


def _valid_keys(section: list[str], values: dict[str, Any]) -> list[str]:
    model: Any = Config
    for part in section:
        if part == "architecture":
            from ...architectures import get_architecture

            name = values.get("architecture", {}).get("name", "mambonet")
            model = get_architecture(name).Config
        else:
            model = model.model_fields[part].annotation
    return sorted([*model.model_fields, *(["preset"] if section == ["architecture"] else [])])
