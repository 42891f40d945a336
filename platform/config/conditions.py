"""Keys that have an effect in some combinations only. Given in any other combination, a key is refused by name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .tree import Config


@dataclass(frozen=True)
class Condition:
    """`key` has an effect only where `holds`; `requirement` is the same in words."""

    key: str
    depends_on: tuple[str, ...]
    holds: "Callable[[Config], bool]"
    requirement: str

    def value(self, config: "Config") -> Any:
        section, name = self.key.split(".")
        return getattr(getattr(config, section), name)

    def is_given(self, config: "Config") -> bool:
        """Whether the key was set explicitly."""
        section, name = self.key.split(".")
        return section in config.model_fields_set and name in getattr(config, section).model_fields_set


def _study(key: str, *studies: str) -> Condition:
    """A key that only some of the studies of an evaluation read."""
    return Condition(
        f"evaluation.{key}",
        ("evaluation.studies",),
        lambda config: bool(set(studies) & set(config.evaluation.studies)),
        f"evaluation.studies needs {' or '.join(studies)}",
    )


CONDITIONS = (
    Condition(
        "training.decay_fraction",
        ("training.schedule",),
        lambda config: config.training.schedule == "warmup-stable-decay",
        "training.schedule must be warmup-stable-decay",
    ),
    Condition(
        "training.final_learning_rate",
        ("training.schedule",),
        lambda config: config.training.schedule != "constant",
        "training.schedule must not be constant",
    ),
    Condition(
        "training.loss_scale",
        ("training.loss",),
        lambda config: config.training.loss == "cauchy",
        "training.loss must be cauchy",
    ),
    Condition(
        "training.resident_gib",
        ("training.endless",),
        lambda config: not config.training.endless,
        "training.endless must be false: endless rows are never held",
    ),
    *(
        Condition(
            f"training.{key}",
            ("training.endless",),
            lambda config: not config.training.endless,
            "training.endless must be false: endless rows come one after another, each once",
        )
        for key in ("train_start", "trajectories_per_potential", "passes")
    ),
    Condition(
        "training.mixed_fraction",
        ("training.endless",),
        lambda config: config.training.endless,
        "training.endless must be true: only rows that are drawn as they are needed can be mixed",
    ),
    Condition(
        "training.mixed_ensemble",
        ("training.endless", "training.mixed_fraction"),
        lambda config: bool(config.training.endless and config.training.mixed_fraction),
        "training.mixed_fraction must be above 0",
    ),
    Condition(
        "training.float32_epochs",
        ("training.precision",),
        lambda config: config.training.precision != "float32",
        "training.precision must be tf32 or bf16",
    ),
    Condition(
        "training.kl_warmup_epochs",
        ("architecture.name", "architecture.preset", "architecture.kl_weight"),
        lambda config: bool(getattr(config.architecture, "kl_weight", 0.0)),
        "the architecture must have a kl_weight above 0, as varonet has",
    ),
    Condition(
        "sweep.grace_epochs",
        ("sweep.stopper",),
        lambda config: config.sweep.stopper != "none",
        "sweep.stopper must not be none",
    ),
    Condition(
        "sweep.grace_fraction",
        ("sweep.stopper", "sweep.grace_epochs"),
        lambda config: config.sweep.stopper != "none" and config.sweep.grace_epochs is None,
        "sweep.stopper must not be none, and sweep.grace_epochs must be null",
    ),
    *(
        Condition(
            f"sweep.{key}",
            ("sweep.finalists",),
            lambda config: config.sweep.finalists > 0,
            "sweep.finalists must be above 0",
        )
        for key in ("final_seeds", "confidence")
    ),
    Condition(
        "scaling.steps",
        ("scaling.protocol",),
        lambda config: config.scaling.protocol != "equal-epochs",
        "scaling.protocol must not be equal-epochs",
    ),
    Condition(
        "scaling.patience",
        ("scaling.protocol",),
        lambda config: config.scaling.protocol == "to-convergence",
        "scaling.protocol must be to-convergence",
    ),
    _study("study_rows", "ensembles", "length", "rollouts", "sections", "sensors", "symplecticity", "work_precision"),
    _study("sensor_counts", "sensors"),
    _study("noise_levels", "sensors"),
    _study("work_batches", "work_precision"),
    _study("windows", "rollouts"),
    _study("section_windows", "sections"),
)


def keys_without_effect(config: "Config") -> list[Condition]:
    """The conditions that do not hold in `config`."""
    return [condition for condition in CONDITIONS if not condition.holds(config)]


def check_effects(config: "Config") -> None:
    """Raises ValueError where a key is given that has no effect."""
    given = [condition for condition in keys_without_effect(config) if condition.is_given(config)]
    if given:
        raise ValueError("; ".join(f"{c.key} is {c.value(config)!r}, which has no effect here: {c.requirement}" for c in given))
