"""3x3 convolutions of upsampled maps, without making those maps.

Each class describes what such a convolution sees: `whole` makes it, `convolve` is the
convolution of it with zero padding 1. After nearest upsampling by two, an output pixel sees only 2x2
different pixels: one of four 2x2 kernels, by the parity of its row and column, does the work
of the 3x3 kernel in 4/9 of the multiply-adds. On a CPU that is what it takes. Accelerators get
the plain operations; see `zoo_jax.core.forms`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from zoo_jax.core.forms import by_backend
from zoo_jax.nn.conv import symmetric_uniform
from zoo_jax.nn.resize import Pad, reflect_pad, upsample_nearest


class Plain(NamedTuple):
    """A map as it is."""

    x: Float[Array, "b h w c"]

    def whole(self) -> Float[Array, "b h w c"]:
        """The map."""
        return self.x

    def convolve(self, kernel: Float[Array, "3 3 c d"]) -> Float[Array, "b h w d"]:
        """Its convolution."""
        return _conv(self.x, kernel)


class Upsampled(NamedTuple):
    """A map upsampled by two."""

    x: Float[Array, "b h w c"]

    def whole(self) -> Float[Array, "b 2*h 2*w c"]:
        """The upsampled map."""
        return upsample_nearest(self.x, 2)

    def convolve(self, kernel: Float[Array, "3 3 c d"]) -> Float[Array, "b 2*h 2*w d"]:
        """Its convolution."""
        return by_backend(
            self.x,
            kernel,
            cpu=_subpixel,
            native=lambda x, kernel: _conv(upsample_nearest(x, 2), kernel),
        )


class Merged(NamedTuple):
    """A 1x1 convolution of a fine map plus an upsampled coarse map: a step down a pyramid."""

    fine: Float[Array, "b _ _ a"]
    lateral: Float[Array, "1 1 a c"]  # kernel of the 1x1 convolution
    coarse: Float[Array, "b h w c"]
    pad: Pad = Pad()  # mirrored borders that bring the fine map to twice the coarse one

    def whole(self) -> Float[Array, "b 2*h 2*w c"]:
        """The sum."""
        lateral = _conv(self.fine, self.lateral)
        return _mirror(lateral, self.pad) + upsample_nearest(self.coarse, 2)

    def convolve(self, kernel: Float[Array, "3 3 c d"]) -> Float[Array, "b 2*h 2*w d"]:
        """Its convolution."""
        inner, (middle, outer) = self.lateral.shape[2], kernel.shape[2:]
        # Per pixel: both kernels as one, and 2x2 taps; or one after the other, and 3x3 taps.
        if outer * (9 * inner + 4 * middle) > middle * (inner + 9 * outer):
            return _conv(self.whole(), kernel)

        def parts(fine: Array, lateral: Array, coarse: Array, kernel: Array) -> Array:
            both = jnp.einsum("ac,ijcd->ijad", lateral[0, 0], kernel)
            # The 1x1 convolution has no bias, so it commutes with mirroring and zero padding.
            return _conv(_mirror(fine, self.pad), both) + _subpixel(coarse, kernel)

        return by_backend(
            *(self.fine, self.lateral, self.coarse, kernel),
            cpu=parts,
            native=lambda fine, lateral, coarse, kernel: _conv(
                Merged(fine, lateral, coarse, self.pad).whole(), kernel
            ),
        )


class Pyramid(NamedTuple):
    """Maps of one pyramid, side by side in their channels at the size of the finest."""

    maps: Sequence[
        Float[Array, "b _ _ c"]
    ]  # from the coarsest, each twice the one before

    def whole(self) -> Float[Array, "b h w _"]:
        """All upsampled and concatenated."""
        return _level(self.maps)

    def convolve(self, kernel: Float[Array, "3 3 _ d"]) -> Float[Array, "b h w d"]:
        """Its convolution."""

        def parts(maps: Sequence[Array], kernel: Array) -> Array:
            # All but the finest are upsampled by two together, in the end.
            coarse = _level(maps[:-1])
            split = coarse.shape[-1]
            finest = _conv(maps[-1], kernel[:, :, split:])
            return finest + _subpixel(coarse, kernel[:, :, :split])

        return by_backend(
            tuple(self.maps),
            kernel,
            cpu=parts,
            native=lambda maps, kernel: _conv(_level(maps), kernel),
        )


Seen = Plain | Upsampled | Merged | Pyramid


class Conv3(nn.Module):
    """A 3x3 convolution with zero padding 1 and the parameters of `zoo_jax.nn.conv.conv`.

    Attributes:
      features: Output channels.
      bias: Whether there is one.
      dtype: Compute dtype.
    """

    features: int
    bias: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, seen: Seen) -> Float[Array, "b h w d"]:
        """Applies it to what it sees, which is in the compute dtype."""
        channels = jax.eval_shape(seen.whole).shape[-1]
        init = symmetric_uniform((9 * channels) ** -0.5)
        shape = (3, 3, channels, self.features)
        kernel = self.param("kernel", init, shape, jnp.float32)
        y = seen.convolve(kernel.astype(self.dtype))
        if not self.bias:
            return y
        bias = self.param("bias", init, shape[-1:], jnp.float32)
        return y + bias.astype(self.dtype).reshape(1, 1, 1, -1)


class LateralKernel(nn.Module):
    """The kernel of a 1x1 convolution without bias, for `Merged`."""

    inputs: int
    features: int

    @nn.compact
    def __call__(self) -> Float[Array, "1 1 a c"]:
        """Returns it in float32."""
        init = symmetric_uniform(self.inputs**-0.5)
        shape = (1, 1, self.inputs, self.features)
        return self.param("kernel", init, shape, jnp.float32)


def conv_transpose(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b 2*h 2*w d"]:
    """The transposed 3x3 convolution of stride 2 that doubles a map.

    PyTorch's with padding 1 and output padding 1; the kernel is in flax's layout, which is not
    flipped: entry (2, 2) carries an input pixel to the output pixel up and left of its own four.
    """

    def phases(x: Array, kernel: Array) -> Array:
        # Output rows of even number see one kernel row and one input row; odd ones see two.
        return _interleave(
            [
                [
                    _conv(x, kernel[r][:, c], ((0, a), (0, b)))
                    for b, c in enumerate(_CUTS)
                ]
                for a, r in enumerate(_CUTS)
            ]
        )

    return by_backend(
        x,
        kernel,
        cpu=phases,
        native=lambda x, kernel: jax.lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            ((1, 2), (1, 2)),
            lhs_dilation=(2, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ),
        portable=phases,  # jax2onnx 0.13 drops the dilation of the input
    )


# Kernel rows (columns) that reach output rows of even number, and of odd number.
_CUTS = (slice(1, 2), slice(0, 3, 2))


class ConvTranspose3(nn.Module):
    """`conv_transpose` and a bias, drawn as PyTorch does: by the number of outputs."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w d"]:
        """Applies both."""
        init = symmetric_uniform((9 * self.features) ** -0.5)
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", init, shape, jnp.float32)
        bias = self.param("bias", init, shape[-1:], jnp.float32)
        y = conv_transpose(x.astype(self.dtype), kernel.astype(self.dtype))
        return y + bias.astype(self.dtype).reshape(1, 1, 1, -1)


