"""The fields around a place, as a network that follows a particle sees them: on a small grid of sensors that moves with it.

Shapes: B batch, T queries, C channels, d axes of the grid of sensors, n places along each axis of the small grid.
"""

import torch
from torch import Tensor, nn

from ..task import Task

_TAPS = 4  # sensors along an axis that a value between two of them comes from


class LocalFields(nn.Module):
    """Fields at n places along each axis, a sensor's spacing apart, with a given place in their middle: (B, T, d) -> (B, T, C n^d).

    Between sensors by cubic convolution (Keys, IEEE Transactions on Acoustics, Speech, and Signal Processing 29, 1153, 1981): exact for
    quadratics, with continuous derivatives. Beyond the domain a field is continued oddly about its value on the boundary.
    """

    left: Tensor
    length: Tensor

    def __init__(self, task: Task, num_places: int) -> None:
        super().__init__()
        self.sensors, self.num_places = task.sensors, num_places
        self.num_features = task.channels * num_places ** len(task.sensors)
        self.margin = num_places // 2 + 1
        left, right = torch.tensor(task.domain).T
        self.register_buffer("left", left, persistent=False)
        self.register_buffer("length", right - left, persistent=False)

    def continue_fields(self, fields: Tensor) -> Tensor:
        """Fields, with channels or without, with a margin of values beyond each end of each axis: (B, C, S1 + 2 margin, ...)."""
        fields = fields.reshape(len(fields), -1, *self.sensors)
        for axis in range(2, fields.ndim):
            count = fields.shape[axis]
            first, last = fields.narrow(axis, 0, 1), fields.narrow(axis, count - 1, 1)
            before = 2 * first - fields.narrow(axis, 1, self.margin).flip(axis)
            after = 2 * last - fields.narrow(axis, count - 1 - self.margin, self.margin).flip(axis)
            fields = torch.cat([before, fields, after], dim=axis)
        return fields

    def forward(self, continued: Tensor, q_BTd: Tensor) -> Tensor:
        """What surrounds the places `q_BTd`, of fields that `continue_fields` made."""
        count = self.num_places + _TAPS - 1
        index, shares = q_BTd.new_zeros(q_BTd.shape[:2], dtype=torch.long).unsqueeze(-1), []
        for axis, sensors in enumerate(self.sensors):
            place_BT = (q_BTd[..., axis] - self.left[axis]) / self.length[axis] * (sensors - 1)
            place_BT = place_BT.clamp(0, sensors - 1)
            low_BT = place_BT.detach().long().clamp(0, sensors - 2)  # also where the place is not a number
            shares.append(_cubic_convolution(place_BT - low_BT))
            first_BT = low_BT + self.margin - self.num_places // 2 - 1
            along = first_BT.unsqueeze(-1) + torch.arange(count, device=q_BTd.device)
            index = (index.unsqueeze(-1) * continued.shape[2 + axis] + along.unsqueeze(-2)).flatten(-2)
        channels = continued.shape[1]
        rows = index.flatten(1).unsqueeze(1).expand(-1, channels, -1)
        block = continued.flatten(2).gather(2, rows).unflatten(2, (q_BTd.shape[1], *(count for _ in self.sensors)))  # (B, C, T, count, ...)
        for axis, share_BT4 in enumerate(shares):
            shape = (len(share_BT4), 1, share_BT4.shape[1], *(1 for _ in self.sensors))
            parts = (share_BT4[..., tap].view(shape) * block.narrow(3 + axis, tap, self.num_places) for tap in range(_TAPS))
            block = torch.stack(list(parts)).sum(dim=0)
        return block.transpose(1, 2).flatten(2)


def _cubic_convolution(fraction: Tensor) -> Tensor:
    """Shares (..., 4) of the sensors around a place that lies a fraction of a spacing beyond the second of them."""
    f, f2, f3 = fraction, fraction.square(), fraction**3
    return torch.stack([(2 * f2 - f - f3) / 2, (2 - 5 * f2 + 3 * f3) / 2, (f + 4 * f2 - 3 * f3) / 2, (f3 - f2) / 2], dim=-1)
