"""Training that starts from the weights of a model instead of random ones."""

from ...architectures import Operator, load_model
from ...architectures.card import CARD_FILE
from ...physics import InputError
from ..storage import Location, locate


def find_initial_model(folder: str) -> Location:
    """The path or URL of the model folder that `training.initial_model` names: the folder itself, or the model of a run folder.

    Raises InputError where there is neither.
    """
    path = locate(folder).absolute()
    for candidate in (path, path / "model"):
        if (candidate / CARD_FILE).is_file():
            return candidate
    found = "holds no model" if path.exists() else "does not exist"
    raise InputError(f"training.initial_model is {folder!r}, which {found}; give a model folder, or the folder of a run that has a model")


def start_from(network: Operator, folder: str) -> None:
    """Give a network the weights of a saved one, and the normalisation that they belong to.

    Raises InputError where the folder holds no such network: of the same architecture and sizes, for the same task.
    """
    try:
        source = load_model(locate(folder))
    except InputError as error:
        raise InputError(f"training.initial_model is {folder!r}, which cannot be read: {error}") from None
    if (source.config, source.task) != (network.config, network.task):
        differences = [
            f"{key} {getattr(source.config, key, None)!r}, not {value!r}"
            for key, value in network.config
            if getattr(source.config, key, None) != value
        ]
        if source.task != network.task:
            differences.append(f"task {source.task}, not {network.task}")
        raise InputError(
            f"training.initial_model is {folder!r}, a network of other sizes or for another task, with {'; '.join(differences)}; "
            "it must be like the new one"
        )
    network.load_state_dict(source.state_dict())
