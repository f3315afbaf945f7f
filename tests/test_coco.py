"""Objects out of COCO's instances JSON: what is on top, and files that are something else."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_trees import annotation
from hypothesis import given
from hypothesis import strategies as st

from ovseg.eval import coco

HEIGHT, WIDTH = 12, 16
PERSON, CAR, TABLE, CUP = 1, 3, 67, 47  # category ids


def box(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask


def write(folder: Path, annotations: list[dict[str, Any]]) -> Path:
    image = {"id": 139, "file_name": "000000000139.jpg", "height": HEIGHT, "width": WIDTH}
    other = {"id": 7, "file_name": "000000000007.jpg", "height": HEIGHT, "width": WIDTH}
    path = folder / "instances_val2017.json"
    path.write_text(json.dumps({"images": [image, other], "annotations": annotations, "categories": []}))
    return path


def test_a_cup_stands_on_the_table_whichever_comes_first(tmp_path: Path) -> None:
    table = annotation(139, 1, TABLE, box(4, 0, 12, 16))
    cup = annotation(139, 2, CUP, box(6, 5, 9, 8))
    expected = np.full((HEIGHT, WIDTH), 255)
    expected[4:] = TABLE - 1
    expected[6:9, 5:8] = CUP - 1
    for number, order in enumerate([[table, cup], [cup, table]]):
        (tmp_path / str(number)).mkdir()
        found = coco.instance_map(write(tmp_path / str(number), order), "000000000139")
        assert found.dtype == np.uint8 and np.array_equal(found, expected)


def test_polygons_are_filled(tmp_path: Path) -> None:
    car = {"id": 1, "image_id": 139, "category_id": CAR, "iscrowd": 0, "area": 24, "bbox": [2, 3, 6, 4]}
    car["segmentation"] = [[2, 3, 8, 3, 8, 7, 2, 7]]  # x, y of the corners
    expected = np.where(box(3, 2, 7, 8), CAR - 1, 255)
    assert np.array_equal(coco.instance_map(write(tmp_path, [car]), "000000000139"), expected)


def test_a_crowd_lies_beneath_larger_objects_and_counts_where_it_shows(tmp_path: Path) -> None:
    crowd = annotation(139, 1, PERSON, box(0, 0, 2, 16), crowd=True)
    table = annotation(139, 2, TABLE, box(1, 0, 12, 16))
    found = coco.instance_map(write(tmp_path, [table, crowd]), "000000000139")
    assert np.array_equal(found, np.where(box(0, 0, 1, 16), PERSON - 1, TABLE - 1))


def test_of_two_equal_ones_the_lower_id_is_on_top(tmp_path: Path) -> None:
    first, second = annotation(139, 4, CAR, box(0, 0, 4, 4)), annotation(139, 5, CUP, box(0, 2, 4, 6))
    found = coco.instance_map(write(tmp_path, [first, second]), "000000000139")
    assert found[0, :7].tolist() == [CAR - 1] * 4 + [CUP - 1] * 2 + [255]


def test_an_image_without_objects_is_empty(tmp_path: Path) -> None:
    path = write(tmp_path, [annotation(139, 1, CAR, box(0, 0, 4, 4))])
    assert coco.instance_images(path) == ["000000000007", "000000000139"]
    assert (coco.instance_map(path, "000000000007") == 255).all()


BOXES = st.tuples(
    st.integers(0, 10), st.integers(0, 14), st.integers(1, 12), st.integers(1, 16), st.sampled_from([1, 3, 47, 67, 90])
)


@given(st.lists(BOXES, max_size=6), st.randoms(use_true_random=False))
def test_the_order_in_the_file_does_not_matter_and_every_pixel_has_the_smallest_object_on_it(
    tmp_path_factory: pytest.TempPathFactory, boxes: list[tuple[int, ...]], order: random.Random
) -> None:
    areas = [(box(top, left, bottom, right), category) for top, left, bottom, right, category in boxes]
    annotations = [annotation(139, id, category, mask) for id, (mask, category) in enumerate(areas)]
    order.shuffle(annotations)
    found = coco.instance_map(write(tmp_path_factory.mktemp("coco"), annotations), "000000000139")
    for y, x in np.ndindex(HEIGHT, WIDTH):
        here = [(int(mask.sum()), id, category) for id, (mask, category) in enumerate(areas) if mask[y, x]]
        assert found[y, x] == (min(here)[2] - 1 if here else 255)


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", "{}", '{"images": []}', '{"images": [{"id": 1}], "annotations": [], "categories": []}', "\0"),
        '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "categories": []}',  # without its size
    ],
)
def test_another_json_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "instances_val2017.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="instances_val2017.json: no COCO instances file"):
        coco.instance_images(path)


def test_stuff_annotations_are_not_taken_for_objects(tmp_path: Path) -> None:
    path = write(tmp_path, [annotation(139, 1, 92, box(0, 0, 4, 4))])
    with pytest.raises(ValueError, match="category 92 is none of COCO's 80 objects"):
        coco.instance_map(path, "000000000139")


def test_nothing_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco.instance_images(write(tmp_path, []))
    assert capsys.readouterr().out == ""
