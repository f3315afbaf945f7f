"""What Ray costs: the same images by the plain loop and by one of Ray's workers, start-up apart from the rate.

    python -m bench.scale [--images 200] [--side 128] [--rounds 2]

The rate is read off the times at which results were written, from the first image to the last; the start-up is what
came before the first: importing, loading, for Ray starting it and its worker as well.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
from PIL import Image

from bench.machine import choose_device, machine
from ovseg.run.terminal import show

FLAGS = ("--by", "slic", "--preset", "pocket", "--device", "cpu", "--classes", "tree,sheep,boat")
CELL = 8  # pixels of a scene's squares
ENGINES = {"plain": (), "ray": ("--engine", "ray", "--workers", "1")}


@dataclass(frozen=True)
class Taken:
    """Seconds of a run. begin: until the first image was written; each: an image after that; total: all of it."""

    begin: float
    each: float
    total: float


def make_scenes(folder: Path, count: int, side: int) -> Path:
    """Noise in squares, side x side pixels."""
    folder.mkdir()
    for number in range(count):
        cells = np.random.default_rng(number).integers(0, 256, (side // CELL, side // CELL, 3), dtype=np.uint8)
        Image.fromarray(cells.repeat(CELL, 0).repeat(CELL, 1)).save(folder / f"{number:05}.png")
    return folder


def timed(scenes: Path, out: Path, *more: str) -> Taken:
    """Label the scenes in a process of its own."""
    start = time.time()
    command = [sys.executable, "-m", "ovseg", "label", str(scenes), "--out", str(out), *FLAGS, *more]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    total = time.time() - start
    written = sorted(path.stat().st_mtime for path in out.glob("*.overlay.png"))
    return Taken(written[0] - start, (written[-1] - written[0]) / (len(written) - 1), total)


def _name() -> str:
    found = machine(choose_device("cpu"))
    return f"{found['cpu']}, {found['cores']} cores, one thread each"


def main() -> int:
    parser = ArgumentParser(prog="python -m bench.scale")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--side", type=int, default=128, help="of a scene, pixels")
    parser.add_argument("--rounds", type=int, default=2, help="turns that the two take")
    given = parser.parse_args()
    found: dict[str, list[Taken]] = {engine: [] for engine in ENGINES}
    with tempfile.TemporaryDirectory() as folder:
        scenes = make_scenes(Path(folder, "scenes"), given.images, given.side)
        for number in range(given.rounds):
            for engine, flags in ENGINES.items():
                taken = timed(scenes, Path(folder, f"{engine}-{number}"), *flags)
                show(f"{engine}: {taken.begin:.1f} s before the first image, then {1000 * taken.each:.1f} ms an image")
                found[engine].append(taken)
    plain, ray = (mean(taken.each for taken in found[engine]) for engine in ENGINES)
    begins = [mean(taken.begin for taken in found[engine]) for engine in ENGINES]
    show(f"{given.images} images of {given.side} pixels, {given.rounds} rounds; {_name()}")
    show(f"an image: plain {1000 * plain:.1f} ms, ray {1000 * ray:.1f} ms ({100 * (ray / plain - 1):+.1f} %)")
    show(f"before the first: plain {begins[0]:.1f} s, ray {begins[1]:.1f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
