r"""Rules for gradients that disagree, as pure functions of their Gram matrix.

Gradients :math:`g_1, \dots, g_k` of k loss terms enter by their inner products G only, and a rule
answers with weights w: the update is :math:`\sum_i w_i g_i`. All rules are scaled like the sum: for
k equal gradients g every one of them gives k g.

Source: PCGrad arXiv 2001.06782, GradVac 2010.05874, CAGrad 2110.14048, MGDA (Desideri 2012;
1810.04650), UPGrad 2406.16232; the gate arXiv 2211.02077, see `coefficients`.
"""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.types import Key
from zoo_jax.optim.small_qp import nonnegative_qp, simplex_qp

Rule = Literal["none", "pcgrad", "gradvac", "upgrad", "cagrad", "mgda"]
Normalize = Literal["kept", "batch"]
_NEAR_ONE = 0.999  # the largest cosine that gradvac aims at


def pcgrad(
    gram: Float[Array, "*b k k"],
    *,
    key: Key | None = None,
    floor: Float[Array, ""] | float = 0.0,
) -> Float[Array, "*b k"]:
    """Each gradient loses its part against each original partner that it points away from.

    With two terms the result does not depend on an order. With more, each gradient meets the
    others in an order of its own.

    Args:
      gram: Inner products.
      key: Draws the orders; None meets the partners as they are numbered.
      floor: Squared norms below this are divided by as if they were this large.

    >>> pcgrad(jnp.array([[1.0, -0.5], [-0.5, 4.0]])).tolist()
    [1.5, 1.125]
    """
    zero = jnp.zeros(gram.shape[-2:], gram.dtype)
    return gradvac(gram, targets=zero, key=key, floor=floor)


def gradvac(
    gram: Float[Array, "*b k k"],
    *,
    targets: Float[Array, "k k"],
    key: Key | None = None,
    floor: Float[Array, ""] | float = 0.0,
) -> Float[Array, "*b k"]:
    """Each gradient moves toward each partner until their cosine is the target.

    Where it is there already nothing happens. With all targets 0 this is PCGrad.

    Args:
      gram: Inner products.
      targets: Cosines to reach, the same for the whole batch; see `update_targets`.
      key: As in `pcgrad`.
      floor: As in `pcgrad`.
    """
    k = gram.shape[-1]
    norms = jnp.diagonal(gram, axis1=-2, axis2=-1)
    divisor = jnp.maximum(norms, floor)
    divisor = jnp.where(divisor > 0, divisor, 1)
    targets = jnp.clip(targets, -_NEAR_ONE, _NEAR_ONE)
    tangent = targets / jnp.sqrt(1 - jnp.square(targets))
    order = jnp.broadcast_to(jnp.arange(k), gram.shape)
    if key is not None and k > 2:
        order = jnp.argsort(jax.random.uniform(key, gram.shape), axis=-1)
    own = jnp.broadcast_to(jnp.arange(k), gram.shape[:-1])
    # Row i holds gradient i as a combination of the original ones.
    mixed = jnp.broadcast_to(jnp.eye(k, dtype=gram.dtype), gram.shape)
    for place in range(k):
        partner = jax.nn.one_hot(order[..., place], k, dtype=gram.dtype)
        inner = jnp.sum((mixed @ gram) * partner, -1)
        square = jnp.sum((partner @ gram) * partner, -1)
        length = jnp.sum((mixed @ gram) * mixed, -1)
        # What is left of it beside the partner, times the tangent of the angle aimed at.
        beside = jnp.maximum(length - inner**2 / jnp.where(square > 0, square, 1), 0)
        wanted = jnp.einsum("...ij,ij->...i", partner, tangent)
        wanted = wanted * jnp.sqrt(beside * square)
        step = (wanted - inner) / jnp.sum(partner * divisor[..., None, :], -1)
        moves = (inner < wanted) & (order[..., place] != own) & (square > 0)
        mixed = mixed + jnp.where(moves, step, 0)[..., None] * partner
    return jnp.sum(mixed, -2)


def update_targets(
    targets: Float[Array, "k k"],
    cosines: Float[Array, "b k k"],
    known: Bool[Array, "b k k"],
    *,
    rate: float = 0.01,
) -> Float[Array, "k k"]:
    """Targets of `gradvac` after a step: a moving average of the raw mean cosines.

    Pairs that no example of the batch has keep their target.
    """
    count = jnp.sum(known, 0)
    mean = jnp.sum(jnp.where(known, cosines, 0), 0) / jnp.maximum(count, 1)
    return jnp.where(count > 0, targets + rate * (mean - targets), targets)


