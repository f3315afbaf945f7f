"""`ovseg eval check`: whether a data set is complete on this disk, and what is missing."""

from __future__ import annotations

from pathlib import Path

from ovseg.eval.datasets import Dataset, from_survey, look, open_dataset
from ovseg.eval.layouts import expected_tree
from ovseg.eval.survey import Survey

SAMPLE = 16  # label files whose values are checked


def check(name: str, root: str | Path | None, ignore: int | None = None, *, partial: bool = False) -> bool:
    """Check whether a data set is complete, and print the result. name, root, ignore: as in `open_dataset`.

    partial: whether what is there can be used is the question, however little of the set it is.
    Raises ValueError for an unknown name or a root that is no folder.
    """
    if name == "pocket":
        scenes = open_dataset("pocket", root)
        print(f"pocket: complete: {len(scenes.ids)} scenes of {scenes.root}, painted when they are asked for")
        return True
    found, classes = look(name, root, ignore=ignore)
    dataset = from_survey(name, found, classes)
    sample = dataset.ids[:: max(len(dataset.ids) // SAMPLE, 1)][:SAMPLE]
    wrong = wrong_labels(dataset, sample)
    problems = [*found.problems, *wrong]
    for note in found.notes:
        print(f"{name}: {note}")
    if not problems and not found.miscount:
        count = f"{len(dataset.ids)} images with labels ({found.form.pattern})"
        print(f"{name}: complete: {count} in {found.root}; {len(sample)} label files looked into")
        return True
    if partial and dataset.ids and not wrong:
        print(f"{name}: {found.lacking}; of {found.form.pattern} in {found.root} {len(sample)} files looked into")
        return True
    print(f"{name}: incomplete or wrong, in {found.root}")
    for line in [*_counts(found), *problems]:
        print(f"  {line}")
    print(expected_tree(found.layout))
    return False


def wrong_labels(dataset: Dataset, ids: tuple[str, ...]) -> list[str]:
    """What is wrong with the labels of these images, a line for each that cannot be used."""
    lines = []
    for id in ids:
        try:
            dataset.truth(id)
        except (ValueError, OSError) as error:
            lines.append(str(error))
    return lines


def _counts(found: Survey) -> list[str]:
    """What was looked for, and how much of it there is."""
    layout = found.layout
    of = f" of {layout.expected}" if layout.expected else ""
    images = sum(id in found.images for id in found.ids)
    labels = sum(id in found.labels for id in found.ids)
    lines = [f"images {layout.images}: {images}{of}", f"labels {found.form.pattern}: {labels}{of}"]
    if layout.split and (found.root / layout.split).is_file():
        lines.append(f"list {layout.split}: {len(found.ids)}{of}")
    return lines
