"""Model folders: whatever is wrong with one is said in a sentence that names the file."""

import hashlib
import json

import pytest
import torch

from neural_hamilton.architectures import (
    MODEL_SCHEMA_VERSION,
    Task,
    TrainedFor,
    build_operator,
    load_model,
    parse_architecture,
    read_card,
    record_calibration,
    save_model,
)
from neural_hamilton.physics import InputError

TASK = Task(sensors=(8,), domain=((0.0, 1.0),), horizon=2.0)
TRAINED_FOR = TrainedFor.of(TASK, system="well", ensemble={"name": "paper"}, initial_state=((0.0,), (0.0,)), noise=0.01)


def tiny(**sizes):
    default = {"name": "deeponet", "width": 8, "num_layers": 1, "num_channels": 4}
    return build_operator(parse_architecture(default | sizes), TASK)


@pytest.fixture
def folder(tmp_path):
    save_model(tiny(), tmp_path / "model", TRAINED_FOR, {"dataset": "abc", "metrics": {"total_loss": 0.1}})
    return tmp_path / "model"


def rewrite_card(folder, **changes):
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(card | changes))


def rewrite_weights(folder, content):
    """Replace the weights and make the card vouch for them."""
    (folder / "model.safetensors").write_bytes(content)
    rewrite_card(folder, weights_sha256=hashlib.sha256(content).hexdigest())


def refuses(folder, message):
    with pytest.raises(InputError, match=message) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)


def test_holds_two_files_and_a_card(folder):
    assert sorted(p.name for p in folder.iterdir()) == ["model.json", "model.safetensors"]
    card = read_card(folder)
    assert card["schema_version"] == MODEL_SCHEMA_VERSION
    assert card["architecture"]["name"] == "deeponet"
    assert card["provenance"] == {"dataset": "abc", "metrics": {"total_loss": 0.1}}
    assert card["normalisation"] == {"potential_mean": 0.0, "potential_scale": 1.0}
    assert card["num_parameters"] == sum(p.numel() for p in load_model(folder).parameters())


def test_saving_over_a_model_replaces_it(folder):
    save_model(tiny(width=16), folder, TRAINED_FOR, {})
    assert load_model(folder).config.width == 16
    assert len(list(folder.iterdir())) == 2


def test_loads_from_a_string(folder):
    assert load_model(str(folder)).task == TASK


def test_another_schema_version(folder):
    rewrite_card(folder, schema_version=MODEL_SCHEMA_VERSION + 1)
    refuses(folder, f"model.json has schema_version {MODEL_SCHEMA_VERSION + 1}; this version reads 1 and {MODEL_SCHEMA_VERSION}")


@pytest.mark.parametrize("missing", ["model.json", "model.safetensors"])
def test_missing_file(folder, missing):
    (folder / missing).unlink()
    refuses(folder, f"no readable {missing}")


def test_missing_folder(tmp_path):
    refuses(tmp_path / "nowhere", "does not exist")


@pytest.mark.parametrize("content", [b"", b"{", b"[1", b"\xff\xfe"])
def test_card_that_is_not_json(folder, content):
    (folder / "model.json").write_bytes(content)
    refuses(folder, "model.json is not JSON")


@pytest.mark.parametrize("content", ["[]", "1", "null", "{}"])
def test_card_that_is_not_a_card(folder, content):
    (folder / "model.json").write_text(content)
    refuses(folder, "model.json has schema_version None")


def test_card_without_an_architecture(folder):
    card = json.loads((folder / "model.json").read_text())
    del card["architecture"]
    (folder / "model.json").write_text(json.dumps(card))
    refuses(folder, "model.json does not describe an architecture")


def test_card_with_an_unknown_size(folder):
    rewrite_card(folder, architecture={"name": "deeponet", "wdith": 8})
    refuses(folder, r"(?s)model.json does not describe an architecture.*wdith")


@pytest.mark.parametrize("position", [0, 8, 100, -1])
def test_damaged_weights(folder, position):
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[position] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    refuses(folder, "model.safetensors does not match the checksum in model.json")


def test_truncated_weights(folder):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-10])
    refuses(folder, "model.safetensors does not match the checksum")
    for length in (0, 4, 100, len(weights) - 10):  # truncated before the checksum was taken
        rewrite_weights(folder, weights[:length])
        refuses(folder, "model.safetensors does not fit its architecture")


