"""The batch files of CIFAR-10: pickles, read without running what they say."""

import pathlib
import pickle
from typing import Any

import numpy as np

from zoo_jax.core.errors import DataError


class _DType:
    """Stands for numpy.dtype; remembers the name."""

    def __init__(self, name: Any, *_: Any):
        self.name = name.decode() if isinstance(name, bytes) else name

    def __setstate__(self, state: Any) -> None:
        del state


class _Array:
    """Stands for numpy.ndarray; takes shape, type and bytes."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _DType) or dtype.name not in ("u1", "|u1") or fortran:
            raise pickle.UnpicklingError("not a row-major array of uint8")
        self.value = np.frombuffer(raw, np.uint8).reshape(shape)


def _make_array(*_: Any) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return text.encode("latin1")


# Every name that a batch file may use, and what it means here: none runs code of the file or
# of NumPy's own unpickling.
_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _make_array,
    ("numpy._core.multiarray", "_reconstruct"): _make_array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ADMITTED[module, name]


def read_batch(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads one batch file.

    Args:
      path: E.g. ``cifar-10-batches-py/data_batch_1``.

    Returns:
      Images (uint8 [n, 32, 32, 3]) and labels (int64 [n]).

    Raises:
      DataError: if the file is absent, damaged, or a pickle that wants to run code.
    """
    try:
        with path.open("rb") as f:
            batch = _Unpickler(f, encoding="bytes").load()
        data, labels = batch[b"data"].value, np.array(batch[b"labels"], np.int64)
        images = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    except FileNotFoundError:
        raise DataError(f"no file {path}") from None
    except Exception as e:
        # A damaged pickle raises whatever its instructions trip over.
        raise DataError(
            f"{path} is not a batch of CIFAR-10 ({type(e).__name__}: {e}): get the "
            "official file again"
        ) from None
    if labels.shape != (len(images),):
        raise DataError(f"{path}: {len(images)} images but labels {labels.shape}")
    return np.ascontiguousarray(images), labels
