"""Optimizers by name, and averages of weights.

AdamW and Muon are PyTorch's; SOAP, SPlus and schedule-free AdamW come from the package pytorch-optimizer.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ...architectures import Operator
from ...physics import InputError
from ..config import TrainingConfig

_SMALL_GRADIENT = 1e-14  # losses near 1e-8 have gradients near the usual 1e-8, which would then slow the steps
_MUON_RATE = "match_rms_adamw"  # steps of AdamW's size, so that one learning rate suits both


class Optimizer:
    """One or two of torch's optimizers that step together. All ranks of a process group hold the same state."""

    def __init__(self, model: nn.Module, settings: TrainingConfig) -> None:
        self._parts = _BUILDERS[settings.optimizer](model, settings)

    def step(self, rate: float) -> None:
        """Update the weights from their gradients at learning rate `rate`, and clear the gradients."""
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()
            part.zero_grad(set_to_none=True)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within, the network holds the weights to be evaluated: their average, where the optimizer itself keeps one."""
        averaging: list[Any] = [part for part in self._parts if hasattr(part, "eval") and part.state]
        for part in averaging:
            part.eval()
        try:
            yield
        finally:
            for part in averaging:
                part.train()

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self._parts]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        for part, saved in zip(self._parts, state, strict=True):
            part.load_state_dict(saved)


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


def _adamw(parameters: list[torch.Tensor], settings: TrainingConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)


def _build_adamw(model: nn.Module, settings: TrainingConfig) -> list[torch.optim.Optimizer]:
    return [_adamw(list(model.parameters()), settings)]


def _build_muon(model: nn.Module, settings: TrainingConfig) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al., 2024) for matrices between hidden layers, AdamW for the rest, as its authors advise."""
    hidden = _hidden_matrices(model)
    rest: list[torch.Tensor] = [p for p in model.parameters() if not any(p is matrix for matrix in hidden)]
    muon = torch.optim.Muon(hidden, lr=settings.learning_rate, weight_decay=settings.weight_decay, adjust_lr_fn=_MUON_RATE)
    return [muon, _adamw(rest, settings)] if rest else [muon]


def _hidden_matrices(model: nn.Module) -> list[torch.Tensor]:
    """Weights of linear layers with many inputs and outputs: neither embeddings of t or V nor heads."""
    least = 8
    return [m.weight for m in model.modules() if isinstance(m, nn.Linear) and min(m.weight.shape) >= least]


def _build_soap(model: nn.Module, settings: TrainingConfig) -> list[torch.optim.Optimizer]:
    """SOAP (Vyas et al., arXiv 2409.11321)."""
    return [_package().SOAP(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, eps=_SMALL_GRADIENT)]


def _build_splus(model: nn.Module, settings: TrainingConfig) -> list[torch.optim.Optimizer]:
    """SPlus (Frans et al., arXiv 2506.07254)."""
    return [_package().SPlus(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)]


def _build_schedule_free(model: nn.Module, settings: TrainingConfig) -> list[torch.optim.Optimizer]:
    """Schedule-free AdamW (Defazio et al., arXiv 2405.15682)."""
    return [_package().ScheduleFreeAdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)]


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
