"""Colours differ, overlays show the right colour at the right place, legends fit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ovseg.draw import (
    BACKGROUND_COLOUR,
    class_colours,
    distinct_colours,
    label_counts,
    overlay,
    paint,
    percent,
    share_text,
    with_legend,
)


def test_the_first_colours_do_not_depend_on_how_many_are_asked_for() -> None:
    many = distinct_colours(200)
    assert len(set(many)) == 200
    for count in (0, 1, 12, 13, 60):
        assert distinct_colours(count) == many[:count]


def test_colours_of_twenty_classes_can_be_told_apart() -> None:
    closest = min(np.abs(np.subtract(a, b)).sum() for a, b in itertools.combinations(distinct_colours(20), 2))
    assert closest >= 60


def test_classes_keep_their_colour_beside_a_background() -> None:
    assert class_colours(["background", "cat", "dog"]) == (BACKGROUND_COLOUR, *class_colours(["cat", "dog"]))


def test_when_all_colours_are_used_up_they_begin_again() -> None:
    colours = distinct_colours(10_000)
    assert len(colours) == 10_000
    most = len(set(colours))
    assert 1000 < most < 10_000
    assert colours[most:] == colours[: 10_000 - most]


def test_paint_mixes_half_and_half_and_outlines_regions() -> None:
    image = np.full((1, 600, 3), 100, np.uint8)
    labels = np.zeros((1, 600), np.uint8)
    labels[:, 300:] = 1
    painted = np.asarray(paint(image, labels, [(200, 0, 0), (0, 0, 200)]))
    assert painted.shape == (1, 600, 3)
    assert painted[0, 10].tolist() == [150, 50, 50]
    assert painted[0, 500].tolist() == [50, 50, 150]
    assert painted[0, 299].tolist() == [70, 0, 0]


def test_no_label_is_white_and_sizes_must_agree() -> None:
    painted = np.asarray(paint(np.zeros((600, 2, 3), np.uint8), np.full((600, 2), 255, np.uint8), [(1, 2, 3)]))
    assert (painted == 128).all()
    with pytest.raises(ValueError, match="differ in size"):
        paint(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8), [(1, 2, 3)])


@settings(max_examples=25)
@given(st.integers(1, 90), st.integers(1, 90))
def test_small_images_are_enlarged_by_whole_factors(height: int, width: int) -> None:
    labels = np.arange(height * width).reshape(height, width) % 7
    painted = paint(np.zeros((height, width, 3), np.uint8), labels, distinct_colours(7))
    scale = painted.height // height
    assert (painted.width, painted.height) == (width * scale, height * scale)
    assert 512 <= max(painted.size) < 512 + max(height, width)
    middle = np.asarray(painted)[scale // 2 :: scale, scale // 2 :: scale]
    inner = np.rint(np.array(distinct_colours(7), np.float32)[labels] / 2)
    if scale > 2:  # the middle of an enlarged pixel is never outline
        assert np.abs(middle - inner).max() <= 1


def test_large_images_are_reduced() -> None:
    assert paint(np.zeros((10, 4096, 3), np.uint8), np.zeros((10, 4096), np.uint8), [(1, 2, 3)]).size == (2048, 5)


def test_without_an_image_the_colours_are_plain() -> None:
    labels = np.zeros((600, 600), np.uint8)
    labels[:, 300:] = 255
    painted = np.asarray(paint(None, labels, [(200, 0, 10)]))
    assert painted[5, 10].tolist() == [200, 0, 10] and painted[5, 400].tolist() == [255, 255, 255]
    assert painted[5, 299].tolist() == [70, 0, 4]  # the outline: 0.35 of the colour


def test_the_longest_side_can_be_chosen() -> None:
    labels = np.zeros((600, 2400), np.uint8)
    assert paint(None, labels, [(1, 2, 3)], 1024).size == (1024, 256)
    assert overlay(None, labels, ["cat"], [(1, 2, 3)], 1024).width == 1024


def test_labels_are_counted_largest_first_with_no_label_last_of_the_indices() -> None:
    labels = np.array([[2, 2, 2, 0, 255, 255, 255, 255]], np.uint8)
    assert label_counts(labels, 3) == [(3, 4), (2, 3), (0, 1)]
    assert label_counts(np.array([[65535, 299]], np.uint16), 300) == [(299, 1), (300, 1)]
    assert share_text(labels, ["cat", "dog", "sofa"]) == "cat 12%, sofa 38%, no label 50%"


def test_shares_in_whole_percent() -> None:
    assert [percent(*share) for share in [(1, 8), (1, 200), (1, 199), (23, 40), (7, 7)]] == [
        "12%",
        "<1%",
        "1%",
        "58%",
        "100%",
    ]


def test_the_legend_shows_each_colour_that_occurs_and_no_other() -> None:
    colours = class_colours(["background", "cat", "dog"])
    labels = np.zeros((128, 128), np.uint8)
    labels[:, 64:] = 2
    picture = np.asarray(overlay(np.zeros((128, 128, 3), np.uint8), labels, ["background", "cat", "dog"], colours))
    legend = picture[512:].reshape(-1, 3)
    shown = {colour: int((legend == colour).all(axis=1).sum()) for colour in colours}
    assert shown[colours[0]] > 100 < shown[colours[2]]
    assert shown[colours[1]] == 0


def test_long_names_and_many_entries_stay_inside() -> None:
    entries = [((200, 10, 10), "an unreasonably long class name " * 5, "12%")] * 3
    picture = np.asarray(with_legend(Image.new("RGB", (300, 200)), entries))
    assert picture.shape[1] == 300
    assert (picture[200:, -5:] == 255).all()
    many = with_legend(Image.new("RGB", (512, 512)), [((9, 9, 200), f"class {i}", "1%") for i in range(150)])
    assert many.width == 512 and many.height < 512 + 150 * 26
