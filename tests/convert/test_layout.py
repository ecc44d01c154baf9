"""Layouts against loops that do what the published layer is defined to do, and torch."""

import itertools

import jax
import numpy as np
import pytest

from zoo_jax import convert

SPATIAL = {1: (7,), 2: (5, 7), 3: (4, 5, 6)}
KERNEL = {1: (3,), 2: (2, 3), 3: (2, 1, 3)}
LETTERS = {1: "T", 2: "HW", 3: "THW"}
CONV = {1: convert.CONV_1D, 2: convert.CONV_2D, 3: convert.CONV_3D}
DEPTHWISE = {1: convert.DEPTHWISE_1D, 2: convert.DEPTHWISE_2D, 3: convert.DEPTHWISE_3D}
TRANSPOSE = {
    1: convert.CONV_TRANSPOSE_1D,
    2: convert.CONV_TRANSPOSE_2D,
    3: convert.CONV_TRANSPOSE_3D,
}
rank = pytest.mark.parametrize("rank", [1, 2, 3])
with_torch = pytest.mark.torch


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def channels_last(x):
    return np.moveaxis(x, 1, -1)


def ours_conv(x, kernel, groups=1):
    """`x` is (b, c, ...) and so is the result; the convolution between is channels-last."""
    s = LETTERS[x.ndim - 2]
    y = jax.lax.conv_general_dilated(
        channels_last(x),
        kernel,
        (1,) * len(s),
        "VALID",
        dimension_numbers=(f"N{s}C", f"{s}IO", f"N{s}C"),
        feature_group_count=groups,
        precision="highest",
    )
    return np.moveaxis(np.asarray(y), -1, 1)


def ours_conv_transpose(x, kernel, stride):
    s = LETTERS[x.ndim - 2]
    y = jax.lax.conv_transpose(
        channels_last(x),
        kernel,
        (stride,) * len(s),
        "VALID",
        dimension_numbers=(f"N{s}C", f"{s}IO", f"N{s}C"),
        precision="highest",
    )
    return np.moveaxis(np.asarray(y), -1, 1)


def loop_conv(x, weight, groups=1):
    """out[o, p] = sum over the group's inputs i and taps k of weight[o, i, k] x[i, p + k]."""
    outputs, inputs, *taps = weight.shape
    size = [n - k + 1 for n, k in zip(x.shape[2:], taps, strict=True)]
    out = np.zeros((len(x), outputs, *size))
    for o in range(outputs):
        first = o // (outputs // groups) * inputs
        for k in np.ndindex(*taps):
            window = tuple(slice(a, a + n) for a, n in zip(k, size, strict=True))
            for i in range(inputs):
                out[:, o] += weight[(o, i, *k)] * x[(slice(None), first + i, *window)]
    return out


def loop_conv_transpose(x, weight, stride):
    """Every input value adds its multiple of the kernel to the output: a scatter."""
    inputs, outputs, *taps = weight.shape
    size = [(n - 1) * stride + k for n, k in zip(x.shape[2:], taps, strict=True)]
    out = np.zeros((len(x), outputs, *size))
    for p in np.ndindex(*x.shape[2:]):
        where = tuple(
            slice(a * stride, a * stride + k) for a, k in zip(p, taps, strict=True)
        )
        for o, i in itertools.product(range(outputs), range(inputs)):
            value = x[(slice(None), i, *p)].reshape(-1, *[1] * len(taps))
            out[(slice(None), o, *where)] += value * weight[i, o]
    return out


@rank
def test_conv_layout_gives_the_published_convolution(rank):
    x, weight = normal(2, 3, *SPATIAL[rank]), normal(5, 3, *KERNEL[rank], seed=1)
    got = ours_conv(x, CONV[rank].to_ours(weight))
    np.testing.assert_allclose(got, loop_conv(x, weight), rtol=1e-5, atol=1e-5)


