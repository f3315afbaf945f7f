"""How often masks are right whose scores say so much: the table of the namer's scores in pocket/MODEL_CARD.md.

    python -m bench.scores COCO --names 12

COCO: a folder in the `custom` layout of `ovseg eval` (images/, labels/, classes.txt). Of each photo 30 SLIC masks are
named by the preset `photo`, without a background: by the names of its own labels and others drawn up to `--names`, or
by all that the namer knows. Masks count whose pixels have labels, half of them or more; one is right if its name is the
label that most of these have. What nobody asked for is wrong under any name.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from ovseg.classes import read_classes
from ovseg.images import read_image
from ovseg.segmenter import Segmenter

MASKS = 30
BOUNDS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.45, 1.0)  # of scores that are counted together
LEAST = 0.005  # of a photo's pixels that have a label, for it to be asked for

Named = tuple[str, float, bool]  # a mask's name, its score, and whether it is right


def label_of_most(labels: np.ndarray, known: int) -> int | None:
    """The label that most of a mask's pixels (n,) have, of indices under `known`; None where most have none."""
    counts = np.bincount(labels[labels < known], minlength=known)
    return int(counts.argmax()) if 2 * counts.sum() >= len(labels) else None


def named_masks(segmenter: Segmenter, folder: Path, images: int | None, asked: int | None) -> Iterator[Named]:
    """The masks of a folder's photos. asked: how many names a photo is asked for; None: all that the namer knows."""
    names = read_classes(folder / "classes.txt").names
    known = [index for index, name in enumerate(names) if segmenter.clip.knows(name)]
    rng = np.random.default_rng(0)
    for path in sorted((folder / "images").iterdir())[:images]:
        with Image.open(folder / "labels" / f"{path.stem}.png") as picture:
            labels = np.asarray(picture)
        own = [index for index in known if np.mean(labels == index) > LEAST]
        others = rng.permutation([index for index in known if index not in own])
        words = known if asked is None else [*own, *others[: max(0, asked - len(own))]]
        result = segmenter.label(read_image(path), [names[index] for index in words], "none")
        assert result.masks is not None and result.mask_scores is not None
        for mask, scores in enumerate(result.mask_scores):
            most = label_of_most(labels[result.masks == mask], len(names))
            if most is not None:
                best = int(scores.argmax())
                yield names[words[best]], float(scores[best]), words[best] == most


def lines(found: list[Named]) -> Iterator[str]:
    """A line for each range of scores, and one for each name."""
    scores = np.array([score for _, score, _ in found])
    right = np.array([one for _, _, one in found])
    groups = [(f"{low:g} to {high:g}", (low <= scores) & (scores < high)) for low, high in pairwise(BOUNDS)]
    groups += [(name, np.array([one == name for one, _, _ in found])) for name in sorted({one for one, _, _ in found})]
    for group, chosen in groups:
        if chosen.any():
            yield f"{group}: told {scores[chosen].mean():.2f}, right {right[chosen].mean():.2f}, {chosen.sum()} masks"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="COCO")
    parser.add_argument("--images", type=int, help="the first so many photos (all)")
    parser.add_argument("--names", type=int, help="so many names for each photo (all that the namer knows)")
    given = parser.parse_args()
    segmenter = Segmenter.from_preset("photo", by="slic", masks=MASKS)
    for line in lines(list(named_masks(segmenter, given.folder, given.images, given.names))):
        print(line)


if __name__ == "__main__":
    main()
