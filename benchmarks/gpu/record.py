"""DIR/gpu.json: what was measured, cell by cell. Written whole after each, so that it survives whatever ends the process."""

import json
import math
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from neural_hamilton.physics.files import write_json

from . import PARTS, RECORD_FILE
from .bench import OUT_OF_TIME


class Record:
    """`parts`, by name: `status` (running, done, failed, out of time, stopped), `reason`, where and when it ran, and `rows`.

    A row is one measurement. It has the `cell` it is of, either its `figures` or what kept it from them, `failed` or `skipped`,
    and the `wall_seconds` that all of it took. A part that runs again replaces what it left before; the other parts stay.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / RECORD_FILE
        self._begun = time.time()
        self._unwritten: list[tuple[str, Callable[[dict[str, Any]], Any]]] = []

    def read(self) -> dict[str, Any]:
        """What is there, or no parts where nothing is. Raises ValueError where the file is damaged."""
        if not self.path.exists():
            return {"parts": {}}
        try:
            content = json.loads(self.path.read_text())
            whole = all(isinstance(part["rows"], list) for part in content["parts"].values())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            whole = False
        if not whole:
            raise ValueError(f"{self.path} is damaged; delete it, or give another folder")
        return content

    def begin(self, part: str, **about: Any) -> None:
        """Open a part; `about` says where and how it runs."""
        self._begun, started = time.time(), datetime.now(UTC).isoformat(timespec="seconds")
        fresh = {"status": "running", "reason": None, "started": started, **about, "rows": []}
        self._change(part, lambda content: (content.clear(), content.update(fresh)))

    def update(self, part: str, **values: Any) -> None:
        self._change(part, lambda content: content.update(values))

    def add(self, part: str, row: dict[str, Any]) -> None:
        self._change(part, lambda content: content["rows"].append(row))

    def end(self, part: str, status: str, reason: str | None = None) -> None:
        """Close a part; `reason` is a sentence where it is not done."""
        self.update(part, status=status, reason=reason, wall_seconds=time.time() - self._begun)

    def keep(self, parts: dict[str, Any]) -> None:
        """Take over parts of another record: each of their rows in place of the same cell's, but for those that no time was left for.

        What else is known of a part is then that of the other record.
        """
        for part, content in parts.items():

            def replace(old: dict[str, Any], new: dict[str, Any] = content) -> None:
                rows = {_key(row): row for row in old["rows"]}
                rows |= {_key(row): row for row in new["rows"] if row.get("skipped") != OUT_OF_TIME}
                old.clear()
                old.update(new | {"rows": list(rows.values())})

            self._change(part, replace)

    def _change(self, part: str, change: Callable[[dict[str, Any]], Any]) -> None:
        """Where the file cannot be written, what is measured has still been printed, and the next write holds it too."""
        self._unwritten.append((part, change))
        parts = self.read()["parts"]
        for name, wanted in self._unwritten:
            wanted(parts.setdefault(name, {"rows": []}))
        try:
            write_json(self.path, plain({"parts": {name: parts[name] for name in PARTS if name in parts}}))
        except OSError as error:
            say(f"{self.path} cannot be written: {error.strerror}")
        else:
            self._unwritten.clear()


def _key(row: dict[str, Any]) -> str:
    return json.dumps(row["cell"], sort_keys=True)


def say(text: str) -> None:
    """Print a line. What reads it, a terminal or a pipe, may be gone; measuring goes on."""
    with suppress(OSError, ValueError):
        print(text, flush=True)


def complain(text: str) -> None:
    """Print details of a failure, which has its own line already."""
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: plain numbers, and those that are not finite as text."""
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def is_good(row: dict[str, Any]) -> bool:
    """Whether a row is no failure: measured and, where it is a check, passed; or skipped for a reason."""
    return "failed" not in row and row.get("figures", {}).get("passed", True)


def describe(row: dict[str, Any]) -> str:
    """A row as one line of text."""
    cell = ", ".join(_pair(key, value) for key, value in row["cell"].items())
    for outcome in ("failed", "skipped"):
        if outcome in row:
            return f"{cell}: {outcome}: {row[outcome]}"
    return f"{cell}: " + ", ".join(f"{key.replace('_', ' ')} {_with_unit(key, value)}" for key, value in row["figures"].items())


def count(rows: list[dict[str, Any]]) -> str:
    """How many cells came to what, in words."""
    numbers = {
        "measured": sum("figures" in row and is_good(row) for row in rows),
        "failed": sum(not is_good(row) for row in rows),
        "skipped": sum("skipped" in row for row in rows),
    }
    return ", ".join(f"{number} {outcome}" for outcome, number in numbers.items())


def _pair(key: str, value: Any) -> str:
    return f"{key} {_short(value)}" if isinstance(value, (int, float)) else str(value)


def _with_unit(key: str, value: Any) -> str:
    """Times in s, ms or µs, rates with a prefix; the unit of what is counted is in the name."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value) or not value:
        return str(value)
    if key.endswith("per_second"):
        return _scaled(value, {1e12: "T", 1e9: "G", 1e6: "M", 1e3: "k", 1.0: ""})
    if "seconds" in key:
        return _scaled(value, {1.0: "s", 1e-3: "ms", 1e-6: "µs", 1e-9: "ns"})
    return _short(value)


def _scaled(value: float, units: dict[float, str]) -> str:
    factor = next((factor for factor in units if abs(value) >= factor), min(units))
    return f"{value / factor:.3g} {units[factor]}".strip()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
