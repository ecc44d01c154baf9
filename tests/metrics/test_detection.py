"""The area under the ROC curve."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from zoo_jax.metrics.detection import auroc


@pytest.mark.parametrize("levels", [3, 1000])  # with and without ties
def test_auroc_is_that_of_scikit_learn(levels):
    rng = np.random.default_rng(levels)
    positive = rng.random(101) < 0.3
    scores = rng.integers(0, levels, 101) / levels + 0.2 * positive.round()
    assert auroc(scores, positive) == pytest.approx(
        roc_auc_score(positive, scores), abs=1e-12
    )


def test_auroc_of_a_negated_score_is_its_complement():
    rng = np.random.default_rng(1)
    scores, positive = rng.integers(0, 5, 40) * 1.0, rng.random(40) < 0.5
    assert auroc(-scores, positive) == pytest.approx(1 - auroc(scores, positive))


def test_constant_scores_tell_nothing_and_one_class_has_no_area():
    assert auroc(np.ones(5), np.array([1, 0, 0, 1, 0])) == 0.5
    assert np.isnan(auroc(np.arange(3.0), np.ones(3)))


@pytest.mark.parametrize(
    ("scores", "match"), [([0.0, np.nan], "finite"), ([1.0], "differ")]
)
def test_bad_scores_are_refused(scores, match):
    with pytest.raises(ValueError, match=match):
        auroc(np.array(scores), np.array([0, 1]))
