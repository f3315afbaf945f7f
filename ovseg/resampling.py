"""Images resized as OpenCV's bilinear resampling of 8-bit images does it, bit by bit, and the sizes mmcv asks for.

Published code reads images through these two, and its labels depend on it. Checked against OpenCV 4.14 and 5.0 on
random images of random sizes; OpenCV itself is not needed. Positions are those of torch's bilinear kernel without
antialiasing, but weights have 11 bits, and pixels are combined in whole numbers: columns first, then rows.
"""

from __future__ import annotations

import numpy as np

WEIGHT_BITS = 11
DROPPED_BITS = 4  # of the columns' result, before rows are combined in 16 bits


def sides_within(size: tuple[int, int], short_side: int, long_side: int) -> tuple[int, int]:
    """(H, W) scaled to a shorter side, or to a limit of the longer one if that is less, as mmcv rounds it.

    long_side: 0 is no limit. sides_within((300, 451), 336, 2048) is (336, 505).
    """
    scale = short_side / min(size)
    if long_side:
        scale = min(scale, long_side / max(size))
    height, width = (max(1, int(side * scale + 0.5)) for side in size)
    return height, width


def resize_bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image (H, W, C) uint8 at another size, uint8: `cv2.resize` with INTER_LINEAR. No antialiasing."""
    height, width = image.shape[:2]
    pixels = image.astype(np.int32)
    if (height, width) == size:
        return image.copy()
    if (height, width) == (2 * size[0], 2 * size[1]):  # OpenCV takes the mean of four here
        total = pixels[0::2, 0::2] + pixels[1::2, 0::2] + pixels[0::2, 1::2] + pixels[1::2, 1::2]
        return ((total + 2) >> 2).astype(np.uint8)
    left, left_weight, right_weight = _neighbours(width, size[1])
    # Beyond the first and the last column OpenCV takes that column whole; beyond rows it weighs the same row twice.
    beyond = (left < 0) | (left >= width - 1)
    left_weight = np.where(beyond, 1 << WEIGHT_BITS, left_weight)[:, None]
    right_weight = np.where(beyond, 0, right_weight)[:, None]
    inside = np.clip(left, 0, width - 1)
    right = np.minimum(inside + 1, width - 1)
    rows = (pixels[:, inside] * left_weight + pixels[:, right] * right_weight) >> DROPPED_BITS
    top, upper_weight, lower_weight = _neighbours(height, size[0])
    upper = rows[np.clip(top, 0, height - 1)] * upper_weight[:, None, None] >> 16
    lower = rows[np.clip(top + 1, 0, height - 1)] * lower_weight[:, None, None] >> 16
    return np.clip((upper + lower + 2) >> 2, 0, 255).astype(np.uint8)


def _neighbours(pixels: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each wanted pixel along one side: the index of the pixel before it, -1 at least, and the weights of it and
    of the next one, which add up to 2^11 but for rounding."""
    scale = 1 / (wanted / pixels)  # in this order, as OpenCV rounds it
    position = ((np.arange(wanted) + 0.5) * scale - 0.5).astype(np.float32)
    before = np.floor(position)
    share = position - before
    one = np.float32(1 << WEIGHT_BITS)
    weights = (np.rint(part * one).astype(np.int32) for part in (np.float32(1) - share, share))
    return before.astype(np.int64), *weights
