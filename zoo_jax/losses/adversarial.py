"""Adversarial losses on maps of scores: what each side of a GAN minimises.

All of them give one value per image, the mean over its map; the mean over images is the
loss. Scores are logits: any real numbers, the higher, the more real.

The relativistic ones compare a score with the mean score of the other kind over the last
images, which a pool carries from step to step as part of the training state. A pool is
global: under `jax.jit` every image of the global batch enters it, in the order of the batch,
whatever the number of devices, and no average over devices is needed.
"""

from collections.abc import Callable
from typing import NamedTuple, TypedDict

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from zoo_jax.core.types import Key

Scores = Float[Array, "b *map"]
PerImage = Float[Array, "b"]


class PoolState(TypedDict):
    """Mean scores of the last images, oldest first; the newest `count` entries are filled."""

    real: Float[Array, "n"]
    fake: Float[Array, "n"]
    count: Int[Array, ""]


class AdversarialLoss(NamedTuple):
    """Both sides of a game.

    A loss without memory takes any pool, also None, and returns it as it is.
    """

    discriminator: Callable[[Scores, Scores, PoolState], tuple[PerImage, PoolState]]
    """(scores of real images, of fake ones, pool) -> (loss, pool with these images)."""
    generator: Callable[[Scores, Scores, PoolState], PerImage]
    """(scores of real images, of fake ones, pool) -> loss. The pool already holds them."""
    pooled: bool = False  # whether it reads the pool
    penalised: bool = False  # whether it is meant to go with `gradient_penalty`


def init_pool(size: int) -> PoolState:
    """An empty pool for the mean scores of `size` images of either kind.

    >>> pool = update_pool(init_pool(3), jnp.ones((4, 2, 2)), jnp.zeros((4, 2, 2)))
    >>> pool["real"].tolist(), int(pool["count"])
    ([1.0, 1.0, 1.0], 3)
    """
    if size < 1:
        raise ValueError(f"a pool holds at least 1 image, got size={size}")
    return PoolState(
        real=jnp.zeros(size), fake=jnp.zeros(size), count=jnp.zeros((), jnp.int32)
    )


def update_pool(pool: PoolState, real: Scores, fake: Scores) -> PoolState:
    """Puts all images in; the oldest leave. Of a larger batch the last images stay.

    No gradient passes through a pool. The mean of each map is kept, not the map: maps are
    equally large, so the mean over everything pooled is the same.
    """
    size = pool["real"].shape[0]

    def push(old: Array, scores: Array) -> Array:
        new = jax.lax.stop_gradient(_per_image(scores))
        return jnp.concatenate([old, new])[-size:]

    count = jnp.minimum(pool["count"] + real.shape[0], size)
    return PoolState(
        real=push(pool["real"], real), fake=push(pool["fake"], fake), count=count
    )


