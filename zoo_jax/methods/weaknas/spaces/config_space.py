"""A search space of your own: a config whose leaves are choices.

A Python file defines ``get_space()``, which returns a `ml_collections.ConfigDict` or a nested
dictionary. A leaf that is a list or tuple is a choice among its values; `integers` and `floats`
are ranges; any other leaf is a constant::

    from zoo_jax.methods.weaknas.spaces import floats, integers, when

    def get_space():
        return dict(
            model=dict(width=[16, 32, 64], depth=integers(2, 8)),
            optim=dict(
                name=["sgd", "adam"],
                lr=floats(1e-4, 1e-1, log=True),
                momentum=when("optim.name", "sgd", floats(0.8, 0.99)),
            ),
            steps=1000,
        )

    def is_valid(config):  # optional
        return config["model"]["width"] * config["model"]["depth"] <= 256

A constant that is a list is a choice of one: ``[[1, 2]]``.
"""

import dataclasses
import hashlib
import importlib.util
import itertools
import math
import pathlib
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
from jaxtyping import Float32, Int

from zoo_jax.core.config import to_dict
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.tree import nest
from zoo_jax.methods.weaknas.spaces.choices import Range, When
from zoo_jax.methods.weaknas.spaces.pool import Pool
from zoo_jax.methods.weaknas.spaces.sampling import draw_distinct

_LISTED = 100_000  # combinations that are listed rather than drawn


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """One leaf: a range, or the values of a choice (one for a constant)."""

    name: str
    range: Range | None
    values: tuple[Any, ...]
    conditions: tuple[
        tuple[int, tuple[Any, ...]], ...
    ]  # (number of a leaf, its values)

    @property
    def count(self) -> float:
        """How many values it has."""
        if self.range is None:
            return len(self.values)
        whole = self.range.high - self.range.low + 1
        return whole if self.range.integer else math.inf

    @property
    def width(self) -> int:
        """How many features it has; a constant has none."""
        if self.range is not None:
            return 1
        return len(self.values) if len(self.values) > 1 else 0

    def listed(self) -> Sequence[Any]:
        """All values of a finite leaf."""
        if self.range is None:
            return self.values
        return range(int(self.range.low), int(self.range.high) + 1)

    def draw(self, unit: float) -> Any:
        """A value by a number in [0, 1)."""
        if self.range is None:
            return self.values[int(unit * len(self.values))]
        if self.range.integer and not self.range.log:
            return int(self.range.low + int(unit * self.count))  # all equally likely
        return self.range.value(unit)


class _Absent:
    """The value of a leaf whose condition is not met."""

    def __repr__(self) -> str:
        return "absent"


_ABSENT = _Absent()


class Space:
    """The leaves of a space, in an order in which conditions come before what they govern.

    Args:
      space: What ``get_space()`` returned.
      is_valid: Which configs to admit; None admits all.

    Raises:
      ConfigError: for a leaf that JSON cannot hold, or a condition on an unknown leaf.
    """

    def __init__(self, space: Any, is_valid: Callable[[dict], bool] | None = None):
        self.leaves = _ordered(_leaves(space))
        self._is_valid = is_valid

    def __len__(self) -> int:
        return len(self.leaves)

    @property
    def combinations(self) -> float:
        """How many there are at most; infinite with a range of real numbers."""
        return math.prod(leaf.count for leaf in self.leaves)

    def admit(self, values: Sequence[Any]) -> tuple[Any, ...] | None:
        """Puts `absent` for leaves whose condition is not met; None for an invalid config."""
        out: list[Any] = []
        for leaf, value in zip(self.leaves, values, strict=True):
            there = all(out[at] in allowed for at, allowed in leaf.conditions)
            out.append(value if there else _ABSENT)
        if self._is_valid is not None and not self._is_valid(self.config(out)):
            return None
        return tuple(out)

    def config(self, values: Sequence[Any]) -> dict[str, Any]:
        """The nested dictionary that a trial gets; absent leaves are not in it."""
        flat = {
            leaf.name: to_dict(value)
            for leaf, value in zip(self.leaves, values, strict=True)
            if value is not _ABSENT
        }
        return nest(flat, separator=".")

    def describe(self, values: Sequence[Any]) -> str:
        """``name=value`` for every leaf that is there and not a constant."""
        return " ".join(
            f"{leaf.name}={value}"
            for leaf, value in zip(self.leaves, values, strict=True)
            if leaf.width and value is not _ABSENT
        )

    def encode(self, values: Sequence[Any]) -> Float32[np.ndarray, "d"]:
        """Features: choices one-hot, ranges as their place in [0, 1], absent leaves zeros."""
        out = []
        for leaf, value in zip(self.leaves, values, strict=True):
            part = np.zeros(leaf.width, np.float32)
            if leaf.width and value is not _ABSENT:
                if leaf.range is None:
                    part[_place(leaf.values, value)] = 1
                else:
                    part[0] = leaf.range.place(value)
            out.append(part)
        return np.concatenate(out)


