"""From the label values in a data set's files to class indices, or 255 where the pixel is not scored.

A rule is a (65536,) int16 array, the index for every value that a file can hold; `OUTSIDE` marks values that the set's
files never hold, so that a wrong file is noticed. The sources stand beside each rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

IGNORED = 255  # in every truth map: this pixel is not scored
OUTSIDE = -1
MOST_CLASSES = 255  # a truth map is 8-bit

# COCO-Stuff, stuffthingmaps: category id - 1, objects 0..90 and stuff 91..181; eleven object ids were never annotated.
COCO_UNUSED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
COCO_USED = tuple(value for value in range(182) if value not in COCO_UNUSED)  # 171; a class's index is its rank in here
COCO_OBJECTS = COCO_USED[:80]

# The order is that of PiCIE (arXiv 2103.17070) and STEGO (arXiv 2203.08414), the grouping that of COCO-Stuff's own
# hierarchy (arXiv 1612.03716). Values as in stuffthingmaps.
COCO_SUPER_CATEGORIES: dict[str, tuple[int, ...]] = {
    "electronic": (71, 72, 73, 74, 75, 76),
    "appliance": (77, 78, 79, 80, 81),
    "food": (51, 52, 53, 54, 55, 56, 57, 58, 59, 60),
    "furniture": (61, 62, 63, 64, 66, 69),
    "indoor": (83, 84, 85, 86, 87, 88, 89),
    "kitchen": (43, 45, 46, 47, 48, 49, 50),
    "accessory": (26, 27, 30, 31, 32),
    "animal": (15, 16, 17, 18, 19, 20, 21, 22, 23, 24),
    "outdoor": (9, 10, 12, 13, 14),
    "person": (0,),
    "sports": (33, 34, 35, 36, 37, 38, 39, 40, 41, 42),
    "vehicle": (1, 2, 3, 4, 5, 6, 7, 8),
    "ceiling": (101, 102),
    "floor": (100, 113, 114, 115, 116, 117),
    "food-stuff": (120, 121, 152, 169),
    "furniture-stuff": (97, 106, 107, 109, 111, 122, 129, 132, 155, 160, 164),
    "raw-material": (99, 131, 138, 142),
    "textile": (91, 92, 103, 104, 108, 130, 136, 140, 151, 166, 167),
    "wall": (170, 171, 172, 173, 174, 175, 176),
    "window": (179, 180),
    "building": (94, 95, 127, 150, 157, 165),
    "ground": (110, 124, 125, 135, 139, 143, 144, 146, 148, 153, 158),
    "plant": (93, 96, 118, 123, 128, 133, 141, 162, 168),
    "sky": (105, 156),
    "solid": (126, 134, 149, 159, 161, 181),
    "structural": (98, 112, 137, 145, 163),
    "water": (119, 147, 154, 177, 178),
}

# Cityscapes: labelIds of the classes that are evaluated, in the order of their train ids (cityscapesScripts).
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def rule(values: Mapping[int, int]) -> np.ndarray:
    """The rule that sends each value to its index, all others `OUTSIDE`."""
    table = np.full(65536, OUTSIDE, np.int16)
    for value, index in values.items():
        table[value] = index
    return table


def indices(classes: int, ignored: Iterable[int] = (), first: int = 0) -> np.ndarray:
    """Files that hold the indices 0..classes-1, counted from `first`, and perhaps values to leave out."""
    return rule({**{first + index: index for index in range(classes)}, **dict.fromkeys(ignored, IGNORED)})


def reduced_zero(classes: int) -> np.ndarray:
    """Files with 0 = none of the classes: 0 is left out, 1..classes become 0..classes-1, and 255 stays 255."""
    return rule({0: IGNORED, 255: IGNORED, **{index + 1: index for index in range(classes)}})


def coco_stuff() -> np.ndarray:
    """stuffthingmaps to 171 classes: the rank among the ids in use; 255 and the unused ids are left out."""
    return rule({**_coco_left_out(), **{value: index for index, value in enumerate(COCO_USED)}})


def coco_objects() -> np.ndarray:
    """stuffthingmaps to background 0 and 80 objects 1..80: stuff and 255 are background, unused object ids left out."""
    background = dict.fromkeys([*range(91, 182), 255], 0)
    return rule({**_coco_left_out(), **background, **{value: index for index, value in enumerate(COCO_OBJECTS, 1)}})


def coco_super_categories() -> np.ndarray:
    """stuffthingmaps to 27 super-categories; 255 and the unused ids are left out."""
    groups = enumerate(COCO_SUPER_CATEGORIES.values())
    return rule({**_coco_left_out(), **{value: index for index, group in groups for value in group}})


def cityscapes() -> np.ndarray:
    """labelIds (0..33) to the 19 train ids; all other ids, and 255, are left out."""
    left_out = dict.fromkeys([*range(34), 255], IGNORED)
    return rule({**left_out, **{value: index for index, value in enumerate(CITYSCAPES_IDS)}})


def _coco_left_out() -> dict[int, int]:
    return dict.fromkeys([*COCO_UNUSED, 255], IGNORED)


def apply(table: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Truth map (H, W) uint8 of a file's values (H, W) uint8 or uint16.

    Raises ValueError that says which values are outside the rule, and which ones it knows and leaves out.
    """
    truth = table[values]
    if truth.min() == OUTSIDE:
        wrong = np.unique(values[truth == OUTSIDE]).tolist()
        some = ", ".join(map(str, wrong[:5])) + (", ..." if len(wrong) > 5 else "")
        raise ValueError(
            f"label values {some} are none of this set's; expected {_ranges(table != OUTSIDE)} "
            f"(left out: {_ranges(table == IGNORED) or 'none'})"
        )
    return truth.astype(np.uint8)


def _ranges(chosen: np.ndarray) -> str:
    """The values at which (65536,) bool is true, "0..20, 255"."""
    values = np.flatnonzero(chosen)
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1) if values.size else []
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)
