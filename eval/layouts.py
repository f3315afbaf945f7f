"""How the benchmark data sets are laid out on a user's disk: one table.

The trees are those of mmsegmentation's `data` folder, which its guide to preparing data sets describes, or what the
sets' own archives unpack to. `survey` finds which parts of a tree are there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ovseg.eval import label_rules


@dataclass(frozen=True, eq=False)
class Labels:
    """One form in which a set's labels are stored on disk."""

    pattern: str  # below the root; an id stands where the pattern's stars do. Or a COCO instances JSON, without a star
    rule: np.ndarray  # what the files' values become, see `label_rules`
    form: str  # for the expected tree
    others: str | None = None  # files with this ending lie in the same folder and are of another form


@dataclass(frozen=True, eq=False)
class Layout:
    """A data set's tree."""

    home: str  # where the root is below mmsegmentation's `data`
    images: str  # pattern; one that ends in a bare star takes every kind of image that `ovseg.images` reads
    labels: tuple[Labels, ...]  # in order of preference, see `survey.survey`
    vocabulary: str  # its class list in `prompts`
    expected: int | None = None  # the official number
    split: str | None = None  # the file that lists the ids; without one, every image counts
    background: bool = False  # index 0 is "background", which is not in the class list


def _voc(background: bool) -> Layout:
    rule = label_rules.indices(21, ignored=[255]) if background else label_rules.reduced_zero(20)
    return Layout(
        home="VOCdevkit/VOC2012",
        images="JPEGImages/*.jpg",
        labels=(Labels("SegmentationClass/*.png", rule, "palette PNGs as downloaded"),),
        split="ImageSets/Segmentation/val.txt",
        expected=1449,
        vocabulary="voc20",
        background=background,
    )


def _context(background: bool) -> Layout:
    rule = label_rules.indices(60) if background else label_rules.reduced_zero(59)
    return Layout(
        home="VOCdevkit/VOC2010",
        images="JPEGImages/*.jpg",
        labels=(Labels("SegmentationClassContext/*.png", rule, "0 and the 59 classes in alphabetical order"),),
        split="ImageSets/SegmentationContext/val.txt",
        expected=5104,
        vocabulary="context59",
        background=background,
    )


def _coco(vocabulary: str, raw: np.ndarray, *others: Labels, background: bool = False) -> Layout:
    maps = (
        Labels("annotations/val2017/*.png", raw, "stuffthingmaps as downloaded", others="TrainIds.png"),
        Labels("stuffthingmaps/val2017/*.png", raw, "the same, in the archive's own folder"),
    )
    return Layout(
        home="coco_stuff164k",
        images="images/val2017/*.jpg",
        labels=(*maps, *others),
        expected=5000,
        vocabulary=vocabulary,
        background=background,
    )


LAYOUTS: dict[str, Layout] = {
    "voc21": _voc(background=True),
    "voc20": _voc(background=False),
    "context60": _context(background=True),
    "context59": _context(background=False),
    "coco-object": _coco(
        "coco-object80",
        label_rules.coco_objects(),
        Labels("annotations/val2017/*_instanceTrainIds.png", label_rules.indices(81), "converted"),
        Labels("annotations/instances_val2017.json", label_rules.coco_objects(), "the objects' outlines alone"),
        background=True,
    ),
    "coco-stuff171": _coco(
        "coco-stuff171",
        label_rules.coco_stuff(),
        Labels("annotations/val2017/*_labelTrainIds.png", label_rules.indices(171, ignored=[255]), "converted"),
    ),
    "coco-stuff27": _coco("coco-stuff27", label_rules.coco_super_categories()),
    "ade20k": Layout(
        home="ade/ADEChallengeData2016",
        images="images/validation/*.jpg",
        labels=(Labels("annotations/validation/*.png", label_rules.reduced_zero(150), "as downloaded"),),
        expected=2000,
        vocabulary="ade20k",
    ),
    "cityscapes": Layout(
        home="cityscapes",
        images="leftImg8bit/val/*/*_leftImg8bit.png",
        labels=(
            Labels("gtFine/val/*/*_gtFine_labelIds.png", label_rules.cityscapes(), "as downloaded"),
            Labels("gtFine/val/*/*_gtFine_labelTrainIds.png", label_rules.indices(19, ignored=[255]), "converted"),
        ),
        expected=500,
        vocabulary="cityscapes",
    ),
    "camvid": Layout(
        home="camvid",
        images="images/**/*",
        labels=(Labels("labels/**/*.png", label_rules.indices(11, ignored=[11]), "0..10, 11 = left out"),),
        vocabulary="camvid",
    ),
}


def custom(classes: int, background: bool, ignore: int) -> Layout:
    """The tree of a data set of the user's own, with so many classes (the background among them).

    The first class has label value 0, or 1 where `ignore` is 0.
    """
    first = 1 if ignore == 0 else 0
    rule = label_rules.indices(classes, ignored=[ignore], first=first)
    form = f"{first} = the first class of classes.txt, {first + 1} = the second, ..., {ignore} = left out"
    labels = Labels("labels/**/*.png", rule, form)
    return Layout("", "images/**/*", (labels,), "classes.txt", background=background)


def expected_tree(layout: Layout) -> str:
    """The tree, a line for each part, to print under an error."""
    where = f"in the given folder, or in its {layout.home}" if layout.home else "in the given folder"
    number = f"{layout.expected} " if layout.expected else ""
    rows = [(layout.images, "images" if layout.split else f"{number}images")]
    rows += [(form.pattern, f"{'or ' if n else ''}labels: {form.form}") for n, form in enumerate(layout.labels)]
    rows += [(layout.split, f"the {number}ids, one a line")] if layout.split else []
    rows += [("classes.txt", "class names, one a line")] if layout.vocabulary == "classes.txt" else []
    width = max(len(pattern) for pattern, _ in rows)
    return "\n".join([f"expected, {where}:", *(f"  {pattern:{width}}  {what}" for pattern, what in rows)])
