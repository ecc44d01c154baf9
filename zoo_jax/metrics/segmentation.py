"""Quality of segmentations: counts of true against predicted classes, and what follows from them."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def confusion_matrix(
    predicted: Int[Array, "b h w"], labels: Int[Array, "b h w"], *, num_classes: int
) -> Float[Array, "b k k"]:
    """How often each true class (row) was taken for each class (column), picture by picture.

    Pixels whose label is none of the classes, such as void (255), count nowhere. Add the pictures
    of a set up before dividing: the mean IoU of a set is not the mean of its pictures' IoUs.

    Args:
      predicted: Classes, 0 to `num_classes` - 1.
      labels: True classes; any other number is no class.
      num_classes: K.

    Returns:
      Counts of pixels; exact up to 2^24 pixels per picture.

    >>> counts = confusion_matrix(
    ...     jnp.array([[[0, 1, 1]]]), jnp.array([[[0, 0, 255]]]), num_classes=2)
    >>> counts.tolist()
    [[[1.0, 1.0], [0.0, 0.0]]]
    """
    # Out of range gives a row of zeros, also for negative numbers.
    rows, columns = (
        jax.nn.one_hot(x.reshape(x.shape[0], -1), num_classes)  # b (h w) k
        for x in (labels, predicted)
    )
    return jnp.einsum("bnk,bnl->bkl", rows, columns, precision="highest")


def class_iou(matrix: Float[np.ndarray, "*n k k"]) -> Float[np.ndarray, "*n k"]:
    """Intersection over union of each class.

    Args:
      matrix: Counts, see `confusion_matrix`.

    Returns:
      Values in [0, 1]; NaN for a class that is neither there nor predicted anywhere.

    >>> class_iou(np.array([[3.0, 1.0, 0], [0, 4.0, 0], [0, 0, 0]])).tolist()
    [0.75, 0.8, nan]
    """
    matrix = np.asarray(matrix, np.float64)
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    union = matrix.sum(-1) + matrix.sum(-2) - hits
    return np.where(union > 0, hits / np.where(union > 0, union, 1), np.nan)


def mean_iou(matrix: Float[np.ndarray, "*n k k"]) -> Float[np.ndarray, "*n"]:
    """Mean of `class_iou` over the classes that are there or predicted; NaN without any.

    >>> round(float(mean_iou(np.array([[3.0, 1.0, 0], [0, 4.0, 0], [0, 0, 0]]))), 3)
    0.775
    """
    iou = class_iou(matrix)
    there = ~np.isnan(iou)
    count = there.sum(-1)
    total = np.where(there, iou, 0.0).sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def pixel_accuracy(matrix: Float[np.ndarray, "*n k k"]) -> Float[np.ndarray, "*n"]:
    """Share of the labelled pixels whose class is right; NaN without a labelled pixel.

    >>> float(pixel_accuracy(np.array([[3.0, 1.0], [0.0, 4.0]])))
    0.875
    """
    matrix = np.asarray(matrix, np.float64)
    total = matrix.sum((-2, -1))
    hits = np.trace(matrix, axis1=-2, axis2=-1)
    return np.where(total > 0, hits / np.where(total > 0, total, 1), np.nan)


def class_counts(
    predicted: Int[Array, "b h w"], *, num_classes: int
) -> Float[Array, "b k"]:
    """How many pixels of each picture have each class.

    >>> class_counts(jnp.array([[[0, 1, 0]]]), num_classes=3).tolist()
    [[2.0, 1.0, 0.0]]
    """
    flat = predicted.reshape(predicted.shape[0], -1)
    return jnp.sum(jax.nn.one_hot(flat, num_classes), axis=1)


def usage_entropy(counts: Float[Array, "b k"]) -> Float[Array, ""]:
    """Entropy, in nats, of how often each class is predicted in a set of pictures.

    0 when one class is everywhere, log K when all are equally frequent. It shows the collapse of
    a segmentation that is trained without labels.

    Args:
      counts: From `class_counts`.

    >>> round(float(usage_entropy(jnp.array([[3.0, 0, 0], [1, 4, 0]]))), 4)         # log 2
    0.6931
    """
    total = jnp.sum(counts, axis=0)
    share = total / jnp.sum(total)
    return -jnp.sum(jax.scipy.special.xlogy(share, share))
