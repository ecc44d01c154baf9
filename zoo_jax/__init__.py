"""Ten vision-and-learning papers in JAX, on one shared core.

Importing this package imports no method, no model and no data-set code: the names
below load what they need when they are first called.
"""

from zoo_jax.core.registry import list_methods
from zoo_jax.models import Model, create_model, list_models

__version__ = "0.1.0"

__all__ = ["Model", "__version__", "create_model", "list_methods", "list_models"]
