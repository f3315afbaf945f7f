"""`fiftyone`: FiftyOne's `ImageSegmentationDirectory`.

    data/<id>.jpg         with --images copy or link; else put the images here yourself
    labels/<id>.png       grey PNGs of indices: 0 background, 255 (65535 over 254 classes) no label
    mask_targets.json     what the values mean

Exact. FiftyOne shows 0 as background: a run without one gets its indices moved up by one.

    dataset = fiftyone.Dataset.from_dir(FOLDER, fiftyone.types.ImageSegmentationDirectory)
    dataset.default_mask_targets = {int(value): name for value, name in json.load(open("mask_targets.json")).items()}
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ovseg.draw import NO_LABEL
from ovseg.export.image import ImageSet, grey_png, has_background
from ovseg.export.label_map import shifted
from ovseg.files import json_bytes, write_atomically


def write_fiftyone(images: ImageSet, folder: Path) -> None:
    """Write a PNG an image and the values' names."""
    names = [*(() if has_background(images.names) else ("background",)), *images.names]
    wide = len(names) > 255
    unlabelled, index_type = (65535, np.uint16) if wide else (255, np.uint8)
    for image in images:
        values = shifted(image, unlabelled).astype(index_type)
        write_atomically(folder / f"labels/{image.id}.png", grey_png(values))
        images.place(image, folder / "data" / image.paired_name)
    targets = {**dict(enumerate(names)), unlabelled: NO_LABEL}
    write_atomically(folder / "mask_targets.json", json_bytes({str(value): name for value, name in targets.items()}))
