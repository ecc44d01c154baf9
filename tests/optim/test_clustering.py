"""K-means and hard assignment: golden numbers, scikit-learn, and properties."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.optim import clustering, lloyd
from zoo_jax.optim.clustering import group_equal, relative_sse

# Compiled once per shape and kept in the compilation cache.
kmeans = jax.jit(clustering.kmeans, static_argnames=("num_clusters", "num_init"))
assign = jax.jit(
    clustering.assign, static_argnames=("num_clusters", "core", "num_init")
)
seeds = jax.jit(clustering.seeds, static_argnames="num_clusters")

GOLDEN_CASES = ("blobs", "normal", "scalar", "duplicates")


@pytest.fixture(scope="module")
def golden(root):
    with np.load(root / "tests/fixtures/golden/deep_k_means.npz") as file:
        assert "scikit-learn" in json.loads(str(file["meta"]))["reference"][-1]
        return dict(file)


def samples_of(n, d, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, d)), jnp.float32)


def sse(x, centres, labels):
    x, centres = np.asarray(x, np.float64), np.asarray(centres, np.float64)
    return np.sum((x - centres[np.asarray(labels)]) ** 2)


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_lloyd_from_given_centres_equals_scikit_learn(golden, case):
    def get(name):
        return golden[f"kmeans/{case}/{name}"]

    labels, centres = get("from_init_labels"), get("from_init_centres")
    if centres.shape[1] == 1:  # scalars come back with ascending centres
        order = np.argsort(centres[:, 0])
        centres, labels = centres[order], np.argsort(order)[labels]
    x, init = jnp.asarray(get("X")), jnp.asarray(get("init"), jnp.float32)
    result = kmeans(x, int(get("K")), init=init, tol=0.0)
    np.testing.assert_array_equal(result.labels, labels)
    np.testing.assert_allclose(result.centres, centres, atol=1e-5)
    np.testing.assert_allclose(result.sse, get("from_init_sse"), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_ten_starts_come_within_two_percent_of_the_best_known(golden, case):
    x, k = jnp.asarray(golden[f"kmeans/{case}/X"]), int(golden[f"kmeans/{case}/K"])
    result = kmeans(x, k, jax.random.key(0), num_init=10)
    best = float(golden[f"kmeans/{case}/sse_best_of_100"])
    # 1e-8 x the total of 288: rounding of float32 where the best is exactly 0
    assert float(result.sse) <= 1.02 * best + 3e-6


@pytest.mark.parametrize(("n", "d", "k"), [(700, 3, 20), (900, 1, 16), (90, 40, 7)])
def test_ten_starts_match_ten_starts_of_scikit_learn(n, d, k):
    cluster = pytest.importorskip("sklearn.cluster")
    x = samples_of(n, d, seed=3)
    ours = kmeans(x, k, jax.random.key(1), num_init=10)
    theirs = cluster.KMeans(k, n_init=10, random_state=0).fit(np.asarray(x)).inertia_
    assert float(ours.sse) <= 1.02 * theirs


@pytest.mark.parametrize(("n", "d", "k"), [(1100, 3, 9), (600, 1, 9), (64, 30, 5)])
def test_each_lloyd_step_lowers_the_cost(n, d, k):
    x = samples_of(n, d, seed=1)
    runs = [kmeans(x, k, init=x[:k], num_iters=i, tol=0.0) for i in range(8)]
    costs = [float(run.sse) for run in runs]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.9 * costs[0]


@pytest.mark.parametrize("d", [1, 4])
def test_labels_are_nearest_centres_and_cost_is_their_distance(d):
    x = samples_of(1300, d, seed=2)
    result = kmeans(x, 11, jax.random.key(3))
    distance = np.asarray(x)[:, None] - np.asarray(result.centres)[None]
    distance = np.sum(distance.astype(np.float64) ** 2, -1)
    np.testing.assert_array_equal(result.labels, distance.argmin(1))
    np.testing.assert_allclose(result.sse, distance.min(1).sum(), rtol=1e-5)


@pytest.mark.parametrize("d", [1, 3])
def test_converged_centres_are_the_means_of_their_clusters(d):
    x = samples_of(20_000, d, seed=4) + 7.0  # far from 0, where differences lose digits
    result = kmeans(x, 6, jax.random.key(0), tol=0.0)
    means = [np.asarray(x, np.float64)[result.labels == i].mean(0) for i in range(6)]
    np.testing.assert_allclose(result.centres, means, atol=1e-5)


def test_ties_go_to_the_lowest_index():
    x = jnp.array([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    # The middle sample is as far from both centres.
    init = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
    assert kmeans(x, 2, init=init, num_iters=0).labels.tolist() == [1, 0, 0]
    assert kmeans(x[:, :1], 2, init=init[:, :1], num_iters=0).labels.tolist() == [
        0,
        0,
        1,
    ]


@pytest.mark.parametrize("d", [1, 2])
def test_empty_clusters_move_to_the_farthest_samples(d):
    x = jnp.array([[0.0, 0], [0.1, 0], [10, 0], [10.1, 0], [55, 0], [90, 0]])[:, :d]
    far = jnp.full((3, d), 1e4)
    init = jnp.concatenate([x[:1], far])
    result = kmeans(x, 4, init=init, tol=0.0)
    assert len(set(result.labels.tolist())) == 4
    np.testing.assert_allclose(result.sse, 0.01, rtol=1e-3)


@pytest.mark.parametrize("d", [1, 3])
def test_integer_weights_equal_repeated_samples(d):
    x = samples_of(40, d, seed=5)
    weights = np.random.default_rng(0).integers(1, 4, 40)
    repeated = jnp.repeat(x, weights, axis=0)
    one = kmeans(x, 5, init=x[:5], weights=jnp.asarray(weights, jnp.float32), tol=0.0)
    other = kmeans(repeated, 5, init=x[:5], tol=0.0)
    np.testing.assert_allclose(one.centres, other.centres, atol=1e-5)
    np.testing.assert_allclose(one.sse, other.sse, rtol=1e-5)


def test_samples_of_zero_weight_have_no_say():
    x = jnp.concatenate([samples_of(30, 2), jnp.full((3, 2), 1e3)])
    weights = jnp.concatenate([jnp.ones(30), jnp.zeros(3)])
    result = kmeans(x, 3, jax.random.key(0), weights=weights)
    assert float(jnp.abs(result.centres).max()) < 10


def test_block_boundaries_do_not_show():
    x = samples_of(512 * 2 + 37, 3, seed=6)
    result = kmeans(x, 5, init=x[:5], num_iters=1, tol=0.0)
    first = np.sum((np.asarray(x)[:, None] - np.asarray(x[:5])[None]) ** 2, -1).argmin(
        1
    )
    means = [np.asarray(x, np.float64)[first == i].mean(0) for i in range(5)]
    np.testing.assert_allclose(result.centres, means, atol=1e-5)


def test_accelerator_sums_equal_cpu_sums(monkeypatch):
    x, labels = samples_of(1100, 3), jnp.arange(1100) % 7 - 1  # -1 is left out
    cpu = clustering.cluster_sums(x, labels, 6)
    monkeypatch.setattr(lloyd.jax, "default_backend", lambda: "gpu")
    np.testing.assert_allclose(clustering.cluster_sums(x, labels, 6), cpu, atol=1e-4)
    expected = [np.asarray(x, np.float64)[labels == i].sum(0) for i in range(6)]
    np.testing.assert_allclose(cpu, expected, atol=1e-4)


def test_same_key_same_clusters_other_key_other_seeds():
    x = samples_of(200, 3)
    runs = [seeds(x, 9, jax.random.key(i)) for i in (0, 0, 1)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


@pytest.mark.parametrize("d", [2, 20])
def test_seeds_are_distinct_samples_spread_over_the_blobs(d):
    blobs = np.repeat(np.arange(8)[:, None] * 100.0, 50, 0)
    x = jnp.asarray(blobs + np.random.default_rng(0).normal(size=(400, d)), jnp.float32)
    chosen = np.asarray(seeds(x, 8, jax.random.key(2)))
    assert sorted(np.round(chosen.mean(1) / 100)) == list(range(8))
    assert all((np.asarray(x) == seed).all(1).any() for seed in chosen)


@pytest.mark.parametrize(("k", "message"), [(0, "got 0"), (11, r"1\.\.10.*got 11")])
def test_impossible_numbers_of_clusters_raise(k, message):
    for function in (kmeans, assign):
        with pytest.raises(ConfigError, match=message):
            function(samples_of(10, 2), k, jax.random.key(0))


def test_kmeans_needs_a_key_or_centres_of_the_right_shape():
    with pytest.raises(ValueError, match="key or first centres"):
        kmeans(samples_of(10, 2), 3)
    with pytest.raises(ValueError, match=r"\(3, 2\), got \(3, 1\)"):
        kmeans(samples_of(10, 2), 3, init=jnp.zeros((3, 1)))


# --- assign ---


def test_one_cluster_takes_the_mean():
    x = samples_of(50, 3)
    result = assign(x, 1, jax.random.key(0), core=0.5)
    np.testing.assert_allclose(result.centres, np.mean(x, 0, keepdims=True), atol=1e-6)
    assert not result.labels.any()


def test_as_many_clusters_as_samples_change_nothing():
    x = samples_of(12, 3)
    result = assign(x, 12, jax.random.key(0))
    np.testing.assert_array_equal(result.centres[result.labels], x)


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("core", [0.0, 0.62])
def test_assigning_twice_equals_assigning_once(d, core):
    x = samples_of(300, d)
    first = assign(x, 7, jax.random.key(0), core=core)
    rows = first.centres[first.labels]
    again = assign(rows, 7, jax.random.key(0), core=core)
    np.testing.assert_array_equal(again.centres[again.labels], rows)
    assert len(np.unique(np.asarray(rows), axis=0)) <= 7
    assert float(relative_sse(x, rows)) < 0.7


def test_the_core_is_the_floor_of_its_share_nearest_to_the_mean():
    x = samples_of(101, 3, seed=7)
    result = assign(x, 6, jax.random.key(0), core=0.4)
    rows = np.asarray(x, np.float64)
    nearest = np.argsort(np.linalg.norm(rows - rows.mean(0), axis=1))[:40]
    np.testing.assert_array_equal(np.sort(nearest), np.flatnonzero(result.labels == 0))
    np.testing.assert_allclose(result.centres[0], rows[nearest].mean(0), atol=1e-6)
    assert set(result.labels.tolist()) == set(range(6))


def test_scalars_with_a_core_keep_to_their_number_of_clusters():
    x = samples_of(400, 1)
    result = assign(x, 10, jax.random.key(0), core=0.5)
    assert len(np.unique(result.centres[result.labels])) == 10


def test_clusters_outside_the_core_are_the_kmeans_of_the_rest():
    x = samples_of(200, 2, seed=8)
    result = assign(x, 4, jax.random.key(0), core=0.3, num_init=10)
    rest = np.asarray(result.labels) > 0
    alone = kmeans(x[rest], 3, jax.random.key(5), num_init=10)
    assert sse(x[rest], result.centres, result.labels[rest]) <= 1.02 * float(alone.sse)


def test_fewer_distinct_samples_than_clusters_come_back_as_they_are():
    x = jnp.tile(samples_of(4, 3), (9, 1))
    result = assign(x, 6, jax.random.key(0))
    np.testing.assert_array_equal(result.centres[result.labels], x)


def test_bfloat16_samples_stay_bfloat16():
    x = samples_of(60, 3).astype(jnp.bfloat16)
    result = assign(x, 5, jax.random.key(0))
    assert result.centres.dtype == jnp.bfloat16
    assert float(relative_sse(x, result.centres[result.labels])) < 0.6


@pytest.mark.parametrize(
    ("core", "k", "message"),
    [(1.0, 2, "got 1.0"), (-0.1, 2, "got -0.1"), (0.9, 5, "leaves 2 of 20")],
)
def test_impossible_cores_raise(core, k, message):
    with pytest.raises(ConfigError, match=message):
        assign(samples_of(20, 2), k, jax.random.key(0), core=core)


def test_equal_samples_form_groups_in_order_of_appearance():
    x = jnp.array([[2.0, 1], [0, 1], [2, 1], [-0.0, 1], [3, 3]])
    labels, first, complete = group_equal(x, 4)
    assert labels.tolist() == [0, 1, 0, 1, 2]
    assert first.tolist() == [0, 1, 4, 5]
    assert bool(complete)
    labels, _, complete = group_equal(x, 2)
    assert labels.tolist() == [0, 1, 0, 1, 2]
    assert not bool(complete)


def test_grouping_ends_on_nan():
    labels, _, _ = group_equal(jnp.full((3, 2), jnp.nan), 3)
    assert labels.tolist() == [0, 1, 2]


def test_relative_sse_is_one_for_the_mean_and_zero_for_the_samples():
    x = samples_of(30, 3)
    mean = jnp.broadcast_to(x.mean(0, keepdims=True), x.shape)
    np.testing.assert_allclose(relative_sse(x, mean), 1, rtol=1e-6)
    assert float(relative_sse(x, x)) == 0
    assert float(relative_sse(jnp.ones((3, 2)), jnp.ones((3, 2)))) == 0
