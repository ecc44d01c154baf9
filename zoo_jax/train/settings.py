"""The part of a config that the loop reads; all other keys are the method's."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections

from zoo_jax.core.config import require_keys, to_dict
from zoo_jax.core.errors import ConfigError

MESH = {"devices": 0}  # 0: all
CHECKPOINT = {
    "every": 0,  # iterations; 0: only at the end (and when asked to stop)
    "keep_last": 2,
    "keep_best": 1,
    "best_metric": "",  # e.g. "valid/accuracy"
    "best_mode": "max",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What the loop reads of a config; everything else in it is the method's."""

    steps: int
    seed: int = 0
    log_every: int = 50
    accumulate: int = 1
    max_streak: int = 10  # stop after so many batches in a row that were not finite
    tensorboard: bool = True
    init_from: str = ""  # read by the binaries, not by the loop
    task: str = ""
    procedure: str = ""
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    eval: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    mesh: Mapping[str, Any] = dataclasses.field(default_factory=lambda: MESH)
    checkpoint: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: CHECKPOINT
    )

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Settings":
        """Picks the loop's keys out of a config and checks the sections it knows.

        Raises:
          ConfigError: for a missing or unknown key, or a value that cannot work.
        """
        names = {f.name for f in dataclasses.fields(cls)}
        plain = to_dict(config)
        if "steps" not in plain:
            raise ConfigError("the config has no 'steps': set config.steps")
        for section, defaults in (("mesh", MESH), ("checkpoint", CHECKPOINT)):
            given = plain.get(section, {})
            require_keys(given, defaults, section)
            plain[section] = {**defaults, **given}
        self = cls(**{k: v for k, v in plain.items() if k in names})
        for name, section in self.eval.items():
            require_keys(section, {"stream", "every", "averaged"}, f"eval.{name}")
        for name in ("steps", "log_every", "max_streak"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"{name}={getattr(self, name)}: it must be at least 1"
                )
        return self


LOOP_KEYS = frozenset(f.name for f in dataclasses.fields(Settings))


def base_config(**keys: Any) -> ml_collections.ConfigDict:
    """A config with all of the loop's keys, so that a command line can change each.

    Args:
      **keys: Values that differ from the defaults, and the method's own sections. What
        ``mesh`` and ``checkpoint`` leave out stays at its default.
    """
    config = dataclasses.asdict(Settings(steps=1))
    for name, value in keys.items():
        merge = name in ("mesh", "checkpoint")
        config[name] = {**config[name], **value} if merge else value
    return ml_collections.ConfigDict(config)
