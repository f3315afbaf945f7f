"""`voc`: a PASCAL VOC segmentation tree.

    SegmentationClass/<id>.png               8-bit with a palette: 0 background, 255 void (no label)
    SegmentationObject/<id>.png              the same with object numbers: one a class, or one a connected part
                                             with --components; 0 background, 255 void
    ImageSets/Segmentation/default.txt       the ids
    labelmap.txt                             what the indices mean, as CVAT and Datumaro read it
    JPEGImages/<id>.jpg                      with --images copy or link; the file keeps its ending

Class maps are exact. VOC's index 0 is the background: a run without one gets its indices moved up by one. At most 255
classes with the background. Annotations/ with boxes is not written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ovseg.draw import Colour
from ovseg.export.image import ImageSet
from ovseg.export.label_map import label_map_bytes, list_bytes, names_and_colours, object_colours, objects, shifted
from ovseg.files import index_png, write_atomically

VOID, VOID_COLOUR = 255, (224, 224, 192)


def write_voc(images: ImageSet, folder: Path) -> None:
    """Write the tree. Raises ValueError as `voc_classes` and `objects`."""
    names, colours = voc_classes(images.names, images.colours)
    of_objects = [*object_colours()[:VOID], VOID_COLOUR]
    ids = []
    for image in images:
        ids.append(image.id)
        labels = shifted(image, VOID)
        numbers = objects(image, components=images.components)
        numbers[labels == VOID] = VOID
        classes = index_png(labels.astype(np.uint8), _palette(colours))
        write_atomically(folder / f"SegmentationClass/{image.id}.png", classes)
        write_atomically(folder / f"SegmentationObject/{image.id}.png", index_png(numbers, of_objects))
        images.place(image, folder / "JPEGImages" / image.file_name)
    write_atomically(folder / "ImageSets/Segmentation/default.txt", list_bytes(ids))
    write_atomically(folder / "labelmap.txt", label_map_bytes([*names, "ignored"], [*colours, VOID_COLOUR]))


def voc_classes(names: Sequence[str], colours: Sequence[Colour]) -> tuple[list[str], list[Colour]]:
    """The classes with the background in front; ValueError for over 255 of them, and as `names_and_colours`."""
    classes, of_classes = names_and_colours(names, colours, ("ignored", VOID_COLOUR))
    if len(classes) > VOID:
        raise ValueError(f"at most {VOID} classes with the background fit into 8 bits, got {len(classes)}")
    return classes, of_classes


def _palette(colours: list[Colour]) -> list[Colour]:
    """256 entries, those between the classes and void black."""
    return [*colours, *[(0, 0, 0)] * (VOID - len(colours)), VOID_COLOUR]
