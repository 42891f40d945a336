"""The sections of the configuration and the tree that holds them."""

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    field_validator,
    model_validator,
)

from ...physics.files import write_file
from ...physics.systems import Imported
from ..evaluation.studies import study_names
from ..storage import Location
from .conditions import CONDITIONS, check_effects, keys_without_effect
from .data import DataConfig, Section
from .plain_yaml import format_yaml
from .values import DEFAULT_ARCHITECTURE, merge, validate, without

if TYPE_CHECKING:
    from ...architectures import ArchitectureConfig
else:
    ArchitectureConfig = Any  # importing the networks takes seconds, and making data needs none


class TrainingConfig(Section):
    """One training run."""

    epochs: int = Field(default=50, ge=1, description="passes over the training rows")
    batch_size: int = Field(default=100, ge=1, description="rows of a global batch, whatever the number of workers")
    train_rows: int | None = Field(default=None, ge=1, description="use only this many rows of the training split; null: all")
    train_start: int = Field(default=0, ge=0, description="the row of the training split that they begin with; only where endless is false")
    trajectories_per_potential: int | None = Field(
        default=None, ge=1, description="train on this many of the rows that share a potential; only where endless is false; null: all"
    )
    val_rows: int | None = Field(default=None, ge=1, description="use only this many rows of the validation split; null: all")
    val_start: int = Field(default=0, ge=0, description="the row of the validation split that they begin with")
    passes: int = Field(default=1, ge=1, description="passes over the training rows that make an epoch; only where endless is false")
    endless: bool = Field(default=False, description="draw new rows while training; an epoch has as many as the training split")
    resident_gib: float = Field(default=8.0, gt=0, description="larger training splits are streamed from disk; only where endless is false")
    mixed_fraction: float = Field(
        default=0.0, ge=0, lt=1, description="fraction of the endless rows that come from mixed_ensemble; none of validation or test"
    )
    mixed_ensemble: dict[str, Any] = Field(
        default_factory=dict, description="a second distribution of problems: its `name` and any of its keys"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="of the initial weights, the order of rows, and what networks draw")

    initial_model: str | None = Field(
        default=None, description="model folder, or run folder, whose weights the network starts from; null: random ones"
    )

    optimizer: Literal["adamw", "muon", "soap", "splus", "schedule-free"] = Field(
        default="adamw", description="schedule-free needs the constant schedule"
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="largest rate; for splus, about a hundred times that of the others")
    final_learning_rate: float = Field(default=1e-6, gt=0, description="where the schedule ends; not with constant")
    schedule: Literal["cosine", "exp-hyperbolic", "warmup-stable-decay", "constant"] = Field(
        default="cosine", description="how the rate changes over the epochs"
    )
    warmup_epochs: float = Field(default=0.0, ge=0, description="epochs over which the rate first rises linearly, with every schedule")
    decay_fraction: float = Field(default=0.2, gt=0, le=1, description="fraction of the epochs with decay; only with warmup-stable-decay")
    weight_decay: float = Field(default=1e-4, ge=0, description="decoupled from the gradient, as in AdamW")
    gradient_clip: float = Field(default=1.0, gt=0, description="largest norm of a gradient")
    ema_decay: float | None = Field(
        default=None, gt=0, lt=1, description="decay of a moving average of the weights; the average is the model"
    )

    loss: Literal["mse", "log-cosh", "cauchy"] = Field(
        default="mse",
        description="what is minimised of the errors of q and p; cauchy, s² log(1 + e²/s²), forgives trajectories that chaos spoils",
    )
    loss_scale: PositiveFloat = Field(default=0.01, description="the error s beyond which the cauchy loss forgives")
    energy_weight: float = Field(default=0.0, ge=0, description="weight of the mean square of H - E along the prediction")
    sobolev_weight: float = Field(default=0.0, ge=0, description="weight of the mean square of the error's derivative in time")
    rollouts: bool = Field(
        default=False,
        description="train a network with architecture.window on whole trajectories, through all its windows, not on pairs of states",
    )
    kl_warmup_epochs: float = Field(default=0.0, ge=0, description="epochs over which the weight of the divergence rises; only for varonet")
    patience: int | None = Field(default=None, ge=1, description="stop after this many epochs without a smaller validation loss")

    precision: Literal["float32", "tf32", "bf16"] = Field(default="float32", description="of matrix products; tf32 needs a GPU")
    float32_epochs: int = Field(default=0, ge=0, description="last epochs, trained in float32; only with tf32 or bf16")
    compile: bool = Field(default=False, description="run the network through torch.compile; on a GPU, with CUDA graphs")
    cuda_graph: bool = Field(
        default=False, description="record a whole step on a GPU once and replay it; one worker, with adamw or soap, without compile"
    )

    keep_checkpoints: int = Field(default=2, ge=1, description="number of latest checkpoints to keep, besides the best one")
    trackers: list[Literal["tensorboard", "mlflow"]] = Field(default=["tensorboard"], description="where else the figures of each epoch go")

    @model_validator(mode="after")
    def _parts_fit(self) -> "TrainingConfig":
        if self.ema_decay is not None and self.optimizer in ("splus", "schedule-free"):
            raise ValueError(f"ema_decay is {self.ema_decay}; {self.optimizer} averages the weights itself: leave ema_decay out")
        if self.cuda_graph and (self.compile or self.optimizer not in ("adamw", "soap")):
            raise ValueError(f"cuda_graph is true; it needs compile: false, and adamw or soap as optimizer, not {self.optimizer}")
        if self.optimizer == "schedule-free" and self.schedule != "constant":
            raise ValueError(f"schedule is {self.schedule!r}; with the optimizer schedule-free it must be constant")
        return self


