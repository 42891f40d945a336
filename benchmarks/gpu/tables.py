"""`python -m benchmarks.gpu.tables [DIR]`: the tables of docs/gpu.md and that of docs/results.md about GPUs.

With DIR, what a run left there is first brought into benchmarks/results/gpu: its measurements replace those of earlier runs, and its
checkpoint the earlier one. The tables are made of what is expected and of what is there then. A table stands between
`<!-- begin NAME -->` and `<!-- end NAME -->`; all else in the documents is written by hand.
"""

import argparse
import functools
import math
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neural_hamilton.architectures import load_model
from neural_hamilton.platform.training.trained_for import task_of

from . import LEARN_FOLDER, RECORD_FILE, RESULTS
from .infer import SIZES
from .learn import epochs_of
from .networks import DIRECT, NETWORKS, data_of, network_config, shipped_models
from .parity import BOUNDS, NEGLIGIBLE, TOLERATED_RATIO
from .record import Record
from .scan import CHUNKS, CONTESTANTS, LENGTHS, STATES, TILES, TUNED, WIDTHS
from .train import BATCHES, GRAPH, GRAPH_BATCHES, STREAMED
from .work import H100, ScanWork, network_operations

_DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
DOCUMENTS = (_DOCS / "gpu.md", _DOCS / "results.md")
NOT_YET = "not measured yet"
_MANY = 1024

Rows = list[dict[str, Any]]
Line = list[str]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.tables", description="keep a run's results and fill the tables")
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="what `python -m benchmarks.gpu` left, to be kept first")
    folder = parser.parse_args(arguments).folder
    if folder is not None:
        try:
            keep(folder, RESULTS)
        except ValueError as error:
            parser.error(str(error))
    parts = Record(RESULTS).read()["parts"]
    for document in DOCUMENTS:
        document.write_text(fill(document.read_text(), parts))
        print(document)
    return 0


def keep(folder: Path, results: Path) -> None:
    """Bring the parts that measured something, and the checkpoint, of a run to `results`.

    Raises ValueError where `folder` holds no run, or a rehearsal.
    """
    parts = Record(folder).read()["parts"]
    if not parts:
        raise ValueError(f"DIR is {str(folder)!r}, which holds no {RECORD_FILE}; give the --out of a run")
    if any(part.get("tiny") for part in parts.values()):
        raise ValueError(f"DIR is {str(folder)!r}, which holds a rehearsal; its figures are of no use in the tables")
    results.mkdir(parents=True, exist_ok=True)
    Record(results).keep({name: part for name, part in parts.items() if any("figures" in row for row in part["rows"])})
    if epochs_of(folder / LEARN_FOLDER):
        shutil.rmtree(results / LEARN_FOLDER, ignore_errors=True)
        shutil.copytree(folder / LEARN_FOLDER, results / LEARN_FOLDER)


def fill(text: str, parts: dict[str, Any]) -> str:
    """A document with its tables made anew from `parts`, those of a record. Raises ValueError for a table that is not known."""
    rows = {part: content["rows"] for part, content in parts.items()}

    def table(match: re.Match[str]) -> str:
        if match[1] not in TABLES:
            raise ValueError(f"table is {match[1]!r}; choose one of {', '.join(TABLES)}")
        heads, make = TABLES[match[1]]
        lines = "\n".join(_line(cells, len(heads)) for cells in [heads, ["---"] * len(heads), *make(rows)])
        return f"<!-- begin {match[1]} -->\n{lines}\n<!-- end {match[1]} -->"

    return re.sub(r"<!-- begin (\w+) -->\n.*?<!-- end \1 -->", table, text, flags=re.DOTALL)


def _line(cells: Line, num_columns: int) -> str:
    assert len(cells) == num_columns, f"{cells} has not {num_columns} cells"
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _figures(rows: Rows, **cell: Any) -> dict[str, Any]:
    """Those of the row whose cell has these values, or what kept it from them."""
    row = next((row for row in rows if cell.items() <= row["cell"].items()), {})
    return row.get("figures", {key: row[key] for key in ("failed", "skipped") if key in row})


def _shown(figures: dict[str, Any], name: str, form: Callable[[Any], str]) -> str:
    if name in figures:
        return figures[name] if isinstance(figures[name], str) else form(figures[name])  # one that is not finite is text
    return next((figures[reason] for reason in ("failed", "skipped") if reason in figures), NOT_YET)


