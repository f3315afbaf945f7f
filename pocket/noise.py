"""Smooth random fields, in NumPy's plain arithmetic alone, so that the same random state gives the same bytes."""

from __future__ import annotations

import numpy as np

from ovseg.pocket.scene import SIZE

LATTICE = 32  # random values down and across before noise at free coordinates repeats itself


def smooth(t: np.ndarray) -> np.ndarray:
    """0..1 to 0..1, flat at both ends."""
    return t * t * (3 - 2 * t)


def value_noise(rng: np.random.Generator, down: float, across: float | None = None, size: int = SIZE) -> np.ndarray:
    """Values 0..1, (size, size) float32, smooth between random ones, of which `down` and `across` fit into a side."""
    across = down if across is None else across
    (i, s), (j, t) = (_cells(rng, cells, size) for cells in (down, across))
    grid = rng.random((i[-1] + 2, j[-1] + 2), dtype=np.float32)
    rows = grid[i] + s[:, None] * (grid[i + 1] - grid[i])
    left = rows[:, j]
    return left + t * (rows[:, j + 1] - left)


def _cells(rng: np.random.Generator, cells: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """For every pixel of a side: the cell it lies in, and how far along in it, smoothed."""
    places = np.arange(size, dtype=np.float32) * np.float32(cells / size) + rng.random(dtype=np.float32)
    whole = np.floor(places)
    return whole.astype(np.int64), smooth(places - whole)


def fractal(rng: np.random.Generator, down: float, across: float | None = None, octaves: int = 3) -> np.ndarray:
    """Several scales of `value_noise`, each twice as fine and 0.55 as strong: values 0..1, (SIZE, SIZE) float32."""
    across = down if across is None else across
    total, weight, sum_of_weights = np.zeros((SIZE, SIZE), np.float32), 1.0, 0.0
    for octave in range(octaves):
        total += np.float32(weight) * value_noise(rng, down * 2**octave, across * 2**octave)
        sum_of_weights += weight
        weight *= 0.55
    return total * np.float32(1 / sum_of_weights)


def noise_at(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Value noise at free coordinates in cells, arrays of one shape: values 0..1, float32."""
    grid = rng.random(LATTICE * LATTICE, dtype=np.float32)
    top, left = np.floor(y), np.floor(x)
    s, t = smooth(y - top), smooth(x - left)
    i, j = top.astype(np.int64), left.astype(np.int64)
    first, second = (i % LATTICE) * LATTICE, ((i + 1) % LATTICE) * LATTICE
    j, k = j % LATTICE, (j + 1) % LATTICE
    upper = grid[first + j] + t * (grid[first + k] - grid[first + j])
    lower = grid[second + j] + t * (grid[second + k] - grid[second + j])
    return upper + s * (lower - upper)


def cells(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cellular noise (Worley, 1996) at coordinates in cells: how much nearer the nearest random point is than the
    second nearest, 0 at the borders between two, and a random value 0..1 of the nearest one; both float32."""
    shift_y, shift_x, value = rng.random((3, LATTICE * LATTICE), dtype=np.float32)
    top, left = np.floor(y), np.floor(x)
    v, u = y - top, x - left
    i, j = top.astype(np.int64), left.astype(np.int64)
    nearest = np.full(y.shape, 9, np.float32)
    second = nearest.copy()
    owner = np.zeros(y.shape, np.int64)
    for dy in (-1, 0, 1):
        row = ((i + dy) % LATTICE) * LATTICE
        for dx in (-1, 0, 1):
            point = row + (j + dx) % LATTICE
            a, b = shift_y[point] + (np.float32(dy) - v), shift_x[point] + (np.float32(dx) - u)
            distance = a * a + b * b
            closer = distance < nearest
            second = np.where(closer, nearest, np.minimum(second, distance))
            nearest = np.where(closer, distance, nearest)
            owner = np.where(closer, point, owner)
    return np.sqrt(second) - np.sqrt(nearest), value[owner]


def triangle(t: np.ndarray) -> np.ndarray:
    """A wave of period 1 between 0 and 1, of straight lines."""
    return np.abs(2 * (t - np.floor(t)) - 1)
