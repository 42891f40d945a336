"""SOAP (Vyas et al., arXiv 2409.11321): Adam in the eigenbases of Shampoo's preconditioner, for all parameters of one shape at once.

A network repeats its layers, so a few dozen shapes cover hundreds of parameters. Stacked, they take a few hundred kernels a step where one
parameter after another takes thousands, and a GPU spends its time on arithmetic. What a step does on the device waits for nothing and
reads the rate and the corrections from memory, so it can be recorded in a CUDA graph.

Shapes: P parameters of one shape, of sizes n1, n2, ...
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

_FLAT = ()  # the group of all vectors and scalars, end to end in one vector: they have no bases


class SOAP:
    """The update of `parameters`, of one type and device; those without a gradient in the first step are left alone.

    A step is `prepare`, on the host; `update`, on the device; and `finish`, which every `refresh_every` steps turns the bases. Weight
    decay is decoupled from the gradient. The first step only finds the bases and changes no weight, as in the authors' code.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        weight_decay: float,
        epsilon: float,
        betas: tuple[float, float] = (0.95, 0.95),
        refresh_every: int = 10,
    ) -> None:
        self._parameters = list(parameters)
        self._weight_decay, self._epsilon, self._betas, self._refresh_every = weight_decay, epsilon, betas, refresh_every
        self._steps = 0
        self._groups: list[_Group] = []
        # The length of a step and what decay leaves of the weights, where kernels read them.
        self._step_size, self._kept = (torch.zeros((), device=self._parameters[0].device) for _ in range(2))

    def prepare(self, rate: float) -> None:
        """Set the learning rate of the next update."""
        self._steps += 1
        if moments := self._steps - 1:
            decay_1, decay_2 = self._betas
            self._step_size.fill_(rate * math.sqrt(1.0 - decay_2**moments) / (1.0 - decay_1**moments))
        self._kept.fill_(1.0 - rate * self._weight_decay)

    @torch.no_grad()
    def update(self) -> None:
        """Change the weights by their gradients. From the second step on it always runs the same kernels."""
        if self._steps > 1:
            for group in self._groups:
                group.update(self._step_size, self._kept, self._betas, self._epsilon)
            return
        self._groups = self._group([index for index, parameter in enumerate(self._parameters) if parameter.grad is not None])
        for group in self._groups:
            group.begin(self._betas[1])

    @torch.no_grad()
    def finish(self) -> None:
        """Turn the bases, where it is time to. Not for a CUDA graph: factorisations wait for the host."""
        if self._steps > 1 and (self._steps - 1) % self._refresh_every == 0:
            for group in self._groups:
                group.refresh()

    def _group(self, indices: Sequence[int]) -> "list[_Group]":
        members: dict[tuple[int, ...], list[int]] = {}
        for index in indices:
            sizes = tuple(self._parameters[index].shape)
            members.setdefault(sizes if len(sizes) > 1 else _FLAT, []).append(index)
        return [_Group(sizes, of_shape, [self._parameters[index] for index in of_shape]) for sizes, of_shape in members.items()]

    def zero_grad(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps, "groups": [group.state_dict() for group in self._groups]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steps = state["steps"]
        self._groups = self._group([index for group in state["groups"] for index in group["members"]])
        for group, saved in zip(self._groups, state["groups"], strict=True):
            group.load_state_dict(saved)


class _Group:
    """Parameters of one shape and what is remembered of their gradients, stacked (P, n1, n2, ...); of vectors, end to end (1, N)."""

    def __init__(self, sizes: tuple[int, ...], members: list[int], parameters: list[Tensor]) -> None:
        self._members, self._parameters = members, parameters
        first = parameters[0]
        shape = (len(parameters), *sizes) if sizes else (1, sum(parameter.numel() for parameter in parameters))
        self.momentum, self.variance = (torch.zeros(shape, device=first.device, dtype=first.dtype) for _ in range(2))
        # Of each axis: the mean outer product of the gradient along it, and its eigenvectors as columns, both (P, n, n).
        self.products, self.bases = ([first.new_zeros(len(parameters), n, n) for n in sizes] for _ in range(2))

    def _gradients(self) -> Tensor:
        gradients = [parameter.grad for parameter in self._parameters]
        if self.products:
            return torch.stack(gradients)  # pyright: ignore[reportArgumentType]
        return torch.cat([gradient.flatten() for gradient in gradients]).unsqueeze(0)  # pyright: ignore[reportOptionalMemberAccess]

    def begin(self, decay: float) -> None:
        self._remember(self._gradients(), decay)
        for basis, product in zip(self.bases, self.products, strict=True):
            # A little on the diagonal, as in the authors' code: gradients may still be zero.
            identity = torch.eye(product.shape[-1], device=product.device, dtype=product.dtype)
            basis.copy_(torch.linalg.eigh(product + 1e-30 * identity).eigenvectors.flip(-1))

    def update(self, step_size: Tensor, kept: Tensor, betas: tuple[float, float], epsilon: float) -> None:
        gradient = self._gradients()
        self.momentum.lerp_(gradient, 1.0 - betas[0])
        self.variance.lerp_(_turn(gradient, self.bases).square_(), 1.0 - betas[1])
        direction = _turn(self.momentum, self.bases) / (self.variance.sqrt() + epsilon)
        steps = _turn(direction, [basis.mT for basis in self.bases]) * step_size
        torch._foreach_sub_(self._parameters, self._split(steps))  # pyright: ignore
        torch._foreach_mul_(self._parameters, kept)  # pyright: ignore
        self._remember(gradient, betas[1])

    def _split(self, stacked: Tensor) -> list[Tensor]:
        if self.products:
            return list(stacked.unbind())
        parts = stacked[0].split([parameter.numel() for parameter in self._parameters])
        return [part.view_as(parameter) for part, parameter in zip(parts, self._parameters, strict=True)]

    def _remember(self, gradient: Tensor, decay: float) -> None:
        for product in self.products:
            rows = gradient.flatten(2)
            product.lerp_(rows @ rows.mT, 1.0 - decay)
            gradient = _next_axis(gradient)

    def refresh(self) -> None:
        """One step of the power method on each basis, whose vectors are then sorted by their eigenvalues; the variances go along."""
        for axis, (basis, product) in enumerate(zip(self.bases, self.products, strict=True), start=1):
            powers = product @ basis
            order = (basis * powers).sum(dim=1).argsort(dim=-1, descending=True)
            basis.copy_(torch.linalg.qr(powers.gather(2, order.unsqueeze(1).expand_as(powers))).Q)
            shape = [1] * self.variance.ndim
            shape[0], shape[axis] = order.shape
            self.variance.copy_(self.variance.gather(axis, order.view(shape).expand_as(self.variance)))

    def state_dict(self) -> dict[str, Any]:
        return {"members": self._members, **{name: getattr(self, name) for name in ("momentum", "variance", "products", "bases")}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for mine, saved in zip(
            (self.momentum, self.variance, *self.products, *self.bases),
            (state["momentum"], state["variance"], *state["products"], *state["bases"]),
            strict=True,
        ):
            mine.copy_(saved)


def _turn(stacked: Tensor, bases: Sequence[Tensor]) -> Tensor:
    """(P, n1, n2, ...) with each axis multiplied by the transpose of its basis, (P, n, n)."""
    for basis in bases:
        sizes = stacked.shape
        stacked = (stacked.flatten(2).mT @ basis).view(sizes[0], *sizes[2:], basis.shape[-1])
    return stacked


def _next_axis(stacked: Tensor) -> Tensor:
    """(P, n1, n2, ..., nk) -> (P, n2, ..., nk, n1)."""
    return stacked.movedim(1, -1)
