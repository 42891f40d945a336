"""Interleaved timing, so that a busy moment of the machine hits every contestant alike."""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("numpy", "scipy", "numba", "torch", "mambapy")


def time_in_turns(contestants: dict[str, Callable[[], Any]], repeats: int, calls: dict[str, int] | None = None) -> dict[str, list[float]]:
    """Seconds a call of every contestant, one after the other, `repeats` turns each; one unmeasured round first.

    Work of a few milliseconds is called several times a turn, `calls` of its name: of a single call, the caches that the
    others have emptied, and their threads that still spin, would be a large part.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for round_number in range(repeats + 1):
        for name, work in contestants.items():
            count = (calls or {}).get(name, 1)
            started = time.perf_counter()
            for _ in range(count):
                work()
            if round_number:
                seconds[name].append((time.perf_counter() - started) / count)
    return seconds


def compare(seconds: dict[str, list[float]], ours: str, theirs: str) -> dict[str, Any]:
    """How many times faster `ours` is than `theirs`: the median over rounds of the ratio within a round (below 1, slower)."""
    ratios = [b / a for a, b in zip(seconds[ours], seconds[theirs], strict=True)]
    return {
        "ours": ours,
        "theirs": theirs,
        "speedup": statistics.median(ratios),
        "speedup_range": [min(ratios), max(ratios)],
        "seconds_ours": statistics.median(seconds[ours]),
        "seconds_theirs": statistics.median(seconds[theirs]),
        "rounds": len(ratios),
    }


def format_comparisons(comparisons: list[dict[str, Any]]) -> str:
    """One line a comparison, plain about who is faster."""
    lines = []
    for c in comparisons:
        low, high = c["speedup_range"]
        verdict = "faster" if c["speedup"] >= 1 else "SLOWER"
        factor = f"{c['speedup']:.3g} times as fast ({verdict}; {low:.3g} to {high:.3g} over {c['rounds']} rounds)"
        lines.append(f"  {c['ours']} against {c['theirs']}: {factor}")
    return "\n".join(lines)


def read_lines(name: str) -> list[dict[str, Any]]:
    """The lines of results/NAME.json; none where it does not exist."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["lines"] if path.exists() else []


def add_line(name: str, line: dict[str, Any], keys: Sequence[str], **about: Any) -> None:
    """Put a line into results/NAME.json, in place of the one that has the same `keys`; `about` describes all lines."""
    kept = [other for other in read_lines(name) if any(other[key] != line[key] for key in keys)]
    write_result(name, {**about, "lines": [*kept, line], "machine": describe_machine()})


def whole_numbers(text: str) -> list[int]:
    """An option such as `--seeds 0,1`."""
    return [int(word) for word in text.split(",")]


def describe_machine() -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": sys.version.split()[0],
        "packages": {name: version(name) for name in _PACKAGES},
    }


def write_result(name: str, result: dict[str, Any]) -> Path:
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
