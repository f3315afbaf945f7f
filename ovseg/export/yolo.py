"""`yolo`: polygons for Ultralytics' YOLO segmentation.

    data.yaml           class names; train and val both name images/; split them yourself
    labels/<id>.txt     a line a region: class x1 y1 x2 y2 ..., x and y as shares of the image's width and height
    images/<id>.jpg     with --images copy or link; else put the images here yourself

YOLO looks for an image's labels where the last folder `images` of its path is called `labels`: those of an id that
holds such a folder, `sub/images/a`, lie at images/sub/labels/a.txt.

One line for each 4-connected part of a class. Holes are cut out by a keyhole; polygons fill to exactly the region's
pixels at the image's own size (`ovseg.export.polygons`); Ultralytics scales them to the size it trains at; supervision
rounds their points, and so fills a pixel more at right and lower edges. What is in
no polygon is background to YOLO: so the background is left out, and the classes count from 0 without it. Pixels
without a label are in no polygon either, and so become background.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from ovseg.export.image import ImageSet, LabelledImage, has_background
from ovseg.export.polygons import polygons
from ovseg.files import write_atomically


def write_yolo(images: ImageSet, folder: Path) -> None:
    """Write a text file an image and data.yaml."""
    first = 1 if has_background(images.names) else 0
    for image in images:
        write_atomically(folder / label_file(image.paired_name), "".join(_lines(image, first)).encode())
        images.place(image, folder / "images" / image.paired_name)
    content = {"train": "images", "val": "images", "names": dict(enumerate(images.names[first:]))}
    write_atomically(folder / "data.yaml", yaml.safe_dump(content, allow_unicode=True, sort_keys=False).encode())


def label_file(name: str) -> str:
    """Where Ultralytics looks for the labels of images/NAME: its last /images/ as /labels/, its ending as .txt.

    >>> label_file("sub/a.jpg"), label_file("sub/images/a.jpg")
    ('labels/sub/a.txt', 'images/sub/labels/a.txt')
    """
    before, _, rest = f"/images/{name}".rpartition("/images/")
    return f"{before}/labels/{rest}".removeprefix("/").rpartition(".")[0] + ".txt"


def _lines(image: LabelledImage, first: int) -> list[str]:
    height, width = image.labels.shape
    lines = []
    for region in image.regions(background=False):
        for polygon in polygons(region.mask):
            shares = (polygon / np.array([width, height])).ravel()
            lines.append(f"{region.index - first} {' '.join(f'{share:.8f}' for share in shares)}\n")
    return lines
