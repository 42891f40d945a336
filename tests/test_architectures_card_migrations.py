"""Cards of schema 1 are read as today's: what they say under other names is kept, and what they do not say is refused."""

import json

import numpy as np
import pytest
import torch

from neural_hamilton.architectures import Task, TrainedFor, build_operator, load_model, parse_architecture, read_card, save_model
from neural_hamilton.physics import InputError

DATA = {"preset": "paper", "noise": 0.0, "control_points": [2, 7], "length_scale": [0.01, 0.2], "depth": None, "sensors": 8}
SIZES = {"d_model": 8, "num_mamba_layers": 2, "d_state": 2}
DECODER = {"num_heads": 2, "num_decoder_layers": 2, "d_feedforward": 16, "num_frequencies": 3, "published_layers": False}
GATE = {"hard_initial_condition": True, "gate_time": 0.1}
SHAPES = {"num_shapes": 4, "exact_sensors": True}
TASK = Task(sensors=(8,), domain=((0.0, 1.0),), horizon=2.0)


def write_schema_1(folder, model, architecture, data=DATA):
    """The folder of a model as schema 1 had it, with the keys of that time."""
    trained_for = TrainedFor.of(model.task, system="well", ensemble={"name": "paper"}, initial_state=None)
    save_model(model, folder, trained_for, {"preset": data.get("preset"), "config": {"data": data}, "seconds": 1.0})
    card = json.loads((folder / "model.json").read_text())
    del card["trained_for"]
    card |= {"schema_version": 1, "architecture": {"num_sensors": 8} | architecture}
    (folder / "model.json").write_text(json.dumps(card))


def network(name, **sizes):
    torch.manual_seed(0)
    return build_operator(parse_architecture({"name": name} | sizes), TASK).eval()


@pytest.mark.parametrize(
    ("orbit", "now"),
    [
        ("none", {"name": "mambonet", "phase_angle": False} | SIZES | DECODER | GATE),
        ("angle", {"name": "mambonet", "phase_angle": True} | SIZES | DECODER | GATE),
        ("solved", {"name": "orbitnet"} | SIZES | SHAPES),
    ],
)
def test_each_kind_of_mambonet_becomes_what_it_is(tmp_path, orbit, now):
    model = network(**now)
    write_schema_1(tmp_path, model, {"name": "mambonet", "orbit": orbit} | SIZES | DECODER | GATE | SHAPES)
    loaded = load_model(tmp_path)
    assert loaded.config == model.config and loaded.task == TASK
    inputs = torch.linspace(2, -1, 8).square()[None], torch.linspace(0, 2, 5)[None], torch.tensor([[0.2, 0.1]])
    assert torch.equal(loaded(*inputs).q, model(*inputs).q)


@pytest.mark.parametrize(("preset", "initial_state"), [("paper", [[0.0], [0.0]]), ("phase-space", None)])
def test_what_it_was_trained_for_comes_from_its_provenance(tmp_path, preset, initial_state):
    data = DATA | {"preset": preset, "noise": 0.25, "depth": [1.0, 2.0]}
    write_schema_1(tmp_path, network("deeponet"), network("deeponet").config.model_dump(), data)
    card = read_card(tmp_path)
    assert card["trained_for"] == {
        "system": "well", "initial_state": initial_state, "sensors": [8], "horizon": 2.0, "domain": [[0.0, 1.0]],
        "channels": 1, "noise": 0.25,
        "ensemble": {"name": preset, "control_points": [2, 7], "length_scale": [0.01, 0.2], "depth": [1.0, 2.0]},
    }  # fmt: skip
    assert card["provenance"] == {"config": {"data": data}, "seconds": 1.0}


def test_a_gate_without_an_imposed_initial_state_had_no_effect_and_is_dropped(tmp_path):
    config = network("deeponet", hard_initial_condition=False).config
    write_schema_1(tmp_path, network("deeponet", hard_initial_condition=False), config.model_dump() | {"gate_time": 0.1})
    assert load_model(tmp_path).config == config


@pytest.mark.parametrize("missing", ["preset", "noise", "control_points", "length_scale", "depth"])
def test_what_a_card_does_not_say_is_refused(tmp_path, missing):
    data = {key: value for key, value in DATA.items() if key != missing}
    write_schema_1(tmp_path, network("deeponet"), network("deeponet").config.model_dump(), data)
    with pytest.raises(InputError, match=rf"model\.json is of schema 1 and cannot be read: it has no .*{missing}"):
        load_model(tmp_path)


