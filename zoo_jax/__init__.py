"""Ten vision-and-learning papers in JAX, on one shared core.

Importing this package imports no method, no model and no data-set code: the names below
load what they need when they are first used.
"""

from typing import Any

from zoo_jax.core.registry import list_methods

__version__ = "0.1.0"

__all__ = ["Model", "__version__", "create_model", "list_methods", "list_models"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from zoo_jax import models

        return getattr(models, name)
    raise AttributeError(f"module 'zoo_jax' has no attribute {name!r}")
