"""Steps of an optimizer on the shipped MambONet's weights: SOAP over stacked matrices against pytorch-optimizer's, one by one."""

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_optimizer
import torch

from neural_hamilton.architectures import build_operator
from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.training.soap import SOAP
from neural_hamilton.platform.training.trained_for import task_of

from .timing import compare, time_in_turns

_ROUNDS = 7
_STEPS = 30  # a turn: each optimizer turns its bases three times in them
_RATE, _WEIGHT_DECAY, _EPSILON = 1e-3, 1e-4, 1e-14


def measure() -> dict[str, Any]:
    """`_STEPS` steps with the same random gradients, on one thread and on all of them."""
    config = load_config("shipped-mambonet", {})
    comparisons = []
    threads = torch.get_num_threads()
    for count in sorted({1, threads}):
        torch.set_num_threads(count)
        ours, theirs = f"SOAP, stacked, threads: {count}", f"pytorch-optimizer, threads: {count}"
        contestants = {ours: _ours(_parameters(config)), theirs: _theirs(_parameters(config))}
        comparisons.append(compare(time_in_turns(contestants, _ROUNDS), ours, theirs))
    torch.set_num_threads(threads)
    num_parameters = sum(parameter.numel() for parameter in _parameters(config))
    return {"what": f"{_STEPS} steps of SOAP, {num_parameters:,} parameters, bases turned every 10 steps", "comparisons": comparisons}


def _parameters(config: Any) -> list[torch.nn.Parameter]:
    """The network's parameters, with gradients."""
    model = build_operator(config.architecture, task_of(config.data))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return list(model.parameters())


def _ours(parameters: Iterable[torch.nn.Parameter]) -> Callable[[], None]:
    optimizer = SOAP(parameters, _WEIGHT_DECAY, _EPSILON)

    def work() -> None:
        for _ in range(_STEPS):
            optimizer.prepare(_RATE)
            optimizer.update()
            optimizer.finish()

    return work


def _theirs(parameters: Iterable[torch.nn.Parameter]) -> Callable[[], None]:
    optimizer = pytorch_optimizer.SOAP(parameters, lr=_RATE, weight_decay=_WEIGHT_DECAY, eps=_EPSILON, precondition_frequency=10)

    def work() -> None:
        for _ in range(_STEPS):
            optimizer.step()

    return work
