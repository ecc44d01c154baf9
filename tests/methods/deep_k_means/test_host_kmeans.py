"""K-means on the host equals a plain float64 computation, whatever it does to be fast."""

import numpy as np
import pytest

from zoo_jax.methods.deep_k_means import host_kmeans
from zoo_jax.optim.layer_spec import LayerSpec


def heavy_tailed(n, d, seed=0):
    return np.random.default_rng(seed).standard_t(5, (n, d)).astype(np.float32) / 20


def plain_lloyd(x, centres, num_iters):
    """All distances in float64, one mean after the other."""
    x, c = x.astype(np.float64), centres.astype(np.float64)
    for step in range(num_iters + 1):
        c = np.sort(c, 0) if x.shape[1] == 1 else c
        distance = np.square(x[:, None] - c[None]).sum(-1)
        labels = distance.argmin(1)
        if step == num_iters:
            return c, labels, distance.min(1).sum()
        far = iter(np.argsort(-distance.min(1), kind="stable"))
        c = np.stack(
            [
                x[labels == i].mean(0) if (labels == i).any() else x[next(far)]
                for i in range(len(c))
            ]
        )


@pytest.mark.parametrize("num_iters", [0, 1, 9])
@pytest.mark.parametrize(
    ("n", "d", "k"), [(701, 1, 37), (533, 3, 20), (207, 9, 11), (90, 25, 8)]
)
def test_lloyd_equals_float64_step_by_step(n, d, k, num_iters, monkeypatch):
    x = heavy_tailed(n, d)
    start = x[:k].copy()
    start[3:5] = 50 + np.arange(2)[:, None]  # nothing is near them: they move
    plain = plain_lloyd(x, start, num_iters)
    for products in (host_kmeans._PRODUCTS, 1000):  # whole, and in many blocks
        monkeypatch.setattr(host_kmeans, "_PRODUCTS", products)
        centres, labels, sse = host_kmeans.lloyd(x, start, num_iters, tol=-1.0)
        np.testing.assert_array_equal(labels, plain[1])
        np.testing.assert_allclose(centres, plain[0], atol=1e-6)
        assert sse == pytest.approx(plain[2], rel=1e-5)


def test_the_cost_of_a_perfect_clustering_is_zero():
    for d in (1, 3):
        x = np.repeat(heavy_tailed(5, d), 40, 0)
        centres, labels, sse = host_kmeans.lloyd(x, x[::40], 5)
        assert sse == 0
        assert centres[labels].tobytes() == x.tobytes()


def test_a_scalar_in_the_middle_goes_to_the_lower_centre():
    x = np.array([[3.0], [0.0], [1.5], [4.0]], np.float32)
    _, labels, sse = host_kmeans.lloyd(x, np.array([[3.0], [0.0]], np.float32), 0)
    assert labels.tolist() == [1, 0, 0, 1]
    assert sse == 1.5**2 + 1
    centres, _, _ = host_kmeans.lloyd(x, np.array([[3.0], [0.0]], np.float32), 1)
    assert centres.tolist() == [[0.75], [3.5]]


@pytest.mark.parametrize(("n", "d", "k"), [(1021, 1, 200), (700, 3, 60), (5, 2, 5)])
def test_seeds_are_those_of_one_prefix_sum_over_all_samples(n, d, k):
    x = heavy_tailed(n, d, seed=1)
    x[n // 2 :] = x[: n - n // 2]  # many have no mass left
    rng, near = np.random.default_rng(7), np.full(n, np.inf)
    index, expected = int(rng.integers(n)), []
    for _ in range(k):
        expected.append(x[index])
        near = np.minimum(near, np.square(x - x[index]).sum(1, dtype=np.float64))
        mass = np.cumsum(near)
        index = min(np.searchsorted(mass, rng.random() * mass[-1], "right"), n - 1)
    seeds = host_kmeans.seeds(x, k, np.random.default_rng(7))
    distinct = min(k, len(np.unique(x, axis=0)))  # beyond them any sample does
    np.testing.assert_array_equal(seeds[:distinct], expected[:distinct])


def lumps(n, d):
    rng = np.random.default_rng(3)
    return (rng.normal(0, 0.03, (n, d)) + rng.integers(0, 5, (n, 1))).astype("f4")


@pytest.mark.parametrize(
    ("x", "k"),
    [
        (heavy_tailed(20_000, 1), 16),
        (heavy_tailed(20_000, 1), 120),
        (lumps(20_000, 1), 24),
        (heavy_tailed(20_000, 3), 32),
    ],
    ids=["few", "many", "lumps", "rows"],
)
def test_one_fit_comes_near_the_best_of_ten_of_scikit_learn(x, k):
    cluster = pytest.importorskip("sklearn.cluster")
    limits = pytest.importorskip("threadpoolctl").threadpool_limits
    with limits(1):  # its threads are slow where others are at work
        theirs = cluster.KMeans(k, n_init=10, max_iter=100, random_state=0).fit(x)
    centres, labels = host_kmeans.fit(x, LayerSpec(k), seed=0)
    sse = np.square(x - centres[labels], dtype=np.float64).sum()
    assert sse <= 1.02 * theirs.inertia_


def test_spread_centres_follow_the_cube_root_of_the_density():
    # Eight times the density on the left: twice as many centres.
    x = np.concatenate([np.linspace(0, 1, 8000), np.linspace(1, 2, 1001)[1:]])
    x = np.random.default_rng(0).permutation(x).astype(np.float32)[:, None]
    centres = host_kmeans._Scalars(x).spread(30)[:, 0]
    assert (centres < 1).sum() == 20
    np.testing.assert_allclose(np.diff(centres[:20]), 1 / 20, rtol=0.01)
    np.testing.assert_allclose(np.diff(centres[20:]), 1 / 10, rtol=0.01)
