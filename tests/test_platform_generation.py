"""Datasets: contract, purity, completion, repair, and real Ray Data tasks."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from neural_hamilton.physics import InputError
from neural_hamilton.physics.errors import StorageUnavailable
from neural_hamilton.physics.systems import draw_rows
from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.data.datasets import read_split
from neural_hamilton.platform.data.generation import generate
from neural_hamilton.platform.data.inspection import inspect_dataset
from neural_hamilton.platform.data.manifest import read_manifest
from neural_hamilton.platform.data.shards import make_rows, plan_shards, write_shard
from neural_hamilton.platform.provenance import hash_file


def data_config(**fields):
    return load_config(None, {f"data.{key}": value for key, value in fields.items()}).data


SMALL = {"train": 12, "val": 4, "test": 5, "sensors": 20, "times": 15, "shard_rows": 5}


def file_bytes(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def dataset(ray_session, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generation") / "dataset"
    generate(folder, data_config(**SMALL))
    return folder


@pytest.fixture
def damaged(dataset, tmp_path):
    return shutil.copytree(dataset, tmp_path / "copy")


def test_folder_follows_the_contract(dataset):
    manifest = read_manifest(dataset)
    assert (manifest["schema_version"], manifest["system"]) == (2, "well")
    assert manifest["counts"] == {"train": 12, "val": 4, "test": 5}
    assert [line["file"] for line in manifest["files"]][:3] == [f"train/part-0000{i}-of-00003.parquet" for i in range(3)]
    table = pyarrow.dataset.dataset(dataset / "train", format="parquet").to_table()
    assert str(table.schema.field("q").type) == "extension<arrow.fixed_shape_tensor[value_type=float, shape=[15]]>"
    assert str(table.schema.field("potential").type) == "extension<arrow.fixed_shape_tensor[value_type=float, shape=[20]]>"
    assert table.column("integration_error").to_numpy().max() <= 1e-9
    assert pq.ParquetFile(dataset / "train/part-00000-of-00003.parquet").metadata.row_group(0).column(0).compression == "ZSTD"


def test_ids_are_unique_and_no_potential_is_in_two_splits(dataset):
    tables = {split: pyarrow.dataset.dataset(dataset / split, format="parquet").to_table() for split in ("train", "val", "test")}
    trajectories = np.concatenate([table.column("trajectory_id").to_numpy() for table in tables.values()])
    assert len(set(trajectories)) == 21
    potentials = [set(table.column("potential_id").to_numpy()) for table in tables.values()]
    assert not potentials[0] & potentials[1] and not potentials[0] & potentials[2] and not potentials[1] & potentials[2]
    controls = [{tuple(row) for row in table.column("control_v").to_pylist()} for table in tables.values()]
    assert not controls[0] & controls[1] and not controls[0] & controls[2] and not controls[1] & controls[2]


@pytest.mark.parametrize("ensemble", ["paper", "phase-space"])
def test_rows_do_not_depend_on_how_they_are_cut(ensemble):
    config = data_config(ensemble=ensemble, **SMALL, noise=0.01)
    whole, _ = make_rows(config, "train", np.arange(9))
    for start, stop in ((0, 3), (3, 4), (4, 9)):
        part, _ = make_rows(config, "train", np.arange(start, stop))
        assert part.equals(whole.slice(start, stop - start))


@pytest.mark.parametrize("how", [{"workers": 1}, {"workers": 2}, {"workers": 4}, {"local": True}], ids=str)
def test_the_bytes_do_not_depend_on_who_makes_them(dataset, tmp_path, how):
    generate(tmp_path, data_config(**SMALL), **how)
    assert file_bytes(tmp_path) == file_bytes(dataset)


def test_the_bytes_do_not_depend_on_the_order_of_shards(dataset, tmp_path):
    config = data_config(**SMALL)
    for shard in reversed(plan_shards(config)):
        write_shard(config, tmp_path, shard)
        assert (tmp_path / shard.file).read_bytes() == (dataset / shard.file).read_bytes()


def test_first_rows_of_a_larger_dataset_are_the_smaller_one():
    small, large = data_config(**SMALL), data_config(**{**SMALL, "train": 400, "test": 0})
    assert make_rows(small, "train", np.arange(5))[0].equals(make_rows(large, "train", np.arange(5))[0])


def test_noise_moves_the_sensors_and_leaves_the_truth():
    clean, noisy = (make_rows(data_config(**SMALL, noise=noise), "train", np.arange(4))[0] for noise in (0.0, 0.1))
    assert noisy.column("q").equals(clean.column("q"))
    difference = noisy.column("potential").chunk(0).to_numpy_ndarray() - clean.column("potential").chunk(0).to_numpy_ndarray()
    assert 0.05 < difference.std() < 0.2


def test_phase_space_gives_four_orbits_to_a_potential_and_keeps_them_inside():
    table, _ = make_rows(data_config(ensemble="phase-space", **SMALL), "train", np.arange(12))
    assert table.column("potential_id").to_pylist() == [0] * 4 + [1] * 4 + [2] * 4
    assert table.column("stratum").to_pylist() == [0, 1, 2, 3] * 3
    q = table.column("q").chunk(0).to_numpy_ndarray()
    assert q.min() >= 0 and q.max() <= 1 and table.column("energy").to_numpy().max() < 2


def test_second_run_changes_nothing(dataset):
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    generate(dataset, data_config(**SMALL))
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == before


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "no manifest", "no manifest and truncated"])
def test_damage_is_found_named_and_repaired_to_the_same_bytes(dataset, damaged, damage):
    victim = damaged / "train/part-00001-of-00003.parquet"
    content = victim.read_bytes()
    if damage == "missing":
        victim.unlink()
    elif damage == "flipped":
        victim.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    elif "truncated" in damage:
        victim.write_bytes(content[:-100])
    if "no manifest" in damage:
        (damaged / "manifest.json").unlink()
        with pytest.raises(InputError, match=r"manifest\.json"):
            inspect_dataset(damaged)
    else:
        problems = inspect_dataset(damaged)["problems"]
        assert len(problems) == 1 and "part-00001-of-00003" in problems[0]
    if damage in ("missing", "truncated"):
        with pytest.raises(InputError, match="part-00001-of-00003"):
            read_split(damaged, "train")
    generate(damaged, data_config(**SMALL))
    assert file_bytes(damaged) == file_bytes(dataset)


def test_inspect_checks_rows_with_an_independent_solver(dataset):
    report = inspect_dataset(dataset, recheck=6)
    assert report["problems"] == [] and report["recheck"]["rows"] == 6
    assert report["recheck"]["largest_difference"] < 1e-6


def test_inspect_catches_a_row_whose_truth_is_wrong(dataset, damaged):
    """A forged file with a forged checksum: only re-integration can tell."""
    manifest = read_manifest(damaged)
    line = manifest["files"][0]
    table = pq.read_table(damaged / line["file"])
    forged = table.set_column(table.schema.get_field_index("p"), table.schema.field("p"), table.column("q"))
    pq.write_table(forged, damaged / line["file"])
    line["sha256"] = hash_file(damaged / line["file"])
    (damaged / "manifest.json").write_text(json.dumps(manifest))
    problems = inspect_dataset(damaged, recheck=21)["problems"]
    assert len(problems) == line["rows"] and "re-integration differs" in problems[0]


def test_another_dataset_in_the_same_folder_is_refused(dataset):
    with pytest.raises(InputError, match="seed 0 .asked for 1"):
        generate(dataset, data_config(**SMALL, seed=1))


def test_half_a_dataset_of_another_configuration_is_refused(damaged):
    (damaged / "manifest.json").unlink()
    with pytest.raises(InputError, match="another configuration"):
        generate(damaged, data_config(**SMALL, seed=1))


def test_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        generate(tmp_path, data_config(**SMALL))
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_file_in_the_place_of_a_split_is_refused_and_completes_once_moved(ray_session, tmp_path):
    (tmp_path / "val").write_text("notes")
    with pytest.raises(InputError, match="'val'"):
        generate(tmp_path, data_config(**SMALL))
    os.rename(tmp_path / "val", tmp_path.parent / "notes")
    generate(tmp_path, data_config(**SMALL))
    assert inspect_dataset(tmp_path)["problems"] == []


def test_full_disk_is_one_sentence_and_loses_nothing(ray_session, tmp_path):
    """A real file system of 64 KiB, filled by a real generation."""
    mount = tmp_path / "small"
    mount.mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=64k tmpfs {mount} 2>/dev/null") != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        config = data_config(**{**SMALL, "train": 60, "times": 100, "sensors": 100})
        with pytest.raises(StorageUnavailable, match="No space left on device"):
            generate(mount / "dataset", config)
        # Ray may kill a task that was still writing when another found the disk full; what it leaves goes with the next run.
        assert len(list(mount.rglob("*.partial"))) <= 2
        os.system(f"mount -o remount,size=8m {mount}")
        generate(mount / "dataset", config)
        assert inspect_dataset(mount / "dataset")["problems"] == []
        assert not list(mount.rglob("*.partial"))
    finally:
        os.system(f"umount -l {mount}")  # lazily: a Ray worker may still hold a file


def test_uncertifiable_rows_are_counted_then_refused():
    config = data_config(**SMALL)
    with pytest.raises(InputError, match="not_certified"):
        draw_rows(config.get_system(), config.distribution, 0, "train", np.arange(1), tolerance=1e-30)


@pytest.mark.parametrize(("split", "rows", "words"), [("train", 13, "has 12"), ("exam", None, "train, val, test")])
def test_reading_what_is_not_there_is_refused(dataset, split, rows, words):
    with pytest.raises(InputError, match=words):
        read_split(dataset, split, rows)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"files": None}, r"written by version .*has no 'files'"),
        ({"config": None}, r"written by version .*has no 'config'"),
        ({"files": [{"file": "a"}]}, "does not list the files"),
        ({"counts": {"train": 3}}, "does not count the rows"),
        ({"config": {"noise": "much"}}, r"config\.noise"),
        ({"config": {"nose": 0.1}}, r"config\.nose"),
        ({"config": 3}, "how the dataset was drawn"),
        ({"config": {"system": "tides"}}, "tides"),
    ],
)
def test_a_manifest_that_says_too_little_is_refused(damaged, damage, said):
    manifest = json.loads((damaged / "manifest.json").read_text()) | damage
    (damaged / "manifest.json").write_text(json.dumps({key: value for key, value in manifest.items() if value is not None}))
    with pytest.raises(InputError, match=rf"manifest\.json.*{said}"):
        read_manifest(damaged)


@pytest.mark.parametrize("field", ["system", "seed", "counts", "rejections", "certificates", "dataset_hash", "code_version"])
@pytest.mark.parametrize("schema", [1, 2])
def test_a_manifest_without_a_field_that_its_version_did_not_write_is_completed(damaged, tmp_path, schema, field):
    folder = damaged if schema == 2 else shutil.copytree(SCHEMA_1, tmp_path / "schema-1")
    whole = read_manifest(folder)
    manifest = {key: value for key, value in json.loads((folder / "manifest.json").read_text()).items() if key != field}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert read_manifest(folder) == ({key: value for key, value in whole.items() if key != field or field not in ("seed", "code_version")})
    assert len(read_split(folder, "train")) == whole["counts"]["train"]
    assert inspect_dataset(folder)["problems"] == []


def test_manifest_of_another_schema_version_is_refused(damaged):
    manifest = json.loads((damaged / "manifest.json").read_text()) | {"schema_version": 99}
    (damaged / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="schema_version 99"):
        read_manifest(damaged)


SCHEMA_1 = Path(__file__).parent / "data" / "schema-1"


def test_a_dataset_of_schema_1_is_read_inspected_and_recognised(tmp_path):
    """Written by version 0.1. The rows that this version draws are the same, so its files are kept and the manifest renewed."""
    folder = shutil.copytree(SCHEMA_1, tmp_path / "dataset")
    files = {name: content for name, content in file_bytes(folder).items() if name.endswith(".parquet")}
    assert inspect_dataset(folder, recheck=6)["problems"] == []
    assert len(read_split(folder, "train")) == 4
    config = data_config(ensemble="phase-space", train=4, val=2, sensors=8, times=6, noise=0.01)
    manifest = generate(folder, config, local=True)
    earlier = json.loads((SCHEMA_1 / "manifest.json").read_text())
    assert (earlier["schema_version"], manifest["schema_version"]) == (1, 2)
    assert manifest["dataset_hash"] == earlier["dataset_hash"]
    assert file_bytes(folder).items() >= files.items()
    drawn, stored = make_rows(config, "train", np.arange(4))[0], pq.read_table(folder / "train/part-00000-of-00001.parquet")
    assert drawn.schema.equals(stored.schema)
    for name in ("q", "p", "potential"):  # another type of processor may round the last bit in another way
        values, others = (table.column(name).chunk(0).to_numpy_ndarray() for table in (drawn, stored))
        np.testing.assert_allclose(values, others, atol=1e-6)