def _scaled(factor: float, unit: str) -> Callable[[float], str]:
    """Three digits of a number in a unit, without an exponent."""

    def form(value: float) -> str:
        number = value * factor
        digits = max(0, 2 - math.floor(math.log10(abs(number)))) if number else 0
        return f"{number:,.{digits}f} {unit}".strip()

    return form


_gigabytes, _rate = _scaled(1e-9, "GB/s"), _scaled(1e-12, "TFLOP/s")
_milliseconds, _microseconds = _scaled(1e3, "ms"), _scaled(1e6, "µs")
_count, _giga = _scaled(1.0, ""), _scaled(1e-9, "")


def _percent(value: float) -> str:
    return f"{value:.0%}"


def _fraction(rate: float, ceiling: float | None) -> str:
    return _percent(rate / ceiling) if ceiling else NOT_YET


def _of_bandwidth(figures: dict[str, Any], parts: dict[str, Rows]) -> str:
    copy = _figures(parts.get("card", []), what="copy").get("bytes_per_second")
    return _shown(figures, "bytes_per_second", lambda rate: _fraction(rate, copy))


def _card(parts: dict[str, Rows]) -> list[Line]:
    def measured(what: str, name: str, form: Callable[[Any], str]) -> str:
        return _shown(_figures(parts.get("card", []), what=what), name, form)

    products = [
        [f"matrix product of 8,192, {name}", _rate(rate), measured(f"matrix product, {name}", "operations_per_second", _rate)]
        for name, rate in H100.operations.items()
    ]
    return [
        ["copy on the device, read and written", _gigabytes(H100.bandwidth), measured("copy", "bytes_per_second", _gigabytes)],
        *products,
        ["copy from ordinary host memory", "about 10 GB/s", measured("copy from the host", "bytes_per_second", _gigabytes)],
        ["start of a small operation by the host", "3 to 5 µs", measured("launch", "seconds", _microseconds)],
    ]


def _parity(parts: dict[str, Rows]) -> list[Line]:
    rows = parts.get("parity", [])
    lines = []
    for backend in ("triton", "mamba_ssm"):
        for dtype, bound in BOUNDS.items():
            name = str(dtype).removeprefix("torch.")
            own = [row for row in rows if row["cell"].get("backend") == backend and row["cell"]["dtype"] == name]
            bounds = [float(row.get("figures", {}).get("bound", bound)) for row in own]
            lines.append([f"scan, `{backend}`, {name}, lengths 1 to 4,097", f"{bound:.1e}", _worst(own, "error", bounds), ""])
    groups = {f"`{name}`": [row for row in rows if row["cell"].get("network") == name] for name in NETWORKS}
    groups["the shipped models"] = [row for row in rows if row["cell"]["check"] == "shipped model"]
    for what, own in groups.items():
        for kind, label in {"trajectory": "q and p", "gradient": "gradient"}.items():
            if what.startswith("the") and kind == "gradient":
                continue
            of_cpu = [float(row.get("figures", {}).get(f"{kind}_error_of_cpu", "nan")) for row in own]
            bounds = [TOLERATED_RATIO * error + NEGLIGIBLE for error in of_cpu]
            theirs = f"{max(of_cpu):.1e}" if of_cpu else NOT_YET
            lines.append([f"{what}, {label}", "10 times the CPU's", _worst(own, f"{kind}_error", bounds), theirs])
    tests = _figures(rows, check="tests marked gpu")
    outcome = f"{tests.get('tests_passed', 0)} passed, {tests.get('tests_failed', 0)} failed" if "passed" in tests else NOT_YET
    return [*lines, ["tests marked `gpu`", "none fails", outcome, ""]]


def _worst(rows: Rows, name: str, bounds: list[float]) -> str:
    """The largest of an error, and how often it is above its bound or could not be measured."""
    if not rows:
        return NOT_YET
    if all("skipped" in row for row in rows):
        return rows[0]["skipped"]
    tried = [(row, bound) for row, bound in zip(rows, bounds, strict=True) if "skipped" not in row]
    errors = [float(row.get("figures", {}).get(name, "nan")) for row, _ in tried]
    failed = sum(not error <= bound for error, (_, bound) in zip(errors, tried, strict=True))
    worst = max(errors, key=lambda error: (math.isnan(error), error))
    notes = [f", {count} of {len(rows)} {outcome}" for outcome, count in (("failed", failed), ("skipped", len(rows) - len(tried))) if count]
    return f"{worst:.1e}{''.join(notes)}"


