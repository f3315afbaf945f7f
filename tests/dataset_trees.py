"""Tiny data sets, each in exactly the format that its benchmark has on disk, with the label values of the raw download.

    root = build_tree("voc21", tmp_path)             # three images of about 96 x 128
    open_dataset("voc21", root, part=True)

What was painted is known: `painted` has the values in the files, and `TABLES` what each of them should become, written
down without the code under test.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as masks

SIZES = ((96, 128), (104, 120), (128, 96))  # (height, width), in turn
PEOPLE = 0  # a value that every COCO map holds
COCO_REMOVED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}  # category ids without annotations
CITYSCAPES_TRAIN_IDS = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15,
    31: 16, 32: 17, 33: 18,
}  # fmt: skip
CUSTOM_CLASSES = "background\ncat; kitten\ndog\ngrass  # or straw\n"


def _coco_stuff() -> dict[int, int]:
    """Raw value to rank among the categories that have annotations."""
    table, rank = {255: 255}, 0
    for category in range(1, 183):
        if category not in COCO_REMOVED:
            table[category - 1] = rank
            rank += 1
    return table


def _coco_objects() -> dict[int, int]:
    """Raw value to rank + 1 for objects; stuff and unlabelled pixels to 0."""
    return {value: rank + 1 if value <= 90 else 0 for value, rank in _coco_stuff().items()}


# What a label value becomes. The 27 super-categories stand in test_label_rules.py.
TABLES: dict[str, dict[int, int]] = {
    "voc21": {**{value: value for value in range(21)}, 255: 255},
    "voc20": {0: 255, 255: 255, **{value: value - 1 for value in range(1, 21)}},
    "context60": {value: value for value in range(60)},
    "context59": {0: 255, **{value: value - 1 for value in range(1, 60)}},
    "coco-object": _coco_objects(),
    "coco-stuff171": _coco_stuff(),
    "ade20k": {0: 255, **{value: value - 1 for value in range(1, 151)}},
    "cityscapes": {value: CITYSCAPES_TRAIN_IDS.get(value, 255) for value in range(34)},
    "camvid": {**{value: value for value in range(11)}, 11: 255},
    "custom": {0: 0, 1: 1, 2: 2, 3: 3, 255: 255},
}
VALUES = {**{name: sorted(table) for name, table in TABLES.items()}, "coco-stuff27": sorted(_coco_stuff())}
CONVERTED = {"coco-object", "coco-stuff171", "cityscapes"}  # the sets that also lie about converted
FOLDER_SETS = tuple(VALUES)  # all but pocket

# The values that every map of a set holds: one that is left out or background, and two classes.
_ALWAYS = {
    "voc": (255, 0, 15), "context": (0, 1, 59), "coco": (255, PEOPLE, 181), "ade20k": (0, 1, 150),
    "cityscapes": (0, 7, 33), "camvid": (11, 0, 3), "custom": (255, 0, 1),
}  # fmt: skip


def tree_ids(name: str, images: int = 3) -> list[str]:
    """The ids of a tree, sorted."""
    family = _family(name)
    if family in ("voc", "context"):
        return [f"2007_{number:06d}" for number in range(images)]
    if family == "coco":
        return [f"{139 + number:012d}" for number in range(images)]
    if family == "ade20k":
        return [f"ADE_val_{number + 1:08d}" for number in range(images)]
    if family == "cityscapes":
        city = ("frankfurt", "lindau", "munster")
        return sorted(f"{city[n % 3]}/{city[n % 3]}_{n:06d}_000019" for n in range(images))
    if family == "camvid":
        return [f"0001TP_{8550 + 30 * number:06d}" for number in range(images)]
    return sorted(f"{('day', 'night/rain')[number % 2]}/photo {number}" for number in range(images))


def painted(name: str, number: int, seed: int = 0) -> np.ndarray:
    """The label values of image `number` (in the order of the ids), as downloaded: (H, W) uint8, in blocks."""
    rng = np.random.default_rng([seed, number])
    always = _ALWAYS[_family(name)]
    blocks = rng.choice([*always, *rng.choice(VALUES[name], 4)], (4, 5))
    blocks.flat[: len(always)] = always
    height, width = SIZES[number % len(SIZES)]
    return blocks[np.arange(height) * 4 // height][:, np.arange(width) * 5 // width].astype(np.uint8)


def build_tree(name: str, folder: Path, images: int = 3, seed: int = 0, raw: bool = True) -> Path:
    """Write a data set into `folder` and return its root. raw: labels as downloaded, otherwise (`CONVERTED`) converted.

    Open it with `part=True`: it has fewer images than the real one.
    """
    root = Path(folder) / name
    ids = tree_ids(name, images)
    for number, id in enumerate(ids):
        values = painted(name, number, seed)
        _save_image(root / image_file(name, id), values)
        _save_labels(root / label_file(name, id, raw), values if raw else _convert(name, values), name)
    if _family(name) in ("voc", "context"):
        other = "2008_000001"  # of the training images: not in the list
        _save_image(root / image_file(name, other), painted(name, 0, seed))
        _save_labels(root / label_file(name, other), painted(name, 0, seed), name)
        split = "Segmentation" if _family(name) == "voc" else "SegmentationContext"
        _write(root / "ImageSets" / split / "val.txt", "\n".join(ids) + "\n")
    if name == "custom":
        _write(root / "classes.txt", CUSTOM_CLASSES)
    return root


def build_instances(folder: Path, images: int = 3, seed: int = 0) -> Path:
    """The same images as `build_tree("coco-object", ...)` with annotations/instances_val2017.json for labels."""
    root = Path(folder) / "coco-object-json"
    content = {"images": [], "annotations": [], "categories": []}
    for number, id in enumerate(tree_ids("coco-object", images)):
        values = painted("coco-object", number, seed)
        _save_image(root / image_file("coco-object", id), values)
        height, width = values.shape
        content["images"].append({"id": int(id), "file_name": f"{id}.jpg", "height": height, "width": width})
        for value in sorted(set(values.ravel().tolist())):
            if value <= 90:
                content["annotations"].append(
                    annotation(int(id), len(content["annotations"]), value + 1, values == value)
                )
    _write(root / "annotations/instances_val2017.json", json.dumps(content))
    return root


def annotation(image: int, id: int, category: int, mask: np.ndarray, crowd: bool = False) -> dict:
    """An object as COCO's JSON has it. mask: (H, W) bool."""
    run_lengths = masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    segmentation = {"size": list(mask.shape), "counts": run_lengths["counts"].decode("ascii")}
    common = {"id": id, "image_id": image, "category_id": category, "iscrowd": int(crowd)}
    return {**common, "area": int(mask.sum()), "bbox": [0, 0, 1, 1], "segmentation": segmentation}