def build_pool(*, path: pathlib.Path, size: int = 10_000, seed: int = 0) -> Pool:
    """Opens the space of a Python file. It has no labels.

    Up to `size` configs, all of them are in the pool, and it has neighbours: configs
    that differ in one leaf (not counting leaves that come or go with it). Otherwise the pool
    is a sample of `size` distinct ones.

    Args:
      path: The file.
      size: Most configs in the pool.
      seed: Of the sample.

    Raises:
      ConfigError: if the file is missing, fails, or defines no usable space.
    """
    if size < 1:
        raise ConfigError(f"size must be at least 1, got size={size}")
    space = load_space(path)
    if space.combinations <= _LISTED:
        combined = itertools.product(*(leaf.listed() for leaf in space.leaves))
        rows = _distinct(filter(None, map(space.admit, combined)))
        complete = len(rows) <= size
        if not complete:
            chosen = np.random.default_rng(seed).permutation(len(rows))[:size]
            rows = [rows[i] for i in np.sort(chosen)]
    else:
        rows, complete = _sample(space, size, seed), False
    if not rows:
        raise ConfigError(f"{path}: is_valid admits no config of the space")
    codes = _codes(rows)

    def neighbours(index: int) -> Int[np.ndarray, "q"]:
        both = (codes >= 0) & (codes[index] >= 0)
        return np.flatnonzero(((codes != codes[index]) & both).sum(axis=1) == 1)

    return Pool(
        name=path.stem,
        features=np.stack([space.encode(row) for row in rows]),
        labels={},
        classes=np.arange(len(rows), dtype=np.int32),
        describe=lambda i: space.describe(rows[i]),
        config=lambda i: space.config(rows[i]),
        neighbours=neighbours if complete else None,
    )


def load_space(path: pathlib.Path) -> Space:
    """Runs a Python file and takes its ``get_space()``. Raises `ConfigError`."""
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file with a search space")
    spec = importlib.util.spec_from_file_location(f"space_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        get_space = getattr(module, "get_space", None)
        if get_space is None:
            raise ConfigError(f"{path}: defines no get_space()")
        returned = get_space()
    except ConfigError:
        raise
    except Exception as error:
        raise _user_error(path, error) from error
    if not isinstance(returned, Mapping | ml_collections.ConfigDict):
        raise ConfigError(
            f"{path}: get_space() returned {type(returned).__name__}, not a ConfigDict or dict"
        )
    is_valid = getattr(module, "is_valid", None)

    def admits(config: dict[str, Any]) -> bool:
        try:
            return bool(is_valid(config))
        except Exception as error:
            raise _user_error(path, error) from error

    try:
        return Space(returned, None if is_valid is None else admits)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _user_error(path: pathlib.Path, error: Exception) -> ConfigError:
    """One line for whatever the user's own code trips over."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame.lineno for frame in frames if frame.filename == str(path)]
    line = own[-1] if own else getattr(error, "lineno", "?")
    return ConfigError(f"{path}, line {line}: {type(error).__name__}: {error}")


def _leaves(space: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted names of the leaves; sections may be dictionaries or ConfigDicts."""
    out: dict[str, Any] = {}
    for key, value in space.items():
        name = f"{prefix}{key}"
        if "." in str(key):
            raise ConfigError(f"{name}: a name must not hold a dot")
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            out.update(_leaves(value, f"{name}."))
        else:
            out[name] = value
    return out


def _ordered(named: dict[str, Any]) -> list[_Leaf]:
    """Leaves in the order given, but conditions before what they govern."""
    out: list[_Leaf] = []
    number: dict[str, int] = {}
    waiting = dict(named)
    if not waiting:
        raise ConfigError("the space is empty")
    while waiting:
        for name, leaf in waiting.items():
            conditions = []
            inner = leaf
            while isinstance(inner, When):
                if inner.name not in named:
                    raise ConfigError(
                        f"{name} depends on {inner.name!r}: {closest(inner.name, named)}"
                    )
                conditions.append((inner.name, inner.values))
                inner = inner.leaf
            if all(other in number for other, _ in conditions):
                break
        else:
            raise ConfigError(f"{', '.join(waiting)} depend on each other")
        del waiting[name]
        number[name] = len(out)
        at = tuple((number[other], values) for other, values in conditions)
        out.append(_leaf(name, inner, at))
    return out


def _leaf(name: str, leaf: Any, conditions: tuple) -> _Leaf:
    if isinstance(leaf, Range):
        return _Leaf(name, leaf, (), conditions)
    values = leaf if isinstance(leaf, list | tuple) else (leaf,)
    if not values:
        raise ConfigError(f"{name}: an empty list is no choice")
    try:
        plain = tuple(to_dict(value) for value in values)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    twice = [v for i, v in enumerate(plain) if _place(plain, v) != i]
    if twice:
        raise ConfigError(f"{name}: lists {twice[0]!r} twice")
    return _Leaf(name, None, plain, conditions)


def _place(values: Sequence[Any], value: Any) -> int:
    """Like ``values.index(value)``, but 1 is not True."""
    return next(
        i for i, v in enumerate(values) if v == value and type(v) is type(value)
    )


def _distinct(rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return list({repr(row): row for row in rows}.values())


def _sample(space: Space, size: int, seed: int) -> list[tuple[Any, ...]]:
    drawn: list[tuple[Any, ...] | None] = []

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        batch = [
            space.admit(
                [leaf.draw(u) for leaf, u in zip(space.leaves, units, strict=True)]
            )
            for units in rng.random((min(size, 1024), len(space)))
        ]
        numbers = len(drawn) + np.arange(len(batch))
        drawn.extend(batch)
        digests = [hashlib.sha256(repr(row).encode()).digest() for row in batch]
        forms = np.array([list(digest) for digest in digests], np.uint8)
        return numbers, forms, np.array([row is not None for row in batch])

    chosen = draw_distinct(size, seed, draw, mend="lower size, or widen the space")
    return [drawn[i] for i in chosen]


def _codes(rows: list[tuple[Any, ...]]) -> Int[np.ndarray, "m leaves"]:
    """Equal values of a leaf get equal numbers; -1 is absent."""
    columns = []
    for column in zip(*rows, strict=True):
        number: dict[str, int] = {}
        columns.append(
            [
                -1 if v is _ABSENT else number.setdefault(repr(v), len(number))
                for v in column
            ]
        )
    return np.array(columns).T
