"""Label values to class indices, against tables written down elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from dataset_trees import COCO_REMOVED, TABLES
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torchvision.datasets import Cityscapes

from ovseg import prompts
from ovseg.eval import label_rules
from ovseg.eval.layouts import LAYOUTS

# Super-category of every value, as PiCIE's and STEGO's code have it, runs of values that follow one another together.
SUPER_CATEGORY_RUNS = (
    "0:9 1-8:11 9-14:8 15-24:7 25-32:6 33-42:10 43-50:5 51-60:2 61-70:3 71-76:0 77-82:1 83-90:4 91:17 92:17 93:22 "
    "94:20 95:20 96:22 97:15 98:25 99:16 100:13 101:12 102:12 103:17 104:17 105:23 106:15 107:15 108:17 109:15 "
    "110:21 111:15 112:25 113-117:13 118:22 119:26 120:14 121:14 122:15 123:22 124:21 125:21 126:24 127:20 128:22 "
    "129:15 130:17 131:16 132:15 133:22 134:24 135:21 136:17 137:25 138:16 139:21 140:17 141:22 142:16 143:21 "
    "144:21 145:25 146:21 147:26 148:21 149:24 150:20 151:17 152:14 153:21 154:26 155:15 156:23 157:20 158:21 "
    "159:24 160:15 161:24 162:22 163:25 164:15 165:20 166:17 167:17 168:22 169:14 170-176:18 177:26 178:26 179:19 "
    "180:19 181:24"
)


def super_categories() -> dict[int, int]:
    table = {255: 255}
    for run in SUPER_CATEGORY_RUNS.split():
        values, index = run.split(":")
        first, _, last = values.partition("-")
        table |= {value: int(index) for value in range(int(first), int(last or first) + 1)}
    return {value: 255 if value + 1 in COCO_REMOVED else index for value, index in table.items()}


def known(rule: np.ndarray) -> dict[int, int]:
    return {int(value): int(rule[value]) for value in np.flatnonzero(rule != label_rules.OUTSIDE)}


def test_zero_is_left_out_and_255_stays_255() -> None:
    values = np.array([[0, 1, 2, 3, 255]], np.uint8)
    assert label_rules.apply(label_rules.reduced_zero(3), values).tolist() == [[255, 0, 1, 2, 255]]


def test_cityscapes_is_the_table_of_torchvision() -> None:
    table = {one.id: one.train_id for one in Cityscapes.classes if one.id >= 0}
    assert known(label_rules.cityscapes()) == {**table, 255: 255}


def test_coco_stuff_by_hand() -> None:
    # value -> index, read off mmsegmentation's conversion at the ends of its runs
    ends = {
        0: 0,
        10: 10,
        12: 11,
        24: 23,
        26: 24,
        27: 25,
        30: 26,
        43: 39,
        45: 40,
        64: 59,
        66: 60,
        69: 61,
        71: 62,
        81: 72,
    }
    ends |= {83: 73, 89: 79, 91: 80, 181: 170, 255: 255}
    rule = label_rules.coco_stuff()
    assert {value: rule[value] for value in ends} == ends


def test_coco_rules_know_every_value_and_nothing_else() -> None:
    unused = {category - 1: 255 for category in COCO_REMOVED}
    assert known(label_rules.coco_stuff()) == TABLES["coco-stuff171"] | unused
    assert known(label_rules.coco_objects()) == TABLES["coco-object"] | unused
    assert known(label_rules.coco_super_categories()) == super_categories() | unused


def test_every_super_category_has_the_right_names() -> None:
    names = prompts.classes("coco-stuff171")
    members = {
        group: {names[label_rules.COCO_USED.index(value)] for value in values}
        for group, values in label_rules.COCO_SUPER_CATEGORIES.items()
    }
    assert tuple(members) == prompts.classes("coco-stuff27")
    assert members["furniture"] == {"chair", "couch", "potted plant", "bed", "dining table", "toilet"}
    assert members["food-stuff"] == {"food-other", "fruit", "salad", "vegetable"}
    assert members["sky"] == {"clouds", "sky-other"}
    assert members["water"] == {"fog", "river", "sea", "water-other", "waterdrops"}
    assert all(name.startswith(group) for group in ("wall", "window", "ceiling") for name in members[group])
    assert sum(map(len, members.values())) == 171 == len(set().union(*members.values()))


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_every_form_gives_each_class_an_index_and_leaves_out_only_255(name: str) -> None:
    layout = LAYOUTS[name]
    classes = len(prompts.classes(layout.vocabulary)) + layout.background
    for form in layout.labels:
        assert set(known(form.rule).values()) - {255} == set(range(classes)), form.pattern


SHAPES = array_shapes(min_dims=2, max_dims=2, max_side=6)


@given(st.integers(1, 254), st.data())
def test_reduced_zero_is_pixel_by_pixel_subtraction(classes: int, data: st.DataObject) -> None:
    allowed = st.one_of(st.integers(0, classes), st.just(255))
    values = data.draw(arrays(np.uint8, SHAPES, elements=allowed))
    truth = label_rules.apply(label_rules.reduced_zero(classes), values)
    assert truth.dtype == np.uint8
    for before, after in zip(values.flat, truth.flat, strict=True):
        assert int(after) == (255 if before in (0, 255) else int(before) - 1)


@given(st.data())
def test_the_three_coco_rules_agree_with_one_another(data: st.DataObject) -> None:
    values = data.draw(arrays(np.uint8, SHAPES, elements=st.sampled_from(sorted(TABLES["coco-stuff171"]))))
    stuff, objects, groups = (
        label_rules.apply(rule(), values)
        for rule in (label_rules.coco_stuff, label_rules.coco_objects, label_rules.coco_super_categories)
    )
    for value, index, thing, group in zip(values.flat, stuff.flat, objects.flat, groups.flat, strict=True):
        assert thing == (index + 1 if value <= 90 else 0)
        assert (group == 255) == (index == 255) == (value == 255)
        assert (group < 12) == (value <= 90)


@given(arrays(np.uint16, SHAPES, elements=st.integers(0, 65535)), st.integers(1, 255), st.integers(0, 65535))
def test_values_outside_a_rule_are_named_and_all_others_kept(values: np.ndarray, classes: int, ignore: int) -> None:
    rule = label_rules.indices(classes, ignored=[ignore])
    wrong = sorted({int(value) for value in values.flat if value >= classes and value != ignore})
    if wrong:
        with pytest.raises(ValueError, match=f"label values {', '.join(map(str, wrong[:5]))}(, ...)? are none of"):
            label_rules.apply(rule, values)
    else:
        assert (label_rules.apply(rule, values) == np.where(values == ignore, 255, values)).all()


def test_the_message_says_which_values_there_may_be() -> None:
    with pytest.raises(
        ValueError, match=r"label values 3, 38 are none of this set's; expected 0..2, 255 \(left out: 255\)$"
    ):
        label_rules.apply(label_rules.indices(3, ignored=[255]), np.array([[0, 38, 3]], np.uint8))
    with pytest.raises(ValueError, match=r"label values 255 are none of this set's; expected 0..3 \(left out: 0\)$"):
        label_rules.apply(label_rules.indices(3, ignored=[0], first=1), np.array([[0, 255, 3]], np.uint8))
    with pytest.raises(ValueError, match=r"expected 0..59 \(left out: none\)$"):
        label_rules.apply(label_rules.indices(60), np.array([[60]], np.uint8))
