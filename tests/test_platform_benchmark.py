"""The benchmark: its problems are those of the hashes, and evaluation recognises them and nothing else."""

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import leaderboard
from neural_hamilton.physics.files import write_json
from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.config.load import load_data_config
from neural_hamilton.platform.data.datasets import read_split
from neural_hamilton.platform.data.generation import generate
from neural_hamilton.platform.evaluation.benchmark import TASKS, find_task, problems_hash


@pytest.fixture(scope="module")
def surface_8(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark") / "surface-8"
    generate(folder, load_data_config("benchmark-surface-8", {"data.train": 0, "data.val": 0}), local=True)
    return folder


def test_a_task_is_made_again(surface_8):
    assert find_task(read_split(surface_8, "test")) == "benchmark-surface-8"


def test_part_of_a_task_is_none(surface_8):
    assert find_task(read_split(surface_8, "test", 1999)) is None


def test_the_last_digits_of_another_cpu_do_not_matter(surface_8):
    split = read_split(surface_8, "test")

    def nudged(name, by):
        values = getattr(split, name)
        return {name: (values.astype(np.float64) + by).astype(values.dtype)}

    elsewhere = replace(split, **nudged("potential", 1e-16), **nudged("times", 1e-16), **nudged("initial", -1e-16), **nudged("q", 1e-9))
    assert problems_hash(elsewhere) == problems_hash(split)
    assert find_task(replace(split, **nudged("initial", 1e-4))) is None


def test_double_precision_makes_the_same_task_and_a_looser_certificate_none(surface_8):
    split = read_split(surface_8, "test")
    assert problems_hash(replace(split, potential=split.potential.astype(np.float64))) == problems_hash(split)
    assert find_task(replace(split, integration_error=split.integration_error + 1e-8)) is None


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_its_configuration(task):
    config = load_config(task).data
    assert task == f"benchmark-{config.system}-{config.sensors}" + ("-noise" if config.noise else "")
    assert (config.test, config.seed) == (2000, 0) and config.noise in (0.0, 0.01)


def an_evaluation(**changes):
    figures = {"total_loss": {"median": 1e-4, "mean": 1e-2, "p99": 0.2}, "energy_drift": {"median": 0.01}}
    result = {
        "schema_version": 3,
        "model": {"built_in": None},
        "metrics": figures,
        "baselines": {
            "dop853-quintic": {
                "total_loss": {"median": 1e-9, "mean": 1e-5, "p99": 1e-4},
                "energy_drift": {"median": 0.001},
                "reconstruction": "quintic",
                "seconds_per_trajectory": 1e-3,
            }
        },
        "rollouts": None,
        "timing": {"model_seconds_per_trajectory": 2e-3},
        "benchmark": {
            "task": "benchmark-surface-8", "rows": 2000, "total_loss": figures["total_loss"], "energy_drift": 0.01, "valid_time": 3.1,
            "rollout_horizon": 20.0, "seconds_per_trajectory": 2e-3, "num_parameters": 12, "weights_sha256": "ab",
        },
    }  # fmt: skip
    return result | changes


class TestLeaderboard:
    def enter(self, folder, name, result, monkeypatch):
        monkeypatch.setattr(leaderboard, "FOLDER", folder / "leaderboard")
        write_json(folder / "evaluation.json", result)
        return leaderboard.main([str(folder), "--name", name])

    def test_entries_are_ordered_by_mean_loss_and_replaced_by_name(self, tmp_path, monkeypatch):
        assert self.enter(tmp_path, "mine", an_evaluation(), monkeypatch) == 0
        better = an_evaluation()
        better["benchmark"]["total_loss"] = {"median": 1e-9, "mean": 1e-7, "p99": 1e-6}
        assert self.enter(tmp_path, "yours", better, monkeypatch) == 0
        assert self.enter(tmp_path, "mine", an_evaluation(), monkeypatch) == 0
        entries = json.loads((tmp_path / "leaderboard" / "benchmark-surface-8.json").read_text())["entries"]
        assert [entry["name"] for entry in entries] == ["yours", "dop853-quintic", "mine"]
        assert [entry["kind"] for entry in entries] == ["network", "solver", "network"]

    def test_other_rows_are_refused(self, tmp_path, monkeypatch, capsys):
        assert self.enter(tmp_path, "mine", an_evaluation(benchmark=None), monkeypatch) == 2
        assert "no evaluation of a task" in capsys.readouterr().err
        assert not (tmp_path / "leaderboard").exists()
