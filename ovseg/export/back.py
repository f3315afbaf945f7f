"""Labels that were corrected in another tool, back into the run folder: `ovseg import`.

Each image's labels are drawn anew from the tool's file and saved as a correction (`ovseg.run.corrections`), with who
made it; the run's own answer stays. Images whose labels are as they stand are left alone, so that what was exported
and not touched changes nothing. What cannot be drawn is told by image, and the rest goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ovseg.export.drawn import read_coco, read_label_studio, read_labelme
from ovseg.export.maps import read_cvat, read_png, read_voc
from ovseg.export.returned import Canvas, Returned
from ovseg.export.write import RECORD
from ovseg.json_files import read_json
from ovseg.run.corrections import corrections, save
from ovseg.run.folder import RunFolder, read_run
from ovseg.run.images import RunImage
from ovseg.run.legend import read_legend
from ovseg.run.terminal import one_line

READERS: dict[str, Callable[[Path], Iterator[Returned]]] = {
    "png": read_png,
    "voc": read_voc,
    "cvat": read_cvat,
    "coco": read_coco,
    "labelme": read_labelme,
    "label-studio": read_label_studio,
}
FILES = {"cvat": "*.zip", "coco": "annotations/*.json", "label-studio": "*.json"}  # of formats that are one file
SIGNS = {"voc": "labelmap.txt", "coco": FILES["coco"], "cvat": FILES["cvat"], "png": "legend.json"}
SHOWN = 3  # names in a line about what is none of the run's images


@dataclass
class Imported:
    """What came of an import: ids whose labels were corrected, or stood as they are; why others were not (by id)."""

    corrected: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)


def import_labels(
    folder: str | Path,
    source: str | Path,
    format: str | None = None,
    *,
    who: str,
    tell: Callable[[str], None] | None = None,
) -> Imported:
    """Bring labels into a run folder.

    source: the tool's file or folder, or an export's folder. format: one of `READERS`; None: told by the source. who:
    who corrected them, where the source does not say. tell: gets a line about names that are none of the run's images.
    Raises ValueError for a source that is of no format, or holds no image of the run; OSError where it cannot be read.
    """
    run, source = read_run(folder), Path(source)
    if read_legend(run) is None:
        raise ValueError(f"{folder}: a run without names has no labels to correct; expected `ovseg label`'s")
    format, source = find_source(source, format)
    found, strangers, find = Imported(), list[str](), _Finder(run)
    for one in READERS[format](source):
        if (id := find(one.name)) is None:
            strangers.append(one.name)
        elif id in find.seen:
            found.problems[id] = f"{one.name}: is there twice in {source}"
        else:
            find.seen.add(id)
            _take(run, id, one, who, found)
    if not find.seen:
        such = f", only others such as {one_line(strangers[0])}" if strangers else ""
        raise ValueError(f"{source}: holds labels of no image of {folder}{such}")
    if strangers and tell:
        shown = ", ".join(map(one_line, strangers[:SHOWN]))
        tell(f"left out: {len(strangers)} that are none of the run's images, such as {shown}")
    return found


def _take(run: RunFolder, id: str, one: Returned, who: str, found: Imported) -> None:
    """Draw and save the labels of one image, and note what came of it."""
    try:
        image = RunImage(run, id)
        if image.legend is None:
            raise ValueError("has no labels")
        labels = one.draw(Canvas(image.legend.names, image.legend.no_label, image.index_map()))
        before = corrections(run, id).stands
        after = save(run, id, labels, one.who or who, when=one.when).stands
    except (ValueError, OSError) as error:
        found.problems[id] = str(error)
        return
    (found.same if after == before else found.corrected).append(id)


class _Finder:
    """From a name in a tool's file to the id of a run's image that is done; None for none."""

    def __init__(self, run: RunFolder) -> None:
        self.ids, self.seen = set(run.done), set[str]()
        last: dict[str, list[str]] = {}
        for id in run.done:
            last.setdefault(id.rpartition("/")[2], []).append(id)
        self.by_last_part = {name: ids[0] for name, ids in last.items() if len(ids) == 1}

    def __call__(self, name: str) -> str | None:
        stem = name.rpartition(".")[0] or name
        if known := next((one for one in (name, stem) if one in self.ids), None):
            return known
        parts = (one.rpartition("/")[2] for one in (name, stem))
        return next((self.by_last_part[one] for one in parts if one in self.by_last_part), None)


def find_source(source: Path, format: str | None) -> tuple[str, Path]:
    """The format, and the file or folder that its reader takes. Raises ValueError where there is none."""
    if format is not None and format not in READERS:
        raise ValueError(f"format: {format}: no such format; choose from {', '.join(READERS)}")
    if not source.exists():
        raise ValueError(f"{source}: no such file or folder")
    if (source / RECORD).is_file():  # what `ovseg export` wrote, a folder a format
        folders = [f"{source / name}" for name in READERS if (source / name).is_dir()]
        if format is None or not (source / format).is_dir():
            raise ValueError(f"{source}: holds exports; name one of them: {', '.join(folders) or 'none can be read'}")
        source = source / format
    format = format or _guess(source)
    if source.is_dir() and format in FILES:
        files = sorted(source.glob(FILES[format]))
        if len(files) != 1:
            raise ValueError(f"{source}: expected one {FILES[format]} in it, found {len(files)}; name the file")
        source = files[0]
    elif source.is_file() and format not in FILES:
        raise ValueError(f"{source}: is a file, and {format} is a folder")
    return format, source


def _guess(source: Path) -> str:
    """The format by what is there."""
    if source.is_dir():
        for format, pattern in SIGNS.items():
            if next(source.glob(pattern), None):
                return format
        if path := next(iter(sorted(source.rglob("*.json"))), None):
            return _guess_json(path)
        if next(source.rglob("*.png"), None):
            return "png"
    elif source.suffix.lower() == ".zip":
        return "cvat"
    elif source.suffix.lower() == ".json":
        return _guess_json(source)
    raise ValueError(f"{source}: of no format that is known by its files; give --format {', '.join(READERS)}")


def _guess_json(path: Path) -> str:
    content = read_json(path)
    if isinstance(content, list):
        return "label-studio"
    keys = content.keys() if isinstance(content, dict) else ()
    if "shapes" in keys:
        return "labelme"
    if "annotations" in keys:
        return "coco"
    raise ValueError(f"{path}: of no format that is known by its keys; give --format {', '.join(READERS)}")
