"""Patches, positions, dropped tokens: against convolutions, splines and loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.nn.tokens import (
    PatchEmbedding,
    PositionTables,
    WordTable,
    aggregator_init,
    drop_tokens,
    patches,
    prepend_vector,
    resample_rows,
)

jit_resample = jax.jit(resample_rows, static_argnames=("size", "kind"))


@pytest.fixture(autouse=True)
def _true_float32():
    with jax.default_matmul_precision("highest"):
        yield


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("f4")


# Left-over frames, rows and samples are cut off.
@pytest.mark.parametrize(
    ("size", "patch"), [((5, 7, 6), (2, 3, 2)), ((9, 5), (4, 5)), ((11,), (3,))]
)
def test_patch_embeddings_are_convolutions_with_their_kernel_as_stride(size, patch):
    x, kernel = draw(2, *size, 3), draw(*patch, 3, 4, seed=1)
    module = PatchEmbedding(4, patch)
    params = {"project": {"kernel": kernel.reshape(-1, 4), "bias": draw(4, seed=2)}}
    got, grid = module.apply({"params": params}, x)
    axes = "THW"[: len(size)]
    want = jax.lax.conv_general_dilated(
        x,
        kernel,
        patch,
        "VALID",
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
    )
    assert grid == want.shape[1:-1]
    want = np.asarray(want).reshape(2, -1, 4) + params["project"]["bias"]
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_patch_embeddings_start_as_convolutions_do():
    module = PatchEmbedding(50, (4, 5))
    params = module.init(jax.random.key(0), jnp.zeros((1, 8, 5, 3)))["params"]
    kernel = params["project"]["kernel"]
    limit = (6 / (4 * 5 * 3 + 4 * 5 * 50)) ** 0.5
    assert 0.98 * limit < np.abs(kernel).max() < limit
    assert kernel.std() == pytest.approx(limit / 3**0.5, rel=0.05)


def test_inputs_smaller_than_a_patch_are_named():
    with pytest.raises(ValueError, match=r"patches of size \(4,\) .* input of \(3,\)"):
        patches(jnp.zeros((1, 3, 1)), (4,))
    with pytest.raises(ValueError, match="do not fit"):
        patches(jnp.zeros((1, 8, 8, 1)), (4,))


def polyharmonic(table, size):
    """A spline of order 3 with a linear part, as its definition has it."""
    n = len(table)
    x, q = np.arange(n) / n, np.arange(size) / size
    ones = np.ones((n, 1))
    cubes = np.abs(x[:, None] - x) ** 3
    line = np.concatenate([x[:, None], ones], 1)
    system = np.block([[cubes, line], [line.T, np.zeros((2, 2))]])
    right = np.concatenate([table, np.zeros((2, table.shape[1]))])
    solution = np.linalg.solve(system, right)
    values = np.abs(q[:, None] - x) ** 3 @ solution[:n]
    return values + q[:, None] * solution[n] + solution[n + 1]


@pytest.mark.parametrize("sizes", [(14, 20), (8, 5), (5, 12), (2, 3)])
def test_splines_are_those_of_the_released_code(sizes):
    n, size = sizes
    table = draw(n, 3)
    want = polyharmonic(table.astype(np.float64), size)
    np.testing.assert_allclose(jit_resample(table, size), want, atol=2e-5)


def test_rows_that_both_tables_have_stay():
    table = draw(6, 2)
    np.testing.assert_allclose(jit_resample(table, 12)[::2], table, atol=1e-6)
    np.testing.assert_allclose(jit_resample(table, 3), table[::2], atol=1e-6)
    for kind in ("spline", "cubic"):
        assert resample_rows(table, 6, kind=kind) is table
    one = jit_resample(table[:1], 4)
    np.testing.assert_allclose(one, np.repeat(table[:1], 4, 0), atol=1e-6)


def test_cubic_keeps_straight_lines_inside():
    line = np.linspace(0, 13, 14, dtype="f4")[:, None]
    got = np.asarray(jit_resample(line, 20, kind="cubic"))[:, 0]
    want = (np.arange(20) + 0.5) * 14 / 20 - 0.5  # half-pixel centres
    np.testing.assert_allclose(got[3:-3], want[3:-3], atol=1e-5)


def test_positions_are_sums_over_axes_normalised_and_added():
    axes, grid = (("temporal", 2), ("vertical", 3), ("horizontal", 4)), (2, 3, 4)
    module = PositionTables(axes)
    params = {name: draw(n, 5, seed=n) for name, n in axes}
    params["norm"] = {"scale": draw(5, seed=7), "bias": draw(5, seed=8)}
    x = draw(2, 24, 5, seed=9)
    got = module.apply({"params": params}, x, grid, train=False)
    want = x.astype(np.float64)
    for k, (i, j, m) in enumerate(np.ndindex(grid)):
        row = params["temporal"][i] + params["vertical"][j] + params["horizontal"][m]
        row = (row - row.mean()) / np.sqrt(row.var() + 1e-6)
        want[:, k] += row * params["norm"]["scale"] + params["norm"]["bias"]
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_tokens_are_kept_whole_once_and_the_same_for_all():
    x = np.arange(2 * 7 * 1, dtype="f4").reshape(2, 7, 1)
    drop = jax.jit(drop_tokens, static_argnames="keep")
    kept = np.asarray(drop(x, jax.random.key(0), keep=0.5))
    assert kept.shape == (2, 3, 1)
    assert len(set(kept[0, :, 0])) == 3
    np.testing.assert_array_equal(kept[1], kept[0] + 7)
    assert drop(x, jax.random.key(0), keep=0.01).shape == (2, 1, 1)
    # One key for each: examples keep tokens of their own, the same ones again for their key.
    keys = jax.random.split(jax.random.key(1), 2)
    each = jax.jit(jax.vmap(lambda x, key: drop_tokens(x[None], key, keep=0.5)[0]))
    one, again = np.asarray(each(x, keys)), np.asarray(each(x[:1], keys[:1]))
    np.testing.assert_array_equal(one[:1], again)
    assert set(one[0, :, 0]) != set(one[1, :, 0] - 7)


def test_the_aggregator_comes_first_and_is_drawn_like_keras_does():
    x = prepend_vector(jnp.zeros((2, 3, 4)), jnp.arange(4.0))
    assert x.shape == (2, 4, 4)
    np.testing.assert_array_equal(x[:, 0], [[0, 1, 2, 3]] * 2)
    assert not np.any(x[:, 1:])
    vector = aggregator_init(jax.random.key(0), (20_000,))
    assert float(vector.std()) == pytest.approx(20_000**-0.5, rel=0.03)
    assert np.abs(vector).max() < 2.3 * 20_000**-0.5  # cut off


@pytest.mark.parametrize("trainable", [False, True])
def test_frozen_words_get_no_gradient(trainable):
    module = WordTable(5, 3, trainable)
    ids = jnp.array([[1, 4, 1]])
    variables = module.init(jax.random.key(0), ids)
    table = variables["params"]["table"]["embedding"]
    np.testing.assert_array_equal(module.apply(variables, ids), table[ids])
    grads = jax.grad(lambda v: module.apply(v, ids).sum())(variables)
    got = np.asarray(grads["params"]["table"]["embedding"])[:, 0].tolist()
    assert got == ([0, 2, 0, 0, 1] if trainable else [0] * 5)
    assert np.abs(table).max() <= 0.05
