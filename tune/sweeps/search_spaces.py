"""What a sweep may vary: dotted configuration keys, each with a range or a list of choices, some only where others have certain values."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...physics import InputError
from ...platform.config import Config

_FORMS = "{low: 1.0e-4, high: 1.0e-2, log: true} or {choices: [16, 32, 64]}"
# Fixed by the dataset, by the sweep itself, or by what a sweep is: one architecture and one budget.
_FIXED = {
    "architecture.name": "sweep one architecture at a time with --arch",
    "architecture.preset": "choose it once, with --set architecture.preset=NAME",
    "training.epochs": "give the budget of a trial as sweep.epochs",
}
_EDGE = 0.05  # part of a range at either end
# Other keys of data would change the problems themselves, and with them what a loss means.
_OF_DATA = ("data.sensors", "data.noise")

_OPTIMISER = {
    "training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "training.weight_decay": {"low": 1e-6, "high": 1e-2, "log": True},
    "training.batch_size": {"choices": [32, 64, 128, 256]},
}
_DECODER: dict[str, dict[str, Any]] = {
    "architecture.d_model": {"choices": [32, 64, 128]},
    "architecture.num_heads": {"choices": [4, 8]},
    "architecture.num_decoder_layers": {"low": 1, "high": 4},
    "architecture.d_feedforward": {"choices": [256, 512, 1024]},
}
# Any two values of a space must fit together, in every preset: widths here are multiples of every number of heads.
_ARCHITECTURES: dict[str, dict[str, dict[str, Any]]] = {
    "deeponet": {
        "architecture.width": {"choices": [128, 256, 512]},
        "architecture.num_layers": {"low": 2, "high": 5},
        "architecture.num_channels": {"choices": [32, 64, 128]},
        "architecture.num_frequencies": {"choices": [8, 16, 32]},
    },
    "fieldnet": {
        "architecture.num_fine": {"choices": [37, 49, 61]},
        "architecture.width": {"choices": [8, 16, 32]},
        "architecture.num_layers": {"low": 2, "high": 5},
    },
    "fno": _DECODER
    | {
        "architecture.num_fourier_layers": {"low": 2, "high": 5},
        "architecture.num_modes": {"choices": [12, 16, 24, 32]},
    },
    "mambonet": _DECODER
    | {
        "architecture.num_mamba_layers": {"low": 2, "high": 6},
        "architecture.d_state": {"choices": [8, 16, 32]},
    },
    "orbitnet": {
        "architecture.d_model": _DECODER["architecture.d_model"],
        "architecture.num_shapes": {"choices": [4, 8, 12]},
        "architecture.num_mamba_layers": {"low": 2, "high": 6},
        "architecture.d_state": {"choices": [8, 16, 32]},
    },
    "traonet": _DECODER | {"architecture.num_encoder_layers": {"low": 1, "high": 4}},
    "varonet": {
        "architecture.hidden_size": {"choices": [32, 64, 128]},
        "architecture.latent_size": {"choices": [32, 64, 128]},
        "architecture.kl_weight": {"low": 1e-8, "high": 1e-3, "log": True},
    },
}


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; integers where the key holds one. `when` as in `suggest`."""

    low: float
    high: float
    log: bool
    integer: bool
    when: "When" = ()

    def suggest(self, trial: Any, key: str) -> Any:
        draw = trial.suggest_int if self.integer else trial.suggest_float
        return draw(key, self.low, self.high, log=self.log)

    def holds(self, value: Any) -> bool:
        """Whether `value` lies in the range."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high and not (self.integer and value != int(value))

    def edge(self, value: Any) -> str | None:
        """The end, lower or upper, from which `value` is less than a twentieth of the range away, or None."""
        low, high, at = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        fraction = (at - low) / (high - low)
        return "lower" if fraction <= _EDGE else "upper" if fraction >= 1 - _EDGE else None

    def extent(self) -> str:
        return f"range, {self.low:g} to {self.high:g}; widen it"

    def dump(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high, "log": self.log} | _dump_when(self.when)


@dataclass(frozen=True)
class Choices:
    """A finite list of unordered values. `when` as in `suggest`."""

    values: tuple[Any, ...]
    when: "When" = ()

    def suggest(self, trial: Any, key: str) -> Any:
        return trial.suggest_categorical(key, self.values)

    def holds(self, value: Any) -> bool:
        """Whether `value` is one of the choices."""
        return value in self.values

    def edge(self, value: Any) -> str | None:
        """The end, lower or upper, at which `value` stands among three or more numbers; None where choices have no order."""
        if len(self.values) < 3 or not all(isinstance(each, int | float) and not isinstance(each, bool) for each in self.values):
            return None
        return "lower" if value == min(self.values) else "upper" if value == max(self.values) else None

    def extent(self) -> str:
        return f"choices, {', '.join(map(str, self.values))}; add others beyond"

    def dump(self) -> dict[str, Any]:
        return {"choices": list(self.values)} | _dump_when(self.when)


When = tuple[tuple[str, tuple[Any, ...]], ...]  # keys, and the values one of which each must have
Space = dict[str, Range | Choices]


def suggest(space: Space, trial: Any) -> dict[str, Any]:
    """The parameters that an Optuna trial draws: those keys whose `when` holds, in the order of the space."""
    drawn: dict[str, Any] = {}
    for key, domain in space.items():
        if is_active(domain, drawn):
            drawn[key] = domain.suggest(trial, key)
    return drawn


def is_active(domain: Range | Choices, drawn: Mapping[str, Any]) -> bool:
    """Whether what was drawn before gives this key an effect."""
    return all(key in drawn and drawn[key] in values for key, values in domain.when)


def at_edges(space: Space, parameters: Mapping[str, Any]) -> list[str]:
    """A sentence for each parameter at an end of its range or of its choices: better values may lie beyond."""
    ends = [(key, value, space[key], space[key].edge(value)) for key, value in parameters.items()]
    return [f"{key} = {value:.4g} lies at the {end} end of its {domain.extent()}" for key, value, domain, end in ends if end]


def default_space(architecture: str) -> dict[str, dict[str, Any]]:
    """The shipped space in the form of `sweep.space`; the optimiser's settings alone for architectures registered elsewhere."""
    return _OPTIMISER | _ARCHITECTURES.get(architecture, {})


