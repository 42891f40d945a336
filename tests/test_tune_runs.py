"""What a trial reports, for one seed and several, uninterrupted and killed between any two reports."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neural_hamilton.architectures import load_model
from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.training.run_folder import History
from neural_hamilton.tune.folders import resolve
from neural_hamilton.tune.sweeps.objectives import measure_run
from neural_hamilton.tune.sweeps.resources import Share
from neural_hamilton.tune.sweeps.runs import TrialWork, run_folders, trained

TINY = {
    "architecture.name": "deeponet",
    "architecture.width": 4,
    "architecture.num_layers": 1,
    "architecture.num_channels": 4,
    "training.epochs": 5,
    "training.batch_size": 32,
    "training.trackers": [],
}
RUNGS = (1, 3)


class Killed(BaseException):
    """The worker is gone."""


def train_trial(dataset: Path, folder: Path, overrides: dict[str, Any], lives: int = 10**6) -> dict[int, list[float]]:
    """The objectives by epoch that a trial reports before its worker dies, at the report after `lives` others."""
    seen: dict[int, list[float]] = {}

    def report(line: dict[str, Any]) -> None:
        nonlocal lives
        if not lives:
            raise Killed
        lives -= 1
        seen.update(dict(line["values"]))
        assert line["seconds"] >= 0

    work = TrialWork(resolve(load_config(None, TINY | overrides), dataset), dataset, folder, RUNGS, Share(1, 1, 1, 0), report)
    work.prepare()
    work()
    return seen


@pytest.mark.parametrize("seeds", [1, 2])
def test_every_epoch_is_reported_with_the_mean_of_the_best_losses(tiny_dataset: Path, tmp_path: Path, seeds: int) -> None:
    seen = train_trial(tiny_dataset, tmp_path / "trial", {"sweep.seeds": seeds})
    histories = [History(run).read() for run in run_folders(tmp_path / "trial", seeds)]
    best = [np.minimum.accumulate([line["validation_loss"] for line in history]) for history in histories]
    assert list(seen) == [1, 2, 3, 4, 5]
    assert [value for (value,) in seen.values()] == np.mean(best, axis=0).tolist()
    assert trained(tmp_path / "trial", seeds)[0] == 5
    assert seeds == 1 or best[0].tolist() != best[1].tolist()


@pytest.mark.parametrize("overrides", [{}, {"sweep.seeds": 2}, {"sweep.objectives": ["median_loss", "num_parameters"]}])
def test_a_trial_killed_at_any_report_goes_on_with_the_same_values(tiny_dataset: Path, tmp_path: Path, overrides: dict[str, Any]) -> None:
    whole = train_trial(tiny_dataset, tmp_path / "whole", overrides)
    for lives in (1, 2):
        folder = tmp_path / f"killed-{lives}"
        with pytest.raises(Killed):
            train_trial(tiny_dataset, folder, overrides, lives)
        resumed = train_trial(tiny_dataset, folder, overrides)
        assert resumed == {epoch: whole[epoch] for epoch in resumed}
        assert max(resumed) == 5


def test_other_objectives_are_measured_at_rungs_and_at_the_end(tiny_dataset: Path, tmp_path: Path) -> None:
    objectives = ("validation_loss", "median_loss", "energy_drift", "num_parameters")
    overrides = {"sweep.objectives": list(objectives)}
    seen = train_trial(tiny_dataset, tmp_path / "trial", overrides)
    assert list(seen) == [1, 3, 5]
    config = resolve(load_config(None, TINY | overrides), tiny_dataset)
    model = load_model(tmp_path / "trial" / "model")
    assert seen[5] == measure_run(tmp_path / "trial", tiny_dataset, config, objectives)
    assert seen[5][3] == sum(parameter.numel() for parameter in model.parameters())
    mean = measure_run(tmp_path / "trial", tiny_dataset, config, ("validation_loss",))[0]
    assert 0 < seen[5][1] < 3 * mean


def test_patience_ends_a_trial_with_its_best(tiny_dataset: Path, tmp_path: Path) -> None:
    impatient = {"training.patience": 1, "training.learning_rate": 3.0, "training.schedule": "constant", "training.epochs": 30}
    seen = train_trial(tiny_dataset, tmp_path / "trial", impatient | {"sweep.seeds": 2})
    lengths = [len(History(run).read()) for run in run_folders(tmp_path / "trial", 2)]
    assert max(seen) == max(lengths) < 30
