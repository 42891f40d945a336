"""What every architecture has in common: fields at the sensors, query times and an initial state in; a trajectory out.

Shapes: B batch, S sensors, T query times, d degrees of freedom, K = 2d components of a state (q, p).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from ..physics.errors import InputError
from .layers.local_fields import LocalFields
from .task import Task

_MOST_WINDOWS = 200
_ROUNDING = 1e-9  # of a horizon that is a whole number of windows


class ArchitectureConfig(BaseModel):
    """Sizes of a network. Each architecture subclasses this and sets a literal `name`.

    `presets` names sets of values; `default` holds the fields' own defaults. A preset is resolved when the configuration is
    read, so the result holds plain sizes and no preset.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    presets: ClassVar[dict[str, dict[str, Any]]] = {"default": {}}

    name: str

    @property
    def queries_are_independent(self) -> bool:
        """Whether the prediction at one time is the same whatever other times are queried with it."""
        return True

    @property
    def initial_condition_is_exact(self) -> bool:
        """Whether the prediction at t = 0 is the initial state, to the last bit."""
        return True

    @property
    def built_in(self) -> str | None:
        """What of mechanics the network computes and need not learn, as a noun phrase; None where it learns all of it."""
        return None


class OperatorOutput(NamedTuple):
    """Predicted q and p, (B, T) for one degree of freedom and (B, T, d) for more, and a scalar auxiliary loss.

    The auxiliary loss is added to the training loss. It is zero for most networks, and for all of them in evaluation. It comes
    weighted; a trainer may multiply it by a schedule of its own, such as a warm-up.
    """

    q: Tensor
    p: Tensor
    auxiliary_loss: Tensor


