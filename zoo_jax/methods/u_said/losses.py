"""The losses of U-SAID: noise estimation, and how certain a segmentation network is."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

IGNORE = 255  # label of pixels that no class claims
_EPS = 1e-7  # keeps log(0) out; with it a certainty of exactly 1 has no gradient


def noise_loss(
    estimate: Float[Array, "b h w c"], noise: Float[Array, "b h w c"]
) -> Float[Array, "b"]:
    r"""Half the squared error of a noise estimate, summed over pixels and channels.

    .. math:: \ell_i = \tfrac12 \lVert r_i - n_i \rVert^2

    The scale matters: the balance with the uncertainty loss depends on it, and on the size of
    the patch. At 31.5 dB a 48x48 patch gives about 2.4.

    Args:
      estimate: What the network takes for noise.
      noise: The noise that was added, in units of [0, 1].

    Source: arXiv 1905.08965, released code.

    >>> noise_loss(jnp.ones((2, 3, 5, 1)), jnp.zeros((2, 3, 5, 1))).tolist()
    [7.5, 7.5]
    """
    return 0.5 * jnp.sum(jnp.square(estimate - noise), axis=(1, 2, 3))


def focal_argmax_loss(
    logits: Float[Array, "b h w k"], *, gamma: float = 2.0
) -> Float[Array, "b"]:
    r"""Focal loss of a prediction against its own most probable class, mean over pixels.

    .. math:: \ell = \operatorname{mean}_{hw} -(1 - m)^\gamma \log m, \quad m = \max_k q_k

    with q the softmax of the logits and m kept within [1e-7, 1 - 1e-7]. Which class is the most
    probable is not differentiated; of equal ones the lowest counts. It is 0 where the network
    is sure of any class, right or wrong: with a *trainable* segmentation head, one class
    everywhere is optimal.

    Args:
      logits: Any real values; K classes, at least 2.
      gamma: 0 gives -log m; larger values care less for what is nearly certain.

    Source: arXiv 1905.08965, released code. The paper's own formula is not known to us.

    >>> loss = focal_argmax_loss(jnp.zeros((1, 2, 3, 21)))      # (1 - 1/21)^2 log 21
    >>> round(float(loss[0]), 5)
    2.76147
    """
    _require_classes(logits)
    winner = jax.lax.stop_gradient(jnp.argmax(logits, axis=-1))
    return jnp.mean(_focal(logits, winner, gamma), axis=(1, 2))


def entropy_loss(logits: Float[Array, "b h w k"]) -> Float[Array, "b"]:
    r"""Entropy of a prediction in nats, mean over pixels: -sum_k q_k log q_k.

    Ours, beside `focal_argmax_loss`: what "pixel-wise uncertainty" would mean elsewhere.

    Args:
      logits: Any real values; K classes, at least 2.

    >>> round(float(entropy_loss(jnp.zeros((1, 2, 3, 21)))[0]), 4)           # log 21
    3.0445
    """
    _require_classes(logits)
    log_q = jax.nn.log_softmax(logits, axis=-1)
    return jnp.mean(-jnp.sum(jnp.exp(log_q) * log_q, axis=-1), axis=(1, 2))


def focal_loss(
    logits: Float[Array, "b h w k"], labels: Int[Array, "b h w"], *, gamma: float = 2.0
) -> Float[Array, "b"]:
    """Focal loss against true classes, mean over the pixels that have one.

    An image without such a pixel has the loss 0.

    Args:
      logits: Any real values; K classes, at least 2.
      labels: 0..K-1, or `IGNORE`.
      gamma: As in `focal_argmax_loss`.

    Source: arXiv 1905.08965, the supervised twin S-SAID; its form is inferred from the
    released code for training the segmentation network.

    >>> labels = jnp.array([[[0, 255]]])
    >>> round(float(focal_loss(jnp.zeros((1, 1, 2, 21)), labels)[0]), 5)
    2.76147
    """
    _require_classes(logits)
    known = (labels != IGNORE).astype(jnp.float32)
    losses = _focal(logits, jnp.where(labels == IGNORE, 0, labels), gamma)
    count = jnp.maximum(jnp.sum(known, axis=(1, 2)), 1.0)
    return jnp.sum(losses * known, axis=(1, 2)) / count


def shrink_labels(
    labels: Int[Array, "b h w"], height: int, width: int
) -> Int[Array, "b i j"]:
    """Nearest-neighbour resize: the label under the centre of each new pixel.

    >>> shrink_labels(jnp.arange(8)[None, None], 1, 2).tolist()
    [[[2, 6]]]
    """
    rows, columns = (
        jnp.floor((jnp.arange(new) + 0.5) * (old / new)).astype(jnp.int32)
        for new, old in ((height, labels.shape[1]), (width, labels.shape[2]))
    )
    return labels[:, rows][:, :, columns]


UNCERTAINTIES: dict[str, Callable[..., Array]] = {
    "entropy": entropy_loss,
    "focal_argmax": focal_argmax_loss,
}


def _focal(logits: Array, labels: Array, gamma: float) -> Array:
    q = jax.nn.softmax(logits, axis=-1)
    own = jnp.take_along_axis(q, labels[..., None], axis=-1)[..., 0]
    m = jnp.clip(own, _EPS, 1 - _EPS)
    return -((1 - m) ** gamma) * jnp.log(m)


def _require_classes(logits: Array) -> None:
    if logits.shape[-1] < 2:
        raise ValueError(
            f"uncertainty needs 2 classes or more, got {logits.shape[-1]}: one class is "
            "always certain"
        )
