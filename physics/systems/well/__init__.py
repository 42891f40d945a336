"""A particle of unit mass in a random well between two walls: one degree of freedom, V(0) = V(1) = 2."""

from .system import SYSTEM, Well, Wells

__all__ = ["SYSTEM", "Well", "Wells"]
