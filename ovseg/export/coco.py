"""`coco`: COCO's JSON of object and stuff annotations with run-length masks; read by pycocotools and most trainers.

    annotations/instances_default.json
    images/default/<id>.jpg              with --images copy; file names in the JSON are relative to this folder

Exact: one annotation a class and image, or one a 4-connected part with --components (the background stays whole), as a
compressed run-length mask, holes and all. Category ids are the run's indices + 1, as some readers take 0 for "none";
the background is a category like the others. Pixels without a label are in no annotation. `score` (mean confidence)
is an addition that readers ignore. The whole set is one JSON, held in memory: from a hundred bytes to some ten
thousand an annotation, by the length of its outline.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ovseg.export.image import ImageSet, LabelledImage, Region
from ovseg.files import write_atomically


def write_coco(images: ImageSet, folder: Path) -> None:
    """Write one JSON for the set."""
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image in images:
        entries.append(image_entry(image, len(entries) + 1))
        for region in image.regions(components=images.components):
            identity = {"id": len(annotations) + 1, "image_id": len(entries)}
            annotations.append({**identity, **_annotation(region)})
        images.place(image, folder / "images/default" / image.file_name)
    content = {
        "info": {"description": "labels by ovseg"},
        "licenses": [],
        "images": entries,
        "categories": [{"id": index + 1, "name": name, "supercategory": ""} for index, name in enumerate(images.names)],
        "annotations": annotations,
    }
    write_atomically(folder / "annotations/instances_default.json", json.dumps(content).encode())


def image_entry(image: LabelledImage, number: int) -> dict[str, Any]:
    """An image's row in COCO's JSON."""
    height, width = image.labels.shape
    return {"id": number, "file_name": image.file_name, "width": width, "height": height}


def extent(mask: np.ndarray) -> dict[str, Any]:
    """Area and box (x, y, width, height) of a mask (H, W) bool, in pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    box = [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]
    return {"area": int(mask.sum()), "bbox": box, "iscrowd": 0}


def _annotation(region: Region) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(region.mask, np.uint8))
    segmentation = {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}
    score = {} if region.score is None else {"score": region.score}
    return {"category_id": region.index + 1, "segmentation": segmentation, **extent(region.mask), **score}
