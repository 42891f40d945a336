"""Search spaces: valid for every architecture as shipped, and refused with one clear sentence otherwise."""

import itertools
import random

import optuna
import pytest
import torch

from neural_hamilton.architectures import Task, available_architectures, build_operator, get_architecture
from neural_hamilton.physics import InputError
from neural_hamilton.platform.config import Config, load_config
from neural_hamilton.tune.sweeps.search_spaces import Choices, Range, at_edges, default_space, dump_space, parse_space, suggest

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
        ("data.seed", {"low": 1, "high": 2}, ["data.seed", "data.sensors and data.noise", "training.train_rows"]),
        ("data.noise", {"low": 0, "high": 1}, ["data.noise", "give it choices"]),
        ("data.noise", {"choices": [-1.0]}, ["data.noise", "-1.0"]),
        ("training.decay_fraction", {"low": 0.1, "high": 0.2}, ["no effect", "`when: {OTHER_KEY: VALUE}`"]),
        ("training.weight_decay", {"low": 0, "high": 1, "when": "cosine"}, ["when: 'cosine'"]),
        ("training.weight_decay", {"low": 0, "high": 1, "when": {"training.loss": "mse"}}, ["depends on training.loss", "before it"]),
        ("width", {"low": 1, "high": 2}, ["width", "architecture, training and data"]),
        ("training", {"choices": [1]}, ["training"]),
        ("architecture.width.deep", {"choices": [1]}, ["architecture.width.deep"]),
    ],
)
def test_a_bad_space_is_refused(key: str, form: dict, words: list[str]) -> None:
    with pytest.raises(InputError) as refusal:
        parse_space(with_space({key: form}))
    for word in ["sweep.space", *words]:
        assert word in str(refusal.value)


CONDITIONAL = {
    "training.schedule": {"choices": ["constant", "cosine", "warmup-stable-decay"]},
    "training.final_learning_rate": {
        "low": 1e-7,
        "high": 1e-5,
        "log": True,
        "when": {"training.schedule": ["cosine", "warmup-stable-decay"]},
    },
    "training.decay_fraction": {"choices": [0.1, 0.3], "when": {"training.schedule": "warmup-stable-decay"}},
}


def test_a_parameter_is_drawn_only_where_it_has_an_effect() -> None:
    config = with_space(CONDITIONAL)
    space = parse_space(config)
    assert parse_space(with_space(dump_space(space))) == space
    study, seen = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=5)), set()
    for number in range(30):
        trial = study.ask()
        drawn = suggest(space, trial)
        seen.add((drawn["training.schedule"], len(drawn)))
        config.override(drawn)  # which refuses keys without effect
        study.tell(trial, float(number % 3))
    assert seen == {("constant", 1), ("cosine", 2), ("warmup-stable-decay", 3)}


def test_a_condition_that_never_holds_is_refused() -> None:
    with pytest.raises(InputError, match=r"depends on training.schedule = 'linear'; its choices are constant"):
        parse_space(with_space(CONDITIONAL | {"training.decay_fraction": {"choices": [0.1], "when": {"training.schedule": "linear"}}}))
    with pytest.raises(InputError, match="training.decay_fraction"):  # with one of the values the key has no effect
        parse_space(with_space(CONDITIONAL | {"training.decay_fraction": {"choices": [0.1], "when": {"training.schedule": ["cosine"]}}}))


def test_values_at_the_end_of_a_range_are_named() -> None:
    space = {
        "a": Range(1e-4, 1e-2, log=True, integer=False),
        "b": Range(2, 5, log=False, integer=True),
        "c": Choices((1, 2)),
        "d": Choices((32, 8, 16)),
    }
    assert at_edges(space, {"a": 1.2e-4, "b": 5, "c": 1, "d": 32}) == [
        "a = 0.00012 lies at the lower end of its range, 0.0001 to 0.01; widen it",
        "b = 5 lies at the upper end of its range, 2 to 5; widen it",
        "d = 32 lies at the upper end of its choices, 32, 8, 16; add others beyond",
    ]
    assert at_edges(space | {"e": Choices(("adamw", "soap", "muon"))}, {"a": 1e-3, "b": 3, "d": 16, "e": "adamw"}) == []
