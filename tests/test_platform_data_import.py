"""Trajectories made elsewhere: every format, what is refused, and that all commands accept the dataset."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import neural_hamilton as nh
from neural_hamilton.physics import InputError
from neural_hamilton.physics.systems import SPLITS, Imported
from neural_hamilton.platform.cli import main
from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.data.datasets import read_split
from neural_hamilton.platform.data.generation import generate
from neural_hamilton.platform.data.imported_rows import ImportOptions
from neural_hamilton.platform.data.importing import import_dataset
from neural_hamilton.platform.data.inspection import inspect_dataset
from neural_hamilton.platform.data.manifest import read_manifest
from neural_hamilton.platform.data.schema import tensor_column
from neural_hamilton.platform.data.shards import make_rows

NUM_ROWS, SENSORS, TIMES = 60, 30, 12
Rows = dict[str, np.ndarray]


def draw(system: str = "well", ensemble: str = "phase-space", sensors: int = SENSORS, count: int = NUM_ROWS) -> Rows:
    """Trajectories as somebody else would have them: arrays, in double precision, without any of the project's own columns."""
    sizes = {"data.system": system, "data.ensemble.name": ensemble, "data.sensors": sensors, "data.times": TIMES}
    config = load_config(None, sizes | {"data.train": count, "data.dtype": "float64"}).data
    table, _ = make_rows(config, "train", np.arange(count))
    rows = {name: tensor_column(table, name) for name in (*config.get_system().fields, "times", "q", "p")}
    return rows | {name: np.array(table.column(name).to_pylist()) for name in ("q0", "p0")}


@pytest.fixture(scope="module")
def rows() -> Rows:
    return draw()


@pytest.fixture
def save(tmp_path: Path) -> Any:
    """Write rows in a format; returns the path."""

    def write(rows: Rows, suffix: str = ".npz", **changes: Any) -> Path:
        rows = {name: value for name, value in (rows | changes).items() if value is not None}
        path = tmp_path / f"source{suffix}"
        WRITERS[suffix](path, rows)
        return path

    return write


def write_csv(path: Path, rows: Rows) -> None:
    columns: dict[str, Any] = {}
    for name, values in rows.items():
        flat = np.reshape(values, (len(values), -1)) if np.ndim(values) > 1 else None
        columns |= {name: values} if flat is None else {f"{name}_{k}": column for k, column in enumerate(flat.T)}
    pa.csv.write_csv(pa.table(columns), path)


def write_parquet(path: Path, rows: Rows) -> None:
    columns = {}
    for name, values in rows.items():
        columns[name] = pa.FixedShapeTensorArray.from_numpy_ndarray(values) if name == "q" else pa.array(np.asarray(values).tolist())
    pq.write_table(pa.table(columns), path, row_group_size=7)


def write_hdf5(path: Path, rows: Rows) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, values in rows.items():
            file[name] = [str(value) for value in values] if np.asarray(values).dtype.kind in "OU" else values


WRITERS: dict[str, Any] = {
    ".npz": lambda path, rows: np.savez_compressed(path, **rows),
    ".csv": write_csv,
    ".parquet": write_parquet,
    ".h5": write_hdf5,
}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shards(folder: Path) -> dict[str, pa.Table]:
    """The rows by file, without the metadata, which names the source."""
    return {
        path.relative_to(folder).as_posix(): pq.read_table(path).replace_schema_metadata() for path in sorted(folder.rglob("*.parquet"))
    }


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_gives_the_same_rows(rows, save, tmp_path, suffix):
    manifest = import_dataset(save(rows, suffix), tmp_path / "dataset")
    import_dataset(save(rows, ".npz"), tmp_path / "from-npz")
    assert {file: table.to_pydict() for file, table in shards(tmp_path / "dataset").items()} == {
        file: table.to_pydict() for file, table in shards(tmp_path / "from-npz").items()
    }
    assert sum(manifest["counts"].values()) == NUM_ROWS and manifest["counts"]["test"] == manifest["counts"]["val"] == 8  # two potentials
    for split in SPLITS:
        read = read_split(tmp_path / "dataset", split)
        for row, number in enumerate(read.trajectory_id):
            for name, values in (("potential", read.potential), ("times", read.times), ("q", read.q), ("p", read.p)):
                np.testing.assert_array_equal(values[row], rows[name][number].astype(np.float32))
            np.testing.assert_array_equal(read.initial[row], [rows["q0"][number], rows["p0"][number]])
        assert np.isnan(read.integration_error).all() and read.own == {}
        np.testing.assert_allclose(read.hamiltonians.sense((SENSORS,))["potential"], read.potential, atol=1e-6)


