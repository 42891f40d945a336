"""Progress of long work: a bar with an ETA on a terminal, quiet periodic lines elsewhere. Always on stderr."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_QUIET_PERIOD = 10.0  # seconds between lines where nobody watches


class Progress:
    """`advance` counts work done, beyond what was `done` before; `note` is a short remark such as the latest loss."""

    def __init__(self, description: str, total: int, done: int = 0) -> None:
        self.description, self.total = description, total
        self.done = done
        self._last_line = time.monotonic()
        self._first: tuple[float, int] | None = None  # when the first work was done, and what was done then: before it is start-up

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.done += amount
        now = time.monotonic()
        self._first = self._first or (now, self.done)
        if now - self._last_line >= _QUIET_PERIOD:
            self._last_line = now
            since, before = self._first
            left = f", {(now - since) / (self.done - before) * (self.total - self.done):.0f} s left" if self.done > before else ""
            print(f"{self.description}: {self.done}/{self.total}{left} {note}".rstrip(), file=sys.stderr, flush=True)


class _Bar(Progress):
    def __init__(self, description: str, total: int, done: int, bar: "object") -> None:
        super().__init__(description, total, done)
        self._bar = bar
        self._task = bar.add_task(description, total=total, completed=done, note="")  # type: ignore[attr-defined]

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.done += amount
        self._bar.update(self._task, advance=amount, note=note)  # type: ignore[attr-defined]


@contextmanager
def track(description: str, total: int, done: int = 0) -> Iterator[Progress]:
    """Count `total` units of work under `description`, of which some may be done already."""
    if not sys.stderr.isatty():
        yield Progress(description, total, done)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as bar:
        yield _Bar(description, total, done, bar)
