"""`coco`: COCO's JSON of object and stuff annotations; read by pycocotools, supervision, Datumaro and most trainers.

    annotations/instances_default.json
    images/default/<id>.jpg              with --images copy or link; file names in the JSON are relative to this folder

Exact: one annotation a class and image, or one a 4-connected part with --components (the background stays whole), as a
compressed run-length mask, holes and all; or with --polygons as outlines, which pycocotools fills to the same pixels
(supervision, which rounds points to whole pixels first, to one more at right and lower edges: give it the masks).
The background is a category like the others, unless --no-background; see `ovseg.export.categories` for the ids. Pixels
without a label are in no annotation. `score` (mean confidence) is an addition that readers ignore. The whole set is one
JSON, held in memory: from a hundred bytes to some ten thousand an annotation, by the length of its outline.

    supervision.DetectionDataset.from_coco("images/default", "annotations/instances_default.json", force_masks=True)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ovseg.export.categories import category_ids, category_names
from ovseg.export.image import ImageSet, LabelledImage, Region
from ovseg.export.polygons import polygons
from ovseg.files import write_atomically


def write_coco(images: ImageSet, folder: Path) -> None:
    """Write one JSON for the set. Raises ValueError as `category_ids`."""
    ids = category_ids(images)
    place = folder / "images/default"
    place.mkdir(parents=True)  # some readers want the folder, whatever it holds
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image in images:
        entries.append(image_entry(image, len(entries) + 1))
        for region in image.regions(components=images.components, background=images.background):
            identity = {"id": len(annotations) + 1, "image_id": len(entries), "category_id": ids[region.index]}
            annotations.append({**identity, **_annotation(region, outlines=images.outlines)})
        images.place(image, place / image.file_name)
    content = {
        "info": {"description": "labels by ovseg"},
        "licenses": [],
        "images": entries,
        "categories": [{"id": id, "name": name, "supercategory": ""} for id, name in category_names(images).items()],
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


def _annotation(region: Region, *, outlines: bool) -> dict[str, Any]:
    score = {} if region.score is None else {"score": region.score}
    return {"segmentation": _segmentation(region.mask, outlines=outlines), **extent(region.mask), **score}


def _segmentation(mask: np.ndarray, *, outlines: bool) -> dict[str, Any] | list[list[float]]:
    """A mask (H, W) bool as COCO has it: polygons, x and y in turn, or a compressed run-length mask."""
    if outlines:
        return [polygon.ravel().tolist() for polygon in polygons(mask)]
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}
