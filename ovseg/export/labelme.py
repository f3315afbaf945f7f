"""`labelme`: a JSON an image with polygons, for labelme's editor and converters.

    <id>.json   imagePath names the image: relative to the JSON, or its bare name where it is not there any more
    <id>.jpg    with --images copy or link, beside its JSON

One polygon for each 4-connected part of a class. labelme's shapes of type "mask" would be exact as well, but its editor
cannot change them and most converters pass over them; so holes are cut out by a keyhole instead, and the polygons fill
to exactly the region's pixels in labelme's own `shapes_to_label` (`ovseg.export.polygons`). The background is not
drawn; pixels without a label are in no polygon, and so become background.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ovseg.export.image import ImageSet, LabelledImage
from ovseg.export.polygons import polygons
from ovseg.files import json_bytes, write_atomically

VERSION = "5.0.0"  # of labelme, whose format this is


def write_labelme(images: ImageSet, folder: Path) -> None:
    """Write a JSON an image."""
    for image in images:
        path = folder / f"{image.id}.json"
        content = {
            "version": VERSION,
            "flags": {},
            "shapes": _shapes(image),
            "imagePath": _image_path(images, image, path.parent),
            "imageData": None,
            "imageHeight": image.labels.shape[0],
            "imageWidth": image.labels.shape[1],
        }
        write_atomically(path, json_bytes(content))
        images.place(image, folder / image.file_name)


def _shapes(image: LabelledImage) -> list[dict[str, Any]]:
    return [
        {
            "label": image.names[region.index],
            "points": polygon.tolist(),
            "group_id": None,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
        }
        for region in image.regions(background=False)
        for polygon in polygons(region.mask)
    ]


def _image_path(images: ImageSet, image: LabelledImage, folder: Path) -> str:
    if images.images != "none" or not Path(image.source).is_file():
        return Path(image.file_name).name
    # `folder` is renamed later, but only in its last part but one; a path up and out of it stays the same.
    return Path(os.path.relpath(image.source, folder)).as_posix()
