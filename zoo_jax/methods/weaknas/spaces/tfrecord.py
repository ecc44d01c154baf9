"""TFRecord files and the protocol-buffer wire format, as far as NAS-Bench-101 needs them."""

import pathlib
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt32

from zoo_jax.core.errors import DataError

_RECORD = 1 << 20  # bytes; those of NAS-Bench-101 have below a thousand
_BATCH = 4096  # records whose checksums are computed together
_POLYNOMIAL = 0x82F63B78  # of CRC-32C, bits reversed


def _table() -> np.ndarray:
    value = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        value = np.where(value & 1, value >> 1 ^ np.uint32(_POLYNOMIAL), value >> 1)
    return value.astype(np.uint32)


def crc32c(messages: list[bytes]) -> UInt32[np.ndarray, "n"]:
    """CRC-32C of many messages at once, a byte of each per step.

    >>> [hex(value) for value in crc32c([b"123456789", b""])]
    ['0xe3069283', '0x0']
    """
    table = _table()
    lengths = np.array([len(message) for message in messages], np.int64)
    order = np.argsort(-lengths, kind="stable")
    padded = np.zeros((max(lengths, default=0), len(messages)), np.uint8)
    for column, i in enumerate(order):
        padded[: lengths[i], column] = np.frombuffer(messages[i], np.uint8)
    crc = np.full(len(messages), 0xFFFFFFFF, np.uint32)
    # Longest first, so that those still running are a prefix.
    running = np.searchsorted(-lengths[order], -np.arange(len(padded)), side="left")
    for row, n in zip(padded, running, strict=True):
        crc[:n] = table[(crc[:n] ^ row[:n]) & 0xFF] ^ (crc[:n] >> 8)
    out = np.empty_like(crc)
    out[order] = ~crc
    return out


def masked_crc32c(messages: list[bytes]) -> UInt32[np.ndarray, "n"]:
    """The checksums that TFRecord stores: rotated right by 15 bits, plus a constant."""
    crc = crc32c(messages)
    return (crc >> 15 | crc << 17) + np.uint32(0xA282EAD8)


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


def wire_fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol-buffer message: (number, value), in the order of the bytes.

    A value is an int (wire type 0, unsigned), a float (type 1, read as a double), bytes (type
    2: a string or an inner message) or a float (type 5). Unknown fields are the caller's to skip.

    Raises:
      ValueError: if the bytes end within a field, or have another wire type.

    >>> list(wire_fields(bytes([8, 150, 1, 18, 2, 104, 105])))
    [(1, 150), (2, b'hi')]
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(message, at)
        elif kind in (1, 5):
            size, form = (8, "<d") if kind == 1 else (4, "<f")
            (value,), at = struct.unpack(form, _take(message, at, size)), at + size
        elif kind == 2:
            size, at = _varint(message, at)
            value, at = _take(message, at, size), at + size
        else:
            raise ValueError(f"wire type {kind}")
        yield number, value


def _take(message: bytes, at: int, size: int) -> bytes:
    if at + size > len(message):
        raise ValueError("the message ends within a field")
    return message[at : at + size]


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = _take(message, at, 1)[0]
        value, at = value | (byte & 0x7F) << shift, at + 1
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")
