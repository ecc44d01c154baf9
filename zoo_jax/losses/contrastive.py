r"""Contrastive losses between two modalities, with a value for each pair of the batch.

The value of pair i holds its similarities to all others in both directions, so that the mean of
the values is the loss of the batch. Under `jax.jit` with arrays that are sharded over devices the
negatives are those of the whole batch; inside `jax.shard_map` give `axis_name`.

Source: arXiv 2104.11178, section 3.4 (noise-contrastive estimation, and its form for several
candidates of arXiv 1912.06430), and the released code of the former.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Form = Literal["asymmetric", "symmetric"]
_HIDDEN = 1e9  # taken off the similarity to a text that is not there


def nce(
    video: Float[Array, "b d"],
    audio: Float[Array, "b d"],
    mask: Bool[Array, "b"] | Float[Array, "b"] | None = None,
    *,
    temperature: float = 0.07,
    form: Form = "asymmetric",
    replicas: int = 1,
    axis_name: str | None = None,
) -> Float[Array, "b"]:
    r"""Noise-contrastive loss of pairs, e.g. of clips and their sound.

    With :math:`s_{ij}` the cosine of video i and audio j over the temperature, and `logsumexp`
    over one set of both rows and columns,

    .. math:: \ell_i = \log\Big(\sum_j e^{s_{ij}} + \sum_j e^{s_{ji}}\Big) - s_{ii}

    is the ``"asymmetric"`` form, which counts the pair itself twice: it does not fall below log 2.
    The ``"symmetric"`` form is the sum of two losses, one for rows and one for columns.

    Args:
      video: Embeddings, of any length.
      audio: Of what belongs to them.
      mask: 1 where there is an audio. Others are no negatives, and their pair has the value 0.
        The values of the rest are scaled up, so that their mean over the whole batch is a mean
        over those.
      temperature: Divides the cosines.
      form: See above.
      replicas: The batch counts as so many equal parts, in each of which values are scaled up by
        its own mask. The released code does so for each replica; with 1 it is the whole batch.
      axis_name: Of the mapped axis over which the batch is spread.

    Returns:
      One value per pair. An embedding of zeros is at right angles to all others and gets no
      gradient.

    Raises:
      ValueError: if the sizes do not fit each other.

    >>> two = jnp.eye(2)
    >>> print(nce(two, two).round(3))
    [0.693 0.693]
    """
    return mil_nce(
        video,
        audio[:, None],
        mask,
        temperature=temperature,
        form=form,
        replicas=replicas,
        axis_name=axis_name,
    )


def mil_nce(
    video: Float[Array, "b d"],
    text: Float[Array, "b l d"],
    mask: Bool[Array, "b"] | Float[Array, "b"] | None = None,
    *,
    temperature: float = 0.07,
    form: Form = "asymmetric",
    replicas: int = 1,
    axis_name: str | None = None,
) -> Float[Array, "b"]:
    r"""Noise-contrastive loss where each clip has several candidate texts.

    .. math::
        \ell_i = m_i \frac{b}{\sum_j m_j} \Big[ \log\Big(\sum_{jl} e^{s_{ij,l}}
        + \sum_{jl} e^{s_{ji,l}}\Big) - \log \sum_l e^{s_{ii,l}} \Big]

    Args:
      video: Embeddings of clips, of any length.
      text: Embeddings of the candidates of each.
      mask: 1 for clips that have text. If none has, all values and gradients are exactly 0.
      temperature: Divides the cosines.
      form: As in `nce`.
      replicas: As in `nce`.
      axis_name: As in `nce`.

    Returns:
      One value per clip.

    Raises:
      ValueError: if the sizes do not fit each other.

    >>> clips, texts = jnp.eye(3), jnp.stack([jnp.eye(3)] * 2, axis=1)
    >>> print(mil_nce(clips, texts, jnp.array([1, 0, 0])).round(3))
    [2.079 0.    0.   ]
    """
    b, d = video.shape
    if text.shape[0] != b or text.shape[2] != d:
        raise ValueError(f"{video.shape} clips do not go with {text.shape} texts")
    video, text = _unit(video), _unit(text)
    mask = jnp.ones(b) if mask is None else mask.astype(jnp.float32)
    if axis_name is None:
        videos, texts, seen, start = video, text, mask, 0
    else:
        # The transpose of all_gather sums what other devices ask of our embeddings.
        videos, texts, seen = (
            jax.lax.all_gather(x, axis_name, tiled=True) for x in (video, text, mask)
        )
        start = jax.lax.axis_index(axis_name) * b
    rows = jnp.einsum("id,jld->ijl", video, texts) / temperature
    if axis_name is None:
        columns = rows.swapaxes(0, 1)
    else:
        columns = jnp.einsum("jd,ild->ijl", videos, text) / temperature
    rows = rows - _HIDDEN * (1 - seen)[None, :, None]
    own = jax.vmap(lambda row, i: row[start + i])(rows, jnp.arange(b))
    positive = jax.nn.logsumexp(own, axis=-1)
    row, column = (jax.nn.logsumexp(x, axis=(1, 2)) for x in (rows, columns))
    if form == "asymmetric":
        values = jnp.logaddexp(row, column) - positive
    else:
        values = (row - positive) + (column - positive)
    # Of a pair that does not count: a constant, so that no huge number meets a zero.
    values = jnp.where(mask > 0, values, 0.0)
    return values * mask * _scale(mask, seen, start, replicas)


def _scale(
    mask: Float[Array, "b"], seen: Float[Array, "n"], start: Array | int, replicas: int
) -> Float[Array, "b"] | Float[Array, ""]:
    """Size of a replica over the sum of its mask, for each pair."""
    if len(seen) % replicas:
        raise ValueError(f"{len(seen)} pairs do not make {replicas} equal replicas")
    parts = seen.reshape(replicas, -1)
    scale = parts.shape[1] / jnp.maximum(parts.sum(1), 1e-9)
    every = jnp.repeat(scale, parts.shape[1])
    return jax.lax.dynamic_slice_in_dim(every, start, len(mask))


def _unit(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Vectors of length one, in float32; zero stays zero and has no gradient."""
    x = x.astype(jnp.float32)
    square = jnp.sum(x * x, -1, keepdims=True)
    zero = square < 1e-24  # a length of 1e-12
    return jnp.where(zero, 0.0, x * jax.lax.rsqrt(jnp.where(zero, 1.0, square)))
