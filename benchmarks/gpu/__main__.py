"""`python -m benchmarks.gpu --minutes 12 --out DIR [--parts NAMES] [--tiny]`: measure all there is to measure on a GPU.

Parts run one after the other, each in a process of its own, and each has a deadline: a kernel that hangs or breaks the
device costs its own part alone. DIR/gpu.json and the printed lines grow with every cell that is measured. `--tiny` is the
same at sizes that a CPU takes seconds for, with GPU kernels in Triton's interpreter where there is no GPU: the rehearsal.
"""

import argparse
import fcntl
import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch

from . import LEARN_FOLDER, PARTS, RECORD_FILE
from .bench import OUT_OF_TIME, Bench
from .part import measure_part
from .record import Record, count, is_good, say

# Forked, so that PyTorch is imported once. That needs a process that never asks CUDA for anything: each part starts it afresh.
_PROCESSES = multiprocessing.get_context("fork")
_DRIVER_SECONDS = 60.0  # that a process may need for a first or last call to the driver
_GRACE = 10.0  # seconds that a part may overrun its deadline, to end the cell it is at


def main(arguments: list[str]) -> int:
    started = time.time()
    device = "cuda" if _has_gpu() else "cpu"
    options = _parse(arguments, device)
    if device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is first imported: GPU kernels then run on CPU tensors
    record = Record(options.out)
    lock = os.open(options.out, os.O_RDONLY)  # held by the parts too, until the last one is gone
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        print(f"error: --out is {str(options.out)!r}, where another run is at work; give another folder", file=sys.stderr)
        return 2
    for half_written in (*options.out.glob(f".{RECORD_FILE}.*.partial"), *(options.out / LEARN_FOLDER).rglob(".*.partial")):
        half_written.unlink(missing_ok=True)  # by a process that was killed
    for name in options.parts:
        with suppress(Exception):  # which the part's own process meets again, and reports
            importlib.import_module(f".{name}", __package__)
    good = True
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal that is gone does not end a measurement
    for position, name in enumerate(options.parts):
        later = sum(PARTS[other] for other in options.parts[position + 1 :]) / sum(PARTS[part] for part in options.parts)
        deadline = started + 60.0 * options.minutes * (1.0 - later)
        say(f"== {name}: may run until {deadline - started:.0f} s")
        record.begin(name, minutes=options.minutes, tiny=options.tiny)
        status, reason = _run(Bench(torch.device(device), options.tiny, deadline, options.out), name, record)
        record.end(name, status, reason)
        good &= status == "done"
        rows = record.read()["parts"].get(name, {}).get("rows", [])
        outcome = f"{status}{f' ({reason})' if reason else ''}: {count(rows)}"
        say(f"== {name}: {outcome}; at {time.time() - started:.0f} s")
    say(f"{record.path}; to keep it: python -m benchmarks.gpu.tables {options.out}")
    return 0 if good else 1


def _parse(arguments: list[str], device: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="measure all there is to measure on a GPU")
    parser.add_argument("--minutes", type=_minutes, default=12.0, help="for everything together (default 12)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=f"where {RECORD_FILE} and checkpoints go")
    parser.add_argument("--parts", type=_parts, default=list(PARTS), help=f"comma-separated, of {','.join(PARTS)} (default all)")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal of every part at the smallest sizes, on a CPU if need be")
    options = parser.parse_args(arguments)
    if not options.tiny and device == "cpu":
        parser.error("PyTorch sees no CUDA device here; --tiny rehearses on a CPU")
    options.out = options.out.absolute()
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=options.out):
            pass
    except OSError as error:
        parser.error(f"--out is {str(options.out)!r}, which cannot be used ({error}); give another folder")
    try:
        parts = Record(options.out).read()["parts"].values()
    except ValueError as error:
        parser.error(f"--out: {error}")
    if any(part.get("tiny", options.tiny) != options.tiny for part in parts):
        parser.error(
            f"--out is {str(options.out)!r}, which holds {'a measurement' if options.tiny else 'a rehearsal'}; give another folder"
        )
    return options


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0.0 < minutes < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r}; give a positive number")
    return minutes


def _parts(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in PARTS:
            raise argparse.ArgumentTypeError(f"part is {name!r}; choose from {', '.join(PARTS)}")
    return [name for name in PARTS if name in names]


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _has_gpu() -> bool:
    """Asked in a process of its own."""
    question = _PROCESSES.Process(target=lambda: sys.exit(0 if torch.cuda.is_available() else 1))
    question.start()
    question.join(_DRIVER_SECONDS)
    question.kill()
    return question.exitcode == 0


def _run(bench: Bench, name: str, record: Record) -> tuple[str, str | None]:
    """Status and reason of a part that runs in a process of its own, in a group with whatever it starts."""
    part = _PROCESSES.Process(target=measure_part, args=(name, bench))
    try:
        part.start()
        part.join(max(1.0, bench.seconds_left() + _GRACE))
        overran = part.is_alive()
    except BaseException:
        _end(part)
        record.end(name, "stopped", "the command was ended")
        raise
    _end(part)
    if overran:
        return OUT_OF_TIME, f"it was still busy {_GRACE:.0f} s after its deadline, and was ended; what came after is not measured"
    code = part.exitcode or 0
    if code:
        return "failed", f"its process ended with {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
    content = record.read()["parts"].get(name, {})
    rows = content.get("rows", [])
    if not content.get("complete"):
        return "failed", "its process ended before the last cell"
    if bad := sum(not is_good(row) for row in rows):
        return "failed", f"{bad} of its cells failed"
    late = sum(row.get("skipped") == OUT_OF_TIME for row in rows)
    if late and not any("figures" in row for row in rows):
        return OUT_OF_TIME, "no time was left for any of its cells"
    return "done", f"no time was left for {late} of its cells" if late else None


def _end(part: multiprocessing.Process) -> None:
    """And whatever it has started and left. One that is stuck in the driver is not waited for."""
    if part.pid is None:
        return
    with suppress(ProcessLookupError):
        os.killpg(part.pid, signal.SIGKILL)
    part.kill()
    part.join(_DRIVER_SECONDS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
