"""Weights files -> numpy arrays, trusting nothing in the file.

The kind of a file is told by its content, but for the files of a TensorFlow checkpoint, which
belong together by their names. Sizes are checked from headers before anything
is allocated, no code in a file is ever run, and nothing is written.
"""

import json
import math
import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from zoo_jax.convert import tf_checkpoint
from zoo_jax.core.errors import WeightsError
from zoo_jax.core.files import PathLike, atomic_write

# Weights hardly compress; a file that claims to unpack to more than this is a bomb.
MAX_RATIO = 100  # unpacked bytes per byte of the file ...
FREE_BYTES = 64 * 2**20  # ... but this much is always allowed (a network of zeros)
# Parsing either takes about 15 times its size, before anything in it can be checked.
MAX_HEADER = 2**20  # bytes of a safetensors header: about 10,000 arrays
MAX_DIRECTORY = 2**20  # bytes of the directory of an .npz or torch file: likewise

OURS = "zoo_jax"  # the metadata entry of safetensors files that this project writes

_OTHER_KINDS = (  # first bytes -> what it is, and what to do
    (
        b"version https://git-lfs",
        "a Git LFS pointer; fetch the file itself (git lfs pull)",
    ),
    (b"<", "a web page or XML; download the file itself"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"\x93NUMPY", "a single .npy array; store named arrays with numpy.savez"),
)


class WeightsFile(NamedTuple):
    """What stands in a weights file."""

    arrays: dict[str, np.ndarray]  # real numbers; bfloat16 is widened to float32
    metadata: dict[str, Any]  # of a safetensors file; else empty
    skipped: tuple[str, ...]  # entries that are no arrays and were left out
    ours: bool  # written by `write_weights`
    widened: tuple[str, ...] = ()  # keys that are bfloat16 in the file


def read_weights(path: PathLike) -> dict[str, np.ndarray]:
    """Reads a ``.safetensors``, ``.npz``, torch or Keras file or TensorFlow checkpoint into ``{key: array}``.

    Args:
      path: The file. Its content decides what it is, not its name. A TensorFlow checkpoint is
        named by any of its files, or by what their names begin with (``.../ckpt-500000``).

    Returns:
      Arrays under the keys of the file. Dtypes are kept, but bfloat16 becomes float32.

    Raises:
      WeightsError: if the file is absent, damaged, unsafe, of another kind, or a torch or Keras
        file while PyTorch or h5py is not installed.
      OSError: if the file cannot be read.
    """
    return open_weights(path).arrays


def open_weights(path: PathLike) -> WeightsFile:
    """Reads a weights file with its metadata. Arguments and errors as `read_weights`."""
    path = pathlib.Path(path)
    if tf_checkpoint.index_of(path) is not None:
        arrays, skipped, widened = tf_checkpoint.read(path)
        return WeightsFile(arrays, {}, skipped, False, widened)
    if path.is_dir():
        raise WeightsError(f"{path}: is a folder; name a weights file")
    if not path.exists():
        raise WeightsError(f"{path}: there is no such weights file")
    with path.open("rb") as f:
        head = f.read(64)
    if head.startswith(b"PK\x03\x04"):
        return _read_zip(path)
    # Before pickles: the length of a safetensors header may begin with the same byte.
    if head[4:9] == b"\0\0\0\0{":
        return _read_safetensors(path)
    if head.startswith(b"\x80"):  # the PROTO opcode of every binary pickle
        return _read_torch(path)
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return _read_safetensors(path)
    if head.startswith(b"\x89HDF"):
        from zoo_jax.convert import keras_file  # it needs this module's limits

        return WeightsFile(keras_file.read(path), {}, (), False)
    for start, kind in _OTHER_KINDS:
        if head.lstrip().startswith(start):
            raise WeightsError(f"{path}: is {kind}")
    raise WeightsError(
        f"{path}: is not a weights file (it starts with {head[:8]!r}); accepted are"
        " .safetensors, .npz, torch and Keras files, and TensorFlow checkpoints"
    )


def write_weights(
    path: PathLike, arrays: Mapping[str, Any], metadata: Mapping[str, Any]
) -> None:
    """Writes a safetensors file, atomically and with the same bytes for the same content.

    Args:
      path: The final name.
      arrays: Key -> array.
      metadata: Values that JSON can hold; `open_weights` gives them back.

    Raises:
      OSError: if the file cannot be written.
    """
    flat = {k: np.asarray(v, order="C") for k, v in arrays.items()}
    # One entry, since the library does not fix the order of several.
    header = {OURS: json.dumps(dict(metadata), sort_keys=True)}
    data = safetensors.numpy.save(flat, metadata=header)
    with atomic_write(path, "wb") as f:
        f.write(data)


def require_expansion(path: PathLike, unpacked: int) -> None:
    """Refuses a file whose arrays would take far more memory than the file has bytes."""
    size = os.path.getsize(path)
    if unpacked > max(MAX_RATIO * size, FREE_BYTES):
        raise WeightsError(
            f"{path}: claims to hold {unpacked:,} bytes in a file of {size:,}: more than"
            f" {MAX_RATIO} times its size is refused"
        )


