"""Inner products of kernel gradients from what passes the layer, against the gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.optim.ghost import Use, kernel_gram
from zoo_jax.optim.reach import reached


def uses(seed=0):
    """A layer called in three towers: term 0 reads the first two, term 1 the last two."""
    rng = np.random.default_rng(seed)

    def make(tokens, terms):
        b = {k: jnp.float32(rng.normal(size=(4, tokens, 3))) for k in terms}
        return Use(jnp.float32(rng.normal(size=(4, tokens, 5))), b)

    return [make(7, [0]), make(2, [0, 1]), make(1, [1])]


@pytest.mark.parametrize("form", ["tokens", "gradients"])
def test_both_forms_equal_the_gram_matrix_of_the_gradients(form):
    calls = uses()
    gradients = np.zeros((4, 2, 5, 3))
    for use in calls:
        for k, b in use.cotangents.items():
            gradients[:, k] += np.einsum("btd,bte->bde", use.inputs, b)
    want = np.einsum("bkde,blde->bkl", gradients, gradients)
    got = jax.jit(lambda: kernel_gram(calls, 2, chunk=2, form=form))()
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_the_cheaper_form_is_taken():
    def shapes(tokens, width):
        a = jax.ShapeDtypeStruct((1, tokens, width), jnp.float32)
        found = jax.make_jaxpr(lambda a, b: kernel_gram([Use(a, {0: b, 1: b})], 2))(
            a, a
        )
        return {v.aval.shape for e in found.jaxpr.eqns for v in e.outvars}

    assert (1, 3, 3) in shapes(3, 64)  # similarities of tokens
    assert (1, 64, 64) in shapes(512, 64) | {s[-3:] for s in shapes(512, 64)}


def test_reach_sees_through_jit_and_stops_at_stopped_gradients():
    def function(x):
        inner = jax.jit(lambda a, b: (a * b, b))(x["a"], x["b"])
        return inner[0], jax.lax.stop_gradient(x["c"]) + x["d"]

    x = {name: jnp.ones(2) for name in "abcd"}
    assert reached(function, x) == [{0, 1}, {3}]
