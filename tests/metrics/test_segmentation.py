"""Confused classes against scikit-learn, and what is made of them by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import jaccard_score

from zoo_jax.metrics.segmentation import (
    class_counts,
    class_iou,
    confusion_matrix,
    mean_iou,
    pixel_accuracy,
    usage_entropy,
)

K = 5


@pytest.fixture
def pair():
    """Classes and answers of three pictures; class 3 is nowhere, 255 and -1 are no class."""
    rng = np.random.default_rng(0)
    labels = rng.choice(np.array([0, 1, 2, 4, 255, -1]), (3, 7, 9))
    guess = rng.choice(np.array([0, 1, 2, 4]), (3, 7, 9))
    predicted = np.where(
        (rng.random(labels.shape) < 0.5) & (labels >= 0), labels, guess
    )
    return np.where(predicted == 255, 0, predicted), labels


def confused(predicted, labels):
    counts = confusion_matrix(
        jnp.asarray(predicted), jnp.asarray(labels), num_classes=K
    )
    return np.asarray(counts)


def test_counts_are_those_of_scikit_learn_picture_by_picture(pair):
    predicted, labels = pair
    for found, p, y in zip(confused(*pair), predicted, labels, strict=True):
        known = (y >= 0) & (y < K)
        expected = sklearn_confusion(y[known], p[known], labels=range(K))
        np.testing.assert_array_equal(found, expected)


def test_the_iou_of_a_set_is_that_of_all_its_pixels(pair):
    predicted, labels = pair
    known = (labels >= 0) & (labels < K)
    total = confused(*pair).sum(axis=0)
    there = [0, 1, 2, 4]
    expected = jaccard_score(
        labels[known], predicted[known], labels=there, average=None
    )
    iou = class_iou(total)
    np.testing.assert_allclose(iou[there], expected, rtol=1e-12)
    assert np.isnan(iou[3])
    assert mean_iou(total) == pytest.approx(expected.mean(), rel=1e-12)
    # Not the mean of the pictures' IoUs.
    assert mean_iou(confused(*pair)).mean() != pytest.approx(expected.mean(), abs=1e-4)
    accuracy = np.mean(labels[known] == predicted[known])
    assert pixel_accuracy(total) == pytest.approx(accuracy, rel=1e-12)


def test_a_class_that_is_only_predicted_counts_as_zero():
    total = confused(np.full((1, 2, 3), 3), np.zeros((1, 2, 3), int))[0]
    np.testing.assert_array_equal(class_iou(total)[[0, 3]], [0, 0])
    assert mean_iou(total) == 0


def test_without_a_labelled_pixel_there_is_no_number():
    nothing = confused(np.zeros((1, 2, 3), int), np.full((1, 2, 3), 255))[0]
    assert nothing.sum() == 0
    assert np.isnan(mean_iou(nothing))
    assert np.isnan(pixel_accuracy(nothing))


def test_usage_tells_a_collapse_from_variety(pair):
    predicted, _ = pair
    counts = np.asarray(class_counts(jnp.asarray(predicted), num_classes=K))
    expected = [np.bincount(p.ravel(), minlength=K) for p in predicted]
    np.testing.assert_array_equal(counts, expected)
    share = np.sum(expected, axis=0) / predicted.size
    entropy = -sum(p * np.log(p) for p in share if p)
    assert float(usage_entropy(counts)) == pytest.approx(entropy, rel=1e-6)
    assert float(usage_entropy(jnp.array([[0.0, 9, 0, 0, 0]]))) == 0
    assert float(usage_entropy(jnp.ones((2, K)))) == pytest.approx(np.log(K), rel=1e-6)
