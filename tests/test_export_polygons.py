"""Polygon exports: outlines that fill to the region they were traced from, whichever way a reader fills them.

Three fills stand for the tools' readers: Pillow's with the border drawn, as labelme's `shape_to_mask` calls it; the
same after a cut to whole pixels, as Ultralytics cuts for OpenCV; and pixel centres by the even-odd rule. labelme 6.3.1
and OpenCV 4.14, which would clash with our pins, were run on such exports by hand: no pixel differed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from run_folders import blobs, write_run
from scipy import ndimage
from skimage.draw import polygon2mask

from ovseg.export import WRITERS, open_images
from ovseg.export.polygons import polygons

RING = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], bool)


def drawn(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Pillow's fill with the border, points (P, 2) as x and y: labelme's way."""
    picture = Image.new("1", shape[::-1])
    ImageDraw.Draw(picture).polygon([(x, y) for x, y in points.tolist()], outline=1, fill=1)
    return np.array(picture)


def truncated(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The same after a cut to whole pixels: Ultralytics' way."""
    return drawn(points.astype(np.int32), shape)


def by_centres(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Pixels whose centre is inside by the even-odd rule."""
    return polygon2mask(shape, points[:, ::-1] - 0.5)


FILLS = (drawn, truncated, by_centres)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def area(points: np.ndarray) -> float:
    """Of the polygon itself, in square pixels."""
    x, y = points.T
    return abs(float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())) / 2


def write(folder: Path, name: str, **options: object) -> Path:
    """Export the run in `folder` next to it; returns the export."""
    target = folder.with_name(name)
    target.mkdir()
    WRITERS[name](open_images(folder, **options), target)
    return target


def test_a_pixel_is_a_diamond_just_inside_it() -> None:
    (polygon,) = polygons(np.array([[0, 1]], bool))
    assert sorted(polygon.tolist()) == [[1.01, 0.5], [1.5, 0.01], [1.5, 0.99], [1.99, 0.5]]


def test_a_straight_edge_has_no_points_between_its_ends() -> None:
    (polygon,) = polygons(np.ones((20, 30), bool))
    assert len(polygon) == 8  # the corners are cut
    assert polygon.min() == 0.01 and polygon.max(axis=0).tolist() == [29.99, 19.99]
    assert 599 - 1 < area(polygon) < 600


def test_a_hole_is_cut_out_along_one_row() -> None:
    (polygon,) = polygons(RING)
    assert area(polygon) == pytest.approx(9 - 1, abs=0.7)
    there_and_back = [point for point in polygon.tolist() if point in ([0.01, 1.5], [0.99, 1.5])]
    assert there_and_back == [[0.01, 1.5], [0.99, 1.5], [0.99, 1.5], [0.01, 1.5]]
    assert all((fill(polygon, (3, 3)) == RING).all() for fill in FILLS)


def test_parts_that_touch_at_a_corner_are_polygons_of_their_own() -> None:
    assert len(list(polygons(np.eye(3, dtype=bool)))) == 3
    assert list(polygons(np.zeros((2, 2), bool))) == []


def test_a_hole_behind_a_hole_and_a_part_within_a_hole_survive() -> None:
    mask = np.ones((9, 30), bool)
    mask[2:7, 2:8] = mask[3:6, 10:20] = mask[4, 25] = False
    mask[4, 14] = True  # an island
    ring, island = sorted(polygons(mask), key=len, reverse=True)
    assert len(island) == 4
    for fill in FILLS:
        assert (fill(ring, mask.shape) ^ fill(island, mask.shape) == mask).all()


def test_a_hole_may_have_a_longer_outline_than_the_region() -> None:
    mask = np.ones((11, 31), bool)
    mask[1:10, 1:30:2] = mask[5, 1:30] = False  # a comb
    (polygon,) = polygons(mask)
    assert all((fill(polygon, mask.shape) == mask).all() for fill in FILLS)


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 50), st.integers(1, 50)),
    st.sampled_from([0.0, 0.6, 1.5, 3.0]),
)
def test_every_fill_gives_any_region_back(seed: int, shape: tuple[int, int], smoothness: float) -> None:
    mask = blobs(seed, *shape, [False, True], smoothness=smoothness)
    found = list(polygons(mask))
    assert len(found) == ndimage.label(mask)[1]
    for fill in FILLS:
        filled = np.zeros(shape, int)
        for polygon in found:
            assert len(polygon) >= 4
            assert (polygon > 0).all() and (polygon < (shape[1], shape[0])).all()
            filled += fill(polygon, shape)
        assert (filled == mask).all()


def test_polygons_themselves_have_the_area_of_large_regions() -> None:
    mask = blobs(1, 200, 300, [False, True], smoothness=8)
    parts, _ = ndimage.label(mask)
    sizes = ndimage.sum_labels(mask, parts, range(1, parts.max() + 1))
    assert sizes.max() > 5000
    for size, polygon in zip(sizes, polygons(mask), strict=True):
        if size > 100:
            assert 0.98 < area(polygon) / size < 1.02


def read_yolo(root: Path, id: str, shape: tuple[int, ...], fill: object) -> dict[str, np.ndarray]:
    """Class name -> (H, W) bool, from Ultralytics' description of the format."""
    names = yaml.safe_load((root / "data.yaml").read_bytes())["names"]
    masks: dict[str, np.ndarray] = {}
    for line in (root / f"labels/{id}.txt").read_text().splitlines():
        number, *shares = line.split(" ")
        points = np.array(shares, np.float32).reshape(-1, 2) * np.array(shape[::-1], np.float32)
        assert min(map(float, shares)) >= 0 and max(map(float, shares)) <= 1
        name = names[int(number)]
        masks[name] = masks.get(name, np.zeros(shape, bool)) | fill(points, shape)
    return masks


def read_labelme(root: Path, id: str, shape: tuple[int, ...], fill: object) -> dict[str, np.ndarray]:
    """Class name -> (H, W) bool, as labelme's `shapes_to_label` draws them."""
    content = json.loads((root / f"{id}.json").read_text(encoding="utf-8"))
    assert (content["imageHeight"], content["imageWidth"]) == shape and content["imageData"] is None
    masks: dict[str, np.ndarray] = {}
    for shape_row in content["shapes"]:
        assert shape_row["shape_type"] == "polygon"
        name = shape_row["label"]
        filled = fill(np.array(shape_row["points"]), shape)
        masks[name] = masks.get(name, np.zeros(shape, bool)) | filled
    return masks


READERS = {"yolo": read_yolo, "labelme": read_labelme}


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("name", sorted(READERS))
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), background=st.booleans())
def test_regions_come_back_from_polygons(
    tmp_path_factory: pytest.TempPathFactory, name: str, fill: object, seed: int, background: bool
) -> None:
    names = ("background" if background else "wall", "cat", '犬, of "all": kinds\' #1', "😀")
    labels = blobs(seed, 67, 101, [0, 1, 2, 3, 255], smoothness=3)
    run = write_run(tmp_path_factory.mktemp("run") / "run", {"sub/a": labels}, names)
    masks = READERS[name](write(run, name), "sub/a", labels.shape, fill)
    assert set(masks) <= set(names[1:] if background else names)
    for index, class_name in enumerate(names):
        mask = labels == index
        if mask.sum() > 100 and not (background and index == 0):
            assert iou(masks[class_name], mask) >= 0.99
            assert (masks[class_name] == mask).all()


