"""Which kernels are clustered, and how, from a config."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from zoo_jax.core.config import require_keys, to_dict
from zoo_jax.core.errors import ConfigError
from zoo_jax.optim.layer_spec import LayerSpec

NETWORK = "network"  # the one network, and the one player that moves it


def make_spec(
    layers: Sequence[Mapping[str, Any]], *, prefix: str = f"{NETWORK}/"
) -> dict[str, LayerSpec | None]:
    """Reads which kernels are clustered, and how, from a config.

    A list, since the first pattern that matches decides and config sections are sorted.

    Args:
      layers: Entries ``dict(path="conv2/kernel", num_clusters=16, ...)`` with a shell-style
        pattern and the fields of `LayerSpec`; without ``num_clusters`` a match is left alone.
      prefix: Put before each pattern.

    Raises:
      ConfigError: for an entry without ``path`` or with a field that does not exist.

    >>> make_spec([{"path": "stem/*"}, {"path": "*/kernel", "num_clusters": 8}])
    ... # doctest: +NORMALIZE_WHITESPACE
    {'network/stem/*': None, 'network/*/kernel': LayerSpec(num_clusters=8, samples='row',
     core=0.0, row_length=None)}
    """
    fields = ("path", *inspect.signature(LayerSpec).parameters)
    spec: dict[str, LayerSpec | None] = {}
    for index, entry in enumerate(map(to_dict, layers)):
        require_keys(entry, fields, f"layers[{index}]")
        pattern = entry.pop("path", None)
        if not isinstance(pattern, str):
            raise ConfigError(f"layers[{index}] needs a path pattern, got {pattern!r}")
        if entry and "num_clusters" not in entry:
            raise ConfigError(f"layers[{index}] ({pattern!r}) lacks num_clusters")
        spec[f"{prefix}{pattern}"] = LayerSpec(**entry) if entry else None
    return spec