def test_a_card_without_its_data_is_refused(tmp_path):
    write_schema_1(tmp_path, network("deeponet"), network("deeponet").config.model_dump())
    card = json.loads((tmp_path / "model.json").read_text()) | {"provenance": {"preset": "paper"}}
    (tmp_path / "model.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match=r"it has no provenance\.config"):
        read_card(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"), [({"orbit": "state"}, "orbit is 'state'"), ({"num_sensors": None}, "trained for"), ({"name": 3}, "architecture")]
)
def test_what_cannot_be_carried_over_is_refused(tmp_path, change, words):
    write_schema_1(tmp_path, network("mambonet", **SIZES | DECODER), {"name": "mambonet"} | SIZES | DECODER | change)
    with pytest.raises(InputError, match=rf"(?s)model\.json.*{words}"):
        load_model(tmp_path)


# Predictions recorded with version 0.1.0, whose cards have only these keys; weights are drawn by name, so the names are tested too.
VERSION_0_1 = {
    "deeponet": (
        {"width": 8, "num_layers": 1, "num_channels": 4, "num_frequencies": 3},
        [0.100926192, 0.412023343, 1.508090794],
        [-0.416803087, -0.094821008, -0.168909154],
    ),
    "mambonet": (
        {"d_model": 8, "num_mamba_layers": 2, "d_state": 2, "num_heads": 2, "num_decoder_layers": 2}
        | {"d_feedforward": 16, "num_frequencies": 3},
        [0.071866763, 0.016491287, 0.268751572],
        [-0.497059465, -0.611262481, -0.678626519],
    ),
}


@pytest.mark.parametrize("name", VERSION_0_1)
def test_a_model_of_version_0_1_predicts_as_it_did(tmp_path, name):
    sizes, true_q, true_p = VERSION_0_1[name]
    model = network(name, gate_time=None, **sizes).double()
    model.set_normalisation(0.5, 0.7)
    state, drawn = model.state_dict(), torch.Generator().manual_seed(0)
    for key in sorted(state.keys() - {"potential_mean", "potential_scale"}):
        state[key] = 0.3 * torch.randn(state[key].shape, generator=drawn, dtype=torch.float64)
    model.load_state_dict(state)
    write_schema_1(tmp_path, model, {"name": name} | sizes, DATA | {"depth": [0.5, 3.5]})
    assert read_card(tmp_path)["trained_for"]["ensemble"].get("depth") is None  # which this preset did not use
    potential = torch.linspace(2, -1, 8, dtype=torch.float64).square()[None]
    times, initial = torch.tensor([[0.5, 1.3, 2.0]], dtype=torch.float64), torch.tensor([[0.2, -0.4]], dtype=torch.float64)
    output = load_model(tmp_path)(potential, times, initial)
    assert output.q[0].tolist() == pytest.approx(true_q, abs=2e-7)
    assert output.p[0].tolist() == pytest.approx(true_p, abs=2e-7)


@pytest.mark.parametrize(
    "name", ["orbitnet", "orbitnet-phase-space", "orbitnet-25-sensors", "orbitnet-13-sensors", "mambonet-noisy-sensors"]
)
@pytest.mark.parametrize("batched", [True, False])
def test_shipped_models_predict_as_under_their_former_names(repository, name, batched):
    """Predictions recorded before the models were renamed. On the machine that recorded them they are equal to the last bit."""
    stored = np.load(repository / "tests" / "data" / "shipped_predictions.npz")
    potential, times, initial, q, p = (torch.tensor(stored[f"{name}/{key}"]) for key in ("potential", "times", "initial", "q", "p"))
    model = load_model(repository / "serve" / "models" / name)
    for rows in [slice(None)] if batched else [slice(row, row + 1) for row in range(len(potential))]:
        with torch.no_grad():
            output = model(potential[rows], times, initial[rows])
        torch.testing.assert_close(output.q, q[rows], atol=2e-5, rtol=0)
        torch.testing.assert_close(output.p, p[rows], atol=2e-5, rtol=0)
