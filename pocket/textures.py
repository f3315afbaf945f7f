"""World 2's ten backgrounds. They differ in structure; their colours are drawn from lists that overlap.

Every texture takes a random state and gives (3, SIZE, SIZE) float32, grey levels, not clipped. All that is seen in one,
flowers in grass or stars in the night, belongs to its class.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ovseg.pocket.noise import cells, fractal, noise_at, smooth, triangle, value_noise
from ovseg.pocket.scene import SIZE

Y, X = (axis.astype(np.float32) / SIZE for axis in np.mgrid[:SIZE, :SIZE])  # 0..1 downwards and across
Y.flags.writeable = X.flags.writeable = False

WHITE_HOT = np.array((255, 232, 150), np.float32).reshape(3, 1, 1)
PATCHES = 0.6  # share of backgrounds in more than one pair of colours

# Pairs of a dark and a light colour, between which a background's colours lie; each background draws one or two.
PALETTES = {
    "brick": "6e2e22-be6248 805c3a-d6ac76 5c5856-aaa096 54363e-9e7070 968670-e2d0b4",
    "grass": "1c4e14-84ba42 46541e-bcba60 102c1e-4a764e 605428-ceb870 1e3e3a-6ea88c",
    "lava": "221616-fa821e 461a12-ffbe46 2c242c-e84624 3c322c-f0965a 181828-d6543c",
    "night": "06081e-322c68 040e1a-20465a 120a1e-522e5e 0e1014-42464e",
    "sand": "b08854-f2d69e 966848-dca87c 827c70-ccc6b8 c4b092-f8eed8 846034-c8a468",
    "sky": "468cde-b0daf8 788ca6-ced8e2 e88460-fad6a0 5c60a0-dcaabe 285896-80b2d6",
    "snow": "a8bad8-fafcff c4c2c8-fcfaf8 969ebe-e2e2f4 ceb2aa-fef0e2",
    "stone": "4a4a4a-b0aea8 605242-beac92 3e4854-96a4b2 68463c-ba9686 827c72-ded8cc",
    "water": "0a386a-54a0be 0e4a4e-6ebaac 2c3e50-96a8b6 0a1634-465a8c 3c543c-96aa82",
    "wood": "5c381c-bc8650 886846-debe92 422820-885c46 68625a-b8b0a4 7a3c22-ce7e4e",
}


def _ends(rng: np.random.Generator, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The dark and the light colour, (3, 1, 1) float32 each, moved a little together and a little apart."""
    pairs = PALETTES[name].split()
    pair = pairs[rng.integers(len(pairs))].split("-")
    ends = np.array([list(bytes.fromhex(colour)) for colour in pair], np.float32).reshape(2, 3, 1, 1)
    ends += 24 * rng.random((3, 1, 1), dtype=np.float32) - 12
    ends += 16 * rng.random((2, 3, 1, 1), dtype=np.float32) - 8
    return ends[0], ends[1]


def _ramp(ends: tuple[np.ndarray, np.ndarray], amount: np.ndarray) -> np.ndarray:
    """The colours between two by `amount` (SIZE, SIZE), 0..1 and a little beyond."""
    return ends[0] + np.clip(amount, -0.15, 1.15) * (ends[1] - ends[0])


def _ground(rng: np.random.Generator, name: str, amount: np.ndarray) -> np.ndarray:
    """The background's colours by `amount`, often with patches of other colours that it may have."""
    image = _ramp(_ends(rng, name), amount)
    if rng.random() < PATCHES:
        where = fractal(rng, rng.uniform(2.5, 6), octaves=2) - np.float32(rng.uniform(0.4, 0.6))
        _paint(
            image, _ramp(_ends(rng, name), amount), smooth(np.clip(0.5 + np.float32(rng.uniform(2, 7)) * where, 0, 1))
        )
    return image


def _paint(image: np.ndarray, colour: np.ndarray, amount: np.ndarray) -> None:
    """Lays a colour, (3, 1, 1) or (3, SIZE, SIZE), over the image, as thick as `amount` (SIZE, SIZE) says, 0..1."""
    image += np.clip(amount, 0, 1) * (colour - image)


def _grain(rng: np.random.Generator) -> np.ndarray:
    """Every pixel its own value, -0.5..0.5."""
    return rng.random((SIZE, SIZE), dtype=np.float32) - np.float32(0.5)


