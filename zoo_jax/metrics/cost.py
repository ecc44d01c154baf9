"""What a network costs to run: multiply-adds, counted from its traced program."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core

from zoo_jax.core.forms import forms


def count_macs(f: Callable[..., Any], *args: Any) -> int:
    """Multiply-adds of the convolutions and matrix products in ``f(*args)``.

    Nothing is computed: `f` is traced on shapes. Loops count as often as they run if their
    length is static (`jax.lax.scan`); of a branch the dearest side counts. Taps that fall on
    padding count, as is usual, but not those between the inputs of a transposed convolution.
    Layers with several forms count in their native one, whatever this backend would take.

    Args:
      f: A pure function, e.g. ``lambda x: module.apply(variables, x)``.
      *args: Arrays or `jax.ShapeDtypeStruct`.

    Returns:
      The number for the whole batch.

    Raises:
      ValueError: for a loop whose length is not known (`jax.lax.while_loop`) with products
        inside.

    >>> import jax.numpy as jnp
    >>> count_macs(jnp.dot, jnp.zeros((2, 3)), jnp.zeros((3, 5)))
    30
    """
    with forms("native"):
        return _count(jax.make_jaxpr(f)(*args).jaxpr)


def _count(jaxpr: core.Jaxpr) -> int:
    return sum(map(_equation, jaxpr.eqns))


def _equation(eqn: core.JaxprEqn) -> int:
    name = eqn.primitive.name
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        depth = math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
        return depth * math.prod(eqn.outvars[0].aval.shape)
    if name == "conv_general_dilated":
        kernel = eqn.invars[1].aval.shape
        # Of the kernel's axes only the output features are not summed over.
        outputs = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
        taps = math.prod(kernel) // outputs * math.prod(eqn.outvars[0].aval.shape)
        return taps // math.prod(eqn.params["lhs_dilation"])
    inner = [_count(jaxpr) for jaxpr in _inner(eqn)]
    if name == "scan":
        return eqn.params["length"] * sum(inner)
    if name == "cond":
        return max(inner)
    if name == "while" and any(inner):
        raise ValueError("cannot count the products of a loop of unknown length")
    return sum(inner)


def _inner(eqn: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """The programs inside an equation: bodies of calls, loops and branches."""
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item
