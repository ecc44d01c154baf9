"""Method name -> the module that implements it, imported on use.

A plain dictionary: an editor can follow it, nothing is scanned, and importing the package
imports no method.
"""

import importlib
from types import ModuleType

from zoo_jax.core.errors import ConfigError, closest

METHODS: dict[str, str] = {
    "deblurgan_v2": "zoo_jax.methods.deblurgan_v2",
    "deep_k_means": "zoo_jax.methods.deep_k_means",
    "gradient_harmonization": "zoo_jax.methods.gradient_harmonization",
    "u_said": "zoo_jax.methods.u_said",
    "ug2": "zoo_jax.methods.ug2",
    "weaknas": "zoo_jax.methods.weaknas",
}


def list_methods() -> tuple[str, ...]:
    """Names of the methods that this version implements."""
    return tuple(sorted(METHODS))


def get(name: str) -> ModuleType:
    """Imports the package of a method.

    Args:
      name: One of `list_methods()`.

    Returns:
      The module. It has ``make_task(config, steps) -> Task`` if the method trains, and
      ``procedures: dict[str, Procedure]`` if it has work without a training loop.

    Raises:
      ConfigError: if there is no such method.
    """
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}: {closest(name, METHODS)}")
    return importlib.import_module(METHODS[name])
