"""The card of a dataset says what the dataset is, and the folder opens with other people's code alone."""

import json
import re
import shlex

import numpy as np
import pyarrow.dataset
import pytest

from neural_hamilton.physics import InputError
from neural_hamilton.platform.config import load_config, parse_assignments
from neural_hamilton.platform.config.data import DataConfig
from neural_hamilton.platform.data.card import render_card, reproduction_command
from neural_hamilton.platform.data.generation import generate
from neural_hamilton.platform.data.manifest import read_manifest

DEEP = {"name": "phase-space", "depth": (1.0, 2.0)}
CONFIG = DataConfig(ensemble=DEEP, train=40, val=8, sensors=12, times=9, noise=0.02, shard_rows=16)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card") / "dataset"
    generate(folder, CONFIG, local=True)
    return folder


@pytest.fixture(scope="module")
def rows(dataset):
    """Every row of the training split, as pyarrow reads it."""
    return pyarrow.dataset.dataset(dataset / "train", format="parquet").to_table()


@pytest.fixture(scope="module")
def q(rows):
    return rows.column("q").combine_chunks().to_numpy_ndarray()


def test_card_tells_what_the_rows_are(dataset):
    card = (dataset / "README.md").read_text()
    manifest = read_manifest(dataset)
    assert card == render_card(manifest)
    for words in ("48 certified trajectories", "| train | 40 |", "depth uniform in [1.0, 2.0]", "deviation 0.02", manifest["dataset_hash"]):
        assert words in card
    assert "{" not in card and "None" not in card


def test_certificate_histogram_is_that_of_the_rows(dataset):
    table = pyarrow.dataset.dataset([str(path) for path in dataset.glob("*/*.parquet")], format="parquet").to_table()
    certificates = table.column("integration_error").to_numpy()
    histogram = {float(bound): count for bound, count in read_manifest(dataset)["certificates"].items()}
    assert sum(histogram.values()) == 48
    for bound in histogram:
        assert sum(count for other, count in histogram.items() if other <= bound) == (certificates <= bound).sum()
    counts = re.findall(r"^\| (1e-\d+) \| (\d+) \|", (dataset / "README.md").read_text(), flags=re.M)
    assert {float(bound): int(count) for bound, count in counts} == histogram


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        DataConfig(train=1000),
        DataConfig(
            test=3, seed=7, ensemble={"name": "paper", "control_points": (8, 12)}, integrator="dop853", tolerance=1e-8, dtype="float64"
        ),
    ],
)
def test_command_in_the_card_makes_the_same_rows(config):
    words = shlex.split(reproduction_command(config))
    assert words[:3] == ["neural-hamilton", "generate", "DEST"]
    values = {}
    for option, value in zip(words[3::2], words[4::2], strict=True):
        key = {"ensemble": "ensemble.name"}.get(option[2:], option[2:])
        values |= parse_assignments((value if option == "--set" else f"data.{key}={value}",))
    assert load_config(None, values).data == config


def test_every_ensemble_has_a_card():
    manifest = {
        "counts": {"train": 2, "val": 0, "test": 0}, "rejections": {"not_certified": 3}, "certificates": {"1e-10": 2},
        "files": [{"bytes": 10}], "dataset_hash": "abc", "code_version": "0",
    }  # fmt: skip
    shallow = {"name": "paper", "depth": (1, 3)}
    for config in (
        DataConfig(train=2),
        DataConfig(train=2, ensemble=shallow),
        DataConfig(train=2, ensemble="phase-space", dtype="float64"),
    ):
        card = render_card(manifest | {"config": config.model_dump(mode="json"), "system": config.system})
        assert "not_certified 3" in card and "{" not in card


def test_pandas_opens_it(dataset, q):
    import pandas

    frame = pandas.read_parquet(dataset / "train")
    np.testing.assert_array_equal(np.stack(frame["q"].to_list()), q)


def test_polars_opens_it(dataset, q):
    import polars

    frame = polars.read_parquet(dataset / "train" / "*.parquet")
    np.testing.assert_array_equal(np.stack(frame["q"].to_list()), q)


def test_duckdb_opens_it(dataset, q):
    import duckdb

    answer = duckdb.sql(f"SELECT q[9] FROM '{dataset}/train/*.parquet' ORDER BY trajectory_id").fetchall()
    np.testing.assert_array_equal(np.array(answer, dtype=np.float32)[:, 0], q[:, 8])


def test_datasets_opens_it_with_its_splits(dataset, q, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    opened = datasets.load_dataset(str(dataset), cache_dir=str(tmp_path))
    assert {split: len(rows) for split, rows in opened.items()} == {"train": 40, "val": 8}
    np.testing.assert_array_equal(np.array(opened["train"].with_format("numpy")["q"][:]), q)


def test_rows_of_other_draws_are_not_completed(dataset, tmp_path):
    """A manifest of a version whose seeds give other rows must not be mixed with new ones."""
    manifest = read_manifest(dataset)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"rows_version": 1}))
    with pytest.raises(InputError, match="rows_version 1"):
        generate(tmp_path, CONFIG, local=True)
