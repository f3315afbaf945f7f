"""Benchmark data sets as they are stored on disk: images, and truth maps in the classes' own indices.

`open_dataset("voc21", root)` looks for the tree (`layouts`) and reads nothing more; images and label files are read one
at a time, and label values become class indices by the set's rule (`label_rules`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ovseg import prompts
from ovseg.classes import BACKGROUND, read_classes
from ovseg.eval import coco, label_rules
from ovseg.eval.layouts import LAYOUTS, Layout, custom, expected_tree
from ovseg.eval.survey import Survey, survey
from ovseg.files import read_index_png
from ovseg.images import read_image, read_size
from ovseg.pocket.world import NAMES as POCKET_NAMES
from ovseg.pocket.world import Block, Scene

OTHERS = ("pocket", "custom")  # sets without a tree of their own
NAMES = (*LAYOUTS, *OTHERS)
CUSTOM_CLASSES = "classes.txt"
POCKET_ROOT = "evaluation/0"
POCKET_SCENES = 200
NOT_SCORED = (BACKGROUND, "unlabelled", "unlabeled", "void", "ignore", "ignored")  # what value 0 is often called


@dataclass(frozen=True, eq=False)
class Dataset:
    """A complete data set, or the part of one that the user chose."""

    name: str
    root: str  # the folder that holds the tree, absolute; pocket: "world3/SPLIT/SEED"
    ids: tuple[str, ...] = field(repr=False)  # sorted; the part of an image's path in which images differ
    names: tuple[str, ...]  # L names by index, "background" first where `background`
    background: bool
    vocabulary: str  # the class list's name in `prompts`; "classes.txt" for custom, "pocket.world" for pocket
    classes: tuple[str, ...] = field(repr=False)  # "name; alias; alias" without the background, for `build_vocabulary`
    expected: int | None  # the official number of images, where there is one
    lacking: str | None  # what is not on this disk of a tree that was taken in part, a line; else None
    _images: Mapping[str, Path] = field(repr=False)
    _labels: Mapping[str, Path] = field(repr=False)
    _rule: np.ndarray = field(repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)  # lines to tell the user: what is not read of the tree

    def file(self, id: str) -> str:
        """The image's file, absolute; "pocket:world3/SPLIT/SEED/NUMBER" for a scene of pocket."""
        return str(self._images[id])

    def image(self, id: str) -> np.ndarray:
        """The image, (H, W, 3) uint8 RGB. Raises `ovseg.ImageError` (a ValueError) naming the file."""
        return read_image(self._images[id])

    def size(self, id: str) -> tuple[int, int]:
        """The image's (H, W), from its header. Raises `ovseg.ImageError` naming the file."""
        return read_size(self._images[id])

    def truth(self, id: str) -> np.ndarray:
        """The truth map, (H, W) uint8, indices into `names`; 255 where the pixel is not scored.

        Raises ValueError or OSError naming the file: colours instead of indices, values that the set's files never
        hold, another size than the image's, a damaged file.
        """
        path = self._labels[id]
        values = coco.instance_map(path, id) if path.suffix == ".json" else _read_labels(path)
        try:
            truth = label_rules.apply(self._rule, values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if truth.shape != (size := self.size(id)):
            raise ValueError(
                f"{path}: labels of {_size(truth.shape)}, but {self._images[id]} has {_size(size)} (width x height)"
            )
        return truth


class PocketScenes(Dataset):
    """Scenes of a pocket world, generated on request; ids end in the scene's number."""

    def file(self, id: str) -> str:
        return f"pocket:{self.root}/{_number(id)}"

    def image(self, id: str) -> np.ndarray:
        return self._scene(id).image

    def size(self, id: str) -> tuple[int, int]:
        height, width = self._scene(id).labels.shape
        return height, width

    def truth(self, id: str) -> np.ndarray:
        return self._scene(id).labels

    def _scene(self, id: str) -> Scene:
        return Block.parse(self.root).scene(_number(id))


def _number(id: str) -> int:
    return int(id.rpartition("-")[2])


def open_dataset(
    name: str, root: str | Path | None, *, ignore: int | None = None, part: bool = False, partial: bool = False
) -> Dataset:
    """Open a data set on this machine's disk.

    Args:
        name: one of `NAMES`.
        root: the folder with the set's tree, or mmsegmentation's `data` folder; pocket: "world3/SPLIT/SEED",
            "SPLIT/SEED" or None.
        ignore: custom alone: the label value of pixels that are not scored, 0..65535; None is 255. Label values are
            indices into classes.txt; with 0, value 1 is its first class. Another value that is a class is refused.
        part: take any number of images instead of the official one. Each still needs its labels, and each label its
            image; where a split file lists the ids, it lists the part.
        partial: take a tree that is not whole: the images that have labels, with or without a list of ids.
    Raises:
        ValueError: unknown name; no such folder; a missing or incomplete tree (with the expected tree, over
            several lines); custom: an invalid class list, an `ignore` that is a class.
        OSError: a file that cannot be read.
    """
    if name == "pocket":
        if ignore not in (None, 255):
            raise ValueError(f"ignore: {ignore}: is for custom alone")
        return _pocket(root)
    found, classes = look(name, root, ignore=ignore)
    problems = list(found.problems)
    if not problems and not part and found.miscount:
        problems.append(found.miscount)
    if problems and not (partial and found.both):
        raise ValueError(f"{name}: {found.root}: {'; '.join(problems)}\n{expected_tree(found.layout)}")
    return from_survey(name, found, classes, partial=partial)


def look(name: str, root: str | Path | None, *, ignore: int | None = None) -> tuple[Survey, tuple[str, ...]]:
    """What is on disk of a set other than pocket, and its classes as `Dataset.classes`. Raises as `open_dataset`."""
    known = (*LAYOUTS, *OTHERS)
    if name not in known:
        raise ValueError(f"unknown data set {name!r}, expected one of {', '.join(known)}")
    ignore = label_rules.IGNORED if ignore is None else ignore
    if ignore != label_rules.IGNORED and name != "custom":
        raise ValueError(f"ignore: is for custom data sets; the label values of {name} are fixed")
    if not 0 <= ignore <= 65535:
        raise ValueError(f"ignore: expected a label value from 0 to 65535, got {ignore}")
    if root is None:
        layout = LAYOUTS[name] if name in LAYOUTS else custom(1, False, ignore)
        raise ValueError(f"root: {name} needs the folder it lies in\n{expected_tree(layout)}")
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"root: {root}: {'not a folder' if root.exists() else 'no such folder'}")
    root = Path(os.path.abspath(root))  # absolute, so that records are valid in every working directory
    if name == "custom":
        layout, classes = _custom(root, ignore)
    else:
        layout, classes = LAYOUTS[name], prompts.classes(LAYOUTS[name].vocabulary)
    return survey(layout, root), classes