def test_yolo_counts_classes_without_the_background(tmp_path: Path) -> None:
    labels = np.array([[0, 0, 2], [255, 0, 2]])
    root = write(write_run(tmp_path / "run", {"a": labels}, ("background", "no", "007")), "yolo")
    assert yaml.safe_load((root / "data.yaml").read_text()) == {
        "train": "images",
        "val": "images",
        "names": {0: "no", 1: "007"},
    }
    assert [line.split()[0] for line in (root / "labels/a.txt").read_text().splitlines()] == ["1"]


def test_yolos_shares_are_fine_enough_for_wide_images(tmp_path: Path) -> None:
    labels = np.zeros((8, 16000), int)
    labels[2:5, 11003:15007] = 1
    root = write(write_run(tmp_path / "run", {"a": labels}, ("background", "cat")), "yolo")
    for fill in FILLS:
        assert (read_yolo(root, "a", labels.shape, fill)["cat"] == labels).all()


def test_an_image_of_background_alone_has_an_empty_file(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"a": np.zeros((4, 4), int)}, ("background", "cat"))
    assert (write(run, "yolo") / "labels/a.txt").read_text() == ""
    assert json.loads((write(run, "labelme") / "a.json").read_text())["shapes"] == []


def test_labelme_finds_the_image_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (3, 2)).save(tmp_path / "photos/b.png")
    maps = {id: np.zeros((2, 3), int) for id in ("sub/b", "gone")}
    run = write_run(tmp_path / "run", maps, ("cat",), sources={"sub/b": tmp_path / "photos/b.png"})
    root = write(run, "labelme")
    path = json.loads((root / "sub/b.json").read_text())["imagePath"]
    assert not os.path.isabs(path) and (root / "sub" / path).resolve() == tmp_path / "photos/b.png"
    assert json.loads((root / "gone.json").read_text())["imagePath"] == "gone.jpg"


def test_copied_images_lie_where_labelme_and_yolo_look(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2)).save(tmp_path / "b.png")
    labels = np.zeros((2, 3), int)
    run = write_run(tmp_path / "run", {"sub/b": labels}, ("cat",), sources={"sub/b": tmp_path / "b.png"})
    root = write(run, "labelme", images="copy")
    assert json.loads((root / "sub/b.json").read_text())["imagePath"] == "b.png"
    assert (root / "sub/b.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    root = write(run, "yolo", images="copy")
    assert (root / "images/sub/b.png").exists() and (root / "labels/sub/b.txt").exists()


def where_ultralytics_looks(image: str) -> str:
    """The labels of an image, by Ultralytics' rule (`img2label_paths`): the last /images/ of the path is /labels/."""
    return "/labels/".join(image.rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt"


@settings(max_examples=60)
@given(st.lists(st.lists(st.sampled_from(["images", "labels", "a", "b.v2", "ü"]), min_size=1, max_size=4)))
def test_yolos_labels_lie_where_it_looks_for_them_whatever_the_id(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[str]]
) -> None:
    folder = tmp_path_factory.mktemp("images")  # above the data set there may be such a folder, too
    Image.new("RGB", (3, 2)).save(folder / "x.jpg")
    ids = {"/".join(names) for names in parts} | {"x/a", "x/a.jpg", "x/images/a"}
    run = write_run(
        folder / "run",
        {id: np.ones((2, 3), int) for id in ids},
        ("cat", "dog"),
        sources=dict.fromkeys(ids, folder / "x.jpg"),
    )
    root = write(run, "yolo", images="copy")
    images = [path for path in (root / "images").rglob("*.jpg") if path.is_file()]
    assert len(images) == len(ids)
    labels = {where_ultralytics_looks(path.as_posix()) for path in images}
    assert labels == {path.as_posix() for path in root.rglob("*.txt")} and len(labels) == len(ids)