def pool_means(pool: PoolState) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean score of the pooled real and fake images; of an empty pool it is not a number.

    >>> pool = update_pool(init_pool(50), jnp.full((1, 3), 2.0), jnp.full((1, 3), -1.0))
    >>> [float(mean) for mean in pool_means(pool)]
    [2.0, -1.0]
    """
    size = pool["real"].shape[0]
    filled = jnp.arange(size) >= size - pool["count"]

    def mean(scores: Array) -> Array:
        return jnp.sum(jnp.where(filled, scores, 0.0)) / pool["count"]

    return mean(pool["real"]), mean(pool["fake"])


def gradient_penalty(
    key: Key,
    discriminator: Callable[[Float[Array, "b h w c"]], Scores],
    real: Float[Array, "b h w c"],
    fake: Float[Array, "b h w c"],
    *,
    reference_compat: bool = False,
) -> PerImage:
    """Keeps a discriminator near slope 1 between real and fake images.

    ``(|gradient of the mean score| - 1)^2`` at a random point between the two images of each
    pair, the norm taken over all pixels and channels. The usual weight is 10.

    Args:
      key: Draws the points.
      discriminator: Images -> scores. Each image must be scored alone, as instance norms do.
      real: Real images.
      fake: As many fake ones.
      reference_compat: As the released code of arXiv 1908.03826 has it, which is not this
        penalty: one point for the whole batch, the gradient of the *sum* of the scores, its
        norm over channels alone, and the mean over pixels.

    Source: arXiv 1704.00028, equation 3.

    >>> x = jnp.zeros((2, 4, 4, 1))
    >>> slope = lambda image: 3 / 4 * image.sum((1, 2, 3))  # a gradient of norm 3
    >>> [round(float(value), 4) for value in gradient_penalty(jax.random.key(0), slope, x, x)]
    [4.0, 4.0]
    """
    real, fake = jax.lax.stop_gradient((real, fake))
    count = 1 if reference_compat else real.shape[0]
    share = jax.random.uniform(key, (count, 1, 1, 1))
    between = share * real + (1 - share) * fake

    def total(x: Array) -> Array:
        scores = discriminator(x)
        return jnp.sum(scores if reference_compat else _per_image(scores))

    gradient = jax.grad(total)(between)
    axes = -1 if reference_compat else (1, 2, 3)
    norm = _safe_norm(gradient, axes)
    return _per_image(jnp.square(norm - 1))


def _safe_norm(x: Array, axes: int | tuple[int, ...]) -> Array:
    """Euclidean norm whose own gradient is 0, not NaN, where `x` is 0."""
    squares = jnp.sum(jnp.square(x), axes)
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)


def _per_image(values: Scores) -> PerImage:
    return jnp.mean(values.astype(jnp.float32), axis=tuple(range(1, values.ndim)))


def _squared(scores: Array, real: bool, *, low: float) -> Array:
    return jnp.square(scores - (1.0 if real else low))


def _cross_entropy(scores: Array, real: bool) -> Array:
    return jax.nn.softplus(-scores if real else scores)


def _absolute(distance: Callable[..., Array]) -> AdversarialLoss:
    """Each score against its label: `distance` (scores, label) -> array like scores."""

    def discriminator(real, fake, pool):
        both = _per_image(distance(real, True)) + _per_image(distance(fake, False))
        return both / 2, pool

    def generator(real, fake, pool):
        del real, pool
        return _per_image(distance(fake, True))

    return AdversarialLoss(discriminator, generator)


def _relativistic(distance: Callable[..., Array]) -> AdversarialLoss:
    """Each score, relative to the pooled mean of the other kind, against its label."""

    def game(real, fake, pool, labels: tuple[bool, bool]):
        mean_real, mean_fake = pool_means(pool)
        of_real = _per_image(distance(real - mean_fake, labels[0]))
        of_fake = _per_image(distance(fake - mean_real, labels[1]))
        return (of_real + of_fake) / 2

    def discriminator(real, fake, pool):
        pool = update_pool(pool, real, fake)
        return game(real, fake, pool, (True, False)), pool

    def generator(real, fake, pool):
        return game(real, fake, pool, (False, True))

    return AdversarialLoss(discriminator, generator, pooled=True)


def _wasserstein() -> AdversarialLoss:
    def discriminator(real, fake, pool):
        return _per_image(fake) - _per_image(real), pool

    def generator(real, fake, pool):
        del real, pool
        return -_per_image(fake)

    return AdversarialLoss(discriminator, generator, penalised=True)


ADVERSARIAL: dict[str, AdversarialLoss] = {
    "gan": _absolute(_cross_entropy),
    # Labels 1 and 0. The released code has absolute differences in place of squares, and a
    # generator's side that cannot be called.
    "lsgan": _absolute(lambda scores, real: _squared(scores, real, low=0.0)),
    "ragan": _relativistic(_cross_entropy),
    "ragan_ls": _relativistic(lambda scores, real: _squared(scores, real, low=-1.0)),
    "wgan_gp": _wasserstein(),
}
"""The games by name. With ``D`` the mean over a map, ``m`` the means of the pool:

- ``gan``: cross entropy of each score (arXiv 1406.2661, generator's side non-saturating).
- ``lsgan``: squared distance to 1 for real, 0 for fake (arXiv 1611.04076).
- ``ragan``: cross entropy of ``D(real) - m_fake`` and ``D(fake) - m_real`` (arXiv 1807.00734).
- ``ragan_ls``: squared distance of these to 1 and -1 (arXiv 1908.03826, section 3.2, where the
  means are expectations; the pool of 50 images is of the released code and makes batches of
  one image work). A discriminator that scores all alike has loss 1, and so has its generator.
- ``wgan_gp``: differences of means, to go with `gradient_penalty` (arXiv 1704.00028).
"""
