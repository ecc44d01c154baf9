"""Reads the HDF5 weights files of Keras; the only module that imports h5py, and only when called.

A file has one group per layer, and names of its arrays that changed with Keras:
``block1_conv1/block1_conv1_W_1:0``, ``conv2d_1/conv2d_1/kernel:0``, ... All become
``<layer>/<array>`` with today's names of arrays, which `zoo_jax.convert.keras` knows.
"""

import pathlib
import re
from typing import Any

import numpy as np

from zoo_jax.convert.read import require_expansion
from zoo_jax.core.errors import WeightsError

MAX_ARRAYS = 10_000
_NAMES = {  # today's name -> the names of all times, at the end of a data set's name
    "kernel": "kernel|W",
    "bias": "bias|b",
    "gamma": "gamma",
    "beta": "beta",
    "moving_mean": "moving_mean|running_mean",
    "moving_variance": "moving_variance|running_std",  # which held the variance
}
_ENDS = [
    (name, re.compile(rf"(?:.*[_/])?(?:{old})(?:_\d+)?(?::\d+)?"))
    for name, old in _NAMES.items()
]


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the weights of a Keras file, of weights alone or of a whole model.

    Returns:
      ``{"<layer>/<array>": array}``. An array of an unknown kind keeps its own name.

    Raises:
      WeightsError: if the file is damaged or unsafe, holds no weights, or h5py is absent.
    """
    try:
        import h5py
    except ImportError:
        raise WeightsError(
            f'{path}: is an HDF5 (Keras) file; to read it: pip install "zoo-jax[keras]"'
        ) from None
    try:
        with h5py.File(path, "r") as file:
            root = file["model_weights"] if "model_weights" in file else file
            found = _data_sets(path, h5py, root)
            require_expansion(path, sum(d.nbytes for d in found.values()))
            return {key: np.asarray(d[()]) for key, d in found.items()}
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise WeightsError(
            f"{path}: is no intact HDF5 (Keras) file: {reason}; fetch it again"
        ) from None


def _data_sets(path: pathlib.Path, h5py: Any, root: Any) -> dict[str, Any]:
    """Key -> data set; nothing is read yet. Links to other files are not followed."""
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or "/" not in name:
            return
        if item.external or item.is_virtual:
            raise WeightsError(f"{path}: {name} lies in another file: refused")
        if item.dtype.kind not in "fiu":
            raise WeightsError(f"{path}: {name} holds {item.dtype}, not real numbers")
        layer, _, own = name.partition("/")
        kinds = [kind for kind, end in _ENDS if end.fullmatch(own)]
        key = f"{layer}/{kinds[0] if kinds else own}"
        if key in found:
            raise WeightsError(f"{path}: holds {key} twice ({name}): refused")
        found[key] = item
        if len(found) > MAX_ARRAYS:
            raise WeightsError(f"{path}: holds more than {MAX_ARRAYS} arrays: refused")

    root.visititems(visit)
    if not found:
        raise WeightsError(f"{path}: is an HDF5 file without weights of layers")
    return found