@pytest.mark.parametrize("sizes", [{"width": 16}, {"num_layers": 2}])
def test_weights_of_other_sizes(folder, tmp_path, sizes):
    save_model(tiny(**sizes), tmp_path / "other", TRAINED_FOR, {})
    content = (tmp_path / "other" / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content)
    refuses(folder, "model.safetensors does not match the checksum")
    rewrite_weights(folder, content)
    refuses(folder, "model.safetensors does not fit its architecture")


def test_weights_of_another_architecture(folder, tmp_path):
    other = {"name": "mambonet", "d_model": 8, "num_heads": 2, "num_mamba_layers": 1, "num_decoder_layers": 1}
    save_model(build_operator(parse_architecture(other), TASK), tmp_path / "other", TRAINED_FOR, {})
    rewrite_weights(folder, (tmp_path / "other" / "model.safetensors").read_bytes())
    refuses(folder, "model.safetensors does not fit its architecture")


def test_a_pickle_is_never_opened(folder, tmp_path):
    marker = tmp_path / "opened"

    class Trap:
        def __reduce__(self):
            return (marker.touch, ())

    torch.save(Trap(), folder / "model.safetensors")
    rewrite_weights(folder, (folder / "model.safetensors").read_bytes())
    refuses(folder, "model.safetensors does not fit its architecture")
    assert not marker.exists()


@pytest.mark.parametrize(
    "architecture", ["deeponet", ["deeponet"], {"name": ["x"]}, {"name": "resnet"}, {"name": "deeponet", "wings": 2}, {}, None]
)
def test_card_that_describes_no_architecture_is_refused_by_name(tmp_path, architecture):
    save_model(tiny(), tmp_path, TRAINED_FOR, {})
    card = json.loads((tmp_path / "model.json").read_text()) | {"architecture": architecture}
    (tmp_path / "model.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match=r"model\.json"):
        load_model(tmp_path)


def test_float64_model_stays_float64(tmp_path):
    save_model(tiny().double(), tmp_path, TRAINED_FOR, {})
    loaded = load_model(tmp_path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float64} == {loaded.dtype}


def test_a_card_says_once_what_its_model_was_trained_for(folder):
    assert read_card(folder)["trained_for"] == {
        "system": "well", "ensemble": {"name": "paper"}, "initial_state": [[0.0], [0.0]], "sensors": [8], "horizon": 2.0,
        "domain": [[0.0, 1.0]], "channels": 1, "noise": 0.01,
    }  # fmt: skip
    assert "num_sensors" not in read_card(folder)["architecture"]


@pytest.mark.parametrize("missing", ["system", "ensemble", "initial_state", "sensors", "horizon", "domain", "channels", "noise"])
def test_what_a_card_does_not_say_is_not_guessed(folder, missing):
    trained_for = read_card(folder)["trained_for"]
    del trained_for[missing]
    rewrite_card(folder, trained_for=trained_for)
    refuses(folder, rf"(?s)model.json does not say what the model was trained for.*{missing}")


def test_normalisation_of_several_channels_is_one_number_each(tmp_path):
    task = Task(sensors=(5, 4), domain=((0.0, 1.0), (0.0, 1.0)), horizon=1.0, channels=3)
    model = build_operator(parse_architecture({"name": "deeponet", "width": 8}), task)
    model.set_normalisation(torch.tensor([1.0, 2.0, 3.0]), 2.0)
    trained_for = TrainedFor.of(task, system="oscillators", ensemble={"name": "any"}, initial_state=None)
    save_model(model, tmp_path, trained_for, {})
    assert read_card(tmp_path)["normalisation"] == {"potential_mean": [1.0, 2.0, 3.0], "potential_scale": [2.0, 2.0, 2.0]}
    assert load_model(tmp_path).task == task


def test_recording_a_calibration_writes_todays_schema(folder):
    record_calibration(folder, {"rows": 3})
    card = json.loads((folder / "model.json").read_text())
    assert card["calibration"] == {"rows": 3} and card["schema_version"] == MODEL_SCHEMA_VERSION
    assert sorted(p.name for p in folder.iterdir()) == ["model.json", "model.safetensors"]
