"""`coco-panoptic`: COCO's panoptic JSON and its PNGs of segment ids; read by panopticapi and panoptic trainers.

    annotations/panoptic_default.json
    annotations/panoptic_default/<id>.png   RGB; a pixel's segment id is R + 256 G + 65536 B, 0 = no label
    images/default/<id>.jpg                 with --images copy or link

Exact: one segment a class and image, or one a 4-connected part with --components. The format wants stuff classes whole,
so with --components the classes are things (`isthing` 1); the background stays whole, and stuff; with --no-background
it is void, as pixels without a label. Ids as in `ovseg.export.categories`. The whole set is one JSON, held in memory:
some hundred bytes a segment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovseg.draw import NO_LABEL_COLOUR
from ovseg.export.categories import category_ids, category_names
from ovseg.export.coco import extent, image_entry
from ovseg.export.image import ImageSet, LabelledImage, has_background
from ovseg.files import png_bytes, write_atomically


def write_panoptic(images: ImageSet, folder: Path) -> None:
    """Write one JSON for the set and a PNG of segment ids an image. Raises ValueError as `category_ids`."""
    categories = category_ids(images)
    place = folder / "images/default"
    place.mkdir(parents=True)  # some readers want the folder, whatever it holds
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image in images:
        ids, segments = _segments(image, images, categories)
        write_atomically(folder / f"annotations/panoptic_default/{image.id}.png", png_bytes(_as_rgb(ids)))
        entries.append(image_entry(image, len(entries) + 1))
        annotations.append({"image_id": len(entries), "file_name": f"{image.id}.png", "segments_info": segments})
        images.place(image, place / image.file_name)
    content = {
        "info": {"description": "labels by ovseg"},
        "licenses": [],
        "images": entries,
        "categories": _categories(images),
        "annotations": annotations,
    }
    write_atomically(folder / "annotations/panoptic_default.json", json.dumps(content).encode())


def _categories(images: ImageSet) -> list[dict[str, Any]]:
    colours = dict(zip(images.names, images.colours, strict=True))
    background = images.names[0] if has_background(images.names) else None
    return [
        {
            "id": id,
            "name": name,
            "supercategory": "",
            "isthing": int(images.components and name != background),
            "color": colours.get(name, NO_LABEL_COLOUR),
        }
        for id, name in category_names(images).items()
    ]


def _segments(
    image: LabelledImage, images: ImageSet, categories: Mapping[int, int]
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """(H, W) int64 segment ids from 1, and the row of each segment."""
    ids = np.zeros(image.labels.shape, np.int64)
    rows = []
    regions = image.regions(components=images.components, background=images.background)
    for number, region in enumerate(regions, 1):
        ids[region.mask] = number
        rows.append({"id": number, "category_id": categories[region.index], **extent(region.mask)})
    return ids, rows


def _as_rgb(ids: np.ndarray) -> Image.Image:
    return Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8))
