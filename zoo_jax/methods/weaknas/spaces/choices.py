"""What a leaf of a search space may be besides a list: ranges, and leaves that come and go."""

import dataclasses
import math
from typing import Any

from zoo_jax.core.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included. Made by `integers` and `floats`."""

    low: float
    high: float
    log: bool = False
    integer: bool = False

    def __post_init__(self) -> None:
        name = "integers" if self.integer else "floats"
        ends = f"{name}({self.low!r}, {self.high!r})"
        numbers = all(
            isinstance(v, int | float) and math.isfinite(v)
            for v in (self.low, self.high)
        )
        if not numbers or not self.low < self.high:
            raise ConfigError(f"{ends}: the first number must be below the second")
        if self.integer and not (
            isinstance(self.low, int) and isinstance(self.high, int)
        ):
            raise ConfigError(f"{ends}: the ends must be integers")
        if self.log and self.low <= 0:
            raise ConfigError(f"{ends}: a logarithmic range must be above 0")

    def value(self, unit: float) -> int | float:
        """The number at a place in [0, 1]; floats keep six digits."""
        low, high = self._ends()
        number = low + (high - low) * unit
        number = math.exp(number) if self.log else number
        if self.integer:
            return int(min(max(round(number), self.low), self.high))
        return float(f"{min(max(number, self.low), self.high):.6g}")

    def place(self, value: float) -> float:
        """The place of a number in [0, 1]."""
        low, high = self._ends()
        return ((math.log(value) if self.log else value) - low) / (high - low)

    def _ends(self) -> tuple[float, float]:
        if self.log:
            return math.log(self.low), math.log(self.high)
        return self.low, self.high


def integers(low: int, high: int, *, log: bool = False) -> Range:
    """A choice of integers from `low` to `high`, both included.

    Args:
      low: Least.
      high: Most.
      log: Drawn, and seen by predictors, on a logarithmic scale.

    >>> [integers(1, 100, log=True).value(u) for u in (0.0, 0.5, 1.0)]
    [1, 10, 100]
    """
    return Range(low, high, log=log, integer=True)


def floats(low: float, high: float, *, log: bool = False) -> Range:
    """A choice of real numbers between `low` and `high`; `log` as in `integers`.

    >>> [floats(1e-4, 1e-2, log=True).value(u) for u in (0.0, 0.5, 1.0)]
    [0.0001, 0.001, 0.01]
    """
    return Range(low, high, log=log)


@dataclasses.dataclass(frozen=True)
class When:
    """A leaf that exists only if another one has one of some values. Made by `when`."""

    name: str
    values: tuple[Any, ...]
    leaf: Any


def when(name: str, values: Any, leaf: Any) -> When:
    """A leaf that exists only where the leaf `name` has the value, or one of a list of values.

    Args:
      name: The other leaf's full name, ``"optim.name"``.
      values: One value or a list or tuple of them.
      leaf: What it is there: a list, a range or a constant.
    """
    values = values if isinstance(values, list | tuple) else (values,)
    return When(name, tuple(values), leaf)
