"""Datasets in a bucket of a real S3-compatible server: the same bytes as on a disk, made by Ray tasks, read by every command."""

import json

import click
import numpy as np
import pytest
from click.testing import CliRunner
from training_helpers import config_with, train_in, weights

import neural_hamilton as nh
from neural_hamilton.physics import InputError
from neural_hamilton.physics.errors import StorageUnavailable
from neural_hamilton.physics.files import write_file
from neural_hamilton.platform import folder_lock, storage
from neural_hamilton.platform.cli import cli
from neural_hamilton.platform.commands.console import run_command
from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.data.datasets import list_files as files_of
from neural_hamilton.platform.data.generation import generate
from neural_hamilton.platform.data.inspection import inspect_dataset
from neural_hamilton.platform.storage import locate
from neural_hamilton.serve.commands import _read_models

SIZES = {"train": 64, "val": 16, "test": 16, "sensors": 20, "times": 20, "shard_rows": 32}  # as tiny_dataset


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    monkeypatch.setattr(storage, "_PAUSES_S", (0.02, 0.02))
    monkeypatch.setattr(storage, "_PATIENT_PAUSES_S", (0.02, 0.02))
    monkeypatch.setattr(folder_lock, "_SETTLED_S", 0.05)


@pytest.fixture(scope="module")
def config():
    return load_config(None, {f"data.{key}": value for key, value in SIZES.items()}).data


@pytest.fixture
def folder(store, bucket):
    return locate(store.url(f"{bucket}/data"))


@pytest.fixture(scope="module")
def copied(store, tiny_dataset):
    """The URL of a copy of tiny_dataset."""
    store.client.create_bucket(Bucket="copied")
    for path in tiny_dataset.rglob("*.*"):
        store.client.put_object(Bucket="copied", Key=f"data/{path.relative_to(tiny_dataset).as_posix()}", Body=path.read_bytes())
    return locate(store.url("copied/data"))


