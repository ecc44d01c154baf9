"""K-means on the host, for compressing a file: plain numpy, nothing is compiled.

`zoo_jax.optim.clustering` compiles a program for every number of samples, length and number
of centres, half a second or more each. A search over byte budgets visits hundreds of them
once. The rules are the same: lowest index on a tie, empty clusters go to the farthest
samples, a core around the mean, few distinct samples stay as they are.
"""

import math

import numpy as np
from jaxtyping import Float, Int

from zoo_jax.optim.layer_spec import LayerSpec

SUBSAMPLE = 1 << 14  # samples that seeds, and the first steps, look at
# Multiplications at once. What a cache holds; and above it OpenBLAS wakes its threads, which
# took 50 times as long on a busy machine and won nothing on an idle one.
_PRODUCTS = 1 << 18


def fit(
    samples: Float[np.ndarray, "n d"],
    layer: LayerSpec,
    *,
    num_iters: int = 100,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "k d"], Int[np.ndarray, "n"]]:
    """Assigns samples to at most ``layer.num_clusters`` centres, as `clustering.assign`.

    Seeds and, for vectors, the first Lloyd steps use a random part of many samples, the last
    steps and the labels all of them.

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
    n, columns = len(samples), np.ascontiguousarray(samples.T)
    chosen = np.empty(num_clusters, np.int64)
    # Drawing in two levels (a block, then a sample in it) avoids prefix sums over all n.
    size = math.isqrt(n) + 1
    table = np.zeros((-(-n // size), size), np.float32)
    near = table.reshape(-1)[:n]
    near[:] = np.inf
    index = int(rng.integers(n))
    for i in range(num_clusters):
        chosen[i] = index
        far = np.square(columns - columns[:, index, None]).sum(0)
        np.minimum(near, far, out=near)
        blocks = np.cumsum(table.sum(1, dtype=np.float64))
        target = rng.random() * blocks[-1]
        # All samples may be met already: then any index does.
        block = min(int(np.searchsorted(blocks, target, "right")), len(blocks) - 1)
        inner = np.cumsum(table[block], dtype=np.float64)
        target -= blocks[block] - inner[-1]
        index = block * size + int(np.searchsorted(inner, target, "right"))
        index = min(index, n - 1)
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
    form = _Scalars(samples) if samples.shape[1] == 1 else _Vectors(samples)
    return _iterate(form, samples, centres, num_iters, tol)


def _iterate(form, samples, centres, num_iters, tol):
    before = np.inf
    for step in range(num_iters + 1):
        centres = form.ordered(centres)
        sse, found = form.assign(centres)
        if step == num_iters or sse >= before * (1 - tol):
            break
        before = sse
        centres = form.means(centres, found)
    labels = form.labels(centres, found)
    return centres, labels, float(_distances(samples, centres, labels).sum())


def _fit(samples, k, num_iters, seed):
    rng = np.random.default_rng(seed)
    part = subsample(samples, rng)
    if samples.shape[1] == 1 and k <= len(part):
        return _fit_scalars(samples, k, num_iters, seeds(part, k, rng))
    # The mean of many products of large numbers: centred samples keep their digits.
    mean = samples.mean(0, dtype=np.float64).astype(np.float32)
    part = part - mean
    if k > len(part):
        part = samples - mean
    centres, labels, _ = lloyd(part, seeds(part, k, rng), num_iters, tol=1e-4)
    if len(part) < len(samples):
        centres, labels, _ = lloyd(samples - mean, centres, num_iters)
    return centres + mean, labels


def _fit_scalars(samples, k, num_iters, drawn):
    """The better of two starts. Steps cost little here, so all samples take part."""
    form = _Scalars(samples)
    # The first is nearly optimal for smooth densities, the second finds lumps.
    runs = [
        _iterate(form, samples, centres, num_iters, tol=1e-5)
        for centres in (form.spread(k), drawn)
    ]
    centres, labels, _ = min(runs, key=lambda run: run[2])
    return centres, labels


class _Scalars:
    """Scalars, sorted once: a cluster is a stretch of them, its sum a difference of two."""

    def __init__(self, samples):
        self._samples = samples
        self._x = np.sort(samples[:, 0])
        x = self._x.astype(np.float64)
        self._sums = np.concatenate([[0.0], np.cumsum(x)])
        self._squares = np.sum(x * x)

    def spread(self, k):
        """Centres with a density like the cube root of that of the samples.

        Best for many centres (Panter and Dite, 1951). A gap of length g between neighbours
        holds g^(2/3) of the integral of that root, up to a factor.
        """
        x = self._x.astype(np.float64)
        levels = np.concatenate([[0.0], np.cumsum(np.diff(x) ** (2 / 3))])
        at = (np.arange(k) + 0.5) / k * levels[-1]
        return np.interp(at, levels, x)[:, None].astype(np.float32)

    def ordered(self, centres):
        return np.sort(centres, 0)

    def assign(self, centres):
        """The cost of sorted centres; sizes and sums of their clusters."""
        # A sample in the middle belongs to the lower centre.
        inner = np.searchsorted(self._x, _middles(centres), side="right")
        ends = np.concatenate([[0], inner, [len(self._x)]])
        counts, sums = np.diff(ends), np.diff(self._sums[ends])
        c = centres[:, 0].astype(np.float64)
        sse = self._squares + np.sum(c * (c * counts - 2 * sums))
        return max(sse, 0.0), (counts, sums)

    def means(self, centres, found):
        counts, sums = found
        new = _means(sums[:, None], counts)
        if not counts.all():
            x, labels = self._x[:, None], np.repeat(np.arange(len(counts)), counts)
            _refill(new, counts, x, _distances(x, centres, labels))
        return new

    def labels(self, centres, found):
        del found
        return np.searchsorted(_middles(centres), self._samples[:, 0])


class _Vectors:
    """Vectors, compared with all centres one block after the other."""

    def __init__(self, samples):
        self._samples = samples
        ones = np.ones((len(samples), 1), samples.dtype)
        self._rows = np.concatenate([samples, ones], 1)

    def ordered(self, centres):
        return centres

    def assign(self, centres):
        """The cost of centres; the nearest of each sample and its squared distance."""
        # One product gives |c|^2 / 2 - <x, c>, in one buffer that stays in cache.
        half = np.square(centres).sum(1, keepdims=True) / 2
        table = np.ascontiguousarray(np.concatenate([-centres, half], 1).T)
        n, size = len(self._rows), max(1, _PRODUCTS // table.size)
        scores = np.empty((min(n, size), len(centres)), table.dtype)
        labels = np.empty(n, np.intp)
        for i in range(0, n, size):
            block = self._rows[i : i + size]
            found = np.matmul(block, table, out=scores[: len(block)])
            np.argmin(found, 1, out=labels[i : i + size])
        distances = _distances(self._samples, centres, labels)
        return float(distances.sum()), (labels, distances)

    def means(self, centres, found):
        (labels, distances), k = found, len(centres)
        counts = np.bincount(labels, minlength=k)
        sums = [np.bincount(labels, column, k) for column in self._samples.T]
        new = _means(np.stack(sums, 1), counts)
        _refill(new, counts, self._samples, distances)
        return new

    def labels(self, centres, found):
        del centres
        return found[0]


def _middles(centres):
    return (centres[1:, 0] + centres[:-1, 0]) / 2


def _distances(samples, centres, labels):
    """Squared distance of each sample to its centre."""
    return np.square(samples - centres[labels]).sum(1, dtype=np.float64)


def _means(sums, counts):
    return (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)


def _refill(means, counts, samples, distances):
    """Moves empty clusters to the farthest samples."""
    empty = np.flatnonzero(counts == 0)
    if empty.size:
        means[empty] = samples[np.argsort(-distances, kind="stable")[: empty.size]]
