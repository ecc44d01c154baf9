"""K-means beside scikit-learn and faiss: whole runs, and the search for the nearest centre."""

import functools
import importlib
from collections.abc import Iterator

import jax
import numpy as np
from absl import logging

from experiments.benchmarks.side_by_side import Row, Setting, in_turn
from zoo_jax.methods.deep_k_means import host_kmeans
from zoo_jax.optim import clustering
from zoo_jax.optim.layer_spec import LayerSpec

NUM_ITERS = 30
CASES = {  # samples, their length, clusters
    "scalars": ((1_000_000, 1, 16), (1_000_000, 1, 256)),
    "rows": ((200_000, 3, 256), (1_000_000, 3, 64)),
    "kernels": ((200_000, 9, 256),),
}


def kmeans_rows(setting: Setting, rate: float) -> Iterator[Row]:
    """Whole runs against scikit-learn and faiss, then the search for the nearest centre."""
    for kind, cases in CASES.items():
        for n, d, k in cases[:1] if setting.tiny else cases:
            if setting.tiny:
                n, k = 1000, 8
            yield from _runs(
                f"k-means, {kind}, n {n:,}, d {d}, K {k}", n, d, k, setting
            )
    n, d, k = (500, 9, 8) if setting.tiny else (200_000, 9, 256)
    yield from _nearest(n, d, k, rate, setting)


def _samples(n: int, d: int) -> np.ndarray:
    """Heavier tails than a normal distribution, as trained weights have."""
    x = np.random.default_rng(0).standard_t(5, (n, d))
    return (x / 20).astype(np.float32)


def _runs(what: str, n: int, d: int, k: int, setting: Setting) -> Iterator[Row]:
    x = _samples(n, d)
    compiled = jax.jit(
        lambda x, key: clustering.kmeans(x, k, key, num_iters=NUM_ITERS, tol=1e-4)
    )

    def jit(number):
        result = jax.block_until_ready(compiled(x, jax.random.key(number)))
        return np.asarray(result.centres), np.asarray(result.labels)

    def host(number):
        return host_kmeans.fit(x, LayerSpec(k), seed=number)

    functions = {"jit": jit, "host": host}
    if _installed("sklearn.cluster"):
        functions["scikit-learn"] = functools.partial(_sklearn, x, k)
    if _installed("faiss"):
        import faiss

        faiss.omp_set_num_threads(setting.cores)
        functions["faiss"] = functools.partial(_faiss, x, k, n)
        functions["faiss, 256 samples per centre"] = functools.partial(
            _faiss, x, k, 256
        )
    jit(0)
    times = in_turn(functions, 1 if n * k > 10**8 else setting.rounds)
    sse = {
        name: np.median([_sse(x, *result) for result in results])
        for name, (_, results) in times.items()
    }
    # On the host, as in faiss unless it is told otherwise, most steps look at a part only.
    pairs = [("jit", "scikit-learn"), ("jit", "faiss"), ("host", "scikit-learn")]
    pairs.append(("host", "faiss, 256 samples per centre"))
    for ours, theirs in pairs:
        if theirs in times:
            yield Row(
                what=f"{what}, {ours}",
                unit="s",
                ours=times[ours][0],
                other=theirs,
                theirs=times[theirs][0],
                remark=f"SSE x {sse[ours] / sse[theirs]:.4f}",
            )
    if len(times) == 2:
        for ours in times:
            yield Row(what=f"{what}, {ours}", unit="s", ours=times[ours][0])


def _sklearn(x: np.ndarray, k: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.cluster import KMeans

    model = KMeans(k, n_init=1, max_iter=NUM_ITERS, tol=1e-4, random_state=number).fit(
        x
    )
    return model.cluster_centers_, model.labels_


def _faiss(
    x: np.ndarray, k: int, per_centre: int, number: int
) -> tuple[np.ndarray, np.ndarray]:
    import faiss

    model = faiss.Kmeans(
        x.shape[1],
        k,
        niter=NUM_ITERS,
        seed=number + 1,
        max_points_per_centroid=per_centre,
        min_points_per_centroid=1,
    )
    model.train(x)
    _, labels = model.index.search(x, 1)
    return model.centroids, labels[:, 0]


def _sse(x: np.ndarray, centres: np.ndarray, labels: np.ndarray) -> float:
    return float(np.square(x - centres[labels], dtype=np.float64).sum())


def _nearest(n: int, d: int, k: int, rate: float, setting: Setting) -> Iterator[Row]:
    x = _samples(n, d)
    centres = x[:k].copy()
    compiled = jax.jit(lambda x, c: clustering.kmeans(x, k, init=c, num_iters=0).labels)
    functions = {
        "jit": lambda _: jax.block_until_ready(compiled(x, centres)),
        "host": lambda _: host_kmeans.lloyd(x, centres, 0)[1],
    }
    theirs, other = None, ""
    if _installed("faiss"):
        import faiss

        faiss.omp_set_num_threads(setting.cores)
        other, index = "faiss", faiss.IndexFlatL2(d)
        index.add(centres)
        functions[other] = lambda _: index.search(x, 1)[1][:, 0]
    functions["jit"](0)
    times = in_turn(functions, 2 * setting.rounds + 1)
    theirs = times[other][0] if other else None
    for name in ("jit", "host"):
        same = np.mean(times[name][1][0] == times[other or "jit"][1][0])
        yield Row(
            what=f"nearest centre, n {n:,}, d {d}, K {k}, {name}",
            unit="s",
            ours=times[name][0],
            other=other,
            theirs=theirs,
            limit=n * d * k / rate,
            limit_is="multiply-adds",
            remark=f"{same:.3%} of the labels equal" if other else "",
        )


@functools.cache
def _installed(package: str) -> bool:
    """Imports a package, so that no timing holds that; False if it is not there."""
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package.partition(".")[0]:
            raise
        logging.warning("%s is not installed: rows with it are left out", package)
        return False
    return True
