"""Which parts of a data set's tree are on this disk. Nothing is downloaded, converted or written."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from emerdiff.settings import check_regular
from ovseg.eval import coco
from ovseg.eval.layouts import Labels, Layout
from ovseg.run.finding import LeftOut, files_below, is_image

SHOWN = 3  # missing files that a message names


@dataclass(frozen=True, eq=False)
class Survey:
    """The parts of a tree that are there. `ids` are the split's, or all that have an image or a label; sorted."""

    root: Path
    layout: Layout
    form: Labels  # of the labels; the first one where there are none
    ids: tuple[str, ...]
    images: dict[str, Path]
    labels: dict[str, Path]  # the JSON for every id, where that is the form
    problems: tuple[str, ...]  # what is missing, a line each
    notes: tuple[str, ...]  # files that look like images and are not read, and why, a line each

    @property
    def both(self) -> list[str]:
        """The ids that have an image and a label."""
        return [id for id in self.ids if id in self.images and id in self.labels]

    @property
    def miscount(self) -> str | None:
        """The message where the number of ids is not the official one, else None."""
        if self.layout.expected in (None, len(self.ids)):
            return None
        return f"{len(self.ids)} images, expected {self.layout.expected}"

    @property
    def lacking(self) -> str | None:
        """The message where this is a part of the tree, else None."""
        problems = [*self.problems, *([self.miscount] if self.miscount else [])]
        return f"{len(self.both)} images of a part of the data set: {'; '.join(problems)}" if problems else None


def survey(layout: Layout, root: Path) -> Survey:
    """Look for a tree in `root`, or where mmsegmentation's `data` folder, given as `root`, has it.

    Of several forms of labels, the first that has one for every image is taken; if none has, the first of which there
    is any. Raises ValueError for an instances JSON that is none, a split that lists an id twice,
    OSError for what cannot be read.
    """
    folder = layout.images.split("/")[0]
    if not (root / folder).is_dir() and (root / layout.home / folder).is_dir():
        root = root / layout.home
    left_out, doubles = LeftOut(), list[str]()
    images = _find(root, layout.images, left_out, doubles)
    problems = doubles or ([] if images else [f"no images: no {layout.images}"])
    listed = None
    if layout.split and (root / layout.split).is_file():
        listed = _listed(root / layout.split)
    elif layout.split:
        problems.append(f"no list of ids: no {layout.split}")
    form, labels = _labels(root, layout, images if listed is None else listed)
    if not labels:
        problems.append(f"no labels: no {' or '.join(one.pattern for one in layout.labels)}")
    ids = tuple(sorted({*images, *labels} if listed is None else listed))
    if not problems:
        problems += _missing("image", ids, images, root, layout.images)
        problems += _missing("label", ids, labels, root, form.pattern)
    notes: list[str] = []
    left_out.tell(notes.append)
    return Survey(root, layout, form, ids, images, labels, tuple(problems), tuple(notes))


def _labels(root: Path, layout: Layout, images: Collection[str]) -> tuple[Labels, dict[str, Path]]:
    """The form of labels that is used, and its files by id."""
    chosen = layout.labels[0], dict[str, Path]()
    for form in layout.labels:
        files = _files(root, form, images)
        if files and files.keys() >= set(images):
            return form, files
        if files and not chosen[1]:
            chosen = form, files
    return chosen


def _files(root: Path, form: Labels, images: Collection[str]) -> dict[str, Path]:
    """The label files of one form, by id; of a JSON, for these images alone."""
    if form.pattern.endswith(".json"):
        path = root / form.pattern
        return {id: path for id in coco.instance_images(path) if id in images} if path.is_file() else {}
    files = _find(root, form.pattern)
    return {id: path for id, path in files.items() if form.others is None or not path.name.endswith(form.others)}


def _missing(kind: str, ids: Collection[str], found: Mapping[str, Path], root: Path, pattern: str) -> list[str]:
    """A line about ids without a file, with the file names that are expected; no line if none is missing."""
    lost = [id for id in ids if id not in found]
    if not lost:
        return []
    before, stars, rest = pattern.partition("*")
    suffix = rest.rpartition("*")[2] or ".*"
    names = [f"{root / before}/{id}{suffix}" if stars else id for id in lost[:SHOWN]]
    within = "" if stars else f" in {root / pattern}"
    more = ", ..." if len(lost) > SHOWN else ""
    return [f"{len(lost)} of {len(ids)} {kind}s missing{within}: {', '.join(names)}{more}"]


def _find(
    root: Path, pattern: str, left_out: LeftOut | None = None, doubles: list[str] | None = None
) -> dict[str, Path]:
    """Files by id: the part of their path that the stars of the pattern stand for. Hidden files are left out.

    left_out: where what looks like an image and is not read is noted. doubles: where files of one id are named, none
    of which is taken.
    """
    before, _, rest = pattern.partition("*")
    suffix = rest.rpartition("*")[2]
    found: dict[str, list[Path]] = {}
    for path in _files_of(root, before, rest):
        below = path.relative_to(root / before)
        hidden = any(part.startswith(".") for part in below.parts)
        if hidden or (not suffix and not is_image(path, left_out or LeftOut())):
            continue
        id = below.as_posix().removesuffix(suffix) if suffix else below.with_suffix("").as_posix()
        found.setdefault(id, []).append(path)
    twice = {id: paths for id, paths in found.items() if len(paths) > 1}
    if doubles is not None:
        doubles += [f"{' and '.join(map(str, two))} have the same id {id!r}; rename one" for id, two in twice.items()]
    return {id: paths[0] for id, paths in found.items() if id not in twice}


def _files_of(root: Path, before: str, rest: str) -> list[Path]:
    """The files that a pattern, in two parts around its first star, stands for; links to folders are followed."""
    if not rest.startswith("*/"):
        return sorted((root / before).glob(f"*{rest}"))
    ending = rest.rpartition("*")[2]
    below = files_below(root / before, set(), LeftOut()) if (root / before).is_dir() else ()
    return sorted(path for path in below if path.name.endswith(ending))


def _listed(path: Path) -> list[str]:
    """The ids of a split file, one a line."""
    check_regular(path)
    try:
        ids = path.read_text(encoding="utf-8").split()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: a list of ids must be UTF-8 text ({error})") from error
    if len(set(ids)) < len(ids):
        twice = next(id for id in ids if ids.count(id) > 1)
        raise ValueError(f"{path}: lists {twice!r} twice")
    return ids
