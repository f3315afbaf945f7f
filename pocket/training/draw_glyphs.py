"""Draws the worlds' glyphs once, as PNG files that ship with the package; this file says where they came from.

    python -m ovseg.pocket.training.draw_glyphs --font NotoColorEmoji.ttf   world 1: one drawing a noun
    python -m ovseg.pocket.training.draw_glyphs FOLDER FOLDER ...           worlds 2, 3: all of glyphs/GLYPHS.tsv

Each FOLDER is an emoji family as an unpacked `@iconify-json` package of npm: `icons.json` holds the drawings as SVG and
names the family (`prefix`), `package.json` its version. Versions and licences are in glyphs/README.md. Drawing SVG
takes the package `resvg_py`, which nothing else here needs.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ovseg.pocket.scene import GLYPH_FOLDER, OBJECTS

EMOJI = {
    "airplane": "✈️", "apple": "🍎", "ball": "⚽", "banana": "🍌", "bear": "🐻", "bee": "🐝",
    "bicycle": "🚲", "bird": "🐦", "boat": "⛵", "book": "📕", "bread": "🍞", "bus": "🚌",
    "butterfly": "🦋", "cactus": "🌵", "cake": "🎂", "car": "🚗", "castle": "🏰", "cat": "🐈",
    "chair": "🪑", "clock": "⏰", "cow": "🐄", "dog": "🐕", "duck": "🦆", "elephant": "🐘",
    "fish": "🐟", "flower": "🌻", "frog": "🐸", "guitar": "🎸", "hat": "🎩", "horse": "🐎",
    "house": "🏠", "key": "🔑", "lamp": "💡", "lion": "🦁", "mushroom": "🍄", "pig": "🐖",
    "pizza": "🍕", "rabbit": "🐇", "robot": "🤖", "rocket": "🚀", "shoe": "👟", "snail": "🐌",
    "strawberry": "🍓", "train": "🚂", "tree": "🌳", "truck": "🚚", "turtle": "🐢", "umbrella": "☂️",
}  # fmt: skip
FONT_SIZE = 109  # the only size the font's bitmaps come in
TABLE = GLYPH_FOLDER / "GLYPHS.tsv"  # noun, code point, family, name of the drawing in the family
SIDE = 112  # pixels, the longer side of a drawing of world 2


def draw_character(character: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """One emoji as an RGBA image, cropped to what is drawn and centred on a square."""
    canvas = Image.new("RGBA", (2 * FONT_SIZE, 2 * FONT_SIZE))
    ImageDraw.Draw(canvas).text((FONT_SIZE // 2, FONT_SIZE // 2), character, font=font, embedded_color=True)
    drawn = canvas.crop(canvas.getbbox())
    side = max(drawn.size)
    square = Image.new("RGBA", (side, side))
    square.paste(drawn, ((side - drawn.width) // 2, (side - drawn.height) // 2))
    return square


def svg(icons: dict[str, Any], name: str) -> str:
    """The SVG document of one drawing of an Iconify set. Raises ValueError where the set has none of that name."""
    if name not in icons["icons"]:
        raise ValueError(f"{icons['prefix']} has no drawing {name!r}, which {TABLE.name} asks for")
    icon = icons["icons"][name]
    left, top, width, height = (
        icon.get(key, icons.get(key, default))
        for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        f' viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>'
    )


def draw_svg(document: str) -> Image.Image:
    """An SVG document as an image of 256 colours and clear ones, cropped to what is drawn, `SIDE` pixels long."""
    import resvg_py

    first = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=document, width=4 * SIDE))))
    drawn = first.convert("RGBA").crop(first.getchannel("A").getbbox())
    scale = SIDE / max(drawn.size)
    size = (max(1, round(drawn.width * scale)), max(1, round(drawn.height * scale)))
    return _indexed(drawn.resize(size, Image.Resampling.LANCZOS))


def _indexed(image: Image.Image) -> Image.Image:
    """An RGBA image in 256 colours; what is all but solid or all but clear, which they mix up, becomes so again."""
    indexed = image.quantize(256, Image.Quantize.FASTOCTREE)
    colours = np.array(indexed.getpalette("RGBA")).reshape(-1, 4)
    colours[colours[:, 3] > 240, 3] = 255
    colours[colours[:, 3] < 10, 3] = 0
    indexed.putpalette(colours.ravel().tolist(), "RGBA")
    return indexed


def draw_font(path: Path) -> None:
    """World 1's glyphs, out of a font file."""
    font = ImageFont.truetype(path, FONT_SIZE)
    GLYPH_FOLDER.mkdir(exist_ok=True)
    for name, character in EMOJI.items():
        draw_character(character, font).save(GLYPH_FOLDER / f"{name}.png", optimize=True)


def draw_families(folders: list[Path]) -> None:
    """World 2's glyphs, as `FAMILY/NOUN-CODEPOINT.png`. Raises ValueError where the table names what is not there."""
    sets = {
        icons["prefix"]: icons for icons in (json.loads((folder / "icons.json").read_bytes()) for folder in folders)
    }
    with TABLE.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    missing = sorted({row["family"] for row in rows} - set(sets))
    if missing:
        raise ValueError(f"no folder was given of {', '.join(missing)}")
    for row in rows:
        if row["noun"] not in OBJECTS:
            raise ValueError(f"{TABLE}: {row['noun']!r} is no object of the world")
        path = GLYPH_FOLDER / row["family"] / f"{row['noun']}-{row['code point']}.png"
        path.parent.mkdir(exist_ok=True)
        draw_svg(svg(sets[row["family"]], row["icon"])).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m ovseg.pocket.training.draw_glyphs", description="Draw the worlds' glyphs."
    )
    parser.add_argument(
        "folders", type=Path, nargs="*", metavar="FOLDER", help="unpacked Iconify packages, for world 2"
    )
    parser.add_argument("--font", type=Path, help="the Noto Color Emoji font, for world 1")
    given = parser.parse_args()
    if bool(given.font) == bool(given.folders):
        parser.error("give either --font or folders")
    try:
        if given.font:
            draw_font(given.font)
        else:
            draw_families(given.folders)
    except (ImportError, OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
