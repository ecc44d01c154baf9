"""Measures of single-label classification, one value per example."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def correct(
    logits: Float[Array, "b k"], labels: Int[Array, "b"], *, top: int = 1
) -> Float[Array, "b"]:
    """Whether the label is among the `top` largest logits.

    A class whose logit equals that of the label counts as ranked before it if its index is
    lower, so that constant logits do not score. An example with a NaN is wrong.

    Args:
      logits: Any real values.
      labels: In 0..k-1.
      top: How many guesses are allowed.

    Returns:
      1.0 or 0.0 per example; its mean is the accuracy.

    >>> logits = jnp.array([[0.1, 0.7, 0.2], [0.5, 0.1, 0.4]])
    >>> correct(logits, jnp.array([1, 2])).tolist()
    [1.0, 0.0]
    >>> correct(logits, jnp.array([1, 2]), top=2).tolist()
    [1.0, 1.0]
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)  # b 1
    index = jnp.arange(logits.shape[1])[None]
    before = (logits > own) | ((logits == own) & (index < labels[:, None]))
    finite = ~jnp.any(jnp.isnan(logits), axis=1)
    return (finite & (jnp.sum(before, axis=1) < top)).astype(jnp.float32)


def negative_log_likelihood(
    logits: Float[Array, "b k"], labels: Int[Array, "b"]
) -> Float[Array, "b"]:
    """Negative log-probability of the label under softmax, in nats.

    Args:
      logits: Any real values.
      labels: In 0..k-1.

    >>> nll = negative_log_likelihood(jnp.zeros((1, 4)), jnp.array([2]))
    >>> round(float(nll[0]), 4)                                       # log 4
    1.3863
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=1)
    return -jnp.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]
