"""Worlds 2 and 3: several drawings a noun, small and large, on one to three backgrounds; colour tells little."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ovseg.pocket.noise import fractal, smooth, value_noise
from ovseg.pocket.scene import BACKGROUNDS, NAMES, OBJECTS, SIZE, Scene
from ovseg.pocket.sprites import HELD_OUT, Appearance, drawings, dress, mean_colour, pose, shadow
from ovseg.pocket.textures import TEXTURES, X, Y

BACKGROUND_COUNTS = (0.35, 0.45, 0.2)  # shares of scenes with one, two and three backgrounds
ALIKE = 0.6  # share of further backgrounds whose mean colour is drawn to that of those before
SIDES = (20, 85)  # pixels, an object's longer side; as many between 20 and 40 as between 40 and 80
CLOSE_UP_SIDES = (75, 110)
HIDDEN = 0.5  # the largest share of an object that later ones may hide
DAPPLED = 0.7  # share of scenes with patches of light and shade over everything
SHADOW = 0.6  # share of objects with a shadow at their foot


@dataclass(frozen=True)
class Composition:
    """A world's parameters for objects: how they look and how many there are."""

    appearance: Appearance
    close_up: float  # share of scenes with one large object
    most: int  # objects in a scene without one; at least two


COMPOSITIONS = {  # by the world's number
    2: Composition(
        Appearance(
            families=("emojione", "fluent-emoji", "fxemoji", "noto", "noto-v1", "streamline-emojis"),
            any_hue=0.5,
            least_saturation=0.3,
            two_colourings=0.7,
            camouflage=0.75,
            pattern=0.5,
        ),
        close_up=0.15,
        most=6,
    ),
    3: Composition(
        Appearance(
            families=("noto", "noto-v1"),
            any_hue=0,
            least_saturation=0.6,
            two_colourings=0.3,
            camouflage=0.75,
            pattern=0.4,
        ),
        close_up=0.1,
        most=8,
    ),
}


def draw(rng: np.random.Generator, composition: Composition, held_out: bool) -> Scene:
    """A scene, determined by a fresh random state alone; with objects of the held-out family or not."""
    image, labels = _paint_backgrounds(rng)
    objects = _put_objects(image, labels, composition, HELD_OUT if held_out else composition.appearance.families, rng)
    seen = {NAMES[index] for index in np.unique(labels)}
    backgrounds = tuple(name for name in BACKGROUNDS if name in seen)
    return Scene(_photograph(image, rng), labels, tuple(dict.fromkeys(objects)), backgrounds)


def _put_objects(
    image: np.ndarray, labels: np.ndarray, composition: Composition, families: tuple[str, ...], rng: np.random.Generator
) -> list[str]:
    """Puts objects one over the other into image (3, SIZE, SIZE) and labels (SIZE, SIZE), in place; returns the nouns.

    A pixel's label is the last object there that covers at least half of it.
    """
    owner = np.full((SIZE, SIZE), -1)  # which object, in order of placement, shows at a pixel
    areas: list[int] = []
    objects: list[str] = []
    light = (float(rng.uniform(-0.6, 0.6)), float(rng.uniform(-0.8, 0.4)))
    for side in _sides(composition, rng):
        name = str(rng.choice(OBJECTS))
        paths = drawings(name, families)
        colour, alpha = pose(paths[rng.integers(len(paths))], side, rng)
        placed = _place(alpha, owner, areas, rng)
        if placed is None:
            continue
        top, left, window = placed
        colour, alpha = colour[:, *window], alpha[window]
        height, width = alpha.shape
        region = np.s_[top : top + height, left : left + width]
        behind = image[:, *region]
        colour = dress(colour, alpha, behind, light, composition.appearance, rng)
        if rng.random() < SHADOW:
            shadow(image, (top, left, height, width), rng)
        behind += alpha * (colour - behind)
        solid = alpha >= 0.5
        labels[region][solid] = NAMES.index(name)
        owner[region][solid] = len(areas)
        areas.append(int(solid.sum()))
        objects.append(name)
    return objects


def _sides(composition: Composition, rng: np.random.Generator) -> list[float]:
    """The longer sides, in pixels, of a scene's objects, in the order in which they are placed."""
    sides = [float(rng.uniform(*CLOSE_UP_SIDES))] if rng.random() < composition.close_up else []
    for _ in range(int(rng.integers(0, 4) if sides else rng.integers(2, composition.most + 1))):
        sides.append(round(SIDES[0] * (SIDES[1] / SIDES[0]) ** float(rng.random()), 4))
    return sides


