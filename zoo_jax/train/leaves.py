"""Leaves of a state on their way between the devices and a checkpoint."""

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from zoo_jax.core.errors import CheckpointError
from zoo_jax.core.tree import named_leaves

_NAMES_SHOWN = 6


def flatten(state: Any) -> tuple[dict[str, Any], list[str]]:
    """Leaves by name, and the names of the nodes that have no children."""

    def is_empty(node: Any) -> bool:
        tree = jax.tree.structure(node)
        return tree.num_leaves == 0 and tree.num_nodes == 1

    every = named_leaves(state, is_leaf=is_empty)
    leaves = {name: leaf for name, leaf in every.items() if not is_empty(leaf)}
    return leaves, [name for name in every if name not in leaves]


def describe(leaf: Any) -> dict[str, Any]:
    """Shape and dtype of a leaf, and of a typed key its generator."""
    out = {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}
    if isinstance(leaf, jax.Array) and _is_key(leaf):
        out["key"] = str(jax.random.key_impl(leaf))
    return out


def require_same(saved: Mapping, wanted: Mapping, where: str) -> None:
    """Compares two states by what `describe` says of their leaves.

    Raises:
      CheckpointError: names the leaves by which they differ.
    """
    have = {n: f"{d['dtype']}{tuple(d['shape'])}" for n, d in saved.items()}
    need = {n: f"{d['dtype']}{tuple(d['shape'])}" for n, d in wanted.items()}
    parts = []
    if missing := sorted(need.keys() - have.keys()):
        parts.append(f"it lacks {_some(missing)}")
    if extra := sorted(have.keys() - need.keys()):
        parts.append(f"it also has {_some(extra)}")
    if other := [n for n in need if n in have and have[n] != need[n]]:
        parts.append(_some([f"{n} is {have[n]}, not {need[n]}" for n in other]))
    if parts:
        raise CheckpointError(
            f"{where} belongs to another model or optimiser: {'; '.join(parts)};"
            " use the config that it was made with, or another workdir"
        )


def to_host(leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Copies of whole leaves that share no memory with the devices. Keys become their data."""
    plain = {
        name: jax.random.key_data(leaf) if _is_key(leaf) else leaf
        for name, leaf in leaves.items()
    }
    for leaf in plain.values():
        if isinstance(leaf, jax.Array):
            leaf.copy_to_host_async()  # all transfers run at once
    return {name: _to_host(leaf) for name, leaf in plain.items()}


def place(hosts: Mapping[str, np.ndarray], described: Mapping, template: Any) -> Any:
    """The leaves as arrays with the structure and the shardings of a template."""
    out = []
    for name, like in named_leaves(template).items():
        host, sharding = hosts[name], getattr(like, "sharding", None)
        if sharding is None:
            leaf = jax.device_put(host)
        else:
            leaf = jax.make_array_from_callback(
                host.shape, sharding, lambda index, host=host: host[index]
            )
        if impl := described[name].get("key"):
            leaf = jax.random.wrap_key_data(leaf, impl=impl)
        out.append(leaf)
    return jax.tree.unflatten(jax.tree.structure(template), out)


def crc32(host: np.ndarray) -> int:
    """CRC-32 of the bytes of an array in C order."""
    return zlib.crc32(np.ascontiguousarray(host).reshape(-1).view(np.uint8))


def matches(host: np.ndarray, described: Mapping[str, Any]) -> bool:
    """Whether an array is the one that `describe` and `crc32` were taken of."""
    shape, dtype = tuple(described["shape"]), described["dtype"]
    if "key" in described:
        shape, dtype = (*shape, *host.shape[len(shape) :]), "uint32"
    same = host.shape == shape and str(host.dtype) == dtype
    return same and crc32(host) == described["crc32"]


def _to_host(leaf: Any) -> np.ndarray:
    spread = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
    if spread and not leaf.is_fully_replicated:
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    # On CPU np.asarray would be a view of a buffer that is about to be donated.
    return np.array(leaf)


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _some(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
