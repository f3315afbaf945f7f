"""Readers of drawn regions: labelme's shapes, COCO's annotations, Label Studio's brushes, polygons and rectangles."""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from emerdiff.settings import one_line, show
from ovseg.export.image import has_background
from ovseg.export.label_studio import decode
from ovseg.export.returned import BROKEN, Canvas, Returned
from ovseg.json_files import read_json
from ovseg.mask_files import decode_run_lengths

UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts in front of the name of an uploaded file
FARTHEST = 100_000  # pixels from the image's corner that a point may lie: what draws beyond is slow, wrong, or crashes
Points = list[tuple[float, float]]


@contextmanager
def _named_keys(where: str = "its JSON") -> Iterator[None]:
    """While this is entered, values that are not there or of another kind are ValueErrors."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, StopIteration, OverflowError) as error:
        raise ValueError(f"{where} is not as expected ({type(error).__name__}: {one_line(error)})") from error


def read_labelme(folder: Path) -> Iterator[Returned]:
    """A JSON an image: polygons, rectangles, circles and masks, later ones over earlier ones."""
    for path in sorted(folder.rglob("*.json")):
        yield Returned(path.relative_to(folder).with_suffix("").as_posix(), partial(_draw_labelme, path))


def _draw_labelme(path: Path, canvas: Canvas) -> np.ndarray:
    content = read_json(path)
    with _named_keys():
        canvas.check_size(content["imageHeight"], content["imageWidth"])
        labels = canvas.unpainted()
        for shape in content["shapes"]:
            kind = shape.get("shape_type") or "polygon"
            if kind not in SHAPES:
                raise ValueError(f"its shape of type {show(kind)} is no area; expected {', '.join(SHAPES)}")
            index = canvas.index(shape["label"])
            labels[SHAPES[kind](shape, canvas.size)] = index
    return labels


def _polygon(shape: Mapping[str, Any], size: tuple[int, ...]) -> np.ndarray:
    return filled(_points(shape), size)


def _rectangle(shape: Mapping[str, Any], size: tuple[int, ...]) -> np.ndarray:
    (left, top), (right, bottom) = _points(shape)
    return filled([(left, top), (right, top), (right, bottom), (left, bottom)], size)


def _circle(shape: Mapping[str, Any], size: tuple[int, ...]) -> np.ndarray:
    (x, y), edge = _points(shape)
    radius = float(np.hypot(edge[0] - x, edge[1] - y))
    if radius > 2 * sum(size):
        raise ValueError(f"its circle has a radius of {radius:g} pixels, over {2 * sum(size)}")
    picture = Image.new("1", (size[1], size[0]))
    ImageDraw.Draw(picture).ellipse((x - radius, y - radius, x + radius, y + radius), outline=1, fill=1)
    return np.array(picture)


def _mask(shape: Mapping[str, Any], size: tuple[int, ...]) -> np.ndarray:
    """A part of the image as a PNG in base64; the first point is its upper left corner."""
    (left, top), *_ = _points(shape)
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"])), formats=("PNG",)) as picture:
            if picture.width > size[1] or picture.height > size[0]:
                raise ValueError("larger than the image")
            part = np.array(picture.convert("L")) > 0
    except (*BROKEN, binascii.Error, Image.DecompressionBombError) as error:
        raise ValueError(f"its mask cannot be read ({one_line(error)})") from error
    whole = Image.new("1", (size[1], size[0]))
    whole.paste(Image.fromarray(part), (int(left), int(top)))
    return np.array(whole)


SHAPES: dict[str, Callable[[Mapping[str, Any], tuple[int, ...]], np.ndarray]] = {
    "polygon": _polygon,
    "rectangle": _rectangle,
    "circle": _circle,
    "mask": _mask,
}


def filled(points: Points, size: tuple[int, ...]) -> np.ndarray:
    """(H, W) bool: a polygon of points (x, y) as labelme fills it, its border drawn. Raises ValueError for under 3."""
    if len(points) < 3:
        raise ValueError(f"its polygon of {len(points)} points is no area")
    _check_near([share for point in points for share in point])
    picture = Image.new("1", (size[1], size[0]))
    ImageDraw.Draw(picture).polygon(points, outline=1, fill=1)
    return np.array(picture)


def _points(shape: Mapping[str, Any]) -> Points:
    points = [(_number(x), _number(y)) for x, y in shape["points"]]
    _check_near([share for point in points for share in point])
    return points


def _number(value: Any) -> float:
    if not isinstance(value, int | float):
        raise ValueError(f"its points hold {show(value)}, expected numbers")
    return float(value)


def _check_near(numbers: Sequence[float]) -> None:
    """Raise ValueError for a coordinate, in pixels, that no drawing on an image has."""
    if far := [number for number in numbers if not abs(number) <= FARTHEST]:
        raise ValueError(f"its point at {far[0]:g} lies over {FARTHEST} pixels outside of the image")


def read_coco(path: Path) -> Iterator[Returned]:
    """A JSON of instances: run-length masks or polygons; where they overlap, smaller ones lie over larger ones."""
    content = read_json(path)
    with _named_keys(f"{path}: COCO's JSON"):
        names = {row["id"]: str(row["name"]) for row in content["categories"]}
        annotations = defaultdict(list)
        for row in content["annotations"]:
            annotations[row["image_id"]].append(row)
        images = [(row["id"], str(row["file_name"]), row["height"], row["width"]) for row in content["images"]]
        strange = annotations.keys() - {number for number, *_ in images}
    if strange:
        raise ValueError(f"{path}: its annotations are of image {show(min(strange, key=str))}, which it does not list")
    for number, name, height, width in images:
        yield Returned(name, partial(_draw_coco, annotations[number], names, (height, width)))


def _draw_coco(
    rows: list[dict[str, Any]], names: Mapping[int, str], size: tuple[int, int], canvas: Canvas
) -> np.ndarray:
    canvas.check_size(*size)
    background = canvas.names[0] if has_background(canvas.names) else None
    labels = canvas.blank() if background in names.values() else canvas.unpainted()
    with _named_keys():
        masks = [(_decoded(row["segmentation"], size), canvas.index(names[row["category_id"]])) for row in rows]
    for mask, index in sorted(masks, key=lambda pair: -int(pair[0].sum())):
        labels[mask] = index
    return labels


def _decoded(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool. Raises ValueError for what is no segmentation of this size."""
    try:
        if isinstance(segmentation, dict):
            return decode_run_lengths(segmentation, size)
        _check_near([float(number) for polygon in segmentation for number in polygon])
        found = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(segmentation, *size)))
    except Exception as error:  # pycocotools raises bare ones
        raise ValueError(f"its segmentation cannot be read ({one_line(error)})") from error
    return np.asarray(found).astype(bool)


