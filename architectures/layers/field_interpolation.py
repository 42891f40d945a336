"""V between sensors: a mixture of Gaussian-process interpolants of several length scales, corrected by convolutions.

Each interpolant is the mean of a Gaussian process with the kernel exp(-r² / 2 l²) and an unknown mean and variance, given the sensors
(Rasmussen & Williams, Gaussian Processes for Machine Learning, 2.2 and 2.7). On a grid the kernel is a product of one along each axis,
so interpolation is a matrix along each axis, and the likelihood needs no more than their eigenvectors.

Shapes: B batch, (S1, S2) sensors, (F1, F2) points of the fine grid, K interpolants, M width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .basics import Float64Constants

_SMALLEST_DEVIATION = 1e-9  # of a process at a sensor, over that of the field


class _Axis(NamedTuple):
    """Of one kernel along one axis: eigenvectors (S, S) and eigenvalues (S,) at the sensors, and what they make of the fine grid.

    `weights` (F, S) interpolate in terms of the eigenvectors; `explained` (F,) is the part of the variance that the sensors explain.
    """

    vectors: np.ndarray
    values: np.ndarray
    weights: np.ndarray
    explained: np.ndarray


class FieldInterpolation(nn.Module):
    """From values at sensors (B, S1, S2) to values on a fine grid (B, F1, F2), both over known places along each axis.

    Untrained, it averages the interpolants by their posterior probabilities.

    Parameters
    ----------
    sensors, fine
        Places along each axis, in units of the domain's width.
    length_scales
        Of the interpolants, in the same units.
    noise
        Variances of the sensors' errors, over that of the field; there is an interpolant for each with each length scale.
    width, num_layers
        Of the convolutions that correct the average.
    """

    def __init__(
        self,
        sensors: Sequence[np.ndarray],
        fine: Sequence[np.ndarray],
        length_scales: Sequence[float],
        noise: Sequence[float],
        width: int,
        num_layers: int,
    ) -> None:
        super().__init__()
        kernels = [(scale, variance) for scale in length_scales for variance in noise]
        axes = [[_axis(x, f, *kernel) for kernel in kernels] for x, f in zip(sensors, fine, strict=True)]
        stacked = {
            f"{name}_{number}": np.stack([getattr(member, name) for member in members])
            for number, members in enumerate(axes)
            for name in ("vectors", "values", "weights")
        }
        unexplained = np.stack([1.0 - np.outer(a.explained, b.explained) for a, b in zip(*axes, strict=True)])
        variances = np.array([variance for _, variance in kernels])
        self.exact = Float64Constants(unexplained=np.maximum(unexplained, _SMALLEST_DEVIATION**2), noise=variances, **stacked)
        self.judge = nn.Linear(len(kernels), len(kernels))
        self.bend = nn.Parameter(torch.zeros(len(kernels)))
        layers: list[nn.Module] = [nn.Conv2d(len(kernels) + 2, width, 3, padding=1), nn.GELU()]
        for _ in range(num_layers - 1):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.GELU()]
        self.correct = nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1))
        with torch.no_grad():
            self.judge.weight.copy_(torch.eye(len(kernels)))
            self.judge.bias.zero_()
            for parameter in self.correct[-1].parameters():
                parameter.zero_()

    def forward(self, values: Tensor) -> Tensor:
        """The values on the fine grid, in float64: they resolve differences that float32 does not."""
        exact = values.double()
        means, fields, evidence = self._interpolate(exact)
        weights = torch.softmax(self.judge(evidence.to(self.bend.dtype)).double(), dim=-1)[..., None, None]
        variance = (weights * self.exact["unexplained"]).sum(dim=1)
        spread = self._spread(exact)
        deviation = variance.sqrt() * spread
        average = (weights * fields).sum(dim=1)
        mean = (weights[..., 0, 0] * means).sum(dim=1)[:, None, None]
        doubts = (fields - average.unsqueeze(1)) / deviation.unsqueeze(1)
        inputs = [((average - mean) / spread).unsqueeze(1), variance.log().unsqueeze(1) / 10.0, torch.tanh(doubts)]
        correction = self.correct(torch.cat(inputs, dim=1).to(self.bend.dtype)).squeeze(1).double()
        bent = average + (weights * self.bend.double()[:, None, None] * self.exact["unexplained"]).sum(dim=1) * spread.square()
        return bent + deviation * correction

    @staticmethod
    def _spread(values: Tensor) -> Tensor:
        """Standard deviation of each row's values (B, 1, 1)."""
        return values.flatten(1).std(dim=1)[:, None, None].clamp(min=1e-6)

    def _interpolate(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means (B, K), interpolants (B, K, F1, F2) and log likelihoods (B, K), up to a constant, over the number of sensors."""
        first, second = self.exact["vectors_0"], self.exact["vectors_1"]
        eigenvalues = self.exact["values_0"][:, :, None] * self.exact["values_1"][:, None, :] + self.exact["noise"][:, None, None]
        turned = first.transpose(1, 2) @ values.unsqueeze(1) @ second
        ones = first.sum(dim=1)[:, :, None] * second.sum(dim=1)[:, None, :]
        means = (turned * ones / eigenvalues).sum(dim=(2, 3)) / (ones.square() / eigenvalues).sum(dim=(1, 2))
        residual = turned - means[..., None, None] * ones
        count = values[0].numel()
        fit = (residual.square() / eigenvalues).sum(dim=(2, 3)) / count
        evidence = -0.5 * count * torch.log(fit.clamp(min=1e-30)) - 0.5 * eigenvalues.log().sum(dim=(1, 2))
        evidence = evidence - 0.5 * torch.log((ones.square() / eigenvalues).sum(dim=(1, 2)))
        fields = self.exact["weights_0"] @ (residual / eigenvalues) @ self.exact["weights_1"].transpose(1, 2) + means[..., None, None]
        return means, fields, evidence - evidence.amax(dim=1, keepdim=True)


def _axis(sensors: np.ndarray, fine: np.ndarray, length_scale: float, noise: float) -> _Axis:
    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-0.5 * np.square((a[:, None] - b) / length_scale))

    values, vectors = np.linalg.eigh(kernel(sensors, sensors))
    values = np.maximum(values, 0.0)
    across = kernel(fine, sensors) @ vectors
    explained = (np.square(across) / (values + noise)).sum(axis=1)
    return _Axis(vectors, values, across, np.minimum(explained, 1.0))
