"""What a sweep leaves of its study, written whenever a trial ends: leaderboard, best configuration, page; losing checkpoints go.

leaderboard.json, leaderboard.csv, leaderboard.parquet    one row for each trial that ended, best first
best.yaml                                                 the configuration of the first
sweep.html                                                figures
"""

import csv
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...physics.files import write_file, write_json
from ...platform.config import Config, load_config
from ...platform.storage import Location, remove_folder
from ...platform.training.run_folder import CHECKPOINTS_FOLDER, CONFIG_FILE
from .fronts import order_by_fronts
from .page import render_page
from .runs import run_folders
from .study import Study

LEADERBOARD_FILE, BEST_FILE, PAGE_FILE, TRIALS_FOLDER = "leaderboard", "best.yaml", "sweep.html", "trials"
STATES = {"COMPLETE": "finished", "PRUNED": "stopped early", "FAIL": "failed"}
_DRAWING_FRACTION = 0.1  # of the time that a sweep takes, at most, goes into drawing its page again and again


def trial_folder(out: Location, number: int) -> Location:
    """The folder of a trial."""
    return out / TRIALS_FOLDER / f"{number:05d}"


def leaderboard(study: Study, objectives: Sequence[str]) -> list[dict[str, Any]]:
    """One row for each trial that ended, best first: by the objective, or front by front; failed trials last.

    With one objective a trial that was stopped early counts by the best epoch it had. With several, `front` tells the Pareto front of the
    finished trials, and stopped ones come after all of them.
    """
    trials = [(trial, study.curve(trial)) for trial in study.ended()]
    rows = [_row(trial, list(curve.values()), objectives) for trial, curve in trials]
    failed = [row for row in rows if row["state"] == "failed"]
    if len(objectives) == 1:
        others = [row for row in rows if row["state"] != "failed"]
        return sorted(others, key=lambda row: (row[objectives[0]], row["trial"])) + failed
    ranked = [_by_fronts([row for row in rows if row["state"] == state], objectives) for state in ("finished", "stopped early")]
    front = {trial.number for trial in study.optuna.best_trials}
    return [row | {"front": int(row["trial"]) in front} for group in (*ranked, failed) for row in group]


def _row(trial: Any, values: list[tuple[float, ...]], objectives: Sequence[str]) -> dict[str, Any]:
    failed = trial.state.name == "FAIL"
    own = [None] * len(objectives) if failed or not values else values[-1]
    return {
        "trial": f"{trial.number:05d}",
        "state": STATES[trial.state.name],
        **dict(zip(objectives, own, strict=True)),
        "epochs": trial.user_attrs["epochs"],
        "seconds": trial.user_attrs["seconds"],
        "parameters": dict(trial.params),
        "reason": trial.user_attrs.get("reason"),
    }


def _by_fronts(rows: list[dict[str, Any]], objectives: Sequence[str]) -> list[dict[str, Any]]:
    values = np.array([[row[name] for name in objectives] for row in rows]).reshape(len(rows), len(objectives))
    return [rows[index] for index in order_by_fronts(values)]


@dataclass
class Outputs:
    """Writes the files of a sweep from its study. `config` is that of the sweep, resolved."""

    out: Location
    config: Config
    study: Study
    _drawn: float = field(default=-np.inf, init=False)
    _drawing: float = field(default=0.0, init=False)

    def write(self, at_end: bool = False) -> list[dict[str, Any]]:
        """Write all; returns the leaderboard.

        Drawing the page takes about a second, so where trials end faster it is drawn after some of them only, and `at_end`.
        """
        rows = leaderboard(self.study, self.config.sweep.objectives)
        self._write_tables(rows)
        best = [row for row in rows if row["reason"] is None][:1]
        if best:
            self.write_best(best[0])
        self._delete_checkpoints(rows)
        started = time.monotonic()
        if at_end or self._drawing <= _DRAWING_FRACTION * (started - self._drawn):
            write_file(self.out / PAGE_FILE, render_page(self.study, self.config, rows).encode())
            self._drawn = time.monotonic()
            self._drawing = self._drawn - started
        return rows

    def _write_tables(self, rows: list[dict[str, Any]]) -> None:
        write_json(self.out / f"{LEADERBOARD_FILE}.json", rows)
        keys = list(self.study.space)
        table = [{"rank": rank} | _flat(row, keys) for rank, row in enumerate(rows, start=1)]
        columns = list(table[0]) if table else ["rank", "trial", "state"]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in table)
        write_file(self.out / f"{LEADERBOARD_FILE}.csv", text.getvalue().encode())
        stream = pa.BufferOutputStream()
        pq.write_table(pa.table({key: _column([row[key] for row in table]) for key in columns}), stream)
        write_file(self.out / f"{LEADERBOARD_FILE}.parquet", stream.getvalue().to_pybytes())

    def write_best(self, row: dict[str, Any]) -> None:
        """Write best.yaml from the trial of a row."""
        run = self._runs(row)[0]
        # The trial's own file may hold the shorter budget of a sweep, and the seed of one of its runs.
        own = {"training.epochs": self.config.training.epochs}
        if self.config.sweep.seeds > 1:
            own["training.seed"] = self.config.training.seed
        needs_own_dataset = any(key.startswith("data.") for key in row["parameters"])
        sections = (*(["data"] if needs_own_dataset else []), "architecture", "training")
        load_config(run / CONFIG_FILE).override(own).save(self.out / BEST_FILE, sections)

    def _delete_checkpoints(self, rows: list[dict[str, Any]]) -> None:
        """Of every trial that ended but the best: none is continued."""
        for row in rows[1:]:
            for run in self._runs(row):
                remove_folder(run / CHECKPOINTS_FOLDER)

    def _runs(self, row: dict[str, Any]) -> list[Location]:
        return run_folders(trial_folder(self.out, int(row["trial"])), self.config.sweep.seeds)


def _flat(row: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    values = {key: value for key, value in row.items() if key not in ("parameters", "reason")}
    return values | {key: row["parameters"].get(key) for key in keys} | {"reason": row["reason"]}


def _column(values: list[Any]) -> pa.Array:
    """Choices of a key can be of several types, which a column cannot hold: text then."""
    kinds = {float if type(value) is int else type(value) for value in values if value is not None}
    if len(kinds) != 1:
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    if kinds == {float} and any(type(value) is float for value in values):
        return pa.array(values, pa.float64())
    return pa.array(values)
