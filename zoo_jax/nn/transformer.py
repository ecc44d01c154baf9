"""Transformer encoders of VATT: the usual pre-norm one, and the one of its text model.

One `Encoder` serves both. The text model differs in four switches: scores are not divided by
the root of the head width, a relative position bias is added to them, the norms before
attention and at the end are root-mean-square norms, and dense layers have no bias.

Sources: arXiv 2104.11178, section 3; arXiv 1910.10683, section 2.1 (text); released code of the
former. The released code has the exact GELU, not its tanh approximation.
"""

import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

Activation = Literal["gelu", "relu"]
ACTIVATIONS = {"gelu": functools.partial(nn.gelu, approximate=False), "relu": nn.relu}
HIDDEN = -1e9  # added to the scores of keys that may not be seen
EPSILON = 1e-6  # of all norms

dense_init = nn.initializers.glorot_uniform()


def dense(features: int, *, bias: bool, dtype: DTypeLike, name: str) -> nn.Dense:
    """A dense layer with the initialisation of the released code."""
    return nn.Dense(
        features, use_bias=bias, kernel_init=dense_init, dtype=dtype, name=name
    )


def layer_norm(*, dtype: DTypeLike, name: str) -> nn.LayerNorm:
    """Layer norm; the variance is computed from centred values, as in the released code."""
    return nn.LayerNorm(EPSILON, dtype=dtype, use_fast_variance=False, name=name)


class MultiHeadAttention(nn.Module):
    """Attention of a sequence to itself; the weights are sown as ``intermediates/weights``.

    Attributes:
      num_heads: Heads.
      d_kv: Width of a head.
      use_bias: Whether the four dense layers have one.
      scaled: Whether scores are divided by the root of `d_kv`.
      dropout_rate: Of the attention weights.
      dtype: Compute dtype; the softmax is in float32.
    """

    num_heads: int
    d_kv: int = 64
    use_bias: bool = True
    scaled: bool = True
    dropout_rate: float = 0.1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        bias: Float[Array, "#b #h #n n"] | None,
        train: bool,
    ) -> Float[Array, "b n d"]:
        """Adds `bias` to the scores and attends."""
        heads = (self.num_heads, self.d_kv)

        def project(features: int, name: str):
            return dense(features, bias=self.use_bias, dtype=self.dtype, name=name)

        q, k, v = (
            project(self.num_heads * self.d_kv, name)(x).reshape(*x.shape[:2], *heads)
            for name in ("q", "k", "v")
        )
        if self.scaled:
            q = q * self.d_kv**-0.5
        scores = jnp.einsum("bqhc,bkhc->bhqk", q, k, preferred_element_type=jnp.float32)
        if bias is not None:
            scores = scores + bias
        weights = jax.nn.softmax(scores).astype(self.dtype)
        self.sow("intermediates", "weights", weights)
        weights = nn.Dropout(self.dropout_rate)(weights, deterministic=not train)
        y = jnp.einsum("bhqk,bkhc->bqhc", weights, v).reshape(*x.shape[:2], -1)
        return project(x.shape[-1], "o")(y)


class FeedForward(nn.Module):
    """Two dense layers with a nonlinearity between them.

    Attributes:
      d_ff: Width between the layers.
      use_bias: Whether both have one.
      activation: ``"gelu"`` (exact) or ``"relu"``.
      dropout_rate: Of what is between the layers.
      dtype: Compute dtype.
    """

    d_ff: int
    use_bias: bool = True
    activation: Activation = "gelu"
    dropout_rate: float = 0.1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], train: bool) -> Float[Array, "b n d"]:
        """Applies the layers to each token."""
        options = dict(bias=self.use_bias, dtype=self.dtype)
        y = ACTIVATIONS[self.activation](dense(self.d_ff, **options, name="wi")(x))
        y = nn.Dropout(self.dropout_rate)(y, deterministic=not train)
        return dense(x.shape[-1], **options, name="wo")(y)


