"""V between sensors: a mixture of Gaussian-process interpolants of several length scales, corrected by convolutions.

Each interpolant is the mean of a Gaussian process with the kernel exp(-r² / 2 l²) and an unknown mean and variance, given the sensors
(Rasmussen & Williams, Gaussian Processes for Machine Learning, 2.2 and 2.7). On a grid the kernel is a product of one along each axis,
so interpolation is a matrix along each axis, and the likelihood needs no more than their eigenvectors.

What the sensors leave open is drawn by Matheron's rule: a field of the process less its own interpolant, which no sensor of it
determines (Wilson et al., Efficiently sampling functions from Gaussian process posteriors, 2020).

Shapes: B batch, (S1, S2) sensors, (F1, F2) points of the fine grid, K interpolants, M width, D drawn fields.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ...physics.potentials.fourier_fields import PERIOD, highest_modes, mode_deviations, modes
from .basics import Float64Constants

_IMAGES = 6.0  # length scales at least from a place to the next image of another, where fields are drawn by their Fourier modes
_SEED = 0  # of the normal numbers of drawn fields
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
    """From values at sensors (B, S1, S2) to values on a fine grid (B, D, F1, F2), both over known places along each axis.

    Untrained, it averages the interpolants by their posterior probabilities. Without pairs D is 1, the corrected average; else D is twice
    their number, fields drawn around it in pairs of opposite deviations.

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
    num_pairs
        Of fields that differ by what the sensors leave open, the same multiples of its standard deviations for every row.
    """

    def __init__(
        self,
        sensors: Sequence[np.ndarray],
        fine: Sequence[np.ndarray],
        length_scales: Sequence[float],
        noise: Sequence[float],
        width: int,
        num_layers: int,
        num_pairs: int = 0,
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
        self.open = Float64Constants(deviations=self._draw_deviations(sensors, fine, kernels, num_pairs))
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
        means, fields, evidence, variances = self._interpolate(exact)
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
        found = (bent + deviation * correction).unsqueeze(1)
        if not len(self.open["deviations"]):
            return found
        drawn = torch.einsum("bk,dkxy->bdxy", weights[..., 0, 0] * variances.sqrt(), self.open["deviations"])
        return torch.cat([found + drawn, found - drawn], dim=1)

    def _draw_deviations(
        self, sensors: Sequence[np.ndarray], fine: Sequence[np.ndarray], kernels: Sequence[tuple[float, float]], num_pairs: int
    ) -> np.ndarray:
        """Fields of variance 1 less their own interpolants (D / 2, K, F1, F2). Each draw has one set of normal numbers for all kernels, so
        that a mixture of kernels has about the deviation of one between them.
        """
        deviations = np.empty((num_pairs, len(kernels), *(x.size for x in fine)))
        if not num_pairs:
            return deviations
        shrink = PERIOD / (1.0 + _IMAGES * max(scale for scale, _ in kernels))
        highest = int(highest_modes(np.array(shrink * min(scale for scale, _ in kernels))))
        rng = np.random.Generator(np.random.Philox(_SEED))
        normals = rng.standard_normal((num_pairs, 2 * highest + 1, 2 * highest + 1))
        errors = rng.standard_normal((num_pairs, *(x.size for x in sensors)))
        at_sensors, at_fine = ([modes(shrink * x, highest) for x in places] for places in (sensors, fine))
        for k, (scale, variance) in enumerate(kernels):
            each = mode_deviations(shrink * scale, highest)
            drawn = normals * np.outer(each, each)
            readings = at_sensors[0] @ drawn @ at_sensors[1].T + np.sqrt(variance) * errors
            interpolants = self._interpolate(torch.from_numpy(readings))[1][:, k].numpy()
            deviations[:, k] = at_fine[0] @ drawn @ at_fine[1].T - interpolants
        return deviations

    @staticmethod
    def _spread(values: Tensor) -> Tensor:
        """Standard deviation of each row's values (B, 1, 1)."""
        return values.flatten(1).std(dim=1)[:, None, None].clamp(min=1e-6)

    def _interpolate(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Means (B, K), interpolants (B, K, F1, F2), log likelihoods (B, K) up to a constant, and variances of the processes (B, K)."""
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
        return means, fields, evidence - evidence.amax(dim=1, keepdim=True), fit * (count / (count - 1))


def _axis(sensors: np.ndarray, fine: np.ndarray, length_scale: float, noise: float) -> _Axis:
    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-0.5 * np.square((a[:, None] - b) / length_scale))

    values, vectors = np.linalg.eigh(kernel(sensors, sensors))
    values = np.maximum(values, 0.0)
    across = kernel(fine, sensors) @ vectors
    explained = (np.square(across) / (values + noise)).sum(axis=1)
    return _Axis(vectors, values, across, np.minimum(explained, 1.0))