def _place(
    alpha: np.ndarray, owner: np.ndarray, areas: list[int], rng: np.random.Generator
) -> tuple[int, int, tuple[slice, slice]] | None:
    """A corner where a glyph hides no earlier object by more than `HIDDEN`, and its part inside the scene."""
    height, width = alpha.shape
    seen = np.bincount(owner[owner >= 0], minlength=len(areas))
    least = (1 - HIDDEN) * np.array(areas, np.float64)
    for _ in range(20):
        top, left = (int(rng.integers(-side // 6, max(SIZE - side + side // 6, 1))) for side in (height, width))
        rows, columns = np.s_[max(-top, 0) : SIZE - top], np.s_[max(-left, 0) : SIZE - left]
        solid = alpha[rows, columns] >= 0.5
        top, left = max(top, 0), max(left, 0)
        beneath = owner[top : top + solid.shape[0], left : left + solid.shape[1]][solid]
        if solid.any() and (seen - np.bincount(beneath[beneath >= 0], minlength=len(areas)) >= least).all():
            return top, left, (rows, columns)
    return None


def _paint_backgrounds(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One to three backgrounds side by side: the image (3, SIZE, SIZE) float32, and its labels, uint8."""
    count = 1 + int(rng.choice(len(BACKGROUND_COUNTS), p=BACKGROUND_COUNTS))
    first, *others = (str(name) for name in rng.choice(BACKGROUNDS, count, replace=False))
    image = _lit(TEXTURES[first](rng), rng)
    labels = np.full((SIZE, SIZE), NAMES.index(first), np.uint8)
    for name in others:
        texture = _lit(TEXTURES[name](rng), rng)
        if rng.random() < ALIKE:
            texture += np.float32(rng.uniform(0.6, 1)) * (mean_colour(image) - mean_colour(texture))
        cover = _part(rng)
        image += cover * (texture - image)
        labels[cover >= 0.5] = NAMES.index(name)
    return image, labels


def _lit(texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A texture that grows brighter towards one side."""
    down, across = (np.float32(rng.uniform(-0.5, 0.5)) for _ in range(2))
    return texture * (1 + down * (Y - np.float32(0.5)) + across * (X - np.float32(0.5)))


def _part(rng: np.random.Generator) -> np.ndarray:
    """A part of the scene with a soft edge of a pixel, (SIZE, SIZE) float32: beyond a horizon, a hill, or a patch."""
    y, x = Y - np.float32(rng.uniform(0.3, 0.7)), X - np.float32(rng.uniform(0.3, 0.7))
    wave = np.float32(rng.uniform(0.03, 0.14)) * (fractal(rng, 4, octaves=2) - np.float32(0.5))
    slope, kind = np.float32(rng.uniform(-0.5, 0.5)), rng.integers(4)
    if kind == 0:  # a horizon
        beyond = y + slope * x + wave
    elif kind == 1:  # a border upright rather than level
        beyond = x + slope * y + wave
    elif kind == 2:  # a hill or a hollow
        beyond = y + slope * x + np.float32(rng.uniform(-1.6, 1.6)) * x * x + wave
    else:  # a patch
        reach = np.float32(rng.uniform(0.2, 0.4))
        beyond = (x * x * np.float32(rng.uniform(0.5, 1.2)) + y * y) / reach - reach + 2 * wave
    if kind < 3 and rng.random() < 0.5:
        beyond = -beyond
    return np.clip(0.5 - SIZE * beyond, 0, 1)


def _photograph(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture as a camera gives it, uint8: uneven light, a cast of colour, blur or sharpening, noise."""
    image *= 1 - np.float32(rng.uniform(0, 0.4)) * smooth(value_noise(rng, 2.5))
    if rng.random() < DAPPLED:  # shadows of what is not in the picture
        edge = np.float32(rng.uniform(4, 12)) * (fractal(rng, rng.uniform(2.5, 6), octaves=2) - np.float32(0.5))
        depth = rng.uniform(0.2, 0.5) * rng.uniform(0.6, 1.2, (3, 1, 1))  # shade has its own colour
        image *= 1 - depth.astype(np.float32) * smooth(np.clip(0.5 + edge, 0, 1))
    warm = rng.uniform(-0.12, 0.12)
    gain = rng.uniform(0.9, 1.15) * np.array((1 + warm, 1 + rng.uniform(-0.04, 0.04), 1 - warm))
    contrast = rng.uniform(0.8, 1.1)
    image *= (contrast * gain).astype(np.float32).reshape(3, 1, 1)
    image += np.float32(128 - 128 * contrast)
    np.clip(image, 0, 255, image)
    image += np.float32(rng.uniform(-0.6, 0.8)) * (_blurred(image) - image)  # below 0: sharper
    noise = rng.standard_normal((3, SIZE, SIZE), dtype=np.float32)
    grey = np.float32(rng.uniform(0, 1))
    image += np.float32(rng.uniform(1, 5)) * (noise + grey * (noise[:1] - noise))
    return np.ascontiguousarray(np.moveaxis(np.clip(image + np.float32(0.5), 0, 255).astype(np.uint8), 0, -1))


def _blurred(image: np.ndarray) -> np.ndarray:
    """Weights 1 2 1 down and across; the outermost pixels as they are."""
    soft = image.copy()
    soft[:, 1:-1] = np.float32(0.25) * (image[:, :-2] + image[:, 2:] + 2 * image[:, 1:-1])
    across = soft.copy()
    across[..., 1:-1] = np.float32(0.25) * (soft[..., :-2] + soft[..., 2:] + 2 * soft[..., 1:-1])
    return across
