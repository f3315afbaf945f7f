from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.segmentation import find_boundaries

from ovseg.eval.boundaries import boundary_counts, boundary_f
from ovseg.eval.confusion import class_iou

CLASSES = 4


@st.composite
def blocky_maps(draw, height=90, width=90, blocks=(1, 7, 20)):
    """Truth and prediction of blocks, so that regions have an inside; ignored and unlabelled pixels among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width, block = draw(st.integers(1, height)), draw(st.integers(1, width)), draw(st.sampled_from(blocks))
    shape = (2, -(-height // block), -(-width // block))
    drawn = rng.integers(0, draw(st.integers(1, CLASSES)), shape)
    truth, predicted = drawn.repeat(block, 1).repeat(block, 2)[:, :height, :width].astype(np.uint8)
    truth[rng.random(truth.shape) < draw(st.sampled_from([0, 0.003]))] = 255
    predicted[rng.random(truth.shape) < draw(st.sampled_from([0, 0.003]))] = 255
    truth[: draw(st.integers(0, 5))] = 255  # a strip at the border, as data sets have it
    return truth, predicted


def boundary(mask: np.ndarray, width: int) -> np.ndarray:
    """The published definition: the mask minus its erosion by `width` iterations of a 3x3 square, zeros around it."""
    eroded = np.pad(mask, 1)
    for _ in range(width):
        eroded = ndimage.binary_erosion(eroded, np.ones((3, 3)), border_value=True)
    return mask & ~eroded[1:-1, 1:-1]


@settings(max_examples=120)
@given(blocky_maps())
def test_boundary_counts_equal_the_published_definition(pair):
    truth, predicted = pair
    height, width = truth.shape
    distance = max(1, int(round(0.02 * math.sqrt(height**2 + width**2))))
    valid = truth != 255
    expected = []
    for index in range(CLASSES):
        true = boundary((truth == index) & valid, distance)
        given = boundary((predicted == index) & valid, distance)
        expected.append([true.sum(), given.sum(), (true & given).sum()])
    assert boundary_counts(truth, predicted, CLASSES).tolist() == expected


def test_boundary_iou_by_hand():
    # 5x5, the diagonal's 2 % is under a pixel, so d = 1. The truth's square is the whole image: its boundary is the
    # 16 pixels at the border. Without the last column it is the ring of a 5x4 rectangle, 14 pixels; 5 + 3 + 3 shared.
    truth = np.zeros((5, 5), np.uint8)
    predicted = truth.copy()
    predicted[:, 4] = 1
    counts = boundary_counts(truth, predicted, 2)
    assert counts.tolist() == [[16, 14, 11], [0, 5, 0]]
    assert class_iou(counts).tolist() == [100 * 11 / 19, 0]


def test_right_regions_score_full_whatever_lies_under_ignored_pixels():
    truth = np.zeros((40, 60), np.uint8)
    truth[:, 30:] = 1
    truth[:, 28:32] = 255
    predicted = np.where(np.arange(60) < 30, 0, 1) * np.ones((40, 1), int)
    assert class_iou(boundary_counts(truth, predicted, 2)).tolist() == [100, 100]


@settings(max_examples=60)
@given(blocky_maps(height=9, width=500, blocks=(5, 13)))  # wide enough for a tolerance of several pixels
def test_boundary_f_equals_a_search_over_all_pairs(pair):
    truth, segments = pair
    truth = np.where(truth == 255, 0, truth)
    given, true = (np.argwhere(find_boundaries(ids, connectivity=1, mode="thick")) for ids in (segments, truth))
    value = boundary_f(segments, truth)
    if not len(given) and not len(true):
        assert math.isnan(value)
        return
    if not len(given) or not len(true):
        assert value == 0
        return
    apart = np.sqrt(((given[:, None] - true[None]) ** 2).sum(2))
    near = apart <= 0.0075 * math.hypot(*truth.shape)
    precision, recall = near.any(1).mean(), near.any(0).mean()
    expected = 200 * precision * recall / (precision + recall) if precision + recall else 0
    assert value == pytest.approx(expected, abs=1e-9)


def test_boundary_f_by_hand():
    # 3x8, so nothing off by a pixel meets. The truth has an edge between columns 1 and 2, the segments have that one
    # and another between columns 5 and 6: precision 6 of 12 pixels, recall 6 of 6.
    truth = np.array([[0, 0, 1, 1, 1, 1, 1, 1]] * 3)
    segments = np.array([[7, 7, 3, 3, 3, 3, 9, 9]] * 3)
    assert boundary_f(segments, truth) == pytest.approx(100 * 2 * 0.5 * 1 / 1.5)
    assert boundary_f(segments.T, truth.T) == boundary_f(segments, truth)
    assert boundary_f(truth, truth) == 100
    assert boundary_f(np.zeros((3, 8), int), truth) == 0
    assert math.isnan(boundary_f(np.zeros((3, 8), int), np.full((3, 8), 5)))


def test_boundary_f_forgives_what_is_within_the_tolerance():
    # 300x400: the diagonal is 500, 0.75 % of it 3.75 pixels. Of an edge's two columns of pixels, when it is moved by n,
    # one is n - 1 pixels from the old edge's nearer column and the other n.
    def edge(column: int) -> np.ndarray:
        return np.where(np.arange(400) < column, 0, 1) * np.ones((300, 1), int)

    assert boundary_f(edge(202), edge(200)) == 100
    assert boundary_f(edge(204), edge(200)) == 50  # one column 3 pixels off, one 4
    assert boundary_f(edge(206), edge(200)) == 0


def test_boundaries_at_ignored_pixels_do_not_count():
    truth = np.array([[0, 0, 255, 1, 1, 1, 0, 0]] * 3)
    segments = np.array([[0, 0, 5, 5, 5, 5, 2, 2]] * 3)  # an edge at one side of the ignored column, none at the other
    assert boundary_f(segments, truth) == boundary_f(segments.T, truth.T) == 100


def test_a_rim_of_ignored_pixels_round_an_object_holds_the_boundary_in_its_middle():
    # 300x400, tolerance 3.75 pixels: ignored columns from 200 to 203 between two regions, as PASCAL VOC draws them, so
    # the boundary's pixels are columns 201 and 202. Of an edge moved to 206, column 205 is 3 pixels off and 206 is 4.
    truth = np.where(np.arange(400) < 202, 0, 1) * np.ones((300, 1), int)
    truth[:, 200:204] = 255
    for column, expected in ((202, 100), (206, 50), (208, 0)):
        assert boundary_f(np.where(np.arange(400) < column, 5, 7) * np.ones((300, 1), int), truth) == expected
    split = np.where(np.arange(400) < 202, 5, 7) * np.ones((300, 1), int)
    split[:, 300:] = 9  # an edge far from the object: half of the segments' boundary pixels are right, all the truth's
    assert boundary_f(split, truth) == pytest.approx(200 / 3)


def test_a_wide_ignored_region_has_no_boundary():
    truth = np.zeros((300, 400), int)
    truth[:, 200:300], truth[:, 300:] = 255, 1
    assert math.isnan(boundary_f(np.zeros((300, 400), int), truth))
    inside = np.where(np.arange(400) < 250, 0, 1) * np.ones((300, 1), int)  # an edge in its middle
    assert math.isnan(boundary_f(inside, truth))
