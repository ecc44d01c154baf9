"""Rules on Gram matrices, against stored results of other code and against their definitions."""

import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from zoo_jax.core.errors import ConfigError
from zoo_jax.optim.realign_rules import (
    cagrad,
    coefficients,
    gradvac,
    mgda,
    pcgrad,
    update_targets,
    upgrad,
)
from zoo_jax.optim.small_qp import nonnegative_qp, simplex_qp

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "fixtures" / "golden"
GOLDEN = np.load(FIXTURES / "gradient_aggregators.npz")
CASES = sorted({key.split("/")[0] for key in GOLDEN.files if key.startswith("k")})
BY_SIZE = {k: [c for c in CASES if c.startswith(f"k{k}")] for k in (2, 3)}
# A zero row, or two opposite ones: no vector serves the worst term, and any is optimal.
UNDECIDED = ("k2_zero_first", "k2_zero_second", "k3_zero_row", "k3_opposite_pair")


solve = jax.jit(coefficients, static_argnames=("rule", "normalize"))


def gram_of(*jacobians):
    return jnp.asarray([j @ j.T for j in jacobians], jnp.float32)


def golden(k):
    return [GOLDEN[f"{case}/jacobian"] for case in BY_SIZE[k]]


def errors(weights, jacobians, cases, key, scale):
    for w, jacobian, case in zip(np.asarray(weights), jacobians, cases, strict=True):
        size = np.abs(jacobian).max() or 1
        yield case, np.abs(scale * w @ jacobian - GOLDEN[f"{case}/{key}"]).max() / size


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize(
    ("rule", "key"), [(upgrad, "upgrad_exact"), (mgda, "mgda_exact")]
)
def test_exact_solutions_equal_stored_ones(k, rule, key):
    jacobians = golden(k)
    weights = jax.jit(rule)(gram_of(*jacobians))
    # The stored files hold means, the rules are scaled like sums.
    for case, error in errors(weights, jacobians, BY_SIZE[k], key, 1 / k):
        assert error < 1e-5, case


@pytest.mark.parametrize("k", [2, 3])
def test_pcgrad_equals_one_of_the_stored_orders(k):
    jacobians = golden(k)
    rule = jax.jit(lambda gram, seed: pcgrad(gram, key=jax.random.key(seed)))
    for seed in range(4):
        for jacobian, case, w in zip(
            jacobians,
            BY_SIZE[k],
            np.asarray(rule(gram_of(*jacobians), seed)),
            strict=True,
        ):
            orders = GOLDEN[f"{case}/pcgrad_orders"]
            error = np.abs(orders - w @ jacobian).max(1).min()
            assert error <= 1e-5 * np.abs(jacobian).max(), case


def test_pcgrad_draws_every_order_of_three_terms():
    jacobian = GOLDEN["k3_all_conflict/jacobian"]
    gram = jnp.broadcast_to(gram_of(jacobian), (64, 3, 3))
    rule = jax.jit(lambda gram: pcgrad(gram, key=jax.random.key(0)))
    sums = np.asarray(rule(gram)) @ jacobian
    orders = GOLDEN["k3_all_conflict/pcgrad_orders"]
    nearest = {int(np.abs(orders - s).max(1).argmin()) for s in sums}
    # Some orders have the same outcome.
    assert nearest == {int(np.abs(orders - o).max(1).argmin()) for o in orders}
    assert len(nearest) > 1


@pytest.mark.parametrize("k", [2, 3])
def test_cagrad_is_near_the_stored_one(k):
    jacobians = golden(k)
    weights = jax.jit(cagrad)(gram_of(*jacobians))
    # That package's constants (1e-4 on the matrix) leave 1e-3.
    for case, error in errors(weights, jacobians, BY_SIZE[k], "cagrad_c0.4", 1 / k):
        assert error < 1e-3 or case in UNDECIDED, case


@pytest.mark.parametrize("k", [2, 3, 5])
def test_cagrad_serves_the_worst_term_better_than_random_vectors_in_its_ball(k):
    rng = np.random.default_rng(k)
    jacobian = rng.normal(size=(k, 6))
    d = np.asarray(jax.jit(cagrad)(gram_of(jacobian)))[0] @ jacobian / k
    mean = jacobian.mean(0)
    radius = 0.4 * np.linalg.norm(mean)
    assert np.linalg.norm(d - mean) <= radius * (1 + 1e-4)
    steps = rng.normal(size=(2000, 6))
    steps *= radius / np.linalg.norm(steps, axis=1, keepdims=True)
    assert (jacobian @ d).min() >= (jacobian @ (mean + steps).T).min(0).max() - 1e-4


