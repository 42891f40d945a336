"""What a study compares: architectures with their default settings, and configurations by name or file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...architectures import available_architectures
from ...physics import InputError
from ...platform.config import Config, load_config

# What a cell varies, or the study sets for all; no leftover of a file reaches a run.
_OF_THE_STUDY: dict[str, Any] = {f"training.{key}": None for key in ("train_rows", "val_rows", "trajectories_per_potential")} | {
    f"training.{key}": 0 for key in ("train_start", "val_start", "seed")
}


@dataclass(frozen=True)
class Contestant:
    """One of those that are compared, and the configuration that its cells start from."""

    name: str
    config: Config


def read_contestants(config: Config, names: list[str]) -> list[Contestant]:
    """The contestants of a study with the settings of `config`, one for each of `names`.

    An architecture has its default settings, but for the one that `config` is about. A configuration brings its own sections
    `architecture` and `training`; what it leaves out of the latter is as in `config`, and the epochs always are. It may bring its own
    `sweep.space` too.

    Raises
    ------
    InputError
        Where names are missing, repeated, or of nothing that is known; and for endless rows, of which there is no number.
    """
    contestants = [_read(config, name) for name in names]
    if not names or len({contestant.name for contestant in contestants}) < len(names):
        raise InputError(f"--arch is {','.join(names)!r}; give one or more different values")
    return contestants


def _refuse_endless(endless: bool, name: str) -> None:
    if endless:
        raise InputError(f"training.endless of {name!r} is true, so its rows never repeat: a study of dataset sizes needs false")


def vary_trajectories(contestants: list[Contestant], trajectories: list[int] | None) -> list[Contestant]:
    """Each contestant once for each number of trajectories per potential, its name followed by the number; or as they are, without any.

    Raises InputError where a number is repeated or none.
    """
    if trajectories is None:
        return contestants
    if not trajectories or len(set(trajectories)) < len(trajectories) or min(trajectories) < 1:
        raise InputError(f"--trajectories is {','.join(map(str, trajectories))!r}; give one or more different numbers above 0")
    return [
        Contestant(f"{contestant.name}-x{number}", contestant.config.override({"training.trajectories_per_potential": number}))
        for contestant in contestants
        for number in trajectories
    ]


def _read(config: Config, name: str) -> Contestant:
    if name in available_architectures():
        _refuse_endless(config.training.endless, name)
        return Contestant(name, config.override({"architecture.name": name} | _OF_THE_STUDY))
    try:
        given = load_config(name, given_as="configuration")
    except InputError as error:
        known = ", ".join(available_architectures())
        raise InputError(f"--arch has {name!r}, which is neither an architecture ({known}) nor a configuration: {error}") from None
    values = given.given()
    sections = {section: values.get(section, {}) for section in ("architecture", "training")}
    own = {f"{section}.{key}": value for section, content in sections.items() for key, value in content.items()}
    own |= {"architecture.name": given.architecture.name, "training.epochs": config.training.epochs}
    if given.sweep.space:
        own["sweep.space"] = given.sweep.space  # what `scaling.retune` searches
    _refuse_endless(own.get("training.endless", config.training.endless), name)
    warmup = given.training.warmup_epochs * config.training.epochs / given.training.epochs
    return Contestant(Path(name).stem, config.override(own | {"training.warmup_epochs": warmup} | _OF_THE_STUDY))
