from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from ovseg.eval.confusion import (
    best_labels,
    class_counts,
    class_iou,
    confusion_matrix,
    interval,
    mean_interval,
    mean_iou,
    scores,
)

CLASSES = 7


@st.composite
def maps(draw):
    """Truth and prediction with ignored pixels, unlabelled ones, absent classes and classes of a single pixel."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    present = draw(st.integers(1, CLASSES))
    truth, predicted = rng.integers(0, present, (2, draw(st.integers(2, 9)), draw(st.integers(2, 9))))
    truth.flat[0], predicted.flat[-1] = CLASSES - 1, CLASSES - 2  # one pixel each, once missed and once invented
    truth[rng.random(truth.shape) < draw(st.sampled_from([0, 0.2]))] = 255
    predicted[rng.random(truth.shape) < draw(st.sampled_from([0, 0.2]))] = 255
    truth.flat[0] = CLASSES - 1  # at least one pixel counts
    return truth, predicted


def test_three_by_three_by_hand():
    truth = np.array([[0, 0, 1], [0, 1, 1], [2, 255, 255]], np.uint8)
    predicted = np.array([[0, 1, 1], [0, 1, 255], [0, 0, 2]], np.uint8)
    confusion = confusion_matrix(truth, predicted, 4)
    assert confusion.tolist() == [[2, 1, 0, 0, 0], [0, 2, 0, 0, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert class_counts(confusion).tolist() == [[3, 3, 2], [3, 3, 2], [1, 0, 0], [0, 0, 0]]
    result = scores(confusion)
    # IoU: 2 of 4 pixels, 2 of 4, 0 of 1; the fourth class is nowhere and does not count.
    assert result.class_IoU[:3].tolist() == [50, 50, 0] and np.isnan(result.class_IoU[3])
    assert result.mIoU == pytest.approx(100 / 3)
    assert result.pixel_accuracy == pytest.approx(400 / 7)
    assert result.mean_accuracy == pytest.approx((200 / 3 + 200 / 3 + 0) / 3)
    assert result.fwIoU == pytest.approx(3 / 7 * 50 + 3 / 7 * 50 + 1 / 7 * 0)


@settings(max_examples=150)
@given(maps())
def test_scores_equal_scikit_learn(pair):
    truth, predicted = pair
    t, p = truth[truth != 255], predicted[truth != 255].copy()
    p[p == 255] = CLASSES  # for scikit-learn, "no label" is one class more
    labels = range(CLASSES + 1)
    confusion = confusion_matrix(truth, predicted, CLASSES)
    assert np.array_equal(confusion, metrics.confusion_matrix(t, p, labels=labels)[:-1])
    result = scores(confusion)
    present = np.setdiff1d(np.union1d(t, p), [CLASSES])
    ious = metrics.jaccard_score(t, p, labels=present, average=None, zero_division=0)
    assert result.class_IoU[present] == pytest.approx(100 * ious, abs=1e-12)
    assert np.flatnonzero(np.isnan(result.class_IoU)).tolist() == np.setdiff1d(range(CLASSES), present).tolist()
    assert result.mIoU == pytest.approx(100 * ious.mean(), abs=1e-12)
    assert result.pixel_accuracy == pytest.approx(100 * metrics.accuracy_score(t, p), abs=1e-12)
    recalls = metrics.recall_score(t, p, labels=np.unique(t), average=None, zero_division=0)
    assert result.class_accuracy[np.unique(t)] == pytest.approx(100 * recalls, abs=1e-12)
    assert result.mean_accuracy == pytest.approx(100 * recalls.mean(), abs=1e-12)
    weighted = metrics.jaccard_score(t, p, labels=np.unique(t), average="weighted", zero_division=0)
    assert result.fwIoU == pytest.approx(100 * weighted, abs=1e-12)


@settings(max_examples=50)
@given(maps(), st.integers(0, 9))
def test_parts_add_up(pair, row):
    truth, predicted = pair
    above = confusion_matrix(truth[:row], predicted[:row], CLASSES)
    below = confusion_matrix(truth[row:], predicted[row:], CLASSES)
    whole = confusion_matrix(truth, predicted, CLASSES)
    assert np.array_equal(above + below, whole)
    assert np.array_equal(class_counts(above) + class_counts(below), class_counts(whole))


def test_without_a_counted_pixel_nothing_is_defined():
    result = scores(confusion_matrix(np.full((2, 2), 255), np.zeros((2, 2), int), 3))
    found = [result.mIoU, result.pixel_accuracy, result.mean_accuracy, result.fwIoU, *result.class_IoU]
    assert np.isnan(found).all()


def test_the_mean_iou_of_many_sums_at_once():
    # True 4, predicted 4, both 3: 3 of 5. True 1, predicted 1, both 0: 0 of 2. The last is in one row only.
    counts = np.array([[[4, 4, 3], [1, 1, 0], [0, 0, 0]], [[4, 4, 3], [1, 1, 0], [2, 2, 2]]])
    assert class_iou(counts)[1].tolist() == [60, 0, 100]
    assert mean_iou(counts).tolist() == [30, 160 / 3]


def image_counts(images: int, right: float, seed: int = 0) -> np.ndarray:
    """Class counts of images of which a share of the pixels is right."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(images):
        truth = rng.integers(0, 3, (6, 6))
        predicted = np.where(rng.random((6, 6)) < right, truth, rng.integers(0, 3, (6, 6)))
        found.append(class_counts(confusion_matrix(truth, predicted, 3)))
    return np.stack(found)