def _read_safetensors(path: pathlib.Path) -> WeightsFile:
    with path.open("rb") as f:
        length = int.from_bytes(f.read(8), "little")
    if length > min(MAX_HEADER, path.stat().st_size - 8):
        raise WeightsError(
            f"{path}: is not a safetensors file: its header claims {length:,} bytes, the file"
            f" has {path.stat().st_size:,} and at most {MAX_HEADER:,} are read"
        )
    try:
        with safetensors.safe_open(path, framework="np") as f:
            metadata = f.metadata() or {}
            arrays, widened = {}, []
            for key in f.keys():
                dtype = f.get_slice(key).get_dtype()
                if dtype[0] not in "FIUB" or dtype.startswith("F8"):
                    raise WeightsError(
                        f"{path}: {key} has dtype {dtype}: not supported"
                    )
                array = f.get_tensor(key)
                # numpy itself has no bfloat16; float32 holds every value of it
                arrays[key] = array.astype(np.float32) if dtype == "BF16" else array
                widened += [key] if dtype == "BF16" else []
        ours = OURS in metadata
        facts = json.loads(metadata[OURS]) if ours else metadata
        return WeightsFile(arrays, facts, (), ours, tuple(widened))
    except (safetensors.SafetensorError, ValueError) as error:
        raise WeightsError(
            f"{path}: is no intact safetensors file: {error}; fetch or write it again"
        ) from None


def _read_torch(path: pathlib.Path) -> WeightsFile:
    from zoo_jax.convert import torch_file  # it needs this module's limits

    arrays, skipped, widened = torch_file.read(path)
    return WeightsFile(arrays, {}, skipped, False, widened)


def _read_zip(path: pathlib.Path) -> WeightsFile:
    """An .npz, or a torch file of today's format."""
    try:
        _require_small_directory(path)
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _require_safe_members(path, members)
            if any(m.filename.endswith("/data.pkl") for m in members):
                return _read_torch(path)
            return _read_npz(path, archive, members)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,  # a compression method that Python does not know
        RuntimeError,  # an encrypted member
        OSError,  # a directory that points outside the file
        ValueError,
    ) as error:
        raise WeightsError(
            f"{path}: is no intact .npz or torch file: {error}; fetch or write it again"
        ) from None


def _require_small_directory(path: pathlib.Path) -> None:
    """Checks the size of a zip directory before `zipfile` makes an object of each entry."""
    tail = 22 + 2**16  # the end record and its comment
    with path.open("rb") as f:
        f.seek(max(0, path.stat().st_size - tail))
        end = f.read()
    at = len(end) - 22  # where it stands unless there is a comment
    if end[at : at + 4] != b"PK\x05\x06" or end[-2:] != bytes(2):
        at = end.rfind(b"PK\x05\x06")
    size = int.from_bytes(end[at + 12 : at + 16], "little") if at >= 0 else 0
    if size == 0xFFFFFFFF:  # the real size stands in the 64-bit record before
        at = end.rfind(b"PK\x06\x06")
        size = int.from_bytes(end[at + 40 : at + 48], "little")
    if size > MAX_DIRECTORY:
        raise WeightsError(
            f"{path}: its directory claims {size:,} bytes; at most {MAX_DIRECTORY:,} are read"
        )


def _require_safe_members(path: pathlib.Path, members: list[zipfile.ZipInfo]) -> None:
    """Checks the directory of a zip file before any member is opened."""
    seen = set()
    for member in members:
        name = member.filename
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
            raise WeightsError(f"{path}: member {name!r} points outside: refused")
        if name in seen:
            raise WeightsError(f"{path}: holds member {name!r} twice: refused")
        seen.add(name)
    if sum(m.compress_size for m in members) > path.stat().st_size:
        raise WeightsError(f"{path}: its members overlap or are cut short: refused")
    require_expansion(path, sum(m.file_size for m in members))


def _read_npz(
    path: pathlib.Path, archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]
) -> WeightsFile:
    for member in members:
        _require_array_header(path, archive, member)
    # A packed member may turn out damaged only after much has been unpacked: test all of
    # them in small pieces first, so that a refused file costs no memory.
    if bad := archive.testzip():
        raise WeightsError(f"{path}: {bad} fails its checksum; fetch the file again")
    arrays = {}
    for member in members:
        with archive.open(member) as f:
            arrays[member.filename.removesuffix(".npy")] = np.lib.format.read_array(
                f, allow_pickle=False
            )
    return WeightsFile(arrays, {}, (), False)


def _require_array_header(
    path: pathlib.Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> None:
    """Checks that a member is an array of numbers that is as large as it says."""
    name = member.filename
    if not name.endswith(".npy"):
        raise WeightsError(
            f"{path}: member {name!r} is no .npy array: not an .npz file"
        )
    with archive.open(member) as f:
        try:
            version = np.lib.format.read_magic(f)
            if version != (
                1,
                0,
            ):  # later ones allow headers of 4 GiB; plain arrays need none
                raise ValueError(f"version {version} of the .npy format")
            shape, _, dtype = np.lib.format.read_array_header_1_0(f)
        except ValueError as error:
            raise WeightsError(f"{path}: {name}: damaged header: {error}") from None
        start = f.tell()
    if dtype.hasobject:
        raise WeightsError(
            f"{path}: {name} holds Python objects, which can run code: refused"
        )
    if dtype.kind not in "fiub":
        raise WeightsError(f"{path}: {name} holds {dtype}, not real numbers")
    needed = math.prod(shape) * dtype.itemsize
    if start + needed != member.file_size:
        raise WeightsError(
            f"{path}: {name} declares {needed:,} bytes of data and stores"
            f" {member.file_size - start:,}; fetch the file again"
        )
