"""Key tables: which published array becomes which leaf, with complete accounting.

A table is data. A method writes it once, with plain loops over repeated blocks; `apply`
turns published arrays into variables, `invert` turns variables back into published arrays.
Nothing is skipped in silence: a key that no entry takes, a leaf that no entry fills and
a shape that does not fit are all named in one error.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from zoo_jax.convert.layout import CONV_2D, IDENTITY, LINEAR, VECTOR, Layout
from zoo_jax.core.errors import WeightsError
from zoo_jax.core.tree import first_match, named_leaves, nest

_LISTED = 20  # names per kind in one message; the count is always complete


class Entry(NamedTuple):
    """One published key and the leaf that it becomes."""

    source: str  # key in the published file, after Table.strip
    target: str  # "params/<path>" or "batch_stats/<path>" of the variables
    layout: Layout
    optional: bool = False  # if the file lacks it, the template's own value stays


@dataclasses.dataclass(frozen=True)
class Table:
    """All entries of one network.

    Attributes:
      entries: In the order of the published file, by convention.
      ignore: Shell-style patterns of published keys that the network has no use for.
      strip: Prefixes taken off published keys, e.g. ``"module."`` of data-parallel training.
      copies: Pairs of prefixes: a key that begins with the first must hold the same as the
        one that begins with the second. PyTorch stores a layer that two attributes share
        under both names.
      prepare: Applied to what the file holds before anything is matched: a file may store an
        array in parts, or number its layers. It leaves alone what the entries name.
    """

    entries: tuple[Entry, ...]
    ignore: tuple[str, ...] = ("*.num_batches_tracked",)
    strip: tuple[str, ...] = ("module.",)
    copies: tuple[tuple[str, str], ...] = ()
    prepare: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        for kind in ("source", "target"):
            names = [getattr(entry, kind) for entry in self.entries]
            twice = sorted({n for n in names if names.count(n) > 1})
            if twice:
                raise ValueError(f"more than one entry of the table has {kind} {twice}")


def conv_entries(
    source: str, target: str, *, bias: bool = True, layout: Layout = CONV_2D
) -> tuple[Entry, ...]:
    """Entries of a convolution: ``source.weight``, ``.bias`` -> ``target/kernel``, ``/bias``."""
    kernel = Entry(f"{source}.weight", f"params/{target}/kernel", layout)
    offset = Entry(f"{source}.bias", f"params/{target}/bias", VECTOR)
    return (kernel, offset) if bias else (kernel,)


def linear_entries(
    source: str, target: str, *, bias: bool = True, layout: Layout = LINEAR
) -> tuple[Entry, ...]:
    """Entries of a linear layer; `layout` may be a `flattened_linear`."""
    return conv_entries(source, target, bias=bias, layout=layout)


def batch_norm_entries(source: str, target: str) -> tuple[Entry, ...]:
    """Entries of a batch norm with affine terms and running statistics."""
    return (
        Entry(f"{source}.weight", f"params/{target}/scale", VECTOR),
        Entry(f"{source}.bias", f"params/{target}/bias", VECTOR),
        Entry(f"{source}.running_mean", f"batch_stats/{target}/mean", VECTOR),
        Entry(f"{source}.running_var", f"batch_stats/{target}/var", VECTOR),
    )


def identity_table(template: Mapping[str, Any]) -> Table:
    """The table of this project's own files: every leaf under its own name."""
    names = named_leaves(template)
    return Table(tuple(Entry(n, n, IDENTITY) for n in names), ignore=(), strip=())


@dataclasses.dataclass(frozen=True)
class Match:
    """What became of every key and every leaf."""

    leaves: dict[str, np.ndarray]  # target -> array, in the template's dtype
    matched: tuple[tuple[str, str], ...]  # (key in the file, target)
    ignored: tuple[str, ...]  # keys that Table.ignore names
    copies: tuple[str, ...]  # keys that repeat another one
    kept: tuple[str, ...]  # targets whose optional key is absent: the template's own
    unmatched: tuple[str, ...]  # keys that no entry takes
    missing: tuple[str, ...]  # keys that the table needs and the file lacks
    misfits: tuple[str, ...]  # one sentence per shape, dtype or value that does not fit
    unfilled: tuple[str, ...]  # leaves of the network that no entry of the table names
    foreign: tuple[str, ...]  # targets of the table that the network does not have

    def problems(self) -> str:
        """One line that names everything that does not fit; empty if all does."""
        kinds = (
            ("keys that the network has no place for", self.unmatched),
            ("keys that are missing", self.missing),
            ("arrays that do not fit", self.misfits),
            ("leaves of the network that the key table does not fill", self.unfilled),
            ("targets of the key table that the network lacks", self.foreign),
        )
        return "; ".join(
            f"{len(names)} {kind}: {_listed(names)}" for kind, names in kinds if names
        )


