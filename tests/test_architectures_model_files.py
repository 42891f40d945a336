"""Model folders: whatever is wrong with one is said in a sentence that names the file."""

import hashlib
import json

import pytest
import torch

from neural_hamilton.architectures import MODEL_SCHEMA_VERSION, build_operator, load_model, parse_architecture, read_card, save_model
from neural_hamilton.physics import InputError


def tiny(**sizes):
    default = {"name": "deeponet", "num_sensors": 8, "width": 8, "num_layers": 1, "num_channels": 4}
    return build_operator(parse_architecture(default | sizes))


@pytest.fixture
def folder(tmp_path):
    save_model(tiny(), tmp_path / "model", {"dataset": "abc", "metrics": {"total_loss": 0.1}})
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
    save_model(tiny(width=16), folder, {})
    assert load_model(folder).config.width == 16
    assert len(list(folder.iterdir())) == 2


def test_loads_from_a_string(folder):
    assert load_model(str(folder)).config.num_sensors == 8


def test_another_schema_version(folder):
    rewrite_card(folder, schema_version=MODEL_SCHEMA_VERSION + 1)
    refuses(folder, f"model.json has schema_version {MODEL_SCHEMA_VERSION + 1}; this version reads {MODEL_SCHEMA_VERSION}")


@pytest.mark.parametrize("missing", ["model.json", "model.safetensors"])
def test_missing_file(folder, missing):
    (folder / missing).unlink()
    refuses(folder, f"no readable {missing}")


def test_missing_folder(tmp_path):
    refuses(tmp_path / "nowhere", "no readable model.json")


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
    save_model(tiny(**sizes), tmp_path / "other", {})
    content = (tmp_path / "other" / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content)
    refuses(folder, "model.safetensors does not match the checksum")
    rewrite_weights(folder, content)
    refuses(folder, "model.safetensors does not fit its architecture")


def test_weights_of_another_architecture(folder, tmp_path):
    other = {"name": "mambonet", "num_sensors": 8, "d_model": 8, "num_heads": 2, "num_mamba_layers": 1, "num_decoder_layers": 1}
    save_model(build_operator(parse_architecture(other)), tmp_path / "other", {})
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
    save_model(build_operator(parse_architecture({"name": "deeponet", "width": 4})), tmp_path, {})
    card = json.loads((tmp_path / "model.json").read_text()) | {"architecture": architecture}
    (tmp_path / "model.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match=r"model\.json"):
        load_model(tmp_path)


def test_float64_model_stays_float64(tmp_path):
    save_model(build_operator(parse_architecture({"name": "deeponet", "width": 4})).double(), tmp_path, {})
    assert {p.dtype for p in load_model(tmp_path).parameters()} == {torch.float64}


# Answers recorded with version 0.1.0, whose cards have only these keys; weights drawn by name, so the names are tested too.
VERSION_0_1 = {
    "deeponet": (
        {"num_sensors": 8, "width": 8, "num_layers": 1, "num_channels": 4, "num_frequencies": 3},
        [0.100926192, 0.412023343, 1.508090794],
        [-0.416803087, -0.094821008, -0.168909154],
    ),
    "mambonet": (
        {"num_sensors": 8, "d_model": 8, "num_mamba_layers": 2, "d_state": 2, "num_heads": 2, "num_decoder_layers": 2}
        | {"d_feedforward": 16, "num_frequencies": 3},
        [0.071866763, 0.016491287, 0.268751572],
        [-0.497059465, -0.611262481, -0.678626519],
    ),
}


@pytest.mark.parametrize("name", VERSION_0_1)
def test_a_model_of_version_0_1_answers_as_it_did(tmp_path, name):
    sizes, true_q, true_p = VERSION_0_1[name]
    since = {"gate_time": None} | ({"orbit": "none"} if name == "mambonet" else {})
    model = build_operator(parse_architecture({"name": name} | sizes | since)).double()
    model.set_normalisation(0.5, 0.7)
    state, drawn = model.state_dict(), torch.Generator().manual_seed(0)
    for key in sorted(state.keys() - {"potential_mean", "potential_scale"}):
        state[key] = 0.3 * torch.randn(state[key].shape, generator=drawn, dtype=torch.float64)
    model.load_state_dict(state)
    save_model(model, tmp_path, {})
    rewrite_card(tmp_path, architecture={"name": name} | sizes)
    potential = torch.linspace(2, -1, 8, dtype=torch.float64).square()[None]
    times, initial = torch.tensor([[0.5, 1.3, 2.0]], dtype=torch.float64), torch.tensor([[0.2, -0.4]], dtype=torch.float64)
    output = load_model(tmp_path)(potential, times, initial)
    assert output.q[0].tolist() == pytest.approx(true_q, abs=2e-7)
    assert output.p[0].tolist() == pytest.approx(true_p, abs=2e-7)
