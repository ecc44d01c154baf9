"""Probes of frozen features."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.svm import LinearSVC

from zoo_jax.core.errors import DataError
from zoo_jax.methods.gradient_harmonization.probe import (
    low_rank_probe,
    probe_accuracy,
    ridge_probe,
    svm_probe,
)


@pytest.fixture(scope="module")
def data():
    """Three classes whose centres are 3 deviations apart in 5 of 7 dimensions."""
    rng = np.random.default_rng(0)
    centres = 1.5 * rng.standard_normal((3, 7))
    labels = rng.integers(0, 3, 130)
    return centres[labels] + rng.standard_normal((130, 7)), labels


def test_ridge_is_scikit_learns_on_standardised_features(data):
    x, y = data
    x = np.concatenate([x, np.full((len(x), 1), 3.7)], axis=1)  # one constant
    scores = ridge_probe(x, y, classes=3, strength=0.3)
    z = (x[:, :7] - x[:, :7].mean(0)) / x[:, :7].std(0)
    other = Ridge(alpha=0.3 * len(x)).fit(z, np.eye(3)[y])
    np.testing.assert_allclose(scores(x), other.predict(z), atol=1e-10)


def test_svm_is_scikit_learns_and_gives_two_columns_for_two_classes(data):
    x, y = data
    machine = LinearSVC(C=0.1, random_state=0).fit(x, y)
    got = svm_probe(x, y, classes=3, c=0.1)(x)
    np.testing.assert_allclose(got, machine.decision_function(x))
    two = y < 2
    scores = svm_probe(x[two], y[two], classes=2, c=0.1)(x[two])
    assert scores.shape == (two.sum(), 2)
    assert np.mean(scores.argmax(1) == y[two]) > 0.9


LOW_RANK = dict(classes=3, hidden=8, dropout=0.2, lr=1e-2, epochs=30)


@pytest.fixture(scope="module")
def fitted(data):
    return low_rank_probe(jax.random.key(0), *data, decay=1e-3, **LOW_RANK)


def test_low_rank_probe_learns_classes_and_ignores_the_padding_of_its_last_batch(
    data, fitted
):
    x, y = data  # 130 examples: a last batch of two
    np.testing.assert_allclose(fitted(x).sum(1), 1, atol=1e-5)
    assert probe_accuracy(fitted, x[:, None], y) > 0.9
    again = low_rank_probe(jax.random.key(0), x, y, decay=1e-3, **LOW_RANK)
    np.testing.assert_array_equal(fitted(x), again(x))


def test_decay_flattens_what_the_low_rank_probe_says(data, fitted):
    x, y = data
    flat = low_rank_probe(jax.random.key(0), x, y, decay=10.0, **LOW_RANK)(x)
    assert flat.std() < 0.6 * fitted(x).std()


def test_windows_are_averaged_before_the_decision():
    # Two windows vote weakly for class 0, one strongly for class 1.
    features = np.array([[[0.6, 0.4], [0.6, 0.4], [0.0, 1.0]]])
    assert probe_accuracy(lambda z: z, features, np.array([1])) == 1.0
    assert probe_accuracy(lambda z: np.zeros((3, 2)), features, np.array([1])) == 0.0


def test_features_that_are_not_finite_are_counted_and_refused(data):
    x, y = data
    x = x.copy()
    x[3, 1] = np.nan
    for fit in (
        lambda: ridge_probe(x, y, classes=3),
        lambda: svm_probe(x, y, classes=3),
        lambda: low_rank_probe(jax.random.key(0), x, y, classes=3, epochs=1),
    ):
        with pytest.raises(DataError, match="1 of 130 examples"):
            fit()
    with pytest.raises(DataError, match="3 of 4 classes"):
        svm_probe(data[0], y, classes=4)
