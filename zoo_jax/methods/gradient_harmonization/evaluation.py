"""What embeddings are good for: retrieval without training on it, and probes.

Everything here works on host arrays that `embed_stream` gathers.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.types import Batch
from zoo_jax.methods.gradient_harmonization.probe import (
    low_rank_probe,
    probe_accuracy,
    ridge_probe,
    svm_probe,
)
from zoo_jax.metrics.retrieval import retrieval_metrics, window_similarity

PROBES = ("low_rank", "svm", "ridge")
_BATCH_KEYS = ("text", "text_mask", "label", "wrong_audio", "wrong_text", "fold")


def embed_stream(
    predict: Callable[[Batch], Mapping[str, Any]], batches: Iterable[Batch]
) -> dict[str, np.ndarray]:
    """Outputs of a network over a stream, and what the batches say of their examples.

    Args:
      predict: Batch to arrays with the leading axis b.
      batches: Of a loader; they carry ``mask``, and examples with mask 0 are left out.

    Returns:
      Arrays [n, ...]: outputs by name, ``word_ids`` (the batch's ``text``), and those of
      ``text_mask``, ``label``, ``fold``, ``wrong_audio``, ``wrong_text`` that there are.
    """
    parts: list[dict[str, np.ndarray]] = []
    for batch in batches:
        found = dict(jax.device_get(predict(batch)))
        found |= {
            "word_ids" if k == "text" else k: np.asarray(batch[k])
            for k in _BATCH_KEYS
            if k in batch
        }
        keep = np.asarray(batch["mask"]) > 0
        parts.append({name: np.asarray(v)[keep] for name, v in found.items()})
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def retrieval_report(
    embeddings: Mapping[str, np.ndarray], *, at: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Retrieval between modalities, both ways, by cosine in the common spaces.

    A sound has one right video, its own. Videos with the same sentence all answer
    to it, and such a sentence is one query; a video whose sentence others share has one right sentence.
    Clips without text take no part in those.

    Args:
      embeddings: ``video_audio`` and ``audio`` [n, d], ``video_text`` [n, e] and ``text``
        [n, l, e] with ``word_ids`` [n, l, words] and maybe ``text_mask`` [n]; an axis of windows may stand
        behind n in the first three, whose embeddings are averaged. Of the sentences of a clip the
        first is its own.
      at: Which k of recall.

    Returns:
      ``"<query>_to_<item>/<metric>"`` of `retrieval_metrics`, for what there is.
    """
    out: dict[str, float] = {}

    def add(name: str, scores: np.ndarray, relevant: np.ndarray | None) -> None:
        found = retrieval_metrics(scores, relevant, at=at)
        out.update({f"{name}/{metric}": value for metric, value in found.items()})

    if {"video_audio", "audio"} <= embeddings.keys():
        video, sound = (_windows(embeddings[k]) for k in ("video_audio", "audio"))
        scores = window_similarity(sound.mean(axis=1), video)
        add("audio_to_video", scores, None)
        add("video_to_audio", scores.T, None)
    if {"video_text", "text"} <= embeddings.keys():
        has = np.asarray(embeddings.get("text_mask", np.ones(len(embeddings["text"]))))
        has = has > 0
        if has.any():
            ids = embeddings["word_ids"][has][:, 0]
            _, first, which = np.unique(
                ids, axis=0, return_index=True, return_inverse=True
            )
            texts = embeddings["text"][has][first, 0]
            scores = window_similarity(texts, _windows(embeddings["video_text"][has]))
            relevant = np.arange(len(first))[:, None] == which.reshape(1, -1)
            add("text_to_video", scores, relevant)
            add("video_to_text", scores.T, relevant.T)
    return out


def _windows(x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "n w d"]:
    return x[:, None] if x.ndim == 2 else x


def probe(
    kind: str,
    train: tuple[Float[np.ndarray, "..."], Int[np.ndarray, "n"]],
    test: tuple[Float[np.ndarray, "..."], Int[np.ndarray, "m"]],
    *,
    key: jax.Array | None = None,
    **options: Any,
) -> float:
    """Accuracy of a probe on other examples than it was fitted to.

    Args:
      kind: "low_rank" (needs `key`), "svm" or "ridge".
      train: Features [n, d] or [n, w, d] and labels. Every window is a training example.
      test: Likewise; scores are averaged over windows.
      key: For "low_rank".
      **options: Of the probe.

    Raises:
      ConfigError: for another kind.
    """
    features, labels = _windows(train[0]), np.asarray(train[1])
    n, w, d = features.shape
    given = (features.reshape(n * w, d), np.repeat(labels, w))
    classes = int(max(labels.max(), np.max(test[1]))) + 1
    if kind == "low_rank":
        scores = low_rank_probe(key, *given, classes=classes, **options)
    elif kind == "svm":
        scores = svm_probe(*given, classes=classes, **options)
    elif kind == "ridge":
        scores = ridge_probe(*given, classes=classes, **options)
    else:
        raise ConfigError(f"unknown probe {kind!r}: {', '.join(PROBES)}")
    return probe_accuracy(scores, _windows(test[0]), np.asarray(test[1]))


def probe_folds(
    kind: str,
    features: Float[np.ndarray, "..."],
    labels: Int[np.ndarray, "n"],
    folds: Int[np.ndarray, "n"],
    **options: Any,
) -> list[float]:
    """Accuracy on each fold of a probe that was fitted to all others, in order of the folds."""
    found = []
    for fold in np.unique(folds):
        out = folds == fold
        inside = (features[~out], labels[~out])
        found.append(probe(kind, inside, (features[out], labels[out]), **options))
    return found
