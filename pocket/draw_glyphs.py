"""Draws the world's glyphs once, out of the Noto Color Emoji font, as PNG files.

    python -m pocket.draw_glyphs /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf

The PNGs ship with the package, so nobody needs the font; this file says where they came from.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pocket.world import GLYPH_FOLDER

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
SIZE = 109  # the only size the font's bitmaps come in


def draw(character: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """One emoji as an RGBA image, cropped to what is drawn and centred on a square."""
    canvas = Image.new("RGBA", (2 * SIZE, 2 * SIZE))
    ImageDraw.Draw(canvas).text((SIZE // 2, SIZE // 2), character, font=font, embedded_color=True)
    drawn = canvas.crop(canvas.getbbox())
    side = max(drawn.size)
    square = Image.new("RGBA", (side, side))
    square.paste(drawn, ((side - drawn.width) // 2, (side - drawn.height) // 2))
    return square


def main() -> None:
    font = ImageFont.truetype(sys.argv[1], SIZE)
    Path(GLYPH_FOLDER).mkdir(exist_ok=True)
    for name, character in EMOJI.items():
        draw(character, font).save(GLYPH_FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
