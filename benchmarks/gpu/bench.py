"""What a part is made of: cells to measure, and where it measures them."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

OUT_OF_TIME = "out of time"


class Skipped(Exception):
    """Why a cell cannot be measured here."""


class Cell(NamedTuple):
    """One measurement: what it is of, the work that gives its figures, and the seconds that must be left for it to begin.

    `figures` that hold `passed` are a check. The work may raise Skipped; whatever else it raises is recorded as its failure.
    """

    cell: dict[str, Any]
    measure: Callable[[], dict[str, Any]]
    least_seconds: float = 0.0


@dataclass(frozen=True)
class Bench:
    """Where a part runs: on which device, at which sizes, until when (in seconds as `time.time` counts them), and its folder."""

    device: torch.device
    tiny: bool
    deadline: float
    out: Path

    def seconds_left(self) -> float:
        return self.deadline - time.time()

    def check_precision(self, precision: str) -> None:
        """Raises Skipped where the device does not have it."""
        if precision == "tf32" and self.device.type != "cuda":
            raise Skipped("a CPU has no TF32")

    def size(self, full: Any, tiny: Any) -> Any:
        """`full`, or `tiny` in a rehearsal."""
        return tiny if self.tiny else full


class Part(Protocol):
    """A module of this package."""

    def cells(self, bench: Bench) -> Iterator[Cell]:
        """What it measures, the most wanted first: what the time does not suffice for is skipped."""
        ...
