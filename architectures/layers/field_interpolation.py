"""V between sensors: a mixture of Gaussian-process interpolants of several length scales, corrected by convolutions.

Each interpolant is the mean of a Gaussian process with the kernel exp(-r² / 2 l²) and an unknown mean and variance, given the sensors
(Rasmussen & Williams, Gaussian Processes for Machine Learning, 2.2 and 2.7). On a grid the kernel is a product of one along each axis,
and so are the variances of the sensors' errors, up to a factor. Eigenvectors along each axis that make both diagonal are then all that
interpolants and likelihoods need. Where errors matter more than that, `NoisyReadings` allows for those of each row.

What the sensors leave open is drawn by Matheron's rule: a field of the process less its own interpolant, which no sensor of it
determines (Wilson et al., Efficiently sampling functions from Gaussian process posteriors, 2020).

Shapes: B batch, (S1, S2) sensors, (F1, F2) points of the fine grid, K interpolants, M width, D drawn fields.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import eigh
from torch import Tensor, nn

from .basics import Float64Constants
from .gaussian_fields import covariance, draw_fields
from .noisy_readings import NoisyReadings

Linearise = Callable[[Tensor], tuple[Tensor, Tensor]]

_SEED = 0  # of the normal numbers of drawn fields
_SMALLEST_DEVIATION = 1e-9  # of a process at a sensor, over that of the field


class _Axis(NamedTuple):
    """Of one kernel along one axis: vectors (S, S) in terms of which it and the errors are diagonal, the kernel's values (S,) there, and
    what interpolates in these terms at the sensors' own places (S, S) and on the fine grid (F, S).
    """

    vectors: np.ndarray
    values: np.ndarray
    own: np.ndarray
    fine: np.ndarray


class _Interpolants(NamedTuple):
    """Means (B, K), coefficients (B, K, S1, S2), log likelihoods (B, K) up to a constant, and variances of the processes (B, K)."""

    means: Tensor
    coefficients: Tensor
    evidence: Tensor
    variances: Tensor


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
        Variances of the sensors' errors, over that of the field, where `errors` are 1; there is an interpolant for each with each length
        scale.
    errors
        Standard deviations of the sensors' errors along each axis, up to a factor. That of a sensor is the product of both.
    width, num_layers
        Of the convolutions that correct the average.
    num_pairs
        Of fields that differ by what the sensors leave open, the same multiples of its standard deviations for every row.
    noisy
        Whether `forward` is to allow for the errors of each reading.
    periodic
        Whether the fields have the domain's width as their period along each axis.
    """

    def __init__(
        self,
        sensors: Sequence[np.ndarray],
        fine: Sequence[np.ndarray],
        length_scales: Sequence[float],
        noise: Sequence[float],
        errors: Sequence[np.ndarray],
        width: int,
        num_layers: int,
        num_pairs: int = 0,
        noisy: bool = False,
        periodic: bool = False,
    ) -> None:
        super().__init__()
        kernels = [(scale, variance) for scale in length_scales for variance in noise]
        scales, variances = zip(*kernels, strict=True)
        axes = [[_axis(x, f, e, scale, periodic) for scale in scales] for x, f, e in zip(sensors, fine, errors, strict=True)]
        stacked = {
            f"{name}_{number}": np.stack([getattr(member, name) for member in members])
            for number, members in enumerate(axes)
            for name in _Axis._fields
        }
        unexplained = np.stack([_unexplained(*one) for one in zip(*axes, variances, strict=True)])
        self.exact = Float64Constants(unexplained=unexplained, noise=np.array(variances), **stacked)
        self.num_noises = len(noise)
        self.readings = NoisyReadings(sensors, fine, length_scales, num_pairs) if noisy else None
        self.open = Float64Constants(deviations=self._draw_deviations(sensors, fine, errors, scales, periodic, 0 if noisy else num_pairs))
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

    def forward(self, values: Tensor, linearise: Linearise | None = None) -> Tensor:
        """The values on the fine grid, in float64: they resolve differences that float32 does not.

        If the readings are noisy, `linearise` gives the readings and the variances of their errors (B, S1, S2) near a field (B, S1, S2).
        """
        exact = values.double()
        found = self._interpolate(exact)
        fields = self._at("fine", found)
        weights_BK = torch.softmax(self.judge(found.evidence.to(self.bend.dtype)).double(), dim=-1)
        weights = weights_BK[..., None, None]
        if self.readings is None:
            average = (weights * fields).sum(dim=1)
            drawn = torch.einsum("bk,dkxy->bdxy", weights_BK * found.variances.sqrt(), self.open["deviations"])
        else:
            assert linearise is not None
            near = (weights * self._at("own", found)).sum(dim=1)
            amounts = (weights_BK * found.variances).unflatten(1, (-1, self.num_noises)).sum(dim=2)
            average, drawn = self.readings(*linearise(near), amounts)
        variance = (weights * self.exact["unexplained"]).sum(dim=1)
        spread = self._spread(exact)
        deviation = variance.sqrt() * spread
        mean = (weights_BK * found.means).sum(dim=1)[:, None, None]
        doubts = (fields - average.unsqueeze(1)) / deviation.unsqueeze(1)
        inputs = [((average - mean) / spread).unsqueeze(1), variance.log().unsqueeze(1) / 10.0, torch.tanh(doubts)]
        correction = self.correct(torch.cat(inputs, dim=1).to(self.bend.dtype)).squeeze(1).double()
        bent = average + (weights * self.bend.double()[:, None, None] * self.exact["unexplained"]).sum(dim=1) * spread.square()
        corrected = (bent + deviation * correction).unsqueeze(1)
        return torch.cat([corrected + drawn, corrected - drawn], dim=1) if drawn.shape[1] else corrected

    def _draw_deviations(
        self,
        sensors: Sequence[np.ndarray],
        fine: Sequence[np.ndarray],
        errors: Sequence[np.ndarray],
        scales: Sequence[float],
        periodic: bool,
        count: int,
    ) -> np.ndarray:
        """Fields of variance 1 less their own interpolants (count, K, F1, F2). Each draw has one set of normal numbers for all kernels, so
        that a mixture of kernels has about the deviation of one between them.
        """
        rng = np.random.Generator(np.random.Philox(_SEED))
        at_sensors, at_fine = draw_fields(rng, (sensors, fine), [scales], periodic, count)
        deviations = np.sqrt(self.exact["noise"].numpy())[:, None, None] * np.outer(*errors)
        readings = at_sensors + deviations * rng.standard_normal((count, 1, *deviations.shape[1:]))
        for k in range(len(scales)):
            at_fine[:, k] -= self._at("fine", self._interpolate(torch.from_numpy(readings[:, k])))[:, k].numpy()
        return at_fine

    @staticmethod
    def _spread(values: Tensor) -> Tensor:
        """Standard deviation of each row's values (B, 1, 1)."""
        return values.flatten(1).std(dim=1)[:, None, None].clamp(min=1e-6)

    def _interpolate(self, values: Tensor) -> _Interpolants:
        first, second = self.exact["vectors_0"], self.exact["vectors_1"]
        eigenvalues = self.exact["values_0"][:, :, None] * self.exact["values_1"][:, None, :] + self.exact["noise"][:, None, None]
        turned = first.mT @ values.unsqueeze(1) @ second
        ones = first.sum(dim=1)[:, :, None] * second.sum(dim=1)[:, None, :]
        means = (turned * ones / eigenvalues).sum(dim=(2, 3)) / (ones.square() / eigenvalues).sum(dim=(1, 2))
        residual = turned - means[..., None, None] * ones
        count = values.shape[1] * values.shape[2]
        fit = (residual.square() / eigenvalues).sum(dim=(2, 3)) / count
        evidence = -0.5 * count * torch.log(fit.clamp(min=1e-30)) - 0.5 * eigenvalues.log().sum(dim=(1, 2))
        evidence = evidence - 0.5 * torch.log((ones.square() / eigenvalues).sum(dim=(1, 2)))
        return _Interpolants(means, residual / eigenvalues, evidence - evidence.amax(dim=1, keepdim=True), fit * (count / (count - 1)))

    def _at(self, places: str, found: _Interpolants) -> Tensor:
        """Interpolants (B, K, n1, n2) at the "fine" grid or the sensors' "own" places."""
        return self.exact[f"{places}_0"] @ found.coefficients @ self.exact[f"{places}_1"].mT + found.means[..., None, None]


def _axis(sensors: np.ndarray, fine: np.ndarray, errors: np.ndarray, length_scale: float, periodic: bool) -> _Axis:
    own = covariance(sensors, sensors, length_scale, periodic)
    values, vectors = eigh(own, np.diag(np.square(errors)))
    return _Axis(vectors, np.maximum(values, 0.0), own @ vectors, covariance(fine, sensors, length_scale, periodic) @ vectors)


def _unexplained(first: _Axis, second: _Axis, noise: float) -> np.ndarray:
    """Variance that the sensors leave open on the fine grid (F1, F2)."""
    explained = np.square(first.fine) @ (1.0 / (np.outer(first.values, second.values) + noise)) @ np.square(second.fine).T
    return np.maximum(1.0 - explained, _SMALLEST_DEVIATION**2)
