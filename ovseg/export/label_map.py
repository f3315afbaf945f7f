"""What PASCAL VOC trees and CVAT's masks share: names and colours in labelmap.txt, a list of images, object numbers.

labelmap.txt is not of PASCAL VOC itself; CVAT and Datumaro read it for classes that are not VOC's twenty.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ovseg.draw import Colour
from ovseg.export.image import LabelledImage, has_background

BACKGROUND: Colour = (0, 0, 0)
MOST_OBJECTS = 254  # in one image, as VOC's colours for objects are 256 and two of them stand for none and for void


def names_and_colours(
    names: Sequence[str], colours: Sequence[Colour], *reserved: tuple[str, Colour]
) -> tuple[list[str], list[Colour]]:
    """A run's classes by index with black "background" as 0, put in front where the run has none.

    Raises ValueError for names that labelmap.txt cannot hold and for colours that do not tell the classes apart;
    `reserved` are further entries that must not be taken.
    """
    first = 1 if has_background(names) else 0
    names = ["background", *names[first:]]
    colours = [BACKGROUND, *colours[first:]]
    for name in names:
        if ":" in name or name != name.strip() or name[:1] in ("", "#") or len(name.splitlines()) != 1:
            raise ValueError(f"class {name!r}: labelmap.txt holds no name with a colon, # in front or blanks around it")
    if len({*names, *(name for name, _ in reserved)}) != len(names) + len(reserved):
        raise ValueError("two classes of one name, or named as background or ignored; labelmap.txt tells them by name")
    if len({*colours, *(colour for _, colour in reserved)}) != len(colours) + len(reserved):
        raise ValueError(f"{len(names)} classes, but their colours are not all different; labelmap.txt needs that")
    return names, colours


def label_map_bytes(names: Sequence[str], colours: Sequence[Colour]) -> bytes:
    """labelmap.txt: a line "name:red,green,blue::" a class (the empty fields: body parts, actions)."""
    lines = [f"{name}:{red},{green},{blue}::\n" for name, (red, green, blue) in zip(names, colours, strict=True)]
    return "".join(["# label:color_rgb:parts:actions\n", *lines]).encode()


def list_bytes(ids: Sequence[str]) -> bytes:
    """ImageSets/Segmentation/default.txt: an id a line; ValueError for an id that cannot stand there."""
    for id in ids:
        if id != id.strip() or id[0] == "#" or len(id.splitlines()) != 1:
            raise ValueError(f"image {id!r}: a list of images holds no name with # in front or blanks around it")
    return "".join(f"{id}\n" for id in ids).encode("utf-8", "surrogateescape")


def shifted(image: LabelledImage, unlabelled: int) -> np.ndarray:
    """(H, W) int64: indices with the background as 0, pixels without a label as `unlabelled`."""
    first = 0 if has_background(image.names) else 1
    return np.where(image.labels == image.no_label, unlabelled, image.labels.astype(np.int64) + first)


def objects(image: LabelledImage, *, components: bool) -> np.ndarray:
    """(H, W) uint8: 0 where there is no object, else the object's number: one a class, or one a connected part."""
    numbers = np.zeros(image.labels.shape, np.uint8)
    for number, region in enumerate(image.regions(components=components, background=False), 1):
        if number > MOST_OBJECTS:
            which = "connected parts; export it without --components" if components else "classes"
            raise ValueError(f"{image.id}: at most {MOST_OBJECTS} objects fit into a mask, it has more {which}")
        numbers[region.mask] = number
    return numbers


def object_colours() -> list[Colour]:
    """VOC's 256 colours: bits 0, 1, 2 of the number are the highest bits of red, green, blue, and so on downwards."""
    channels = [
        [sum(((number >> (3 * step + channel)) & 1) << (7 - step) for step in range(3)) for channel in range(3)]
        for number in range(256)
    ]
    return [(red, green, blue) for red, green, blue in channels]
