"""Optimisers from a config section."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import optax

from zoo_jax.core.config import require_keys, to_dict
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.optim.kmeans import kmeans_regularization, share_cluster_updates
from zoo_jax.optim.layer_spec import make_spec
from zoo_jax.optim.masks import freeze, mask, thaw
from zoo_jax.optim.realign import realign_gradients, skip_when_empty
from zoo_jax.optim.schedules import build_schedule, steps_of

_COMMON = {
    "lr": None,
    "schedule": None,
    "weight_decay": 0.0,
    "weight_decay_mask": None,
    "clip": None,
    "freeze": None,
    "thaw": None,
    "kmeans": None,
    "share_updates": None,
    "realign": None,
}
_REALIGN = ("rule", "level", "gamma", "quantile", "shared", "normalize", "num_terms")
_LEVELS: dict[str, Literal["per_term", "per_example_term"]] = {
    "batch": "per_term",
    "example": "per_example_term",
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
    multiply by minus the learning rate; zero the updates of frozen leaves. ``thaw`` wraps all of
    it (`masks.thaw`): leaves that match its `layers` are held until `at`, a step or a share of the
    run; then everything starts again with fresh moments, and schedules from their beginning. Shares
    of time in a schedule, and its end, are of the part behind `at`. Two sections of Deep k-Means
    (arXiv 1806.09228) make any task's networks compressible:

    - ``kmeans``, a `kmeans_regularization`: `layers` (see `make_spec`), `strength` and its
      `schedule`, `relaxation`, `refresh_every`, `seed`. With sgd a loss term, the first link of
      all. Adam would rescale such a term, so with adam and adamw it is decoupled: a pull by
      learning rate x strength after the optimiser.
    - ``share_updates``, a `share_cluster_updates`: `layers` and `reduce`, for training the
      centres of a network whose kernels are assigned already. First link and last.

    ``realign``, a `realign_gradients` in front of everything else, makes the terms of a loss stop
    working against each other: `rule`, `level`, `gamma`, `quantile`, `shared`, `normalize` and
    `num_terms`. At the level ``"batch"`` (the default) it takes one gradient per term, at
    ``"example"`` one per example and term: the player must make them (`gradient_form`). `gamma`
    and `quantile` are sections of `build_gate`. A batch of which nothing is kept moves nothing.

    Args:
      section: `name` (sgd, adam, adamw) and `lr` are needed. `schedule` is a section for
        `build_schedule` and multiplies `lr`. `weight_decay_mask`, `freeze` and the `layers`
        of `thaw` are lists of path patterns (`masks.mask`); without the first everything is
        decayed. sgd takes `momentum` and `nesterov`, the others `b1`, `b2`, `eps`; defaults are
        PyTorch's.
          Empty or None for `thaw`, `kmeans`, `share_updates` and `realign` is without.
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
    hold = _thaw(keys, total_steps)
    if hold:
        total_steps -= hold["at"]
    rate = _number(keys, "lr")
    if keys["schedule"] is not None:
        rate = build_schedule(rate, keys["schedule"], total_steps=total_steps)

    kmeans = _kmeans(keys, rate if name != "sgd" else None, total_steps)
    share = _share_updates(keys)
    if kmeans and share:
        raise ConfigError(
            "optim.kmeans and optim.share_updates exclude each other: the first moves "
            "samples toward shared ones, the second needs samples that are shared already"
        )

    links = share[:1] + (kmeans if name == "sgd" else [])
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
    links += kmeans if name != "sgd" else []
    if keys["freeze"]:
        links.append(freeze(keys["freeze"]))
    links += share[1:]
    tx = optax.chain(*links)
    realign = _realign(keys, total_steps)
    if realign is not None:
        tx = optax.chain(realign, skip_when_empty(tx))
    if hold:
        tx = thaw(tx, hold["layers"], at=hold["at"])
    return optax.with_extra_args_support(tx)


def gradient_form(
    section: Mapping[str, Any],
) -> Literal["sum", "per_term", "per_example_term"]:
    """What ``Player.gradient`` must be for an optimiser of this config section.

    Raises:
      ConfigError: for a level of `realign` that is none.

    >>> gradient_form(dict(name="adam", lr=0.1, realign=dict(rule="pcgrad")))
    'per_term'
    """
    realign = to_dict(to_dict(section).get("realign") or {})
    if not realign:
        return "sum"
    level = realign.get("level", "batch")
    if level not in _LEVELS:
        raise ConfigError(
            f"unknown optim.realign.level {level!r}: {closest(level, _LEVELS)}"
        )
    return _LEVELS[level]


def build_gate(
    value: Any, *, total_steps: int, where: str
) -> float | optax.Schedule | None:
    """A threshold or a share that may change in a line over the run.

    Args:
      value: A number; ``dict(start=-0.5, end=0.0, over=0.3)``, which ends after `over`, steps
        or a share of the run (default 1.0); or None.
      total_steps: Length of the run.
      where: Its name, for messages.

    Raises:
      ConfigError: for anything else.

    >>> gate = build_gate(dict(start=-1.0, end=0.0, over=0.5), total_steps=8, where="gamma")
    >>> [float(gate(step)) for step in (0, 2, 4, 8)]
    [-1.0, -0.5, 0.0, 0.0]
    """
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    line = to_dict(value) if isinstance(value, Mapping) else {}
    require_keys(line, ("start", "end", "over"), where)
    numbers = [line.get(key) for key in ("start", "end")]
    if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        raise ConfigError(
            f"{where} is a number or dict(start=, end=, over=) of numbers, got {value!r}"
        )
    over = steps_of(line.get("over", 1.0), total_steps, "over", where=where)
    return optax.linear_schedule(*numbers, max(over, 1))


def _realign(
    keys: Mapping[str, Any], total_steps: int
) -> optax.GradientTransformationExtraArgs | None:
    section = _section(keys, "realign", ("rule",), optional=_REALIGN)
    if not section:
        return None
    level = gradient_form(keys)
    options = {k: v for k, v in section.items() if k != "level"}
    for gate in ("gamma", "quantile"):
        options[gate] = build_gate(
            options.get(gate), total_steps=total_steps, where=f"optim.realign.{gate}"
        )
    examples = 0 if level == "per_example_term" else None
    return realign_gradients(example_axis=examples, **options)


def _thaw(keys: Mapping[str, Any], total_steps: int) -> dict[str, Any]:
    section = _section(keys, "thaw", ("layers", "at"))
    if not section:
        return {}
    at = steps_of(section["at"], total_steps, "at", where="optim.thaw")
    if not 0 < at < total_steps:
        raise ConfigError(
            f"optim.thaw.at is step {at} of {total_steps}: it must lie between the first and "
            "the last; optim.freeze holds leaves for the whole run"
        )
    return {"layers": section["layers"], "at": at}


def _kmeans(
    keys: Mapping[str, Any], rate: float | optax.Schedule | None, total_steps: int
) -> list[optax.GradientTransformationExtraArgs]:
    needed = ("layers", "strength", "relaxation", "refresh_every")
    section = _section(keys, "kmeans", needed, optional=("schedule", "seed"))
    if not section:
        return []
    schedule = section.get("schedule")
    return [
        kmeans_regularization(
            build_schedule(section["strength"], schedule, total_steps=total_steps),
            make_spec(section["layers"]),
            refresh_every=section["refresh_every"],
            relaxation=section["relaxation"],
            seed=section.get("seed", 0),
            decoupled=rate is not None,
            learning_rate=rate,
        )
    ]


def _share_updates(
    keys: Mapping[str, Any],
) -> list[optax.GradientTransformationExtraArgs]:
    section = _section(keys, "share_updates", ("layers", "reduce"))
    if not section:
        return []
    spec = make_spec(section["layers"])
    return [
        share_cluster_updates(spec, reduce=section["reduce"]),
        share_cluster_updates(spec, reduce="first"),  # bit for bit
    ]


def _section(
    keys: Mapping[str, Any], name: str, needed: Sequence[str], optional: Sequence = ()
) -> dict[str, Any]:
    section = to_dict(keys[name] or {})
    if section:
        require_keys(section, (*needed, *optional), f"optim.{name}")
    for key in needed if section else ():
        if key not in section:
            raise ConfigError(
                f"optim.{name} lacks {key!r}: it needs {', '.join(needed)}"
            )
    return section


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
