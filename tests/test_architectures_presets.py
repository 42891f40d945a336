"""Presets: how they are chosen and resolved, and that `published` is the network that was published."""

import json
import re
from pathlib import Path

import pytest
import torch

from neural_hamilton.architectures import (
    Task,
    TrainedFor,
    available_architectures,
    build_operator,
    get_architecture,
    load_model,
    parse_architecture,
    read_card,
    save_model,
)
from neural_hamilton.physics import InputError
from neural_hamilton.platform.config import load_config

# Parameters of the published networks, and of what reads the initial state here: (q0, p0) enter by a linear map
# without bias, so from the paper's only start, (0, 0), they are not there. MambONet's 2.05 M and VaRONet's 63 M are in
# the paper; the others were counted layer by layer from its authors' code (FNO: version 1.33, complex as two).
PUBLISHED = {
    "deeponet": (36_650, 2 * 256),
    "fno": (1_955_458, 2 * 128),
    "mambonet": (2_052_098, 2 * 128),
    "traonet": (548_994, 2 * 64),
    "varonet": (63_089_726, 2 * 2 * 2 * 4 * 512),
}


def task(num_sensors):
    return Task(sensors=(num_sensors,), domain=((0.0, 1.0),), horizon=2.0)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_presets_have_the_published_number_of_parameters(name):
    with torch.device("meta"):
        model = build_operator(parse_architecture({"name": name, "preset": "published"}), task(100))
    published, initial = PUBLISHED[name]
    assert sum(p.numel() for p in model.parameters()) == published + initial


def test_what_was_published_has_a_preset_and_only_that():
    assert {name for name in available_architectures() if "published" in get_architecture(name).Config.presets} == PUBLISHED.keys()


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_the_default_preset_imposes_the_initial_state_and_the_published_one_does_not(name):
    default, published = (parse_architecture({"name": name, "preset": preset}) for preset in ("default", "published"))
    assert default == parse_architecture({"name": name})
    assert (default.initial_condition_is_exact, default.queries_are_independent) == (True, True)
    assert not published.initial_condition_is_exact
    assert published.queries_are_independent is (name == "deeponet")  # a trunk has always read one time


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_preset_is_resolved_into_sizes_and_forgotten(name, monkeypatch, tmp_path):
    sizes = {"width": 8, "d_model": 8, "num_heads": 2, "d_feedforward": 8, "hidden_size": 4, "num_modes": 3}
    known = get_architecture(name).Config.model_fields
    config = parse_architecture({"name": name, "preset": "published"} | {key: value for key, value in sizes.items() if key in known})
    assert "preset" not in config.model_dump()
    model = build_operator(config, task(12)).eval()
    trained_for = TrainedFor.of(model.task, system="well", ensemble={"name": "any"}, initial_state=None)
    save_model(model, tmp_path, trained_for, {})
    monkeypatch.setitem(get_architecture(name).Config.presets, "published", {"hard_initial_condition": True})
    loaded = load_model(tmp_path)
    assert loaded.config == config
    inputs = torch.ones(1, 12), torch.linspace(0, 2, 5), torch.zeros(2)
    assert torch.equal(loaded(*inputs).q, model(*inputs).q)
    assert set(json.loads((tmp_path / "model.json").read_text())["architecture"]) == set(known)


def test_explicit_keys_win_over_the_preset():
    config = parse_architecture({"name": "traonet", "preset": "published", "num_encoder_layers": 1})
    assert (config.num_encoder_layers, config.published_layers, config.hard_initial_condition) == (1, True, False)


def test_a_preset_is_chosen_in_a_file_or_by_a_key(tmp_path):
    (tmp_path / "c.yaml").write_text("architecture: {name: traonet, preset: published, d_feedforward: 32}\n")
    in_file = load_config(tmp_path / "c.yaml")
    by_key = load_config(None, {"architecture.name": "traonet", "architecture.preset": "published", "architecture.d_feedforward": 32})
    assert in_file.architecture == by_key.architecture
    assert in_file.architecture.model_dump()["published_layers"]
    assert "preset" not in in_file.dump()["architecture"]
    assert in_file.override({"architecture.num_heads": 4}).architecture.model_dump()["published_layers"]


