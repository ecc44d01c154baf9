"""Which outputs of a function can depend on which inputs, read off its computation."""

from collections.abc import Callable
from typing import Any

import jax

# Their outputs have no gradient with respect to their inputs.
_BLIND = {"stop_gradient"}


def reached(function: Callable[..., Any], first: Any, *rest: Any) -> list[set[int]]:
    """For each output leaf, the numbers of the leaves of `first` that a gradient flows to.

    May name too many, never too few: a nested computation counts as one step in which
    everything depends on everything.

    Args:
      function: Traced with abstract values.
      first: Of arrays or `jax.ShapeDtypeStruct`.
      *rest: Further arguments.

    >>> import jax.numpy as jnp
    >>> reached(lambda x: (x["a"] * 2, x["b"] + jax.lax.stop_gradient(x["a"])),
    ...         {"a": jnp.ones(1), "b": jnp.ones(1)})
    [{0}, {1}]
    """
    jaxpr = jax.make_jaxpr(function)(first, *rest).jaxpr
    count = len(jax.tree.leaves(first))
    known = {var: {i} for i, var in enumerate(jaxpr.invars[:count])}

    def sources(variables: Any) -> set[int]:
        # Literals are no variables and depend on nothing.
        names = (v for v in variables if not isinstance(v, jax.extend.core.Literal))
        return set().union(*(known.get(v, set()) for v in names))

    for step in jaxpr.eqns:
        found = set() if step.primitive.name in _BLIND else sources(step.invars)
        known |= {var: found for var in step.outvars}
    return [sources([var]) for var in jaxpr.outvars]
