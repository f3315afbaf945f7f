"""A figure on which places are told in inches from the top left corner, and its file: matplotlib without its state.

Quiet by construction: no axes, ticks or frames, one font (and another for letters that it lacks), and text that is
never read as mathematics.
"""

from __future__ import annotations

import io
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ovseg.draw import Colour
from ovseg.fonts import families

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 200
SUFFIXES = (".png", ".svg")
FONT = "DejaVu Sans"  # comes with matplotlib
INK, GREY, RULE = "#1f1f1f", "#6b6b6b", "#d9d9d9"


def require_matplotlib() -> None:
    """Raise ValueError, with the remedy, where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise ValueError("figures are drawn with matplotlib, which is not installed here: pip install matplotlib")


class Sheet:
    """An empty white figure of so many inches, to be filled."""

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor="white")

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """A bare rectangle to draw in."""
        place = (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        axes = self.figure.add_axes(place)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        return axes

    def text(self, left: float, baseline: float, words: str, colour: str = GREY, **more: Any) -> None:
        """One line of text on its baseline, small and grey if nothing else is said."""
        style: dict[str, Any] = {"size": 7, "family": families(words, FONT), "color": colour, "parse_math": False}
        self.figure.text(left / self.width, 1 - baseline / self.height, words, **(style | more))

    def heading(self, left: float, baseline: float, words: str) -> None:
        """One line of text in bold."""
        self.text(left, baseline, words, INK, size=9, weight="bold")

    def box(self, left: float, top: float, width: float, height: float, colour: str | Colour) -> None:
        """A filled rectangle."""
        self.axes(left, top, width, height).set_facecolor(colour if isinstance(colour, str) else shares(colour))


def shares(colour: Colour) -> tuple[float, float, float]:
    """A colour as matplotlib takes it: red, green and blue in 0..1."""
    red, green, blue = colour
    return red / 255, green / 255, blue / 255


def figure_bytes(figure: Figure, suffix: str) -> bytes:
    """A figure as the bytes of a file, suffix one of `SUFFIXES`. Nothing in them depends on the clock."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    silent = {"Software": None} if suffix == ".png" else {"Date": None, "Creator": None}
    with rc_context({"svg.hashsalt": "ovseg", "svg.fonttype": "path", "savefig.bbox": None}):
        figure.savefig(buffer, format=suffix[1:], dpi=DOTS_PER_INCH, metadata=silent)
    return buffer.getvalue()
