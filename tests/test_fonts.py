"""Class names in any script: a font that has the letters is found, or the name is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image

from ovseg import fonts
from ovseg.draw import with_legend

DOG, CAT = "犬", "बिल्ली"


def make_font(path: Path, letters: str) -> Path:
    """A font of these letters, each a triangle of its own height."""
    pens = {}
    for number, name in enumerate([".notdef", *(f"letter{place}" for place in range(len(letters)))]):
        pen = TTGlyphPen(None)
        if number:
            for act, point in ((pen.moveTo, (0, 0)), (pen.lineTo, (500, 0)), (pen.lineTo, (0, 300 + 100 * number))):
                act(point)
            pen.closePath()
        pens[name] = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(list(pens))
    builder.setupCharacterMap({ord(letter): f"letter{place}" for place, letter in enumerate(letters)})
    builder.setupGlyf(pens)
    builder.setupHorizontalMetrics(dict.fromkeys(pens, (600, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The font files that are found: matplotlib's, and what a test adds."""
    found = [fonts.font_files()[0]]
    monkeypatch.setattr(fonts, "font_files", lambda: tuple(found))
    fonts._path_for.cache_clear()
    yield found
    fonts._path_for.cache_clear()


def test_plain_latin_keeps_its_font_and_other_letters_get_one(system: list[str], tmp_path: Path) -> None:
    assert fonts.font_for("cat, dog 12%", 17).getname() == fonts.font_for("sofa", 17).getname()
    for text in ("café", "кошка", "γάτα", "قطة"):
        assert fonts.font_for(text, 17).getname()[0] == "DejaVu Sans"  # which comes with matplotlib
    assert fonts.undrawn(["cat", "café", DOG, "قطة", f"{DOG} cat"]) == [DOG, f"{DOG} cat"]
    system.append(str(make_font(tmp_path / "kanji.ttf", DOG)))
    system.append(str(make_font(tmp_path / "both.ttf", f"{DOG}cat")))
    fonts._path_for.cache_clear()
    assert fonts.undrawn([DOG, f"{DOG} cat", CAT]) == [CAT]
    assert fonts.font_for(DOG, 17).getname()[0] == "kanji"
    assert fonts.font_for(f"{DOG} cat", 17).getname()[0] == "both"


def test_a_damaged_font_is_passed_over(system: list[str], tmp_path: Path) -> None:
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    system[:0] = [str(tmp_path / "broken.ttf")]
    system.append(str(make_font(tmp_path / "kanji.ttf", DOG)))
    assert fonts.font_for(DOG, 17).getname()[0] == "kanji"


def test_legends_and_figures_use_the_font(system: list[str], tmp_path: Path) -> None:
    def legend() -> np.ndarray:
        return np.asarray(with_legend(Image.new("RGB", (300, 20)), [((200, 10, 10), DOG, "12%")]))

    boxes = legend()
    system.append(str(make_font(tmp_path / "kanji-of-a-test.ttf", f"{DOG}12%")))
    fonts._path_for.cache_clear()
    assert (boxes != legend()).any()
    assert fonts.families("cat", "DejaVu Sans") == ["DejaVu Sans"] == fonts.families("кошка", "DejaVu Sans")
    assert fonts.families(DOG, "DejaVu Sans") == ["DejaVu Sans", "kanji-of-a-test"]


def test_plain_fonts_are_looked_at_first() -> None:
    paths = [
        f"/f/{name}.ttf" for name in ("Zed-Bold", "Abc", "NotoSansCJK-Regular", "NotoSans-Bold", "NotoSans-Regular")
    ]
    order = [Path(path).stem for path in sorted(paths, key=fonts._rank)]
    assert order == ["NotoSansCJK-Regular", "NotoSans-Regular", "Abc", "NotoSans-Bold", "Zed-Bold"]
