"""The pocket worlds: small scenes of emoji objects over painted backgrounds, with exact label maps.

    python -m ovseg.pocket.world --world 3 --seed 1 --count 100 --out scenes

writes `images/*.png`, `labels/*.png` (8-bit index maps) and `classes.txt` (line n names index n). A scene depends on
(world, split, seed, index) alone, and all four enter its random state, so no two worlds or splits share a scene.
All have the same names. World 1 has one drawing per noun, and colour tells the classes apart; in world 3 a noun has a
few drawings, and colour says little; in world 2 it has ten, of any hue. The embedded models were trained on world 3's
`train` split, and on nothing else. The `heldout` splits show drawings that no other split has.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ovseg.pocket import world1, world2
from ovseg.pocket.scene import BACKGROUNDS, NAMES, OBJECTS, SIZE, Scene, caption

__all__ = [
    "BACKGROUNDS",
    "NAMES",
    "OBJECTS",
    "SIZE",
    "SPLITS",
    "WORLDS",
    "WORLD_VERSION",
    "Block",
    "Scene",
    "caption",
    "picture",
    "scene",
]

WORLD_VERSION = 3  # where none is named
SPLITS = {"train": 0, "tuning": 1, "evaluation": 2}
HELD_OUT = "heldout"
WORLDS = {1: SPLITS, 2: SPLITS | {HELD_OUT: 3}, 3: SPLITS | {HELD_OUT: 3}}  # every world's splits


def scene(split: str, seed: int, index: int, world: int = WORLD_VERSION) -> Scene:
    """Scene number `index` of block `seed`; the same arguments always give the same bytes.

    Raises KeyError for a world that is not in `WORLDS`, or a split that this world does not have.
    """
    rng = np.random.default_rng([world, WORLDS[world][split], seed, index])
    if world == 1:
        return world1.draw(rng)
    return world2.draw(rng, world2.COMPOSITIONS[world], held_out=split == HELD_OUT)


@dataclass(frozen=True)
class Block:
    """Scenes 0, 1, ... of one seed of a split, written "world2/evaluation/0"."""

    world: int
    split: str
    seed: int

    @classmethod
    def parse(cls, text: str) -> Block:
        """Read "world2/evaluation/0", or "evaluation/0" of the embedded models' world. Raises ValueError."""
        match = re.fullmatch(r"(?:world(\d{1,9})/)?([a-z]+)/(\d{1,9})", text, re.ASCII)
        if not match:
            raise ValueError(f"expected WORLD/SPLIT/SEED such as world2/evaluation/0, got {text[:200]!r}")
        world = int(match[1]) if match[1] else WORLD_VERSION
        if world not in WORLDS:
            raise ValueError(f"expected one of {', '.join(f'world{number}' for number in WORLDS)}, got {text!r}")
        if match[2] not in WORLDS[world]:
            raise ValueError(f"world{world} has the splits {', '.join(WORLDS[world])}, got {text!r}")
        return cls(world, match[2], int(match[3]))

    def __str__(self) -> str:
        return f"world{self.world}/{self.split}/{self.seed}"

    def scene(self, index: int) -> Scene:
        """Scene number `index`."""
        return scene(self.split, self.seed, index, self.world)


def picture(name: str) -> np.ndarray:
    """The picture of a scene by its name, "world3/evaluation/0/17": (H, W, 3) uint8.

    Raises ValueError for another kind of name.
    """
    block, _, number = name.rpartition("/")
    if not re.fullmatch(r"\d{1,9}", number, re.ASCII):
        raise ValueError(f"expected WORLD/SPLIT/SEED/NUMBER such as world2/evaluation/0/17, got {name!r}")
    return Block.parse(block).scene(int(number)).image


def write_scenes(folder: Path, split: str, seed: int, count: int, world: int = WORLD_VERSION) -> None:
    """Writes `count` scenes as images/NNNNN.png and labels/NNNNN.png, and classes.txt, into `folder`.

    Scenes already there are written again. Raises ValueError where there are other files, OSError where writing fails.
    """
    expected = {f"{index:05d}.png" for index in range(count)}
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        others = {path.name for path in (folder / name).iterdir()} - expected
        if others:
            raise ValueError(f"--out: {folder / name} holds other files, such as {min(others)}")
    (folder / "classes.txt").write_text("\n".join(NAMES) + "\n", encoding="utf-8")
    for index in range(count):
        one = scene(split, seed, index, world)
        Image.fromarray(one.image).save(folder / "images" / f"{index:05d}.png")
        Image.fromarray(one.labels).save(folder / "labels" / f"{index:05d}.png")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m ovseg.pocket.world", description="Write scenes with exact label maps."
    )
    parser.add_argument("--world", type=int, choices=WORLDS, default=WORLD_VERSION, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="which block of scenes (default 0)")
    parser.add_argument("--count", type=int, default=100, help="how many scenes (default 100)")
    parser.add_argument("--split", default="evaluation", help=f"{', '.join(WORLDS[2])} (the last not in world 1)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    given = parser.parse_args()
    if given.split not in WORLDS[given.world]:
        parser.error(f"--split: world {given.world} has {', '.join(WORLDS[given.world])}, got {given.split!r}")
    if given.seed < 0 or given.count < 1:
        parser.error("--seed must be 0 or more and --count 1 or more")
    try:
        write_scenes(given.out, given.split, given.seed, given.count, given.world)
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