def parse_space(config: Config) -> Space:
    """`sweep.space`, or the shipped space where it is empty, checked against the configuration it will override.

    Raises
    ------
    InputError
        For a key that does not exist or may not vary, a value the key does not take, or another form.
    """
    forms = config.sweep.space or default_space(config.architecture.name)
    space: Space = {}
    for key, form in forms.items():
        space[key] = _parse(config, key, form, space)
    return space


def dump_space(space: Space) -> dict[str, Any]:
    """The space as plain values, with every default filled in."""
    return {key: domain.dump() for key, domain in space.items()}


def _dump_when(when: When) -> dict[str, Any]:
    return {"when": {key: list(values) for key, values in when}} if when else {}


def _parse(config: Config, key: str, form: dict[str, Any], before: Space) -> Range | Choices:
    if key in _FIXED:
        raise InputError(f"sweep.space has {key}, which a sweep cannot vary: {_FIXED[key]}")
    section = key.partition(".")[0]
    if section == "data" and key not in _OF_DATA:
        raise InputError(f"sweep.space has {key}; of data only {' and '.join(_OF_DATA)} can vary, and the rows as training.train_rows")
    if section not in ("architecture", "training", "data"):
        raise InputError(f"sweep.space has {key}; only keys of architecture, training and data can vary")
    when = _parse_when(key, form.get("when", {}), before)
    form = {name: value for name, value in form.items() if name != "when"}
    # A key that depends on another is checked with every value that gives it an effect.
    contexts = [dict(zip((name for name, _ in when), values, strict=True)) for values in itertools.product(*(each for _, each in when))]
    domains = [_parse_domain(config.override(context), key, form) for context in contexts]
    if section == "data" and not isinstance(domains[0], Choices):
        raise InputError(f"sweep.space {key} is a range; give it choices, each of which has a dataset of its own")
    return replace(domains[0], when=when)


def _parse_domain(config: Config, key: str, form: dict[str, Any]) -> Range | Choices:
    if set(form) == {"choices"}:
        return _parse_choices(config, key, form["choices"])
    if {"low", "high"} <= set(form) <= {"low", "high", "log"}:
        return _parse_range(config, key, form)
    raise InputError(f"sweep.space {key} is {form!r}; write {_FORMS}")


def _parse_when(key: str, form: Any, before: Space) -> When:
    if not isinstance(form, dict):
        raise InputError(f"sweep.space {key} has when: {form!r}; write the key it depends on, as in {{training.schedule: constant}}")
    parents = []
    for parent, value in form.items():
        domain, values = before.get(parent), tuple(value) if isinstance(value, list) else (value,)
        if not isinstance(domain, Choices):
            raise InputError(f"sweep.space {key} depends on {parent}, which must stand before it, with choices")
        strangers = [each for each in values if each not in domain.values]
        if strangers or not values:
            raise InputError(f"sweep.space {key} depends on {parent} = {value!r}; its choices are {', '.join(map(str, domain.values))}")
        parents.append((parent, values))
    return tuple(parents)


def _parse_choices(config: Config, key: str, values: Any) -> Choices:
    if not isinstance(values, list) or not values:
        raise InputError(f"sweep.space {key} has choices {values!r}; give a list of one or more values")
    accepted = tuple(_accept(config, key, value) for value in values)
    if any(isinstance(value, (list, dict)) for value in accepted) or len(set(accepted)) < len(accepted):
        raise InputError(f"sweep.space {key} has choices {values!r}; give different single values")
    return Choices(accepted)


def _parse_range(config: Config, key: str, form: dict[str, Any]) -> Range:
    refusal = InputError(f"sweep.space {key} is {form!r}; low and high must be numbers with low < high (0 < low with log: true)")
    if any(isinstance(form[end], float) and not math.isfinite(form[end]) for end in ("low", "high")):
        raise refusal
    low, high = (_accept(config, key, form[end]) for end in ("low", "high"))
    log = form.get("log", False)
    numbers = all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in (low, high))
    if not numbers or not isinstance(log, bool) or not low < high or (log and low <= 0):
        raise refusal
    return Range(low, high, log, integer=isinstance(low, int) and isinstance(high, int))


def _accept(config: Config, key: str, value: Any) -> Any:
    """The value as the configuration holds it once overridden: a number where the YAML had text such as 1e-3."""
    try:
        node: Any = config.override({key: value}).dump()
    except InputError as error:
        place = "sweep.space" if key in str(error) else f"sweep.space {key}"
        hint = "; write `when: {OTHER_KEY: VALUE}` where another key decides" if "no effect" in str(error) else ""
        raise InputError(f"{place}: {error}{hint}") from None
    for part in key.split("."):
        node = node[part]
    return node