@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_nonnegative_programs_equal_scipy(k):
    rng = np.random.default_rng(k)
    root = rng.normal(size=(7, k, k + 2))
    target = rng.normal(size=(7, k + 2))
    matrix = root @ root.swapaxes(1, 2)
    linear = -np.einsum("bkn,bn->bk", root, target)
    got = jax.jit(nonnegative_qp)(jnp.float32(matrix), jnp.float32(linear))
    for x, a, t in zip(np.asarray(got), root, target, strict=True):
        np.testing.assert_allclose(x, scipy.optimize.nnls(a.T, t)[0], atol=2e-4)


@pytest.mark.parametrize("k", [3, 4, 6])
def test_simplex_programs_meet_their_conditions_of_optimality(k):
    rng = np.random.default_rng(k)
    root = rng.normal(size=(9, k, k + 1))
    matrix = jnp.float32(root @ root.swapaxes(1, 2))
    linear = jnp.float32(rng.normal(size=(9, k)))
    x = jax.jit(simplex_qp)(matrix, linear)
    np.testing.assert_allclose(np.sum(x, 1), 1, atol=1e-5)
    assert (x >= 0).all()
    slope = np.einsum("bij,bj->bi", matrix, x) + linear
    # Where x is above 0 the slope is the least of all.
    assert (np.sum(x * slope, 1) - slope.min(1)).max() < 1e-4


def test_gradvac_with_targets_of_zero_is_pcgrad_and_reaches_others():
    jacobian = GOLDEN["k2_conflict/jacobian"]
    gram = gram_of(jacobian)
    zero = jnp.zeros((2, 2))
    np.testing.assert_allclose(gradvac(gram, targets=zero), pcgrad(gram), rtol=1e-6)
    # One gradient at a time: term 1 is so far along its target that it stays.
    targets = jnp.array([[0.0, 0.3], [-1.0, 0.0]])
    moved = np.asarray(gradvac(gram, targets=targets))[0] @ jacobian - jacobian[1]
    cosine = moved @ jacobian[1] / np.linalg.norm(moved) / np.linalg.norm(jacobian[1])
    assert cosine == pytest.approx(0.3, abs=1e-5)


def test_targets_follow_the_mean_cosine_of_the_pairs_that_exist():
    cosines = jnp.array([[[1.0, 0.4], [0.4, 1.0]], [[1.0, 9.0], [9.0, 1.0]]])
    known = jnp.array([[[False, True], [True, False]], [[False] * 2] * 2])
    got = update_targets(jnp.full((2, 2), 0.2), cosines, known, rate=0.5)
    np.testing.assert_allclose(got, [[0.2, 0.3], [0.3, 0.2]], rtol=1e-6)


def test_triplets_equal_stored_coefficients():
    found = solve(gram_of(*GOLDEN["triplet/gradients"]))
    gradients = GOLDEN["triplet/gradients"]
    for column, name in enumerate(("alpha", "beta")):
        np.testing.assert_allclose(
            found.shared[:, column], GOLDEN[f"triplet/{name}"], rtol=1e-5
        )
    np.testing.assert_allclose(
        found.cosines[:, 0, 1], GOLDEN["triplet/cosine_zero_if_undefined"], atol=1e-5
    )
    total = np.einsum("bk,bkp->p", np.asarray(found.shared), gradients)
    atol = 1e-5 * np.abs(gradients).max()
    np.testing.assert_allclose(total, GOLDEN["triplet/pcgrad_sum"], atol=atol)


@pytest.mark.parametrize("seed", range(3))
def test_realigned_pairs_agree_with_their_partner(seed):
    g = np.random.default_rng(seed).normal(size=(50, 2, 3))
    gram = gram_of(*g)
    mixed = [np.eye(2)] * 50
    for i, j in ((0, 1), (1, 0)):
        d, n = np.asarray(gram[:, i, j]), np.asarray(gram[:, j, j])
        change = np.where(d < 0, -d / n, 0)
        mixed = [
            m + c * np.outer(np.eye(2)[i], np.eye(2)[j])
            for m, c in zip(mixed, change, strict=True)
        ]
    for m, own, w in zip(mixed, g, np.asarray(pcgrad(gram)), strict=True):
        new = m @ own
        np.testing.assert_allclose(m.sum(0), w, rtol=1e-4)
        assert new[0] @ own[1] >= -1e-4
        assert new[1] @ own[0] >= -1e-4
        assert new[0] @ own[0] >= 0
        if own[0] @ own[1] >= 0:
            np.testing.assert_array_equal(w, 1)


