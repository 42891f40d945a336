"""The models that come with the project, and how a user's name or folder becomes a model folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..physics import InputError
from ..platform.storage import Location, Url, locate

if TYPE_CHECKING:
    from ..architectures import TrainedFor
    from .client import ServedTask

SHIPPED_MODELS = Path(__file__).parent / "models"
_CARD = "model.json"


def shipped_models() -> list[str]:
    """The names of the models that `load`, `predict` and `serve` know without a folder."""
    return sorted(card.parent.name for card in SHIPPED_MODELS.glob(f"*/{_CARD}"))


def shipped_models_in_order() -> list[str]:
    """All shipped models, first the one that `predict` uses when no initial state is given."""
    default = choose_model().name
    return sorted(shipped_models(), key=lambda name: (name != default, name))


def find_model(model: str | Location) -> Location:
    """The folder of a model given by its folder, by the URL of that, or by the name of a shipped model.

    The folder of a model or a run goes before a name.

    Raises
    ------
    InputError
        Where there is no model; for a run folder the message suggests the model in it.
    """
    from ..architectures import read_card

    folder = find_folder(model)
    read_card(folder)
    return folder


def find_folder(model: str | Location) -> Location:
    """As `find_model`, but the model's card is not read, which would import torch."""
    folder = locate_model(model)
    if not (folder / _CARD).is_file():
        if (folder / "model" / _CARD).is_file():
            raise InputError(f"{str(model)!r} is a run folder; its model is {str(folder / 'model')!r}")
        if not folder.exists():
            raise InputError(f"{str(model)!r} is neither a model folder nor a shipped model; shipped are {', '.join(shipped_models())}")
    return folder


def locate_model(model: str | Location) -> Location:
    """As `find_model`, for a folder that another machine may have: nothing is read."""
    folder = locate(model)
    if isinstance(folder, Url):
        return folder
    is_name = len(folder.parts) == 1 and str(folder) in shipped_models()
    is_model = any((folder / part / _CARD).is_file() for part in ("", "model"))  # of the name's own, or of a run that is called so
    return SHIPPED_MODELS / folder if is_name and not is_model else folder


def name_of(model: str | Location) -> str:
    """What a model is called where nobody named it: as its folder, or as the run it came from."""
    path = locate(model).resolve()
    return path.parent.name if path.name == "model" else path.name


def short_path(folder: Location) -> Location:
    """Relative to the working directory, if it is inside it."""
    if isinstance(folder, Url):
        return folder
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def choose_model(q0: Any = None, p0: Any = None) -> Path:
    """The folder of the shipped model for an initial state, with one number per degree of freedom in q0 and in p0.

    Models trained for a single state, this one, come first; then those trained without noise; then those with most sensors;
    then those that have learnt all of mechanics; then the most accurate by validation loss. A part that is None is 0; where both
    are, every model will do.

    Raises
    ------
    InputError
        Where no shipped model predicts from this state.
    """
    given = [part for part in (q0, p0) if part is not None]
    q0, p0 = (np.zeros(np.size(given[0])) if given and part is None else part for part in (q0, p0))
    usable = [name for name in shipped_models() if not given or accepts(read_trained_for(name), q0, p0)]
    if not usable:
        raise InputError(f"no shipped model predicts from q0 = {q0} and p0 = {p0}; name a model folder")
    return SHIPPED_MODELS / min(usable, key=lambda name: (rank(_read_card(name)), name))


def rank(card: dict[str, Any]) -> tuple[Any, ...]:
    """A key by which models are tried in turn, best first: see `choose_model`."""
    from ..architectures import TrainedFor, parse_architecture

    trained_for = TrainedFor.model_validate(card["trained_for"])
    has_mechanics_built_in = parse_architecture(card["architecture"]).built_in is not None
    fit = trained_for.any_initial_state, trained_for.noise > 0, -trained_for.task.num_sensors, has_mechanics_built_in
    return *fit, validation_loss(card)


def validation_loss(card: dict[str, Any]) -> float:
    """What a model reached in training; infinity where its card has no record of it."""
    loss = card.get("provenance", {}).get("metrics", {}).get("validation_loss")
    return float(loss) if isinstance(loss, int | float) and np.isfinite(loss) else np.inf


def most_accurate_model(system: str, q0: Any, p0: Any) -> str:
    """The name of the shipped model of a system, trained without noise, that predicts from this state with the least validation loss."""
    names = [name for name in models_accepting(system, q0, p0) if read_trained_for(name).noise == 0]
    if not names:
        raise InputError(f"no shipped model of system {system!r} predicts from q0 = {q0} and p0 = {p0}; name a model folder")
    return min(names, key=lambda name: validation_loss(_read_card(name)))


def models_accepting(system: str, q0: Any, p0: Any) -> list[str]:
    """The shipped models of a system that predict from this initial state."""
    cards = ((name, read_trained_for(name)) for name in shipped_models())
    return [name for name, trained_for in cards if trained_for.system == system and accepts(trained_for, q0, p0)]


def accepts(trained_for: "TrainedFor | ServedTask", q0: Any, p0: Any) -> bool:
    """Whether a model predicts from q0, p0 (d,), admissible or not: whether it was trained for this state, or for any."""
    if not np.size(q0) == np.size(p0) == len(trained_for.domain):
        return False
    return trained_for.initial_state is None or np.array_equal(trained_for.initial_state, [np.ravel(q0), np.ravel(p0)])


def read_trained_for(name: str) -> "TrainedFor":
    """What a shipped model was trained for, from its card."""
    from ..architectures import TrainedFor

    return TrainedFor.model_validate(_read_card(name)["trained_for"])


def _read_card(name: str) -> dict[str, Any]:
    from ..architectures import read_card

    return read_card(SHIPPED_MODELS / name)
