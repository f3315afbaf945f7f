from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, jaccard_score

from eval.confusion import best_labels, confusion_matrix, scores


def test_a_map_a_person_can_check():
    truth = np.array([[0, 0, 1], [0, 1, 1], [2, 255, 255]], np.uint8)
    predicted = np.array([[0, 1, 1], [0, 1, 255], [0, 0, 2]], np.uint8)
    confusion = confusion_matrix(truth, predicted, 4)
    assert confusion.tolist() == [[2, 1, 0, 0, 0], [0, 2, 0, 0, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    result = scores(confusion)
    # IoU: 2 of 4 pixels, 2 of 4, 0 of 1; the fourth class is nowhere and does not count.
    assert result.class_IoU[:3].tolist() == [50, 50, 0] and np.isnan(result.class_IoU[3])
    assert result.mIoU == pytest.approx(100 / 3)
    assert result.pixel_accuracy == pytest.approx(400 / 7)
    assert result.mean_accuracy == pytest.approx((200 / 3 + 200 / 3 + 0) / 3)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_scores_equal_scikit_learn(seed, classes):
    rng = np.random.default_rng(seed)
    truth, predicted = rng.integers(0, classes, (2, 9, 11))
    truth[rng.random(truth.shape) < 0.2] = 255
    result = scores(confusion_matrix(truth, predicted, classes))
    t, p = truth[truth != 255], predicted[truth != 255]
    present = np.union1d(t, p)
    assert result.mIoU == pytest.approx(100 * jaccard_score(t, p, labels=present, average="macro"), abs=1e-12)
    assert result.pixel_accuracy == pytest.approx(100 * accuracy_score(t, p), abs=1e-12)
    if set(p) <= set(t):
        assert result.mean_accuracy == pytest.approx(100 * balanced_accuracy_score(t, p), abs=1e-12)


def test_parts_add_up():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 3, (2, 10, 8))
    parts = confusion_matrix(truth[:4], predicted[:4], 3) + confusion_matrix(truth[4:], predicted[4:], 3)
    assert np.array_equal(parts, confusion_matrix(truth, predicted, 3))


def test_best_labels_give_each_segment_its_majority_class():
    segments = np.array([[0, 0, 1], [0, 1, 1], [2, 2, 3]])
    truth = np.array([[2, 2, 1], [0, 1, 255], [0, 255, 255]])
    assert best_labels(segments, truth, 3).tolist() == [[2, 2, 1], [2, 1, 1], [0, 0, 0]]


def test_bad_maps_are_named():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 2\)"):
        confusion_matrix(np.zeros((2, 2), int), np.zeros((2, 3), int), 2)
    with pytest.raises(ValueError, match=r"expected 0\.\.1 or 255"):
        confusion_matrix(np.full((2, 2), 7), np.zeros((2, 2), int), 2)
