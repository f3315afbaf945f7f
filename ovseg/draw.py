"""Colours, and pictures to look at: an image under its coloured labels, with a legend of names.

Overlays are for eyes, not for machines: small images are enlarged and very large ones reduced, so that the legend can
be read. The exact indices are in the label PNG (`ovseg.result`). Text is drawn with Pillow's built-in font, or where
that lacks letters with one that has them (`ovseg.fonts`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib import import_module
from itertools import cycle, islice

import numpy as np
from PIL import Image, ImageDraw

from ovseg.fonts import Font, font_for

Colour = tuple[int, int, int]
BACKGROUND_COLOUR: Colour = (72, 72, 72)
NO_LABEL_COLOUR: Colour = (255, 255, 255)
NO_LABEL = "no label"  # what a legend calls it
SMALLEST_SIDE, LARGEST_SIDE = 512, 2048  # pixels of the drawn picture's longer side
FONT_SIZE, ROW_HEIGHT, SWATCH, MARGIN = 17, 26, 16, 10  # pixels of the legend
MOST_IN_TEXT, LETTERS_IN_TEXT = 4, 24  # labels in a line of text, and letters of each name
STRENGTH = 0.5  # share of the colour over the image
FIRST_COLOURS: tuple[Colour, ...] = (  # clear and calm on photos; what follows them is computed
    (226, 48, 60),
    (40, 168, 80),
    (30, 110, 220),
    (250, 208, 40),
    (150, 50, 180),
    (245, 130, 40),
    (60, 205, 225),
    (235, 90, 190),
    (140, 85, 40),
    (170, 225, 70),
    (20, 120, 120),
    (250, 180, 190),
)
_TO_CONES = np.array(  # linear sRGB to the cone responses of OKLab
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_OKLAB = np.array(  # their cube roots to lightness and two colour axes
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


@cache
def distinct_colours(count: int) -> tuple[Colour, ...]:
    """`count` colours, each as (R, G, B) in 0..255; the first n of them never depend on `count`.

    After `FIRST_COLOURS`, each colour is the one of the RGB cube farthest from all before it in the OKLab space
    (Ottosson 2020), where equal distances look equally different; greys and near-black are left out. They differ as
    long as there are any left, some thousands, and then begin again.
    """
    rgb, lab = _candidates()
    most = len(FIRST_COLOURS) + len(rgb)
    if count > most:
        return tuple(islice(cycle(distinct_colours(most)), count))
    chosen = list(FIRST_COLOURS[:count])
    nearest = np.full(len(rgb), np.inf)
    for colour in chosen:
        nearest = np.minimum(nearest, ((lab - _oklab(np.array([colour]))) ** 2).sum(axis=1))
    while len(chosen) < count:
        index = int(nearest.argmax())
        red, green, blue = (int(value) for value in rgb[index])
        chosen.append((red, green, blue))
        nearest = np.minimum(nearest, ((lab - lab[index]) ** 2).sum(axis=1))
    return tuple(chosen)


def class_colours(names: Sequence[str]) -> tuple[Colour, ...]:
    """One colour per name in order; `background` in front is dark grey, the classes then keep the colours they have
    without it."""
    if names and names[0] == "background":
        return (BACKGROUND_COLOUR, *distinct_colours(len(names) - 1))
    return distinct_colours(len(names))


@cache
def _candidates() -> tuple[np.ndarray, np.ndarray]:
    """(M, 3) coloured points of the RGB cube in 0..255 and their (M, 3) OKLab coordinates."""
    steps = np.linspace(0, 255, 16)
    rgb = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _oklab(rgb)
    kept = (np.hypot(lab[:, 1], lab[:, 2]) > 0.07) & (lab[:, 0] > 0.35)
    return rgb[kept].astype(np.int64), lab[kept]


def _oklab(rgb: np.ndarray) -> np.ndarray:
    """sRGB (M, 3) in 0..255 to OKLab (M, 3): lightness 0..1, then green-red and blue-yellow."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ _TO_CONES.T) @ _TO_OKLAB.T


