"""The configuration tree: YAML, dotted overrides, and a sentence for every mistake."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neural_hamilton.architectures import available_architectures
from neural_hamilton.physics import InputError
from neural_hamilton.platform.config import SHIPPED_CONFIGS, Config, load_config, load_data_config, parse_assignments


@pytest.mark.parametrize("path", sorted(SHIPPED_CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_loads_by_path_and_by_name(path):
    assert load_config(path) == load_config(path.stem)


@pytest.mark.parametrize("name", available_architectures())
def test_saved_tree_loads_back_equal(tmp_path, name):
    config = load_config(None, {"architecture.name": name, "training.epochs": 3})
    config.save(tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"training.epoch": 3}, ["training.epoch", "did you mean epochs", "batch_size"]),
        ({"trainin.epochs": 3}, ["trainin", "did you mean training", "serving"]),
        ({"training.epochs": "many"}, ["training.epochs", "'many'", "integer"]),
        ({"training.epochs": 0}, ["training.epochs", "0", "greater than or equal to 1"]),
        ({"training.epochs.x": 1}, ["training.epochs"]),
        ({"architecture.name": "perceptron"}, ["perceptron", "deeponet", "mambonet"]),
        ({"architecture.d_modell": 8}, ["architecture.d_modell", "did you mean d_model"]),
        ({"data.preset": "paper"}, ["data.preset", "data.ensemble now"]),
        ({"data.ensemble.name": "papers"}, ["data.ensemble", "'papers'", "phase-space"]),
        ({"data.ensemble.control_points": [7, 2]}, ["control_points", "(7, 2)"]),
        ({"training.decay_share": 0.1}, ["training.decay_share", "training.decay_fraction"]),
        ({"data.noise": -1}, ["data.noise", "-1"]),
        ({"data.noise": float("inf")}, ["data.noise", "finite"]),
        ({"training.learning_rate": float("nan")}, ["training.learning_rate"]),
        ({"training": 3}, ["training"]),
    ],
)
def test_wrong_key_or_value_is_refused_with_its_path_and_the_choices(overrides, words):
    with pytest.raises(InputError) as refusal:
        load_config(None, overrides)
    assert all(word in str(refusal.value) for word in words), str(refusal.value)


def test_unknown_key_in_a_file_is_refused(tmp_path):
    (tmp_path / "c.yaml").write_text("training: {epochs: 2, speed: 9}\n")
    with pytest.raises(InputError, match="training.speed"):
        load_config(tmp_path / "c.yaml")


@pytest.mark.parametrize("content", ["training: [", "- 1\n- 2\n", "just text"])
def test_file_that_is_no_tree_is_refused(tmp_path, content):
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(InputError, match=r"c\.yaml"):
        load_config(tmp_path / "c.yaml")


def test_missing_file_names_the_shipped_ones():
    with pytest.raises(InputError, match="demo"):
        load_config("no-such-configuration")


def test_changing_architecture_starts_from_its_own_defaults():
    config = load_config("demo", {"architecture.name": "deeponet"})
    assert config.architecture == load_config(None, {"architecture.name": "deeponet"}).architecture


def test_assignments_read_numbers_lists_and_text():
    assert parse_assignments(["a.b=1e-3", "c=3", "d=[2, 5]", "e=cosine", "f=null"]) == {
        "a.b": 1e-3,
        "c": 3,
        "d": [2, 5],
        "e": "cosine",
        "f": None,
    }


@pytest.mark.parametrize("text", ["training.epochs", "=3", "a=[1"])
def test_malformed_assignment_is_refused(text):
    with pytest.raises(InputError, match="--set"):
        parse_assignments([text])


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8), st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5), max_size=3
    )
)
def test_any_tree_loads_or_is_refused_in_words(values):
    try:
        assert isinstance(load_config(None, values), Config)
    except InputError as refusal:
        assert str(refusal)


def test_data_alone_is_the_data_of_the_whole_tree():
    overrides = {"data.train": 3, "data.ensemble.depth": [1.0, 2.0]}
    assert load_data_config(None, overrides) == load_config(None, overrides).data
    assert load_data_config("demo", overrides) == load_config("demo", overrides).data
    for wrong in ({"data.tran": 3}, {"data.train": -1}, {"data.train": 3, "training.epoch": 3}, {"archtecture.name": "fno"}):
        with pytest.raises(InputError) as alone:
            load_data_config(None, wrong)
        with pytest.raises(InputError) as whole:
            load_config(None, wrong)
        assert str(alone.value) == str(whole.value)


def test_an_architecture_that_is_no_mapping_is_refused():
    with pytest.raises(InputError, match="architecture.*'fno' is no mapping"):
        load_config(None, {"architecture": "fno"})


def test_generating_loads_no_networks(tmp_path):
    code = (
        "import sys\nfrom neural_hamilton.platform.cli import main\n"
        f"code = main(['generate', {str(tmp_path / 'data')!r}, '--train', '2', '--local'])\n"
        "assert code in (None, 0) and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
