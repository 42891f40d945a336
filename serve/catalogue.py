"""The models of an endpoint, by name, and which of them predicts what a request asks for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..architectures import read_card
from ..physics import InputError
from .model import Model
from .motion import MotionProblem, predicts_motions
from .problems import Problem
from .shipped import accepts, rank, validation_loss


@dataclass(frozen=True)
class Catalogue:
    """Models in use.

    Attributes
    ----------
    models
        By name; the first is the default.
    rejected
        Why a model of this name could not be loaded. Where there is one of that name in `models`, it is the one before.
    """

    models: Mapping[str, Model]
    rejected: Mapping[str, str] = field(default_factory=dict)

    @property
    def default(self) -> str:
        return next(iter(self.models))

    def find(self, name: str | None) -> tuple[str, Model]:
        """A model by name, None: the default; InputError where there is none of this name."""
        chosen = self.default if name is None else name
        if chosen not in self.models:
            raise InputError(f"model is {chosen[:100]!r}; this endpoint has {', '.join(self.models)}")
        return chosen, self.models[chosen]

    def choose(self, name: str | None, problems: Sequence[Problem | MotionProblem]) -> tuple[str, Model]:
        """The model of a request that names one; else the best for its problems: the most accurate for units of one's own, and
        otherwise the default, unless only others predict from the initial states."""
        if name is not None:
            return self.find(name)
        if all(isinstance(problem, MotionProblem) for problem in problems):
            usable = [known for known, model in self.models.items() if predicts_motions(model) and model.trained_for.noise == 0.0]
            chosen = min(usable, key=lambda known: validation_loss(self.models[known].card), default=None)
            return self.find(chosen)
        states = [(problem.q0, problem.p0) for problem in problems if isinstance(problem, Problem)]
        usable = [known for known, model in self.models.items() if all(_may_start(model, q0, p0) for q0, p0 in states)]
        if self.default in usable or not usable:
            return self.find(None)
        return self.find(min(usable, key=lambda known: rank(self.models[known].card)))

    def describe(self) -> dict[str, Any]:
        """What GET /v1/models returns."""
        listed = [
            {"name": name, **model.summary, "ensemble": model.trained_for.ensemble["name"], "predicts_motions": predicts_motions(model)}
            for name, model in self.models.items()
        ]
        return {"default": self.default, "models": listed, "rejected": dict(self.rejected)}


def load_catalogue(folders: Mapping[str, str | Path], solver_threshold: float, before: Catalogue) -> Catalogue:
    """The models in these folders, by name.

    A model that is in use already is not loaded again. One that cannot be used is `rejected`: the model that had its name `before` stays
    in use.

    Raises
    ------
    InputError
        Where a model cannot be used and there was none before.
    """
    models: dict[str, Model] = {}
    rejected: dict[str, str] = {}
    for name, folder in folders.items():
        known = before.models.get(name)
        try:
            models[name] = known if known is not None and _is_same(known, folder, solver_threshold) else Model(folder, solver_threshold)
        except InputError as error:
            if not before.models:
                raise
            rejected[name] = str(error)
            if known is not None:
                models[name] = known
    return Catalogue(models or before.models, rejected)


def _is_same(model: Model, folder: str | Path, solver_threshold: float) -> bool:
    return model.folder == Path(folder) and model.card == read_card(folder) and model.solver_threshold == solver_threshold


def _may_start(model: Model, q0: Any, p0: Any) -> bool:
    """Whether a model predicts from this state, whose parts may be None for what the model takes by default."""
    if q0 is None and p0 is None:
        return True
    given = q0 if q0 is not None else p0
    zeros = [0.0] * len(given) if isinstance(given, list) else 0.0
    return accepts(model.trained_for, zeros if q0 is None else q0, zeros if p0 is None else p0)
