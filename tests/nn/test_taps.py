"""Taps and probes give the gradients of kernels, whatever the network around them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.nn.taps import ModuleTower


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(4, name="twice")
        x = layer(nn.gelu(layer(nn.LayerNorm()(x))))
        return nn.Dropout(0.5, deterministic=False)(x)


class Network(nn.Module):
    remat: bool

    @nn.compact
    def __call__(self, ids):
        block = nn.remat(Block) if self.remat else Block
        return block(name="block")(nn.Embed(5, 4, name="words")(ids)).mean(0)


@pytest.mark.parametrize("remat", [False, True])
def test_inputs_and_cotangents_give_the_gradients_also_of_a_layer_called_twice(remat):
    network, key = Network(remat), jax.random.key(2)
    example = {"ids": jnp.array([0, 3, 3])}
    rngs = {"params": jax.random.key(0), "dropout": key}
    params = network.init(rngs, example["ids"])["params"]
    tower = ModuleTower(
        network, lambda apply, x, key: apply(x["ids"], rngs={"dropout": key})
    )

    @jax.jit
    def both(params):
        shapes = jax.eval_shape(lambda: tower.tapped(params, example, key, {}))[1]
        probes = {n: jnp.zeros(t.outputs.shape) for n, t in shapes.items()}
        feature, pull, taps = jax.vjp(
            lambda p: tower.tapped(params, example, key, p), probes, has_aux=True
        )
        grads = jax.grad(lambda p: jnp.sum(tower(p, example, key)))(params)
        return (
            feature,
            tower(params, example, key),
            taps,
            pull(feature * 0 + 1)[0],
            grads,
        )

    feature, plain, taps, cotangents, grads = both(params)
    np.testing.assert_array_equal(feature, plain)
    calls = ["block/twice/call_0", "block/twice/call_1", "words/call_0"]
    assert sorted(taps) == sorted(cotangents) == calls
    kernel = sum(taps[c].inputs.T @ cotangents[c] for c in calls[:2])
    np.testing.assert_allclose(kernel, grads["block"]["twice"]["kernel"], atol=1e-6)
    words = jnp.zeros((5, 4)).at[taps[calls[2]].inputs].add(cotangents[calls[2]])
    np.testing.assert_allclose(words, grads["words"]["embedding"], atol=1e-6)