def test_another_preset_or_architecture_starts_afresh(tmp_path):
    """A chosen preset is not undone by the sizes of what was there before, nor by the order of the keys."""
    paper = parse_architecture({"name": "mambonet", "preset": "published"})
    for overrides in (
        {"architecture.preset": "published"},
        {"architecture.preset": "published", "architecture.name": "mambonet"},
        {"architecture.d_model": 128, "architecture.preset": "published"},
    ):
        assert load_config("mambonet", overrides).architecture == paper
        assert load_config("mambonet").override(overrides).architecture == paper
    (tmp_path / "c.yaml").write_text("architecture: {name: traonet, preset: published, d_feedforward: 32}\n")
    assert load_config(tmp_path / "c.yaml", {"architecture.name": "fno"}).architecture == parse_architecture({"name": "fno"})
    kept = load_config(tmp_path / "c.yaml", {"architecture.name": "traonet", "architecture.preset": "published"}).architecture
    assert kept.model_dump()["d_feedforward"] == 32
    assert load_config(tmp_path / "c.yaml", {"architecture.preset": "default"}).architecture == parse_architecture({"name": "traonet"})


@pytest.mark.parametrize("preset", ["paper", "", 3, None, ["published"]])
def test_unknown_preset_names_the_choices(preset):
    with pytest.raises(InputError, match=r"architecture\.preset is .*traonet has default, published"):
        load_config(None, {"architecture": {"name": "traonet", "preset": preset}})


def test_a_misspelt_preset_key_is_refused_with_a_hint():
    with pytest.raises(InputError, match="did you mean preset"):
        load_config(None, {"architecture.presset": "published"})


@pytest.mark.parametrize("name", ["traonet", "mambonet", "fno", "varonet"])
def test_published_layers_take_no_features_of_time(name):
    layers = {"architecture.name": name, "architecture.published_layers": True}
    if name == "varonet":
        layers["architecture.num_encoder_layers"] = 4
    assert load_config(None, layers).architecture.model_dump()["num_frequencies"] == 0
    with pytest.raises(InputError, match="num_frequencies is 16; it must be 0 with published_layers"):
        load_config(None, layers | {"architecture.num_frequencies": 16})


@pytest.mark.parametrize("name", [*PUBLISHED, "orbitnet"])
def test_an_architecture_of_this_project_has_a_shipped_configuration_of_each_preset(name):
    for preset in get_architecture(name).Config.presets:
        file = name if preset == "default" else f"{name}-{preset}"
        assert load_config(file).architecture == parse_architecture({"name": name, "preset": preset})


@pytest.mark.parametrize(
    ("name", "architecture", "ensemble", "sensors", "noise", "num_parameters"),
    [
        ("orbitnet", "orbitnet", "paper", [100], 0.0, 75_176),
        ("orbitnet-phase-space", "orbitnet", "phase-space", [100], 0.0, 40_232),
        ("orbitnet-25-sensors", "orbitnet", "paper", [25], 0.0, 75_176),
        ("orbitnet-13-sensors", "orbitnet", "paper", [13], 0.0, 75_176),
        ("mambonet", "mambonet", "paper", [100], 0.0, 277_826),
        ("mambonet-phase-space", "mambonet", "phase-space", [100], 0.0, 278_914),
        ("mambonet-noisy-sensors", "mambonet", "paper", [100], 0.01, 101_570),
        ("mambonet-surface", "mambonet", "random", [24, 24], 0.0, 290_692),
        ("fieldnet-surface", "fieldnet", "random", [24, 24], 0.0, 7_156),
        ("fieldnet-noisy-sensors", "fieldnet", "random", [24, 24], 0.01, 12_304),
    ],
)
def test_a_shipped_model_loads_is_small_and_says_what_it_is(
    repository: Path, name: str, architecture: str, ensemble: str, sensors: list[int], noise: float, num_parameters: int
):
    folder = repository / "serve" / "models" / name
    card, page = read_card(folder), (folder / "README.md").read_text()
    model = load_model(folder)
    assert model.config.name == architecture and model.config.initial_condition_is_exact
    assert sum(p.numel() for p in model.parameters()) == num_parameters
    trained_for = card["trained_for"]
    assert (trained_for["ensemble"]["name"], trained_for["sensors"], trained_for["noise"]) == (ensemble, sensors, noise)
    assert (trained_for["initial_state"] is None) is (ensemble in ("phase-space", "random"))
    assert json.loads((folder / "model.json").read_text()) == card  # of today's schema
    assert card["calibration"]["rows"] == (2000 if ensemble == "random" else 4000)
    assert re.fullmatch("[0-9a-f]{64}", card["calibration"]["dataset_hash"])
    assert card["calibration"]["dataset_hash"][:16] in page
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 15e6
    assert card["weights_sha256"][:16] in page and f"neural-hamilton evaluate serve/models/{name} " in page
    assert not any(str(path) in page for path in (repository, Path.home(), Path("/tmp")))
