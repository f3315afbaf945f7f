"""Labels that come back from another tool: what a reader gives for an image, and what it draws them on."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from emerdiff.settings import check_regular, one_line, show
from ovseg.draw import Colour
from ovseg.export.image import has_background
from ovseg.files import MAX_MAP_PIXELS

BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    KeyError,
    TypeError,
    IndexError,
    zlib.error,
)  # of Pillow's decoder


@dataclass(frozen=True, eq=False)
class Canvas:
    """The image that labels are drawn for. standing: (H, W), its labels as they are, indices into the run's names."""

    names: tuple[str, ...]
    no_label: int
    standing: np.ndarray

    @property
    def size(self) -> tuple[int, ...]:
        return self.standing.shape

    def index(self, name: str) -> int:
        """The index of a class. Raises ValueError for a name that is none of the run's."""
        if name not in self.names:
            raise ValueError(f"its class {show(name)} is none of the run's: {', '.join(self.names[:8])}")
        return self.names.index(name)

    def blank(self) -> np.ndarray:
        """(H, W) int64: no pixel has a label."""
        return np.full(self.size, self.no_label, np.int64)

    def unpainted(self) -> np.ndarray:
        """(H, W) int64: what nothing is drawn on in tools that draw regions alone: background where there is one, but
        no label where there was none, which these tools cannot tell apart."""
        base = self.blank()
        if has_background(self.names):
            base[self.standing != self.no_label] = 0
        return base

    def check_size(self, height: object, width: object) -> None:
        """Raise ValueError unless this is the image's size."""
        if (height, width) != tuple(self.size):
            raise ValueError(
                f"its labels are of {show(width)}x{show(height)} pixels, the image is {self.size[1]}x{self.size[0]}"
            )


@dataclass(frozen=True, eq=False)
class Returned:
    """Labels of one image. name: as the tool has it, an id or a file's name, perhaps in folders. draw: makes the map
    (H, W) of indices into the run's names, or raises ValueError. who, when: where the tool says so."""

    name: str
    draw: Callable[[Canvas], np.ndarray]
    who: str | None = None
    when: str | None = None


def read_colours(data: bytes) -> np.ndarray:
    """(H, W, 3) uint8: the pixels of a PNG, its palette applied. Raises ValueError for anything else."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            if picture.width * picture.height > MAX_MAP_PIXELS:
                raise ValueError(f"{picture.width} x {picture.height} pixels")
            return np.array(picture.convert("RGB"))
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot be read as a PNG ({one_line(error)})") from error


def by_colours(pixels: np.ndarray, classes: Mapping[Colour, str], canvas: Canvas) -> np.ndarray:
    """(H, W) int64 of the pixels (H, W, 3) of a class mask. classes: colour -> name, of which "ignored" is no label,
    and "background" what is not painted in a run without one. Raises ValueError for a colour that is none of them."""
    canvas.check_size(*pixels.shape[:2])
    codes = pixels.astype(np.int64) @ (1 << 16, 1 << 8, 1)
    labels, known = canvas.unpainted(), np.zeros(canvas.size, bool)
    if "ignored" in classes.values() and has_background(canvas.names):
        labels[:] = 0  # no label is told apart from background
    for (red, green, blue), name in classes.items():
        here = codes == (red << 16) + (green << 8) + blue
        known |= here
        if name == "ignored":
            labels[here] = canvas.no_label
        elif name != "background" and here.any():
            labels[here] = canvas.index(name)
    if not known.all():
        colour = tuple(pixels[~known][0].tolist())
        raise ValueError(f"holds the colour {colour}, which labelmap.txt has not")
    return labels


def text_of(path: Path, most: int) -> str:
    """A text file of at most so many bytes. Raises ValueError, naming it, for a larger one, or one that is no UTF-8."""
    check_regular(path)
    if (size := path.stat().st_size) > most:
        raise ValueError(f"{path}: {size} bytes, expected at most {most}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no UTF-8 text ({one_line(error)})") from error
