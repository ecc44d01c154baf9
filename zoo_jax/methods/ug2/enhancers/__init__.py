"""Enhancers by name: functions of pictures [b, h, w, 3] in [0, 1] -> pictures of the same kind.

All are pure, work under `jax.jit` and `jax.vmap` and take any height and width. Entries of the
challenge whose content is not known are reconstructions; their modules say what is ours.
"""

import functools
import importlib
import inspect
from typing import Any

import jax
import jax.numpy as jnp

from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.types import RestoreFn

_HERE = "zoo_jax.methods.ug2.enhancers"

# A function of pictures and options; or, if all its arguments are options, one that makes such
# a function. Imported on use.
ENHANCERS: dict[str, str] = {
    "identity": f"{_HERE}.chain:identity",
    # Interpolation by two and back.
    "nearest_x2": f"{_HERE}.resampling:nearest_x2",
    "bilinear_x2": f"{_HERE}.resampling:bilinear_x2",
    "bicubic_x2": f"{_HERE}.resampling:bicubic_x2",
    # Classic.
    "wiener": f"{_HERE}.deconvolution:wiener",
    "richardson_lucy": f"{_HERE}.deconvolution:richardson_lucy",
    "blind_deconvolution": f"{_HERE}.deconvolution:blind_deconvolution",
    "histogram": f"{_HERE}.histogram:equalize",
    "clahe": f"{_HERE}.clahe:clahe",
    "reinhard": f"{_HERE}.tone:reinhard",
    "unsharp": f"{_HERE}.filters:unsharp",
    "deinterlace": f"{_HERE}.interlace:deinterlace",
    # Networks: they take weights=FILE.
    "srcnn": f"{_HERE}.networks:srcnn",
    "vdsr": f"{_HERE}.networks:vdsr",
    "arcnn": f"{_HERE}.networks:arcnn",
    "srnet": f"{_HERE}.networks:srnet",
    # Reconstructions of challenge entries.
    "ccre": f"{_HERE}.presets:ccre",
    "cascade": f"{_HERE}.presets:cascade",
    "tone_mapped": f"{_HERE}.presets:tone_mapped",
    "adversarial": f"{_HERE}.presets:adversarial",
    "fir_bank": f"{_HERE}.filters:fir_bank",
}


def list_enhancers() -> tuple[str, ...]:
    """Names that `make_enhancer` takes."""
    return tuple(sorted(ENHANCERS))


def make_enhancer(name: str, **options: Any) -> RestoreFn:
    """Looks up an enhancer and fixes its options.

    Args:
      name: One of `list_enhancers`.
      **options: Of the function that `ENHANCERS` names, e.g. ``clip_limit=3.0`` of ``"clahe"``;
        networks need ``weights``.

    Returns:
      A function of RGB pictures in [0, 1] that keeps shape, dtype and range.

    Raises:
      ConfigError: for an unknown name or option, or a value that does not fit.
      WeightsError: for weights that do not fit.

    >>> import jax.numpy as jnp
    >>> make_enhancer("unsharp", amount=2.0)(jnp.ones((1, 5, 7, 3))).shape
    (1, 5, 7, 3)
    """
    if name not in ENHANCERS:
        raise ConfigError(f"unknown enhancer {name!r}: {closest(name, ENHANCERS)}")
    module, _, attribute = ENHANCERS[name].partition(":")
    function = getattr(importlib.import_module(module), attribute)
    parameters = inspect.signature(function).parameters
    takes_pictures = "images" in parameters
    known = [p for p in parameters if p != "images"]
    passes_on = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in options:
        if key not in known and not passes_on:  # else the network's builder refuses it
            raise ConfigError(f"{name} has no option {key!r}: {closest(key, known)}")
    try:
        if takes_pictures:
            enhance = functools.partial(function, **options)
        else:
            enhance = function(**options)
        # Shapes alone: whatever does not fit shows now, not at the first picture.
        picture = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
        jax.eval_shape(enhance, picture)
    except (TypeError, ValueError) as error:  # a string where a number belongs
        given = ", ".join(f"{k}={v!r}" for k, v in options.items())
        raise ConfigError(f"{name} cannot be used with {given}: {error}") from error
    return enhance


__all__ = ["ENHANCERS", "list_enhancers", "make_enhancer"]
