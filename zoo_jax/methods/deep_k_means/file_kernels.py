"""Which arrays of a file are kernels, in which layout, and which of them a spec selects."""

import glob
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from zoo_jax.convert import CONV_1D, CONV_2D, CONV_3D, LINEAR
from zoo_jax.core.errors import ConfigError, WeightsError, closest
from zoo_jax.core.files import PathLike, read_json
from zoo_jax.optim.layer_spec import LayerSpec, make_spec, resolve_spec

LAYOUTS = ("auto", "torch", "flax")
TORCH = {2: LINEAR, 3: CONV_1D, 4: CONV_2D, 5: CONV_3D}  # by number of axes
_LAST_NAME = {"torch": "weight", "flax": "kernel"}
_DTYPES = ("float32", "float16", "bfloat16")
_EMBEDDING = re.compile(r"embed|(^|[._/])emb([._/]|$)")


def read_spec(path: PathLike) -> list[Mapping[str, Any]]:
    """Reads the list of layers of ``--spec``. Raises `ConfigError` or `OSError`."""
    try:
        spec = read_json(path)
    except ValueError as error:
        raise ConfigError(f"{path}: is no JSON file: {error}") from None
    if not isinstance(spec, list) or not all(isinstance(e, dict) for e in spec):
        raise ConfigError(
            f'{path}: must hold a list such as [{{"path": "*conv*", "num_clusters": 16}}]'
        )
    return spec


def find_layout(arrays: Mapping[str, np.ndarray], layout: str = "auto") -> str:
    """Tells "torch" from "flax" by the names of kernels. Raises on a mixture."""
    if layout not in LAYOUTS:
        raise ConfigError(f"unknown layout {layout!r}: {closest(layout, LAYOUTS)}")
    if layout != "auto":
        return layout
    found = [kind for kind in _LAST_NAME if any(_named(arrays, kind))]
    if not found:
        raise WeightsError(
            "holds no kernels of convolutions or dense layers (float arrays of 2 to 5 axes "
            "named weight or kernel): there is nothing to cluster"
        )
    if len(found) > 1:
        raise ConfigError(
            "holds kernels named weight and kernels named kernel: give the layout, torch "
            "or flax"
        )
    return found[0]


def _named(arrays: Mapping[str, np.ndarray], layout: str) -> list[str]:
    """Kernels by their names: ``conv1.weight``, ``params/conv1/kernel``."""
    return [
        name
        for name, array in arrays.items()
        if re.split(r"[./]", name)[-1] == _LAST_NAME[layout]
        and _is_kernel(array)
        and array.dtype.name in _DTYPES
    ]


def _is_kernel(array: np.ndarray) -> bool:
    real = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    return real and array.ndim in TORCH and array.size > 0


def find_kernels(
    arrays: Mapping[str, np.ndarray], layout: str, dense: bool
) -> dict[str, np.ndarray]:
    """The kernels that a budget may cluster, as this project lays them out."""
    names = [
        name
        for name in _named(arrays, layout)
        # Rows of an embedding are looked up, not summed: errors there do not average out.
        if not _EMBEDDING.search(name.lower()) and (dense or arrays[name].ndim > 2)
    ]
    if not names:
        raise WeightsError(
            f"holds no {'' if dense else 'convolution '}kernels to cluster ({layout} layout: "
            f"float32, float16 or bfloat16 arrays of {2 if dense else 3} to 5 axes named "
            f"{_LAST_NAME[layout]}; embeddings do not count)"
        )
    return {name: to_ours(arrays[name], layout) for name in names}


def to_ours(array: np.ndarray, layout: str) -> np.ndarray:
    """A kernel of a file as this project lays it out: window, input, output."""
    if layout == "flax" or not _is_kernel(array):
        return array
    return np.ascontiguousarray(TORCH[array.ndim].to_ours(array))


def resolve(
    spec: Sequence[Mapping[str, Any]], arrays: Mapping[str, np.ndarray], layout: str
) -> dict[str, LayerSpec]:
    """Finds what a list for `make_spec` selects. Raises `ConfigError` where it does not fit."""
    shapes = {}
    for name, array in arrays.items():
        ours = TORCH[array.ndim].to_ours(array) if _is_kernel(array) else array
        shape = ours.shape if layout == "torch" else array.shape
        shapes[name] = jax.ShapeDtypeStruct(shape, array.dtype)
    try:
        layers = resolve_spec(make_spec(spec), shapes)
    except TypeError as error:  # a string where a number belongs
        raise ConfigError(f"the spec holds a value of a wrong type: {error}") from None
    if not layers:
        raise ConfigError("the spec selects no kernel: there is nothing to cluster")
    return layers


def entry(name: str, layer: LayerSpec) -> dict[str, Any]:
    """The entry of a list for `make_spec` that selects one kernel."""
    fields = {"num_clusters": layer.num_clusters, "samples": layer.samples}
    fields |= {"core": layer.core}
    fields |= {"row_length": layer.row_length} if layer.row_length else {}
    return {"path": glob.escape(name), **fields}