def image_file(name: str, id: str) -> str:
    """Where an image lies below the root."""
    return {
        "voc": f"JPEGImages/{id}.jpg",
        "context": f"JPEGImages/{id}.jpg",
        "coco": f"images/val2017/{id}.jpg",
        "ade20k": f"images/validation/{id}.jpg",
        "cityscapes": f"leftImg8bit/val/{id}_leftImg8bit.png",
        "camvid": f"images/{id}.png",
        "custom": f"images/{id}.{'JPG' if id.startswith('day') else 'webp'}",
    }[_family(name)]


def label_file(name: str, id: str, raw: bool = True) -> str:
    """Where an image's labels lie below the root."""
    converted = {"coco-object": "_instanceTrainIds", "coco-stuff171": "_labelTrainIds"}.get(name, "")
    return {
        "voc": f"SegmentationClass/{id}.png",
        "context": f"SegmentationClassContext/{id}.png",
        "coco": f"annotations/val2017/{id}{'' if raw else converted}.png",
        "ade20k": f"annotations/validation/{id}.png",
        "cityscapes": f"gtFine/val/{id}_gtFine_{'labelIds' if raw else 'labelTrainIds'}.png",
        "camvid": f"labels/{id}.png",
        "custom": f"labels/{id}.png",
    }[_family(name)]


def _family(name: str) -> str:
    """Sets that share a tree: voc21 and voc20 are "voc"."""
    return name.partition("-")[0].rstrip("0123456789") if name != "ade20k" else name


def _convert(name: str, values: np.ndarray) -> np.ndarray:
    return np.array([[TABLES[name][int(value)] for value in row] for row in values], np.uint8)


def _save_image(path: Path, values: np.ndarray) -> None:
    """A picture in which every label value has a colour of its own, with some noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(0).integers(40, 216, (256, 3))
    noise = np.random.default_rng(1).integers(-20, 21, (*values.shape, 3))
    Image.fromarray((colours[values] + noise).astype(np.uint8)).save(path)


def _save_labels(path: Path, values: np.ndarray, name: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values)
    if _family(name) == "voc":
        picture.putpalette([channel for value in range(256) for channel in _voc_colour(value)])
    picture.save(path)


def _voc_colour(value: int) -> list[int]:
    """VOC's palette: bit 3k + c of the value is bit 7 - k of channel c."""
    return [sum(((value >> (3 * k + channel)) & 1) << (7 - k) for k in range(3)) for channel in range(3)]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
