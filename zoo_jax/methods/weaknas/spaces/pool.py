"""The pool: a finite list of architectures with what a search may know about each."""

import dataclasses
import importlib
import inspect
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, Int32

from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.files import PathLike

Neighbours = Callable[[int], Int[np.ndarray, "q"]]


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """Every architecture of a pool as a directed graph with labelled nodes.

    Attributes:
      adjacency: 1 where an edge runs from node i to node j, else 0.
      ops: The operation of every node, one-hot; a row of zeros is no node.
    """

    adjacency: Float32[np.ndarray, "m n n"]
    ops: Float32[np.ndarray, "m n k"]


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """The architectures that a search chooses from; items are named by their index.

    Attributes:
      name: The space and, where there are several, its data set: ``nas_bench_201/cifar100``.
      features: What predictors see.
      labels: Measured values, higher is better, NaN where there is none. ``"search"`` is what
        a search may query, ``"test"`` the judge. Empty if nothing has been measured.
      classes: Number of the class of architectures that compute the same function, or None
        where it is not known.
      graph: For predictors that work on graphs, or None.
      costs: ``"params"``, ``"flops"`` (multiply-adds), ``"latency"`` (seconds): what is known.
      describe: The architecture in the printed form of its space.
      neighbours: Indices one edit away, without the item itself; None where the pool is a
        sample in which edits lead outside.
      config: The architecture as values that JSON can hold: what a program that trains it
        needs. By default what `describe` says.
    """

    name: str
    features: Float32[np.ndarray, "m d"]
    labels: Mapping[str, Float32[np.ndarray, "m"]]
    describe: Callable[[int], str]
    classes: Int32[np.ndarray, "m"] | None = None
    graph: Graph | None = None
    costs: Mapping[str, Float32[np.ndarray, "m"]] = dataclasses.field(
        default_factory=dict
    )
    neighbours: Neighbours | None = None
    config: Callable[[int], Any] | None = None

    def __post_init__(self) -> None:
        if self.config is None:
            object.__setattr__(self, "config", self.describe)
        arrays = {"features": self.features, **self.labels, **self.costs}
        if self.classes is not None:
            arrays["classes"] = self.classes
        if self.graph is not None:
            arrays |= {"adjacency": self.graph.adjacency, "ops": self.graph.ops}
        for name, array in arrays.items():
            if len(array) != len(self):
                raise ValueError(
                    f"{self.name}: {name} has {len(array)} rows, features {len(self)}"
                )

    def __len__(self) -> int:
        return len(self.features)


_HERE = "zoo_jax.methods.weaknas.spaces"

# Name -> "module:function"; the function takes keyword arguments, among them ``table`` if the
# space is read from a file and ``dataset`` if it was measured on several.
SPACES: dict[str, str] = {
    "nas_bench_201": f"{_HERE}.nas_bench_201:build_pool",
    "nas_bench_101": f"{_HERE}.nas_bench_101:build_pool",
    "nas_bench_graph": f"{_HERE}.nas_bench_graph:build_pool",
    "ofa_mobilenet_v3": f"{_HERE}.ofa_mobilenet_v3:build_pool",
    "darts": f"{_HERE}.darts:build_pool",
    "synthetic": "zoo_jax.methods.weaknas.synthetic:build_pool",
}


def open_pool(
    name: str,
    *,
    table: PathLike | None = None,
    dataset: str | None = None,
    **options: Any,
) -> Pool:
    """Opens a search space.

    Args:
      name: A key of `SPACES`, or the path of a Python file that defines ``get_space()`` (see
        `config_space`).
      table: The file with the measurements, for spaces that are read from one.
      dataset: Which measurements, for spaces that were measured on several data sets.
      **options: Further arguments of the space: ``encoding``, ``size``, ``seed``, ...

    Returns:
      The pool.

    Raises:
      ConfigError: for an unknown space, data set or option.
      DataError: for a table that is missing or malformed.
    """
    given = {"table": table, "dataset": dataset, **options}
    # Configs write "" for an argument that is not given.
    given = {key: value for key, value in given.items() if value not in (None, "")}
    if str(name).endswith(".py"):
        build = _import(f"{_HERE}.config_space:build_pool")
        given["path"] = pathlib.Path(name)
    elif name in SPACES:
        build = _import(SPACES[name])
    else:
        raise ConfigError(
            f"unknown search space {name!r} (no Python file either): {closest(name, SPACES)}"
        )
    allowed = inspect.signature(build).parameters
    for key in given:
        if key not in allowed:
            raise ConfigError(
                f"search space {name!r} has no argument {key!r}: {closest(key, allowed)}"
            )
    return build(**given)


def _import(path: str) -> Callable[..., Pool]:
    module, function = path.split(":")
    return getattr(importlib.import_module(module), function)