def test_a_zero_gradient_is_no_conflict_and_always_kept():
    g = np.array([[[1.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [-1.0, 1.0]]])
    found = solve(gram_of(*g), gamma=2.0, normalize="batch")
    np.testing.assert_array_equal(found.shared, [[1, 1], [0, 0]])
    stats = found.statistics
    assert (stats.pairs, stats.conflict, stats.kept, stats.dropped) == (1, 1, 1, 1)


def test_opposite_gradients_vanish():
    g = np.array([[[1.0, 2.0], [-3.0, -6.0]]])
    w = solve(gram_of(*g)).shared
    np.testing.assert_allclose(np.asarray(w)[0] @ g[0], 0, atol=1e-6)


def test_orthogonal_gradients_are_left_alone():
    assert solve(gram_of(np.eye(2))).shared.tolist() == [[1, 1]]


@pytest.mark.parametrize("tiny", [1e-18, 1e-9])
def test_a_tiny_gradient_does_not_blow_up(tiny):
    g = np.array([[[1.0, 0.0], [-tiny, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    w = np.asarray(coefficients(gram_of(*g)).shared)
    update = w[0] @ g[0]
    assert np.isfinite(w).all()
    assert np.linalg.norm(update) <= 2 * (1 + tiny)


def test_a_broken_example_is_dropped_and_counted_alone():
    g = np.random.default_rng(0).normal(size=(4, 2, 5))
    good = solve(gram_of(*g[[0, 1, 3]]))
    g[2, 1, 0] = np.nan
    found = solve(gram_of(*g))
    assert found.statistics.nonfinite == 1
    assert found.statistics.dropped == 0
    np.testing.assert_array_equal(found.shared[2], 0)
    kept = jnp.array([0, 1, 3])
    np.testing.assert_allclose(found.shared[kept], good.shared * 4 / 3, rtol=1e-6)
    np.testing.assert_allclose(
        found.statistics.cosine, good.statistics.cosine, rtol=1e-6
    )


def test_a_batch_of_broken_examples_stays_visible():
    found = solve(jnp.full((2, 2, 2), jnp.nan))
    assert np.isnan(found.shared).all()


def test_nothing_kept_is_zero():
    found = solve(gram_of(*np.random.default_rng(0).normal(size=(3, 2, 4))), gamma=2.0)
    assert not found.shared.any()
    assert not found.single.any()
    assert found.statistics.dropped == 3


def test_the_gate_drops_below_gamma_and_makes_up_for_it():
    angles = np.array([0.2, 1.2, 2.0, 3.0])
    g = np.stack(
        [np.tile([1.0, 0.0], (4, 1)), np.stack([np.cos(angles), np.sin(angles)], 1)], 1
    )
    found = solve(gram_of(*g), gamma=0.1, rule="none")
    np.testing.assert_allclose(found.single, [2, 2, 0, 0])
    found = solve(gram_of(*g), gamma=0.1, rule="none", normalize="batch")
    np.testing.assert_allclose(found.single, [1, 1, 0, 0])


@pytest.mark.parametrize(
    ("share", "dropped"), [(0.0, 0), (0.25, 1), (0.5, 2), (0.6, 2), (1.0, 4)]
)
def test_a_quantile_drops_that_share_of_the_pairs(share, dropped):
    g = np.random.default_rng(1).normal(size=(5, 2, 3))
    g[2, 0] = 0  # has no cosine: kept
    found = solve(gram_of(*g), quantile=share, rule="none")
    assert found.statistics.dropped == dropped
    assert found.single[2] > 0
    lowest = np.argsort(np.where(np.arange(5) == 2, 9, found.cosines[:, 0, 1]))[
        :dropped
    ]
    assert set(np.flatnonzero(found.single == 0)) == set(lowest)


def test_scale_of_a_term_leaves_the_cosine_alone():
    g = np.random.default_rng(2).normal(size=(6, 2, 4))
    one = solve(gram_of(*g))
    g[:, 1] *= 8
    other = solve(gram_of(*g))
    np.testing.assert_allclose(one.cosines, other.cosines, rtol=1e-5)


def test_permuted_and_padded_batches_give_the_same():
    gram = gram_of(*np.random.default_rng(3).normal(size=(6, 3, 4)))
    options = dict(gamma=-0.3, rule="upgrad")
    found = solve(gram, **options)
    order = jnp.array([3, 1, 5, 0, 2, 4])
    moved = solve(gram[order], **options)
    np.testing.assert_allclose(moved.shared, found.shared[order], rtol=1e-5)
    padded = jnp.concatenate([gram, jnp.full((2, 3, 3), jnp.nan)])
    valid = jnp.arange(8)[:, None] < jnp.full(3, 6)[None]
    more = solve(padded, valid=valid, **options)
    np.testing.assert_allclose(more.shared[:6], found.shared, rtol=1e-5)
    assert jax.tree.map(float, more.statistics) == pytest.approx(
        jax.tree.map(float, found.statistics)
    )


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize(
    "rule", ["none", "pcgrad", "gradvac", "upgrad", "cagrad", "mgda"]
)
def test_equal_gradients_give_k_times_one_of_them(rule, k):
    g = np.tile(np.random.default_rng(4).normal(size=(1, 1, 5)), (2, k, 1))
    found = solve(gram_of(*g), rule=rule, targets=jnp.zeros((k, k)))
    scale = 1.4 if rule == "cagrad" else 1.0  # that goes as far as it may
    np.testing.assert_allclose(np.sum(found.shared, 1), k * scale, rtol=1e-4)


def test_rules_stay_finite_under_vmap_jit_and_bfloat16():
    g = np.random.default_rng(5).normal(size=(4, 3, 6))
    gram = gram_of(*g, np.zeros((3, 6)), np.ones((3, 6))).astype(jnp.bfloat16)
    for rule in ("pcgrad", "upgrad", "cagrad", "mgda"):
        found = jax.jit(lambda x, rule=rule: coefficients(x, rule=rule).shared)(gram)
        assert found.dtype == jnp.float32
        assert np.isfinite(found).all(), rule


def test_unknown_rules_and_two_gates_are_refused():
    gram = jnp.eye(2)[None]
    with pytest.raises(
        ConfigError, match="unknown rule 'pcgrd': did you mean 'pcgrad'"
    ):
        coefficients(gram, rule="pcgrd")
    with pytest.raises(ConfigError, match="gamma or quantile"):
        coefficients(gram, gamma=0.0, quantile=0.1)
    with pytest.raises(ConfigError, match="realign_gradients"):
        coefficients(gram, rule="gradvac")


@pytest.mark.torch
@pytest.mark.parametrize("k", [2, 3])
def test_rules_equal_torchjd(k):
    torch = pytest.importorskip("torch")
    pytest.importorskip("quadprog")  # which UPGrad needs there
    aggregation = pytest.importorskip("torchjd.aggregation")
    jacobians = np.random.default_rng(6).normal(size=(6, k, 8))
    gram = gram_of(*jacobians)
    # Its own regularisation of UPGrad leaves 2e-3. (Its CAGrad: `cagrad_c0.4` above.)
    pairs = [(jax.jit(upgrad)(gram) / k, aggregation.UPGrad(), 2e-3)]
    if k == 2:
        pairs.append((jax.jit(pcgrad)(gram), aggregation.PCGrad(), 1e-5))
    for weights, theirs, atol in pairs:
        for w, jacobian in zip(np.asarray(weights), jacobians, strict=True):
            want = theirs(torch.tensor(jacobian)).numpy()
            np.testing.assert_allclose(w @ jacobian, want, atol=atol)


def test_all_small_sign_patterns_of_three_terms_are_solved():
    """Rows drawn from {-1, 0, 1}: zero, equal, opposite and dependent rows all occur."""
    rows = list(itertools.product((-1, 0, 1), repeat=2))
    jacobians = np.array(list(itertools.product(rows, repeat=3)), np.float64)
    gram = gram_of(*jacobians)
    w = np.asarray(jax.jit(upgrad)(gram), np.float64)
    update = np.einsum("bk,bkp->bp", w, jacobians)
    assert np.isfinite(w).all()
    assert np.einsum("bp,bkp->bk", update, jacobians).min() > -1e-4