class EncoderLayer(nn.Module):
    """Attention, then the feed-forward layers, each with a norm around a shortcut.

    Attributes:
      d_ff: Width of the feed-forward layers.
      num_heads: Heads.
      d_kv: Width of a head.
      pre_norm: Norms stand before attention and feed-forward layers, or after the shortcuts.
      rms_norm: The norm of attention has a scale only and takes no mean off.
      use_bias: Whether dense layers have one.
      scaled: Whether scores are divided by the root of `d_kv`.
      activation: Of the feed-forward layers.
      dropout_rate: Everywhere.
      dtype: Compute dtype.
    """

    d_ff: int
    num_heads: int
    d_kv: int = 64
    pre_norm: bool = True
    rms_norm: bool = False
    use_bias: bool = True
    scaled: bool = True
    activation: Activation = "gelu"
    dropout_rate: float = 0.1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        bias: Float[Array, "#b #h #n n"] | None,
        train: bool,
    ) -> Float[Array, "b n d"]:
        """Returns the sequence after the layer."""
        attention = MultiHeadAttention(
            num_heads=self.num_heads,
            d_kv=self.d_kv,
            use_bias=self.use_bias,
            scaled=self.scaled,
            dropout_rate=self.dropout_rate,
            dtype=self.dtype,
            name="mha",
        )
        feed_forward = FeedForward(
            d_ff=self.d_ff,
            use_bias=self.use_bias,
            activation=self.activation,
            dropout_rate=self.dropout_rate,
            dtype=self.dtype,
            name="mlp",
        )
        attention_norm = _norm(self.rms_norm, self.dtype, "attention_norm")
        mlp_norm = layer_norm(dtype=self.dtype, name="mlp_norm")
        drop = nn.Dropout(self.dropout_rate, deterministic=not train)
        if self.pre_norm:
            x = x + drop(attention(attention_norm(x), bias, train))
            return x + drop(feed_forward(mlp_norm(x), train))
        x = attention_norm(x + drop(attention(x, bias, train)))
        return mlp_norm(x + drop(feed_forward(x, train)))


class Encoder(nn.Module):
    """A stack of encoder layers; pre-norm stacks end in a norm and a dropout.

    Attributes:
      num_layers: Layers.
      d_ff: Width of the feed-forward layers.
      num_heads: Heads.
      d_kv: Width of a head.
      pre_norm: As in `EncoderLayer`.
      rms_norm: As in `EncoderLayer`; also of the norm at the end.
      use_bias: Whether dense layers have one.
      scaled: Whether scores are divided by the root of `d_kv`.
      activation: Of the feed-forward layers.
      relative_buckets: Rows of a table of relative position biases that all layers share;
        None: no such bias.
      relative_distance: Tokens farther apart than this share the outermost bucket.
      dropout_rate: Everywhere.
      remat: Layers keep their inputs only and are computed again in the backward pass.
      scan: Layers are compiled once and run in a loop. Parameters keep their layout: they are
        stacked when the network is run, which copies them. Inner outputs cannot be captured,
        and dropout draws other numbers than the unrolled stack.
      dtype: Compute dtype.
    """

    num_layers: int
    d_ff: int
    num_heads: int
    d_kv: int = 64
    pre_norm: bool = True
    rms_norm: bool = False
    use_bias: bool = True
    scaled: bool = True
    activation: Activation = "gelu"
    relative_buckets: int | None = None
    relative_distance: int = 64
    dropout_rate: float = 0.1
    remat: bool = False
    scan: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        mask: Float[Array, "b n"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "b n d"]:
        """Encodes a sequence.

        Args:
          x: Tokens, with their positions already added.
          mask: 1 where a token may be seen, 0 where it is padding.
          train: Whether to drop out (stream ``"dropout"``).
        """
        bias = None if mask is None else (1.0 - mask)[:, None, None, :] * HIDDEN
        if self.relative_buckets is not None:
            relative = RelativeBias(
                self.relative_buckets,
                self.relative_distance,
                self.num_heads,
                name="relative_bias",
            )(x.shape[1])
            bias = relative if bias is None else relative + bias
        options = dict(
            d_ff=self.d_ff,
            num_heads=self.num_heads,
            d_kv=self.d_kv,
            pre_norm=self.pre_norm,
            rms_norm=self.rms_norm,
            use_bias=self.use_bias,
            scaled=self.scaled,
            activation=self.activation,
            dropout_rate=self.dropout_rate,
            dtype=self.dtype,
        )
        x = x.astype(self.dtype)
        if self.scan and not self.is_initializing():
            x = self._scan(EncoderLayer(**options, parent=None), x, bias, train)
        else:
            # 3: `train`, counted from `self`.
            kind = (
                nn.remat(EncoderLayer, static_argnums=3) if self.remat else EncoderLayer
            )
            for i in range(self.num_layers):
                x = kind(**options, name=f"layer_{i}")(x, bias, train)
        if self.pre_norm:
            x = _norm(self.rms_norm, self.dtype, "final_norm")(x)
            x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)
        return x

    def _scan(self, layer: EncoderLayer, x: Array, bias: Array | None, train: bool):
        own = self.variables["params"]
        params = [own[f"layer_{i}"] for i in range(self.num_layers)]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
        drops = train and self.dropout_rate > 0
        keys = (
            jax.random.split(self.make_rng("dropout"), self.num_layers)
            if drops
            else None
        )

        def body(x: Array, inputs: tuple[Any, Any]) -> tuple[Array, None]:
            params, key = inputs
            rngs = {"dropout": key} if drops else None
            return layer.apply({"params": params}, x, bias, train, rngs=rngs), None

        body = jax.checkpoint(body) if self.remat else body
        return jax.lax.scan(body, x, (stacked, keys))[0]


