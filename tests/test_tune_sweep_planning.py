"""The plan of a sweep: epochs under early stopping, several trials at once, and what is kept for comparison."""

from pathlib import Path

import pytest
from optuna.study import StudyDirection

from neural_hamilton.physics import InputError
from neural_hamilton.physics.files import write_json
from neural_hamilton.platform.config import load_config
from neural_hamilton.tune.folders import claimed, read_cost
from neural_hamilton.tune.sweeps.planning import plan_sweep, simulate_stopping
from neural_hamilton.tune.sweeps.stopping import STOPPERS
from neural_hamilton.tune.sweeps.study import open_database


def test_without_stopping_every_trial_trains_its_budget() -> None:
    assert simulate_stopping(STOPPERS["none"](10, 2), 7, 2, 10) == (70, 40)
    assert simulate_stopping(STOPPERS["none"](10, 2), 3, 8, 10) == (30, 10)
    assert simulate_stopping(STOPPERS["none"](10, 2), 4, 1, 10) == (40, 40)


@pytest.mark.parametrize("name", ["asha", "median", "hyperband"])
def test_stopping_saves_epochs(name: str) -> None:
    stopper = STOPPERS[name](27, 3)
    total, longest = simulate_stopping(stopper, 40, 2, 27)
    assert 40 * 3 < total < 0.8 * 40 * 27
    assert total / 2 <= longest <= total / 2 + 27  # no slot is idle before the last trials
    alone = simulate_stopping(stopper, 40, 1, 27)
    assert alone[0] == alone[1]


def test_successive_halving_trains_what_its_rungs_let_through() -> None:
    """Of trials in random order, the n-th passes a rung of n - 1 rivals with probability about 1/3 (Li et al., arXiv 1810.05934)."""
    total, _ = simulate_stopping(STOPPERS["asha"](27, 3), 120, 1, 27)
    expected = 120 * (3 + 6 / 3 + 18 / 9)  # three epochs each, six more for a third, eighteen more for a ninth
    assert total == pytest.approx(expected, rel=0.25)


def test_trials_that_get_better_are_stopped_less_often() -> None:
    """Within a fifth of the epochs that TPE's sweeps took with ASHA in benchmarks/results/sweeps.json: a mean of 129 of 216."""
    stopper = STOPPERS["asha"](9, 2)
    random, _ = simulate_stopping(stopper, 24, 1, 9)
    learning, _ = simulate_stopping(stopper, 24, 1, 9, learns=True)
    assert random < learning
    assert learning == pytest.approx(129, rel=0.2)


def test_a_plan_is_kept_for_the_sweep(tiny_dataset: Path, tmp_path: Path) -> None:
    sizes = {"architecture.name": "deeponet", "training.epochs": 2, "training.batch_size": 32, "sweep.max_concurrent": 1}
    space = {"architecture.width": {"low": 4, "high": 8}, "data.sensors": {"choices": [20, 12]}}
    plan = plan_sweep(load_config(None, sizes | {"sweep.epochs": 6, "sweep.space": space}), tiny_dataset, 5, tmp_path / "sweep")
    assert read_cost(tmp_path / "sweep") == {"plan": {"trials": 5, "seconds": plan["seconds"]}, "calls": []}
    assert (plan["trials"], plan["concurrent"], plan["epochs_without_stopping"]) == (5, 1, 30)
    assert 5 <= plan["epochs"] < 30
    assert plan["seconds"] > plan["epochs"] * plan["seconds_per_epoch"]


def test_trials_that_ended_are_not_planned_again(tiny_dataset: Path, tmp_path: Path) -> None:
    config = load_config(None, {"architecture.name": "deeponet", "architecture.width": 4, "training.epochs": 2})
    plan_sweep(config, tiny_dataset, 5, tmp_path)
    write_json(tmp_path / "leaderboard.json", [{}, {}, {}])
    assert plan_sweep(config, tiny_dataset, 5, tmp_path)["trials"] == 2
    assert plan_sweep(config, tiny_dataset, 2, tmp_path)["epochs"] == 0
    (tmp_path / "leaderboard.json").write_text("{")
    with pytest.raises(InputError, match="leaderboard.json is not JSON; delete it"):
        plan_sweep(config, tiny_dataset, 5, tmp_path)


@pytest.mark.slow
def test_a_plan_alone_does_not_hold_a_folder(tiny_dataset: Path, tmp_path: Path) -> None:
    """Another plan takes its place; work does not give way to it."""
    config = load_config(None, {"architecture.name": "deeponet", "architecture.width": 4, "training.epochs": 2})
    plan_sweep(config, tiny_dataset, 500, tmp_path)
    plan = plan_sweep(config.override({"sweep.epochs": 1}), tiny_dataset, 3, tmp_path)
    assert read_cost(tmp_path) == {"plan": {"trials": 3, "seconds": plan["seconds"]}, "calls": []}
    (tmp_path / "trials").mkdir()
    with pytest.raises(InputError, match=r"already holds a sweep with sweep\.epochs 1 \(asked for None\); choose another folder"):
        plan_sweep(config, tiny_dataset, 3, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file; give a folder"):
        plan_sweep(config, tiny_dataset, 3, tmp_path / "file")


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"plan": null, "calls": {}}'])
def test_a_record_of_costs_that_is_none_is_refused_before_anything_runs(tiny_dataset: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "cost.json").write_text(text)
    with pytest.raises(InputError, match="cost.json.*; delete it"), claimed(tmp_path, {"kind": "sweep"}):
        pytest.fail("the folder was claimed")


@pytest.mark.parametrize("text", ['{"kind": "sweep", "training": 5}', '{"kind": "sweep", "architecture": 5}', "[]"])
def test_a_record_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "study.json").write_text(text)
    (tmp_path / "trials").mkdir()
    with pytest.raises(InputError, match="choose another folder"), claimed(tmp_path, {"kind": "sweep", "training": {"epochs": 1}}):
        pytest.fail("the folder was claimed")


@pytest.mark.parametrize("name", ["a b", "a%20b", "a?b", "a#b", "größe", "100%"])
def test_a_folder_of_any_name_holds_its_own_database(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    open_database(tmp_path / name).storage.create_new_study([StudyDirection.MINIMIZE], "sweep")
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()] == [Path(name) / "optuna.db"]
