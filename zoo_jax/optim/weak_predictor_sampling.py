"""Which architectures to ask for next, given a ranking of the pool."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.stats import norm
from jaxtyping import Array, Bool, Float, Int

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.types import Key


def geometric_top_n(
    start: int, end: int, rounds: int, *, decay: float = 0.96
) -> Callable[[int], int]:
    """Schedule of N from `start` to `end`, both exact, over so many fits.

    ``decay ** x`` for x from 0 to 99, stretched to the ends and truncated.

    Source: arXiv 2102.10490, published code.

    >>> n = geometric_top_n(1000, 100, 4)
    >>> [n(fit) for fit in range(4)]
    [1000, 322, 145, 100]
    """
    if rounds < 1 or not 0 < decay < 1 or min(start, end) < 1:
        raise ConfigError(
            "geometric_top_n needs start, end and rounds of 1 or more and decay between "
            f"0 and 1, got {start}, {end}, {rounds} and {decay}"
        )
    curve = decay ** np.linspace(0, 99, rounds)
    if rounds > 1:
        curve = (curve - curve[-1]) / (curve[0] - curve[-1])
    table = (end + (start - end) * curve).astype(int) if rounds > 1 else [start]
    return lambda fit: int(table[min(fit, rounds - 1)])


def expected_improvement(
    mean: Float[Array, "m"], deviation: Float[Array, "m"], best: Float[Array, ""]
) -> Float[Array, "m"]:
    r"""E max(f - best, 0) for f ~ N(mean, deviation^2): higher is better.

    .. math:: s\,(z\,\Phi(z) + \phi(z)),\quad z = (m - y_{best}) / s

    max(m - best, 0) where the deviation is 0.

    >>> one = jnp.array([1.0, 1.0])
    >>> e = expected_improvement(one, jnp.array([0.0, 1.0]), jnp.float32(0.5))
    >>> [round(float(x), 4) for x in e]
    [0.5, 0.6978]
    """
    gain = mean - best
    certain = deviation <= 0
    s = jnp.where(certain, 1, deviation)
    z = gain / s
    return jnp.where(certain, jnp.maximum(gain, 0), s * (z * norm.cdf(z) + norm.pdf(z)))


def published_expected_improvement(
    mean: Float[Array, "m"], deviation: Float[Array, "m"], worst: Float[Array, ""]
) -> Float[Array, "m"]:
    """What the published code maximises: improvement over *minus the worst* label.

    It negates the predictions but not the labels, and so compares mean and -worst; deviations
    are divided by 5. For comparisons only.

    >>> m, s = jnp.array([1.0]), jnp.array([0.0])
    >>> published_expected_improvement(m, s, jnp.float32(-0.25)).tolist()
    [0.75]
    """
    return expected_improvement(mean, deviation / 5, -worst)


def upper_confidence_bound(
    mean: Float[Array, "m"], deviation: Float[Array, "m"], *, factor: float = 0.5
) -> Float[Array, "m"]:
    """Mean + factor * deviation. The published code's factor is 0.5.

    >>> upper_confidence_bound(jnp.array([1.0]), jnp.array([2.0])).tolist()
    [2.0]
    """
    return mean + factor * deviation


def rank(scores: Float[Array, "m"], key: Key | None = None) -> Int[Array, "m"]:
    """Indices from the highest score down; NaN last; ties by index, or at random by `key`.

    >>> rank(jnp.array([1.0, 3.0, jnp.nan, 3.0])).tolist()
    [1, 3, 0, 2]
    """
    index = jnp.arange(scores.shape[0], dtype=jnp.int32)
    if key is None:
        return lax.sort_key_val(-scores, index)[1]
    draws = jax.random.bits(key, scores.shape)
    return lax.sort((-scores, draws, index), num_keys=2)[2]


def open_positions(
    order: Int[Array, "m"],
    queried: Bool[Array, "m"],
    classes: Int[Array, "m"] | None,
) -> Bool[Array, "m"]:
    """Which places of a ranking may be asked: not queried, and the first of its class.

    >>> order, queried = jnp.array([2, 0, 1]), jnp.array([False, True, False])
    >>> open_positions(order, queried, None).tolist()
    [True, True, False]
    >>> open_positions(order, queried, jnp.array([1, 0, 1])).tolist()
    [True, False, False]
    """
    is_open = ~queried[order]
    if classes is None:
        return is_open
    m = order.shape[0]
    place = jnp.arange(m, dtype=jnp.int32)
    # Class numbers lie below m: they are positions in a table of classes.
    of = classes[order]
    first = jnp.full(int(m) + 1, m, jnp.int32).at[of].min(place)
    return is_open & (first[of] == place)


def choose_uniform(
    key: Key,
    order: Int[Array, "m"],
    is_open: Bool[Array, "m"],
    top: Int[Array, ""],
    size: Int[Array, ""],
    batch: int,
) -> Int[Array, "k"]:
    """`size` distinct uniform draws from the open ones of the first `top` of a ranking.

    If there are fewer, the first open ones of the whole ranking. Slots from `size` on are -1.

    Source: arXiv 2102.10490, published code. Gumbel-top-k draws without replacement.
    """
    place = jnp.arange(order.shape[0])
    inside = is_open & (place < top)
    enough = jnp.sum(inside) >= size
    draws = jnp.where(inside, jax.random.gumbel(key, order.shape), -jnp.inf)
    in_order = jnp.where(is_open, -place.astype(draws.dtype), -jnp.inf)
    _, at = lax.top_k(jnp.where(enough, draws, in_order), batch)
    return clip_batch(order[at], size)


def choose_first(
    order: Int[Array, "m"], is_open: Bool[Array, "m"], size: Int[Array, ""], batch: int
) -> Int[Array, "k"]:
    """The first `size` open ones of a ranking, best first; -1 behind them.

    >>> order, is_open = jnp.array([2, 0, 1]), jnp.array([True, False, True])
    >>> choose_first(order, is_open, jnp.int32(2), 2).tolist()
    [2, 1]
    """
    in_order = jnp.where(
        is_open, -jnp.arange(order.shape[0], dtype=jnp.float32), -jnp.inf
    )
    _, at = lax.top_k(in_order, batch)
    return clip_batch(order[at], size)


def choose_thompson(
    key: Key,
    members: Float[Array, "e m"],
    queried: Bool[Array, "m"],
    classes: Int[Array, "m"] | None,
    size: Int[Array, ""],
    batch: int,
) -> Int[Array, "k"]:
    """Each slot takes the best open one of a member drawn for it; -1 from `size` on."""
    # Closed ones are -inf: below any prediction, NaN included.
    members = jnp.nan_to_num(members, nan=jnp.finfo(members.dtype).min)
    drawn = jax.random.randint(key, (batch,), 0, members.shape[0])

    def take(queried, member):
        best = jnp.argmax(jnp.where(queried, -jnp.inf, members[member]))
        best = best.astype(jnp.int32)
        return close(queried, best[None], classes), best

    _, chosen = lax.scan(take, queried, drawn)
    return clip_batch(chosen, size)


def close(
    queried: Bool[Array, "m"], index: Int[Array, "k"], classes: Int[Array, "m"] | None
) -> Bool[Array, "m"]:
    """Marks these as queried, with all of their class; -1 marks nothing.

    >>> queried, classes = jnp.zeros(3, bool), jnp.array([1, 0, 1])
    >>> close(queried, jnp.array([2, -1]), classes).tolist()
    [True, False, True]
    """
    m = queried.shape[0]
    if classes is None:
        # A negative index counts from the end in JAX too: send it over the end instead.
        return queried.at[jnp.where(index < 0, m, index)].set(True, mode="drop")
    asked = jnp.where(index < 0, -1, classes[index])
    return queried | jnp.any(classes[:, None] == asked[None], axis=1)


def clip_batch(index: Any, size: Any) -> Any:
    """Puts -1 into the slots from `size` on."""
    return jnp.where(jnp.arange(index.shape[0]) < size, index, -1)
