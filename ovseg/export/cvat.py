"""`cvat`: one zip that CVAT imports into a task or project as "Segmentation mask 1.1".

    ovseg.zip   labelmap.txt, ImageSets/Segmentation/default.txt, SegmentationClass/<id>.png (RGB in labelmap.txt's
                colours), SegmentationObject/<id>.png (RGB in VOC's colours of object numbers)

The task's images must be named as the ids, folders included, and its labels as the classes. Exact but for one thing:
the format has no "no label" (255 is refused by the import), so that pixels without a label become background. One
object a class, or one a 4-connected part with --components, and at most 254 of them an image. Holds no images.
"""

from __future__ import annotations

from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import numpy as np
from PIL import Image

from ovseg.export.image import ImageSet
from ovseg.export.label_map import label_map_bytes, list_bytes, names_and_colours, object_colours, objects, shifted
from ovseg.files import png_bytes


def write_cvat(images: ImageSet, folder: Path) -> None:
    """Write the zip. Raises ValueError as `names_and_colours` and `objects`."""
    names, colours = names_and_colours(images.names, images.colours)
    class_table, object_table = np.array(colours, np.uint8), np.array(object_colours(), np.uint8)
    with ZipFile(folder / "ovseg.zip", "w") as archive:
        _add(archive, "labelmap.txt", label_map_bytes(names, colours), ZIP_DEFLATED)
        ids = []
        for image in images:
            ids.append(image.id)
            classes = class_table[shifted(image, 0)]
            numbers = object_table[objects(image, components=images.components)]
            _add(archive, f"SegmentationClass/{image.id}.png", png_bytes(Image.fromarray(classes)), ZIP_STORED)
            _add(archive, f"SegmentationObject/{image.id}.png", png_bytes(Image.fromarray(numbers)), ZIP_STORED)
        _add(archive, "ImageSets/Segmentation/default.txt", list_bytes(ids), ZIP_DEFLATED)


def _add(archive: ZipFile, name: str, data: bytes, compression: int) -> None:
    # A ZipInfo made by hand carries no time of the clock: the same run gives the same bytes.
    entry = ZipInfo(name)
    entry.compress_type = compression
    try:
        archive.writestr(entry, data)
    except UnicodeEncodeError as error:
        raise ValueError(f"cvat: {name!r} is no UTF-8, which a zip's names are; rename the image") from error
