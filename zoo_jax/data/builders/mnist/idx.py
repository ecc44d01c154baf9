"""The idx files of MNIST, plain or gzipped."""

import gzip
import pathlib
import struct
import zlib

import numpy as np

from zoo_jax.core.errors import DataError

_MOST = 1 << 30  # bytes; a gzipped bomb is not read to its end


def read_idx(path: pathlib.Path) -> np.ndarray:
    """Reads an idx file of unsigned bytes.

    The header is ``0 0 8 rank``, then one big-endian 32-bit size per axis.

    Args:
      path: The file; ``.gz`` is unpacked.

    Raises:
      DataError: if the file is absent, damaged, or holds another type.
    """
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as f:
            zeros, kind, rank = struct.unpack(">HBB", f.read(4))
            if zeros or kind != 8 or not 1 <= rank <= 4:
                raise DataError(f"{path} is no idx file of unsigned bytes")
            shape = struct.unpack(f">{rank}I", f.read(4 * rank))
            size = 1
            for length in shape:
                size *= length
            if size > _MOST:
                raise DataError(f"{path} claims the shape {shape}: too large")
            data = f.read(size + 1)
    except FileNotFoundError:
        raise DataError(f"no file {path}") from None
    except (OSError, EOFError, struct.error, zlib.error) as e:
        raise DataError(
            f"{path} is damaged ({e}): get the official file again"
        ) from None
    if len(data) != size:
        raise DataError(
            f"{path} has {'more' if len(data) > size else 'fewer'} bytes than its shape "
            f"{shape}: get the official file again"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)