def test_an_interval_is_that_of_a_bootstrap_done_one_draw_after_the_other():
    better, worse = image_counts(12, 0.8), image_counts(12, 0.6, seed=1)
    rng = np.random.default_rng(0)
    values, leads = [], []
    for _ in range(1000):
        picks = rng.integers(0, 12, 12)
        values.append(float(mean_iou(better[picks].sum(0))))
        leads.append(values[-1] - float(mean_iou(worse[picks].sum(0))))
    assert interval(better) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])), abs=1e-9)
    assert interval(better, worse) == pytest.approx(tuple(np.percentile(leads, [2.5, 97.5])), abs=1e-9)
    assert interval(better, better) == (0, 0)
    means, errors = [], rng.normal(size=12)
    rng = np.random.default_rng(0)
    for _ in range(1000):
        means.append(errors[rng.integers(0, 12, 12)].mean())
    assert mean_interval(errors) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=1e-9)
    assert np.isnan(mean_interval(np.empty(0))).all()
    low, high = interval(better)
    assert low < mean_iou(better.sum(0)) < high


def test_an_interval_of_many_images_is_that_of_all_draws_at_once_in_less_memory():
    images = 9000
    rng = np.random.default_rng(5)
    true, predicted = rng.integers(0, 900, (2, images, 4))
    better = np.stack([true, predicted, np.minimum(true, predicted) // 2], axis=-1)
    worse = np.stack([true, predicted, np.minimum(true, predicted) // 3], axis=-1)
    draw = np.random.default_rng(0)
    draws = np.stack([np.bincount(draw.integers(0, images, images), minlength=images) for _ in range(1000)])
    values, others = (
        mean_iou((draws.astype(float) @ counts.reshape(images, -1)).reshape(1000, 4, 3)) for counts in (better, worse)
    )
    size = draws.nbytes
    tracemalloc.start()
    assert interval(better) == tuple(np.percentile(values, [2.5, 97.5]))
    assert interval(better, worse) == tuple(np.percentile(values - others, [2.5, 97.5]))
    assert tracemalloc.get_traced_memory()[1] < size  # all draws at once take 2 of it
    tracemalloc.stop()


def test_an_interval_over_equal_images_is_a_point():
    counts = np.repeat(image_counts(1, 0.7), 5, axis=0)
    assert interval(counts) == pytest.approx((float(mean_iou(counts[0])),) * 2)


def test_best_labels_give_each_segment_its_majority_class():
    segments = np.array([[0, 0, 1], [0, 1, 1], [2, 2, 3]])
    truth = np.array([[2, 2, 1], [0, 1, 255], [0, 255, 255]])
    assert best_labels(segments, truth, 3).tolist() == [[2, 2, 1], [2, 1, 1], [0, 0, 0]]


def test_bad_maps_are_named():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 2\)"):
        confusion_matrix(np.zeros((2, 2), int), np.zeros((2, 3), int), 2)
    with pytest.raises(ValueError, match=r"expected 0\.\.1 or 255"):
        confusion_matrix(np.full((2, 2), 7), np.zeros((2, 2), int), 2)
