"""What a cell of a dataset-size study trains on, and for how long: rows by draw and potential, protocols, and what is refused."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neural_hamilton.physics import InputError
from neural_hamilton.platform.config import Config, load_config
from neural_hamilton.platform.data.datasets import RowFile, read_rows, read_split, row_numbers
from neural_hamilton.platform.data.generation import generate
from neural_hamilton.platform.training.batches import rows_of, training_files, validation_files
from neural_hamilton.platform.training.run_folder import prepare_run
from neural_hamilton.platform.training.runs import steps_of
from neural_hamilton.tune.scaling import cells as cells_module
from neural_hamilton.tune.scaling.cells import Cell, Grid, Pool, cell_config, check_grid, check_leakage, protocol_of, protocol_text
from neural_hamilton.tune.scaling.contestants import Contestant, vary_trajectories

ORBITS = 4  # of a potential, in ensemble phase-space


def tiny(**overrides: Any) -> Config:
    values = {"architecture.name": "deeponet", "architecture.width": 8, "training.epochs": 10, "training.batch_size": 16}
    return load_config(None, values | {key.replace("__", "."): value for key, value in overrides.items()})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 potentials with four orbits each, in files that cut potentials in two."""
    folder = tmp_path_factory.mktemp("cells") / "dataset"
    sizes = {"ensemble": "phase-space", "train": 96, "val": 24, "test": 8, "sensors": 12, "times": 5, "shard_rows": 10}
    generate(folder, load_config(None, {f"data.{key}": value for key, value in sizes.items()}).data, local=True)
    return folder


def ids(files: list[RowFile], column: str) -> list[int]:
    return np.concatenate([np.asarray(file.read([column]).column(column)) for file in files]).tolist()


