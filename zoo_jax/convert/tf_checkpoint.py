"""Reads TensorFlow 2 checkpoints without TensorFlow, trusting nothing in them.

``ckpt-1`` is a pair of files. ``ckpt-1.index`` is a sorted string table as in LevelDB: blocks of
entries whose keys share prefixes, an index of the blocks, and a footer. It maps the name of a
tensor to its dtype, shape, and place in a data file (message ``BundleEntryProto``); the empty name
maps to a header. ``ckpt-1.data-00000-of-00001`` and its siblings hold the bytes of the tensors
one after another. Every block and every tensor has a CRC-32C, and all of them are checked.

Sizes are checked before anything is allocated; no code in a file is run. What is no array of
numbers, such as the graph of objects that TensorFlow stores along, is left out and named.

Source: tensorflow/core/util/tensor_bundle and tensorflow/core/lib/io, as of TensorFlow 2.21.
"""

import math
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from zoo_jax.core.errors import WeightsError
from zoo_jax.core.wire import long_crc32c, mask, read_varint, wire_fields

INDEX = ".index"
MAX_INDEX = 4 * 2**20  # bytes: about 30,000 tensors
MAX_NAMES = 32 * 2**20  # bytes of all names; shared prefixes could make them many more
MAX_SHARDS = 10_000
_BFLOAT16 = 14
_SLOT = "/.OPTIMIZER_SLOT/"  # in the names of what optimisers remember of a variable
_MAGIC = 0xDB4775248B80FB57  # the last eight bytes of a sorted string table
_FOOTER = 48
_DTYPES = {  # of the enum DataType: those of real numbers
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    4: np.dtype("u1"),
    5: np.dtype("<i2"),
    6: np.dtype("i1"),
    9: np.dtype("<i8"),
    10: np.dtype("?"),
    14: np.dtype("<u2"),  # bfloat16, widened below
    17: np.dtype("<u2"),
    19: np.dtype("<f2"),
    22: np.dtype("<u4"),
    23: np.dtype("<u8"),
}


class _Tensor(NamedTuple):
    """One entry of the index."""

    code: int  # of its dtype
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int  # bytes
    crc: int  # masked

    @property
    def dtype(self) -> np.dtype | None:
        """None if it is no array of real numbers."""
        return _DTYPES.get(self.code)


def index_of(path: pathlib.Path) -> pathlib.Path | None:
    """The index file of a checkpoint, if it exists.

    Args:
      path: Any file of the checkpoint, or what their names have in common.
    """
    path = pathlib.Path(path)
    prefix = re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", path.name)
    index = path.with_name(prefix + INDEX)
    # A file of that very name is something else.
    other = prefix == path.name and path.exists()
    return index if index.is_file() and not other else None


def read(
    path: pathlib.Path,
) -> tuple[dict[str, np.ndarray], tuple[str, ...], tuple[str, ...]]:
    """Reads a checkpoint.

    Args:
      path: ``.../ckpt-500000``, or one of its files.

    Returns:
      ``({name: array}, names of what was left out, names that are bfloat16 in the file)``. Left
      out are the variables of optimisers that belong to others, and what is no array.

    Raises:
      WeightsError: if a file is missing, damaged, unsafe, or of a kind that is not read.
    """
    index = index_of(path)
    if index is None:
        raise WeightsError(f"{path}: there is no {INDEX} file of that checkpoint")
    try:
        tensors, shards = _read_index(index)
    except ValueError as error:
        raise WeightsError(
            f"{index}: is no intact index of a TensorFlow checkpoint: {error}; fetch it again"
        ) from None
    prefix = index.name.removesuffix(INDEX)
    arrays = {}
    for shard in range(shards):
        data = index.with_name(f"{prefix}.data-{shard:05d}-of-{shards:05d}")
        inside = {k: t for k, t in tensors.items() if t.shard == shard}
        try:
            arrays |= _read_data(data, inside)
        except FileNotFoundError:
            raise WeightsError(
                f"{data}: is missing beside {index.name}; fetch all files of the checkpoint"
            ) from None
        except ValueError as error:
            raise WeightsError(f"{data}: {error}; fetch it again") from None
    skipped = tuple(name for name in tensors if name not in arrays)
    widened = tuple(name for name in arrays if tensors[name].code == _BFLOAT16)
    return {name: arrays[name] for name in tensors if name in arrays}, skipped, widened


def _read_data(
    path: pathlib.Path, tensors: dict[str, _Tensor]
) -> dict[str, np.ndarray]:
    """The arrays of one data file; `ValueError` says which is damaged."""
    size = path.stat().st_size
    for name, tensor in tensors.items():
        if tensor.offset + tensor.size > size:
            raise ValueError(
                f"is cut short: {name} ends at byte {tensor.offset + tensor.size:,} of {size:,}"
            )
    # Two names for the same bytes would multiply them in memory.
    if sum(tensor.size for tensor in tensors.values()) > size:
        raise ValueError("its tensors overlap: refused")
    arrays = {}
    with path.open("rb") as f:
        for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offset):
            if tensor.dtype is None or _SLOT in name:
                continue
            f.seek(tensor.offset)
            data = bytearray(tensor.size)
            if f.readinto(data) != tensor.size or mask(long_crc32c(data)) != tensor.crc:
                raise ValueError(f"{name} fails its checksum")
            array = np.frombuffer(data, tensor.dtype).reshape(tensor.shape)
            if tensor.code == _BFLOAT16:
                # numpy itself has none; float32 holds every value of it, as its upper half
                array = (array.astype(np.uint32) << 16).view(np.float32)
            arrays[name] = array
    return arrays


