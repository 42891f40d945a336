"""Results as aligned text tables."""

from typing import Any

_UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("bytes", 1))


def format_table(rows: list[dict[str, Any]]) -> str:
    """Rows with equal keys as an aligned text table; floats in three significant digits."""
    if not rows:
        return "(nothing)"
    header = list(rows[0])
    cells = [header] + [[_format_cell(row[key]) for key in header] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _format_cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def format_facts(facts: dict[str, Any], indent: str = "") -> str:
    """A line for each name and value, what is nested below its name; seconds and bytes as people say them."""
    lines = []
    for name, value in facts.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{name}:", format_facts(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name.replace('_bytes', '')}: {_format_fact(name, value)}")
    return "\n".join(lines)


def _format_fact(name: str, value: Any) -> str:
    if value is None or value in ([], {}):
        return "none"
    if "bytes" in name:
        unit, size = next(pair for pair in _UNITS if value >= pair[1] or pair[1] == 1)
        return f"{value / size:.3g} {unit}"
    if name == "seconds":
        return f"{value:.0f} s" if value < 120 else f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"
    return ", ".join(map(str, value)) if isinstance(value, list) else _format_cell(value)


def evaluation_table(result: dict[str, Any]) -> str:
    """Losses and seconds per trajectory of the model and every baseline, and the warnings of an evaluation."""
    entries = [("model", result["metrics"], result["timing"]["model_seconds_per_trajectory"])]
    entries += [(name, figures, figures["seconds_per_trajectory"]) for name, figures in result["baselines"].items()]
    return _loss_table(entries, result["warnings"])


def benchmark_lines(scores: dict[str, Any] | None) -> list[str]:
    """The scores of a task of the benchmark in a line; none where the problems are not those of a task."""
    if scores is None:
        return []
    loss, valid = scores["total_loss"], scores["valid_time"]
    parts = [
        f"total loss {_format_cell(loss['median'])} median, {_format_cell(loss['mean'])} mean",
        f"energy drift {_format_cell(scores['energy_drift'])}",
    ]
    if valid is not None:
        parts.append(f"valid for {valid:.2g} Lyapunov times")
    return [f"{scores['task']}: {'; '.join(parts)}"]


def comparison_table(result: dict[str, Any]) -> str:
    """Losses and seconds per trajectory of every model and baseline, and the warnings of a comparison."""
    return _loss_table([(name, entry, entry["seconds_per_trajectory"]) for name, entry in result["entries"].items()], result["warnings"])


def _loss_table(entries: list[tuple[str, dict[str, Any], float]], warnings: list[str]) -> str:
    rows = [
        {
            "solver": name,
            "median loss": figures["total_loss"]["median"],
            "mean loss": figures["total_loss"]["mean"],
            "p99": figures["total_loss"]["p99"],
            "s/trajectory": seconds,
        }
        for name, figures, seconds in entries
    ]
    return "\n".join([format_table(rows), *(f"warning: {warning}" for warning in warnings)])
