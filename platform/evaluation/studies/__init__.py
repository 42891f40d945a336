"""The studies of an evaluation, one file each: every module here that exposes `STUDY`."""

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..study import Study


def study_names() -> list[str]:
    """The names of all studies, in order; imports none of them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get_study(name: str) -> "Study":
    """The study called `name`, which must be one of `study_names()`."""
    return import_module(f".{name}", __name__).STUDY
