"""Draws a strip of a run's images: the photo, its masks and its labels with their names, for the README.

ovseg label examples/photos --preset photo --classes-file examples/photos.txt --out build/demo
python examples/strip.py build/demo cat coffee rocket flower palace --out examples/photos.jpg
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from ovseg.draw import distinct_colours
from ovseg.run.folder import read_run
from ovseg.run.images import RunImage
from ovseg.sheet import INK, Sheet, figure_bytes

HEIGHT, GAP, LINE = 1.5, 0.08, 0.19  # inches
SHADE = 0.35  # how much of the photo shows through the colours


def painted(photo: np.ndarray, ids: np.ndarray, colours: list[tuple[int, int, int]]) -> np.ndarray:
    """A photo (H, W, 3) uint8 under the colours of an index map (H, W); what has no colour stays."""
    known = ids < len(colours)
    table = np.array([*colours, (0, 0, 0)], float)
    mixed = SHADE * photo + (1 - SHADE) * table[np.where(known, ids, len(colours))]
    return np.where(known[..., None], mixed, photo).astype(np.uint8)


def panels(image: RunImage) -> tuple[list[np.ndarray], list[tuple[str, tuple[int, int, int]]]]:
    """The photo, its masks and its labels, each (H, W, 3) uint8; and name and colour of what the labels show."""
    labels, legend = image.index_map(), image.legend
    photo, masks = image.photo(labels.shape), image.masks(labels.shape)
    assert legend is not None and masks is not None
    order = np.argsort(np.argsort(-np.bincount(masks.ravel()), kind="stable"))
    mask_colours = distinct_colours(len(order))
    shares = np.bincount(labels.ravel(), minlength=len(legend.names))
    shown = [index for index in np.argsort(-shares, kind="stable") if shares[index] > 0 and index < len(legend.names)]
    names = [(legend.names[index], legend.colours[index]) for index in shown if legend.names[index] != "background"]
    pictures = [photo, painted(photo, order[masks], mask_colours), painted(photo, labels, list(legend.colours))]
    return pictures, names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("ids", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    run = read_run(given.run)
    found = [panels(RunImage(run, id)) for id in given.ids]
    widths = [HEIGHT * pictures[0].shape[1] / pictures[0].shape[0] for pictures, _ in found]
    sheet = Sheet(sum(widths) + GAP * (len(widths) + 1), 3 * (HEIGHT + GAP) + GAP + LINE)
    left = GAP
    for (pictures, names), width in zip(found, widths, strict=True):
        for row, picture in enumerate(pictures):
            sheet.axes(left, GAP + row * (HEIGHT + GAP), width, HEIGHT).imshow(picture, aspect="auto")
        at = left
        for name, colour in names:
            sheet.box(at, sheet.height - LINE + 0.02, 0.1, 0.1, colour)
            sheet.text(at + 0.14, sheet.height - LINE + 0.11, name, INK)
            at += 0.24 + 0.062 * len(name)
        left += width + GAP
    picture = Image.open(io.BytesIO(figure_bytes(sheet.figure, ".png"))).convert("RGB")
    picture.resize((1600, round(picture.height * 1600 / picture.width)), Image.Resampling.LANCZOS).save(given.out)


if __name__ == "__main__":
    main()
