"""Benchmarks that nobody runs with the tests still have to start."""

import json

import numpy as np
import pytest

from benchmarks import ablations, chaos, sweeps
from neural_hamilton.architectures import build_operator
from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.training.trained_for import task_of


@pytest.mark.parametrize("name", ablations.ABLATIONS)
def test_an_ablation_changes_what_it_says_and_can_be_built(name):
    changes = ablations.ABLATIONS[name]
    base, changed = load_config(None, ablations.base_of({})), load_config(None, ablations.base_of(changes) | changes)
    build_operator(changed.architecture, task_of(changed.data))
    differences = {
        f"{section}.{key}"
        for section, values in changed.dump().items()
        for key, value in values.items()
        if key in base.dump()[section] and base.dump()[section][key] != value
    }
    assert differences == set(changes)


def test_ablations_are_recorded_one_by_one_and_made_again_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.timing.RESULTS", tmp_path)
    small = {"data.train": 20, "data.val": 4, "data.sensors": 10, "data.times": 10, "training.epochs": 2}
    monkeypatch.setattr(ablations, "BASE", ablations.BASE | small)
    assert ablations.main(["base", "log-cosh", "--seeds", "0,1"]) == 0
    assert ablations.main(["log-cosh"]) == 0
    lines = json.loads((tmp_path / "ablations.json").read_text())["lines"]
    assert sorted((line["name"], line["seed"]) for line in lines) == [("base", 0), ("base", 1), ("log-cosh", 0), ("log-cosh", 1)]
    assert "log-cosh" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        ablations.main(["dropout"])
    with pytest.raises(SystemExit):
        ablations.main(["base", "--seeds", "one"])


def test_laws_of_runs_at_several_sizes_are_put_into_words():
    def line(name, rows, seed):
        loss = rows**-0.5 * (1 + 0.05 * seed)
        valid = {"error_lyapunov": 1.0 + 0.3 * np.log10(rows)}
        return {"name": name, "rows": rows, "seed": seed, "total_loss": {"median": loss, "mean": 2 * loss}, "valid_time": valid}

    median, mean, valid = chaos.laws([line("a", rows, seed) for rows in (400, 1000, 4000, 10_000) for seed in (0, 1)] + [line("b", 400, 0)])
    assert median.startswith("a, median loss: loss = E + A") and mean.startswith("a, mean loss:")
    assert "alpha = 0.5" in median
    assert valid.startswith("a, valid time: +0.30")


@pytest.mark.slow
def test_sweeps_are_measured_one_by_one_and_compared(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.timing.RESULTS", tmp_path)
    monkeypatch.setattr(sweeps, "TRIALS", 3)
    monkeypatch.setattr(sweeps, "EPOCHS", 3)
    small = {"data.train": 20, "data.val": 4, "data.sensors": 10, "data.times": 10, "training.epochs": 3}
    monkeypatch.setattr(sweeps, "BASE", sweeps.BASE | small)
    assert sweeps.main(["--seeds", "0"]) == 0
    lines = {line["name"]: line for line in json.loads((tmp_path / "sweeps.json").read_text())["lines"]}
    assert list(lines) == list(sweeps.SWEEPS)
    assert lines["tpe"]["epochs"] == lines["pareto"]["epochs"] == 9
    assert lines["tpe, asha"]["epochs"] <= 9 <= lines["pareto, asha"]["epochs"]
    assert set(lines["random"]["rank_correlation"]) == {"1", "2"}
    printed = capsys.readouterr().out
    assert "best loss of tpe over that of random" in printed and "not measured" not in printed
    with pytest.raises(SystemExit):
        sweeps.main(["annealing"])
