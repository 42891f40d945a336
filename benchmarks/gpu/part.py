"""The process of one part: measures it cell by cell until the deadline, and records each cell as soon as it is measured."""

import gc
import importlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from contextlib import suppress
from typing import Any

import torch

from neural_hamilton.platform.provenance import code_version

from .bench import OUT_OF_TIME, Bench, Cell, Part, Skipped
from .record import Record, complain, describe, say


def measure_part(name: str, bench: Bench) -> None:
    """To be run by a process of its own, which becomes the first of a group and ends with the process that started it."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if bench.tiny:
        torch.set_num_threads(1)  # several would cost more than they save
    threading.Thread(target=_end_with_parent, daemon=True).start()
    record = Record(bench.out)
    record.update(name, **_where(bench))
    part: Part = importlib.import_module(f".{name}", __package__)  # pyright: ignore[reportAssignmentType]
    for cell in part.cells(bench):
        started = time.perf_counter()
        row = {"cell": cell.cell} | (_measure(cell) if bench.seconds_left() > cell.least_seconds else {"skipped": OUT_OF_TIME})
        row["wall_seconds"] = time.perf_counter() - started
        record.add(name, row)
        say(f"{name}: {describe(row)}")
    record.update(name, complete=True)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGKILL)


def _where(bench: Bench) -> dict[str, Any]:
    device = torch.cuda.get_device_name() if bench.device.type == "cuda" else "CPU"
    return {"device": device, "torch": torch.__version__, "code_version": code_version()}


def _measure(cell: Cell) -> dict[str, Any]:
    try:
        return {"figures": cell.measure()}
    except Skipped as reason:
        return {"skipped": str(reason)}
    except torch.OutOfMemoryError:
        return {"skipped": "out of memory"}
    except Exception as error:
        complain(traceback.format_exc())
        return {"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"}
    finally:
        gc.collect()
        with suppress(Exception):  # a kernel that broke the device breaks this too, and its own error says why
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
