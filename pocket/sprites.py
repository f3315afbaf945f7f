"""Objects of worlds 2 and 3: drawings from emoji families, posed and recoloured; colour says little about the class."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from ovseg.pocket.noise import smooth, triangle, value_noise
from ovseg.pocket.scene import GLYPH_FOLDER, SIZE

HELD_OUT = ("twemoji",)  # seen in the held-out split alone
TURN = 25  # degrees, the most an object is turned

# NTSC's luma and its two axes of colour: rotating the latter changes the hue.
TO_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))
TO_RGB = ((1.0, 0.956, 0.621), (1.0, -0.272, -0.647), (1.0, -1.106, 1.703))


@dataclass(frozen=True)
class Appearance:
    """Which drawings there are, and how they are coloured; shares are of objects."""

    families: tuple[str, ...]
    any_hue: float  # share (of colourings) that are turned to any hue; the others are turned slightly
    least_saturation: float  # as a factor; the most is 1.25
    two_colourings: float  # share coloured one way here and another way there
    camouflage: float  # share drawn to the colours that lie behind them
    pattern: float  # share with a pattern of their own


@cache
def drawings(name: str, families: tuple[str, ...]) -> tuple[Path, ...]:
    """The files that show `name`, in a fixed order."""
    return tuple(path for family in families for path in sorted((GLYPH_FOLDER / family).glob(f"{name}-*.png")))


@cache
def _pyramid(path: Path) -> tuple[np.ndarray, ...]:
    """A drawing at full size, at half, and at a quarter: (h, w, 4) uint8, colours times alpha, with a clear border."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGBA")).astype(np.int64)
    pixels[..., :3] = (pixels[..., :3] * pixels[..., 3:] + 127) // 255
    levels = []
    for _ in range(3):
        levels.append(np.pad(pixels, ((2, 2), (2, 2), (0, 0))).astype(np.uint8))
        pixels = np.pad(pixels, ((0, len(pixels) % 2), (0, pixels.shape[1] % 2), (0, 0)))
        pixels = (pixels[::2, ::2] + pixels[1::2, ::2] + pixels[::2, 1::2] + pixels[1::2, 1::2] + 2) // 4
    return tuple(levels)


