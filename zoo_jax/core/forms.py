"""Equal ways to compute a layer: which one is taken, by the backend, when it is traced.

XLA for CPUs is slow where accelerators are fast (grouped and dilated convolutions, maps larger
than a cache), so some layers have a form for CPUs and a native one. Both are the same
function up to rounding.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax

# "lowered": both are traced, and each platform that the program is compiled for takes its own.
# "portable": the native form, unless a layer has one that converters to other formats understand.
Choice = Literal["cpu", "native", "lowered", "portable"]
_forced: contextvars.ContextVar[Choice | None] = contextvars.ContextVar(
    "forms", default=None
)


@contextlib.contextmanager
def forms(choice: Choice) -> Iterator[None]:
    """Overrides the choice by backend for what is traced inside.

    A program that was compiled before keeps its forms: trace a new one inside.

    >>> with forms("native"):
    ...     chosen()
    'native'
    """
    token = _forced.set(choice)
    try:
        yield
    finally:
        _forced.reset(token)


def chosen() -> Choice:
    """The forms that are taken now."""
    return _forced.get() or ("cpu" if jax.default_backend() == "cpu" else "native")


def by_backend(
    *operands: Any,
    cpu: Callable[..., Any],
    native: Callable[..., Any],
    portable: Callable[..., Any] | None = None,
) -> Any:
    """Applies one of two forms of the same function to arrays (or trees of them).

    Args:
      *operands: What the forms are applied to.
      cpu: The form for CPUs.
      native: The form for accelerators, and for other runtimes.
      portable: The form for other runtimes, where it is not `native`.
    """
    choice = chosen()
    if choice == "lowered":
        return jax.lax.platform_dependent(*operands, cpu=cpu, default=native)
    if choice == "portable" and portable is not None:
        return portable(*operands)
    return (cpu if choice == "cpu" else native)(*operands)
