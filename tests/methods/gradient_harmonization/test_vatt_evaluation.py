"""Retrieval and probes over gathered embeddings."""

import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.methods.gradient_harmonization.evaluation import (
    embed_stream,
    probe,
    probe_folds,
    retrieval_report,
)


def clips(n=11, w=3, d=5, sentences=4, seed=0):
    """Random embeddings of clips of w windows; several clips share a sentence."""
    rng = np.random.default_rng(seed)
    which = rng.integers(0, sentences, n)
    tables = rng.standard_normal((sentences, d))
    text = rng.standard_normal((n, 2, d))
    text[:, 0] = tables[which]
    ids = np.zeros((n, 2, 6), np.int32)
    ids[:, 0, 0] = which + 1
    ids[:, 1, 0] = rng.integers(100, 200, n)  # of a neighbour: must not matter
    return {
        "video_audio": rng.standard_normal((n, w, d)),
        "audio": rng.standard_normal((n, d)),
        "video_text": rng.standard_normal((n, w, d)),
        "text": text,
        "word_ids": ids,
        "which": which,
    }


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_retrieval_is_a_plain_loop_over_queries():
    found = clips()
    got = retrieval_report(found, at=(1, 5))
    video = unit(found["video_text"].mean(1))
    ranks = {"text_to_video": [], "video_to_text": []}
    names = sorted(set(found["which"].tolist()))
    sentence = {k: unit(found["text"][found["which"] == k][0, 0]) for k in names}
    for k in names:
        scores = [float(v @ sentence[k]) for v in video]
        right = max(
            s for s, own in zip(scores, found["which"], strict=True) if own == k
        )
        ranks["text_to_video"].append(1 + sum(s > right for s in scores))
    for v, own in zip(video, found["which"], strict=True):
        scores = {k: float(v @ sentence[k]) for k in names}
        ranks["video_to_text"].append(1 + sum(s > scores[own] for s in scores.values()))
    for name, expected in ranks.items():
        assert got[f"{name}/recall_at_1"] == np.mean(np.array(expected) == 1)
        assert got[f"{name}/median_rank"] == np.median(expected)
    assert set(got) == {
        f"{a}/{b}"
        for a in (*ranks, "audio_to_video", "video_to_audio")
        for b in ("recall_at_1", "recall_at_5", "median_rank")
    }


def test_equal_embeddings_find_each_other_and_constant_ones_find_nothing():
    found = clips()
    found["video_audio"] = np.repeat(found["audio"][:, None], 3, 1)
    assert retrieval_report(found)["audio_to_video/recall_at_1"] == 1
    found["video_audio"] = np.ones_like(found["video_audio"])
    report = retrieval_report(found)
    assert report["audio_to_video/recall_at_10"] == 0
    assert report["audio_to_video/median_rank"] == 11


def test_clips_without_text_are_no_candidates():
    found = clips(n=12)
    mask = (np.arange(12) % 3 > 0).astype(np.float32)
    kept = {k: v[mask > 0] for k, v in found.items()}
    texts = ("text_to_video", "video_to_text")
    a = retrieval_report({**found, "text_mask": mask})
    b = retrieval_report(kept)
    for key in a:
        if key.startswith(texts):
            assert a[key] == b[key]
    none = retrieval_report({**found, "text_mask": np.zeros(12)})
    assert not any(key.startswith(texts) for key in none)


def test_a_stream_is_gathered_without_its_padding():
    batches = [
        {"x": np.arange(3.0), "mask": np.ones(3), "label": np.array([4, 5, 6])},
        {
            "x": np.arange(3.0) + 3,
            "mask": np.array([1, 0, 0]),
            "label": np.ones(3, int),
        },
    ]
    got = embed_stream(lambda batch: {"double": 2 * batch["x"]}, batches)
    assert got["double"].tolist() == [0, 2, 4, 6]
    assert got["label"].tolist() == [4, 5, 6, 1]


def test_every_window_trains_and_the_mean_over_windows_decides():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 60)
    features = np.eye(3)[labels][:, None] + rng.standard_normal((60, 4, 3))
    one = probe("ridge", (features[:30], labels[:30]), (features[30:, :1], labels[30:]))
    four = probe("ridge", (features[:30], labels[:30]), (features[30:], labels[30:]))
    assert four > one
    flat = (features[:30].reshape(120, 3), np.repeat(labels[:30], 4))
    assert probe("ridge", flat, (features[30:], labels[30:])) == four


def test_folds_are_each_measured_by_a_probe_of_the_others():
    rng = np.random.default_rng(2)
    labels, folds = np.arange(30) % 2, np.arange(30) // 10
    features = rng.standard_normal((30, 3))
    features[folds == 1, 0] += 4 * labels[folds == 1]  # only one fold tells
    features[folds == 2, 0] += 4 * labels[folds == 2]
    got = probe_folds("ridge", features, labels, folds)
    expected = [
        probe(
            "ridge",
            (features[folds != k], labels[folds != k]),
            (features[folds == k], labels[folds == k]),
        )
        for k in range(3)
    ]
    assert got == expected
    assert got[0] < min(got[1:])


def test_an_unknown_probe_is_refused():
    with pytest.raises(ConfigError, match="unknown probe 'knn'"):
        probe("knn", (np.ones((2, 1)), np.arange(2)), (np.ones((2, 1)), np.arange(2)))
