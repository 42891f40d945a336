"""A Gaussian process given readings whose errors differ from sensor to sensor and from row to row.

Its kernel is a sum of several, in amounts that each row has of its own, so nothing is a product along the axes any more, and one
Cholesky factorisation of all sensors solves a row (Rasmussen & Williams, Gaussian Processes for Machine Learning, 2.2 and 2.7).

Shapes: B batch, (S1, S2) sensors, N = S1 S2, (F1, F2) points of the fine grid, L kernels, P drawn fields.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from .basics import Float64Constants
from .gaussian_fields import covariance, draw_fields

_SEED = 0  # of the normal numbers of drawn fields
_JITTER = 1e-13  # of a reading's variance, over that of the process, which keeps the factorisation of nearly dependent sensors positive
_LEAST_AMOUNT = 1e-30  # of a kernel in what is drawn: the slope of a root of 0 is infinite
_ROWS = 16  # that are solved at once: their covariances are the largest tensors


class NoisyReadings(nn.Module):
    """From readings (B, S1, S2) to the mean of the process on a fine grid (B, F1, F2), and deviations from it (B, P, F1, F2).

    Parameters
    ----------
    sensors, fine
        Places along each axis, in units of the domain's width.
    length_scales
        Of the kernels exp(-r² / 2 l²), in the same units.
    num_drawn
        Deviations that are drawn of each row's process, from the same normal numbers for every row. They are fields of the process less
        their own means given what its sensors read of them (Matheron's rule; Wilson et al., 2020).
    """

    def __init__(self, sensors: Sequence[np.ndarray], fine: Sequence[np.ndarray], length_scales: Sequence[float], num_drawn: int) -> None:
        super().__init__()
        kernels = {
            f"{name}_{axis}": np.stack([covariance(places[axis], sensors[axis], scale, periodic=False) for scale in length_scales])
            for name, places in (("own", sensors), ("across", fine))
            for axis in range(2)
        }
        self.kernels = Float64Constants(**kernels)
        rng = np.random.Generator(np.random.Philox(_SEED))
        at_sensors, at_fine = draw_fields(rng, (sensors, fine), [[scale] for scale in length_scales], False, num_drawn)
        errors = rng.standard_normal((num_drawn, *(x.size for x in sensors)))
        self.drawn = Float64Constants(at_sensors=at_sensors, at_fine=at_fine, errors=errors)

    def forward(self, readings: Tensor, variances: Tensor, amounts: Tensor) -> tuple[Tensor, Tensor]:
        """From readings and the variances of their errors (B, S1, S2), and the variance that each kernel contributes, (B, L)."""
        parts = zip(*(x.split(_ROWS) for x in (readings, variances, amounts)), strict=True)
        means, deviations = zip(*(self._condition(*part) for part in parts), strict=True)
        return torch.cat(means), torch.cat(deviations)

    def _condition(self, readings: Tensor, variances: Tensor, amounts: Tensor) -> tuple[Tensor, Tensor]:
        own = (self.kernels["own_0"], self.kernels["own_1"])
        product = torch.einsum("bl,lij,lkm->bikjm", amounts, *own).flatten(3, 4).flatten(1, 2)
        own_variance = amounts.sum(dim=1)[:, None]
        factor, failed = torch.linalg.cholesky_ex(product + torch.diag_embed(variances.flatten(1) + _JITTER * own_variance))
        factor = torch.where((failed > 0)[:, None, None], torch.nan, factor)  # of a row that is not finite; it concerns no other
        roots = amounts.clamp(min=_LEAST_AMOUNT).sqrt()
        drawn = torch.einsum("bl,plij->bpij", roots, self.drawn["at_sensors"]) + variances.sqrt().unsqueeze(1) * self.drawn["errors"]
        ones = torch.ones_like(readings)
        solved = torch.cholesky_solve(torch.cat([torch.stack([ones, readings], dim=1), drawn], dim=1).flatten(2).mT, factor)
        of_ones = solved[..., :1]
        constants = solved[..., 1:].sum(dim=1, keepdim=True) / of_ones.sum(dim=1, keepdim=True)  # of each field, of least squares
        weights = (solved[..., 1:] - constants * of_ones).mT.unflatten(2, readings.shape[1:])
        fields = constants.mT.unsqueeze(3)
        for number, (first, second) in enumerate(zip(self.kernels["across_0"], self.kernels["across_1"], strict=True)):
            fields = fields + amounts[:, number, None, None, None] * (first @ weights @ second.mT)
        return fields[:, 0], torch.einsum("bl,plxy->bpxy", roots, self.drawn["at_fine"]) - fields[:, 1:]