class SweepConfig(Section):
    """A hyperparameter search. `space` maps dotted keys to {low, high, log} or {choices}; empty means the shipped space."""

    epochs: int | None = Field(default=None, ge=1, description="epochs of a trial; default training.epochs")
    objectives: list[
        Literal["validation_loss", "median_loss", "energy_drift", "seconds_per_trajectory", "num_parameters", "training_seconds"]
    ] = Field(
        default=["validation_loss"],
        min_length=1,
        description="what is minimised, on the validation rows: the mean total loss, its median, the median energy drift, and costs; "
        "several give a Pareto front",
    )
    seeds: int = Field(default=1, ge=1, description="training seeds of a trial, over which its objectives are averaged")
    start_from: list[str] = Field(
        default_factory=list, description="configurations that are tried first, such as best.yaml of another sweep"
    )
    sampler: Literal["tpe", "random", "grid", "cmaes", "gp", "nsga2"] = Field(
        default="tpe",
        description="how Optuna proposes trials; cmaes needs the package cmaes and one objective, and grid choices or whole numbers",
    )
    stopper: Literal["asha", "median", "hyperband", "none"] = Field(default="asha", description="the rule that stops poor trials early")
    grace_fraction: float = Field(default=0.2, gt=0, le=1, description="part of its epochs that no trial is stopped in")
    grace_epochs: int | None = Field(default=None, ge=1, description="the same in epochs; null: as grace_fraction gives it")
    finalists: int = Field(default=0, ge=0, description="best trials that are trained again after the search; with one objective")
    final_seeds: int = Field(default=5, ge=2, description="new training seeds of each finalist, for all of training.epochs")
    confidence: float = Field(default=0.95, gt=0, lt=1, description="of the intervals that decide whether a finalist wins")
    max_concurrent: int | None = Field(default=None, ge=1, description="trials at once; null: as many as fit on the cluster")
    workers: int = Field(
        default=1, ge=1, description="Ray Train workers of a trial; several with the default of objectives, seeds and finalists"
    )
    cpus_per_worker: int | None = Field(default=None, ge=1, description="CPUs of a worker; null: an equal part of the cluster's")
    gpus_per_worker: float | None = Field(
        default=None, ge=0, description="GPUs of a worker, such as 0.25; null: one, or a fraction with more trials at once than GPUs"
    )
    seed: int = Field(default=0, ge=0, description="of the proposed trials")
    space: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="dotted keys, each with {low, high, log} or {choices}, and `when` where others decide; empty: the shipped space",
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> "SweepConfig":
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"objectives is {', '.join(self.objectives)}; give different ones")
        if self.finalists == 1:
            raise ValueError("finalists is 1; give 0, or at least 2 to compare")
        if self.finalists and len(self.objectives) > 1:
            raise ValueError(f"finalists is {self.finalists}; with {len(self.objectives)} objectives no trial is the best: make it 0")
        if self.workers > 1 and (self.seeds > 1 or self.finalists or self.objectives != ["validation_loss"]):
            raise ValueError(f"workers is {self.workers}; above 1 it needs objectives: [validation_loss], seeds: 1 and finalists: 0")
        return self


