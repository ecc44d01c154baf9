"""Files of measurements: finding them, and reading them without trusting them."""

import bz2
import collections
import io
import os
import pathlib
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zoo_jax.core.errors import DataError
from zoo_jax.core.files import PathLike

_LIMIT = (
    1 << 30
)  # bytes after decompression; the largest compact table has a few megabytes
# What a pickle may name beside plain values, and the types of the numbers in it.
_FACTORIES = {"dict": dict, "list": list, "set": set, "int": int, "float": float}
_DTYPES = {"f8", "f4", "i8", "i4", "u1", "b1"}


def locate(table: PathLike | None, default: str, origin: str) -> pathlib.Path:
    """The path of a table that must exist.

    Args:
      table: Where the user says it is, or None for `default`.
      default: Its place below ``$ZOO_DATA``.
      origin: A sentence for the message: where the table comes from.

    Raises:
      DataError: if there is nothing.
    """
    root = os.environ.get("ZOO_DATA")
    if table is not None:
        path = pathlib.Path(table).expanduser()
    elif root:
        path = pathlib.Path(root).expanduser() / default
    else:
        raise DataError(
            f"no table: give table=FILE (on a command line --table FILE), or let the environment variable ZOO_DATA name the "
            f"folder that holds {default}; {origin}"
        )
    if not path.exists():
        raise DataError(f"no table {path}: {origin}")
    return path


def load_npz(
    path: pathlib.Path,
    shapes: Mapping[str, Sequence[int | None]],
    optional: Mapping[str, Sequence[int | None]] | None = None,
) -> dict[str, np.ndarray]:
    """Reads the arrays of a compact table.

    Args:
      path: The ``.npz`` file.
      shapes: Array that must be there -> its shape; None matches any length, but the first
        axes of all these arrays must be equally long.
      optional: The same for arrays that may be absent.

    Returns:
      All arrays of the file.

    Raises:
      DataError: if the file is no npz, holds Python objects, or lacks an array or shape.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(item.file_size for item in archive.infolist())
        if size > _LIMIT:
            raise ValueError(f"unpacks to {size:,} bytes")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    # A damaged member raises whatever its decompression or header trips over.
    except Exception as error:
        raise DataError(
            f"{path}: is no table in npz form ({error}): get the file again"
        ) from None
    rows = None
    present = {k: v for k, v in (optional or {}).items() if k in arrays}
    for name, shape in {**shapes, **present}.items():
        if name not in arrays:
            raise DataError(
                f"{path}: lacks the array {name!r}; it has {', '.join(sorted(arrays))}"
            )
        array = arrays[name]
        rows = array.shape[:1] if rows is None else rows
        fits = array.ndim == len(shape) and all(
            want in (None, have) for want, have in zip(shape, array.shape, strict=True)
        )
        if array.dtype.kind not in "iuf":
            raise DataError(f"{path}: array {name!r} holds {array.dtype}, no numbers")
        if not fits or array.shape[:1] != rows:
            wanted = tuple("m" if n is None else n for n in shape)
            raise DataError(
                f"{path}: array {name!r} has shape {array.shape}, not {wanted} with "
                f"m = {rows[0] if rows else 0}"
            )
    if rows == (0,):
        raise DataError(f"{path}: the table is empty")
    return arrays


def read_pickle(path: pathlib.Path) -> Any:
    """Reads a pickle (plain or ``.pbz2``) of plain values without running what it says.

    Dictionaries, lists, strings and numbers, NumPy's scalars and arrays of numbers among
    them, are read; a pickle that names anything else is refused.

    Raises:
      DataError: if the file is absent, damaged, too large, or asks for code.
    """
    try:
        opened = bz2.open(path) if path.suffix == ".pbz2" else path.open("rb")
        with opened as file:
            head = file.read(_LIMIT + 1)
        if len(head) > _LIMIT:
            raise ValueError(f"unpacks to more than {_LIMIT:,} bytes")
        return loads(head)
    except FileNotFoundError:
        raise DataError(f"no file {path}") from None
    # A damaged pickle raises whatever its instructions trip over.
    except Exception as error:
        raise DataError(
            f"{path}: is no pickle of plain values ({type(error).__name__}: {error}): get "
            "the official file again"
        ) from None


def loads(data: bytes) -> Any:
    """`read_pickle` of bytes. Raises `pickle.UnpicklingError` and kin."""
    return _plain(_Unpickler(io.BytesIO(data)).load())


class _DType:
    """Stands for numpy.dtype; keeps the name of a type of numbers."""

    def __init__(self, name: Any, *_: Any):
        if name not in _DTYPES:
            raise pickle.UnpicklingError(f"numbers of type {name!r}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands for numpy.ndarray; takes shape, type and bytes."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, raw = state
        order = "F" if fortran else "C"
        self.value = np.frombuffer(raw, kind.dtype).reshape(shape, order=order)


def _scalar(kind: _DType, raw: bytes) -> Any:
    return np.frombuffer(raw, kind.dtype)[0].item()


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            known = {"scalar": _scalar, "_reconstruct": _reconstruct}
        elif module == "numpy":
            known = {"dtype": _DType, "ndarray": _Array}
        elif module == "_codecs":  # how protocol 2 writes bytes
            known = {"encode": _encode}
        elif module == "collections":
            known = {
                "OrderedDict": collections.OrderedDict,
                "defaultdict": collections.defaultdict,
            }
        else:
            known = _FACTORIES if module in ("builtins", "__builtin__") else {}
        if name not in known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return known[name]


def _plain(value: Any) -> Any:
    """Arrays for their stand-ins, dictionaries for their relatives."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return value


def one_hot(index: np.ndarray, count: int) -> np.ndarray:
    """Unit vectors along a new last axis, float32; a negative index gives zeros."""
    return (np.asarray(index)[..., None] == np.arange(count)).astype(np.float32)


def choose_runs(
    path: pathlib.Path, arrays: Mapping[str, np.ndarray], name: str, seed: int
) -> np.ndarray:
    """The measurement of one training run for each row, drawn once.

    Args:
      path: For the message.
      arrays: Of the table.
      name: The array of single runs, with the runs on its last axis; NaN is no run.
      seed: Of the draw.

    Raises:
      DataError: if the table has the means only.
    """
    if name not in arrays:
        raise DataError(
            f"{path}: lacks the array {name!r} of single runs: take label='mean', or make "
            "the table anew from the official files"
        )
    runs = arrays[name]
    draw = np.random.default_rng(seed).random(runs.shape)
    chosen = np.argmax(np.where(np.isnan(runs), -1, draw), axis=-1)
    return np.take_along_axis(runs, chosen[..., None], axis=-1)[..., 0]
