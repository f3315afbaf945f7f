"""Anyone's predictions as a run that can be scored: a folder of index maps, one an image, without a record.

    DIR/<id>.png    palette, grey or 16-bit PNG of indices        as `ovseg eval check` and the truth count the classes,
    DIR/<id>.npy    (H, W) integers                               or, with names, as those count them

An id may also stand by its last part alone, where no two ids share one. 255 (65535 in 16 bits, -1 in a .npy) is no
class. A pixel whose class is none of the data set's counts as wrong, as it does for mmsegmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ovseg.archives import open_npy
from ovseg.classes import ClassList
from ovseg.eval.datasets import Dataset
from ovseg.files import MAX_MAP_PIXELS, read_index_png
from ovseg.run.folder import RunFolder
from ovseg.run.terminal import one_line, say

ENDINGS = (".png", ".npy")
SHOWN = 3  # files that a message names


@dataclass(frozen=True, repr=False)
class Predictions(RunFolder):
    """A folder of index maps. files: id -> its map. table: (n + 1,) int64, the data set's class of each index, -1 for
    none, as which the last entry stands; without given names None, and indices are the data set's own."""

    files: dict[str, Path]
    table: np.ndarray | None

    def labels(self, id: str, size: tuple[int, ...], best_label: bool = False) -> np.ndarray:
        """(H, W) int64: classes of the data set, -1 for none; with `best_label` the numbers of masks as they are.

        Raises ValueError, naming the file, for one that is damaged, of another size, or holds other indices.
        """
        path = self.files[id]
        indices = (_read_array(path) if path.suffix == ".npy" else read_index_png(path)).astype(np.int64)
        if indices.shape != tuple(size):
            (height, width), (rows, columns) = indices.shape, size
            raise ValueError(f"{path}: is of {width}x{height} pixels, the labels of this image are {columns}x{rows}")
        if best_label:
            return indices
        most = len(self.facts["names"]) if self.table is None else len(self.table) - 1
        none = (indices == -1) | ((indices >= most) & ((indices == 255) | (indices == 65535)))
        wrong = indices[~none & ((indices < 0) | (indices >= most))]
        if wrong.size:
            whose = "the data set's classes" if self.table is None else "the given names"
            raise ValueError(f"{path}: holds index {wrong[0]}, expected 0..{most - 1}, of {whose}, or 255 (none)")
        indices = np.where(none, -1, indices)
        return indices if self.table is None else self.table[indices]


def read_predictions(folder: str | Path, dataset: Dataset, names: ClassList | None = None) -> Predictions:
    """A folder of index maps that is no run.

    names: what the indices of the maps mean, by index, and an alias will do; None: the data set's classes. Files that
    are no image's are said, as are names that are not the data set's. Raises ValueError for a folder without a map of
    the data set, and names of which none is its own.
    """
    folder = Path(folder)
    files = _files(folder, dataset)
    table = None if names is None else _table(names, dataset)
    facts = {"command": "predictions", "names": list(dataset.names), "root": dataset.root}
    ids = {id: {"file": dataset.file(id), "state": "done"} for id in files}
    return Predictions(folder, facts, ids, {}, files, table)


def _files(folder: Path, dataset: Dataset) -> dict[str, Path]:
    """The map of each id that has one."""
    known, flat = set(dataset.ids), _by_last_part(dataset.ids)
    found: dict[str, Path] = {}
    strangers: list[str] = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if (id := name if name in known else flat.get(name)) is None:
            strangers.append(path.name)
        elif id in found:
            raise ValueError(f"{found[id]} and {path} are both predictions of {id}; remove one")
        else:
            found[id] = path
    if not found:
        expected = f"expected {dataset.ids[0]}.png or .npy, ..." if dataset.ids else "the data set has no image here"
        raise ValueError(f"{folder}: neither a run nor predictions of an image of {dataset.name}; {expected}")
    if strangers:
        shown = ", ".join(map(one_line, strangers[:SHOWN]))
        say(f"left out: {len(strangers)} files of {folder} that are no image of {dataset.name}, such as {shown}")
    return found


def _by_last_part(ids: Sequence[str]) -> dict[str, str]:
    """Last part -> id, of ids in folders; none where two ids share one."""
    last = {id.rpartition("/")[2]: id for id in ids}
    return last if len(last) == len(ids) else {}


def _table(names: ClassList, dataset: Dataset) -> np.ndarray:
    places: dict[str, int] = {}
    for index, names_of_one in enumerate([*(["background"] if dataset.background else []), *dataset.classes]):
        places |= {name.strip().casefold(): index for name in names_of_one.split(";")}
    places |= {name.casefold(): index for index, name in enumerate(dataset.names)}
    groups = names.aliases
    table = [next((places[name.casefold()] for name in group if name.casefold() in places), -1) for group in groups]
    if all(index < 0 for index in table):
        raise ValueError(f"names: none of the {len(table)} is a class of {dataset.name}, such as {dataset.names[0]!r}")
    if strangers := [group[0] for group, index in zip(groups, table, strict=True) if index < 0]:
        shown = ", ".join(map(one_line, strangers[:SHOWN])) + (", ..." if len(strangers) > SHOWN else "")
        say(f"note: {len(strangers)} of {len(table)} names are no class of {dataset.name}, so wrong there: {shown}")
    return np.array([*table, -1], np.int64)


def _read_array(path: Path) -> np.ndarray:
    """An index map (H, W) of any integers from NumPy's own file; no object is ever loaded."""
    array = open_npy(path)
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise ValueError(f"{path}: expected integers of shape (H, W), got {array.dtype} of shape {array.shape}")
    if array.size > MAX_MAP_PIXELS:
        raise ValueError(f"{path}: {array.size} pixels, over {MAX_MAP_PIXELS // 10**6} million")
    return array