def _conv(x: Array, kernel: Array, padding=None) -> Array:
    rows, columns = kernel.shape[0] // 2, kernel.shape[1] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        padding or ((rows, rows), (columns, columns)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _mirror(x: Array, pad: Pad) -> Array:
    return reflect_pad(x, pad) if any(pad) else x


def _level(maps: Sequence[Array]) -> Array:
    last = len(maps) - 1
    return jnp.concatenate(
        [
            upsample_nearest(x, 2 ** (last - i)) if i < last else x
            for i, x in enumerate(maps)
        ],
        -1,
    )


def _subpixel(x: Array, kernel: Array) -> Array:
    """Convolution of a map upsampled by two: one 2x2 kernel per parity of row and column."""

    def halves(k: Array) -> tuple[Array, Array]:
        """Along the first axis: taps of an even and of an odd output row, two each."""
        return jnp.stack([k[0], k[1] + k[2]]), jnp.stack([k[0] + k[1], k[2]])

    def columns(k: Array) -> list[Array]:
        return [jnp.swapaxes(half, 0, 1) for half in halves(jnp.swapaxes(k, 0, 1))]

    return _interleave(
        [
            [_conv(x, k, ((1 - a, a), (1 - b, b))) for b, k in enumerate(columns(half))]
            for a, half in enumerate(halves(kernel))
        ]
    )


def _interleave(phases: list[list[Array]]) -> Array:
    """Four maps, by parity of row and column, as one of twice the size."""
    b, h, w, c = phases[0][0].shape
    rows = jnp.stack([jnp.stack(row, 3) for row in phases], 2)  # b h 2 w 2 c
    return rows.reshape(b, 2 * h, 2 * w, c)
