"""Search spaces: valid for every architecture as shipped, and refused with one clear sentence otherwise."""

import itertools
import random

import optuna
import pytest
import torch

from neural_hamilton.architectures import Task, available_architectures, build_operator, get_architecture
from neural_hamilton.physics import InputError
from neural_hamilton.platform.config import Config, load_config
from neural_hamilton.tune.search_spaces import Choices, Range, default_space, dump_space, parse_space

TASK, PLANE = Task((100,), ((0.0, 1.0),), 2.0), Task((12, 12), ((0.0, 1.0),) * 2, 2.0)


def with_space(space: dict) -> Config:
    return load_config(overrides={"architecture.name": "deeponet", "sweep.space": space})


@pytest.mark.parametrize(
    ("name", "preset"), [(name, preset) for name in available_architectures() for preset in get_architecture(name).Config.presets]
)
def test_every_corner_of_the_shipped_space_builds(name: str, preset: str) -> None:
    config = load_config(overrides={"architecture.name": name, "architecture.preset": preset})
    space = parse_space(config)
    assert {"training.learning_rate", "training.weight_decay", "training.batch_size"} <= set(space)
    sizes = {key: domain for key, domain in space.items() if key.startswith("architecture.")}
    assert not sizes or len(sizes) >= 3
    corners = [domain.values if isinstance(domain, Choices) else (domain.low, domain.high) for domain in sizes.values()]
    with torch.device("meta"):
        combinations = list(itertools.product(*corners))
        for values in random.Random(0).sample(combinations, min(40, len(combinations))):
            architecture = config.override(dict(zip(sizes, values, strict=True))).architecture
            build_operator(architecture, TASK if name != "fieldnet" else PLANE)


def test_an_architecture_without_a_space_varies_the_optimiser() -> None:
    assert set(default_space("newcomer")) == {"training.learning_rate", "training.weight_decay", "training.batch_size"}


def test_types_follow_the_configuration() -> None:
    space = parse_space(
        with_space(
            {
                "training.learning_rate": {"low": "1e-3", "high": 1, "log": True},  # YAML reads 1e-3 as text
                "architecture.width": {"low": 4, "high": 8},
                "training.schedule": {"choices": ["cosine", "constant"]},
            }
        )
    )
    assert space["training.learning_rate"] == Range(1e-3, 1.0, log=True, integer=False)
    assert space["architecture.width"] == Range(4, 8, log=False, integer=True)
    assert space["training.schedule"] == Choices(("cosine", "constant"))
    assert parse_space(with_space(dump_space(space))) == space


def test_suggestions_stay_inside() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    integer, choice = Range(4, 6, log=False, integer=True), Choices((16, 32))
    for _ in range(20):
        trial = study.ask()
        assert integer.suggest(trial, "a") in (4, 5, 6)
        assert choice.suggest(trial, "b") in (16, 32)


@pytest.mark.parametrize(
    ("key", "form", "words"),
    [
        ("training.learning_ratee", {"low": 1, "high": 2}, ["training.learning_ratee", "did you mean learning_rate"]),
        ("training.learning_rate", {"low": 2, "high": 1}, ["training.learning_rate", "low < high"]),
        ("training.learning_rate", {"low": 0.1, "high": float("inf")}, ["low < high"]),
        ("training.learning_rate", {"low": 0, "high": 1}, ["training.learning_rate", "greater than 0"]),
        ("training.weight_decay", {"low": 0, "high": 1, "log": True}, ["training.weight_decay", "0 < low"]),
        ("training.weight_decay", {"low": 0, "high": 1, "log": "yes"}, ["training.weight_decay"]),
        ("training.batch_size", {"low": 1.5, "high": 4}, ["training.batch_size", "1.5"]),
        ("training.batch_size", {"min": 1, "max": 4}, ["training.batch_size", "{low:", "{choices:"]),
        ("training.batch_size", {"choices": []}, ["training.batch_size", "one or more"]),
        ("training.batch_size", {"choices": [16, 16]}, ["different"]),
        ("training.schedule", {"choices": ["linear"]}, ["training.schedule", "linear", "cosine"]),
        ("training.schedule", {"low": 1, "high": 2}, ["training.schedule"]),
        ("training.epochs", {"low": 1, "high": 2}, ["training.epochs", "sweep.epochs"]),
        ("architecture.name", {"choices": ["deeponet", "mambonet"]}, ["architecture.name", "--arch"]),
        ("architecture.preset", {"choices": ["default", "published"]}, ["architecture.preset", "--set architecture.preset"]),
        ("data.seed", {"low": 1, "high": 2}, ["data.seed", "architecture and training"]),
        ("width", {"low": 1, "high": 2}, ["width", "architecture and training"]),
        ("training", {"choices": [1]}, ["training"]),
        ("architecture.width.deep", {"choices": [1]}, ["architecture.width.deep"]),
    ],
)
def test_a_bad_space_is_refused(key: str, form: dict, words: list[str]) -> None:
    with pytest.raises(InputError) as refusal:
        parse_space(with_space({key: form}))
    for word in ["sweep.space", *words]:
        assert word in str(refusal.value)
