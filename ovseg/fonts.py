"""Fonts that have the letters of a class name: Pillow's own for plain Latin, matplotlib's, or one of this system's.

Which letters a font has is seen by drawing them: what it has not looks like a character that nobody has. Where no font
has a name's letters, they are drawn as boxes, and `undrawn` says which names these are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
NOBODYS = "\uffff"  # a character that no font has
PREFERRED = ("notosanscjk", "sourcehansans", "notosans", "arialuni", "dejavusans", "droidsansfallback", "msyh", "wqy")
LESS = ("mono", "serif", "italic", "oblique", "bold", "light", "black", "condensed", "emoji", "math")


def font_for(text: str, size: int) -> Font:
    """The first font that has all letters of a text, at a size in pixels; without one, the font that has most."""
    letters = frozenset(letter for letter in text if not letter.isspace())
    font = ImageFont.load_default(size)
    if all(letter.isascii() for letter in letters) or has_all(font, letters):
        return font
    path = _path_for(letters)
    return font if path is None else ImageFont.truetype(path, size)


def undrawn(names: Iterable[str]) -> list[str]:
    """The names of which no font here has all letters."""
    return [
        name for name in names if not has_all(font_for(name, 17), {letter for letter in name if not letter.isspace()})
    ]


def families(text: str, own: str) -> list[str]:
    """matplotlib's families for a text: `own`, which is DejaVu's, and behind it one that has what that lacks."""
    letters = frozenset(letter for letter in text if not letter.isspace())
    if all(letter.isascii() for letter in letters):
        return [own]
    from matplotlib import font_manager

    path = _path_for(letters)
    if path is None or path == font_files()[0]:
        return [own]
    font_manager.fontManager.addfont(path)
    return [own, font_manager.FontProperties(fname=path).get_name()]


def has_all(font: Font, letters: Iterable[str]) -> bool:
    """Whether a font has all of these letters."""
    return all(_has(font, letter) for letter in letters)


def _has(font: Font, letter: str) -> bool:
    drawn, missing = font.getmask(letter), font.getmask(NOBODYS)
    return drawn.size != missing.size or bytes(drawn) != bytes(missing)


@cache
def _path_for(letters: frozenset[str]) -> str | None:
    """The font file for these letters, looked for among all there are."""
    best, most = None, 0
    for path in font_files():
        try:
            font = ImageFont.truetype(path, 17)
            count = sum(_has(font, letter) for letter in letters)
        except (OSError, ValueError):  # a damaged font, or one that has no outlines
            continue
        if count == len(letters):
            return path
        if count > most:
            best, most = path, count
    return best


@cache
def font_files() -> tuple[str, ...]:
    """The font files of matplotlib and of this system, plain sans-serif ones first."""
    from matplotlib import font_manager, get_data_path

    own = Path(get_data_path(), "fonts/ttf/DejaVuSans.ttf")
    return (str(own), *sorted(_system(font_manager.findSystemFonts()), key=_rank))


def _system(paths: Iterable[str]) -> Iterator[str]:
    return (path for path in paths if Path(path).suffix.lower() in (".ttf", ".ttc", ".otf"))


def _rank(path: str) -> tuple[bool, int, str]:
    """Plain fonts before others, known ones before those, then by name."""
    name = Path(path).stem.lower().replace("-", "").replace("_", "").replace(" ", "")
    known = next((place for place, start in enumerate(PREFERRED) if name.startswith(start)), len(PREFERRED))
    return any(word in name for word in LESS), known, path