def upgrad(gram: Float[Array, "*b k k"]) -> Float[Array, "*b k"]:
    """The sum of each gradient's nearest neighbour among vectors that conflict with no gradient.

    For two terms this is PCGrad; for more it is order-free. Exact up to four terms.
    """
    k = gram.shape[-1]
    if k == 2:
        return pcgrad(gram)
    # Of unit vectors, so that tiny gradients weigh as much as others in the solver's tests.
    norms = jnp.sqrt(jnp.diagonal(gram, axis1=-2, axis2=-1))
    inverse = jnp.where(norms > 0, 1 / jnp.where(norms > 0, norms, 1), 0)
    unit = gram * inverse[..., None] * inverse[..., None, :]
    # |g_i + sum_j v_j g_j|^2 is least over v >= 0; one problem per gradient i.
    added = nonnegative_qp(
        jnp.broadcast_to(unit[..., None, :, :], (*gram.shape, k)), unit
    )
    return 1 + jnp.sum(added * norms[..., :, None], -2) * inverse


def mgda(gram: Float[Array, "*b k k"]) -> Float[Array, "*b k"]:
    """K times the shortest convex combination of the gradients. Exact up to four terms.

    >>> mgda(jnp.array([[1.0, 0.0], [0.0, 1.0]])).tolist()
    [1.0, 1.0]
    """
    return gram.shape[-1] * simplex_qp(gram, jnp.zeros(gram.shape[:-1], gram.dtype))


def cagrad(
    gram: Float[Array, "*b k k"], *, radius: float = 0.4, iterations: int = 40
) -> Float[Array, "*b k"]:
    r"""K times the vector near the mean gradient g that serves the worst-served term best.

    It maximises :math:`\min_i \langle g_i, d\rangle` over :math:`|d - g| \le c |g|`, through its
    dual: min over convex weights v of :math:`\langle g_v, g\rangle + c |g| |g_v|`. For a given
    length t of g_v that is a quadratic program; t is found by bisection.

    Args:
      gram: Inner products.
      radius: c, below 1. The paper's choices lie between 0.2 and 0.5.
      iterations: Of the bisection.
    """
    k = gram.shape[-1]
    to_mean = jnp.mean(gram, -1)
    length = jnp.sqrt(jnp.maximum(jnp.mean(to_mean, -1), 0))
    reach = radius * length
    largest = jnp.max(jnp.diagonal(gram, axis1=-2, axis2=-1), -1)
    scale = jnp.where(largest > 0, jnp.sqrt(largest), 1)

    def solve(t):
        linear = to_mean * (t / jnp.where(reach > 0, reach, 1))[..., None]
        return simplex_qp(gram, linear)

    def halve(_, ends):
        low, high = ends
        t = jnp.sqrt(low * high)
        v = solve(t)
        longer = jnp.einsum("...i,...ij,...j->...", v, gram, v) > t * t
        return jnp.where(longer, t, low), jnp.where(longer, high, t)

    ends = (1e-6 * scale, scale)
    low, high = jax.lax.fori_loop(0, iterations, halve, ends)
    t = jnp.sqrt(low * high)
    v = solve(t)
    of_v = jnp.sqrt(jnp.maximum(jnp.einsum("...i,...ij,...j->...", v, gram, v), 0))
    share = reach / jnp.maximum(jnp.maximum(of_v, t), jnp.finfo(gram.dtype).tiny)
    return 1 + k * v * jnp.where(reach > 0, share, 0)[..., None]


class Statistics(NamedTuple):
    """How much the gradients of a batch disagree, before anything is done about it.

    A pair counts if both gradients are finite and not zero.
    """

    cosine: Float[Array, ""]  # mean over the pairs; 0 without any
    conflict: Float[Array, ""]  # share of the pairs with a negative cosine
    pairs: Float[Array, ""]  # how many pairs there are
    kept: Float[Array, ""]  # examples that the gate let through
    dropped: Float[Array, ""]  # examples that it did not
    nonfinite: Float[Array, ""]  # examples with a NaN or an infinity; also dropped


class Coefficients(NamedTuple):
    """What to multiply the gradients of each example with."""

    shared: Float[Array, "b k"]  # in parameters that several terms reach
    single: Float[Array, "b"]  # in parameters that one term alone reaches
    cosines: Float[Array, "b k k"]  # raw ones
    known: Bool[Array, "b k k"]  # which of them mean something; not the diagonal
    statistics: Statistics


