"""`label-studio`: pre-annotations for Label Studio, one brush mask a class.

    tasks.json             a list of tasks with predictions; import it into a project
    labeling_config.xml    the project's labelling interface, with the classes and their colours
    images/<id>.jpg        with --images copy or link

Exact: masks in Label Studio's own run-length code, one a class, or one a 4-connected part with --components. The
background is not drawn; pixels without a label are in no mask, and so become background. Images are named as
/data/local-files/?d=<id>.jpg, Label Studio's local storage: its document root is the folder that the ids start from
(images/ here, with --images copy). The JSON of the set grows with its masks, the memory does not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np

from ovseg import __version__
from ovseg.draw import Colour
from ovseg.export.image import ImageSet, LabelledImage, has_background
from ovseg.files import write_atomically

NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
WORD = 8  # bits of a value
RUN_SIZES = (3, 4, 8, 16)  # bits of a run's length - 1, of which each run takes the fewest that hold it


def write_label_studio(images: ImageSet, folder: Path) -> None:
    """Write the tasks and the labelling interface."""
    with (folder / "tasks.json").open("w", encoding="utf-8") as file:
        file.write("[")
        for number, image in enumerate(images):
            file.write(",\n" if number else "\n")
            json.dump(_task(image, components=images.components), file)
            images.place(image, folder / "images" / image.file_name)
        file.write("\n]\n")
    write_atomically(folder / "labeling_config.xml", _interface(images))


def xml_names(names: Sequence[str], _colours: Sequence[Colour]) -> Sequence[str]:
    """The names; ValueError for one with a character that XML has no way to write."""
    for name in names:
        if found := NOT_XML.search(name):
            raise ValueError(f"class {name!r}: XML cannot hold the character U+{ord(found[0]):04X}")
    return names


def _task(image: LabelledImage, *, components: bool) -> dict[str, Any]:
    height, width = image.labels.shape
    results: list[dict[str, Any]] = []
    for region in image.regions(components=components, background=False):
        value = {"format": "rle", "rle": encode(region.mask), "brushlabels": [image.names[region.index]]}
        result = {
            "id": f"region{len(results) + 1}",
            "type": "brushlabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": value,
        }
        results.append(result if region.score is None else {**result, "score": region.score})
    prediction: dict[str, Any] = {"model_version": f"ovseg {__version__}", "result": results}
    if image.confidence is not None:
        prediction["score"] = round(float(image.confidence.mean(dtype=np.float64)), 6)
    url = f"/data/local-files/?d={quote(image.file_name, errors='surrogateescape')}"
    return {"data": {"image": url}, "predictions": [prediction]}


def _interface(images: ImageSet) -> bytes:
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image", zoom="true")
    labels = ElementTree.SubElement(view, "BrushLabels", name="label", toName="image")
    first = 1 if has_background(images.names) else 0
    for name, colour in list(zip(images.names, images.colours, strict=True))[first:]:
        ElementTree.SubElement(labels, "Label", value=name, background="#{:02x}{:02x}{:02x}".format(*colour))
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="utf-8") + b"\n"


def encode(mask: np.ndarray) -> list[int]:
    """A mask (H, W) bool in Label Studio's run-length code (rle-pack of thi.ng), as a list of bytes.

    The code is of the RGBA picture in which the mask's pixels are 255 in all four channels and the others 0: 32 bits
    for the number of values, 5 for `WORD` - 1, 4 for each of `RUN_SIZES` - 1; then each run is a 1, 2 bits for which of
    `RUN_SIZES` it takes, its length - 1, and its value; zeros fill the last byte.
    """
    flat = mask.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    values = np.where(flat[starts], 255, 0)
    lengths = 4 * np.diff(np.append(starts, flat.size))
    pieces = -(-lengths // (1 << RUN_SIZES[-1]))  # a run longer than the code allows is split into pieces
    values, lengths = np.repeat(values, pieces), _divided(lengths, pieces)
    kinds = np.searchsorted([1 << size for size in RUN_SIZES], lengths)
    sizes = np.array(RUN_SIZES)[kinds]
    codes = ((((4 + kinds) << sizes) + (lengths - 1)) << WORD) + values
    header = [(4 * flat.size, 32), (WORD - 1, 5), *((size - 1, 4) for size in RUN_SIZES)]
    fields = [*zip(*header, strict=True)]
    bits = _bits(np.append(fields[0], codes), np.append(fields[1], 3 + sizes + WORD))
    return np.packbits(bits).tolist()


def _divided(lengths: np.ndarray, pieces: np.ndarray) -> np.ndarray:
    """Each length as so many pieces, all but the last as long as a run can be."""
    longest = 1 << RUN_SIZES[-1]
    divided = np.full(int(pieces.sum()), longest)
    divided[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * longest
    return divided


def _bits(codes: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """The lowest `widths` bits of each code, highest first, one after the other: (bits,) uint8 of 0 and 1."""
    ends = np.cumsum(widths)
    shift = np.repeat(ends, widths) - np.arange(int(ends[-1])) - 1
    return ((np.repeat(codes, widths) >> shift) & 1).astype(np.uint8)


def decode(code: Sequence[int], count: int) -> np.ndarray:
    """(count,) uint8: the values that a run-length code of Label Studio's stands for; see `encode`. Beside runs of one
    value there are runs of single values, a 0 in front.

    Raises ValueError for a code of another number of values, or one that ends too early.
    """
    bits = "".join(f"{byte:08b}" for byte in bytes(code))
    place = 0

    def read(width: int) -> int:
        nonlocal place
        place += width
        return int(bits[place - width : place], 2)

    try:
        total, word = read(32), read(5) + 1
        sizes = [read(4) + 1 for _ in RUN_SIZES]
        if total != count or word != WORD:
            raise ValueError(f"of {total} values with {word} bits, expected {count} with {WORD}")
        pieces, found = [], 0
        while found < total:
            repeated = read(1)
            length = read(sizes[read(2)]) + 1
            values = [read(word)] * length if repeated else [read(word) for _ in range(length)]
            pieces.append(bytes(values))
            found += length
    except (ValueError, TypeError) as error:
        raise ValueError(f"its run-length code cannot be read ({error})") from error
    return np.frombuffer(b"".join(pieces), np.uint8)[:count]