class ScalingConfig(Section):
    """A dataset-size study."""

    protocol: Literal["equal-steps", "equal-epochs", "to-convergence"] | None = Field(
        default=None, description="how long runs of different sizes train; null: equal-steps where steps is given, else equal-epochs"
    )
    steps: int | None = Field(
        default=None,
        ge=1,
        description="steps of every run, in whole epochs; with to-convergence the most steps; not with equal-epochs",
    )
    patience: int = Field(default=1000, ge=1, description="steps without a smaller validation loss that end a run; with to-convergence")
    retune: int | None = Field(
        default=None,
        ge=1,
        description="trials of a sweep that chooses the settings for each contestant and size; null: all share one",
    )
    max_concurrent: int | None = Field(default=None, ge=1, description="runs at once; null: as many as the cluster has CPUs")
    confidence: float = Field(default=0.95, gt=0, lt=1, description="of the intervals")


def _known_study(name: str) -> str:
    if name not in study_names():
        raise ValueError(f"{name!r} is no study; choose from {', '.join(study_names())}")
    return name


class EvaluationConfig(Section):
    """How a model is measured."""

    batch_size: int = Field(default=256, ge=1, description="trajectories that the model predicts at once")
    solver_steps: list[PositiveFloat] = Field(
        default=[0.02, 0.001], min_length=1, description="time steps of the solvers that do not choose their own"
    )
    max_rows: int | None = Field(default=None, ge=1, description="measure only the first rows of the split")
    bootstrap: int = Field(default=1000, ge=10, description="resamples behind the intervals")
    seed: int = Field(default=0, ge=0, description="of the resamples and of the problems of studies")
    studies: list[Annotated[str, AfterValidator(_known_study)]] = Field(
        default_factory=study_names, description="what is measured beside the split"
    )
    study_rows: int = Field(default=200, ge=1, description="problems of a study")
    sensor_counts: list[Annotated[int, Field(ge=6)]] | None = Field(
        default=None, min_length=1, description="sensors along each axis, in the study sensors; null: what suits the system"
    )
    noise_levels: list[NonNegativeFloat] = Field(default=[1e-3, 1e-2], description="noise in the study sensors, beside none")
    work_batches: list[PositiveInt] | None = Field(
        default=None, min_length=1, description="trajectories at once, in the study work_precision; null: what suits the system"
    )
    windows: int = Field(default=10, ge=1, description="windows of a rollout, each as long as the horizon")
    section_windows: int = Field(
        default=200, ge=4, description="windows of the rollout behind a Poincaré section, each as long as the horizon"
    )
    tolerated_error: float = Field(default=0.01, gt=0, description="largest error of q or p of a prediction that counts as correct")
    risk: float = Field(default=0.01, gt=0, lt=1, description="largest fraction of wrong predictions that a trusted score may accept")


class ServingConfig(Section):
    """How a model is served."""

    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 opens it to the network: set api_key_file too")
    port: int = Field(default=8000, ge=1, le=65535, description="port to listen on")
    route: str = Field(
        default="/",
        description="what all paths begin with, such as /second; endpoints of one cluster share host and port, and differ here",
    )
    solver_threshold: float = Field(default=0.05, ge=0, description="with verify=solver, a model further off than this is overruled")
    num_replicas: int = Field(default=1, ge=1, description="processes that predict, each on one core")
    max_replicas: int | None = Field(default=None, ge=1, description="under load, at most this number; null: always num_replicas")
    max_queued_requests: int = Field(default=128, ge=1, description="requests that a replica works on or keeps waiting; beyond them, 503")
    max_queue_seconds: float = Field(default=1.5, gt=0, description="work that waits for a replica, at its speed of late; beyond it, 503")
    request_timeout_seconds: float = Field(default=60.0, gt=0, description="from the first byte of a request to its response")
    max_body_mb: float = Field(default=32.0, gt=0, description="largest request, unpacked, in MiB")
    api_key_file: str | None = Field(default=None, description="file with a key that requests to /v1 must bring; null: none needed")
    cors_origins: list[str] = Field(default_factory=list, description="addresses whose web pages may use the endpoint")

    @field_validator("route")
    @classmethod
    def _route_is_a_path(cls, route: str) -> str:
        if not re.fullmatch(r"/|(/[\w~-][\w.~-]*)+", route, re.ASCII):
            raise ValueError("begin with a slash, without one at the end, such as /second, in letters, digits and . _ ~ -")
        return route

    @model_validator(mode="after")
    def _most_replicas_are_not_fewer(self) -> "ServingConfig":
        if self.max_replicas is not None and self.max_replicas < self.num_replicas:
            raise ValueError(f"max_replicas is {self.max_replicas}; it must be at least num_replicas, {self.num_replicas}")
        return self


