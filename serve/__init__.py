"""The predictor, its HTTP interface and web page, and the Ray Serve application that runs them."""

from .predictor import Answer, Predictor, Query

__all__ = ["Answer", "Predictor", "Query"]
