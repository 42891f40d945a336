"""The `data` section of the configuration, alone: a process that only makes rows need not load the networks."""

from dataclasses import fields
from functools import cached_property
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, PlainSerializer, TypeAdapter, ValidationError, model_validator

from ...physics import InputError
from ...physics.systems import Ensemble, System, get_system

_MAX_SENSORS = 10_000  # along one axis
_MOST_FILES = 100_000  # of a split


class Section(BaseModel):
    """A part of the tree; unknown keys and numbers that are not finite are errors, and values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(Section):
    """What a dataset is made of. Rows depend on every field but the counts and `shard_rows`.

    Keys that are left out take the system's defaults: its first ensemble, its usual sensors and its own solver.
    """

    system: str = Field(default="well", description="the Hamiltonian system")
    ensemble: Annotated[Any, PlainSerializer(lambda ensemble: ensemble.dump())] = Field(
        description="the distribution of problems: its `name`, and any of its own keys"
    )
    train: int = Field(default=0, ge=0, description="rows of the training split")
    val: int = Field(default=0, ge=0, description="rows of the validation split")
    test: int = Field(default=0, ge=0, description="rows of the test split")
    sensors: int | tuple[int, ...] = Field(description="sensors along every axis, or along each")
    times: int = Field(default=100, ge=3, le=10_000, description="query times of a trajectory")
    seed: int = Field(default=0, ge=0, lt=2**63, description="of all random draws")
    noise: float = Field(default=0.0, ge=0, description="standard deviation of the noise on the sensors")
    dtype: Literal["float32", "float64"] = Field(default="float32", description="of the tensor columns")
    integrator: str = Field(description="how rows are solved; every method certifies by the same rule")
    tolerance: float = Field(default=1e-9, gt=0, description="largest certified error of a row that is kept")
    shard_rows: int = Field(default=5000, ge=1, description="rows of one Parquet file")

    @classmethod
    def usual(cls) -> "DataConfig":
        """All defaults."""
        return cls.model_validate({})

    @model_validator(mode="wrap")
    @classmethod
    def _resolve(cls, values: Any, handler: ModelWrapValidatorHandler["DataConfig"]) -> "DataConfig":
        """Fill in what the system decides, and turn the ensemble's keys into the ensemble."""
        if not isinstance(values, dict):
            return handler(values)
        system = get_system(str(values.get("system", "well")))
        defaults = {"ensemble": next(iter(system.ensembles)), "sensors": system.default_sensors, "integrator": system.methods[0]}
        resolved = defaults | values
        config = handler(resolved | {"ensemble": _read_ensemble(system, resolved["ensemble"])})
        config.model_fields_set.intersection_update(values)  # what the system decided, nobody has set
        return config

    @model_validator(mode="after")
    def _fits_the_system(self) -> "DataConfig":
        system = self.get_system()
        system.check_method(self.integrator)
        shape = self.sensor_shape
        if len(shape) != system.degrees_of_freedom:
            raise ValueError(f"sensors is {list(shape)}; system {self.system!r} has {system.degrees_of_freedom} axes")
        for split, rows in self.counts.items():
            if rows > _MOST_FILES * self.shard_rows:
                most = _MOST_FILES * self.shard_rows
                raise ValueError(f"{split} is {rows}; with {self.shard_rows} rows in a file at most {most} are possible: raise shard_rows")
        if not all(system.fewest_sensors <= count <= _MAX_SENSORS for count in shape):
            raise ValueError(f"sensors is {self.sensors}; give {system.fewest_sensors} to {_MAX_SENSORS} along each axis")
        return self

    def get_system(self) -> System:
        """The system by its name."""
        return get_system(self.system)

    @property
    def distribution(self) -> Ensemble:
        """The ensemble, typed."""
        return cast(Ensemble, self.ensemble)

    def with_ensemble(self, values: dict[str, Any], key: str) -> "DataConfig":
        """The same section with another ensemble, given as a mapping; InputError calls it `key`."""
        return self.model_copy(update={"ensemble": _read_ensemble(self.get_system(), values, key)})

    def given_ensemble(self) -> dict[str, Any]:
        """Plain values of the ensemble: its name, and the keys that differ from its defaults."""
        usual = DataConfig.model_validate({"system": self.system, "ensemble": self.distribution.name})
        values, defaults = (config.model_dump(mode="json", include={"ensemble"})["ensemble"] for config in (self, usual))
        return {key: value for key, value in values.items() if key == "name" or value != defaults[key]}

    @property
    def counts(self) -> dict[str, int]:
        """Rows of each split."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @cached_property
    def sensor_shape(self) -> tuple[int, ...]:
        """Sensors along each axis."""
        if isinstance(self.sensors, int):
            return (self.sensors,) * self.get_system().degrees_of_freedom
        return self.sensors


def _read_ensemble(system: System, value: Any, key: str = "data.ensemble") -> Ensemble:
    """An ensemble from its name, or from a mapping with a `name` and any of its keys."""
    if isinstance(value, Ensemble):
        return value
    keys = {"name": value} if isinstance(value, str) else value
    if not isinstance(keys, dict):
        raise InputError(f"{key} is {value!r}; give the name of an ensemble, or a mapping of its keys")
    keys = dict(keys)
    kind = system.get_ensemble(str(keys.pop("name", next(iter(system.ensembles)))), key)
    known = ["name", *(field.name for field in fields(kind))]
    unknown = [name for name in keys if name not in known]
    if unknown:
        raise InputError(f"{key}.{unknown[0]} is not a known key; ensemble {kind.name!r} has {', '.join(known)}")
    try:
        return TypeAdapter(kind).validate_python(keys)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join([key, *(str(part) for part in problem["loc"])])
        message = problem["msg"].removeprefix("Value error, ")
        given = "" if problem["type"] == "value_error" else f" is {problem['input']!r}"
        raise InputError(f"{place}{given or ':'}{'; ' if given else ' '}{message}") from None


def start_data(values: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """The section that dotted overrides leave standing: another system or ensemble starts from its own defaults."""
    system = overrides.get("data.system", values.get("system"))
    if system != values.get("system"):
        values = {key: value for key, value in values.items() if key not in ("ensemble", "sensors", "integrator")}
    ensemble = values.get("ensemble")
    if isinstance(ensemble, str):
        ensemble = {"name": ensemble}
    name = overrides.get("data.ensemble.name")
    if isinstance(ensemble, dict) and name is not None and ensemble.get("name", name) != name:
        ensemble = {}
    return values if ensemble is None else values | {"ensemble": ensemble}