def _typed_architecture(value: Any) -> Any:
    from ...architectures import ArchitectureConfig, parse_architecture

    if isinstance(value, dict):
        return parse_architecture({"name": DEFAULT_ARCHITECTURE, **value})
    if not isinstance(value, ArchitectureConfig):
        raise ValueError(f"{value!r} is no mapping of keys")
    return value


class Config(Section):
    """The whole tree. A run folder holds its resolved form as `config.yaml`."""

    data: DataConfig = Field(default_factory=DataConfig.usual)
    architecture: Annotated[SerializeAsAny[ArchitectureConfig], BeforeValidator(_typed_architecture)] = Field(
        default_factory=lambda: _typed_architecture({})
    )
    training: TrainingConfig = TrainingConfig()
    sweep: SweepConfig = SweepConfig()
    scaling: ScalingConfig = ScalingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    serving: ServingConfig = ServingConfig()

    @model_validator(mode="after")
    def _every_given_key_has_an_effect(self) -> "Config":
        check_effects(self)
        return self

    @model_validator(mode="after")
    def _endless_rows_can_be_drawn(self) -> "Config":
        if self.training.endless and isinstance(self.data.distribution, Imported):
            raise ValueError("training.endless is true; rows that were imported cannot be drawn anew: set training.endless=false")
        return self

    @model_validator(mode="after")
    def _mixed_rows_are_like_the_others(self) -> "Config":
        if self.training.mixed_fraction:
            own, mixed = self.data.distribution, self.mixed_data().distribution
            for name in ("fixed_initial_state", "orbits_per_hamiltonian"):
                if getattr(own, name) != getattr(mixed, name):
                    raise ValueError(
                        f"training.mixed_ensemble is {mixed.name!r}, whose {name} is {getattr(mixed, name)}; "
                        f"that of data.ensemble, {own.name!r}, is {getattr(own, name)}"
                    )
        return self

    def mixed_data(self) -> DataConfig:
        """The data section of the rows that `training.mixed_fraction` mixes in."""
        return self.data.with_ensemble(self.training.mixed_ensemble, "training.mixed_ensemble")

    @classmethod
    def build(cls, values: dict[str, Any], overrides: dict[str, Any]) -> "Config":
        """The tree of nested `values` and dotted `overrides`.

        An override may deprive keys of `values` of their effect: another schedule, of its decay. Such keys are dropped; keys
        without effect for any other reason are refused.

        Raises
        ------
        InputError
            For an unknown or ill-typed key, or one without effect.
        """
        merged = merge(values, overrides)
        in_doubt = [c for c in CONDITIONS if c.key not in overrides and set(c.depends_on) & set(overrides)]
        if in_doubt:
            config = validate(without(merged, [c.key for c in in_doubt]), cls)
            merged = without(merged, [c.key for c in in_doubt if not c.holds(config)])
        return validate(merged, cls)

    def dump(self) -> dict[str, Any]:
        """Plain values, as YAML and JSON hold them: every key that has an effect."""
        values = self.model_dump(mode="json")
        return without(values, [condition.key for condition in keys_without_effect(self)])

    def given(self) -> dict[str, Any]:
        """Plain values of the keys that were set, without those left at their defaults."""
        values = self.model_dump(mode="json", exclude_unset=True)
        if "ensemble" in values.get("data", {}):
            values["data"]["ensemble"] = self.data.given_ensemble()
        return values

    def save(self, path: Location, sections: tuple[str, ...] | None = None) -> None:
        """Write the tree, or some of its sections, as YAML."""
        values = self.dump()
        write_file(path, format_yaml({name: values[name] for name in sections or values}).encode())

    def override(self, overrides: dict[str, Any]) -> "Config":
        """A copy with dotted keys replaced; InputError as in `build`."""
        return self.build(self.given(), overrides)
