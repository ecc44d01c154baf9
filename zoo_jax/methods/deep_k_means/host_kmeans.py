"""K-means on the host, for compressing a file: plain numpy, nothing is compiled.

`zoo_jax.optim.clustering` compiles a program for every number of samples, length and number
of centres, half a second or more each. A search over byte budgets visits hundreds of them
once. The rules are the same: lowest index on a tie, empty clusters go to the farthest
samples, a core around the mean, few distinct samples stay as they are.
"""

import numpy as np
from jaxtyping import Float, Int

from zoo_jax.optim.layer_spec import LayerSpec

SUBSAMPLE = 1 << 14  # samples that seeds, and the first steps, look at
_BLOCK = 1 << 17  # distances at once: what a cache holds, 3 times as fast as 2^21


def fit(
    samples: Float[np.ndarray, "n d"],
    layer: LayerSpec,
    *,
    num_iters: int = 100,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "k d"], Int[np.ndarray, "n"]]:
    """Assigns samples to at most ``layer.num_clusters`` centres, as `clustering.assign`.

    Seeds and the first Lloyd steps use a random part of many samples, the last steps and
    the labels all of them.

    Args:
      samples: float32.
      layer: Number of clusters and the share of samples in the core.
      num_iters: At most so many steps on the part, and then on all samples.
      seed: For the part and the seeds.

    Returns:
      Centres in float32, and the index of its centre for each sample.
    """
    n, k = len(samples), layer.num_clusters
    few = distinct(samples, k)
    if few is not None:
        return few
    in_core = int(n * layer.core)
    if not in_core or k == 1:
        return _fit(samples, k, num_iters, seed)
    distance = np.square(samples - samples.mean(0)).sum(1)
    order = np.argsort(distance, kind="stable")
    inside, rest = order[:in_core], np.sort(order[in_core:])
    centres, of_rest = _fit(samples[rest], k - 1, num_iters, seed)
    labels = np.zeros(n, np.int64)
    labels[rest] = of_rest + 1
    middle = samples[inside].mean(0, dtype=np.float64, keepdims=True)
    return np.concatenate([middle.astype(np.float32), centres]), labels


def distinct(
    samples: Float[np.ndarray, "n d"], limit: int
) -> tuple[Float[np.ndarray, "k d"], Int[np.ndarray, "n"]] | None:
    """The samples grouped bit for bit, or None if there are more than `limit` groups."""
    x = np.ascontiguousarray(samples)
    rows = x.view(np.dtype((np.void, x.shape[1] * x.itemsize)))[:, 0]
    # Sorting all of them is slow, and mostly a few of them tell already.
    if limit < len(x) and len(np.unique(rows[: 2 * limit + 64])) > limit:
        return None
    _, first, labels = np.unique(rows, return_index=True, return_inverse=True)
    return None if len(first) > limit else (x[first], labels)


def subsample(
    samples: Float[np.ndarray, "n d"], rng: np.random.Generator
) -> Float[np.ndarray, "m d"]:
    """At most `SUBSAMPLE` of the samples."""
    if len(samples) <= SUBSAMPLE:
        return samples
    return samples[rng.choice(len(samples), SUBSAMPLE, replace=False)]


def seeds(
    samples: Float[np.ndarray, "n d"], num_clusters: int, rng: np.random.Generator
) -> Float[np.ndarray, "k d"]:
    """K-means++: each seed is drawn with the squared distance to the seeds before it.

    The first j of k seeds are seeds for j clusters.
    """
    columns = np.ascontiguousarray(samples.T)
    chosen = np.empty(num_clusters, np.int64)
    near = np.full(len(samples), np.inf, np.float32)
    index = int(rng.integers(len(samples)))
    for i in range(num_clusters):
        chosen[i] = index
        far = np.square(columns - columns[:, index, None]).sum(0)
        np.minimum(near, far, out=near)
        mass = np.cumsum(near, dtype=np.float64)
        # All samples may be met already: then any index does.
        index = int(np.searchsorted(mass, rng.random() * mass[-1], side="right"))
        index = min(index, len(samples) - 1)
    return samples[chosen]


def lloyd(
    samples: Float[np.ndarray, "n d"],
    centres: Float[np.ndarray, "k d"],
    num_iters: int,
    *,
    tol: float = 1e-3,
) -> tuple[Float[np.ndarray, "k d"], Int[np.ndarray, "n"], float]:
    """Lloyd steps until the cost falls by less than `tol` of itself.

    Returns:
      Centres, labels and the sum of squared errors.
    """
    before = np.inf
    for step in range(num_iters + 1):
        if centres.shape[1] == 1:  # ascending, so that nearest is a binary search
            centres = np.sort(centres, 0)
        labels, distance = _nearest(samples, centres)
        sse = float(distance.sum(dtype=np.float64))
        if step == num_iters or sse >= before * (1 - tol):
            break
        before = sse
        centres = _means(samples, labels, centres, distance)
    return centres, labels, sse


def _fit(samples, k, num_iters, seed):
    rng = np.random.default_rng(seed)
    part = subsample(samples, rng)
    # The mean of many products of large numbers: centred samples keep their digits.
    mean = samples.mean(0, dtype=np.float64).astype(np.float32)
    part = part - mean
    if k > len(part):
        part = samples - mean
    centres, labels, _ = lloyd(part, seeds(part, k, rng), num_iters, tol=1e-4)
    if len(part) < len(samples):
        centres, labels, _ = lloyd(samples - mean, centres, num_iters)
    return centres + mean, labels


def _nearest(samples, centres):
    """Index of the nearest centre of each sample, and the squared distance to it."""
    n, d = samples.shape
    if d == 1:
        # A sample in the middle belongs to the lower centre.
        middles = (centres[1:, 0] + centres[:-1, 0]) / 2
        labels = np.searchsorted(middles, samples[:, 0])
    else:
        half = np.square(centres).sum(1) / 2
        size = max(1, _BLOCK // len(centres))
        labels = np.concatenate(
            [
                np.argmin(half - samples[i : i + size] @ centres.T, 1)
                for i in range(0, n, size)
            ]
        )
    return labels, np.square(samples - centres[labels]).sum(1)


def _means(samples, labels, centres, distance):
    """Means of the clusters; an empty one moves to one of the farthest samples."""
    k = len(centres)
    counts = np.bincount(labels, minlength=k)
    sums = [np.bincount(labels, column, k) for column in samples.T]
    new = (np.stack(sums, 1) / np.maximum(counts, 1)[:, None]).astype(np.float32)
    empty = np.flatnonzero(counts == 0)
    if empty.size:
        new[empty] = samples[np.argsort(-distance, kind="stable")[: empty.size]]
    return new
