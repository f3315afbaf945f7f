"""World 1: one to four emoji, each noun always the same drawing, over one or two painted backgrounds."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

from ovseg.pocket.scene import BACKGROUNDS, GLYPH_FOLDER, NAMES, OBJECTS, SIZE, Scene

CLOSE_UP = 0.25  # share of scenes that show one large object
TWO_BACKGROUNDS = 0.5  # share of scenes divided by a sloping horizon
HIDDEN = 0.3  # the largest share of an object that a later one may hide


def draw(rng: np.random.Generator) -> Scene:
    """A scene, determined by a fresh random state alone."""
    image, labels, backgrounds = _paint_backgrounds(rng)
    close_up = rng.random() < CLOSE_UP
    owner = np.full((SIZE, SIZE), -1)  # which object, in order of placement, shows at a pixel
    areas: list[int] = []
    objects: list[str] = []
    for _ in range(1 if close_up else rng.integers(1, 5)):
        name = str(rng.choice(OBJECTS))
        colour, alpha = _posed_glyph(name, rng, (80, 113) if close_up else (36, 85))
        placed = _place(alpha, owner, areas, rng)
        if placed is None or name in objects:
            continue
        top, left, window = placed
        colour, alpha = colour[window], alpha[window]
        region = np.s_[top : top + alpha.shape[0], left : left + alpha.shape[1]]
        image[region] += alpha[..., None] * (colour - image[region])
        labels[region][alpha >= 0.5] = NAMES.index(name)
        owner[region][alpha >= 0.5] = len(areas)
        areas.append(int((alpha >= 0.5).sum()))
        objects.append(name)
    image += rng.normal(0, 2.0, image.shape)  # sensor noise, grey levels
    return Scene(np.clip(image + 0.5, 0, 255).astype(np.uint8), labels, tuple(objects), backgrounds)


def _place(
    alpha: np.ndarray, owner: np.ndarray, areas: list[int], rng: np.random.Generator
) -> tuple[int, int, tuple[slice, slice]] | None:
    """A corner where a glyph hides no earlier object by more than `HIDDEN`, and its part inside the scene."""
    height, width = alpha.shape
    for _ in range(20):
        top, left = (int(rng.integers(-side // 8, max(SIZE - side + side // 8, 1))) for side in (height, width))
        rows, columns = np.s_[max(-top, 0) : SIZE - top], np.s_[max(-left, 0) : SIZE - left]
        solid = alpha[rows, columns] >= 0.5
        top, left = max(top, 0), max(left, 0)
        beneath = owner[top : top + solid.shape[0], left : left + solid.shape[1]][solid]
        hidden = np.bincount(beneath[beneath >= 0], minlength=len(areas))
        still_seen = np.bincount(owner[owner >= 0], minlength=len(areas)) - hidden
        if all(seen >= (1 - HIDDEN) * area for seen, area in zip(still_seen, areas, strict=True)):
            return top, left, (rows, columns)
    return None


@cache
def _glyph(name: str) -> Image.Image:
    return Image.open(GLYPH_FOLDER / f"{name}.png").convert("RGBA")


def _posed_glyph(name: str, rng: np.random.Generator, sides: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The glyph, scaled, turned, mirrored and tinted: colour (h, w, 3) float32 in 0..255, alpha (h, w) in 0..1."""
    side = int(rng.integers(*sides))
    glyph = _glyph(name).resize((side, side), Image.Resampling.BICUBIC)
    glyph = glyph.rotate(rng.uniform(-22, 22), Image.Resampling.BICUBIC, expand=True)
    glyph = glyph.crop(glyph.getbbox())
    pixels = np.asarray(glyph, dtype=np.float32)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    colour, alpha = pixels[..., :3], pixels[..., 3] / 255
    grey = colour.mean(axis=-1, keepdims=True)
    colour = grey + rng.uniform(0.7, 1.2) * (colour - grey)  # saturation
    colour = colour * rng.uniform(0.8, 1.15) * rng.uniform(0.88, 1.12, 3)  # exposure and tint
    light = np.linspace(rng.uniform(-18, 18), rng.uniform(-18, 18), colour.shape[0])  # from above or below
    return np.clip(colour + light[:, None, None], 0, 255).astype(np.float32), alpha


