"""Rows that were made elsewhere: an ensemble in name only, as nothing is known of how they were drawn."""

from dataclasses import dataclass, field

from ..errors import InputError
from .base import Drawn, Ensemble, State
from .draws import Draws


@dataclass(frozen=True)
class Imported(Ensemble):
    """Trajectories that were imported: no Hamiltonian but what the sensors read, no certificate, and no further rows."""

    name = "imported"
    content: str = field(default="", metadata={"description": "hash of the source and of how it was read"})
    initial_state: tuple[State, State] | None = field(default=None, metadata={"description": "(q0, p0) where all rows have the same"})

    @property
    def fixed_initial_state(self) -> tuple[State, State] | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.initial_state

    def draw(self, draws: Draws, num_times: int) -> Drawn:
        raise InputError("ensemble 'imported' holds rows that were made elsewhere; none can be drawn: choose another ensemble")

    def describe(self) -> str:
        return "The trajectories were made elsewhere and imported. How their potentials and initial states were chosen is not known here."