def _read_index(path: pathlib.Path) -> tuple[dict[str, _Tensor], int]:
    """The tensors by name, and the number of data files."""
    size = path.stat().st_size
    if size > MAX_INDEX:
        raise ValueError(f"it has {size:,} bytes; at most {MAX_INDEX:,} are read")
    data = path.read_bytes()
    if len(data) < _FOOTER or int.from_bytes(data[-8:], "little") != _MAGIC:
        raise ValueError("its last bytes are not those of a sorted string table")
    footer = data[-_FOOTER:]
    _, at = _handle(footer, 0)  # of a block of filters, which is not needed
    (start, length), _ = _handle(footer, at)
    entries: dict[bytes, bytes] = {}
    read, names = 0, 0
    for _, value in _block(data, start, length):
        (start, length), _ = _handle(value, 0)
        read += length
        if read > len(data):
            raise ValueError("its blocks overlap")
        for key, entry in _block(data, start, length):
            names += len(key)
            if names > MAX_NAMES:
                raise ValueError(f"its names have more than {MAX_NAMES:,} bytes")
            if key in entries:
                raise ValueError(f"it holds {_text(key)} twice")
            entries[key] = entry
    shards = _shards(entries.pop(b"", None))
    tensors = {}
    for key, entry in entries.items():
        name = _text(key)
        tensors[name] = tensor = _tensor(name, entry)
        if tensor.shard >= shards:
            raise ValueError(f"{name} is in data file {tensor.shard} of {shards}")
    return tensors, shards


def _block(data: bytes, start: int, length: int) -> Iterator[tuple[bytes, bytes]]:
    """The entries of a block, which is followed by a kind and a checksum."""
    if start + length + 5 > len(data):
        raise ValueError("a block ends behind the end of the file")
    block, kind = data[start : start + length], data[start + length]
    crc = int.from_bytes(data[start + length + 1 : start + length + 5], "little")
    if mask(long_crc32c(data[start : start + length + 1])) != crc:
        raise ValueError(f"the block at byte {start:,} fails its checksum")
    if kind != 0:
        raise ValueError(
            f"it is compressed (kind {kind}), which TensorFlow does not do"
        )
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * restarts
    if end < 0:
        raise ValueError(f"the block at byte {start:,} has no room for its restarts")
    at, key = 0, b""
    while at < end:
        shared, at = read_varint(block, at)
        fresh, at = read_varint(block, at)
        size, at = read_varint(block, at)
        if shared > len(key) or at + fresh + size > end:
            raise ValueError(f"an entry of the block at byte {start:,} does not fit it")
        key = key[:shared] + block[at : at + fresh]
        at += fresh
        yield key, block[at : at + size]
        at += size


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Start and length of a block, and the place behind them."""
    start, at = read_varint(data, at)
    length, at = read_varint(data, at)
    return (start, length), at


def _shards(header: bytes | None) -> int:
    """Number of data files, from a ``BundleHeaderProto``."""
    if header is None:
        raise ValueError("it has no header")
    fields = dict(wire_fields(header))
    if fields.get(2, 0) != 0:
        raise ValueError("it was written on a machine with the other byte order")
    shards = fields.get(1, 0)
    if not isinstance(shards, int) or not 1 <= shards <= MAX_SHARDS:
        raise ValueError(f"it names {shards!r} data files")
    return shards


def _tensor(name: str, entry: bytes) -> _Tensor:
    """What a ``BundleEntryProto`` says; omitted fields are zero."""
    fields = list(wire_fields(entry))
    numbers = {1: 0, 3: 0, 4: 0, 5: 0, 6: 0} | {
        number: value for number, value in fields if number in (1, 3, 4, 5, 6)
    }
    if not all(isinstance(value, int) for value in numbers.values()):
        raise ValueError(f"the entry of {name} has fields of another kind")
    if any(number == 7 for number, _ in fields):
        raise ValueError(f"{name} is stored in slices, which are not read")
    shape = tuple(
        size
        for number, message in fields
        if number == 2
        for size in _shape(name, message)
    )
    tensor = _Tensor(numbers[1], shape, *(numbers[i] for i in (3, 4, 5, 6)))
    dtype = tensor.dtype
    if dtype is not None and math.prod(shape) * dtype.itemsize != tensor.size:
        raise ValueError(
            f"{name} has shape {shape} of {dtype}, but {tensor.size:,} bytes"
        )
    return tensor


def _shape(name: str, message: bytes) -> Iterator[int]:
    """The sizes of a ``TensorShapeProto``."""
    if not isinstance(message, bytes):
        raise ValueError(f"the shape of {name} is no message")
    for number, value in wire_fields(message):
        if number == 2:
            size = (
                dict(wire_fields(value)).get(1, 0) if isinstance(value, bytes) else -1
            )
            if not isinstance(size, int) or not 0 <= size < 2**40:
                raise ValueError(f"{name} has an axis of size {size!r}")
            yield size


def _text(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise ValueError(f"the name {key[:40]!r} is no text") from None