def _tilted(rng: np.random.Generator, most: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates down and across, 0..1, turned by up to about `most` (a slope)."""
    slope = np.float32(rng.uniform(-most, most))
    return Y + slope * X, X - slope * Y


def _brick(rng: np.random.Generator) -> np.ndarray:
    y, x = _tilted(rng, 0.12)
    rows, length = np.float32(rng.uniform(6, 13)), np.float32(rng.uniform(3, 6))
    wobble = value_noise(rng, 9)
    v = y * rows + np.float32(0.5) * value_noise(rng, 5, 1) + np.float32(0.25) * wobble + 2
    row = np.floor(v)
    number = row.astype(np.int64) % 32
    u = x * length + 8 * rng.random(32, dtype=np.float32)[number] + np.float32(0.12) * wobble + 2
    u += np.float32(0.35) * triangle(u * np.float32(0.37) + np.float32(0.7) * row)  # bricks of unequal lengths
    column = np.floor(u)
    tone = rng.random((32, 32), dtype=np.float32)[number, column.astype(np.int64) % 32]
    image = _ground(rng, "brick", 0.7 * tone + 0.3 * fractal(rng, 20, octaves=2) + 0.25 * _grain(rng))
    gap = np.minimum(np.minimum(v - row, row + 1 - v) / rows, np.minimum(u - column, column + 1 - u) / length)
    mortar = np.float32(rng.uniform(60, 215)) + 20 * rng.random((3, 1, 1), dtype=np.float32)
    _paint(image, mortar + 30 * value_noise(rng, 30), 1.6 - gap * np.float32(rng.uniform(110, 200)))
    return image


def _grass(rng: np.random.Generator) -> np.ndarray:
    bend = X + np.float32(0.07) * value_noise(rng, 6)
    lean, fine = np.float32(rng.uniform(0.05, 0.5)), np.float32(rng.uniform(36, 60))
    down = np.float32(rng.uniform(8, 16))
    blades = noise_at(rng, Y * down, (bend + lean * Y) * fine)
    others_blades = noise_at(rng, Y * down, (bend + np.float32(0.5) - lean * Y) * fine)
    amount = 0.65 * np.maximum(blades, others_blades) + 0.3 * blades * others_blades + 0.15 * _grain(rng)
    image = _ground(rng, "grass", amount)
    dark = np.clip(1 - np.float32(2.2) * np.maximum(blades, others_blades), 0, 1)  # between blades
    image *= 1 - 0.8 * dark
    if rng.random() < 0.4:  # small flowers
        _paint(
            image, rng.uniform(120, 255, (3, 1, 1)).astype(np.float32), 30 * (value_noise(rng, 48) - np.float32(0.93))
        )
    return image


def _lava(rng: np.random.Generator) -> np.ndarray:
    crust, glow = _ends(rng, "lava")
    count = np.float32(rng.uniform(3.5, 7))
    warp = fractal(rng, 6, octaves=2) * np.float32(0.3)
    gap, tone = cells(rng, (Y + warp) * count, (X - warp) * count)
    crack = np.abs(fractal(rng, 5, octaves=2) - np.float32(0.5)) * np.float32(rng.uniform(9, 16))
    image = crust * (0.7 + 0.6 * tone + 0.7 * fractal(rng, 16, octaves=2) + 0.5 * _grain(rng))
    heat = np.clip(1.15 - np.minimum(gap * np.float32(rng.uniform(4, 8)), crack + np.float32(0.2)), 0, 1)
    heat *= 0.3 + 0.9 * value_noise(rng, 4)
    _paint(image, glow, 1.3 * heat)
    _paint(image, WHITE_HOT, 3 * (heat - np.float32(0.72)))
    return image


def _night(rng: np.random.Generator) -> np.ndarray:
    y, x = _tilted(rng, 0.8)
    band = np.clip(1 - np.abs(y - np.float32(rng.uniform(0, 1))) * np.float32(rng.uniform(2, 5)), 0, 1)
    amount = 0.55 * fractal(rng, 3) + 0.35 * x + 0.7 * band * fractal(rng, 7) - 0.1
    image = _ground(rng, "night", amount)
    for count, reach in ((rng.integers(50, 160), 0), (rng.integers(5, 18), 1)):
        places = rng.integers(reach, SIZE - reach, (count, 2))
        light = rng.uniform(70, 240, count).astype(np.float32)
        for dy, dx in ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))[: 1 + 4 * reach]:
            image[:, places[:, 0] + dy, places[:, 1] + dx] += light if dy == dx else np.float32(0.55) * light
    return image


def _sand(rng: np.random.Generator) -> np.ndarray:
    y, _ = _tilted(rng, 0.5)
    waves = triangle(y * np.float32(rng.uniform(5, 12)) + np.float32(rng.uniform(1, 2.4)) * fractal(rng, 3, octaves=2))
    amount = 0.45 * smooth(waves) * value_noise(rng, 4) + 0.45 * fractal(rng, 5) + 0.55 * _grain(rng) + 0.1
    image = _ground(rng, "sand", amount)
    if rng.random() < 0.6:  # pebbles
        pebbles = value_noise(rng, 40)
        _paint(
            image,
            np.float32(rng.uniform(50, 220)) + 20 * rng.random((3, 1, 1), dtype=np.float32),
            14 * (pebbles - np.float32(0.86)),
        )
    return image


def _sky(rng: np.random.Generator) -> np.ndarray:
    y, _ = _tilted(rng, 0.5)
    image = _ramp(_ends(rng, "sky"), y * np.float32(rng.uniform(0.6, 1.1)))
    stretch = rng.uniform(1, 2.6)
    cloud = fractal(rng, 4 * stretch, 4, octaves=4)
    thick = np.float32(rng.uniform(4, 9)) * (cloud - np.float32(rng.uniform(0.44, 0.62)))
    white = np.float32(rng.uniform(150, 250)) + rng.uniform(-14, 14, (3, 1, 1)).astype(np.float32)
    shade = 1.08 - np.float32(rng.uniform(0.1, 0.5)) * fractal(rng, 5, octaves=2)  # the clouds' grey parts
    _paint(image, white * shade, smooth(np.clip(thick, 0, 1)))
    return image


def _snow(rng: np.random.Generator) -> np.ndarray:
    y, _ = _tilted(rng, 0.6)
    drift = y * np.float32(rng.uniform(2, 4.5)) + np.float32(rng.uniform(1, 2)) * fractal(rng, 2.5, octaves=2)
    fall = drift - np.floor(drift)  # lit on the ridge, fading into the shade before the next one
    amount = 1.05 - 0.75 * fall * fall * value_noise(rng, 3) - 0.45 * fractal(rng, 7) + 0.18 * _grain(rng) + 0.1
    image = _ground(rng, "snow", amount)
    sparkle = rng.random((SIZE, SIZE), dtype=np.float32) > np.float32(0.985)
    image[:, sparkle] += 40
    return image


def _stone(rng: np.random.Generator) -> np.ndarray:
    rough = fractal(rng, 14)
    if rng.random() < 0.35:  # a rock face
        crack = np.abs(fractal(rng, 5) - np.float32(0.5)) * np.float32(rng.uniform(22, 40))
        amount = 0.7 * fractal(rng, 4) + 0.5 * rough + 0.35 * _grain(rng) - 0.1
    else:  # cobbles
        down, across = (np.float32(rng.uniform(5, 11)) for _ in range(2))
        warp = np.float32(0.05) * value_noise(rng, 8)
        gap, tone = cells(rng, (Y + warp) * down, (X - warp) * across)
        crack = gap * np.float32(rng.uniform(5, 9))
        amount = 0.7 * tone + 0.4 * rough + 0.2 * np.clip(gap, 0, 1) + 0.25 * _grain(rng) - 0.1
    image = _ground(rng, "stone", amount)
    image *= 1 - np.float32(rng.uniform(0.5, 0.8)) * np.clip(1 - crack, 0, 1)
    return image


def _water(rng: np.random.Generator) -> np.ndarray:
    y, x = _tilted(rng, 0.2)
    far = np.float32(rng.uniform(0, 0.7))  # waves grow smaller upwards
    y = y * (1 + far * (1 - y))
    swell = np.float32(0.12) * fractal(rng, 4, octaves=2)
    waves = noise_at(rng, (y + swell) * np.float32(rng.uniform(18, 34)), (x + swell) * np.float32(rng.uniform(4, 8)))
    glints = noise_at(rng, (y - swell) * 30, (x + swell) * 9)
    image = _ground(rng, "water", 0.6 * waves + 0.45 * fractal(rng, 3) + 0.1 * _grain(rng) - 0.1)
    _paint(
        image,
        rng.uniform(190, 255, (3, 1, 1)).astype(np.float32),
        np.float32(rng.uniform(2, 5)) * (glints * waves - np.float32(rng.uniform(0.38, 0.55))),
    )
    return image


def _wood(rng: np.random.Generator) -> np.ndarray:
    y, x = _tilted(rng, 0.15) if rng.random() < 0.5 else _tilted(rng, 0.15)[::-1]  # across or upright
    planks = np.float32(rng.uniform(2.5, 6))
    v = y * planks + np.float32(0.4) * triangle(y * np.float32(1.7)) + np.float32(rng.uniform(2, 3))
    plank = np.floor(v)
    number = plank.astype(np.int64) % 32
    along = x * np.float32(rng.uniform(1.2, 2.5)) + 20 * rng.random(32, dtype=np.float32)[number]
    rings = triangle(np.float32(rng.uniform(4, 8)) * noise_at(rng, v * np.float32(1.4), along))
    fibres = noise_at(rng, y * 60, along * 3)
    tone = rng.random(32, dtype=np.float32)[number]
    image = _ground(rng, "wood", 0.45 * tone + 0.35 * rings + 0.3 * fibres + 0.12 * _grain(rng) - 0.05)
    gap = np.minimum(v - plank, plank + 1 - v) * (SIZE / planks)
    image *= 1 - 0.65 * np.clip(np.float32(1.6) - gap, 0, 1)
    return image


TEXTURES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
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
