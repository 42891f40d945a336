"""Optimizers by name, and averages of weights.

AdamW and Muon are PyTorch's; SPlus and schedule-free AdamW come from the package pytorch-optimizer.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from ...architectures import Operator
from ...physics import InputError
from ..config import TrainingConfig
from .soap import SOAP

_SMALL_GRADIENT = 1e-14  # losses near 1e-8 have gradients near the usual 1e-8, which would then slow the steps
_MUON_RATE = "match_rms_adamw"  # steps of AdamW's size, so that one learning rate suits both


class _Rule(Protocol):
    """How some of the weights change in a step."""

    def prepare(self, rate: float) -> None: ...
    def update(self) -> None: ...
    def finish(self) -> None: ...
    def zero_grad(self) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Optimizer:
    """One or two rules that step together. All ranks of a process group hold the same state.

    A step is `prepare`, on the host; `update`, on the device; and `finish`. Where `settings.cuda_graph` is set, `update` waits for nothing
    and reads what `prepare` set from the device's memory.
    """

    def __init__(self, model: nn.Module, settings: TrainingConfig) -> None:
        self._rules: list[_Rule] = _BUILDERS[settings.optimizer](model, settings)

    def step(self, rate: float) -> None:
        """Update the weights from their gradients at learning rate `rate`, and clear the gradients."""
        self.prepare(rate)
        self.update()
        self.finish()

    def prepare(self, rate: float) -> None:
        for rule in self._rules:
            rule.prepare(rate)

    def update(self) -> None:
        for rule in self._rules:
            rule.update()
            rule.zero_grad()

    def finish(self) -> None:
        for rule in self._rules:
            rule.finish()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within, the network holds the weights to be evaluated: their average, where the optimizer itself keeps one."""
        averaging = [rule for rule in self._rules if isinstance(rule, _Averaging)]
        for rule in averaging:
            rule.evaluate(True)
        try:
            yield
        finally:
            for rule in averaging:
                rule.evaluate(False)

    def state_dict(self) -> list[dict[str, Any]]:
        return [rule.state_dict() for rule in self._rules]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        for rule, saved in zip(self._rules, state, strict=True):
            rule.load_state_dict(saved)


class _Torch:
    """An optimizer in PyTorch's form."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def prepare(self, rate: float) -> None:
        for group in self._optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):  # which a CUDA graph reads
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def update(self) -> None:
        self._optimizer.step()

    def finish(self) -> None:
        """Nothing is left to do."""

    def zero_grad(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return self._optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._optimizer.load_state_dict(state)


class _Averaging(_Torch):
    """One that keeps an average of the weights itself, and puts it in their place to be evaluated."""

    def evaluate(self, average: bool) -> None:
        optimizer: Any = self._optimizer
        if optimizer.state:
            optimizer.eval() if average else optimizer.train()


class WeightAverage:
    """An exponential moving average of weights, as a network of its own: `model`.

    Early averages are shorter, (1 + n) / (10 + n) after n steps, so that the initial weights do not linger.
    """

    def __init__(self, source: Operator, decay: float) -> None:
        self.model = copy.deepcopy(source).requires_grad_(False)
        self.steps = 0
        self._decay = decay
        self._averages, self._weights = list(self.model.parameters()), list(source.parameters())

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
        # All weights at once, as torch.optim.swa_utils does it; that class would wait for a GPU each step.
        torch._foreach_lerp_(self._averages, self._weights, 1.0 - decay)  # pyright: ignore


def _adamw(parameters: list[torch.Tensor], settings: TrainingConfig) -> _Rule:
    graph = settings.cuda_graph
    rate = torch.tensor(settings.learning_rate, device=parameters[0].device) if graph else settings.learning_rate
    return _Torch(torch.optim.AdamW(parameters, lr=rate, weight_decay=settings.weight_decay, fused=True, capturable=graph))


def _build_adamw(model: nn.Module, settings: TrainingConfig) -> list[_Rule]:
    return [_adamw(list(model.parameters()), settings)]


def _build_muon(model: nn.Module, settings: TrainingConfig) -> list[_Rule]:
    """Muon (Jordan et al., 2024) for matrices between hidden layers, AdamW for the rest, as its authors advise."""
    hidden = _hidden_matrices(model)
    rest: list[torch.Tensor] = [p for p in model.parameters() if not any(p is matrix for matrix in hidden)]
    muon = torch.optim.Muon(hidden, lr=settings.learning_rate, weight_decay=settings.weight_decay, adjust_lr_fn=_MUON_RATE)
    return [_Torch(muon), _adamw(rest, settings)] if rest else [_Torch(muon)]


def _hidden_matrices(model: nn.Module) -> list[torch.Tensor]:
    """Weights of linear layers with many inputs and outputs: neither embeddings of t or V nor heads."""
    least = 8
    return [m.weight for m in model.modules() if isinstance(m, nn.Linear) and min(m.weight.shape) >= least]


def _build_soap(model: nn.Module, settings: TrainingConfig) -> list[_Rule]:
    return [SOAP(model.parameters(), settings.weight_decay, epsilon=_SMALL_GRADIENT, refresh_every=30 if settings.cuda_graph else 10)]


def _build_splus(model: nn.Module, settings: TrainingConfig) -> list[_Rule]:
    """SPlus (Frans et al., arXiv 2506.07254)."""
    return [_Averaging(_package().SPlus(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay))]


def _build_schedule_free(model: nn.Module, settings: TrainingConfig) -> list[_Rule]:
    """Schedule-free AdamW (Defazio et al., arXiv 2405.15682)."""
    return [_Averaging(_package().ScheduleFreeAdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay))]


def _package() -> Any:
    try:
        import pytorch_optimizer
    except ModuleNotFoundError:
        raise InputError("training.optimizer needs the package pytorch-optimizer: pip install pytorch-optimizer, or choose adamw") from None
    return pytorch_optimizer


_BUILDERS = {
    "adamw": _build_adamw,
    "muon": _build_muon,
    "soap": _build_soap,
    "splus": _build_splus,
    "schedule-free": _build_schedule_free,
}
