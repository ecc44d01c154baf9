"""The part of a config that the loop reads; all other keys are the method's."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from zoo_jax.core.config import require_keys, to_dict
from zoo_jax.core.errors import ConfigError


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
    mesh: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    checkpoint: Mapping[str, Any] = dataclasses.field(default_factory=dict)

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
        self = cls(**{k: v for k, v in plain.items() if k in names})
        require_keys(self.mesh, {"devices"}, "mesh")
        require_keys(
            self.checkpoint,
            {"every", "keep_last", "keep_best", "best_metric", "best_mode"},
            "checkpoint",
        )
        for name, section in self.eval.items():
            require_keys(section, {"stream", "every", "averaged"}, f"eval.{name}")
        for name in ("steps", "log_every", "max_streak"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"{name}={getattr(self, name)}: it must be at least 1"
                )
        return self


LOOP_KEYS = frozenset(f.name for f in dataclasses.fields(Settings))