def file_bytes(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def uploads(store):
    """The keys that requests completed or put, in order, but for the lease; and forget all requests."""
    begun = [path.partition("?")[0] for method, path in store.requests if method == "POST" and "uploadId" in path]
    store.requests.clear()
    return [key for key in begun if not key.endswith("/.lock")]


def test_ray_tasks_write_the_bytes_of_a_local_dataset_and_the_manifest_last(ray_session, store, bucket, folder, config, tiny_dataset):
    store.requests.clear()
    manifest = generate(folder, config)
    assert store.objects(bucket, "data") == file_bytes(tiny_dataset)
    assert manifest == json.loads((tiny_dataset / "manifest.json").read_text())
    assert uploads(store)[-1].endswith("/manifest.json")
    generate(folder, config)
    assert uploads(store) == []


def test_one_file_that_cannot_be_written_stops_the_command_and_the_next_makes_it_alone(store, bucket, folder, config, tiny_dataset):
    broken = "train/part-00001-of-00002.parquet"
    with (
        store.failing("403", lambda method, path: broken in path and method != "GET"),
        pytest.raises(StorageUnavailable, match="part-00001.* could not be written: .*refuses the credentials"),
    ):
        generate(folder, config, workers=1, local=True)
    assert "manifest.json" not in store.objects(bucket, "data")
    with pytest.raises(InputError, match="no readable manifest.json; run generate"):
        nh.read_dataset(str(folder), "train")
    before = store.objects(bucket, "data")
    uploads(store)
    generate(folder, config, local=True)
    assert not {path.removeprefix(f"/{bucket}/data/") for path in uploads(store)} & {name for name in before if name.endswith("parquet")}
    assert store.objects(bucket, "data") == file_bytes(tiny_dataset)


def test_a_listing_that_lags_costs_work_and_nothing_else(store, bucket, folder, config, tiny_dataset):
    """Files that no listing shows yet are made again, to the same bytes."""
    broken = "train/part-00001-of-00002.parquet"
    with store.failing("old reply", lambda method, path: method == "GET" and "list-type=2" in path) as met:
        broken_put = store.failing("403", lambda method, path: broken in path and method != "GET")
        with broken_put, pytest.raises(StorageUnavailable, match="part-00001"):
            generate(folder, config, workers=1, local=True)
        generate(folder, config, local=True)
    assert met and store.objects(bucket, "data") == file_bytes(tiny_dataset)


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped"])
def test_damage_is_named_and_repaired(store, bucket, folder, config, tiny_dataset, damage):
    generate(folder, config, local=True)
    victim = folder / "train/part-00001-of-00002.parquet"
    content = victim.read_bytes()
    if damage == "missing":
        victim.unlink()
    else:
        write_file(victim, content[:-100] if damage == "truncated" else content[:200] + bytes([content[200] ^ 1]) + content[201:])
    (problem,) = inspect_dataset(folder)["problems"]
    assert "part-00001" in problem
    with pytest.raises(InputError, match=r"s3://.*part-00001.*run generate again"):
        nh.read_dataset(str(folder), "train")
    generate(folder, config, local=True)
    assert store.objects(bucket, "data") == file_bytes(tiny_dataset) and inspect_dataset(folder, recheck=2)["problems"] == []


def test_a_folder_with_other_things_is_left_alone(store, bucket, folder, config):
    write_file(folder / "thesis.tex", b"x")
    with pytest.raises(InputError, match=r"s3://.*thesis\.tex"):
        generate(folder, config, local=True)
    assert store.objects(bucket, "data") == {"thesis.tex": b"x"}


def test_another_dataset_is_left_alone(copied, config):
    with pytest.raises(InputError, match="seed 0 .asked for 1"):
        generate(copied, config.model_copy(update={"seed": 1}), local=True)


def test_rows_are_read_as_from_a_disk(copied, tiny_dataset):
    here, there = nh.read_dataset(tiny_dataset, "train"), nh.read_dataset(str(copied), "train")
    for name in ("potential", "times", "q", "p", "initial", "energy"):
        np.testing.assert_array_equal(getattr(here, name), getattr(there, name))
    assert [str(file.path) for file in files_of(copied, "val")] == [str(copied / "val/part-00000-of-00001.parquet")]


@pytest.mark.parametrize("how", ["resident", "streamed"])
def test_training_from_a_bucket_gives_the_weights_of_training_from_a_disk(copied, tiny_dataset, tmp_path, how):
    config = config_with(training__epochs=2, **({"training__resident_gib": 1e-6} if how == "streamed" else {}))
    train_in(tmp_path / "here", tiny_dataset, config)
    train_in(tmp_path / "there", copied, config)
    assert weights(tmp_path / "there") == weights(tmp_path / "here")


def test_commands_take_the_url(copied, tmp_path, capfd):
    model = ["--arch", "deeponet", "--set", "architecture.width=8"]
    once = ["--set", "training.epochs=1"]
    assert run_command(cli, ["train", str(copied), *model, *once, "--out", str(tmp_path / "run"), "--local"]) == 0
    trained = str(tmp_path / "run" / "model")
    fast = ["--set", "evaluation.studies=[]", "--set", "evaluation.max_rows=2"]
    assert run_command(cli, ["evaluate", trained, "--dataset", str(copied), "--out", str(tmp_path / "report"), *fast]) == 0
    assert run_command(cli, ["inspect", str(copied), "--json"]) == 0
    report = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert report["dataset"] == str(copied) and report["problems"] == []


def commands_with_places():
    """Every option and argument of every command that is a file or a folder."""
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        members = command.commands.items() if isinstance(command, click.Group) else [("", command)]
        for sub, member in members:
            for parameter in member.params:
                if parameter.type.name == "path":
                    yield pytest.param(member, parameter, id=f"{name} {sub} {parameter.name}".replace("  ", " "))


@pytest.mark.parametrize(("command", "parameter"), list(commands_with_places()))
def test_no_argument_makes_a_local_folder_of_a_url(command, parameter, tmp_path, monkeypatch):
    """An argument takes a URL for what it is, or refuses it by its own name."""
    monkeypatch.chdir(tmp_path)
    named = parameter.opts[0] if parameter.opts[0].startswith("--") else parameter.name.upper()
    context = click.Context(command)
    try:
        value = parameter.type.convert("memory://bucket/x", parameter, context)
    except InputError as error:
        assert str(error).startswith(f"{named} is 'memory://bucket/x'; it must be a local path")
    else:
        assert isinstance(value, storage.Url)


@pytest.mark.parametrize("words", ["demo --out", "reproduce orbitnet --out"])
def test_an_output_folder_that_must_be_local_refuses_a_url_in_one_sentence(words, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert run_command(cli, [*words.split(), "s3://bucket/run"]) == 2
    assert capfd.readouterr().err == "error: --out is 's3://bucket/run'; it must be a local path\n"
    assert list(tmp_path.iterdir()) == []


def test_in_a_submitted_job_a_relative_output_is_refused(tmp_path, monkeypatch):
    copy = tmp_path / "session" / "runtime_resources" / "working_dir_files" / "_ray_pkg_0"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    for command in (["generate", "runs/data", "--train", "4", "--local"], ["demo"]):
        result = CliRunner().invoke(cli, command)
        assert isinstance(result.exception, InputError)
        assert "copy of the code that Ray deletes after the job; give the absolute path" in str(result.exception)
    assert list(copy.iterdir()) == []


@pytest.fixture
def model_url(store, bucket, served_model):
    for path in served_model.iterdir():
        store.client.put_object(Bucket=bucket, Key=f"run/model/{path.name}", Body=path.read_bytes())
    return store.url(f"{bucket}/run/model")


def test_a_model_is_loaded_by_url(model_url, served_model):
    problem = {"potential": "8*(q-0.5)**2", "q0": 0, "p0": 0}
    here, there = (nh.load(model)(**problem, verify="none") for model in (served_model, model_url))
    np.testing.assert_array_equal(here.q, there.q)


def test_a_damaged_or_missing_model_is_refused_by_its_url(model_url, store, bucket):
    write_file(locate(model_url) / "model.safetensors", b"other")
    with pytest.raises(InputError, match=r"s3://.*model\.safetensors.*does not match the checksum"):
        nh.load(model_url)
    with pytest.raises(InputError, match=r"s3://.*run\?.* is a run folder; its model is 's3://.*/run/model\?"):
        nh.load(store.url(f"{bucket}/run"))
    with pytest.raises(InputError, match=r"s3://.*nothing.* neither a model folder"):
        nh.load(store.url(f"{bucket}/nothing"))


def test_models_by_url_have_names_at_an_endpoint(model_url):
    assert list(_read_models((model_url, f"second={model_url}"))) == ["run", "second"]


def test_evaluate_measures_a_model_by_url_and_records_nothing_there(model_url, copied, tmp_path, capfd):
    words = ["evaluate", model_url, "--dataset", str(copied), "--out", str(tmp_path / "report"), "--set", "evaluation.studies=[]"]
    assert run_command(cli, [*words, "--record"]) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
