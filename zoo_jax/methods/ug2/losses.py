"""The losses of SRNet: likeness for a frozen network, and what a frozen recogniser makes of it."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def feature_loss(
    features: Float[Array, "b i j c"], truth: Float[Array, "b i j c"]
) -> Float[Array, "b"]:
    """Mean squared difference of features.

    Source: a participant's released code; features of VGG-16 behind the ReLU of conv2_2.

    >>> feature_loss(jnp.ones((2, 3, 4, 5)), jnp.zeros((2, 3, 4, 5))).tolist()
    [1.0, 1.0]
    """
    return jnp.mean(jnp.square(features - truth), axis=(1, 2, 3))


def class_loss(
    probabilities: Float[Array, "b n"],
    members: Float[Array, "k n"],
    target: Float[Array, "b k"],
) -> Float[Array, "b"]:
    r"""Squared distance of the probabilities of super-classes from what they should be.

    .. math:: \ell = \tfrac1K \sum_k \Big(\sum_{j \in S_k} p_j - t_k\Big)^2

    Args:
      probabilities: Of the recogniser's classes; they sum to 1.
      members: 1 where a class belongs to a super-class. A class may belong to several.
      target: 1 for the super-classes of the picture.

    Source: a participant's released code.

    >>> members = jnp.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> class_loss(jnp.array([[0.5, 0.25, 0.25]]), members, jnp.array([[1.0, 0.0]])).tolist()
    [0.0625]
    """
    return jnp.mean(jnp.square(probabilities @ members.T - target), axis=1)
