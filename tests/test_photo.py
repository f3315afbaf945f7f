"""The preset for photographs, on the photographs that come with it: what is where, and which words it knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import run_here

from ovseg.presets import POCKET, PRESETS
from ovseg.segmenter import Segmenter

PHOTOS = Path(__file__).parent.parent / "examples/photos"
CLASSES = PHOTOS.with_suffix(".txt")
# Photo: places in it as shares of height and width, and the class that everybody sees there.
SEEN = {
    "cat": [((0.3, 0.5), "cat"), ((0.6, 0.6), "cat")],
    "coffee": [((0.12, 0.5), "cup"), ((0.1, 0.1), "background"), ((0.9, 0.95), "background")],
    "flower": [((0.4, 0.45), "flower"), ((0.6, 0.5), "flower"), ((0.05, 0.95), "background")],
}


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.from_preset("photo")


@pytest.mark.parametrize("name", SEEN)
def test_what_everybody_sees_is_named(segmenter: Segmenter, name: str) -> None:
    result = segmenter.label(PHOTOS / f"{name}.jpg", CLASSES.read_text().split("\n")[1:-1])
    for (y, x), expected in SEEN[name]:
        index = result.labels[int(y * result.labels.shape[0]), int(x * result.labels.shape[1])]
        assert result.names[index] == expected, (y, x)
    assert result.confidence.min() > 0 and result.confidence.max() <= 1


def test_a_contour_is_no_staircase(segmenter: Segmenter) -> None:
    """Masks are made at 256 pixels; on a photo four times that high a row differs from the next nearly everywhere."""
    photo = Image.open(PHOTOS / "flower.jpg").resize((1536, 1024))
    masks = segmenter.masks(np.asarray(photo)).labels
    assert masks is not None
    changed = (masks[1:] != masks[:-1]).any(axis=1)
    assert changed.mean() > 0.9  # by nearest neighbour three of four rows would be the row above


def test_words_it_does_not_know_are_refused_in_one_line(tmp_path: Path) -> None:
    photo, out = PHOTOS / "cat.jpg", tmp_path / "out"
    ended = run_here("label", photo, "--classes", "cat,zebbra", "--preset", "photo", "--out", out)
    assert ended.returncode == 2
    (line,) = (line for line in ended.stderr.splitlines() if "error" in line)
    assert "zebbra" in line and "zebra" in line


def test_all_embedded_weights_are_small() -> None:
    total = sum(path.stat().st_size for path in POCKET.rglob("*") if path.is_file())
    assert total <= 75e6 and PRESETS["photo"].megabytes < 40


def test_every_photo_has_a_licence() -> None:
    named = (PHOTOS / "LICENSES.md").read_text()
    photos = sorted(path.name for path in PHOTOS.glob("*.jpg"))
    assert photos and all(f"| {name} |" in named for name in photos)
