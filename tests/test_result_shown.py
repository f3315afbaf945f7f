"""What a result shows and becomes: pictures decoded again, HTML parsed again, RGBA, detections, one line of text."""

from __future__ import annotations

import io
import sys
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageShow

from ovseg.draw import BACKGROUND_COLOUR, class_colours
from ovseg.result import Segmentation

PHOTO = np.full((600, 800, 3), 100, np.uint8)
SIDES = (slice(None), slice(0, 400)), (slice(None), slice(400, 800))  # left and right half


def halves(*names: str, image: np.ndarray | None = PHOTO, right: int = 1) -> Segmentation:
    """600 x 800 pixels: the left half is the first name with probability 0.75, the right half has index `right`."""
    labels = np.zeros((600, 800), np.uint8)
    labels[SIDES[1]] = right
    scores = np.full((2, len(names)), 0.25, np.float32)
    scores[0, 0] = 0.75
    masks = (np.arange(800) >= 400).astype(np.int32)[None].repeat(600, axis=0)
    return Segmentation(labels, names, class_colours(names), masks, scores, image=image)


def decoded(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def half_over(colour: tuple[int, int, int], grey: int = 100) -> list[float]:
    return [(channel + grey) / 2 for channel in colour]


class Page(HTMLParser):
    """The texts of a table's cells, the sources of pictures, and every tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.rows: list[list[str]] = []
        self.colours: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "src":
                self.sources.append(value or "")
            if tag == "td" and name == "style":
                self.colours.append(value or "")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        self.rows[-1][-1] += data


def test_the_overlay_is_drawn_on_its_own_image_on_another_or_on_none() -> None:
    result = halves("cat", "dog")
    cat, dog = result.colours
    own = np.asarray(result.overlay())
    assert np.abs(own[300, 100] - half_over(cat)).max() <= 0.5
    assert np.abs(own[300, 700] - half_over(dog)).max() <= 0.5
    other = np.asarray(result.overlay(Image.new("L", (800, 600), 200)))
    assert np.abs(other[300, 100] - half_over(cat, 200)).max() <= 0.5
    bare = np.asarray(replace(result, image=None).overlay())
    assert bare[300, 100].tolist() == list(cat) and bare[300, 700].tolist() == list(dog)
    assert own.shape == other.shape == bare.shape and own.shape[0] > 600  # with a legend
    with pytest.raises(ValueError, match="differ in size"):
        result.overlay(PHOTO[:10])


def test_a_notebook_gets_the_overlay_as_png() -> None:
    result = halves("cat", "dog")
    assert (decoded(result._repr_png_()) == np.asarray(result.overlay())).all()
    wide = np.zeros((30, 3000), np.uint8)
    large = Segmentation(
        wide, ("cat",), class_colours(["cat"]), None, None, pixel_scores=np.ones_like(wide, np.float32)
    )
    assert decoded(large._repr_png_()).shape[1] == 1024  # a notebook is one file
    assert large.overlay().width == 2048


def test_a_notebook_gets_the_picture_and_a_table_as_html() -> None:
    page = Page(halves("background", "cat", right=255)._repr_html_())
    (source,) = page.sources
    picture = decoded(b64decode(source.removeprefix("data:image/png;base64,"), validate=True))
    assert picture.shape == (600, 800, 3)  # the legend is the table
    assert np.abs(picture[300, 100] - half_over(BACKGROUND_COLOUR)).max() <= 0.5
    assert np.abs(picture[300, 700] - half_over((255, 255, 255))).max() <= 0.5
    assert page.rows == [
        ["", "name", "share", "score"],
        ["", "background", "50%", "0.75"],
        ["", "no label", "50%", ""],
    ]
    assert ["#484848" in page.colours[0], "#ffffff" in page.colours[1]] == [True, True]


def test_the_table_holds_names_largest_first_and_small_shares() -> None:
    result = halves("cat", "dog", "sofa", "lamp")
    result.labels[:500] = 2
    result.labels[599, 799] = 3
    rows = Page(result._repr_html_()).rows[1:]
    assert [row[1:3] for row in rows] == [["sofa", "83%"], ["cat", "8%"], ["dog", "8%"], ["lamp", "<1%"]]


def test_names_cannot_become_markup() -> None:
    names = ("<script>alert(1)</script>", "a & b</table>\"'")
    html = halves(*names)._repr_html_()
    page = Page(html)
    assert [row[1] for row in page.rows[1:]] == list(names)
    assert set(page.tags) == {"div", "img", "table", "tr", "th", "td"}


def test_show_opens_the_viewer_or_says_that_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Image.Image] = []

    class Viewer(ImageShow.Viewer):
        def show(self, image: Image.Image, **_: Any) -> int:
            opened.append(image)
            return 1

    monkeypatch.setattr(ImageShow, "_viewers", [Viewer()])
    monkeypatch.setitem(sys.modules, "IPython", None)
    result = halves("cat", "dog")
    result.show()
    assert (np.asarray(opened[0]) == np.asarray(result.overlay())).all()
    monkeypatch.setattr(ImageShow, "_viewers", [])
    with pytest.raises(RuntimeError, match="no picture viewer was found here"):
        result.show()


@pytest.mark.parametrize("kernel", [True, False])
def test_show_in_a_notebook_is_its_display(monkeypatch: pytest.MonkeyPatch, kernel: bool) -> None:
    shown: list[tuple[str, Image.Image]] = []

    class Viewer(ImageShow.Viewer):
        def show(self, image: Image.Image, **_: Any) -> int:
            shown.append(("viewer", image))
            return 1

    shell = SimpleNamespace(kernel=object()) if kernel else SimpleNamespace()  # IPython in a terminal has no kernel
    ipython, display = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython = lambda: shell  # type: ignore[attr-defined]
    display.display = lambda picture: shown.append(("notebook", picture))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(ImageShow, "_viewers", [Viewer()])
    result = halves("cat", "dog")
    result.show()
    ((where, picture),) = shown
    assert where == ("notebook" if kernel else "viewer")
    assert (np.asarray(picture) == np.asarray(result.overlay())).all()


def test_rgba_hides_the_background_and_what_has_no_label() -> None:
    result = halves("background", "cat")
    result.labels[0, 0] = 255
    rgba = result.to_rgba()
    assert rgba.shape == (600, 800, 4) and rgba.dtype == np.uint8
    assert rgba[0, 0].tolist() == [255, 255, 255, 0]
    assert rgba[300, 100].tolist() == [*BACKGROUND_COLOUR, 0]
    assert rgba[300, 700].tolist() == [*result.colours[1], 160]
    assert (result.to_rgba(255)[..., 3] == np.where(result["cat"], 255, 0)).all()
    assert not result.to_rgba(alpha=0)[..., 3].any()
    laid = Image.alpha_composite(Image.new("RGBA", (800, 600), (0, 0, 0, 255)), Image.fromarray(rgba))
    assert laid.getpixel((0, 0)) == (0, 0, 0, 255)
    for alpha in (-1, 256):
        with pytest.raises(ValueError, match=f"alpha: expected 0..255, got {alpha}"):
            result.to_rgba(alpha)


def test_rgba_of_a_16_bit_map() -> None:
    names = tuple(f"c{index}" for index in range(300))
    labels = np.array([[0, 255, 299, 65535]], np.uint16)
    result = Segmentation(labels, names, class_colours(names), None, None, pixel_scores=np.ones((1, 4), np.float32))
    expected = [[*result.colours[index], 160] for index in (0, 255, 299)] + [[255, 255, 255, 0]]
    assert result.to_rgba()[0].tolist() == expected


def with_dog() -> Segmentation:
    """Background and cat in halves, a dog of 20 x 10 pixels inside the right one; nobody is a cow."""
    result = halves("background", "cat", "dog", "cow")
    result.labels[100:120, 500:510] = 2
    return result


def test_detections_by_a_stand_in_for_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = ModuleType("supervision")
    stand_in.Detections = lambda **fields: SimpleNamespace(**fields)  # type: ignore[attr-defined]
    stand_in.mask_to_xyxy = lambda masks: np.arange(4 * len(masks)).reshape(-1, 4)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "supervision", stand_in)
    result = with_dog()
    detections: Any = result.to_detections()
    assert set(vars(detections)) == {"xyxy", "mask", "confidence", "class_id", "data"}
    assert detections.class_id.tolist() == [1, 2]
    assert detections.data["class_name"].tolist() == ["cat", "dog"]
    assert detections.mask.dtype == bool and (detections.mask == np.stack([result["cat"], result["dog"]])).all()
    assert detections.xyxy.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert np.allclose(detections.confidence, [0.25, 0.25])


def test_detections_of_supervision_itself() -> None:
    supervision = pytest.importorskip("supervision")
    detections = with_dog().to_detections()
    assert isinstance(detections, supervision.Detections) and len(detections) == 2
    assert detections.xyxy.tolist() == [[400, 0, 799, 599], [500, 100, 509, 119]]  # the last pixel is inside
    assert detections.area.tolist() == [600 * 400 - 200, 200]
    drawn = supervision.MaskAnnotator().annotate(PHOTO.copy(), detections)
    assert (drawn[:, :400] == PHOTO[:, :400]).all() and (drawn[300, 700] != PHOTO[300, 700]).any()
    nothing = halves("background", "cat", right=255).to_detections()
    assert len(nothing) == 0 and nothing.mask.shape == (0, 600, 800)


def test_without_supervision_the_remedy_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision") as raised:
        with_dog().to_detections()
    assert "\n" not in str(raised.value)


def test_a_broken_supervision_is_not_called_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "supervision.py").write_text("import absent_dependency")
    monkeypatch.delitem(sys.modules, "supervision", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="absent_dependency"):
        with_dog().to_detections()


def test_a_repr_is_one_short_line() -> None:
    assert repr(halves("cat", "dog", "sofa")) == "Segmentation(600x800, 3 names: cat 50%, dog 50%)"
    assert repr(halves("cat", right=255)) == "Segmentation(600x800, 1 name: cat 50%, no label 50%)"
    many = halves("a\nb", "c" * 500, *(f"name {index}" for index in range(98)))
    many.labels[:300, :200] = np.arange(1, 101)[None].repeat(2, axis=1).repeat(300, axis=0) % 100
    line = repr(many)
    assert line.startswith("Segmentation(600x800, 100 names: a b 38%, " + "c" * 24 + "... 50%, name 0 <1%")
    assert line.endswith("and 96 more)") and len(line) < 160 and "\n" not in line