def _scan(parts: dict[str, Rows]) -> list[Line]:
    rows, lines = parts.get("scan", []), []
    for length in LENGTHS:
        for width in WIDTHS:
            for direction in ("forward", "forward and backward"):
                work = ScanWork(1024, length, width, STATES, direction != "forward")
                cell = {"batch": work.batch, "length": length, "width": width, "direction": direction}
                fused = _figures(rows, scan="triton", **cell)
                peers = [_figures(rows, scan=peer, **cell) for peer in CONTESTANTS if peer != "triton"]
                lines.append(
                    [
                        f"{length:,}", str(width), direction, _giga(work.bytes), _milliseconds(work.bytes / H100.bandwidth),
                        _milliseconds(work.exponentials / H100.exponentials), _shown(fused, "seconds", _milliseconds),
                        _of_bandwidth(fused, parts), *(_shown(peer, "seconds", _milliseconds) for peer in peers),
                    ]
                )  # fmt: skip
    return lines


def _tuning(parts: dict[str, Rows]) -> list[Line]:
    rows, lines = parts.get("scan", []), []
    for tile in TILES:
        for chunk in CHUNKS:
            cells = [
                _figures(rows, scan=TUNED, tile=tile, chunk=chunk, batch=1024, length=1024, width=128, direction=direction)
                for direction in ("forward", "forward and backward")
            ]
            lines.append([str(tile), str(chunk), *(_shown(figures, "seconds", _milliseconds) for figures in cells)])
    return lines


def _train(parts: dict[str, Rows]) -> list[Line]:
    rows, lines = parts.get("train", []), []
    for name in NETWORKS:
        for batch in sorted(BATCHES):
            operations = _operations(name, batch)
            floors = [_milliseconds(operations / H100.operations[precision]) for precision in ("float32", "tf32")]
            eager = {p: _figures(rows, network=name, batch=batch, precision=p, mode="eager") for p in ("float32", "tf32", "bf16")}
            measured = [_shown(figures, "steps_per_second", _count) for figures in eager.values()]
            busy = _shown(eager["float32"], "busy", _percent)
            ceiling = _figures(parts.get("card", []), what="matrix product, float32").get("operations_per_second")
            of_ceiling = _shown(eager["float32"], "steps_per_second", lambda rate, o=operations, c=ceiling: _fraction(o * rate, c))
            lines.append([f"`{name}`", f"{batch:,}", _giga(operations), *floors, *measured, busy, of_ceiling])
    return lines


def _compiled(parts: dict[str, Rows]) -> list[Line]:
    rows = parts.get("train", [])
    modes = ("eager", "compiled", "CUDA graphs")
    cells = {name: [_figures(rows, network=name, batch=1024, precision="tf32", mode=mode) for mode in modes] for name in NETWORKS}
    return [[f"`{name}`", *(_shown(figures, "steps_per_second", _count) for figures in cells[name])] for name in NETWORKS]


def _graph(parts: dict[str, Rows]) -> list[Line]:
    lines = []
    for batch in GRAPH_BATCHES:
        figures = _figures(parts.get("train", []), network=DIRECT, batch=batch, precision="float32", mode=GRAPH)
        rate = _shown(figures, "steps_per_second", _count)
        lines.append([f"{batch:,}", _giga(_operations(DIRECT, batch)), rate, _shown(figures, "rows_per_second", _count)])
    return lines


def _stream(parts: dict[str, Rows]) -> list[Line]:
    lines = []
    for name in STREAMED:
        figures = _figures(parts.get("train", []), stream="endless", network=name)
        counts = [_shown(figures, key, _count) for key in ("drawn_rows_per_second", "steps_per_second_resident", "steps_per_second")]
        lines.append([f"`{name}`", *counts, _shown(figures, "waiting", _percent)])
    return lines


def _infer(parts: dict[str, Rows]) -> list[Line]:
    rows, lines = parts.get("infer", []), []
    for name in (DIRECT, *shipped_models()):
        for size in sorted(SIZES):
            figures = _figures(rows, model=name, trajectories=size, precision="float32")
            solver = _figures(rows, accuracy_of=name, trajectories=min(size, sorted(SIZES)[-2]))
            measured = [_shown(figures, key, _microseconds) for key in ("seconds_each", "seconds_each_from_host_to_host")]
            floor = _microseconds(_operations_each(name) / H100.operations["float32"]) if size > _MANY else ""
            theirs = _shown(solver, "seconds_each", lambda each, s=solver: _solver(each, s))
            lines.append([f"`{name}`", f"{size:,}", floor, *measured, theirs])
    return lines


