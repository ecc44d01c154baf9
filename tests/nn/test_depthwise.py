import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.core.forms import forms
from zoo_jax.nn.depthwise import DepthwiseConv, depthwise_conv

CASES = [(3, 1, 1), (5, 2, 2), (7, 2, 3), (3, 2, 0)]


def data(size):
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (2, 11, 14, 5))
    return x, jax.random.normal(keys[1], (size, size, 1, 5))


@pytest.mark.parametrize(("size", "stride", "padding"), CASES)
def test_all_forms_and_their_gradients_agree(size, stride, padding):
    x, kernel = data(size)

    @functools.partial(jax.jit, static_argnames="form")
    def run(x, kernel, form):
        def loss(x, kernel):
            y = depthwise_conv(x, kernel, stride=stride, padding=padding, form=form)
            return jnp.sum(jnp.sin(y)), y

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(x, kernel)

    grouped = run(x, kernel, "grouped")
    for form in ("shifted", "autodiff"):
        # Sums of up to 49 products in float32, and of 154 pixels for a kernel.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5),
            run(x, kernel, form),
            grouped,
        )


@pytest.mark.parametrize("form", ["shifted", "autodiff"])
def test_a_gradient_penalty_is_that_of_the_grouped_form(form):
    x, kernel = data(3)

    @functools.partial(jax.jit, static_argnames="form")
    def gradient_of_penalty(x, kernel, form):
        def score(x, kernel):
            y = depthwise_conv(x, kernel, stride=2, padding=1, form=form)
            return jnp.sum(jnp.sin(y))

        def penalty(kernel):
            return jnp.sum(jax.grad(score)(x, kernel) ** 2)

        return jax.grad(penalty)(kernel)

    got, want = (gradient_of_penalty(x, kernel, f) for f in (form, "grouped"))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)


def test_forward_mode_needs_the_form_without_a_written_gradient():
    x, kernel = data(3)

    def tangent(form):
        def run(kernel):
            return depthwise_conv(x, kernel, padding=1, form=form)

        return jax.jvp(run, (kernel,), (jnp.ones_like(kernel),))[1]

    np.testing.assert_allclose(tangent("autodiff"), tangent("grouped"), atol=1e-5)
    with pytest.raises(TypeError, match="forward-mode"):
        tangent("shifted")


def test_the_form_follows_what_is_asked_for_around_it():
    x, kernel = data(3)
    conv = functools.partial(depthwise_conv, padding=1)
    texts = {}
    for choice in ("cpu", "native", "lowered"):
        with forms(choice):
            texts[choice] = str(jax.make_jaxpr(lambda *a: conv(*a))(x, kernel))
    grouped = {k: "feature_group_count=5" in v for k, v in texts.items()}
    assert grouped == {"cpu": False, "native": True, "lowered": True}
    assert "platform_index" in texts["lowered"]
    with forms("lowered"):
        y = jax.jit(lambda *a: conv(*a))(x, kernel)
    np.testing.assert_allclose(y, conv(x, kernel, form="grouped"), atol=1e-5)


def test_channels_do_not_mix():
    x, kernel = data(3)
    conv = jax.jit(functools.partial(depthwise_conv, padding=1))
    y, alone = conv(x, kernel), conv(x[..., 2:3], kernel[..., 2:3])
    np.testing.assert_allclose(y[..., 2:3], alone, atol=1e-6)


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (5, 2)])
def test_the_layer_is_linens_grouped_convolution(size, stride):
    x, _ = data(size)
    ours = DepthwiseConv(size, stride)
    theirs = nn.Conv(
        *(5, (size, size)),
        strides=stride,
        padding=size // 2,
        feature_group_count=5,
        use_bias=False,
    )
    variables = jax.jit(ours.init)(jax.random.key(1), x)
    np.testing.assert_allclose(
        *(jax.jit(layer.apply)(variables, x) for layer in (ours, theirs)), atol=1e-5
    )


def test_the_dtype_of_the_layer_is_that_of_its_output():
    x, _ = data(3)
    layer = DepthwiseConv(3, dtype=jnp.bfloat16)
    y, variables = jax.jit(layer.init_with_output)(jax.random.key(1), x)
    assert y.dtype == jnp.bfloat16
    assert variables["params"]["kernel"].dtype == jnp.float32