class Operator(nn.Module, ABC):
    """A neural operator from fields at uniform sensors to the trajectory at any query times.

    Subclasses implement `predict`. Networks that predict q and p directly subclass `DirectOperator` and implement `free_part`.
    """

    Config: ClassVar[type[ArchitectureConfig]]
    potential_mean: Tensor
    potential_scale: Tensor

    def __init__(self, config: ArchitectureConfig, task: Task) -> None:
        super().__init__()
        self.config, self.task = config, task
        statistics = () if len(task.field_shape) == 1 else (task.channels, *(1 for _ in task.sensors))  # broadcast over the sensors
        self.register_buffer("potential_mean", torch.zeros(statistics))
        self.register_buffer("potential_scale", torch.ones(statistics))

    @classmethod
    def why_not(cls, config: ArchitectureConfig, task: Task) -> str | None:
        """Why a network of this configuration cannot be built for `task`, as the end of a sentence; None if it can."""
        return None

    @property
    def window(self) -> float | None:
        """Time that the network predicts at once, where it goes on from its own predictions beyond; None: the whole horizon."""
        return None

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights, and of the numbers that the network expects."""
        return self.potential_mean.dtype

    def set_normalisation(self, mean: float | Sequence[float] | Tensor, scale: float | Sequence[float] | Tensor) -> None:
        """Set the statistics of the fields over the training split, for all channels or for each; they are saved with the weights."""
        for buffer, value in ((self.potential_mean, mean), (self.potential_scale, scale)):
            numbers = torch.as_tensor(value, dtype=buffer.dtype, device=buffer.device).flatten()
            buffer.copy_(numbers.expand(buffer.numel()).reshape(buffer.shape))

    def normalise(self, fields: Tensor) -> Tensor:
        """Fields with mean 0 and standard deviation 1 over the training split."""
        return (fields - self.potential_mean) / self.potential_scale

    @abstractmethod
    def predict(self, fields: Tensor, times_BT: Tensor, initial_BK: Tensor) -> OperatorOutput:
        """The trajectories of a batch, whose shapes have been checked; `fields` are in their own units."""

    def forward(self, fields: Tensor, times: Tensor, initial: Tensor) -> OperatorOutput:
        """Predict the trajectories of B systems from initial states (B, 2d) = (q, p) at times (B, T).

        Parameters
        ----------
        fields
            (B, S) for V along one coordinate, else (B, C, S1, ...).
        times
            (B, T). Times (T,) or (1, T) stand for every row, as does a (B, T) that is expanded and holds one row in memory.
            What depends on them alone is then computed once instead of B times.
        initial
            (B, 2d), or (2d,) or (1, 2d) for every row. A network with a window also takes (B, T, 2d): a state for each query time,
            which is then the time since that state and at most the window.

        Raises
        ------
        ValueError
            Where the fields or the initial states do not have the shape that the network was built for.
        """
        task = self.task
        if initial.ndim == 3 and self.window is None:
            raise ValueError("initial states (B, T, 2d), one for each time, need a network with a window; give one for each row")
        if fields.shape[1:] != task.field_shape:
            raise ValueError(_wrong_fields(task, tuple(fields.shape)))
        if initial.shape[-1] != 2 * task.degrees_of_freedom:
            raise ValueError(f"initial state has {initial.shape[-1]} numbers; this network reads {2 * task.degrees_of_freedom}, q and p")
        times_BT = times.expand(fields.shape[0], -1)
        return self.predict(fields, times_BT, initial if initial.ndim == 3 else initial.expand(fields.shape[0], -1))

    def output(self, trajectory_BTK: Tensor, auxiliary_loss: Tensor) -> OperatorOutput:
        """A trajectory of states as q and p in the shapes that `OperatorOutput` promises."""
        if self.task.degrees_of_freedom == 1:
            return OperatorOutput(trajectory_BTK[..., 0], trajectory_BTK[..., 1], auxiliary_loss)
        q_BTd, p_BTd = trajectory_BTK.chunk(2, dim=-1)
        return OperatorOutput(q_BTd, p_BTd, auxiliary_loss)


def _wrong_fields(task: Task, shape: tuple[int, ...]) -> str:
    if len(task.field_shape) == len(shape) - 1 == 1:
        return f"potential has {shape[1]} sensors; this network reads {task.num_sensors}"
    wanted = ", ".join(map(str, task.field_shape))
    return f"fields have shape {shape}; this network reads (B, {wanted}): channels, then sensors along each coordinate"


class DirectConfig(ArchitectureConfig):
    """Keys of every network that predicts q and p directly: how the initial state enters."""

    hard_initial_condition: bool = Field(
        default=True, description="impose the initial state at t = 0 exactly; if false, the network learns it"
    )
    # With 0.4 MambONet's loss was 1.6 times as large, with powers of t 3 times.
    gate_time: float | None = Field(
        default=0.1,
        gt=0,
        description="time over which the imposed initial state gives way to the network; null: q0 + p0 t gives way to it, by powers of t, "
        "for unit mass. Without hard_initial_condition it must be null, and is by default",
    )
    patch_size: int = Field(
        default=1,
        ge=1,
        description="sensors along each coordinate that are read as one; must divide their number. A grid of n by n sensors becomes "
        "n²/patch_size² tokens, and so much cheaper",
    )
    window: float | None = Field(
        default=None,
        gt=0,
        description="time that the network predicts at once; beyond it, it starts again from the state that it has predicted. null: the "
        "whole horizon. Trained on pairs of states of a trajectory that are at most this far apart",
    )
    local_sensors: int = Field(
        default=0,
        ge=0,
        description="with a window, the network also reads the fields themselves on a grid of this many places along each coordinate, a "
        "sensor's spacing apart, with the state in the middle; an odd number, 0 for none",
    )

    @model_validator(mode="before")
    @classmethod
    def _no_gate_by_default_without_an_imposed_state(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("hard_initial_condition") is False:
            return {"gate_time": None} | values
        return values

    @model_validator(mode="after")
    def _a_gate_needs_an_imposed_state(self) -> Any:
        if self.gate_time is not None and not self.hard_initial_condition:
            raise ValueError(f"gate_time is {self.gate_time}; it must be null without hard_initial_condition, as nothing is imposed then")
        if self.window is not None and not self.hard_initial_condition:
            raise ValueError(f"window is {self.window}; without hard_initial_condition a trajectory would jump from window to window")
        if self.local_sensors and self.window is None:
            raise ValueError(f"local_sensors is {self.local_sensors}; it needs a window, as a whole trajectory leads away from its state")
        if self.local_sensors and self.local_sensors % 2 == 0:
            raise ValueError(f"local_sensors is {self.local_sensors}; it must be odd, so that the state is in the middle")
        return self

    @property
    def initial_condition_is_exact(self) -> bool:
        return self.hard_initial_condition

    @property
    def built_in(self) -> str | None:
        return (
            "the first instant, q0 + p0 t, of a particle of unit mass" if self.hard_initial_condition and self.gate_time is None else None
        )


class DirectOperator(Operator):
    """An operator whose network predicts q and p without any mechanics built in.

    Subclasses implement `read`, what depends on the fields, and `free_part`, the answer to queries. This class normalises the fields
    and imposes the initial state exactly:

        q(t) = q0 + g(t) a(t),    p(t) = p0 + g(t) b(t),    g(t) = 1 - exp(-t / gate_time),    (a, b) = free_part(...)

    The initial condition then holds to rounding and costs the network nothing. A gate that is soon 1 leaves errors as they
    are; powers of t would multiply them, but over a short window they divide them. With `gate_time: null` the trajectory is
    q0 + p0 t + t^2 a(t) and p0 + t b(t), for unit mass. With `hard_initial_condition: false` it is (a, b).

    With `window` the network is a flow map: the state at the end of a window is predicted from the one at its beginning, window by
    window, and all queries are then answered together, each from the beginning of its window. The fields are read once.
    """

    config: DirectConfig

    def __init__(self, config: DirectConfig, task: Task) -> None:
        super().__init__(config, task)
        self.patches = task.in_patches(config.patch_size)
        self.reach = task.horizon if config.window is None else config.window  # of one prediction
        self.local_fields = LocalFields(task, config.local_sensors) if config.local_sensors else None
        self.num_state_features = 2 * task.degrees_of_freedom  # of `with_near`
        if self.local_fields is not None:
            self.num_state_features += self.local_fields.num_features

    @property
    def window(self) -> float | None:
        return self.config.window

    @classmethod
    def why_not(cls, config: ArchitectureConfig, task: Task) -> str | None:
        assert isinstance(config, DirectConfig)
        try:
            task.in_patches(config.patch_size)
        except InputError as error:
            return str(error)
        if config.window is not None and not task.horizon / _MOST_WINDOWS <= config.window <= task.horizon:
            return f"window is {config.window:g}; it must lie between a {_MOST_WINDOWS}th of the horizon and the horizon, {task.horizon:g}"
        most = 2 * (min(task.sensors) // 2) - 1
        if config.local_sensors > most:
            return f"local_sensors is {config.local_sensors}; with {min(task.sensors)} sensors along a coordinate it is at most {most}"
        if config.hard_initial_condition and config.gate_time is None and task.channels > 1:
            return (
                "gate_time: null starts from q0 + p0 t, which needs unit mass, so that V is the only field; "
                f"this task has {_task_words(task)}. Give gate_time a number"
            )
        return None

    @abstractmethod
    def read(self, patches: Tensor, initial_BK: Tensor) -> tuple[Any, Tensor]:
        """What `free_part` needs to know of the normalised fields, which come in `self.patches`, and the auxiliary loss.

        With a window, nothing of it may depend on the initial state.
        """

    @abstractmethod
    def free_part(self, memory: Any, times_BT: Tensor, initial: Tensor, near: Tensor | None) -> Tensor:
        """What the network predicts, (B, T, 2d), from initial states (B, 2d), or with a window also (B, T, 2d).

        `near` holds the fields around these states, (B, 1 or T, `local_fields.num_features`); None without `local_sensors`.
        """

    def predict(self, fields: Tensor, times_BT: Tensor, initial_BK: Tensor) -> OperatorOutput:
        normalised = self.normalise(fields)
        read, auxiliary_loss = self.read(self.task.cut_into_patches(normalised, self.config.patch_size), initial_BK)
        memory = read, None if self.local_fields is None else self.local_fields.continue_fields(normalised)
        if self.window is not None and initial_BK.ndim == 2:
            times_BT, initial_BK = self._windows(memory, times_BT, initial_BK)
        return self.output(self._state_at(memory, times_BT, initial_BK), auxiliary_loss)

    def _windows(self, memory: tuple[Any, Tensor | None], times_BT: Tensor, initial_BK: Tensor) -> tuple[Tensor, Tensor]:
        """For each query the time since its window began, (B, T), and the state there, (B, T, 2d), predicted window by window."""
        states = [initial_BK]
        step_B1 = initial_BK.new_full((1, 1), self.reach).expand(len(initial_BK), 1)
        for _ in range(math.ceil(self.task.horizon / self.reach - _ROUNDING) - 1):
            states.append(self._state_at(memory, step_B1, states[-1])[:, 0])
        which_BT = (times_BT / self.reach).long().clamp(max=len(states) - 1)
        begin_BTK = torch.stack(states, dim=1).gather(1, which_BT.unsqueeze(-1).expand(-1, -1, initial_BK.shape[1]))
        return (times_BT - which_BT.to(initial_BK.dtype) * self.reach).clamp(min=0.0), begin_BTK

    def _state_at(self, memory: tuple[Any, Tensor | None], times_BT: Tensor, initial: Tensor) -> Tensor:
        """The states (B, T, 2d) at times since the initial ones. `memory` is what was read, and the continued fields."""
        (read, continued), near = memory, None
        if self.local_fields is not None:
            near = self.local_fields(continued, with_near(initial, None)[..., : self.task.degrees_of_freedom])
        free_BTK = self.free_part(read, times_BT, initial, near)
        if not self.config.hard_initial_condition:
            return free_BTK
        if self.config.gate_time is None:
            start_BTK, gate_BTK = _by_powers_of_t(times_BT, initial)
        else:
            start_BTK = initial if initial.ndim == 3 else initial.unsqueeze(1)
            gate_BTK = -torch.expm1(times_BT / -self.config.gate_time).unsqueeze(-1)
        return start_BTK + gate_BTK * free_BTK


def with_near(initial: Tensor, near: Tensor | None) -> Tensor:
    """States, (B, 1, 2d) or one for each time, and the fields around them where there are any, as one tensor of features."""
    state = initial if initial.ndim == 3 else initial.unsqueeze(1)
    return state if near is None else torch.cat([state, near], dim=-1)


def _by_powers_of_t(times_BT: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    """The trajectory that an imposed initial state starts from, and the gate of the free part; both broadcast to (B, T, 2d)."""
    t_BT1 = times_BT.unsqueeze(-1)
    q0, p0 = (initial if initial.ndim == 3 else initial.unsqueeze(1)).chunk(2, dim=-1)  # (B, T, d) or (B, 1, d)
    moved_BTd = q0 + t_BT1 * p0
    gates = t_BT1.square().expand_as(moved_BTd), t_BT1.expand_as(moved_BTd)
    return torch.cat([moved_BTd, p0.expand_as(moved_BTd)], dim=-1), torch.cat(gates, dim=-1)


def needs_one_coordinate(name: str, task: Task, max_channels: int | None = None) -> str | None:
    """Why an architecture that reads fields along one coordinate cannot be built for `task`; None if it can."""
    if task.degrees_of_freedom > 1 or (max_channels is not None and task.channels > max_channels):
        channels = "" if max_channels is None else f" and {max_channels} channel"
        return f"{name} supports one degree of freedom{channels}; this task has {_task_words(task)}"
    return None


def _task_words(task: Task) -> str:
    degrees, channels = task.degrees_of_freedom, task.channels
    return f"{degrees} degree{'s' * (degrees > 1)} of freedom and {channels} channel{'s' * (channels > 1)}"
