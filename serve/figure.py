"""A matplotlib figure that a notebook shows without pyplot, whose state and backend belong to the user."""

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


class OrbitFigure(Figure):
    """What `Orbit.plot` returns."""

    def __init__(self, figsize: tuple[float, float], layout: str) -> None:
        super().__init__(figsize=figsize, layout=layout)  # pyright: ignore[reportArgumentType]
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png", dpi=100)
        return content.getvalue()