def from_survey(name: str, found: Survey, classes: tuple[str, ...], *, partial: bool = False) -> Dataset:
    """The images that have labels, as a data set. partial: whether to say what the tree lacks."""
    layout = found.layout
    names = tuple(entry.split(";")[0].strip() for entry in classes)
    return Dataset(
        name=name,
        root=str(found.root),
        ids=tuple(found.both),
        names=(BACKGROUND, *names) if layout.background else names,
        background=layout.background,
        vocabulary=layout.vocabulary,
        classes=classes,
        expected=layout.expected,
        lacking=found.lacking if partial else None,
        _images=found.images,
        _labels=found.labels,
        _rule=found.form.rule,
        notes=found.notes,
    )


def _custom(root: Path, ignore: int) -> tuple[Layout, tuple[str, ...]]:
    """The tree of a user's own set and the classes of its classes.txt, whose first may be the background."""
    path = root / CUSTOM_CLASSES
    if not path.is_file():
        raise ValueError(f"custom: {root}: no {CUSTOM_CLASSES}\n{expected_tree(custom(1, False, ignore))}")
    groups = read_classes(path).aliases
    if len(groups) > label_rules.MOST_CLASSES:
        raise ValueError(f"{path}: {len(groups)} classes, at most {label_rules.MOST_CLASSES} can be scored")
    background = groups[0][0].casefold() == BACKGROUND
    if background and len(groups[0]) > 1:
        raise ValueError(f"{path}: the background has aliases; leave them out, its words are the protocol's")
    classes = tuple("; ".join(group) for group in (groups[1:] if background else groups))
    if not classes:
        raise ValueError(f"{path}: no class besides the background")
    _check_ignore(ignore, [group[0] for group in groups], path)
    return custom(len(groups), background, ignore), classes


def _check_ignore(ignore: int, names: list[str], path: Path) -> None:
    """ValueError where the value that is not scored is a class; 0 may be none of them, then 1 is the first."""
    if ignore == 0 and names[0].casefold() in NOT_SCORED:
        raise ValueError(
            f"ignore: 0: then label value 1 is the first class of {path}, which is {names[0]!r}; "
            "if that is what 0 stands for, take it off the list"
        )
    if 0 < ignore < len(names):
        raise ValueError(
            f"ignore: {ignore}: is the class {names[ignore]!r} of {path}; expected {len(names)} or more, "
            "or 0, which makes label value 1 the first class"
        )


def _pocket(root: str | Path | None) -> PocketScenes:
    """The first scenes of a block of a pocket world, given as `ovseg.pocket.world.Block` has it."""
    try:
        block = Block.parse(POCKET_ROOT if root is None else str(root))
    except ValueError as error:
        raise ValueError(f"root: pocket: {error}") from error
    stem = str(block).replace("/", "-")
    return PocketScenes(
        name="pocket",
        root=str(block),
        ids=tuple(f"{stem}-{number:06d}" for number in range(POCKET_SCENES)),
        names=POCKET_NAMES,
        background=False,
        vocabulary="pocket.world",
        classes=POCKET_NAMES,
        expected=POCKET_SCENES,
        lacking=None,
        _images={},
        _labels={},
        _rule=label_rules.indices(len(POCKET_NAMES)),
    )


def _read_labels(path: Path) -> np.ndarray:
    """The values of a label file, (H, W) uint8 or uint16."""
    try:
        return read_index_png(path)
    except ValueError as error:
        raise ValueError(f"{error}; take the label files as downloaded, not converted to colours") from error


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"
