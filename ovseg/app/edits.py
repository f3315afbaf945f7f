"""Corrections from the page: masks renamed, strokes of a brush, answers to a point; each is saved at once.

An edit arrives as what a hand did (these masks, this stroke), in the image's own pixels. It is carried out here on the
whole label map, which `ovseg.run.corrections` stores whole or not at all, beside the model's own answer.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from emerdiff.settings import show
from ovseg.app.pointing import Answers
from ovseg.app.session import Session
from ovseg.draw import class_colours
from ovseg.files import json_bytes, write_atomically
from ovseg.run import corrections
from ovseg.run.folder import RUN_FILE, RunFolder, read_record
from ovseg.run.images import Legend, RunImage, read_legend
from ovseg.run.schema import is_name
from ovseg.run.writers import writing

MOST_POINTS = 20_000  # of a stroke
MOST_RADIUS = 2000  # pixels
MOST_NAME = 200  # characters of a name that is added


def edit(session: Session, answers: Answers, id: str, body: Mapping[str, Any]) -> None:
    """Carry out one edit of an image and save it. body: "kind", and what that kind needs (see `KINDS`).

    Raises `ReadOnly` where another process writes the run, ValueError for an edit that cannot be meant.
    """
    session.check_writable()
    if not isinstance(kind := body.get("kind"), str):
        raise ValueError(f"kind: expected one of {', '.join((*KINDS, *STEPS))}, got {show(kind)}")
    with session.lock:
        run = session.run
        if run is None or run.ids.get(id, {}).get("state") != "done":
            raise ValueError(f"{id}: is not labelled yet")
        if kind in STEPS:
            STEPS[kind](run, id, session.who)
        elif kind in KINDS:
            index = _target(session, body.get("to"))
            run, image = session.run or run, RunImage(session.run or run, id)
            labels = image.index_map().copy()
            labels[KINDS[kind](image, labels, answers, body)] = index
            corrections.save(run, id, labels, session.who)
        else:
            raise ValueError(f"kind: expected one of {', '.join((*KINDS, *STEPS))}, got {show(kind)}")
        session.changed(id)


def _own(run: RunFolder, id: str, who: str) -> None:
    """Let the model's own answer stand again, as a step that can be undone."""
    corrections.save(run, id, RunImage(run, id, uncorrected=True).index_map(), who)


STEPS: dict[str, Callable[[RunFolder, str, str], object]] = {
    "undo": lambda run, id, who: corrections.undo(run, id),
    "redo": lambda run, id, who: corrections.redo(run, id),
    "review": corrections.mark_reviewed,
    "unreview": lambda run, id, who: corrections.unmark_reviewed(run, id),
    "own": _own,
}


def _masks(image: RunImage, labels: np.ndarray, answers: Answers, body: Mapping[str, Any]) -> np.ndarray:
    """(H, W) bool: the pixels of "masks", numbers of the image's masks."""
    numbers, masks = body.get("masks"), image.masks(labels.shape)
    if masks is None:
        raise ValueError("masks: this image has none")
    if (
        not isinstance(numbers, list)
        or not numbers
        or not all(type(one) is int and 0 <= one < 65536 for one in numbers)
    ):
        raise ValueError("masks: expected a list of numbers")
    return np.isin(masks, numbers)


def _stroke(image: RunImage, labels: np.ndarray, answers: Answers, body: Mapping[str, Any]) -> np.ndarray:
    """(H, W) bool: the pixels under a brush of "radius" along "points", [x, y] in pixels of the image."""
    points, radius = body.get("points"), body.get("radius")
    if not _is_number(radius) or not 0.5 <= radius <= MOST_RADIUS:  # type: ignore[operator]
        raise ValueError(f"radius: expected a number from 0.5 to {MOST_RADIUS}")
    if not isinstance(points, list) or not 1 <= len(points) <= MOST_POINTS:
        raise ValueError(f"points: expected 1 to {MOST_POINTS}")
    if not all(isinstance(point, list) and len(point) == 2 and all(map(_is_number, point)) for point in points):
        raise ValueError("points: expected pairs of numbers")
    height, width = labels.shape
    return stroke_mask(height, width, [(float(x), float(y)) for x, y in points], float(radius))  # type: ignore[arg-type]


