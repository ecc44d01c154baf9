"""TFRecord files, as far as NAS-Bench-101 needs them."""

import pathlib
import struct
from collections.abc import Iterator
from typing import Any

from zoo_jax.core.errors import DataError
from zoo_jax.core.wire import masked_crc32c

_RECORD = 1 << 20  # bytes; those of NAS-Bench-101 have below a thousand
_BATCH = 4096  # records whose checksums are computed together


def read_records(path: pathlib.Path) -> Iterator[bytes]:
    """The records of a TFRecord file, in order; every checksum is verified.

    Raises:
      DataError: if the file cannot be read, ends within a record, or a checksum is wrong.
    """
    done = 0
    try:
        with path.open("rb") as file:
            while batch := list(_frames(file)):
                for field, name in ((0, "length"), (2, "data")):
                    wrong = masked_crc32c([frame[field] for frame in batch]) != [
                        frame[field + 1] for frame in batch
                    ]
                    if wrong.any():
                        number = done + int(wrong.argmax())
                        raise ValueError(
                            f"the checksum of the {name} of record {number} is wrong"
                        )
                yield from (frame[2] for frame in batch)
                done += len(batch)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: is no whole TFRecord file ({error}): get the file again"
        ) from None


def _frames(file: Any) -> Iterator[tuple[bytes, int, bytes, int]]:
    """At most a batch of (bytes of the length, checksum, data, checksum)."""
    for _ in range(_BATCH):
        head = file.read(12)
        if not head:
            return
        size = int.from_bytes(head[:8], "little")
        # A wrong length is found by its size here or by its checksum later.
        if len(head) < 12 or size > _RECORD:
            raise ValueError(f"a record of {size:,} bytes at byte {file.tell()}")
        body = file.read(size + 4)
        if len(body) < size + 4:
            raise ValueError("it ends within a record")
        yield (
            head[:8],
            int.from_bytes(head[8:], "little"),
            body[:size],
            int.from_bytes(body[size:], "little"),
        )


def frame(data: bytes) -> bytes:
    """One record as TFRecord stores it."""
    size = struct.pack("<Q", len(data))
    checks = [struct.pack("<I", value) for value in masked_crc32c([size, data])]
    return size + checks[0] + data + checks[1]
