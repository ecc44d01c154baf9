"""Convex quadratic programs in a handful of variables, for batches of them.

Up to `EXACT` variables every set of free variables is tried and the one that meets the conditions
of optimality (Karush, Kuhn and Tucker) best is taken; more variables are found by accelerated
projected gradients.
"""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

EXACT = 4


def nonnegative_qp(
    matrix: Float[Array, "*b k k"], linear: Float[Array, "*b k"]
) -> Float[Array, "*b k"]:
    """Minimises x' A x / 2 + c' x over x >= 0; `matrix` is positive semidefinite.

    If several x do it, one of them with few entries.

    >>> nonnegative_qp(jnp.eye(2), jnp.array([-3.0, 1.0])).tolist()
    [3.0, 0.0]
    """
    k = matrix.shape[-1]
    if k > EXACT:
        return _descend(matrix, linear, jnp.zeros_like(linear), jax.nn.relu)

    def candidates(free):
        x = _solve(_restricted(matrix, free), -_times(linear, free))
        slope = jnp.einsum("...ij,...cj->...ci", matrix, x) + linear[..., None, :]
        return jnp.maximum(x, 0), _miss(x, slope, free)

    return _best(candidates, k, matrix.dtype, empty=True)


def simplex_qp(
    matrix: Float[Array, "*b k k"], linear: Float[Array, "*b k"]
) -> Float[Array, "*b k"]:
    """Minimises x' A x / 2 + c' x over x >= 0 with sum 1; `matrix` is positive semidefinite.

    >>> simplex_qp(jnp.eye(2), jnp.zeros(2)).tolist()
    [0.5, 0.5]
    """
    k = matrix.shape[-1]
    size = jnp.max(jnp.abs(matrix), (-2, -1))
    size = jnp.maximum(size, jnp.max(jnp.abs(linear), -1))[..., None]
    size = jnp.where(size > 0, size, 1)
    matrix, linear = matrix / size[..., None], linear / size
    if k > EXACT:
        start = jnp.full_like(linear, 1 / k)
        project = _batched(optax.projections.projection_simplex)
        return _descend(matrix, linear, start, project)

    def candidates(free):
        shape = (*linear.shape[:-1], len(free), k + 1, k + 1)
        # A last unknown, the multiplier of the sum.
        system = jnp.zeros(shape, matrix.dtype)
        system = system.at[..., :k, :k].set(_restricted(matrix, free))
        system = system.at[..., :k, k].set(jnp.broadcast_to(free, (*shape[:-2], k)))
        system = system.at[..., k, :k].set(jnp.broadcast_to(free, (*shape[:-2], k)))
        right = jnp.ones(shape[:-1], matrix.dtype)
        solved = _solve(system, right.at[..., :k].set(-_times(linear, free)))
        x, multiplier = solved[..., :k], solved[..., k:]
        slope = jnp.einsum("...ij,...cj->...ci", matrix, x) + linear[..., None, :]
        miss = _miss(x, slope + multiplier, free)
        x = jnp.maximum(x, 0)
        return x / jnp.sum(x, -1, keepdims=True), miss

    return _best(candidates, k, matrix.dtype, empty=False)


def _restricted(matrix: Float[Array, "*b k k"], free: Float[Array, "c k"]) -> Array:
    """Rows and columns of the free variables; for the others those of the identity."""
    both = free[:, :, None] * free[:, None, :]
    others = jax.vmap(jnp.diag)(1 - free)
    system = jnp.einsum("...ij,cij->...cij", matrix, both)
    return system + jnp.broadcast_to(others, system.shape)


def _times(linear: Float[Array, "*b k"], free: Float[Array, "c k"]) -> Array:
    return jnp.einsum("...i,ci->...ci", linear, free)


def _miss(x: Array, slope: Array, free: Float[Array, "c k"]) -> Float[Array, "*b c"]:
    """Free: no slope, and x not below its bound. At the bound: only upward."""
    is_free = jnp.broadcast_to(free > 0, x.shape)
    miss = jnp.where(is_free, jnp.maximum(jnp.abs(slope), -x), -slope)
    return jnp.max(miss, -1)


def _best(
    candidates: Callable, k: int, dtype: jnp.dtype, *, empty: bool
) -> Float[Array, "*b k"]:
    """The candidate that misses the conditions least; of equals the one with fewest free."""
    sets = sorted(itertools.product((0, 1), repeat=k), key=sum)[not empty :]
    x, miss = candidates(jnp.asarray(np.array(sets), dtype))
    usable = jnp.all(jnp.isfinite(x), -1) & jnp.isfinite(miss)
    # Singular systems give anything. Below the last digits all are equal, the first is taken.
    miss = jnp.maximum(jnp.where(usable, miss, jnp.inf), 4 * jnp.finfo(dtype).eps)
    choice = jnp.argmin(miss, -1)[..., None, None]
    return jnp.take_along_axis(x, choice, -2)[..., 0, :]


def _solve(system: Float[Array, "*b n n"], right: Float[Array, "*b n"]) -> Array:
    """Gaussian elimination with row pivots, written out: LAPACK would be called one by one."""
    n = right.shape[-1]
    rows = jnp.concatenate([system, right[..., None]], -1)
    for i in range(n):
        pivot = jnp.argmax(jnp.abs(rows[..., i:, i]), -1)[..., None] + i
        place = jnp.broadcast_to(jnp.arange(n), right.shape)
        order = jnp.where(place == i, pivot, jnp.where(place == pivot, i, place))
        rows = jnp.take_along_axis(rows, order[..., None], -2)
        row = rows[..., i : i + 1, :] / rows[..., i : i + 1, i : i + 1]
        others = rows - rows[..., :, i : i + 1] * row
        rows = others.at[..., i, :].set(row[..., 0, :])
    return rows[..., n]


def _descend(
    matrix: Array,
    linear: Array,
    start: Array,
    project: Callable[[Array], Array],
    iterations: int = 2000,
) -> Array:
    """FISTA with restarts whenever the momentum points uphill."""
    bound = jnp.max(jnp.sum(jnp.abs(matrix), -1), -1)[..., None]
    rate = 1 / jnp.where(bound > 0, bound, 1)

    def step(_, carry):
        x, ahead, t = carry
        slope = jnp.einsum("...ij,...j->...i", matrix, ahead) + linear
        new = project(ahead - rate * slope)
        uphill = jnp.sum((ahead - new) * (new - x), -1, keepdims=True) > 0
        t = jnp.where(uphill, 1.0, t)
        after = (1 + jnp.sqrt(1 + 4 * t * t)) / 2
        return new, new + jnp.where(uphill, 0, (t - 1) / after) * (new - x), after

    ones = jnp.ones_like(linear[..., :1])
    return jax.lax.fori_loop(0, iterations, step, (start, start, ones))[0]


def _batched(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    def apply(x):
        flat = x.reshape(-1, x.shape[-1])
        return jax.vmap(function)(flat).reshape(x.shape)

    return apply
