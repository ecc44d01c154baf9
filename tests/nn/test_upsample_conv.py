"""A convolution that never makes what it sees is the convolution of it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.core.forms import forms
from zoo_jax.nn.conv import conv
from zoo_jax.nn.resize import Pad, upsample_nearest
from zoo_jax.nn.upsample_conv import (
    Conv3,
    LateralKernel,
    Merged,
    Plain,
    Pyramid,
    Upsampled,
    conv_transpose,
)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


# name -> (arrays of the input, what makes the input of them, its channels)
CASES = {
    "plain": ((normal(0, 2, 5, 7, 3),), Plain, 3),
    "upsampled": ((normal(0, 2, 5, 7, 3),), Upsampled, 3),
    # Both kernels as one cost less ...
    "merged": (
        (normal(0, 2, 10, 14, 2), normal(1, 1, 1, 2, 8), normal(2, 2, 5, 7, 8)),
        Merged,
        8,
    ),
    "merged mirrored": (
        (normal(0, 2, 9, 12, 2), normal(1, 1, 1, 2, 8), normal(2, 2, 5, 7, 8)),
        lambda *arrays: Merged(*arrays, Pad(0, 1, 1, 1)),
        8,
    ),
    # ... and more than one after the other.
    "merged wide": (
        (normal(0, 2, 10, 14, 9), normal(1, 1, 1, 9, 4), normal(2, 2, 5, 7, 4)),
        Merged,
        4,
    ),
    "pyramid": (
        (normal(0, 2, 2, 3, 2), normal(1, 2, 4, 6, 3), normal(2, 2, 8, 12, 4)),
        lambda *maps: Pyramid(maps),
        9,
    ),
}


def plain_conv(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=numbers
    )


def value_and_gradients(run, *operands):
    weight = normal(9, *jax.eval_shape(run, *operands).shape)

    def loss(*operands):
        y = run(*operands)
        return jnp.sum(weight * y), y

    argnums = tuple(range(len(operands)))
    (_, y), grads = jax.jit(jax.value_and_grad(loss, argnums, has_aux=True))(*operands)
    return y, grads


@pytest.mark.parametrize(
    ("case", "choice"),
    [*((c, f) for c in CASES for f in ("cpu", "native")), ("upsampled", "lowered")],
)
def test_every_form_is_the_convolution_of_the_whole(case, choice):
    arrays, make, channels = CASES[case]
    kernel = normal(5, 3, 3, channels, 6)
    want = value_and_gradients(
        lambda *a: plain_conv(make(*a[:-1]).whole(), a[-1]), *arrays, kernel
    )
    with forms(choice):
        got = value_and_gradients(
            lambda *a: make(*a[:-1]).convolve(a[-1]), *arrays, kernel
        )
    # Sums of up to 280 products (values, inputs) or pixels (kernels) in float32.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), got, want)


@pytest.mark.parametrize("choice", ["cpu", "native", "portable"])
def test_the_transposed_convolution_is_pytorchs(choice):
    torch = pytest.importorskip("torch")
    x, kernel = normal(0, 2, 5, 7, 3), normal(1, 3, 3, 3, 4)
    with forms(choice):
        y, (dx, dkernel) = value_and_gradients(
            lambda x, k: conv_transpose(x, k), x, kernel
        )
    # Theirs flips: in ours the kernel lies as for a convolution of the dilated input.
    tx = torch.tensor(np.asarray(x).transpose(0, 3, 1, 2).copy(), requires_grad=True)
    tk = np.asarray(kernel)[::-1, ::-1].transpose(2, 3, 0, 1)
    tk = torch.tensor(tk.copy(), requires_grad=True)
    ty = torch.nn.functional.conv_transpose2d(
        tx, tk, stride=2, padding=1, output_padding=1
    )
    np.testing.assert_allclose(y, ty.detach().numpy().transpose(0, 2, 3, 1), atol=1e-5)
    weight = np.asarray(normal(9, *y.shape)).transpose(0, 3, 1, 2)
    (ty * torch.tensor(weight)).sum().backward()
    np.testing.assert_allclose(dx, tx.grad.numpy().transpose(0, 2, 3, 1), atol=1e-4)
    np.testing.assert_allclose(
        dkernel, tk.grad.numpy().transpose(2, 3, 0, 1)[::-1, ::-1], atol=2e-4
    )


def test_the_cpu_form_of_a_merge_does_the_cheaper_work():
    arrays, make, channels = CASES["merged"]
    kernel = normal(5, 3, 3, channels, 6)
    with forms("cpu"):
        program = str(jax.make_jaxpr(lambda k: make(*arrays).convolve(k))(kernel))
    assert program.count("conv_general_dilated[") == 5  # fine, and four parities
    arrays, make, channels = CASES["merged wide"]
    with forms("cpu"):
        program = str(
            jax.make_jaxpr(lambda k: make(*arrays).convolve(k))(
                normal(5, 3, 3, channels, 6)
            )
        )
    assert program.count("conv_general_dilated[") == 2


@pytest.mark.parametrize("bias", [True, False])
def test_layers_are_the_ordinary_ones_with_the_same_fresh_parameters(bias):
    class Ours(nn.Module):
        @nn.compact
        def __call__(self, fine, coarse):
            lateral = LateralKernel(2, 8, name="lateral")()
            return Conv3(6, bias, name="conv")(Merged(fine, lateral, coarse))

    class Theirs(nn.Module):
        @nn.compact
        def __call__(self, fine, coarse):
            x = conv(fine, 8, 1, bias=False, name="lateral")
            x = x + upsample_nearest(coarse, 2)
            return conv(x, 6, 3, padding=1, bias=bias, name="conv")

    fine, coarse = normal(0, 2, 10, 14, 2), normal(1, 2, 5, 7, 8)
    (got, ours), (want, theirs) = (
        jax.jit(m.init_with_output)(jax.random.key(3), fine, coarse)
        for m in (Ours(), Theirs())
    )
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    np.testing.assert_allclose(got, want, atol=1e-5)