def test_no_potential_is_in_two_splits_and_rows_are_shuffled_by_seed(rows, save, tmp_path):
    source = save(rows)
    orders = {}
    for seed in (0, 0, 1):
        folder = tmp_path / f"dataset-{len(orders)}-{seed}"
        import_dataset(source, folder, ImportOptions(seed=seed, val=0.25, test=0.25))
        splits = {split: read_split(folder, split) for split in SPLITS}
        owners = {split: {values.tobytes() for values in read.potential} for split, read in splits.items()}
        assert not owners["train"] & owners["val"] and not owners["train"] & owners["test"] and not owners["val"] & owners["test"]
        assert abs(len(splits["test"]) - NUM_ROWS / 4) <= 4 and abs(len(splits["val"]) - NUM_ROWS / 4) <= 4
        orders[folder] = splits["train"].trajectory_id.tolist()
        for read in splits.values():  # the rows of a potential follow each other
            potentials = [values.tobytes() for values in read.potential]
            assert len(set(potentials)) == 1 + sum(a != b for a, b in itertools.pairwise(potentials))
    first, again, other = orders
    assert orders[first] == orders[again] != orders[other] and orders[first] != sorted(orders[first])
    assert contents(first) == contents(again)


def test_splits_and_potentials_by_column(rows, save, tmp_path):
    groups = np.array([f"potential {k // 4}" for k in range(NUM_ROWS)], dtype=object)
    labels = np.array([("train", "validation", "test")[min(k // 4, 2) if k < 12 else 0] for k in range(NUM_ROWS)], dtype=object)
    noisy = rows["potential"] + np.random.default_rng(0).normal(0.0, 0.01, rows["potential"].shape)  # every row reads others
    columns = {"potential": "V", "potential_id": "group", "split": "set"}
    for suffix in (".csv", ".parquet"):
        source = save(rows, suffix, potential=None, V=noisy, group=groups, set=labels)
        manifest = import_dataset(source, tmp_path / suffix, ImportOptions(columns=columns, noise=0.01))
        assert manifest["counts"] == {"train": NUM_ROWS - 8, "val": 4, "test": 4} and manifest["config"]["noise"] == 0.01
        assert read_split(tmp_path / suffix, "val").trajectory_id.tolist() == [4, 5, 6, 7]
        table = pq.read_table(next((tmp_path / suffix / "test").iterdir()))
        assert table.column("potential_id").to_pylist() == [8] * 4
    labels[1] = "test"
    with pytest.raises(InputError, match=r"rows 0 and 1 have the same potential but are in splits 'train' and 'test'; put all"):
        import_dataset(
            save(rows, ".csv", group=groups, set=labels), tmp_path / "x", ImportOptions(columns={"potential_id": "group", "split": "set"})
        )
    labels[1] = "holdout"
    with pytest.raises(InputError, match=r"set\[1\] is 'holdout'; choose one of train, val, test"):
        import_dataset(save(rows, ".csv", set=labels), tmp_path / "x", ImportOptions(columns={"split": "set"}))


def test_times_shared_by_all_rows_or_up_to_a_time_and_initial_states_from_the_first(save, tmp_path):
    rows = draw(ensemble="paper")
    times = np.linspace(0.0, 2.0, TIMES)
    assert np.allclose(rows["times"], times)
    shared = save(rows, times=times, q0=None, p0=None)
    import_dataset(shared, tmp_path / "shared")
    uniform = save(rows, times=None, q0=None, p0=None)
    import_dataset(uniform, tmp_path / "uniform", ImportOptions(until=2.0))
    for split in SPLITS:
        one, other = (read_split(tmp_path / name, split) for name in ("shared", "uniform"))
        np.testing.assert_array_equal(one.times, other.times)
        np.testing.assert_array_equal(one.initial, np.zeros((len(one), 2)))
        assert isinstance(one.ensemble, Imported) and one.ensemble.fixed_initial_state == ((0.0,), (0.0,))


def test_two_degrees_of_freedom(save, tmp_path):
    rows = draw("surface", "three-waves", sensors=8, count=20)
    options = ImportOptions(system="surface", dtype="float64")
    import_dataset(save(rows), tmp_path / "grid", options)
    flat = {name: values.reshape(len(values), -1) for name, values in rows.items()}
    for suffix in (".csv", ".parquet"):
        import_dataset(save(flat, suffix), tmp_path / suffix, options)
        for split in SPLITS:
            one, other = read_split(tmp_path / "grid", split), read_split(tmp_path / suffix, split)
            np.testing.assert_array_equal(one.potential, other.potential)
            np.testing.assert_array_equal(one.q, other.q)
    assert one.potential.shape[1:] == (1, 8, 8) and one.q.shape[1:] == (TIMES, 2) and one.q.dtype == np.float64
    assert inspect_dataset(tmp_path / "grid", recheck=3)["problems"] == []


def broken(rows: Rows, name: str, row: int, *place: int, value: float) -> Rows:
    values = rows[name].copy()
    values[(row, *place)] = value
    return rows | {name: values}


REFUSALS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "a missing column": (lambda r: r | {"potential": None, "V": r["potential"]}, {}, r"no column 'potential'; .*V \(float64 \[60, 30\]\)"),
    "a column that is not there": (lambda r: r, {"columns": {"q": "x"}}, r"no column 'x'; .*--column q=NAME"),
    "an unknown role": (lambda r: r, {"columns": {"depth": "x"}}, "--column has 'depth' before .*; choose one of potential, q, p"),
    "nan": (lambda r: broken(r, "p", 17, 3, value=np.nan), {}, r"p\[17\]\[3\] is nan; all numbers must be finite"),
    "infinity in V": (lambda r: broken(r, "potential", 2, 5, value=np.inf), {}, r"potential\[2\]\[5\] is inf"),
    "walls of another height": (lambda r: broken(r, "potential", 9, 0, value=3.0), {}, r"potential\[9\] is 3 at q = 0 .*V = 2 at both"),
    "no well": (lambda r: r | {"potential": np.full_like(r["potential"], 2.0)}, {}, r"potential\[0\] is flat"),
    "times too long": (lambda r: r | {"times": 2 * r["times"]}, {}, r"times\[0\] has the time .* from 0 to 2: cut"),
    "times out of order": (lambda r: r | {"times": r["times"][:, ::-1]}, {}, r"times\[0\] is not in ascending order; sort"),
    "q of another length": (lambda r: r | {"q": r["q"][:, :-1]}, {}, r"column 'q' has the shape 11 a row; there are 12 query times"),
    "rows of another number": (lambda r: r | {"q": r["q"][:-1]}, {}, r"59 of q.*; every column needs as many rows"),
    "outside the domain": (lambda r: broken(r, "q", 30, 4, value=1.5), {}, r"q\[30\] reaches 1\.5; the domain .* from 0 to 1"),
    "another start": (lambda r: r | {"times": np.linspace(0, 2, TIMES), "q0": r["q0"] * 0 + 0.9}, {}, r"q\[\d+\] begins .* from q0 at"),
    "no start": (lambda r: r | {"q0": None, "p0": None, "times": r["times"] / 2 + 0.5}, {}, r"times\[0\] begins at 0\.\d+; give"),
    "half a start": (lambda r: r | {"p0": None}, {}, "column 'q0' holds q0, and there is none for p0; name it with --column p0=NAME"),
    "no times": (lambda r: r | {"times": None}, {}, "no column 'times'"),
    "times twice": (lambda r: r, {"until": 2.0}, "--until is 2, and column 'times' holds the times"),
    "few potentials": (lambda r: {name: values[:4] for name, values in r.items()}, {}, "there are 1 different potentials, too few"),
    "fractions": (lambda r: r, {"val": 0.7, "test": 0.4}, "--val and --test are 0.7 and 0.4; give fractions"),
    "few sensors": (lambda r: r | {"potential": r["potential"][:, [0, 15, -1]]}, {}, "'potential' has 3 sensors; give at least 4"),
    "text": (lambda r: r | {"q": r["q"].astype(str)}, {}, "column 'q' has the type <U.*; give numbers"),
    "another system": (lambda r: r, {"system": "surface"}, "column 'potential' has 30 values a row, no square grid"),
    "no such system": (lambda r: r, {"system": "billiards"}, "--system is 'billiards'; choose one of"),
    "no rows": (lambda r: {name: values[:0] for name, values in r.items()}, {}, "has no rows"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_no_trajectory_is_refused_before_anything_is_written(rows, save, tmp_path, case):
    change, options, message = REFUSALS[case]
    with pytest.raises(InputError, match=message):
        import_dataset(save(change(rows)), tmp_path / "dataset", ImportOptions(**options))
    assert not (tmp_path / "dataset").exists()


def test_ragged_and_incomplete_tables_are_refused(rows, save, tmp_path):
    lists = {name: values.tolist() for name, values in rows.items()}
    for name, change, message in (
        ("q", lambda row: row[:-1], r"q\[5\] has 11 values, and the row before it 12; give all as many"),
        ("q", lambda row: [*row[:-1], None], r"q\[5\] is missing; give every row its numbers"),
        ("q0", lambda _: None, r"q0\[5\] is missing"),
        ("p", lambda _: None, r"p\[5\] is missing"),
    ):
        changed = lists | {name: [change(row) if k == 5 else row for k, row in enumerate(lists[name])]}
        pq.write_table(pa.table(changed), tmp_path / "source.parquet")
        with pytest.raises(InputError, match=message):
            import_dataset(tmp_path / "source.parquet", tmp_path / "dataset")
    source = save(rows, ".csv")
    lines = source.read_text().splitlines()
    for line, message in (
        ("1,2", "cannot be read"),
        (lines[9].replace(lines[9].split(",")[3], "x", 1), "cannot be read"),
        (lines[9].replace(lines[9].split(",")[3], "", 1), "is missing"),
    ):
        source.write_text("\n".join([*lines[:9], line, *lines[10:]]))
        with pytest.raises(InputError, match=message):
            import_dataset(source, tmp_path / "dataset")


def test_sources_that_cannot_be_read(rows, save, tmp_path, monkeypatch):
    for suffix in WRITERS:
        source = tmp_path / f"broken{suffix}"
        source.write_bytes(b"\x00not a table")
        if suffix == ".h5":
            pytest.importorskip("h5py")
        with pytest.raises(InputError, match=r"cannot be read|no column"):
            import_dataset(source, tmp_path / "dataset")
    with pytest.raises(InputError, match=r"source is '.*rows\.xlsx'; its suffix must be one of \.npz, \.csv"):
        import_dataset(tmp_path / "rows.xlsx", tmp_path / "dataset")
    with pytest.raises(InputError, match="does not exist"):
        import_dataset(tmp_path / "nothing.npz", tmp_path / "dataset")
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, **{name: np.array(values, dtype=object) for name, values in rows.items()})
    with pytest.raises(InputError, match="no column 'potential'; it has none"):
        import_dataset(pickled, tmp_path / "dataset")
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "rows.h5").touch()
    with pytest.raises(InputError, match=r"needs h5py; run `pip install 'neural-hamilton\[hdf5\]'`"):
        import_dataset(tmp_path / "rows.h5", tmp_path / "dataset")


class TestFolders:
    @pytest.fixture
    def dataset(self, rows, save, tmp_path) -> tuple[Path, Path]:
        source, folder = save(rows), tmp_path / "dataset"
        import_dataset(source, folder)
        return source, folder

    def test_a_second_import_changes_nothing_and_damage_is_repaired_to_the_same_bytes(self, dataset):
        source, folder = dataset
        before = contents(folder)
        moments = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        import_dataset(source, folder)
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == moments
        victim = next((folder / "train").iterdir())
        for damage in (victim.unlink, lambda: victim.write_bytes(victim.read_bytes()[:-50]), (folder / "manifest.json").unlink):
            damage()
            if not victim.exists():
                with pytest.raises(InputError, match="is missing; run import again"):
                    read_split(folder, "train")
            import_dataset(source, folder)
            assert contents(folder) == before
        assert not [path for path in folder.rglob(".*")]

    def test_generate_never_replaces_imported_rows(self, dataset, capsys):
        _, folder = dataset
        before = contents(folder)
        for damage in (lambda: None, (folder / "manifest.json").unlink, next((folder / "train").iterdir()).unlink):
            damage()
            kept = contents(folder)
            assert (
                main(["generate", str(folder), "--train", "44", "--val", "8", "--test", "8", "--ensemble", "phase-space", "--local"]) == 2
            )
            assert "holds" in capsys.readouterr().err
            assert contents(folder) == kept
        assert kept.keys() < before.keys()
        assert main(["generate", str(folder) + "-2", "--train", "4", "--ensemble", "imported", "--local"]) == 2
        assert "rows were made elsewhere; choose an ensemble" in capsys.readouterr().err

    def test_import_never_replaces_anything_else(self, dataset, rows, save, tmp_path):
        source, folder = dataset
        before = contents(folder)
        with pytest.raises(InputError, match="already holds a dataset with"):
            import_dataset(source, folder, ImportOptions(seed=1))
        other = save(rows | {"q": rows["q"] * 0.999999})
        with pytest.raises(InputError, match="already holds a dataset with"):
            import_dataset(other, folder)
        assert contents(folder) == before
        notes = tmp_path / "notes"
        notes.mkdir()
        (notes / "thesis.tex").write_text("x")
        with pytest.raises(InputError, match=r"thesis\.tex"):
            import_dataset(other, notes)
        assert os.listdir(notes) == ["thesis.tex"]

    @pytest.mark.parametrize("with_manifest", [True, False])
    def test_generate_leaves_rows_of_a_user_alone_that_took_the_place_of_its_own(self, tmp_path, with_manifest):
        config = load_config(None, {"data.train": 8, "data.val": 4, "data.sensors": 20, "data.times": 10}).data
        generate(tmp_path / "data", config, local=True)
        victim = next((tmp_path / "data/train").iterdir())
        table = pq.read_table(victim)
        mine = table.slice(0, 5) if with_manifest else table.replace_schema_metadata()
        pq.write_table(mine, victim)
        if not with_manifest:
            (tmp_path / "data/manifest.json").unlink()
        content = victim.read_bytes()
        with pytest.raises(InputError, match=r"rows that generate did not write; move the file away.*neural-hamilton import"):
            generate(tmp_path / "data", config, local=True)
        assert victim.read_bytes() == content
        victim.unlink()
        generate(tmp_path / "data", config, local=True)
        assert pq.read_table(victim).num_rows == 8


def test_inspect_reports_differences_and_that_there_is_no_certificate(rows, save, tmp_path, capsys):
    import_dataset(save(rows), tmp_path / "good", ImportOptions(dtype="float64"))
    wrong = rows["p"].copy()
    wrong[:, 5] += 0.5
    import_dataset(save(rows | {"p": wrong}), tmp_path / "wrong")
    good, bad = (inspect_dataset(tmp_path / name, recheck=12) for name in ("good", "wrong"))
    for report in (good, bad):
        assert report["problems"] == [] and report["integration_error"] is None and report["recheck"]["rows"] == 12
        assert "imported rows carry no certificate" in report["recheck"]["compared_with"]
    assert good["recheck"]["difference"]["median"] < 2e-3 < 0.3 < bad["recheck"]["difference"]["median"]
    assert good["energy_drift"]["median"] < 1e-3 < 0.01 < bad["energy_drift"]["median"]
    assert main(["inspect", str(tmp_path / "good"), "--json"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed.splitlines()[-1])["imported"]["source"] == "source.npz"
    next((tmp_path / "good/test").iterdir()).unlink()
    assert main(["inspect", str(tmp_path / "good")]) == 2
    assert "run import again to repair it" in capsys.readouterr().err


def test_the_card_and_the_manifest_name_the_source(rows, save, tmp_path):
    manifest = import_dataset(save(rows), tmp_path / "data")
    assert read_manifest(tmp_path / "data")["imported"] == manifest["imported"]
    card = (tmp_path / "data/README.md").read_text()
    assert "60 imported trajectories" in card and "No row carries a certificate" in card and manifest["imported"]["sha256"] in card
    assert "certified" not in card.replace("No row carries a certificate", "") and "control_q" not in card


def test_memory_does_not_grow_with_the_source(tmp_path):
    """Columns of 240 MB in a compressed file, of which the process holds 256 rows and a shard of 5,000."""
    count, size = 20_000, 500
    sensors = 8 * (np.linspace(0.0, 1.0, size) - 0.5) ** 2
    schema = pa.schema(
        [
            ("potential", pa.list_(pa.float64(), size)),
            ("q", pa.list_(pa.float64(), size)),
            ("p", pa.list_(pa.float64(), size)),
            ("id", pa.int64()),
        ]
    )
    with pq.ParquetWriter(tmp_path / "large.parquet", schema, compression="zstd") as writer:
        for start in range(0, count, 2000):
            columns = [
                pa.FixedSizeListArray.from_arrays(pa.array(np.tile(row, 2000)), size)
                for row in (sensors, np.full(size, 0.5), np.zeros(size))
            ]
            writer.write_table(pa.Table.from_arrays([*columns, pa.array(np.arange(start, start + 2000))], schema=schema))
    code = f"""
import resource
from pathlib import Path
from neural_hamilton.platform.data.importing import import_dataset
from neural_hamilton.platform.data.imported_rows import ImportOptions
options = ImportOptions(until=2.0, columns={{"potential_id": "id"}})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
manifest = import_dataset(Path({str(tmp_path / "large.parquet")!r}), Path({str(tmp_path / "data")!r}), options)
print(manifest["counts"]["train"], (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    rows, grown = map(int, done.stdout.split())
    assert rows == 16_000 and grown < 200  # MiB


def test_every_command_accepts_the_dataset(rows, save, tmp_path, capsys):
    data, run = str(tmp_path / "data"), str(tmp_path / "run")
    quick = ["--set", "evaluation.study_rows=4", "--set", "evaluation.bootstrap=50"]
    commands = [
        ["import", str(save(rows | {"potential": None, "V": rows["potential"]}, ".csv")), data, "--column", "potential=V", "--json"],
        ["inspect", data, "--recheck", "3"],
        ["train", data, "--arch", "deeponet", "--out", run, "--set", "training.epochs=1", "--set", "architecture.width=16", "--local"],
        ["evaluate", f"{run}/model", "--dataset", data, "--out", f"{run}/report", "--record", *quick],
        ["compare", f"{run}/model", f"{run}/model", "--dataset", data, "--out", f"{run}/compare", *quick],
        ["scale", data, "--arch", "deeponet", "--sizes", "16,32", "--seeds", "1", "--out", f"{run}/scale", "--local",
         "--set", "training.epochs=1", *quick],
    ]  # fmt: skip
    for command in commands:
        assert main(command) == 0, capsys.readouterr().err
    result = json.loads((tmp_path / "run/report/evaluation.json").read_text())
    assert result["truth_floor"] < 1e-12 and any("carry no certificate" in warning for warning in result["warnings"])
    assert result["not_measured"]["dop853-oracle"] == "it integrates exact Hamiltonians, which imported rows do not have"
    assert "dop853-cubic" in result["baselines"] and result["sensors"]["not_measured"].startswith("the rows were imported")
    card = (tmp_path / "run/model/README.md").read_text()
    assert "trained on 44 imported trajectories" in card and f"neural-hamilton import SOURCE {data}" in card
    assert "carry no certificate" in (tmp_path / "run/report/report.html").read_text()
    model = nh.load(tmp_path / "run/model")
    assert model.trained_for.ensemble["name"] == "imported" and model.trained_for.initial_state is None
    assert model(rows["potential"][0], 0.5, 0.1).q.shape == (100,)
    assert main(["train", data, "--out", f"{run}-2", "--set", "training.endless=true", "--local"]) == 2
    assert "rows that were imported cannot be drawn" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--column", "potential"], "--column is 'potential'; give NAME=COLUMN"),
        (["--column", "split=set", "--val", "0.2"], "--val and --test divide the rows, and column 'set' holds their splits"),
        (["--test", "1.5"], "--val and --test are 0.1 and 1.5"),
    ],
)
def test_the_command_names_its_options(rows, save, tmp_path, capsys, arguments, message):
    assert main(["import", str(save(rows)), str(tmp_path / "data"), *arguments]) == 2
    assert message in capsys.readouterr().err
