"""OpenCV's bilinear resampling against OpenCV's own numbers, and against a slow version one pixel at a time."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg.resampling import resize_bilinear, sides_within

# What cv2.resize of OpenCV 4.14.0 and 5.0.0 gives of `pattern(3, 4, 37)` and `pattern(4, 6, 53)`.
OPENCV = {
    (3, 4, 37, 2, 3): [
        [[55, 92, 75], [149, 90, 127], [84, 89, 126]],
        [[145, 150, 133], [143, 84, 121], [142, 179, 56]],
    ],
    (3, 4, 37, 5, 7): [
        [[0, 37, 74], [39, 77, 113], [103, 140, 177], [166, 75, 112], [212, 11, 48], [129, 74, 111], [77, 114, 151]],
        [[75, 112, 47], [78, 115, 86], [83, 120, 150], [139, 99, 136], [184, 79, 116], [102, 84, 121], [50, 87, 124]],
        [[188, 225, 6], [136, 173, 46], [53, 90, 109], [99, 136, 173], [144, 181, 218], [61, 98, 135], [9, 46, 83]],
        [
            [147, 184, 119],
            [150, 132, 103],
            [155, 49, 79],
            [134, 95, 131],
            [114, 151, 177],
            [119, 156, 94],
            [122, 159, 42],
        ],
        [
            [120, 157, 194],
            [159, 105, 142],
            [223, 22, 59],
            [158, 67, 104],
            [94, 131, 149],
            [157, 194, 67],
            [197, 234, 15],
        ],
    ],
    (4, 6, 53, 2, 3): [
        [[109, 162, 87], [171, 96, 85], [105, 94, 147]],
        [[97, 86, 139], [95, 148, 137], [157, 146, 135]],
    ],
}


def pattern(height: int, width: int, factor: int) -> np.ndarray:
    return (np.arange(height * width * 3).reshape(height, width, 3) * factor % 256).astype(np.uint8)


@pytest.mark.parametrize(("case", "expected"), OPENCV.items())
def test_numbers_of_opencv(case: tuple[int, int, int, int, int], expected: list) -> None:
    *source, height, width = case
    assert resize_bilinear(pattern(*source), (height, width)).tolist() == expected


def one_pixel(image: np.ndarray, size: tuple[int, int], row: int, column: int) -> list[int]:
    """A pixel of the result, by whole numbers alone."""
    (height, width), (rows, columns) = image.shape[:2], size

    def taps(index: int, pixels: int, wanted: int) -> tuple[int, int, int]:
        position = np.float32((index + 0.5) * (1 / (wanted / pixels)) - 0.5)
        before = math.floor(position)
        share = np.float32(position - np.float32(before))
        return before, round(float((np.float32(1) - share) * np.float32(2048))), round(float(share * np.float32(2048)))

    top, upper, lower = taps(row, height, rows)
    left, near, far = taps(column, width, columns)
    if left < 0:
        left, near, far = 0, 2048, 0
    if left >= width - 1:
        left, near, far = width - 1, 2048, 0
    result = []
    for channel in range(3):
        sums = []
        for y in (top, top + 1):
            line = [int(value) for value in image[min(max(y, 0), height - 1), :, channel]]
            sums.append(line[left] * near + line[min(left + 1, width - 1)] * far)
        value = ((sums[0] // 16) * upper // 65536 + (sums[1] // 16) * lower // 65536 + 2) // 4
        result.append(min(max(value, 0), 255))
    return result


@settings(max_examples=60)
@given(st.tuples(*[st.integers(1, 12)] * 2), st.tuples(*[st.integers(1, 14)] * 2), st.integers(0, 2**32 - 1))
def test_every_pixel_against_a_slow_version(source: tuple[int, int], size: tuple[int, int], seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (*source, 3), dtype=np.uint8)
    if seed % 3 == 0:
        image = (image > 127).astype(np.uint8) * 255  # overflows show at the ends
    resized = resize_bilinear(image, size)
    assert resized.shape == (*size, 3) and resized.dtype == np.uint8
    if source == size:
        expected = image.tolist()
    elif source == (2 * size[0], 2 * size[1]):
        blocks = image.reshape(size[0], 2, size[1], 2, 3).astype(int)
        expected = ((blocks.sum(axis=(1, 3)) + 2) // 4).tolist()
    else:
        expected = [[one_pixel(image, size, row, column) for column in range(size[1])] for row in range(size[0])]
    assert resized.tolist() == expected


def test_it_is_a_bilinear_kernel_up_to_rounding() -> None:
    """Of a ramp the result is the ramp, between the first and the last sample."""
    ramp = np.repeat(np.arange(0, 250, 10, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(2, axis=0)
    wide = resize_bilinear(ramp, (2, 100))[0, :, 0].astype(float)
    exact = np.clip((np.arange(100) + 0.5) / 4 - 0.5, 0, 24) * 10
    assert np.abs(wide - exact).max() <= 1


def test_sides_as_mmcv_rounds_them() -> None:
    assert sides_within((300, 451), 336, 2048) == (336, 505)
    assert sides_within((375, 500), 336, 2048) == (336, 448)
    assert sides_within((200, 1400), 336, 2048) == (293, 2048)  # the longer side's limit holds
    assert sides_within((375, 500), 520, 520) == (390, 520)
    assert sides_within((333, 500), 448, 0) == (448, 673)
    for height, width in ((97, 211), (640, 427), (1024, 2048)):
        scale = min(Fraction(2048, max(height, width)), Fraction(560, min(height, width)))
        exact = tuple(math.floor(side * scale + Fraction(1, 2)) for side in (height, width))
        assert sides_within((height, width), 560, 2048) == exact