def _paint_backgrounds(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    count = 2 if rng.random() < TWO_BACKGROUNDS else 1
    names = tuple(str(name) for name in rng.choice(BACKGROUNDS, count, replace=False))
    image = _TEXTURES[names[0]](rng)
    labels = np.full((SIZE, SIZE), NAMES.index(names[0]), np.uint8)
    if count == 2:
        y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
        edge = 6 * (_noise(rng, 4) - 0.5)
        above = y + x * rng.uniform(-0.35, 0.35) + edge < rng.uniform(-0.2, 0.2) * SIZE
        image = np.where(above[..., None], _TEXTURES[names[1]](rng), image)
        labels[above] = NAMES.index(names[1])
    return image, labels, names


def _noise(rng: np.random.Generator, cells: int, cells_across: int | None = None) -> np.ndarray:
    """Smooth noise in 0..1, (128, 128) float32, with `cells` random values down and `cells_across` across."""
    grid = rng.random((cells, cells_across or cells), dtype=np.float32)
    return np.asarray(Image.fromarray(grid).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def _mix(
    dark: tuple[int, int, int], light: tuple[int, int, int], amount: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A blend of two colours by `amount` (0..1 a pixel), both shifted together a little."""
    shift = rng.uniform(-14, 14, 3)
    ends = np.array([dark, light], np.float32) + shift
    return ends[0] + np.clip(amount, 0, 1)[..., None] * (ends[1] - ends[0])


def _brick(rng: np.random.Generator) -> np.ndarray:
    height, length = rng.uniform(11, 17), rng.uniform(22, 34)
    y, x = np.mgrid[:SIZE, :SIZE] + 2.5 * (_noise(rng, 9) - 0.5)
    row = np.floor(y / height)
    offset = rng.uniform(0, length, 16)[row.astype(int) % 16]
    mortar = (y % height < 1.6) | ((x + offset) % length < 1.6)
    tone = rng.random((16, 16))[row.astype(int) % 16, ((x + offset) // length).astype(int) % 16]
    wall = _mix((120, 48, 36), (190, 96, 70), 0.7 * tone + 0.3 * _noise(rng, 64), rng)
    return np.where(mortar[..., None], _mix((150, 138, 128), (190, 180, 170), _noise(rng, 32), rng), wall)


def _grass(rng: np.random.Generator) -> np.ndarray:
    amount = 0.35 * _noise(rng, 5) + 0.65 * _noise(rng, 26, 64)
    return _mix((34, 92, 20), (136, 190, 62), amount, rng)


def _lava(rng: np.random.Generator) -> np.ndarray:
    crack = np.abs(0.6 * _noise(rng, 8) + 0.4 * _noise(rng, 18) - 0.5) * 4
    return _mix((246, 112, 24), (92, 30, 22), crack + 0.2 * _noise(rng, 64), rng)


def _night(rng: np.random.Generator) -> np.ndarray:
    image = _mix((8, 8, 34), (44, 36, 92), 0.5 * _noise(rng, 3) + 0.5 * np.linspace(0, 1, SIZE)[:, None], rng)
    stars = rng.integers(0, SIZE, (int(rng.integers(15, 45)), 2))
    image[stars[:, 0], stars[:, 1]] = rng.uniform(150, 255, (len(stars), 1))
    return image


def _sand(rng: np.random.Generator) -> np.ndarray:
    amount = 0.55 * _noise(rng, 9, 4) + 0.2 * _noise(rng, 40) + 0.25 * rng.random((SIZE, SIZE))
    return _mix((186, 146, 92), (244, 216, 160), amount, rng)


def _sky(rng: np.random.Generator) -> np.ndarray:
    cloud = np.clip(2.5 * (0.7 * _noise(rng, 5, 3) + 0.3 * _noise(rng, 14, 9)) - rng.uniform(1.1, 1.8), 0, 1)
    blue = _mix((84, 152, 226), (168, 214, 246), np.linspace(0, 1, SIZE)[:, None] + 0 * cloud, rng)
    return blue + cloud[..., None] * (np.float32(246) - blue)


def _snow(rng: np.random.Generator) -> np.ndarray:
    amount = 0.7 * _noise(rng, 5, 4) + 0.3 * _noise(rng, 30)
    return _mix((196, 208, 228), (252, 252, 255), 0.2 + amount, rng)


def _stone(rng: np.random.Generator) -> np.ndarray:
    amount = 0.4 * _noise(rng, 6) + 0.3 * _noise(rng, 20) + 0.3 * rng.random((SIZE, SIZE))
    crack = np.abs(_noise(rng, 7) - 0.5) < 0.02
    return _mix((84, 82, 80), (178, 174, 168), amount - 0.5 * crack, rng)


def _water(rng: np.random.Generator) -> np.ndarray:
    amount = 0.3 * _noise(rng, 4) + 0.7 * _noise(rng, 30, 9)
    return _mix((8, 58, 110), (64, 150, 176), amount, rng)


def _wood(rng: np.random.Generator) -> np.ndarray:
    plank = rng.uniform(22, 40)
    board = (np.arange(SIZE) + rng.uniform(0, plank)) / plank
    tone = rng.random(16)[np.floor(board).astype(int)]
    amount = 0.4 * tone + 0.6 * _noise(rng, 5, 60) - 0.6 * (board % 1 < 1.5 / plank)
    return _mix((94, 58, 28), (190, 136, 82), amount, rng)


_TEXTURES = {
    "brick": _brick,
    "grass": _grass,
    "lava": _lava,
    "night": _night,
    "sand": _sand,
    "sky": _sky,
    "snow": _snow,
    "stone": _stone,
    "water": _water,
    "wood": _wood,
}