def _solver(seconds_each: float, figures: dict[str, Any]) -> str:
    """Its time, and how much less accurate it is where no step is as accurate as the network."""
    ratio = figures["times_the_networks_loss"]
    return _microseconds(seconds_each) + (f", at {ratio:,.0f} times the loss" if ratio > 1.0 else "")


def _learn(parts: dict[str, Rows]) -> list[Line]:
    figures = _figures(parts.get("learn", []), network=DIRECT)
    names = ("epochs", "steps", "rows_drawn")
    counts = [_shown(figures, name, lambda count: f"{count:,}") for name in names]
    return [[*counts, _shown(figures, "seconds", _scaled(1.0, "s")), _shown(figures, "validation_loss", lambda loss: f"{loss:.1e}")]]


def _summary(parts: dict[str, Rows]) -> list[Line]:
    scan, train, infer, learn = (parts.get(part, []) for part in ("scan", "train", "infer", "learn"))
    both = _figures(scan, scan="triton", batch=1024, length=1024, width=128, direction="forward and backward")
    step = _figures(train, network=DIRECT, batch=1024, precision="float32", mode="eager")
    learnt = _shown(_figures(learn, network=DIRECT), "validation_loss", "{:.1e}".format)
    each = {name: _figures(infer, model=name, trajectories=16384, precision="float32") for name in (DIRECT, "orbitnet")}
    return [
        ["scan of length 1,024, forward and backward", "at least 60% of the bandwidth", _of_bandwidth(both, parts)],
        [f"`{DIRECT}`, a predicted trajectory among 16,384", "below 5 µs", _shown(each[DIRECT], "seconds_each", _microseconds)],
        ["`orbitnet`, a predicted trajectory among 16,384", "below 5 µs", _shown(each["orbitnet"], "seconds_each", _microseconds)],
        [f"`{DIRECT}`, steps per second at batch 1,024", "30 to 50", _shown(step, "steps_per_second", _count)],
        [f"`{DIRECT}`, validation loss so far", "1e-6 to 1e-7", learnt],
    ]


@functools.cache
def _operations(name: str, batch: int) -> int:
    """Of a step of training."""
    config = network_config(name, False, {})
    return network_operations(config.architecture, task_of(config.data), batch, (1, config.data.times), backward=True)


@functools.cache
def _operations_each(name: str) -> float:
    """Of a predicted trajectory among many."""
    if name == DIRECT:
        config = network_config(DIRECT, False, {})
        architecture, data = config.architecture, config.data
    else:
        folder = shipped_models()[name]
        architecture, data = load_model(folder).config, data_of(folder)
    times = (_MANY if data.distribution.orbits_per_hamiltonian > 1 else 1, data.times)
    return network_operations(architecture, task_of(data), _MANY, times, backward=False) / _MANY


TABLES: dict[str, tuple[Line, Callable[[dict[str, Rows]], list[Line]]]] = {
    "card": (["ceiling", f"expected, {H100.name}", "measured"], _card),
    "parity": (["check", "bound of the error", "largest error", "on the CPU"], _parity),
    "scan": (
        [
            "length",
            "width",
            "direction",
            "GB",
            "bytes need",
            "exponentials need",
            "measured",
            "of bandwidth",
            "mamba_ssm",
            "associative",
            "loop",
        ],
        _scan,
    ),
    "tuning": (["states in a program", "steps between kept states", "forward", "forward and backward"], _tuning),
    "train": (
        ["network", "batch", "GFLOP a step", "float32 needs", "TF32 needs", "steps/s, float32", "TF32", "bf16", "busy", "of the ceiling"],
        _train,
    ),
    "compiled": (["network", "eager", "compiled", "CUDA graphs"], _compiled),
    "graph": (["batch", "GFLOP a step", "steps/s, bases turned every 10 steps", "rows/s"], _graph),
    "stream": (["network", "rows/s drawn", "steps/s, one batch again and again", "steps/s, rows drawn meanwhile", "slower by"], _stream),
    "infer": (["model", "trajectories", "float32 needs", "measured", "from host to host", "RK4 as accurate"], _infer),
    "summary": (["on a GPU", "goal or expectation", "measured"], _summary),
    "learn": (["epochs", "steps", "rows", "time", "validation loss"], _learn),
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