def coefficients(
    gram: Float[Array, "b k k"],
    *,
    rule: Rule = "pcgrad",
    gamma: Float[Array, ""] | float | None = None,
    quantile: Float[Array, ""] | float | None = None,
    valid: Bool[Array, "b k"] | None = None,
    targets: Float[Array, "k k"] | None = None,
    key: Key | None = None,
    normalize: Normalize = "kept",
    eps: float = 1e-12,
) -> Coefficients:
    """Gates each example by the lowest cosine between its gradients, then applies the rule.

    Examples without a pair of gradients (a clip without text) are always kept; so is the gradient
    that they have. An example with a NaN or an infinity is dropped. If all examples have one,
    the coefficients are NaN: a diverged training must not look like a quiet one.

    Args:
      gram: Inner products between the gradients of each example. Computed in float32.
      rule: ``"none"`` only gates. ``"gradvac"`` needs `targets`.
      gamma: Drop examples whose lowest cosine is below this.
      quantile: Or drop this share of those that have one, the lowest.
      valid: False where an example lacks that term; without any term it is padding.
      targets: Of `gradvac`.
      key: Orders of `pcgrad` and `gradvac` for more than two terms.
      normalize: After dropping, ``"kept"`` makes up for it by the factor valid / kept examples
        (at least one); ``"batch"`` does not.
      eps: Norms below this multiple of the batch's median norm are divided by as if they were
        this large.
    """
    check_rule(rule)
    gram = jnp.asarray(gram, jnp.float32)
    k = gram.shape[-1]
    if valid is None:
        valid = jnp.ones(gram.shape[:-1], bool)
    valid = valid.astype(bool)
    real = jnp.any(valid, -1)
    both = valid[:, :, None] & valid[:, None, :]
    gram = jnp.where(both, gram, 0)
    finite = jnp.all(jnp.isfinite(gram), (-2, -1))
    gram = jnp.where(finite[:, None, None], gram, 0)

    norms = jnp.sqrt(jnp.diagonal(gram, axis1=-2, axis2=-1))
    nonzero = norms > 0
    known = nonzero[:, :, None] & nonzero[:, None, :] & ~jnp.eye(k, dtype=bool)[None]
    lengths = jnp.where(nonzero, norms, 1)
    cosines = jnp.clip(gram / lengths[:, :, None] / lengths[:, None, :], -1, 1)
    lowest = jnp.min(jnp.where(known, cosines, jnp.inf), (-2, -1))
    keep = real & finite & _passes(lowest, gamma, quantile)

    median = jnp.nanmedian(jnp.where(nonzero, norms, jnp.nan))
    floor = jnp.nan_to_num(jnp.square(eps * median))
    weights = _apply(rule, gram, targets=targets, key=key, floor=floor)
    kept = jnp.sum(keep, dtype=jnp.float32)
    factor = keep.astype(jnp.float32)
    if normalize == "kept":
        factor = factor * (jnp.sum(real) / jnp.maximum(kept, 1))
    nothing = jnp.any(real) & ~jnp.any(real & finite)
    factor = jnp.where(nothing, jnp.nan, factor)

    pairs = jnp.sum(known, dtype=jnp.float32)
    over = jnp.maximum(pairs, 1)
    broken = jnp.sum(real & ~finite, dtype=jnp.float32)
    statistics = Statistics(
        cosine=jnp.sum(jnp.where(known, cosines, 0)) / over,
        conflict=jnp.sum(known & (cosines < 0)) / over,
        pairs=pairs / 2,
        kept=kept,
        dropped=jnp.sum(real, dtype=jnp.float32) - kept - broken,
        nonfinite=broken,
    )
    return Coefficients(weights * factor[:, None], factor, cosines, known, statistics)


def check_rule(rule: str) -> None:
    """Raises `ConfigError` for a rule that is none."""
    if rule not in get_args(Rule):
        raise ConfigError(f"unknown rule {rule!r}: {closest(rule, get_args(Rule))}")


def _passes(lowest, gamma, quantile) -> Bool[Array, "b"]:
    if gamma is not None and quantile is not None:
        raise ConfigError("the gate takes gamma or quantile, not both")
    if gamma is not None:
        return lowest >= gamma
    if quantile is None:
        return jnp.ones(lowest.shape, bool)
    has = lowest < jnp.inf
    number = jnp.sum(has)
    drop = jnp.floor(jnp.clip(quantile, 0, 1) * number + 1e-4).astype(jnp.int32)
    # Behind the last of them is infinity: a share of 1 drops all that have a cosine.
    ranked = jnp.append(jnp.sort(lowest), jnp.inf)
    return (lowest >= ranked[drop]) | ~has


def _apply(rule, gram, *, targets, key, floor) -> Float[Array, "b k"]:
    if rule == "none":
        return jnp.ones(gram.shape[:-1], gram.dtype)
    if rule == "pcgrad":
        return pcgrad(gram, key=key, floor=floor)
    if rule == "gradvac":
        if targets is None:
            raise ConfigError(
                "gradvac keeps targets from step to step: use it in realign_gradients"
            )
        return gradvac(gram, targets=targets, key=key, floor=floor)
    return {"upgrad": upgrad, "cagrad": cagrad, "mgda": mgda}[rule](gram)
