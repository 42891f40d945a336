"""Training that starts from the weights of a model instead of random ones."""

from ...architectures import Operator, load_model
from ...physics import InputError
from ..storage import locate


def start_from(network: Operator, folder: str) -> None:
    """Give a network the weights of a saved one, and the normalisation that they belong to.

    Raises InputError where the folder holds no such network: of the same architecture and sizes, for the same task.
    """
    source = load_model(locate(folder))
    if (source.config, source.task) != (network.config, network.task):
        raise InputError(f"training.initial_model is {folder!r}, a network of other sizes or for another task; it must be like the new one")
    network.load_state_dict(source.state_dict())
