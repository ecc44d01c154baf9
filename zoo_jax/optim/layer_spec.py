"""Which kernels are clustered, and how: path patterns -> `LayerSpec`."""

import dataclasses
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float

from zoo_jax.core.config import require_keys, to_dict
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.tree import first_match, named_leaves
from zoo_jax.core.types import Params
from zoo_jax.optim.samples import Samples, from_matrix, sample_shape, to_matrix


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """How one kernel is clustered.

    Raises:
      ConfigError: for values that fit no kernel.

    >>> LayerSpec(64), LayerSpec(8, "filter").samples
    (LayerSpec(num_clusters=64, samples='row', core=0.0, row_length=None), 'filter')
    """

    num_clusters: int
    samples: Samples = "row"  # what is clustered, see `clustering.sample_shape`
    core: float = 0.0  # share of samples in one cluster around the mean, see `assign`
    row_length: int | None = None  # of the rows of a dense kernel

    def __post_init__(self) -> None:
        if not isinstance(self.num_clusters, int) or self.num_clusters < 1:
            raise ConfigError(
                f"num_clusters must be a whole number from 1, got {self.num_clusters!r}"
            )
        if self.samples not in get_args(Samples):
            hint = closest(self.samples, get_args(Samples))
            raise ConfigError(f"unknown samples {self.samples!r}: {hint}")
        if not 0 <= self.core < 1:
            raise ConfigError(f"core must be within 0 <= core < 1, got {self.core}")

    def matrix(self, kernel: Float[Array, "*shape"]) -> Float[Array, "n d"]:
        """The samples of a kernel, in float32 or better."""
        x = to_matrix(kernel, self.samples, self.row_length)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def kernel(self, matrix: Float[Array, "n d"], like: Array) -> Float[Array, "*s"]:
        """A kernel shaped like `like` from its samples, with its dtype."""
        shape = like.shape
        out = from_matrix(matrix, shape, self.samples, self.row_length)
        return out.astype(like.dtype)


Layer = LayerSpec | Mapping[str, Any] | None
Spec = Mapping[str, Layer] | Sequence[tuple[str, Layer]]


def resolve_spec(spec: Spec, params: Params) -> dict[str, LayerSpec]:
    """Finds the kernels that a spec selects.

    Args:
      spec: Shell-style pattern of a leaf's path -> `LayerSpec`, a mapping of its fields, or
        None for "leave alone". The first pattern that matches a leaf decides. Also a list of
        such pairs: an `ml_collections.ConfigDict` sorts its keys, so patterns that overlap
        must stand in a list there.
      params: Arrays, or shapes from `jax.eval_shape`.

    Returns:
      Path of each selected leaf -> its `LayerSpec`, in flattening order.

    Raises:
      ConfigError: if a pattern decides nothing, or selects a leaf that is no kernel or has
        too few samples.

    >>> params = {"stem": {"kernel": jnp.zeros((3, 3, 3, 8))},
    ...           "conv": {"kernel": jnp.zeros((3, 3, 8, 8)), "bias": jnp.zeros(8)}}
    >>> spec = {"stem/*": None, "*/kernel": {"num_clusters": 16}}
    >>> [(path, layer.num_clusters) for path, layer in resolve_spec(spec, params).items()]
    [('conv/kernel', 16)]
    """
    pairs = spec.items() if hasattr(spec, "items") else spec
    layers = {pattern: _layer(pattern, value) for pattern, value in pairs}
    leaves = named_leaves(params)
    deciding = {name: first_match(name, layers) for name in leaves}
    if isinstance(spec, ml_collections.ConfigDict):
        _require_no_overlap(layers, leaves)
    for pattern in layers:
        if pattern in deciding.values():
            continue
        hidden = [name for name in leaves if first_match(name, [pattern])]
        if hidden:
            raise ConfigError(
                f"cluster pattern {pattern!r} never decides: {hidden[0]!r} is matched by "
                f"{deciding[hidden[0]]!r} before it; put the narrower pattern first"
            )
        raise ConfigError(
            f"cluster pattern {pattern!r} matches no parameter: {closest(pattern, leaves)}"
        )
    out = {}
    for name, pattern in deciding.items():
        layer = layers[pattern] if pattern else None
        if layer is not None:
            _check(pattern, name, leaves[name], layer)
            out[name] = layer
    return out


def make_spec(layers: Sequence[Mapping[str, Any]]) -> dict[str, LayerSpec | None]:
    """Reads which kernels are clustered, and how, from a config.

    A list, since the first pattern that matches decides and config sections are sorted.

    Args:
      layers: Entries ``dict(path="network/conv2/kernel", num_clusters=16, ...)`` with a
        shell-style pattern and the fields of `LayerSpec`; without ``num_clusters`` a match is
        left alone.

    Returns:
      A spec for `resolve_spec`.

    Raises:
      ConfigError: for an entry without ``path`` or with a field that does not exist.

    >>> make_spec([{"path": "stem/*"}, {"path": "*/kernel", "num_clusters": 8}])
    ... # doctest: +NORMALIZE_WHITESPACE
    {'stem/*': None, '*/kernel': LayerSpec(num_clusters=8, samples='row', core=0.0,
     row_length=None)}
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
        spec[pattern] = LayerSpec(**entry) if entry else None
    return spec


def _require_no_overlap(patterns: Iterable[str], leaves: Iterable[str]) -> None:
    for name in leaves:
        matching = [p for p in patterns if first_match(name, [p])]
        if len(matching) > 1:
            raise ConfigError(
                f"cluster patterns {matching[0]!r} and {matching[1]!r} both match {name!r}, "
                "and a ConfigDict forgets their order; write a list [(pattern, layer), ...]"
            )


def _layer(pattern: str, value: Any) -> LayerSpec | None:
    if value is None or isinstance(value, LayerSpec):
        return value
    if hasattr(value, "to_dict"):  # an ml_collections.ConfigDict
        value = value.to_dict()
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"cluster pattern {pattern!r} needs dict(num_clusters=...) or None, "
            f"got {value!r}"
        )
    fields = [field.name for field in dataclasses.fields(LayerSpec)]
    require_keys(value, fields, f"cluster pattern {pattern!r}")
    if "num_clusters" not in value:
        raise ConfigError(f"cluster pattern {pattern!r} lacks num_clusters")
    return LayerSpec(**value)


def _check(pattern: str, name: str, leaf: Any, layer: LayerSpec) -> None:
    where = f"cluster pattern {pattern!r} selects {name!r} {tuple(leaf.shape)}"
    if not jnp.issubdtype(leaf.dtype, jnp.floating) or len(leaf.shape) < 2:
        raise ConfigError(
            f"{where} {leaf.dtype}, which is no kernel; end the pattern in /kernel "
            f"or put {name!r}: None before it"
        )
    try:
        n, _ = sample_shape(leaf.shape, layer.samples, layer.row_length)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    room = n - int(n * layer.core) + 1 if int(n * layer.core) else n
    if layer.num_clusters > room:
        raise ConfigError(
            f"{where}: {n} {layer.samples} samples with core {layer.core} make at most "
            f"{room} clusters, got num_clusters={layer.num_clusters}"
        )
