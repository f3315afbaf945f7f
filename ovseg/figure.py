"""The figure of `ovseg explain`: how the method came to an image's masks and labels, in the manner of EmerDiff's paper.

Panels: the image, its low-resolution masks, what naive and what modulated upsampling make of them, the labels where
there are classes, and the difference maps of the largest masks. A mask has one colour in all panels; its number is the
one `ovseg masks` gives it. Drawn with matplotlib, which loads when a figure is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from emerdiff.options import settings
from ovseg import __version__
from ovseg.draw import Colour, distinct_colours, paint
from ovseg.images import check_array
from ovseg.result import Segmentation
from ovseg.sheet import INK, RULE, Sheet, require_matplotlib, shares

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from emerdiff import Segments

MAPS, ACROSS = 8, 4  # difference maps that are shown at most, and in one row
PANEL, TALLEST = 2.3, 3.0  # inches: a panel's width, and its height at most
MARGIN, GAP = 0.4, 0.2  # inches: around the figure, and between panels
TITLE, HEADING, CAPTION, FOOTER = 0.42, 0.62, 0.25, 0.55  # inches: of the lines over panels, over maps, and at the end
ROW, SWATCH = 0.21, 0.11  # inches: a line of the legend, and its patch of colour
LARGEST_SIDE = 640  # pixels of a panel's picture
TILE = 28  # pixels of a cell of the low-resolution masks, the white line to the next one included
LONGEST_TITLE, LONGEST_NAME = 26, 24  # letters
SATURATION = 99.5  # percentile of the difference maps that is drawn black
GREYS = "Greys"  # of matplotlib's colour maps: white to black


def explain_figure(
    image: np.ndarray,
    segments: Segments,
    result: Segmentation | None = None,
    *,
    title: str = "Image",
    models: Mapping[str, str] | None = None,
) -> Figure:
    """How an image's masks, and its labels if there are any, came about.

    image: (H, W, 3) uint8 RGB. segments: of this image, with `Options.keep_difference_maps`. result: labels of the
    same masks. title: of the first panel. models: what to say of the weights, such as `Segmenter.models`.
    Returns a matplotlib figure; `ovseg.sheet.figure_bytes` makes a file of it, and `figure.savefig` works too. Raises
    ValueError for segments of another size or without difference maps, or where matplotlib is not installed.
    """
    require_matplotlib()
    check_array(image)
    if segments.difference_maps is None:
        raise ValueError("segments: expected ones with difference maps, see Options.keep_difference_maps")
    sizes = {image.shape[:2], segments.labels.shape, *([result.labels.shape] if result else [])}
    if len(sizes) > 1:
        raise ValueError(f"image, segments and labels: expected one size, got {sorted(sizes)}")
    width, height = _panel_size(image.shape[:2])
    largest, colours = _by_size(segments)
    panels = _panels(image, segments, result, title, colours)
    rows = -(-min(MAPS, len(largest)) // ACROSS)
    sheet = Sheet(
        2 * MARGIN + len(panels) * (PANEL + GAP) - GAP,
        2 * MARGIN + TITLE + height + GAP + HEADING + rows * (CAPTION + height + GAP) + FOOTER - 0.3,
    )
    for index, (heading, remark, picture) in enumerate(panels):
        sheet.heading(_left(index), MARGIN + 0.12, heading)
        sheet.text(_left(index), MARGIN + 0.3, remark)
        sheet.axes(_left(index), MARGIN + TITLE, width, height).imshow(picture, aspect="auto")
    top = MARGIN + TITLE + height + GAP
    _draw_maps(sheet, top, (width, height), segments, largest[:MAPS], colours)
    if result is not None:
        _draw_legend(sheet, top, rows * (CAPTION + height + GAP), result)
    _draw_footer(sheet, segments, models or {})
    return sheet.figure


def _left(column: int) -> float:
    return MARGIN + column * (PANEL + GAP)


def _panel_size(size: tuple[int, ...]) -> tuple[float, float]:
    """Width and height of a picture of (H, W) pixels, in inches."""
    height = min(TALLEST, PANEL * size[0] / size[1])
    return height * size[1] / size[0], height


def _by_size(segments: Segments) -> tuple[np.ndarray, list[Colour]]:
    """Mask ids, those with most pixels first, and the colour of each id: the clearest go to the largest."""
    pixels = np.bincount(segments.labels.ravel(), minlength=int(segments.low_resolution_masks.max()) + 1)
    order = np.argsort(-pixels, kind="stable")
    palette = distinct_colours(len(order))
    return order, [palette[rank] for rank in np.argsort(order)]


def _panels(
    image: np.ndarray, segments: Segments, result: Segmentation | None, title: str, colours: Sequence[Colour]
) -> list[tuple[str, str, np.ndarray]]:
    """The first row: heading, remark and RGB picture of each panel."""
    from emerdiff import naive_segments

    grid = segments.low_resolution_masks
    tiles = np.array(colours, np.uint8)[grid].repeat(TILE, axis=0).repeat(TILE, axis=1)
    tiles[TILE::TILE] = tiles[:, TILE::TILE] = 255
    naive = naive_segments(grid, image.shape[:2])
    panels = [
        (_short(title, LONGEST_TITLE), f"{image.shape[1]} × {image.shape[0]} pixels", _small(image)),
        (
            "Low-resolution masks",
            f"{grid.shape[1]} × {grid.shape[0]} queries at t_f = {segments.feature_timestep}, {len(colours)} clusters",
            tiles,
        ),
        ("Naive masks", "these clusters, upsampled bilinearly", _painted(image, naive, colours)),
        ("Modulated masks", "each pixel to the mask that moves it most", _painted(image, segments.labels, colours)),
    ]
    if result is not None:
        panels.append(("Labels", "the best class of each mask", _painted(image, result.labels, result.colours)))
    return panels


def _small(image: np.ndarray) -> np.ndarray:
    shrink = max(1, -(-max(image.shape[:2]) // LARGEST_SIDE))
    return np.asarray(Image.fromarray(image).reduce(shrink))


def _painted(image: np.ndarray, labels: np.ndarray, colours: Sequence[Colour]) -> np.ndarray:
    """`draw.paint` at a panel's size."""
    from emerdiff.image import nearest

    small = _small(image)
    return np.asarray(paint(small, nearest(labels, small.shape[:2]), colours))


