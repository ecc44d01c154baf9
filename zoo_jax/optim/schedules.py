"""Schedules from a config section: a base value times a factor that depends on the step."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax

from zoo_jax.core.config import require_keys, to_dict
from zoo_jax.core.errors import ConfigError, closest

# Keys of each schedule with their defaults.
_KEYS: dict[str, dict[str, Any]] = {
    "constant": {"warmup": 0},
    "cosine": {"warmup": 0, "end": 0.0},
    "linear": {"warmup": 0, "hold": 0, "end": 0.0},
    "linear_by_run": {"warmup": 0, "hold": 0, "end": 0.0, "run": 1.0, "every": 1},
    "poly": {"warmup": 0, "power": 0.9, "every": 1},
    "step": {"warmup": 0, "boundaries": None, "factors": 0.1},
    "exponential": {"start": 1e-3, "end": 1.0, "steps": 1.0},
}


def build_schedule(
    value: float | int, section: Mapping[str, Any] | None, *, total_steps: int
) -> optax.Schedule:
    """Builds ``step -> value * factor(step)``.

    Lengths of time are steps where they are whole numbers, and shares of `total_steps` where
    they are fractions up to 1.0: ``warmup=500`` or ``warmup=0.05``.

    - ``constant``
    - ``cosine``: half a cosine from 1 to `end` (default 0), reached at `total_steps`.
    - ``linear``: 1 for `hold`, then a line to `end`, reached at `total_steps`.
    - ``linear_by_run``: the same line with a slope for the whole `run` (default `total_steps`)
      in place of what is left of it after `hold`, so that `end` is never reached; changed only
      every `every` steps. The released code of DeblurGAN-v2 (arXiv 1908.03826) decays so:
      with 50 of 200 epochs held, the last one trains with a quarter of the rate.
    - ``poly``: (1 - step / total)^`power`, changed only every `every` steps: the schedule of
      DeepLab (arXiv 1606.00915) and of many segmentation codes after it.
    - ``step``: after each of `boundaries` the factor is multiplied by the next of `factors`
      (one number serves all of them).
    - ``exponential``: from `start` to `end` with equal ratios over `steps`, then constant;
      for a strength that rises, or a rate that decays.

    All but the last take `warmup`: the factor rises in equal steps and reaches 1 in the last
    of them; it is never 0.

    Args:
      value: What the factor multiplies, e.g. the peak learning rate.
      section: ``dict(name="cosine", warmup=500)``; None is constant.
      total_steps: Length of the run.

    Raises:
      ConfigError: for unknown names and keys, and values that do not fit.

    >>> rate = build_schedule(0.1, dict(name="cosine", warmup=2), total_steps=12)
    >>> [round(float(rate(step)), 3) for step in (0, 1, 2, 7, 12)]
    [0.05, 0.1, 0.1, 0.05, 0.0]
    """
    _require_number(value, "the scheduled value")
    if total_steps < 1:
        raise ConfigError(f"total_steps must be 1 or more, got {total_steps}")
    section = {} if section is None else to_dict(section)
    if not isinstance(section, dict):
        raise ConfigError(f"a schedule is dict(name=...) or None, got {section!r}")
    section = {"name": "constant", **section}
    name = section.pop("name")
    if name not in _KEYS:
        raise ConfigError(f"unknown schedule {name!r}: {closest(name, _KEYS)}")
    require_keys(section, _KEYS[name], "schedule")
    keys = {**_KEYS[name], **section}
    if name == "exponential":
        factor = _exponential(keys, total_steps)
    else:
        factor = _warm(keys, total_steps, _SHAPES[name])
    return lambda step: value * factor(step)


def _warm(keys, total_steps, make):
    warmup = steps_of(keys["warmup"], total_steps, "warmup")
    if warmup >= total_steps and warmup:
        raise ConfigError(
            f"schedule.warmup of {warmup} steps does not fit into {total_steps} steps"
        )
    shape = make(keys, warmup, total_steps)
    return lambda step: jnp.minimum((step + 1) / max(warmup, 1), 1.0) * shape(step)


def _constant(keys, warmup, total_steps):
    return lambda step: 1.0


def _line(step, begin: int, end: int):
    """0 up to `begin`, 1 from `end`, straight between."""
    return jnp.clip((step - begin) / (end - begin), 0.0, 1.0)


def _cosine(keys, warmup, total_steps):
    end = _require_number(keys["end"], "schedule.end")

    def factor(step):
        done = _line(step, warmup, total_steps)
        return end + (1 - end) * 0.5 * (1 + jnp.cos(jnp.pi * done))

    return factor


def _linear(keys, warmup, total_steps):
    end = _require_number(keys["end"], "schedule.end")
    hold = max(warmup, steps_of(keys["hold"], total_steps, "hold"))
    if hold >= total_steps:
        raise ConfigError(
            f"schedule.hold of {hold} steps leaves none of {total_steps} to decay"
        )
    return lambda step: 1 + (end - 1) * _line(step, hold, total_steps)


def _linear_by_run(keys, warmup, total_steps):
    end = _require_number(keys["end"], "schedule.end")
    hold = max(warmup, steps_of(keys["hold"], total_steps, "hold"))
    run = steps_of(keys["run"], total_steps, "run")
    every = steps_of(keys["every"], total_steps, "every")
    if run < 1 or every < 1:
        raise ConfigError(
            f"schedule.run and schedule.every need 1 step or more, got {run} and {every}"
        )

    def factor(step):
        since = jnp.maximum(step // every * every - hold, 0)
        return 1 + (end - 1) * jnp.minimum(since / run, 1.0)

    return factor


def _poly(keys, warmup, total_steps):
    power = _require_number(keys["power"], "schedule.power")
    every = steps_of(keys["every"], total_steps, "every")
    if power <= 0 or every < 1:
        raise ConfigError(
            f"schedule 'poly' needs power > 0 and every of 1 or more, got {power}, {every}"
        )

    def factor(step):
        left = 1 - jnp.minimum(step // every * every / total_steps, 1.0)
        return left**power

    return factor


def _step(keys, warmup, total_steps):
    boundaries, factors = keys["boundaries"], keys["factors"]
    if not boundaries:
        raise ConfigError(
            "schedule 'step' needs boundaries, e.g. boundaries=[0.5, 0.75]"
        )
    if not isinstance(factors, list):
        factors = [factors] * len(boundaries)
    if len(factors) != len(boundaries):
        raise ConfigError(
            f"schedule.factors has {len(factors)} entries for {len(boundaries)} boundaries"
        )
    at = [steps_of(b, total_steps, "boundaries") for b in boundaries]
    if at != sorted(set(at)):
        raise ConfigError(
            f"schedule.boundaries must rise, got {boundaries} (steps {at})"
        )
    for factor in factors:
        _require_number(factor, "schedule.factors")

    def value(step):
        return math.prod(
            jnp.where(step >= b, f, 1.0) for b, f in zip(at, factors, strict=True)
        )

    return value


def _exponential(keys, total_steps):
    start = _require_number(keys["start"], "schedule.start")
    end = _require_number(keys["end"], "schedule.end")
    length = steps_of(keys["steps"], total_steps, "steps")
    if start <= 0 or end <= 0 or length < 1:
        raise ConfigError(
            "schedule 'exponential' needs start > 0, end > 0 and steps of 1 or more, got "
            f"{start}, {end}, {length}"
        )
    return lambda step: start * (end / start) ** _line(step, 0, length)


_SHAPES = {
    "constant": _constant,
    "cosine": _cosine,
    "linear": _linear,
    "linear_by_run": _linear_by_run,
    "poly": _poly,
    "step": _step,
}


def steps_of(
    length: Any, total_steps: int, key: str, *, where: str = "schedule"
) -> int:
    """Steps of a length that is given in steps or as a share of the run.

    Args:
      length: A whole number of steps, or a fraction up to 1.0 of `total_steps`.
      total_steps: Length of the run.
      key: For the message.
      where: The section that the key belongs to, for the message.

    Raises:
      ConfigError: for anything else.
    """
    _require_number(length, f"{where}.{key}")
    if length < 0 or (isinstance(length, float) and length > 1):
        raise ConfigError(
            f"{where}.{key} is a number of steps (whole) or a share of the run (0.0 to "
            f"1.0), got {length}"
        )
    return length if isinstance(length, int) else round(length * total_steps)


def _require_number(value: Any, where: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{where} must be a number, got {value!r}")
    if not math.isfinite(value):
        raise ConfigError(f"{where} must be finite, got {value}")
    return value