def paint(
    image: np.ndarray | None, labels: np.ndarray, colours: Sequence[Colour], longest: int = LARGEST_SIDE
) -> Image.Image:
    """`image` (H, W, 3) uint8 blended with the colour of `labels` (H, W), each region outlined; None: colours alone.

    A label without a colour (no label: 255 or 65535) is drawn white. The longer side of the picture is at least 512
    pixels (enlarged by whole factors) and at most `longest`.
    """
    if image is not None and image.shape[:2] != labels.shape:
        raise ValueError(f"image {image.shape[:2]} and labels {labels.shape} differ in size")
    table = np.array([*colours, NO_LABEL_COLOUR], dtype=np.float32)
    height, width = labels.shape
    scale = max(1, -(-SMALLEST_SIDE // max(height, width)))
    scale = scale if max(height, width) <= longest else longest / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    rows = np.minimum((np.arange(size[1]) + 0.5) * height / size[1], height - 1).astype(int)
    columns = np.minimum((np.arange(size[0]) + 0.5) * width / size[0], width - 1).astype(int)
    drawn = labels[rows[:, None], columns[None, :]].astype(np.int64)
    colour = table[np.minimum(drawn, len(colours))]
    if image is None:
        mixed = colour.copy()
    else:
        photo = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
        mixed = (1 - STRENGTH) * photo + STRENGTH * colour
    outline = _outline(drawn)
    mixed[outline] = 0.35 * colour[outline]
    return Image.fromarray(np.clip(np.rint(mixed), 0, 255).astype(np.uint8))


def _outline(labels: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels whose right or lower neighbour has another label."""
    edge = np.zeros(labels.shape, dtype=bool)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1, :] |= labels[:-1, :] != labels[1:, :]
    return edge


def overlay(
    image: np.ndarray | None,
    labels: np.ndarray,
    names: Sequence[str],
    colours: Sequence[Colour],
    longest: int = LARGEST_SIDE,
) -> Image.Image:
    """The painted image with a legend below it: each label that occurs, its colour, name and share, largest first."""
    entries = [
        ((*colours, NO_LABEL_COLOUR)[index], (*names, NO_LABEL)[index], percent(pixels, labels.size))
        for index, pixels in label_counts(labels, len(names))
    ]
    return with_legend(paint(image, labels, colours, longest), entries)


def label_counts(labels: np.ndarray, names: int) -> list[tuple[int, int]]:
    """(index, pixels) of each label in a map (H, W) over so many names, largest first; index `names` is no label."""
    counts = np.bincount(np.minimum(labels, names).astype(np.int64).ravel(), minlength=names + 1)
    order = np.argsort(-counts, kind="stable")
    return [(int(index), int(counts[index])) for index in order if counts[index]]


def percent(pixels: int, whole: int) -> str:
    """A share above 0 in whole percent: 1 of 8 is "12%"; what would be "0%" is "<1%"."""
    return f"{100 * pixels / whole:.0f}%" if pixels * 200 > whole else "<1%"


def with_legend(picture: Image.Image, entries: Sequence[tuple[Colour, str, str]]) -> Image.Image:
    """`picture` on white, its legend below in as many columns as fit; an entry is (colour, name, remark)."""
    width = max(picture.width, SMALLEST_SIDE // 2)
    room = width - 3 * MARGIN - SWATCH
    fonts = [font_for(name, FONT_SIZE) for _, name, _ in entries]
    texts = [_shorten(name, remark, room, font) for (_, name, remark), font in zip(entries, fonts, strict=True)]
    longest = max(font.getlength(text) for font, text in zip(fonts, texts, strict=True))
    column = min(width - MARGIN, SWATCH + 3 * MARGIN + int(longest))
    columns = max(1, (width - MARGIN) // column)
    rows = -(-len(entries) // columns)
    canvas = Image.new("RGB", (width, picture.height + 2 * MARGIN + rows * ROW_HEIGHT), "white")
    canvas.paste(picture, ((width - picture.width) // 2, 0))
    pen = ImageDraw.Draw(canvas)
    for index, ((colour, _, _), text) in enumerate(zip(entries, texts, strict=True)):
        left = MARGIN + (index // rows) * column
        top = picture.height + MARGIN + (index % rows) * ROW_HEIGHT
        box = (left, top + 4, left + SWATCH, top + 4 + SWATCH)
        pen.rectangle(box, fill=colour, outline=(0, 0, 0))
        pen.text((left + SWATCH + MARGIN, top + ROW_HEIGHT // 2), text, fill=(0, 0, 0), font=fonts[index], anchor="lm")
    return canvas


def legend_html(
    labels: np.ndarray, names: Sequence[str], colours: Sequence[Colour], scores: Sequence[float | None]
) -> str:
    """The legend as an HTML table, names escaped: each label that occurs, its colour, name, share and score (0..1)."""
    rows = []
    for index, pixels in label_counts(labels, len(names)):
        patch = "background:#{:02x}{:02x}{:02x};width:1em".format(*(*colours, NO_LABEL_COLOUR)[index])
        score = (*scores, None)[index]
        texts = ((*names, NO_LABEL)[index], percent(pixels, labels.size), "" if score is None else f"{score:.2f}")
        rows.append(f'<tr><td style="{patch}"></td>{"".join(f"<td>{escape(text)}</td>" for text in texts)}</tr>')
    return f"<table><tr><th></th><th>name</th><th>share</th><th>score</th></tr>{''.join(rows)}</table>"


def share_text(labels: np.ndarray, names: Sequence[str]) -> str:
    """The largest labels with their shares as one short line in the names' order: "cat 12%, dog 5%, sofa 83%"."""
    counts, shown = label_counts(labels, len(names)), []
    for index, pixels in sorted(counts[:MOST_IN_TEXT]):
        name = " ".join((*names, NO_LABEL)[index].split())
        name = name if len(name) <= LETTERS_IN_TEXT else f"{name[:LETTERS_IN_TEXT]}..."
        shown.append(f"{name} {percent(pixels, labels.size)}")
    if len(counts) > MOST_IN_TEXT:
        shown.append(f"and {len(counts) - MOST_IN_TEXT} more")
    return ", ".join(shown)


def show(picture: Image.Image) -> None:
    """Show a picture: in a notebook below its cell, elsewhere in the system's viewer. RuntimeError without either."""
    from PIL import ImageShow  # which loads IPython, where there is one

    ipython = sys.modules.get("IPython")  # which a notebook has loaded
    shell = ipython.get_ipython() if ipython else None
    if getattr(shell, "kernel", None) is not None:
        import_module("IPython.display").display(picture)
    elif not ImageShow.show(picture, "ovseg"):
        raise RuntimeError("no picture viewer was found here: save the picture to a file instead")


def _shorten(name: str, remark: str, room: int, font: Font) -> str:
    text = f"{name}  {remark}".rstrip()
    kept = name
    while font.getlength(text) > room and kept:
        kept = kept[:-1]
        text = f"{kept}...  {remark}".rstrip()
    return text