def pose(path: Path, side: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A drawing mirrored or not, turned, its longer side `side` pixels: colour (3, h, w) 0..255, alpha (h, w) 0..1.

    Both float32. Bilinear, from the smallest level of the pyramid that is not smaller than the result.
    """
    levels = _pyramid(path)
    full = max(levels[0].shape[:2]) - 4
    level = 0 if 2 * side > full else 1 if 4 * side > full else 2
    source = levels[level]
    rows, columns = source.shape[:2]
    scale = full / (side * 2**level)  # pixels of the source a pixel of the result
    angle = math.radians(rng.uniform(-TURN, TURN))
    cos, sin = round(math.cos(angle), 6), round(math.sin(angle), 6)
    height = math.ceil((abs(cos) * (rows - 4) + abs(sin) * (columns - 4)) / scale) + 2
    width = math.ceil((abs(sin) * (rows - 4) + abs(cos) * (columns - 4)) / scale) + 2
    y = (np.arange(height, dtype=np.float32) - np.float32((height - 1) / 2)) * np.float32(scale)
    x = (np.arange(width, dtype=np.float32) - np.float32((width - 1) / 2)) * np.float32(scale)
    if rng.random() < 0.5:
        x = -x
    v = y[:, None] * np.float32(cos) + x * np.float32(sin) + np.float32((rows - 1) / 2)
    u = x * np.float32(cos) - y[:, None] * np.float32(sin) + np.float32((columns - 1) / 2)
    v, u = np.clip(v, 0, rows - 1.001), np.clip(u, 0, columns - 1.001)
    top, left = np.floor(v), np.floor(u)
    s, t = (v - top)[..., None], (u - left)[..., None]
    corner = top.astype(np.int64) * columns + left.astype(np.int64)
    flat = source.reshape(-1, 4).astype(np.float32)
    a, b, c, d = (flat[corner + step] for step in (0, 1, columns, columns + 1))
    above = a + t * (b - a)
    mixed = np.moveaxis(above + s * (c + t * (d - c) - above), -1, 0)
    alpha = mixed[3] * np.float32(1 / 255)
    return np.minimum(mixed[:3] / np.maximum(alpha, np.float32(1e-3)), 255), alpha


def dress(
    colour: np.ndarray,
    alpha: np.ndarray,
    behind: np.ndarray,
    light: tuple[float, float],
    appearance: Appearance,
    rng: np.random.Generator,
) -> np.ndarray:
    """Other colours for a posed drawing (3, h, w): hue, saturation, contrast, a pattern, shading; some as camouflage.

    behind: the scene where the object will be, (3, h, w). light: how much brighter it gets across and downwards.
    """
    plain, solid = colour, alpha >= 0.5
    colour = _recolour(plain, appearance, rng)
    if rng.random() < appearance.two_colourings:
        colour += _pattern(alpha.shape, rng) * (_recolour(plain, appearance, rng) - colour)
    if rng.random() < appearance.camouflage:
        mean = mean_colour(colour[:, solid])
        step = rng.uniform(8, 28) * rng.choice((-1, 1))  # grey levels, or it could not be seen at all
        target = mean + np.float32(rng.uniform(0.7, 1)) * (mean_colour(behind[:, solid]) + np.float32(step) - mean)
        colour = target + np.float32(rng.uniform(0.7, 1)) * (colour - mean)
    if rng.random() < appearance.pattern:
        colour *= 1 - np.float32(rng.uniform(0.15, 0.45)) * _pattern(alpha.shape, rng)
    down, across = (np.linspace(-0.5, 0.5, length, dtype=np.float32) for length in alpha.shape)
    strength = rng.uniform(0.3, 1.1)
    shade = 1 + np.float32(strength * light[1]) * down[:, None] + np.float32(strength * light[0]) * across
    return np.clip(colour * shade, 0, 255)


def _recolour(colour: np.ndarray, appearance: Appearance, rng: np.random.Generator) -> np.ndarray:
    """A turned hue, saturation, contrast, brightness."""
    turn = rng.uniform(-math.pi, math.pi) if rng.random() < appearance.any_hue else rng.uniform(-0.5, 0.5)
    saturation = rng.uniform(appearance.least_saturation, 1.25)
    cos, sin = round(saturation * math.cos(turn), 6), round(saturation * math.sin(turn), 6)
    luma, i, q = _mixed(TO_YIQ, list(colour))
    luma = 128 + np.float32(rng.uniform(0.6, 1.05)) * (luma - 128) + np.float32(rng.uniform(-38, 28))
    return np.stack(_mixed(TO_RGB, [luma, cos * i - sin * q, sin * i + cos * q]))


def _mixed(matrix: tuple[tuple[float, ...], ...], channels: list[np.ndarray]) -> list[np.ndarray]:
    """A matrix times three channels, written out: a library's product may round differently on another machine."""
    a, b, c = channels
    return [np.float32(row[0]) * a + np.float32(row[1]) * b + np.float32(row[2]) * c for row in matrix]


def mean_colour(pixels: np.ndarray) -> np.ndarray:
    """The mean of pixels (3, ...), (3, 1, 1) float32, summed as integers so that the order cannot matter."""
    sums = pixels.reshape(3, -1).astype(np.int64).sum(1)
    return (sums / max(1, pixels.size // 3)).astype(np.float32).reshape(3, 1, 1)


def _pattern(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Stripes, checks, spots, mottle or a passage from one side to the other: 0..1, (h, w) float32."""
    side = max(shape)
    field = value_noise(rng, rng.uniform(3, 9), size=side)[: shape[0], : shape[1]]
    y, x = (np.arange(length, dtype=np.float32) / side for length in shape)
    turn = rng.uniform(0, math.tau)
    cos, sin = np.float32(round(math.cos(turn), 6)), np.float32(round(math.sin(turn), 6))
    along, across = cos * y[:, None] + sin * x, cos * x - sin * y[:, None]
    waves = np.float32(rng.uniform(3, 8))
    kind = rng.integers(5)
    if kind == 0:  # stripes
        return smooth(np.clip(2 * triangle(along * waves + field * np.float32(0.5)) - np.float32(0.5), 0, 1))
    if kind == 1:  # checks
        return np.abs((triangle(along * waves) > 0.5) - (triangle(across * waves) > 0.5) * np.float32(1))
    if kind == 2:  # spots
        return np.clip(8 * (field - np.float32(0.55)), 0, 1)
    if kind == 3:
        return smooth(np.clip(0.5 + along - along[shape[0] // 2, shape[1] // 2], 0, 1))
    return field


def shadow(image: np.ndarray, box: tuple[int, int, int, int], rng: np.random.Generator) -> None:
    """Darkens the scene (3, SIZE, SIZE), in place, in a soft ellipse at the foot of an object's box (y, x, h, w)."""
    top, left, height, width = box
    y = (np.arange(SIZE, dtype=np.float32) - np.float32(top + rng.uniform(0.88, 0.98) * height)) / (0.2 * height)
    x = (np.arange(SIZE, dtype=np.float32) - np.float32(left + rng.uniform(0.4, 0.6) * width)) / (0.6 * width)
    soft = np.clip(1 - (y * y)[:, None] - x * x, 0, 1)
    image *= 1 - np.float32(rng.uniform(0.25, 0.6)) * soft