def match(
    table: Table, arrays: Mapping[str, Any], template: Mapping[str, Any]
) -> Match:
    """Compares published arrays with a network through a table. Raises nothing for misfits.

    Args:
      table: The key table of the network.
      arrays: Published key -> array.
      template: The network's variables; arrays or `jax.ShapeDtypeStruct`s.
    """
    arrays = table.prepare(arrays) if table.prepare else arrays
    keys = _stripped(arrays, table.strip)  # name in the table -> key in the file
    copies, unequal = _take_copies(table.copies, keys, arrays)
    wanted = named_leaves(template)
    leaves, matched, kept, missing, misfits, foreign = {}, [], [], [], [], []
    for entry in table.entries:
        key, leaf = keys.pop(entry.source, None), wanted.pop(entry.target, None)
        if leaf is None and not (entry.optional and key is None):
            foreign.append(entry.target)
        elif key is not None:
            matched.append((key, entry.target))
            try:
                leaves[entry.target] = _fit(arrays[key], entry.layout, leaf)
            except ValueError as error:
                misfits.append(f"{key} -> {entry.target} ({error})")
        elif entry.optional and (leaf is None or _is_concrete(leaf)):
            if leaf is not None:
                leaves[entry.target] = np.asarray(leaf)
                kept.append(entry.target)
        else:
            missing.append(entry.source)
    ignored = [k for name, k in keys.items() if first_match(name, table.ignore)]
    unmatched = [k for name, k in keys.items() if not first_match(name, table.ignore)]
    return Match(
        leaves,
        tuple(matched),
        *map(tuple, (ignored, copies, kept, unmatched, missing)),
        *map(tuple, ([*misfits, *unequal], wanted, foreign)),
    )


def apply(
    table: Table,
    arrays: Mapping[str, Any],
    template: Mapping[str, Any],
    *,
    where: str = "the weights",
) -> dict[str, Any]:
    """Turns published arrays into the variables of a network.

    Args:
      table: The key table of the network.
      arrays: Published key -> array.
      template: The network's variables; arrays or `jax.ShapeDtypeStruct`s.
      where: Names the source of the arrays in errors.

    Returns:
      Nested dictionaries of numpy arrays with the structure, shapes and dtypes of
      `template`: ``{"params": ..., "batch_stats": ...}``.

    Raises:
      WeightsError: one line that lists every unmatched key, every missing key and every
        array that does not fit.
    """
    found = match(table, arrays, template)
    if problems := found.problems():
        raise WeightsError(f"{where}: does not fit the network: {problems}")
    return nest(found.leaves)


def invert(table: Table, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Turns the variables of a network back into published keys and layouts.

    Args:
      table: The key table of the network.
      variables: ``{"params": ..., "batch_stats": ...}``.

    Returns:
      Published key -> C-contiguous array, in the order of the table.

    Raises:
      WeightsError: if a leaf is missing, has no entry, or does not fit its layout.
    """
    leaves, out, missing, misfits = named_leaves(variables), {}, [], []
    for entry in table.entries:
        leaf = leaves.pop(entry.target, None)
        if leaf is None:
            missing += [] if entry.optional else [entry.target]
            continue
        try:
            array = entry.layout.to_published(np.asarray(leaf))
        except ValueError as error:
            misfits.append(f"{entry.target} ({error})")
            continue
        out[entry.source] = np.asarray(array, order="C")
    kinds = (
        ("leaves that the key table does not name", tuple(leaves)),
        ("leaves that are missing", missing),
        ("arrays that do not fit", misfits),
    )
    if any(names for _, names in kinds):
        raise WeightsError(
            "the variables do not fit the key table: "
            + "; ".join(f"{len(n)} {kind}: {_listed(n)}" for kind, n in kinds if n)
        )
    return out


def _stripped(arrays: Mapping[str, Any], prefixes: Iterable[str]) -> dict[str, str]:
    """Maps each key without its prefixes to the key in the file."""
    out: dict[str, str] = {}
    for key in arrays:
        name = key
        for prefix in prefixes:
            name = name.removeprefix(prefix)
        if name in out:
            raise WeightsError(
                f"the keys {out[name]!r} and {key!r} are the same without their prefix:"
                " the file holds two networks; keep one of them"
            )
        out[name] = key
    return out


def _take_copies(
    copies: Iterable[tuple[str, str]], keys: dict[str, str], arrays: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """Takes copies out of `keys`; names those that are equal, and says which are not.

    A copy whose original is absent stands in for it: safetensors files hold one of the two.
    """
    equal, unequal = [], []
    for name in list(keys):
        for copy, original in copies:
            if not name.startswith(copy):
                continue
            key, of = keys.pop(name), original + name.removeprefix(copy)
            if of not in keys:
                keys[of] = key
            elif _same_bits(arrays[key], arrays[keys[of]]):
                equal.append(key)
            else:
                unequal.append(f"{key} (is not the copy of {keys[of]} that it must be)")
            break
    return equal, unequal


def _same_bits(a: Any, b: Any) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    same = a.shape == b.shape and a.dtype == b.dtype
    return same and a.tobytes() == b.tobytes()


def _fit(array: Any, layout: Layout, leaf: Any) -> np.ndarray:
    """The array in our layout and in the leaf's dtype; `ValueError` says what is wrong."""
    array = np.asarray(array)
    real = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    if not real and array.dtype.kind not in "iub":
        raise ValueError(f"holds {array.dtype}, not real numbers")
    if real and np.dtype(leaf.dtype).kind in "iub":
        raise ValueError(f"holds {array.dtype}; needed is {leaf.dtype}")
    shape = array.shape
    array = layout.to_ours(array)
    if array.shape != tuple(leaf.shape):
        becomes = f", which becomes {array.shape}" if array.shape != shape else ""
        raise ValueError(f"has shape {shape}{becomes}; needed is {tuple(leaf.shape)}")
    with np.errstate(over="ignore"):  # a value beyond the leaf's range: caught below
        array = np.asarray(array, dtype=leaf.dtype, order="C")
    if not np.isfinite(array).all():
        raise ValueError("holds values that are not finite")
    return array


def _is_concrete(leaf: Any) -> bool:
    return hasattr(leaf, "__array__")


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
