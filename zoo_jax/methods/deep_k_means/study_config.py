"""The config of a comparison over seeds: its checks, and the sections of an arm."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from zoo_jax.core.config import require_keys, to_dict
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.methods.deep_k_means.artefact import check_codebook_dtype

Layers = Sequence[Mapping[str, Any]]


class Budget(NamedTuple):
    """What an arm does for one size of file."""

    layers: Layers  # for `make_spec`
    sharing: Mapping[str, Any] = {}  # in place of keys of the arm's section


_STUDY = (
    *("seeds", "at_once", "stream", "shift", "retrain_steps", "centre_steps"),
    *("centre_optim", "reduce", "norm_batches", "codebook_dtype", "ratios"),
)
_ARM = ("optim", "sharing", "budgets")


def read_options(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The section ``study``.

    Raises:
      ConfigError: for what does not fit.
    """
    section = to_dict(config.get("study") or {})
    require_keys(section, _STUDY, "study")
    for key in _STUDY:
        if key not in section:
            raise ConfigError(f"study lacks {key!r}: it needs {', '.join(_STUDY)}")
    seeds = section["seeds"]
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise ConfigError(
            f"study.seeds needs two or more different numbers (for an error), got {seeds}"
        )
    for name in ("at_once", "retrain_steps", "centre_steps", "norm_batches"):
        if section[name] < 1:
            raise ConfigError(f"study.{name} must be at least 1, got {section[name]}")
    if section["stream"] not in config.data:
        raise ConfigError(
            f"study.stream={section['stream']!r} is not in config.data: "
            f"{closest(section['stream'], config.data)}"
        )
    for name in ("arms", "budgets"):
        if not config.get(name):
            raise ConfigError(f"config.{name} is empty: the study needs one at least")
    check_codebook_dtype(section["codebook_dtype"])
    return section


def read_arm(name: str, section: Any) -> dict[str, Any]:
    """One section of ``arms``.

    Raises:
      ConfigError: for what does not fit.
    """
    section = to_dict(section)
    where = f"arms.{name}"
    require_keys(section, _ARM, where)
    if section.get("sharing") and not section.get("optim"):
        raise ConfigError(
            f"{where}.sharing needs {where}.optim: it shares while training"
        )
    return section


def read_budgets(
    config: ml_collections.ConfigDict, arm: Mapping[str, Any]
) -> dict[str, Budget]:
    """The budgets of an arm: its own, or those of the config.

    Each is a list of layers, or a section with ``layers`` and ``sharing``.

    Raises:
      ConfigError: for another key.
    """
    budgets = {}
    for name, section in to_dict(arm.get("budgets") or config.budgets).items():
        if not isinstance(section, Mapping):
            section = {"layers": section}
        require_keys(section, Budget._fields, f"budgets.{name}")
        if "layers" not in section:
            raise ConfigError(f"budgets.{name} lacks 'layers'")
        budgets[name] = Budget(**section)
    return budgets


def at_budget(
    arm: Mapping[str, Any], budget: Budget
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sections ``optim`` and ``sharing`` of an arm at one budget."""
    optim, sharing = dict(arm["optim"]), dict(arm.get("sharing") or {})
    if optim.get("kmeans"):
        optim["kmeans"] = {"layers": budget.layers, **optim["kmeans"]}
    if sharing:
        sharing = {"layers": budget.layers, **sharing, **budget.sharing}
    return optim, sharing