def stroke_mask(height: int, width: int, points: list[tuple[float, float]], radius: float) -> np.ndarray:
    """(height, width) bool: pixels whose centre is at most `radius` from the line through the points (x, y).

    Pixel (row, column) has its centre at (column + 0.5, row + 0.5).
    """
    picture = Image.new("1", (width, height))
    painter = ImageDraw.Draw(picture)
    span = width + height + 2 * radius
    near = [(min(max(x, -span), width + span), min(max(y, -span), height + span)) for x, y in points]
    for start, end in zip(near, near[1:], strict=False):
        painter.line([start, end], fill=1, width=max(1, round(2 * radius)))
    mask = np.array(picture)
    for x, y in near:
        top, left = max(0, int(y - radius)), max(0, int(x - radius))
        bottom, right = min(height, int(y + radius) + 1), min(width, int(x + radius) + 1)
        if top < bottom and left < right:
            rows, columns = np.ogrid[top:bottom, left:right]
            mask[top:bottom, left:right] |= (rows + 0.5 - y) ** 2 + (columns + 0.5 - x) ** 2 <= radius**2
    return mask


def _answer(image: RunImage, labels: np.ndarray, answers: Answers, body: Mapping[str, Any]) -> np.ndarray:
    """(H, W) bool: the pixels that answer at least "cut" (1..255) to the point with this "key"."""
    cut = body.get("cut")
    if not isinstance(cut, int) or not 1 <= cut <= 255:
        raise ValueError("cut: expected a whole number from 1 to 255")
    strength = answers.find(image.id, body.get("key"))
    if strength.shape != labels.shape:
        raise ValueError("key: is of an image of another size")
    return strength >= cut


Selection = Callable[[RunImage, np.ndarray, Answers, Mapping[str, Any]], np.ndarray]
KINDS: dict[str, Selection] = {"masks": _masks, "stroke": _stroke, "answer": _answer}


def _target(session: Session, to: Any) -> int:
    """The index that pixels get: of a name, which is added to the run's where it is new; None is "no label"."""
    assert session.run is not None
    if (legend := read_legend(session.run)) is None:
        raise ValueError("this run has masks alone: ask for names first")
    if to is None:
        return legend.no_label
    if isinstance(to, int) and not isinstance(to, bool) and 0 <= to < len(legend.names):
        return to
    if not isinstance(to, str):
        raise ValueError("to: expected a name")
    name = " ".join(unicodedata.normalize("NFC", to).split())
    if name in legend.names:
        return legend.names.index(name)
    add_name(session, legend, name)
    return len(legend.names)


def add_name(session: Session, legend: Legend, name: str) -> None:
    """Add a name behind the run's; labels that there are stay as they are. Raises ValueError where it cannot be."""
    run = session.run
    assert run is not None
    if not is_name(name) or len(name) > MOST_NAME:
        raise ValueError(f"name: expected 1 to {MOST_NAME} characters that can be seen")
    if len(legend.names) >= legend.no_label - 1:
        raise ValueError(f"name: a run of {len(legend.names)} names has no place for another")
    record = Path(run.path) / RUN_FILE
    if session.writing or not record.is_file():
        why = "while images are labelled" if session.writing else "to a run in shards"
        raise ValueError(f"name: no name can be added {why}; use one of the run's")
    with writing(run.path, None):
        content = read_record(record)
        names = [*legend.names, name]
        content["names"] = names
        content["colours"] = [*legend.colours, class_colours(names)[-1]]
        content["added"] = [*(content.get("added") or ()), name]
        write_atomically(record, json_bytes(content))
    run.facts.update({key: content[key] for key in ("names", "colours", "added")})


def _is_mask(value: Any) -> bool:
    return type(value) is int and 0 <= value < 65536


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e7
