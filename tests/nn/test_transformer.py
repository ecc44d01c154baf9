"""Encoders: against PyTorch, and invariants. The released code is met in the parity tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.core.tree import named_leaves
from zoo_jax.nn.transformer import Encoder, relative_bucket

SIZE = dict(num_layers=2, d_ff=10, num_heads=2, d_kv=3)
TEXT = dict(rms_norm=True, use_bias=False, scaled=False, relative_buckets=8)


@pytest.fixture(autouse=True)
def _true_float32():
    with jax.default_matmul_precision("highest"):
        yield


def make(**options):
    encoder = Encoder(**SIZE | options)
    x = jax.random.normal(jax.random.key(0), (3, 5, 6))
    variables = jax.jit(encoder.init)(jax.random.key(1), x)
    rng = np.random.default_rng(0)
    noisy = jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape), variables)
    return encoder, jax.tree.map(lambda p: p.astype(jnp.float32), noisy), x


@functools.partial(jax.jit, static_argnames=("encoder", "train"))
def _run(encoder, variables, x, mask, key, train):
    return encoder.apply(variables, x, mask, train=train, rngs={"dropout": key})


def run(encoder, variables, x, mask=None, *, seed=0, train=False):
    mask = jnp.ones(x.shape[:2]) if mask is None else mask
    return _run(encoder, variables, x, mask, jax.random.key(seed), train)


@pytest.mark.torch
@pytest.mark.parametrize(("pre_norm", "activation"), [(True, "gelu"), (False, "relu")])
def test_encoders_agree_with_pytorch(pre_norm, activation):
    torch = pytest.importorskip("torch")
    encoder, variables, x = make(pre_norm=pre_norm, activation=activation)
    layers = torch.nn.ModuleList(
        torch.nn.TransformerEncoderLayer(
            6,
            SIZE["num_heads"],
            SIZE["d_ff"],
            activation=activation,
            layer_norm_eps=1e-6,
            batch_first=True,
            norm_first=pre_norm,
        )
        for _ in range(SIZE["num_layers"])
    ).eval()
    params = named_leaves(variables["params"])

    def tensor(name):
        array = np.asarray(params[name])
        return torch.tensor(array.T if array.ndim == 2 else array)

    with torch.no_grad():
        for i, layer in enumerate(layers):
            own = f"layer_{i}"
            places = {
                "self_attn.out_proj": "mha/o",
                "linear1": "mlp/wi",
                "linear2": "mlp/wo",
                "norm1": "attention_norm",
                "norm2": "mlp_norm",
            }
            state = {
                f"{theirs}.{'weight' if kind != 'bias' else 'bias'}": tensor(key)
                for theirs, ours in places.items()
                for kind in ("kernel", "scale", "bias")
                if (key := f"{own}/{ours}/{kind}") in params
            }
            for theirs, kind in (
                ("in_proj_weight", "kernel"),
                ("in_proj_bias", "bias"),
            ):
                parts = [tensor(f"{own}/mha/{letter}/{kind}") for letter in "qkv"]
                state[f"self_attn.{theirs}"] = torch.cat(parts)
            layer.load_state_dict(state)
        mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 1, 0, 1]], bool)
        y = torch.tensor(np.asarray(x))
        for layer in layers:
            y = layer(y, src_key_padding_mask=torch.tensor(~mask))
        if pre_norm:
            scale, bias = (tensor(f"final_norm/{kind}") for kind in ("scale", "bias"))
            y = torch.nn.functional.layer_norm(y, (6,), scale, bias, 1e-6)
    got = run(encoder, variables, x, jnp.asarray(mask, jnp.float32))
    np.testing.assert_allclose(got, y.numpy(), atol=2e-5)


def test_loops_and_recomputation_change_nothing():
    encoder, variables, x = make(**TEXT)
    mask = jnp.asarray([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]], jnp.float32)

    def energy(encoder):
        def f(variables):
            y = encoder.apply(variables, x, mask)
            return jnp.sum(y[:, 0] ** 3), y

        return jax.jit(jax.grad(f, has_aux=True))(variables)

    want = energy(encoder)
    for options in (dict(remat=True), dict(scan=True, remat=True)):
        jax.tree.map(
            # Gradients are of the size of ten, sums of cubes.
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-4),
            energy(encoder.clone(**options)),
            want,
        )


def test_padding_is_not_seen():
    encoder, variables, x = make()
    mask = jnp.ones((3, 5)).at[:, 3:].set(0)
    other = x.at[:, 3:].set(9.0)
    one, two = (run(encoder, variables, y, mask)[:, :3] for y in (x, other))
    np.testing.assert_allclose(one, two, atol=1e-6)
    short = run(encoder, variables, x[:, :3])
    np.testing.assert_allclose(one, short, atol=1e-5)
    assert np.abs(one - run(encoder, variables, x)[:, :3]).max() > 1e-3


def test_order_matters_by_relative_positions_only():
    order = jnp.array([3, 1, 4, 0, 2])
    for options in ({}, TEXT):
        encoder, variables, x = make(**options)
        a, b = (run(encoder, variables, y) for y in (x, x[:, order]))
        moved = np.abs(a[:, order] - b).max()
        assert moved > 1e-3 if options else moved < 1e-5


def test_dropout_follows_its_key_in_a_loop_too():
    encoder, variables, x = make(scan=True, dropout_rate=0.4, num_layers=1)
    one, same, other = (
        run(encoder, variables, x, seed=s, train=True) for s in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-2
    # The last dropout: about four in ten are zero.
    assert 0.2 < np.mean(np.asarray(one) == 0) < 0.6


def test_low_precision_is_close_and_keeps_parameters():
    encoder, variables, x = make()
    low = encoder.clone(dtype=jnp.bfloat16)
    y = run(low, variables, x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y, run(encoder, variables, x), atol=0.1)
    fresh = jax.eval_shape(low.init, jax.random.key(0), x)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(fresh)} == {"float32"}


def test_buckets_are_exact_near_by_and_grow_with_distance():
    offsets = np.arange(-200, 201)
    buckets = relative_bucket(offsets, buckets=32, distance=64)
    before, after = buckets[offsets <= 0][::-1], buckets[offsets > 0]
    assert before[:8].tolist() == list(range(8))
    assert after[:7].tolist() == [17, 18, 19, 20, 21, 22, 23]
    np.testing.assert_array_equal(after, before[1:] + 16)  # the same on both sides
    assert (np.diff(before) >= 0).all()
    assert (np.diff(before) <= 1).all()
    assert set(before[64:]) == {15}
    assert before[62] == 15  # logarithmic: the last bucket begins before the distance
