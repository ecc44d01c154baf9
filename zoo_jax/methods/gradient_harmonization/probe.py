"""Probes: how much of a label a simple classifier reads from frozen features.

A fit returns a function of features [n, d] to scores [n, classes]; `probe_accuracy` averages them
over the windows of a clip.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.core.types import Key

Scores = Callable[[Float[np.ndarray, "n d"]], Float[np.ndarray, "n k"]]


def probe_accuracy(
    scores: Scores,
    features: Float[np.ndarray, "n w d"],
    labels: Int[np.ndarray, "n"],
) -> float:
    """Share of clips whose label has the highest score, the mean over their w windows.

    Equal scores never count as right where a class before the label has them too.
    """
    n, w, d = features.shape
    per_window = np.asarray(scores(features.reshape(n * w, d))).reshape(n, w, -1)
    return float(np.mean(per_window.mean(axis=1).argmax(axis=1) == labels))


def ridge_probe(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, "n"],
    *,
    classes: int,
    strength: float = 1.0,
) -> Scores:
    """Ridge regression of one-hot labels on standardised features, in float64.

    Args:
      features: Of the training examples. A feature without spread is left out.
      labels: In 0..classes-1.
      classes: How many there are.
      strength: Penalty on the squared weights, per example.

    Raises:
      DataError: for features that are not finite.
    """
    features = _checked(features)
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    # Relative: a constant column is not one of rounding noise blown up.
    used = deviation > 1e-9 * np.maximum(np.abs(mean), 1)
    scale = np.where(used, 1 / np.where(used, deviation, 1), 0)
    x = (features - mean) * scale
    y = np.eye(classes)[labels]
    gram = x.T @ x + strength * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x.T @ (y - y.mean(axis=0)))
    return lambda z: (
        (np.asarray(z, np.float64) - mean) * scale @ weights + y.mean(axis=0)
    )


def svm_probe(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, "n"],
    *,
    classes: int,
    c: float = 6e-5,
) -> Scores:
    """A linear support vector machine of scikit-learn, one class against the rest.

    Args:
      features: As they are: `c` is meant for features of that size.
      labels: In 0..classes-1; every class must occur.
      classes: How many there are.
      c: Weight of the errors. Source of the default: VATT's released evaluation code.

    Raises:
      ConfigError: without scikit-learn.
      DataError: for features that are not finite, or a class that does not occur.
    """
    try:
        from sklearn.svm import LinearSVC
    except ModuleNotFoundError:
        raise ConfigError(
            'the SVM probe needs scikit-learn: pip install "zoo-jax[samples]"'
        ) from None
    features = _checked(features)
    if len(np.unique(labels)) != classes:
        raise DataError(
            f"the SVM probe has examples of {len(np.unique(labels))} of {classes} classes"
        )
    machine = LinearSVC(C=c, random_state=0).fit(features, labels)

    def scores(z: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n k"]:
        found = machine.decision_function(np.asarray(z, np.float64))
        return found if found.ndim == 2 else np.stack([-found, found], axis=1)

    return scores


def low_rank_probe(
    key: Key,
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, "n"],
    *,
    classes: int,
    hidden: int = 128,
    dropout: float = 0.9,
    decay: float = 0.1,
    lr: float = 5e-4,
    batch_size: int = 64,
    epochs: int = 1000,
) -> Scores:
    """Two dense layers without a nonlinearity between them, trained by Adam.

    Dropout lies between the layers; `decay` times the squared weights of the second is added to
    the cross-entropy. All defaults are those of VATT's released evaluation code.

    Args:
      key: Start, order and dropout.
      features: Of the training examples.
      labels: In 0..classes-1.
      classes: How many there are.
      hidden: Width between the two layers.
      dropout: Share of it that is dropped in training.
      decay: Penalty of the second kernel.
      lr: Learning rate.
      batch_size: The last batch of an epoch may be smaller.
      epochs: How many.

    Returns:
      Features to probabilities.

    Raises:
      DataError: for features that are not finite.
    """
    x = jnp.asarray(_checked(features), jnp.float32)
    params = _train_low_rank(
        key,
        x,
        jnp.asarray(labels),
        classes=classes,
        hidden=hidden,
        dropout=dropout,
        decay=decay,
        lr=lr,
        batch_size=min(batch_size, len(x)),
        epochs=epochs,
    )
    return lambda z: np.asarray(
        jax.nn.softmax(_low_rank(params, jnp.asarray(z, jnp.float32), None, 0.0))
    )


def _checked(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    features = np.asarray(features, np.float64)
    bad = int(np.sum(~np.isfinite(features).all(axis=1)))
    if bad:
        raise DataError(
            f"{bad} of {len(features)} examples have features that are not finite"
        )
    return features


def _low_rank(params, x, key, dropout):
    x = x @ params["projection"]["kernel"] + params["projection"]["bias"][None]
    if key is not None:
        kept = jax.random.bernoulli(key, 1 - dropout, x.shape)
        x = jnp.where(kept, x / (1 - dropout), 0)
    return x @ params["classes"]["kernel"] + params["classes"]["bias"][None]


@functools.partial(
    jax.jit,
    static_argnames=(
        "classes",
        "hidden",
        "dropout",
        "decay",
        "lr",
        "batch_size",
        "epochs",
    ),
)
def _train_low_rank(
    key, x, labels, *, classes, hidden, dropout, decay, lr, batch_size, epochs
):
    glorot = jax.nn.initializers.glorot_normal()
    start, orders, drops = jax.random.split(key, 3)
    first, second = jax.random.split(start)
    params = {
        "projection": {
            "kernel": glorot(first, (x.shape[1], hidden)),
            "bias": jnp.zeros(hidden),
        },
        "classes": {
            "kernel": glorot(second, (hidden, classes)),
            "bias": jnp.zeros(classes),
        },
    }
    tx = optax.adam(lr, eps=1e-7)
    n, per_epoch = len(x), -(-len(x) // batch_size)

    def loss(params, rows, key):
        inside = jnp.minimum(rows, n - 1)
        logits = _low_rank(params, x[inside], key, dropout)
        # Rows behind the end fill the last batch up and do not count.
        counts = (rows < n).astype(jnp.float32)
        entropy = optax.softmax_cross_entropy_with_integer_labels(
            logits, labels[inside]
        )
        penalty = decay * jnp.sum(jnp.square(params["classes"]["kernel"]))
        return jnp.sum(counts * entropy) / jnp.sum(counts) + penalty

    def epoch(carry, number):
        order = jax.random.permutation(jax.random.fold_in(orders, number), n)
        order = jnp.pad(order, (0, per_epoch * batch_size - n), constant_values=n)

        def step(carry, batch):
            params, state = carry
            index, rows = batch
            key = jax.random.fold_in(drops, number * per_epoch + index)
            grads = jax.grad(loss)(params, rows, key)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        rows = order.reshape(per_epoch, batch_size)
        return jax.lax.scan(step, carry, (jnp.arange(per_epoch), rows))

    (params, _), _ = jax.lax.scan(epoch, (params, tx.init(params)), jnp.arange(epochs))
    return params