def read_label_studio(path: Path) -> Iterator[Returned]:
    """A JSON of tasks as Label Studio exports it: the last annotation of each that was not cancelled. Brushes, polygons
    and rectangles, later ones over earlier ones; predictions, which nobody made, are passed over."""
    tasks = read_json(path)
    if not isinstance(tasks, list):
        raise ValueError(f"{path}: not Label Studio's JSON, expected a list of tasks")
    for task in tasks:
        with _named_keys(f"{path}: Label Studio's JSON"):
            done = [one for one in task.get("annotations") or [] if not one.get("was_cancelled")]
            name = _task_name(str(next(iter(task["data"].values()))))
        if done:
            who = done[-1].get("completed_by")
            who = who.get("email") if isinstance(who, dict) else who
            when = done[-1].get("updated_at") or done[-1].get("created_at")
            yield Returned(
                name,
                partial(_draw_tasks, done[-1]),
                None if who is None else str(who),
                when if isinstance(when, str) and len(when) <= 40 else None,
            )


def _task_name(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:  # no address, and no name of an image
        return url
    found = parse_qs(parts.query).get("d")
    return found[0] if found else UPLOADED.sub("", unquote(parts.path).rpartition("/")[2])


def _draw_tasks(annotation: Mapping[str, Any], canvas: Canvas) -> np.ndarray:
    labels = canvas.unpainted()
    with _named_keys():
        for row in annotation["result"]:
            kind = row.get("type")
            if kind not in RESULTS:
                if str(kind).endswith("labels"):  # others are choices, texts and relations, which are no areas
                    raise ValueError(f"its region of type {show(kind)} is not read; expected {', '.join(RESULTS)}")
                continue
            canvas.check_size(row["original_height"], row["original_width"])
            (name,) = row["value"][kind]
            labels[RESULTS[kind](row["value"], canvas.size)] = canvas.index(name)
    return labels


def _brush(value: Mapping[str, Any], size: tuple[int, ...]) -> np.ndarray:
    if not isinstance(value["rle"], list):
        raise ValueError("its run-length code is no list of bytes")
    values = decode(value["rle"], 4 * size[0] * size[1])
    return values.reshape(*size, 4)[:, :, 3] >= 128


def _shares(value: Mapping[str, Any], size: tuple[int, ...]) -> np.ndarray:
    height, width = size
    return filled([(x * width / 100, y * height / 100) for x, y in value["points"]], size)


def _box(value: Mapping[str, Any], size: tuple[int, ...]) -> np.ndarray:
    if value.get("rotation"):
        raise ValueError("its rectangle is rotated; draw it as a polygon")
    left, top, right, bottom = value["x"], value["y"], value["x"] + value["width"], value["y"] + value["height"]
    rows, columns = (np.arange(count) + 0.5 for count in size)
    inside_rows = (rows > top * size[0] / 100) & (rows < bottom * size[0] / 100)
    return inside_rows[:, None] & ((columns > left * size[1] / 100) & (columns < right * size[1] / 100))[None, :]


RESULTS: dict[str, Callable[[Mapping[str, Any], tuple[int, ...]], np.ndarray]] = {
    "brushlabels": _brush,
    "polygonlabels": _shares,
    "rectanglelabels": _box,
}
