"""The `data` section of the configuration, alone: a process that only makes rows need not load the networks."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ...physics import Ensemble


class Section(BaseModel):
    """A part of the tree; unknown keys and numbers that are not finite are errors, and values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(Section):
    """What a dataset is made of. Rows depend on every field but the counts and `shard_rows`."""

    preset: Literal["paper", "phase-space"] = "paper"
    train: int = Field(default=0, ge=0, description="rows of the training split")
    val: int = Field(default=0, ge=0, description="rows of the validation split")
    test: int = Field(default=0, ge=0, description="rows of the test split")
    sensors: int = Field(default=100, ge=4, le=10_000)
    times: int = Field(default=100, ge=3, le=10_000)
    seed: int = Field(default=0, ge=0, lt=2**63)
    noise: float = Field(default=0.0, ge=0, description="standard deviation of the noise on the sensors")
    dtype: Literal["float32", "float64"] = "float32"
    integrator: Literal["taylor", "dop853", "rk4"] = Field(default="taylor", description="how the truth is solved; all certify alike")
    tolerance: float = Field(default=1e-9, gt=0, description="largest certified error of a row that is kept")
    control_points: tuple[int, int] = Field(default=(2, 7), description="range of interior control points")
    length_scale: tuple[float, float] = Field(default=(0.01, 0.2), description="range of the field's length scale")
    depth: tuple[float, float] | None = Field(default=None, description="range of well depths; by default the preset's")
    shard_rows: int = Field(default=5000, ge=1, description="rows of one Parquet file")

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> "DataConfig":
        for name, least in (("control_points", 2), ("length_scale", 1e-6), ("depth", 0.1)):
            low, high = getattr(self, name) or (least, least)
            if not least <= low <= high:
                raise ValueError(f"{name} is ({low}, {high}); give {least} <= low <= high")
        return self

    @property
    def counts(self) -> dict[str, int]:
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def ensemble(self) -> Ensemble:
        return Ensemble(
            preset=self.preset,
            control_points=self.control_points,
            length_scale=self.length_scale,
            depth=self.depth,
            num_times=self.times,
            integrator=self.integrator,
            tolerance=self.tolerance,
        )