class RelativeBias(nn.Module):
    """A learned bias per head and bucket of the distance between two tokens."""

    buckets: int
    distance: int
    num_heads: int

    @nn.compact
    def __call__(self, length: int) -> Float[Array, "1 h n n"]:
        """The biases of a sequence of this length."""
        # The initialisation of Keras embeddings.
        init = nn.initializers.uniform(0.1)
        table = self.param(
            "table",
            lambda *args: init(*args) - 0.05,
            (self.buckets, self.num_heads),
            jnp.float32,
        )
        offsets = np.arange(length)[None, :] - np.arange(length)[:, None]  # key - query
        index = relative_bucket(offsets, buckets=self.buckets, distance=self.distance)
        return table[index].transpose(2, 0, 1)[None]


def relative_bucket(
    offsets: Int[np.ndarray, "*n"], *, buckets: int, distance: int
) -> Int[np.ndarray, "*n"]:
    """The bucket of a distance, in both directions.

    Half of the buckets are for keys after the query. Of each half, the first half holds one
    distance per bucket, the others grow logarithmically up to `distance`.

    Args:
      offsets: Position of the key minus that of the query.
      buckets: An even number.
      distance: From here on, all distances share the last bucket.

    Source: arXiv 1910.10683, section 2.1.

    >>> relative_bucket(np.array([-70, -9, -1, 0, 1, 9, 70]), buckets=32, distance=64)
    array([15,  8,  1,  0, 17, 24, 31])
    """
    half = buckets // 2
    exact = half // 2
    far = np.abs(offsets)
    # float32, as in the released code: buckets begin where its rounding puts them.
    with np.errstate(divide="ignore"):
        log = np.log(far.astype(np.float32) / np.float32(exact))
    scale = np.float32(np.log(distance / exact))
    grown = exact + np.where(far > 0, log / scale * np.float32(half - exact), 0).astype(
        int
    )
    bucket = np.where(far < exact, far, np.minimum(grown, half - 1))
    return bucket + np.where(offsets > 0, half, 0)


def _norm(rms: bool, dtype: DTypeLike, name: str) -> nn.Module:
    if rms:
        return nn.RMSNorm(EPSILON, dtype=dtype, name=name)
    return layer_norm(dtype=dtype, name=name)
