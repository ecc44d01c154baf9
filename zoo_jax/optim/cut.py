"""Where a network is cut into towers and heads, and which parameters several terms share."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from zoo_jax.core.tree import map_named, named_leaves
from zoo_jax.core.types import Batch, Key, Params
from zoo_jax.optim.examples import each
from zoo_jax.optim.masks import mask
from zoo_jax.optim.reach import reached

# (params, one example: a batch without its leading axis, its key) -> feature of any shape.
Tower = Callable[[Params, Batch, Key], Array]


class Cut(NamedTuple):
    """Towers on a batch, and who depends on what."""

    towers: Mapping[str, Tower]
    params: Params  # of all towers
    batch: dict[str, Array]
    keys: Key  # one per example
    reads: list[tuple[str, ...]]  # term -> the towers that its value depends on
    leaves: dict[str, frozenset[str]]  # tower -> paths of the parameters it depends on
    shared: frozenset[str]  # paths of the parameters that two or more terms reach
    counted: frozenset[str]  # those of them that inner products are taken over

    def terms(self, tower: str) -> list[int]:
        """The terms that read a tower."""
        return [k for k, towers in enumerate(self.reads) if tower in towers]


def make_cut(
    towers: Mapping[str, Tower],
    params: Params,
    batch: dict[str, Array],
    keys: Key,
    *,
    terms_of: Callable[[dict[str, Array]], list[Array]],
    subset: Iterable[str] = (),
) -> Cut:
    """Reads off the computation which term depends on which tower, and which on which parameter.

    Args:
      towers: By name.
      params: Of all of them.
      batch: The examples.
      keys: One per example.
      terms_of: ``features by tower -> terms``.
      subset: Path patterns of the parameters to count; empty counts all shared ones.

    Raises:
      ConfigError: for a pattern that matches nothing.
    """

    def abstract(x):
        return jax.ShapeDtypeStruct(x.shape[1:], x.dtype)

    example, one_key = jax.tree.map(abstract, (batch, keys))
    names = list(named_leaves(params))
    features, leaves = {}, {}
    for name, tower in towers.items():
        features[name] = jax.eval_shape(each(tower), params, batch, keys)
        (found,) = reached(tower, params, example, one_key)
        leaves[name] = frozenset(names[i] for i in found)
    order = sorted(towers)  # in which a dictionary of them is flattened
    reads = [
        tuple(order[i] for i in sorted(found)) for found in reached(terms_of, features)
    ]
    shared = frozenset(
        name
        for name in names
        if sum(any(name in leaves[t] for t in towers) for towers in reads) >= 2
    )
    counted = shared
    if subset:
        marked = named_leaves(mask(params, subset))
        counted = frozenset(name for name in shared if marked[name])
    return Cut(towers, params, batch, keys, reads, leaves, shared, counted)


def zeros_of(params: Params, some: Mapping[str, Any]) -> Params:
    """The tree of `params` with the given leaves by path, and zeros elsewhere."""
    leaves = {
        name: some[name] if name in some else jnp.zeros_like(leaf)
        for name, leaf in named_leaves(params).items()
    }
    return jax.tree.unflatten(jax.tree.structure(params), leaves.values())


def replaced(params: Params, some: Mapping[str, Any]) -> Params:
    """`params` with the given leaves, by path, in place of its own."""
    return map_named(lambda name, leaf: some.get(name, leaf), params)
