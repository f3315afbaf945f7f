"""Images as the page has them: a row for the gallery, maps for the detail, pictures. All from files, when asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovseg.app.session import Session
from ovseg.images import read_image, read_size
from ovseg.json_files import read_json
from ovseg.report.image import LONGEST, THUMBNAIL, class_rows, jpeg, painted, read_row_and_maps, reduced_size
from ovseg.run.corrections import CORRECTIONS, is_corrected
from ovseg.run.folder import RunFolder
from ovseg.run.images import ANALYSIS, LABELS, MASKS, MOST_SUMMARY, SUMMARY, RunImage, read_legend
from ovseg.run.schema import check_summary

MOST_DECODED = 4  # pictures at a time; of 100 megapixels each takes 300 MB
MOST_ROWS = 20_000  # that are remembered; some 2 KB each
PICTURES = {"photo": ".jpg", "thumb": ".thumb.jpg", "tint": ".png"}
EMPTY: dict[str, Any] = {
    "seconds": None,
    "width": None,
    "height": None,
    "shown": [0, 0],
    "note": "",
    "masks": 0,
    "rated": False,
    "differences": 0,
    "classes": [],
    "score": None,
    "pictures": [".jpg", ".thumb.jpg"],
    "undo": False,
    "redo": False,
    "reviewed": False,
    "corrected": False,
}
REMARKS = {"pending": "not labelled yet", "failed": "failed", "damaged": "damaged"}  # by an image's state


class Rows:
    """The rows of a session's images. They are remembered as long as the files are those they were made from."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._decoding = threading.BoundedSemaphore(MOST_DECODED)
        self._known: OrderedDict[str, tuple[tuple[Any, ...], dict[str, Any]]] = OrderedDict()

    def row(self, id: str) -> dict[str, Any]:
        """An image's row. Damage becomes its `note`."""
        run = self.session.run
        entry = (run.ids.get(id) if run else None) or {"state": "pending"}
        key = (entry["state"], entry.get("error"), *self._stamps(run, id))
        with self.session.lock:
            if (kept := self._known.get(id)) is not None and kept[0] == key:
                return kept[1]
        row = self.bare(id)
        row["version"] = f"{abs(hash(key)):x}"
        try:
            row |= self._done(run, id) if run is not None and entry["state"] == "done" else self._pending(id)
        except (ValueError, OSError) as error:
            row["note"] = str(error)
        with self.session.lock:
            self._known[id] = key, row
            self._known.move_to_end(id)
            while len(self._known) > MOST_ROWS:
                self._known.popitem(last=False)
        return row

    def known(self) -> list[dict[str, Any]]:
        """The rows that were asked for so far, of images that are done."""
        with self.session.lock:
            return [
                row for id, (_, row) in self._known.items() if row["classes"] and self.session.state_of(id) == "done"
            ]

    def bare(self, id: str) -> dict[str, Any]:
        """What the record alone says of an image."""
        run, item = self.session.run, self.session.items.get(id)
        entry = (run.ids.get(id) if run else None) or {}
        state = entry.get("state", "pending")
        return EMPTY | {
            "id": id,
            "file": str(item.path) if item else entry.get("file", ""),
            "state": state,
            "version": "0",
            "remark": REMARKS.get(state, ""),
            "note": entry.get("error") or "",
            "seconds": entry.get("seconds"),
        }

    def detail(self, id: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """An image's row, exact, and its maps as the report has them; None before it is labelled."""
        row, run = self.row(id), self.session.run
        if run is None or row["state"] != "done":
            return row, None
        exact, maps, _ = read_row_and_maps(RunImage(run, id))
        return row | exact, maps

    def _stamps(self, run: RunFolder | None, id: str) -> tuple[int, ...]:
        """When the files that a row is made from were written."""
        if run is None:
            return ()
        return tuple(_stamp(run.file(id, ending)) for ending in (SUMMARY, LABELS, CORRECTIONS))

    def _pending(self, id: str) -> dict[str, Any]:
        item = self.session.items.get(id)
        if item is None:
            return {"pictures": []}
        height, width = read_size(item.path)
        return {"height": height, "width": width, "shown": list(reduced_size(height, width, LONGEST)[::-1])}

    def _done(self, run: RunFolder, id: str) -> dict[str, Any]:
        image, legend = RunImage(run, id), read_legend(run)
        corrected, masks = is_corrected(run, id), 1
        if legend is None or corrected or not image.file(SUMMARY).is_file():
            indices, summary = image.index_map(), image.summary()
            found = class_rows(indices, legend, summary.classes if summary else {})
            found |= {"height": indices.shape[0], "width": indices.shape[1]}
            found["rated"] = summary is not None and any(row.score is not None for row in summary.masks)
            masks = int(np.unique(indices).size) if legend is None else 1
        else:
            found = _from_summary(image.file(SUMMARY), len(legend.names))
        found |= {
            "pictures": [".jpg", ".png", ".thumb.jpg"],
            "masks": masks if legend is None or image.file(MASKS).is_file() else 0,
            "differences": int(image.file(ANALYSIS).is_file()),
        }
        found["shown"] = list(reduced_size(found["height"], found["width"], LONGEST)[::-1])
        if corrected:
            state = image.corrections
            found |= {
                "undo": state.before is not None,
                "redo": state.after is not None,
                "reviewed": state.reviewed,
                "corrected": state.stands > 0,
            }
            found["remark"] = "reviewed" if state.reviewed else "corrected" * (state.stands > 0)
        return found

    def picture(self, id: str, kind: str) -> bytes:
        """A picture as a file's bytes: "photo" and "thumb" JPEGs, "tint" a PNG of the labels in their colours.

        Raises ValueError where there is none.
        """
        with self._decoding:
            return self._picture(id, kind)

    def _picture(self, id: str, kind: str) -> bytes:
        run = self.session.run
        if kind == "tint":
            if run is None or run.ids.get(id, {}).get("state") != "done":
                raise ValueError(f"{id}: not labelled yet")
            image = RunImage(run, id)
            return painted(image.index_map(), image.legend)
        row, item = self.row(id), self.session.items.get(id)
        if item is not None:
            photo = read_image(item.path)
        elif run is not None and id in run.ids and row["width"]:
            photo = RunImage(run, id).photo((row["height"], row["width"]))
        else:
            raise ValueError(f"{id}: the image is not here")
        height, width = photo.shape[:2]
        size = reduced_size(height, width, THUMBNAIL if kind == "thumb" else LONGEST)
        return jpeg(Image.fromarray(photo), size)


def _from_summary(path: Path, names: int) -> dict[str, Any]:
    """Size and classes as an image's JSON has them, so that its map need not be read."""
    content = read_json(path, MOST_SUMMARY)
    try:
        check_summary(content)
    except ValueError as error:
        raise ValueError(f"{path}: not the summary of an image ({error})") from error
    height, width = content.get("height"), content.get("width")
    classes = [[row["index"], row.get("pixels"), row.get("score")] for row in content["classes"] if row.get("pixels")]
    if not isinstance(height, int) or not isinstance(width, int) or height < 1 or width < 1:
        raise ValueError(f"{path}: height and width: expected whole numbers")
    if not all(isinstance(pixels, int) for _, pixels, _ in classes):
        raise ValueError(f"{path}: pixels: expected whole numbers")
    if rest := height * width - sum(pixels for _, pixels, _ in classes):
        classes.append([names, rest, None])
    classes.sort(key=lambda one: (-one[1], one[0]))
    rated = sum(pixels for _, pixels, score in classes if score is not None)
    total = sum(pixels * score for _, pixels, score in classes if score is not None)
    score = round(total / rated, 6) if rated else None
    scored = any(row["score"] is not None for row in content["masks"])
    return {"height": height, "width": width, "classes": classes, "score": score, "rated": scored}


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