@given(st.integers(1, 6), st.integers(1, 12), st.data())
def test_rows_of_a_potential_are_spread_over_its_orbits(orbits: int, potentials: int, data: st.DataObject) -> None:
    each = data.draw(st.integers(1, orbits))
    start = orbits * data.draw(st.integers(0, potentials - 1))
    numbers = row_numbers(orbits * potentials, orbits, start, per_potential=each)
    owners, kinds = np.divmod(numbers, orbits)
    assert np.all(np.diff(numbers) > 0) and numbers[0] >= start
    assert np.bincount(owners)[start // orbits :].tolist() == [each] * (potentials - start // orbits)
    cycle = kinds[: each * orbits]  # of as many potentials as one has orbits: every kind as often
    if cycle.size == each * orbits:
        assert np.bincount(cycle, minlength=orbits).tolist() == [each] * orbits
    first = data.draw(st.integers(1, len(numbers)))
    np.testing.assert_array_equal(row_numbers(orbits * potentials, orbits, start, first, each), numbers[:first])


def test_row_numbers_that_no_potential_has_are_refused() -> None:
    with pytest.raises(InputError, match="trajectories_per_potential is 5; potentials of the dataset have 4: give 1 to 4"):
        row_numbers(8, 4, per_potential=5)
    with pytest.raises(InputError, match="give a multiple of 4"):
        row_numbers(8, 4, start=2, per_potential=1)


def test_sizes_are_nested_and_draws_are_apart(dataset: Path) -> None:
    pool = Pool.of(dataset, 3)
    assert (pool.train, pool.val) == (32, 8)
    rows: dict[tuple[int, int], dict[str, set[int]]] = {}
    for draw, size in itertools.product(range(3), (5, 16, 32)):
        settings = cell_config(tiny(), pool, Cell("a", size, 7, draw)).training
        assert settings.seed == 7
        files = training_files(dataset, settings), validation_files(dataset, settings)
        rows[draw, size] = {
            "rows": set(ids(files[0], "trajectory_id")),
            "potentials": set(ids(files[0], "potential_id")),
            "val": set(ids(files[1], "trajectory_id")),
        }
        assert len(rows[draw, size]["rows"]) == size and len(rows[draw, size]["val"]) == -(-8 * size // 32)
    for draw in range(3):
        for key in ("rows", "val"):
            assert rows[draw, 5][key] < rows[draw, 16][key] < rows[draw, 32][key]
    for one, two in itertools.combinations(range(3), 2):
        assert not any(rows[one, 32][key] & rows[two, 32][key] for key in ("rows", "potentials", "val"))


def test_more_potentials_or_more_orbits_of_each(dataset: Path) -> None:
    """With equally many rows, one orbit of each potential is four times the potentials; what is read is what was asked for."""
    pool = Pool.of(dataset, 2)
    assert [pool.usable(each) for each in (None, 1, 2, 4)] == [48, 12, 24, 48]
    few, many = vary_trajectories([Contestant("a", tiny())], [4, 1])
    assert (few.name, many.name) == ("a-x4", "a-x1")
    potentials, everything = {}, read_split(dataset, "train")
    for contestant in (few, many):
        settings = cell_config(contestant.config, pool, Cell(contestant.name, 12, 0, 1)).training
        files = training_files(dataset, settings)
        numbers = row_numbers(96, ORBITS, 48, 12, settings.trajectories_per_potential)
        assert ids(files, "trajectory_id") == numbers.tolist()
        potentials[contestant.name] = set(ids(files, "potential_id"))
        for name in ("potential", "times", "q", "initial"):
            np.testing.assert_array_equal(getattr(read_rows(files), name), getattr(everything, name)[numbers])
        everywhere = contestant.config.override({"data.train": 96, "data.ensemble": "phase-space", "training.train_start": 48})
        assert rows_of(everywhere) == pool.usable(settings.trajectories_per_potential)
    assert {name: len(found) for name, found in potentials.items()} == {"a-x4": 3, "a-x1": 12}
    for wrong in ([1, 1], [0]):
        with pytest.raises(InputError, match="--trajectories is"):
            vary_trajectories([few], wrong)


@given(size=st.integers(1, 5000), batch=st.sampled_from([8, 32, 100]), steps=st.integers(200, 5000), epochs=st.integers(5, 40))
def test_equal_steps_are_equal_and_validated_as_often(size: int, batch: int, steps: int, epochs: int) -> None:
    base = tiny(scaling__steps=steps, training__epochs=epochs, training__batch_size=batch, training__warmup_epochs=1.0)
    settings = cell_config(base, Pool(5000, 1000, 1), Cell("a", size, 0)).training
    a_pass = -(-size // batch)
    taken = settings.epochs * -(-settings.passes * size // batch)
    assert taken == steps_of(base.override({f"training.{key}": getattr(settings, key) for key in ("epochs", "passes", "train_rows")}))
    assert abs(taken - steps) <= max(a_pass, 0.05 * steps)
    if a_pass <= steps // epochs:  # larger cells are validated after each pass
        assert 0.45 * epochs <= settings.epochs <= 2.2 * epochs
    assert settings.warmup_epochs / settings.epochs == pytest.approx(1 / epochs)


def test_protocols_have_names() -> None:
    assert protocol_of(tiny()) == "equal-epochs" and "10 epochs whatever its size" in protocol_text(tiny())
    assert protocol_of(tiny(scaling__steps=1000)) == "equal-steps" == protocol_of(tiny(scaling__protocol="equal-steps", scaling__steps=9))
    assert "protocol equal-steps: every cell trains 1,000 steps" in protocol_text(tiny(scaling__steps=1000))
    base = tiny(
        scaling__protocol="to-convergence", scaling__steps=4000, scaling__patience=300, training__schedule="constant", training__epochs=40
    )
    settings = cell_config(base, Pool(64, 8, 1), Cell("a", 64, 0)).training
    steps_an_epoch = settings.passes * 64 // 16
    assert settings.patience is not None
    assert settings.epochs * steps_an_epoch == 4000 and settings.patience * steps_an_epoch == pytest.approx(300, abs=steps_an_epoch / 2)
    assert "until 300 steps bring no smaller validation loss, at most 4,000" in protocol_text(base)
    equal_epochs = cell_config(tiny(scaling__protocol="equal-epochs"), Pool(64, 8, 1), Cell("a", 16, 0)).training
    assert (equal_epochs.epochs, equal_epochs.passes) == (10, 1)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"scaling__protocol": "equal-epochs", "scaling__steps": 5}, "scaling.steps is 5, which has no effect here"),
        ({"scaling__steps": 5, "scaling__patience": 5}, "scaling.patience is 5, which has no effect here"),
        ({"scaling__protocol": "equal-flops"}, "equal-flops"),
        ({"training__endless": True, "training__train_start": 4}, "training.train_start is 4, which has no effect here"),
    ],
)
def test_settings_that_do_not_fit_a_protocol_are_refused(overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        tiny(**overrides)


@pytest.mark.parametrize(
    ("grid", "overrides", "words"),
    [
        (Grid([33], 1, 3), {}, "--sizes has 33; each of 3 draws of the dataset has 32 training rows: give sizes from 1 to 32"),
        (
            Grid([20], 1, 2),
            {"training__trajectories_per_potential": 1},
            "--sizes has 20; each of 2 draws of the dataset has 12 training rows with 1 of each potential",
        ),
        (Grid([8], 1), {"training__trajectories_per_potential": 9}, "trajectories_per_potential is 9; potentials of the dataset have 4"),
        (Grid([8], 1), {"scaling__protocol": "to-convergence", "scaling__steps": 9}, "needs training.schedule=constant"),
        (Grid([8], 1), {"scaling__protocol": "equal-steps"}, "scaling.protocol is 'equal-steps'; give scaling.steps"),
        (Grid([8], 0), {}, "--seeds is 0"),
        (Grid([8], 1, 0), {}, "--draws is 0"),
    ],
)
def test_a_grid_that_the_rows_do_not_allow_is_refused(dataset: Path, grid: Grid, overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_grid(grid, [Contestant("a", tiny(**overrides))], Pool.of(dataset, max(1, grid.draws)))


def test_more_draws_than_rows_are_refused(dataset: Path) -> None:
    with pytest.raises(InputError, match="--draws is 7; split 'val' .* has 24 rows, too few to divide"):
        Pool.of(dataset, 7)


def test_runs_of_rows_that_are_not_there_are_refused(dataset: Path, tmp_path: Path) -> None:
    for overrides, words in (
        ({"train_rows": 90, "train_start": 8}, "90 rows of split 'train' from row 8 on were asked for; dataset .* has 88"),
        ({"train_rows": 25, "trajectories_per_potential": 1}, "25 rows of split 'train', 1 of each potential, were asked for; .* has 24"),
        ({"val_start": 24}, "1 rows of split 'val' from row 24 on"),
    ):
        with pytest.raises(InputError, match=words):
            prepare_run(tmp_path / "run", dataset, tiny(**{f"training__{key}": value for key, value in overrides.items()}), resume=False)


def test_potentials_of_two_splits_are_found(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid, contestants, pool = Grid([8, 30], 2, 3), [Contestant("a", tiny())], Pool.of(dataset, 3)
    assert check_leakage(dataset, grid, contestants, pool, "test") == {"train": [8, 8, 8], "val": 6, "test": 2, "shared": 0}
    real = cells_module._potentials
    for share, where in ((8, "training rows of two draws"), (1 << 41, "training rows and split 'test'"), (1 << 40, "validation rows")):
        monkeypatch.setattr(cells_module, "_potentials", lambda files, share=share: {found % share for found in real(files)})
        with pytest.raises(InputError, match=f"potentials are in the .*{where} of dataset"):
            check_leakage(dataset, grid, contestants, pool, "test")


@pytest.mark.parametrize("cell", [Cell("deeponet", 100, 3), Cell("my-net-8", 100, 0, 2), Cell("a-1-2-draw1", 5, 0)])
def test_a_run_folder_names_its_cell(cell: Cell) -> None:
    assert Cell.parse(cell.name) == cell


def test_a_name_of_no_cell_is_none() -> None:
    assert Cell.parse("notes") is None and Cell.parse("deeponet-5") is None
