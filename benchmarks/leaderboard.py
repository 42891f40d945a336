"""`python -m benchmarks.leaderboard EVALUATION --name NAME [--link URL]`: enter an evaluation of a task of the benchmark.

EVALUATION is a folder that `neural-hamilton evaluate` wrote. The model enters under NAME, and the solvers that were measured on the same
problems under their own; an entry of the same name is replaced. `python docs/generate.py` then fills the page.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from neural_hamilton.physics import InputError
from neural_hamilton.physics.files import read_json, write_json

from .timing import RESULTS

FOLDER = RESULTS / "leaderboard"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.leaderboard", description="enter an evaluation")
    parser.add_argument("evaluation", type=Path, metavar="EVALUATION")
    parser.add_argument("--name", required=True)
    parser.add_argument("--link", help="where the model and its code can be found")
    options = parser.parse_args(arguments)
    try:
        result = read_json(options.evaluation / "evaluation.json", f"evaluation {str(options.evaluation)!r}", 3)
        entries = read_entries(result, options.name, options.link)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    task = result["benchmark"]["task"]
    path = FOLDER / f"{task}.json"
    earlier = read_json(path, "the leaderboard", 1)["entries"] if path.exists() else []
    kept = [entry for entry in earlier if entry["name"] not in {own["name"] for own in entries}]
    path.parent.mkdir(exist_ok=True)
    write_json(path, {"schema_version": 1, "task": task, "entries": sorted(kept + entries, key=_by_mean_loss)})
    print(f"{options.name} entered in {path}")
    return 0


def read_entries(result: dict[str, Any], name: str, link: str | None) -> list[dict[str, Any]]:
    """The lines of the leaderboard that an evaluation holds: the model's first, then the solvers'.

    Raises
    ------
    InputError
        Where the evaluation is not one of a whole task.
    """
    scores = result.get("benchmark")
    if not scores:
        raise InputError("this is no evaluation of a task: its rows are not all the test rows of one; see docs/reference/benchmark.md")
    model = {key: scores[key] for key in ("total_loss", "energy_drift", "valid_time", "seconds_per_trajectory", "num_parameters")}
    model |= {"weights_sha256": scores["weights_sha256"], "built_in": result["model"].get("built_in"), "link": link}
    solvers = (result.get("rollouts") or {}).get("solvers", {})
    entries = [{"name": name, "kind": "network"} | model]
    for solver, entry in result["baselines"].items():
        entries.append(
            {
                "name": solver,
                "kind": "solver, exact V" if entry["reconstruction"] is None else "solver",
                "total_loss": {key: entry["total_loss"][key] for key in ("median", "mean", "p99")},
                "energy_drift": entry["energy_drift"]["median"],
                "valid_time": solvers.get(solver, {}).get("prediction_time", {}).get("error_lyapunov"),
                "seconds_per_trajectory": entry["seconds_per_trajectory"],
            }
        )
    return entries


def _by_mean_loss(entry: dict[str, Any]) -> float:
    mean = entry["total_loss"]["mean"]
    return float("inf") if mean is None else mean


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
