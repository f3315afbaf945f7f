"""Run folders as the files of other tools: a dict of writers, one small file a format.

A new format is a file and an entry of `WRITERS`; its line in the help is in `ovseg.cli.exchange`. A writer is a
function of (images, folder): it reads the images one at a time and writes the format's files below the folder, which is
new and empty; `ovseg.export.write` renames it when all is there. What becomes of "background", of pixels without a
label, of holes and of regions in several parts stands in each format's file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ovseg.draw import Colour, class_colours
from ovseg.export.categories import category_ids
from ovseg.export.coco import write_coco
from ovseg.export.cvat import write_cvat
from ovseg.export.fiftyone import write_fiftyone
from ovseg.export.hugging_face import write_imagefolder, write_parquet
from ovseg.export.image import ImageSet as ImageSet
from ovseg.export.image import LabelledImage as LabelledImage
from ovseg.export.image import open_images as open_images
from ovseg.export.label_map import names_and_colours
from ovseg.export.label_studio import write_label_studio, xml_names
from ovseg.export.labelme import write_labelme
from ovseg.export.npz import write_npz
from ovseg.export.panoptic import write_panoptic
from ovseg.export.png import write_png
from ovseg.export.voc import voc_classes, write_voc
from ovseg.export.yolo import write_yolo

WRITERS: dict[str, Callable[[ImageSet, Path], None]] = {
    "png": write_png,
    "npz": write_npz,
    "coco": write_coco,
    "coco-panoptic": write_panoptic,
    "voc": write_voc,
    "cvat": write_cvat,
    "yolo": write_yolo,
    "labelme": write_labelme,
    "label-studio": write_label_studio,
    "fiftyone": write_fiftyone,
    "imagefolder": write_imagefolder,
    "parquet": write_parquet,
}

# Packages that a format needs and that are not installed with ovseg itself -> the extra that brings them.
NEEDS: dict[str, tuple[str, str]] = {"parquet": ("pyarrow", "parquet")}
# What some formats alone can be asked: a field of `ImageSet` -> its name for users, its usual value, the formats.
ASKED: dict[str, tuple[str, object, tuple[str, ...]]] = {
    "background": ("no_background", True, ("coco", "coco-panoptic")),
    "outlines": ("polygons", False, ("coco",)),
    "category_ids": ("category_ids", None, ("coco", "coco-panoptic")),
}

# For formats that do not allow every class name: how they convert a run's names and colours; the others allow any.
CLASSES: dict[str, Callable[[Sequence[str], Sequence[Colour]], object]] = {
    "voc": voc_classes,
    "cvat": names_and_colours,
    "label-studio": xml_names,
}


def check_names(formats: Sequence[str], names: Sequence[str]) -> None:
    """Raise ValueError, naming the format, for a run's names (by index, "background" in front) that one cannot hold."""
    for name in formats:
        try:
            if name in CLASSES:
                CLASSES[name](names, class_colours(names))
        except ValueError as error:
            raise ValueError(f"format: {name}: {error}") from error


def check_asked(formats: Sequence[str], images: ImageSet) -> None:
    """Raise ValueError, naming the option, for one that none of the formats knows, and for ids that do not fit."""
    for field, (option, usual, known) in ASKED.items():
        if getattr(images, field) != usual and not set(known) & set(formats):
            raise ValueError(f"{option}: is for {' and '.join(known)}, got {', '.join(formats)}")
    category_ids(images)
