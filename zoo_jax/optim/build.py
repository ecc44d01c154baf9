"""Optimisers from a config section."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import optax

from zoo_jax.core.config import require_keys, to_dict
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.optim.masks import freeze, mask
from zoo_jax.optim.schedules import build_schedule

_COMMON = {
    "lr": None,
    "schedule": None,
    "weight_decay": 0.0,
    "weight_decay_mask": None,
    "clip": None,
    "freeze": None,
}
_KEYS: dict[str, dict[str, Any]] = {
    "sgd": {**_COMMON, "momentum": 0.0, "nesterov": False},
    "adam": {**_COMMON, "b1": 0.9, "b2": 0.999, "eps": 1e-8},
    "adamw": {**_COMMON, "b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.01},
}


def build_optimizer(
    section: Mapping[str, Any], *, total_steps: int
) -> optax.GradientTransformationExtraArgs:
    """Builds an optimiser, e.g. from ``dict(name="sgd", lr=0.1, momentum=0.9)``.

    The links, in this order: clip the gradient's global norm to `clip`; for sgd and adam add
    ``weight_decay * w`` to the gradient (coupled, what PyTorch's optimisers of these names do);
    momentum or Adam's moments; for adamw add ``weight_decay * w`` to the result (decoupled);
    multiply by minus the learning rate; zero the updates of frozen leaves.

    Args:
      section: `name` (sgd, adam, adamw) and `lr` are needed. `schedule` is a section for
        `build_schedule` and multiplies `lr`. `weight_decay_mask` and `freeze` are lists of
        path patterns (`masks.mask`); without the first everything is decayed. sgd takes
        `momentum` and `nesterov`, the others `b1`, `b2`, `eps`; defaults are PyTorch's.
      total_steps: Length of the run, for the schedule.

    Raises:
      ConfigError: for unknown names and keys, and values that do not fit; at `init` for
        patterns that match nothing.

    >>> import jax.numpy as jnp
    >>> tx = build_optimizer(dict(name="sgd", lr=0.1, weight_decay=0.5), total_steps=10)
    >>> params, grads = {"w": jnp.array([2.0])}, {"w": jnp.array([1.0])}
    >>> round(float(tx.update(grads, tx.init(params), params)[0]["w"][0]), 4)
    -0.2
    """
    section = to_dict(section)
    name = section.pop("name", None)
    if name not in _KEYS:
        raise ConfigError(f"unknown optimiser {name!r}: {closest(name, _KEYS)}")
    require_keys(section, _KEYS[name], "optim")
    keys = {**_KEYS[name], **section}
    if keys["lr"] is None:
        raise ConfigError(f"optimiser {name!r} needs lr, e.g. lr=0.001")
    rate = _number(keys, "lr")
    if keys["schedule"] is not None:
        rate = build_schedule(rate, keys["schedule"], total_steps=total_steps)

    links = []
    if keys["clip"] is not None:
        if _number(keys, "clip") == 0:
            raise ConfigError("optim.clip must be above 0, got 0; None does not clip")
        links.append(optax.clip_by_global_norm(keys["clip"]))
    decay = _decay(keys)
    if name == "sgd":
        links += decay
        momentum = _number(keys, "momentum", below=1)
        if momentum:
            links.append(optax.trace(momentum, nesterov=bool(keys["nesterov"])))
        elif keys["nesterov"]:
            raise ConfigError("optim.nesterov needs momentum above 0, got momentum=0")
    else:
        moments = optax.scale_by_adam(
            _number(keys, "b1", below=1),
            _number(keys, "b2", below=1),
            _number(keys, "eps"),
        )
        links += [*decay, moments] if name == "adam" else [moments, *decay]
    links.append(optax.scale_by_learning_rate(rate))
    if keys["freeze"]:
        links.append(freeze(keys["freeze"]))
    return optax.with_extra_args_support(optax.chain(*links))


def _decay(keys: Mapping[str, Any]) -> list[optax.GradientTransformation]:
    if not _number(keys, "weight_decay"):
        return []
    patterns = keys["weight_decay_mask"]
    where = None if patterns is None else partial(mask, patterns=patterns)
    return [optax.add_decayed_weights(keys["weight_decay"], mask=where)]


def _number(keys: Mapping[str, Any], key: str, below: float = math.inf) -> int | float:
    value = keys[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"optim.{key} must be a number, got {value!r}")
    if not 0 <= value < below:
        bound = "" if below == math.inf else f" and below {below}"
        raise ConfigError(f"optim.{key} must be 0 or more{bound}, got {value}")
    return value
