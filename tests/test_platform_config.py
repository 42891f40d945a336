"""The configuration tree: YAML, dotted overrides, and a sentence for every mistake."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neural_hamilton.architectures import available_architectures
from neural_hamilton.physics import InputError
from neural_hamilton.platform.config import SHIPPED_CONFIGS, Config, load_config, load_data_config, parse_assignments
from neural_hamilton.platform.config.plain_yaml import format_yaml, parse_yaml

ROOT = Path(__file__).resolve().parent.parent


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


def read_both_ways(tmp_path, key, text):
    """The same text as the value of a key in a file and in `--set`; a refusal as its sentence without what it calls the source."""
    section, _, name = key.partition(".")
    (tmp_path / "c.yaml").write_text(f"{section}:\n  {name}: {text}\n", encoding="utf-8")
    results = []
    for source, overrides in ((tmp_path / "c.yaml", lambda: {}), (None, lambda: parse_assignments([f"{key}={text}"]))):
        try:
            config = load_config(source, overrides())
            results.append(getattr(getattr(config, section), name))
        except InputError as refusal:
            results.append(str(refusal))
    assert results[0] == results[1]
    return results[0]


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("training.epochs", "010", 10),
        ("training.batch_size", "1e2", 100),
        ("training.learning_rate", "1e-3", 1e-3),
        ("training.learning_rate", "5E-4", 5e-4),
        ("training.gradient_clip", ".5", 0.5),
        ("training.gradient_clip", "+2", 2.0),
        ("training.patience", "~", None),
        ("training.endless", "true", True),
        ("training.initial_model", "2024-01-02", "2024-01-02"),
    ],
)
def test_a_value_is_read_alike_in_a_file_and_in_set_and_numbers_are_decimal(tmp_path, key, text, value):
    assert read_both_ways(tmp_path, key, text) == value


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("training.train_rows", "yes"),
        ("training.train_rows", "true"),
        ("training.epochs", "1:00"),
        ("training.epochs", "0x10"),
        ("training.learning_rate", "on"),
        ("training.learning_rate", "True"),
        ("data.seed", "true"),
        ("sweep.seed", "true"),
        ("evaluation.solver_steps", "[0.1, true]"),
        ("data.ensemble", "{depth: [true, 2.0]}"),
        ("architecture.d_feedforward", "true"),
        ("serving.port", "true"),
        ("sweep.gpus_per_worker", "true"),
    ],
)
def test_what_looks_like_no_decimal_number_is_none(tmp_path, key, text):
    refusal = read_both_ways(tmp_path, key, text)
    assert isinstance(refusal, str) and key in refusal and ("number" in refusal or "integer" in refusal)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("training: {epochs: 2}\ndata: {train: 3}\ntraining: {batch_size: 3}\n", ["c.yaml", "training", "line 1", "line 3"]),
        ("training:\n  epochs: 2\n  epochs: 3\n", ["c.yaml", "epochs", "line 2", "line 3"]),
        ("sweep: {space: {a: {low: 1, high: 2, low: 3}}}\n", ["c.yaml", "low", "line 1"]),
    ],
)
def test_a_key_given_twice_is_refused_with_its_lines(tmp_path, content, words):
    (tmp_path / "c.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as refusal:
        load_config(tmp_path / "c.yaml")
    assert all(word in str(refusal.value) for word in words), str(refusal.value)


def test_a_key_given_twice_in_one_assignment_is_refused_and_of_two_assignments_the_last_counts():
    with pytest.raises(InputError, match=r"--set data got.*train is given in line 1 and again"):
        parse_assignments(["data={train: 1, train: 2}"])
    assert parse_assignments(["training.epochs=2", "training.epochs = 3"]) == {"training.epochs": 3}


@pytest.mark.parametrize(
    "text", ["1e3", "010", "yes", "1e-3", "0x1", "1:00", "5", "null", "~", "true", "1_000", "", " a", "<<", "2020-01-01"]
)
def test_a_text_that_looks_like_something_else_is_saved_as_a_text(text):
    assert parse_yaml(format_yaml({"a": text, "b": [text]})) == {"a": text, "b": [text]}


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfdata: {train: 2}\n", "# Größe\ndata: {train: 2}\n".encode()])
def test_a_file_is_read_as_utf8_whatever_the_locale(tmp_path, content):
    (tmp_path / "c.yaml").write_bytes(content)
    ascii_locale = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code = (
        "import locale\nfrom neural_hamilton.platform.config import load_config\n"
        "assert locale.getpreferredencoding(False).lower() not in ('utf-8', 'utf8')\n"
        f"assert load_config({str(tmp_path / 'c.yaml')!r}).data.train == 2"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=ascii_locale)


def test_a_file_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "c.yaml").write_bytes("# Größe\ndata: {train: 2}\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"c\.yaml.*UTF-8"):
        load_config(tmp_path / "c.yaml")


def test_no_text_is_read_or_written_in_the_encoding_of_the_locale():
    """`open` is ruff's to check; it does not see what a name with no annotation holds."""
    packages = ("physics", "architectures", "platform", "tune", "serve")
    sources = {path: path.read_text(encoding="utf-8") for package in packages for path in sorted((ROOT / package).rglob("*.py"))}
    calls = [(path, node) for path, text in sources.items() for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    texts = [(path, call) for path, call in calls if getattr(call.func, "attr", None) in ("read_text", "write_text")]
    assert texts
    assert not [f"{path}:{call.lineno}" for path, call in texts if "encoding" not in {keyword.arg for keyword in call.keywords}]


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
