"""How many centres of which samples each kernel gets, so that a file meets a byte budget.

Per kernel, k-means on part of its samples measures error and index entropy at a few numbers
of clusters; in between, both are interpolated. A Lagrange multiplier, the same for all
kernels, then trades bytes for error.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from zoo_jax.methods.deep_k_means import host_kmeans
from zoo_jax.methods.deep_k_means.accounting import index_entropy
from zoo_jax.optim.layer_spec import LayerSpec
from zoo_jax.optim.samples import sample_shape, to_matrix

MAX_SCALARS, MAX_VECTORS = 1024, 256  # clusters that are tried at most ...
CORES = {0.0: MAX_SCALARS, 0.5: 32}  # ... by the share of samples in one cluster
ROWS = (2, 4)  # lengths of dense rows that are tried
MAX_LENGTH = 25  # of a sample: the centres of longer ones cost more than they save
ENTRY = 24  # bytes that a clustered array adds to the packed manifest, roughly
_STEPS = 8  # interpolated numbers of clusters per doubling
_PER_CLUSTER = 32  # samples that a point of a curve looks at, but ...
_FEWEST = 4096  # ... this many always, where there are so many
_SWEEPS = 4  # over all pairs of kernels; mostly the second finds nothing


class Option(NamedTuple):
    """One way to store a kernel. An estimate: the curve comes from part of the samples."""

    layer: LayerSpec | None  # None: exactly
    bytes: float
    error: float  # squared error over the sum of squares of the kernel


def options(
    kernel: Float[np.ndarray, "*shape"], *, codebook_bytes: int = 4, seed: int = 0
) -> list[Option]:
    """Measures the candidates for one kernel: samples, numbers of clusters, cores.

    Args:
      kernel: Finite numbers, shape as in `sample_shape`.
      codebook_bytes: Of one number in the codebook.
      seed: For the part of the samples and the first centres.

    Returns:
      Only those that no other one beats in both bytes and error, ascending in bytes.
    """
    found = [Option(None, kernel.nbytes, 0.0)]
    energy = float(np.square(kernel.astype(np.float64)).sum())
    for samples, row_length in _kinds(kernel.shape):
        matrix = to_matrix(kernel, samples, row_length).astype(np.float32)
        for core, most in CORES.items():
            # Codebooks above a quarter of the samples save little.
            limit = MAX_SCALARS if matrix.shape[1] == 1 else MAX_VECTORS
            most = min(most, limit, len(matrix) // 4)
            curve = _curve(matrix, core, most, seed)
            for k, entropy, error in _interpolated(curve):
                n, d = matrix.shape
                size = n * entropy / 8 + k * (d * codebook_bytes + 2) + ENTRY
                layer = LayerSpec(k, samples, core, row_length)
                error = error * n / energy if energy else 0.0
                found.append(Option(layer, size, error))
    found.sort(key=lambda o: (o.bytes, o.error))
    best, kept = math.inf, []
    for option in found:
        if option.error < best:
            best = option.error
            kept.append(option)
    return kept


def allocate(
    choices: Mapping[str, Sequence[Option]],
    budget: float,
    *,
    sensitivity: Mapping[str, float] | None = None,
) -> dict[str, Option] | None:
    r"""Picks one option per kernel with the least total error within a budget.

    .. math:: \min \sum_l s_l e_l \quad\text{with}\quad \sum_l b_l \le B

    By a Lagrange multiplier: each kernel takes the option that minimises ``s e + m b``, and
    bisection finds the smallest m that fits. Few kernels with few options leave bytes over:
    exchanges between two kernels at a time then use them.

    Args:
      choices: `options` of each kernel: more bytes, less error.
      budget: Bytes of all kernels together.
      sensitivity: Weight s of each kernel's relative error; 1 by default.

    Returns:
      Name -> option; None if not even the smallest ones fit.

    >>> a = [Option(None, 10, 0.5), Option(None, 20, 0.1)]
    >>> b = [Option(None, 10, 0.9), Option(None, 20, 0.8)]
    >>> [o.bytes for o in allocate({"a": a, "b": b}, 30).values()]
    [20, 10]
    """
    weight = {name: (sensitivity or {}).get(name, 1.0) for name in choices}
    size = {n: np.array([o.bytes for o in c]) for n, c in choices.items()}
    cost = {n: weight[n] * np.array([o.error for o in c]) for n, c in choices.items()}

    def pick(multiplier: float) -> dict[str, int]:
        return {n: int(np.argmin(cost[n] + multiplier * size[n])) for n in choices}

    def total(picked: Mapping[str, int]) -> float:
        return float(sum(size[n][i] for n, i in picked.items()))

    smallest = {n: int(np.argmin(size[n])) for n in choices}
    if total(smallest) > budget:
        return None
    low, high = -60.0, 60.0  # log2 of the multiplier
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (
            (low, middle) if total(pick(2.0**middle)) <= budget else (middle, high)
        )
    picked = pick(2.0**high)
    if total(picked) > budget:
        picked = smallest
    _exchange(picked, size, cost, budget)
    return {n: choices[n][i] for n, i in picked.items()}


def _exchange(
    picked: dict[str, int],
    size: Mapping[str, np.ndarray],
    cost: Mapping[str, np.ndarray],
    budget: float,
) -> None:
    """Picks anew for one and for two kernels at a time, until nothing is gained."""
    left = budget - sum(size[n][i] for n, i in picked.items())
    for _ in range(_SWEEPS):
        before = dict(picked)
        for a in picked:  # what is left over
            room = left + size[a][picked[a]]
            picked[a] = int(np.searchsorted(size[a], room, side="right")) - 1
            left = room - size[a][picked[a]]
        for a, b in itertools.combinations(picked, 2):
            room = left + size[a][picked[a]] + size[b][picked[b]]
            # Options are sorted: what fits beside one of `a` is the first so many of `b`.
            fits = np.searchsorted(size[b], room - size[a], side="right") - 1
            both = np.where(fits >= 0, cost[a] + cost[b][fits], np.inf)
            i = int(np.argmin(both))
            if both[i] < (cost[a][picked[a]] + cost[b][picked[b]]) * (1 - 1e-9):
                picked[a], picked[b] = i, int(fits[i])
                left = room - size[a][i] - size[b][fits[i]]
        if picked == before:
            return


def _kinds(shape: Sequence[int]) -> list[tuple[str, int | None]]:
    """Ways to cut a kernel into samples, without those that are the same."""
    kinds: dict[int, tuple[str, int | None]] = {1: ("scalar", None)}
    if len(shape) == 2:
        kinds |= {r: ("row", r) for r in ROWS if shape[0] % r == 0}
    else:
        for samples in ("row", "kernel2d") if len(shape) > 3 else ("row",):
            _, d = sample_shape(shape, samples)
            if d <= MAX_LENGTH:
                kinds.setdefault(d, (samples, None))
    return list(kinds.values())


def _curve(
    matrix: Float[np.ndarray, "n d"], core: float, most: int, seed: int
) -> list[tuple[int, float, float]]:
    """(clusters, bits per index, mean squared error of a sample) at powers of two."""
    if most < 2:
        return []
    rng = np.random.default_rng(seed)
    matrix = rng.permutation(matrix)[: max(_FEWEST, _PER_CLUSTER * most)]
    matrix = matrix - matrix.mean(0)
    order = np.argsort(np.square(matrix).sum(1), kind="stable")
    in_core = int(len(matrix) * core)
    inside, rest = matrix[order[:in_core]], matrix[np.sort(order[in_core:])]
    share = in_core / len(matrix)
    fixed = inside.var(0, dtype=np.float64).sum() * share if in_core else 0.0
    split = index_entropy(np.arange(len(matrix)) < in_core)  # bits for "in the core?"
    starts = host_kmeans.seeds(rest[: 2 * _FEWEST], min(most, len(rest)), rng)
    # Scalars need more steps, and they cost little.
    num_iters, tol = (60, 0.001) if matrix.shape[1] == 1 else (12, 0.01)
    curve = []
    for k in 2 ** np.arange(1, int(math.log2(most)) + 1):
        part = rest[: max(_FEWEST, _PER_CLUSTER * k)]
        centres = starts[: k - 1 if in_core else k]
        _, labels, sse = host_kmeans.lloyd(part, centres, num_iters, tol=tol)
        bits = split + (1 - share) * index_entropy(labels)
        error = fixed + (1 - share) * sse / len(part)
        curve.append((int(k), bits, error))
        if error == 0:
            break
    return curve


def _interpolated(
    curve: Sequence[tuple[int, float, float]],
) -> list[tuple[int, float, float]]:
    """The curve at more numbers of clusters: entropy and log error are linear in log k."""
    if not curve:
        return []
    k, entropy, error = (
        np.array(column, np.float64) for column in zip(*curve, strict=True)
    )
    points = np.log2(k[-1] / k[0]) * _STEPS
    grid = np.unique(np.round(k[0] * 2 ** (np.arange(points + 1) / _STEPS)))
    log_error = np.log2(np.maximum(error, np.finfo(np.float32).tiny))
    x = np.log2(grid)
    bits = np.interp(x, np.log2(k), entropy)
    errors = np.exp2(np.interp(x, np.log2(k), log_error))
    errors = np.where((grid == k[-1]) & (error[-1] == 0), 0, errors)
    columns = grid.astype(int).tolist(), bits.tolist(), errors.tolist()
    return list(zip(*columns, strict=True))