def _short(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def _draw_maps(
    sheet: Sheet,
    top: float,
    size: tuple[float, float],
    segments: Segments,
    largest: np.ndarray,
    colours: Sequence[Colour],
) -> None:
    """Heading, scale, and a panel for each of the largest masks."""
    maps, grid = segments.difference_maps, segments.low_resolution_masks
    assert maps is not None  # `explain_figure` has seen to it
    black = max(float(np.percentile(maps[largest], SATURATION)), 1e-6)
    which = f"the {len(largest)} largest masks" if len(largest) < len(maps) else "all masks"
    sheet.heading(MARGIN, top + 0.2, f"Difference maps of {which}")
    remark, windows = "How far each pixel moves when the outlined low-resolution mask is nudged down and up", ""
    if segments.options.speed != "exact":
        remark = "How far each place of the latent moves when the outlined low-resolution mask is nudged up"
        windows = "; along the photo's edges"
    sheet.text(MARGIN, top + 0.38, f"{remark}, at t_m = {segments.modulation_timestep}{windows}")
    _draw_scale(sheet, top + 0.31, black)
    for index, mask in enumerate(largest):
        left = _left(index % ACROSS)
        at = top + HEADING + (index // ACROSS) * (CAPTION + size[1] + GAP)
        share = float((segments.labels == mask).mean())
        sheet.box(left, at - 0.09, SWATCH, SWATCH, colours[mask])
        sheet.text(left + 0.17, at, f"mask {mask}", INK)
        sheet.text(left + max(size[0], 1.8), at, f"{_percent(share)} of the image", ha="right")
        axes = sheet.axes(left, at + 0.08, *size)
        axes.imshow(maps[mask], cmap=GREYS, vmin=0, vmax=black, extent=(0, 1, 1, 0), aspect="auto")
        axes.spines[:].set(visible=True, color=RULE, linewidth=0.5)
        _outline(axes, grid == mask, colours[mask], thick=min(1.4, 24 * size[0] / grid.shape[1]))


def _draw_scale(sheet: Sheet, top: float, black: float) -> None:
    """What white and black mean, at the right end of the maps' heading."""
    right = _left(ACROSS) - GAP
    axes = sheet.axes(right - 1.5, top, 1.1, 0.07)
    axes.imshow(np.linspace(0, 1, 256)[None], cmap=GREYS, vmin=0, vmax=1, aspect="auto")
    axes.spines[:].set(visible=True, color=RULE, linewidth=0.5)
    sheet.text(right - 1.56, top + 0.07, "RGB distance   0", ha="right")
    sheet.text(right, top + 0.07, f"≥ {black:.2f}", ha="right")


def _outline(axes: Axes, mask: np.ndarray, colour: Colour, thick: float) -> None:
    """Draw the border of a mask (h, w) bool on axes from 0 to 1, so many points thick, on a white one twice that."""
    from matplotlib.collections import LineCollection

    height, width = mask.shape
    framed = np.pad(mask, 1)
    across = np.argwhere(framed[1:, 1:-1] != framed[:-1, 1:-1]) / (height, width)
    down = np.argwhere(framed[1:-1, 1:] != framed[1:-1, :-1]) / (height, width)
    lines = [((x, y), (x + 1 / width, y)) for y, x in across] + [((x, y), (x, y + 1 / height)) for y, x in down]
    for ink, points in (("white", 2 * thick), (shares(colour), thick)):
        axes.add_collection(LineCollection(lines, colors=[ink], linewidths=points, capstyle="projecting"))


def _draw_legend(sheet: Sheet, top: float, room: float, result: Segmentation) -> None:
    """The classes that occur, largest first, as many as there is room for: colour, name, share of the image, score."""
    left, right = _left(ACROSS), _left(ACROSS) + PANEL
    rows = sorted((row for row in result.summary() if row["pixels"]), key=lambda row: -row["pixels"])
    most = int(room / ROW)
    shown = rows if len(rows) <= most else rows[: most - 1]
    sheet.heading(left, top + 0.2, "Classes")
    sheet.text(right - 0.5, top + 0.38, "share", ha="right")
    sheet.text(right, top + 0.38, "score", ha="right")
    for index, row in enumerate(shown):
        at = top + HEADING + index * ROW
        sheet.box(left, at - 0.09, SWATCH, SWATCH, result.colours[row["index"]])
        sheet.text(left + 0.17, at, _short(row["name"], LONGEST_NAME), INK)
        sheet.text(right - 0.5, at, _percent(row["share"]), ha="right")
        sheet.text(right, at, f"{row['score']:.2f}", ha="right")
    if len(shown) < len(rows):
        sheet.text(left + 0.17, top + HEADING + len(shown) * ROW, f"and {len(rows) - len(shown)} more")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "<1 %"


def _draw_footer(sheet: Sheet, segments: Segments, models: Mapping[str, str]) -> None:
    t_f, t_m = segments.feature_timestep, segments.modulation_timestep
    options = replace(segments.options, feature_timestep=t_f, modulation_timestep=t_m)
    remarks = [setting.footer(getattr(options, setting.field)) for setting in settings()]
    bottom = sheet.height - MARGIN
    sheet.box(MARGIN, bottom - 0.34, sheet.width - 2 * MARGIN, 0.006, RULE)
    sheet.text(MARGIN, bottom - 0.16, ", ".join(filter(None, remarks)))
    sheet.text(MARGIN, bottom, ", ".join(f"{kind} {name}" for kind, name in models.items()))
    sheet.text(sheet.width - MARGIN, bottom - 0.16, f"ovseg {__version__}", ha="right")
