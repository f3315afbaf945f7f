"""COCO's instances JSON as label maps, where the annotations are on disk and the stuffthingmaps are not.

Polygons and run lengths are drawn by pycocotools.
"""

from __future__ import annotations

import contextlib
import io
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ovseg.eval.label_rules import COCO_OBJECTS

NOTHING = 255  # as in stuffthingmaps


def instance_images(path: Path) -> list[str]:
    """The image ids of an instances JSON: file names without suffix, sorted.

    Raises OSError when it cannot be read, ValueError when it is no instances JSON or has other objects than COCO's 80.
    """
    return sorted(_load(path)[1])


def instance_map(path: Path, image: str) -> np.ndarray:
    """The objects of one image as stuffthingmaps have them: (H, W) uint8, category id - 1, 255 = no object.

    Where objects overlap, the one with fewer pixels is on top, and of two equal ones the one with the lower annotation
    id. Crowds (groups drawn as one region) count as their class and are beneath all other objects. How COCO-Stuff
    resolved overlaps is not published, so that pixels on them may differ from its maps.
    image: an id of `instance_images`. Raises as `instance_images`.
    """
    coco, facts = _load(path)
    drawn = []
    for annotation in coco.imgToAnns[facts[image]["id"]]:
        mask = coco.annToMask(annotation).astype(bool)
        single = not annotation.get("iscrowd", 0)
        drawn.append((single, -int(mask.sum()), -annotation["id"], annotation["category_id"], mask))
    drawn.sort(key=lambda one: one[:3])
    values = np.full((facts[image]["height"], facts[image]["width"]), NOTHING, np.uint8)
    for *_, category, mask in drawn:
        values[mask] = category - 1
    return values


@lru_cache(maxsize=1)
def _load(path: Path) -> tuple[Any, dict[str, dict[str, Any]]]:
    """The file's index and its images by id; read once, as it takes a second."""
    from pycocotools.coco import COCO

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints how long it takes
            coco = COCO(str(path))
        images = {
            Path(one["file_name"]).stem: {key: one[key] for key in ("id", "height", "width")}
            for one in coco.dataset["images"]
        }
        categories = {one["category_id"] for one in coco.dataset["annotations"]}
    except (ValueError, AssertionError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: no COCO instances file ({error})") from error
    if unknown := sorted(categories - {value + 1 for value in COCO_OBJECTS}):
        raise ValueError(f"{path}: category {unknown[0]} is none of COCO's 80 objects; expected instances_val2017.json")
    return coco, images
