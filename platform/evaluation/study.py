"""A study: one question about a model beside its errors on a split, measured on a few problems.

A study is one file in `studies/` that exposes `STUDY`. It says what it requires of a model, how it measures, and how its
figure and its section of the report look.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ...architectures import Operator, TrainedFor
from ...physics.systems import Baseline, Ensemble, Imported, Predictions, Problems, Role, System, with_role
from ..config import DataConfig, EvaluationConfig
from .metrics import summarise, total_losses
from .predictions import predict

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Subject:
    """What a study measures: a model, what it was trained for, some problems, all baselines, and the settings."""

    model: Operator
    card: dict[str, Any]
    trained_for: TrainedFor
    problems: Problems
    baselines: list[Baseline]
    settings: EvaluationConfig

    @property
    def system(self) -> System:
        return self.problems.system

    @cached_property
    def ensemble(self) -> Ensemble:
        """The distribution that the model was trained on."""
        return DataConfig.model_validate({"system": self.system.name, "ensemble": self.trained_for.ensemble}).distribution

    def with_role(self, role: Role, problems: Problems) -> list[Baseline]:
        """The baselines that have `role` and can solve `problems`."""
        return [baseline for baseline in with_role(self.baselines, role) if baseline.why_not(problems) is None]

    def predict(self, problems: Problems) -> Predictions:
        return predict(self.model, problems, self.settings.batch_size)

    def summarise_losses(self, problems: Problems, baselines: list[Baseline]) -> dict[str, Any]:
        """Summaries of the total loss of the model and of `baselines` on `problems`."""
        predictions = {"model": self.predict(problems)} | {baseline.name: baseline.states(problems) for baseline in baselines}
        return {solver: self.summarise(total_losses(problems, x.q, x.p)) for solver, x in predictions.items()}

    def summarise(self, values: Any) -> dict[str, Any]:
        return summarise(values, self.settings.bootstrap, self.settings.seed)


Requirement = Callable[[Subject], str | None]


@dataclass(frozen=True)
class Study:
    """One study.

    Attributes
    ----------
    name
        The name of its module: what `evaluation.studies` lists, and the key of its entry in evaluation.json.
    measure
        The entry, in plain values that JSON can hold.
    section
        The Jinja template of its section in the report, or the name of a file beside its module that ends in `.html.j2`. It
        sees `entry` and `figure(caption)`; a file may import the macros of `macros.html.j2`.
    requires
        Each returns a reason, as the end of a sentence, where a model cannot be measured, and None where it can.
    figure
        Draws the entry; may return None.
    """

    name: str
    measure: Callable[[Subject], Any]
    section: str
    requires: tuple[Requirement, ...] = ()
    figure: "Callable[[Any], Figure | None] | None" = None

    def run(self, subject: Subject) -> Any:
        """The entry of evaluation.json: the measurement, or `{"not_measured": reason}`."""
        for requirement in self.requires:
            if (reason := requirement(subject)) is not None:
                return {"not_measured": reason}
        return self.measure(subject)


def takes_any_initial_state(subject: Subject) -> str | None:
    """Whether the model was trained on more than one initial state."""
    if subject.trained_for.initial_state is None:
        return None
    q0, p0 = subject.trained_for.initial_state
    return f"the model was trained on a single initial state, q0 = {_plain(q0)} and p0 = {_plain(p0)}"


def has_variants(subject: Subject) -> str | None:
    """Whether the training ensemble has variants."""
    return None if subject.ensemble.variants() else f"ensemble {subject.ensemble.name!r} has no variants"


def has_exact_hamiltonians(subject: Subject) -> str | None:
    """Whether the Hamiltonians of the problems are known, and not only what sensors read of them."""
    return None if subject.problems.has_exact_hamiltonians else "the rows were imported, and their exact Hamiltonians are not known"


def can_be_drawn(subject: Subject) -> str | None:
    """Whether the ensemble that the model was trained on has further problems."""
    return "the model was trained on imported rows, of which no more can be drawn" if isinstance(subject.ensemble, Imported) else None


def _plain(state: Any) -> Any:
    return f"{state[0]:g}" if len(state) == 1 else tuple(state)
