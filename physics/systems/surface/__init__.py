"""A particle on a random surface."""

from .system import SYSTEM

__all__ = ["SYSTEM"]
