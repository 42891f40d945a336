"""Forward passes whose rows do not depend on each other, to the last bit.

A row of a matrix product may be computed by another kernel in a batch of another size, or at another place in it, and then differs in its
last bits. A prediction that changes with what happens to be asked beside it can be neither cached nor compared, so how many rows may
share a pass is found out for each network, once, on this machine.

Shapes: B rows, C channels, S sensors, T query times, d degrees of freedom.
"""

import numpy as np
import torch

from ..architectures import Operator, Task, example_inputs

# Query times and sensors of one pass: the default MambONet then works in about 200 MB.
POINTS_PER_PASS = 5_000
# Times are filled up to a multiple of this, so that no row ends inside a vector register.
_TIMES_AT_ONCE = 16
_MOST_ROWS_TRIED = 8


class Passes:
    """A network, with the number of rows that its passes may have."""

    def __init__(self, network: Operator, task: Task, device: str) -> None:
        self._network, self._task, self._device = network, task, device
        #: Rows of every pass, shorter ones being filled up; None: any number.
        self.fixed_rows = self._find_fixed_rows()

    def __call__(self, fields: np.ndarray, times: np.ndarray, initial: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """q, p in float64, (B, T) or (B, T, d), of fields (B, S) or (B, C, S1, S2), times (B, T) and initial states (B, 2 d)."""
        num_times = times.shape[1]
        rows = self.fixed_rows or rows_per_pass(self._task.num_sensors, num_times)
        parts = []
        for start in range(0, len(times), rows):
            part = slice(start, start + rows)
            q_and_p = self._run(fields[part], times[part], initial[part], fill=self.fixed_rows)
            parts.append(q_and_p[:, :, :num_times])
        q, p = np.concatenate(parts, axis=1).astype(np.float64)
        return q, p

    def _run(self, fields: np.ndarray, times: np.ndarray, initial: np.ndarray, fill: int | None = None) -> np.ndarray:
        """q and p of one pass, (2, B, T') or (2, B, T', d), the times filled up; with `fill`, of that many rows while it runs."""
        num_rows, num_times = times.shape
        extra_rows = 0 if fill is None else fill - num_rows
        times = np.pad(times, ((0, extra_rows), (0, -num_times % _TIMES_AT_ONCE)), mode="edge")
        fields, initial = (np.pad(part, ((0, extra_rows), *((0, 0),) * (part.ndim - 1)), mode="edge") for part in (fields, initial))
        with torch.inference_mode():
            output = self._network(
                *(torch.as_tensor(part, dtype=self._network.dtype, device=self._device) for part in (fields, times, initial))
            )
            return torch.stack([output.q, output.p])[:, :num_rows].cpu().numpy()

    def _find_fixed_rows(self) -> int | None:
        """The largest number of rows at which neither their order nor their company changes a bit."""
        examples = example_inputs(self._task, 2 * _MOST_ROWS_TRIED, _TIMES_AT_ONCE)

        def predict(*rows: int) -> np.ndarray:
            fields, times, initial = (part[list(rows)] for part in examples)
            return self._run(fields, times, initial)

        alone = np.concatenate([predict(row) for row in range(_MOST_ROWS_TRIED)], axis=1)
        if all(_same_bits(predict(*range(count)), alone[:, :count]) for count in (2, 3, _MOST_ROWS_TRIED)):
            return None
        for count in (8, 4, 2):
            forward, backward = predict(*range(count)), predict(*reversed(range(count)))
            with_others = predict(0, *range(count, 2 * count - 1))
            if _same_bits(forward, backward[:, ::-1]) and _same_bits(forward[:, :1], with_others[:, :1]):
                return count
        return 1


def rows_per_pass(num_sensors: int, num_times: int) -> int:
    """How many rows with equally many times one pass takes."""
    return max(1, POINTS_PER_PASS // max(num_sensors, num_times))


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b, equal_nan=True)
