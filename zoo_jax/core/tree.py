"""Names for the leaves of nested dictionaries of arrays."""

import fnmatch
from collections.abc import Callable, Iterable
from typing import Any

import jax


def path_name(path: tuple) -> str:
    """``"conv_1/kernel"`` for a key path of `jax.tree_util.tree_flatten_with_path`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(
    tree: Any, is_leaf: Callable[[Any], bool] | None = None
) -> dict[str, Any]:
    """Returns ``{"conv_1/kernel": leaf, ...}`` in flattening order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
    return {path_name(path): leaf for path, leaf in leaves}


def map_named(f: Callable[..., Any], tree: Any, *rest: Any, is_leaf=None) -> Any:
    """Maps ``f(name, leaf, *other_leaves)`` over `tree`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf, *others: f(path_name(path), leaf, *others),
        tree,
        *rest,
        is_leaf=is_leaf,
    )


def nest(flat: dict[str, Any], separator: str = "/") -> dict[str, Any]:
    """Turns ``{"a/b": 1}`` into ``{"a": {"b": 1}}``.

    Raises:
      ValueError: if one name is also the prefix of another.
    """
    out: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, last = name.split(separator)
        node = out
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"{name!r} lies below {parent!r}, which is a leaf")
        if last in node:
            raise ValueError(f"{name!r} is both a leaf and a folder")
        node[last] = value
    return out


def first_match(name: str, patterns: Iterable[str]) -> str | None:
    """First shell-style pattern that `name` matches, or None. ``*`` also crosses ``/``."""
    return next((p for p in patterns if fnmatch.fnmatchcase(name, p)), None)


def count_parameters(tree: Any) -> int:
    """Number of scalars in all leaves."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(tree))
