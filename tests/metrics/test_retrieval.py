"""Ranks, recall and windows: against released code, a plain loop, and at ties."""

import numpy as np
import pytest

from zoo_jax.metrics.retrieval import (
    normalize,
    ranks,
    retrieval_metrics,
    window_similarity,
)


@pytest.fixture(scope="module")
def golden(root):
    return np.load(
        root / "tests" / "fixtures" / "golden" / "retrieval_metrics.npz",
        allow_pickle=False,
    )


def values(metrics):
    keys = ("recall_at_1", "recall_at_5", "recall_at_10", "median_rank")
    return [metrics[key] for key in keys]


@pytest.mark.parametrize("case", ["random", "good", "size_under_ten"])
@pytest.mark.parametrize("ties", ["worst", "mean", "argsort"])
def test_metrics_are_those_of_the_released_code_exactly(golden, case, ties):
    got = retrieval_metrics(golden[f"{case}/scores"], ties=ties)
    assert values(got) == golden[f"{case}/metrics"].tolist()


@pytest.mark.parametrize(
    ("case", "average", "cosine"),
    [
        ("average_embeddings", "embeddings", False),
        ("average_embeddings_normalized", "embeddings", True),
        ("average_similarities", "similarities", False),
        ("average_similarities_normalized", "similarities", True),
    ],
)
def test_windows_are_averaged_as_in_the_released_code(golden, case, average, cosine):
    text, video = golden["windows/text"], golden["windows/video"]
    windows = video.reshape(len(text), int(golden["windows/n_windows"]), -1)
    got = window_similarity(text, windows, average=average, cosine=cosine)
    np.testing.assert_allclose(
        got[:5], golden[f"windows/{case}/similarity_first_rows"], atol=1e-12
    )
    assert values(retrieval_metrics(got)) == golden[f"windows/{case}/metrics"].tolist()


def test_the_accident_of_one_window_is_a_dot_product_here(golden):
    text = golden["windows/text"]
    first = golden["windows/video"].reshape(len(text), 4, -1)[:, :1]
    name = "one_window/normalize_with_default_flags"
    found = {}
    for cosine in (False, True):
        similarity = window_similarity(text, first, cosine=cosine)
        found[cosine] = values(retrieval_metrics(similarity))
    assert found[False] == golden[f"{name}/metrics"].tolist()
    assert found[True] == golden["one_window/normalize_no_average/metrics"].tolist()


def test_constant_scores_earn_nothing_by_default(golden):
    constant = np.full((50, 50), 0.3)
    expected = golden["constant/worst_rank_metrics"].tolist()
    assert values(retrieval_metrics(constant)) == expected
    assert retrieval_metrics(constant, ties="mean")["median_rank"] == 25.5


def test_ranks_equal_a_plain_loop_with_ties_and_several_answers():
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 4, (23, 9)).astype(float)  # many ties
    relevant = rng.random((23, 9)) < 0.3
    for ties in ("worst", "mean", "argsort"):
        expected = []
        for row, answers in zip(scores, relevant, strict=True):
            if not answers.any():
                expected.append(np.inf)
                continue
            best = max(row[answers])
            wrong = row[~answers]
            before, equal = sum(wrong > best), sum(wrong == best)
            if ties == "argsort":
                first = next(i for i in range(9) if answers[i] and row[i] == best)
                equal = sum(row[j] == best for j in range(first) if not answers[j])
            expected.append(1 + before + (equal / 2 if ties == "mean" else equal))
        np.testing.assert_array_equal(ranks(scores, relevant, ties=ties), expected)


def test_a_score_that_is_not_a_number_ranks_last():
    scores = np.array([[np.nan, 0.1, 0.2], [0.5, 0.9, 0.1], [0.0, np.nan, -5.0]])
    np.testing.assert_array_equal(ranks(scores), [3, 1, 2])


def test_a_zero_vector_has_similarity_zero_and_never_a_nan():
    windows = np.zeros((2, 3, 4))
    windows[1] = 1.0
    got = window_similarity(np.ones((2, 4)), windows)
    np.testing.assert_allclose(got, [[0, 1], [0, 1]], atol=1e-12)
    assert not normalize(np.zeros(3)).any()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: ranks(np.ones((2, 3))), "need `relevant`"),
        (lambda: ranks(np.ones(3)), "must be"),
        (lambda: ranks(np.eye(2), np.eye(3)), "does not fit"),
        (lambda: ranks(np.eye(2), ties="best"), "ties='best'"),
        (lambda: retrieval_metrics(np.ones((0, 0))), "no query"),
        (lambda: window_similarity(np.ones((2, 3)), np.ones((2, 3))), r"\[i, n, d\]"),
        (
            lambda: window_similarity(
                np.ones((2, 3)), np.ones((2, 1, 3)), average="all"
            ),
            "average='all'",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
