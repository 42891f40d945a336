"""The models of an endpoint, by name, and which of them predicts what a request asks for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..architectures import read_card
from ..physics import InputError
from ..physics.errors import StorageUnavailable
from ..platform.storage import Location, locate
from .model import Model
from .motion import MotionProblem, predicts_motions
from .problems import Problem
from .shipped import accepts, validation_loss


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
        """The model of a request that names one; else the most accurate, by validation loss, that predicts from the initial states and
        takes as many sensors, the first of those that are equally accurate. Where none does, the default refuses in its own words."""
        if name is not None:
            return self.find(name)
        usable = [known for known, model in self.models.items() if all(_takes(model, problem) for problem in problems)]
        exact = [known for known in usable if self.models[known].trained_for.noise == 0.0]
        return self.find(min(exact or usable, key=lambda known: validation_loss(self.models[known].card), default=None))

    def describe(self) -> dict[str, Any]:
        """What GET /v1/models returns."""
        listed = [
            {"name": name, **model.summary, "ensemble": model.trained_for.ensemble.get("name"), "predicts_motions": predicts_motions(model)}
            for name, model in self.models.items()
        ]
        return {"default": self.default, "models": listed, "rejected": dict(self.rejected)}


def load_catalogue(folders: Mapping[str, str | Location], solver_threshold: float, before: Catalogue) -> Catalogue:
    """The models in these folders, by name.

    A model that is in use already is not loaded again. One that cannot be used is `rejected`: the model that had its name `before`, if
    any, stays in use, and so do the others.

    Raises
    ------
    InputError
        Where no model can be used and there was none before.
    """
    models: dict[str, Model] = {}
    rejected: dict[str, str] = {}
    for name, folder in folders.items():
        known = before.models.get(name)
        try:
            models[name] = known if known is not None and _is_same(known, folder, solver_threshold) else Model(folder, solver_threshold)
        except (InputError, StorageUnavailable, OSError) as error:
            rejected[name] = str(error)
            if known is not None:
                models[name] = known
    if not models and not before.models:
        raise InputError("; ".join(rejected.values()))
    return Catalogue(models or before.models, rejected)


def _is_same(model: Model, folder: str | Location, solver_threshold: float) -> bool:
    return model.folder == locate(folder) and model.card == read_card(model.folder) and model.solver_threshold == solver_threshold


def _takes(model: Model, problem: Problem | MotionProblem) -> bool:
    """Whether a model may predict a problem, by its initial state, whose parts may be None for what the model takes by default, and by
    the number of sensors, if the potential is given at sensors."""
    if isinstance(problem, MotionProblem):
        return predicts_motions(model)
    if isinstance(problem.potential, list | np.ndarray) and _shape(problem.potential) != tuple(model.task.sensors):
        return False
    q0, p0 = problem.q0, problem.p0
    if q0 is None and p0 is None:
        return True
    zeros = np.zeros(_shape(q0 if q0 is not None else p0) or ())
    return accepts(model.trained_for, zeros if q0 is None else q0, zeros if p0 is None else p0)


def _shape(values: Any) -> tuple[int, ...] | None:
    """None where lists of different lengths have none."""
    try:
        return np.shape(values)
    except ValueError:
        return None