@rank
def test_depthwise_layout_keeps_the_order_of_multiplied_channels(rank):
    x, weight = normal(2, 3, *SPATIAL[rank]), normal(6, 1, *KERNEL[rank], seed=1)
    got = ours_conv(x, DEPTHWISE[rank].to_ours(weight), groups=3)
    np.testing.assert_allclose(got, loop_conv(x, weight, 3), rtol=1e-5, atol=1e-5)


@rank
def test_conv_transpose_layout_gives_the_published_scatter(rank):
    x, weight = normal(2, 3, *SPATIAL[rank]), normal(3, 5, *KERNEL[rank], seed=1)
    stride = max(KERNEL[rank]) - 1  # kernels of unequal taps, overlapping where longest
    kernel = TRANSPOSE[rank].to_ours(weight)
    got = ours_conv_transpose(x, kernel, stride)
    want = loop_conv_transpose(x, weight, stride)
    # Where the stride exceeds a tap, lax pads the end with zeros that torch leaves out.
    got = got[tuple(slice(n) for n in want.shape)]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_linear_layout_gives_the_published_product():
    x, weight = normal(2, 7), normal(5, 7, seed=1)
    want = [[sum(a * b) for b in weight] for a in x]
    np.testing.assert_allclose(x @ convert.LINEAR.to_ours(weight), want, rtol=1e-4)


def test_flattened_linear_sees_the_same_pixels_in_our_order():
    x, weight = normal(2, 3, 4, 5), normal(7, 3 * 4 * 5, seed=1)
    layout = convert.flattened_linear(3, 4, 5)
    got = channels_last(x).reshape(2, -1) @ layout.to_ours(weight)
    np.testing.assert_allclose(got, x.reshape(2, -1) @ weight.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        (convert.IDENTITY, (2, 3, 4)),
        (convert.VECTOR, (3,)),
        (convert.LINEAR, (2, 3)),
        (convert.flattened_linear(2, 3, 5), (7, 30)),
        *((CONV[n], (2, 3, *KERNEL[n])) for n in CONV),
        *((DEPTHWISE[n], (2, 1, *KERNEL[n])) for n in CONV),
        *((TRANSPOSE[n], (2, 3, *KERNEL[n])) for n in CONV),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_each_layout_is_undone_by_its_inverse(layout, shape):
    array = normal(*shape)
    np.testing.assert_array_equal(layout.to_published(layout.to_ours(array)), array)


@pytest.mark.parametrize(
    ("layout", "shape", "message"),
    [
        (convert.CONV_2D, (2, 3, 4), "conv_2d takes 4 axes, not 3"),
        (convert.VECTOR, (2, 3), "vector takes 1 axes, not 2"),
        (convert.DEPTHWISE_2D, (2, 3, 4, 5), r"takes shape \(C, 1, ...\)"),
        (convert.flattened_linear(2, 3, 5), (7, 31), "takes 30 inputs"),
    ],
)
def test_a_layout_refuses_what_it_is_not_for(layout, shape, message):
    with pytest.raises(ValueError, match=message):
        layout.to_ours(normal(*shape))


@with_torch
@rank
def test_layouts_agree_with_torch_layers(rank):
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    x = normal(2, 4, *SPATIAL[rank])
    weights = {
        "conv": normal(5, 4, *KERNEL[rank], seed=1),
        "depthwise": normal(8, 1, *KERNEL[rank], seed=2),
        "transpose": normal(4, 5, *KERNEL[rank], seed=3),
    }
    tx, t = torch.tensor(x), {k: torch.tensor(v) for k, v in weights.items()}
    conv, transpose = getattr(f, f"conv{rank}d"), getattr(f, f"conv_transpose{rank}d")
    pairs = [
        (ours_conv(x, CONV[rank].to_ours(weights["conv"])), conv(tx, t["conv"])),
        (
            ours_conv(x, DEPTHWISE[rank].to_ours(weights["depthwise"]), 4),
            conv(tx, t["depthwise"], groups=4),
        ),
        (
            ours_conv_transpose(x, TRANSPOSE[rank].to_ours(weights["transpose"]), 1),
            transpose(tx, t["transpose"]),
        ),
    ]
    for got, want in pairs:
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-5)
