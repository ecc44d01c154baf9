"""Parts of TensorFlow's files: CRC-32C checksums and the protocol-buffer wire format."""

import functools
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt32

_POLYNOMIAL = 0x82F63B78  # of CRC-32C, bits reversed
_PIECE = 16 * 2**20  # bytes of a long message whose checksum is computed at a time
_LANE = 256  # bytes of one lane of a piece


def _advance(crc: UInt32[np.ndarray, "n"], bits: int) -> UInt32[np.ndarray, "n"]:
    """States after so many zero bits."""
    for _ in range(bits):
        crc = np.where(crc & 1, crc >> 1 ^ np.uint32(_POLYNOMIAL), crc >> 1)
    return crc.astype(np.uint32)


_BYTES = _advance(np.arange(2**8, dtype=np.uint32), 8)
_WORDS = _advance(np.arange(2**16, dtype=np.uint32), 16)


def crc32c(messages: list[bytes]) -> UInt32[np.ndarray, "n"]:
    """CRC-32C of many short messages at once, a byte of each per step.

    >>> [hex(value) for value in crc32c([b"123456789", b""])]
    ['0xe3069283', '0x0']
    """
    lengths = np.array([len(message) for message in messages], np.int64)
    order = np.argsort(-lengths, kind="stable")
    padded = np.zeros((max(lengths, default=0), len(messages)), np.uint8)
    for column, i in enumerate(order):
        padded[: lengths[i], column] = np.frombuffer(messages[i], np.uint8)
    crc = np.full(len(messages), 0xFFFFFFFF, np.uint32)
    # Longest first, so that those still running are a prefix.
    running = np.searchsorted(-lengths[order], -np.arange(len(padded)), side="left")
    for row, n in zip(padded, running, strict=True):
        crc[:n] = _BYTES[(crc[:n] ^ row[:n]) & 0xFF] ^ (crc[:n] >> 8)
    out = np.empty_like(crc)
    out[order] = ~crc
    return out


def long_crc32c(message: bytes | bytearray | memoryview) -> int:
    """CRC-32C of one long message: about 100 MB/s on one core.

    A checksum is linear over bits, so it is computed in parallel lanes whose states are joined:
    that of a lane is moved on by the zero bytes that stand for what follows it.

    >>> hex(long_crc32c(b"123456789"))
    '0xe3069283'
    """
    data = np.frombuffer(message, np.uint8)
    state = np.array([0xFFFFFFFF], np.uint32)
    for start in range(0, len(data), _PIECE):
        piece = data[start : start + _PIECE]
        state = _move(state, _zero_bytes(len(piece))) ^ _from_zero(piece)
    return int(~state[0])


def mask(crc: Any) -> Any:
    """The form in which TensorFlow stores checksums: rotated by 15 bits, plus a constant."""
    crc = np.asarray(crc, np.uint64)
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    return (rotated + 0xA282EAD8 & 0xFFFFFFFF).astype(np.uint32)


def masked_crc32c(messages: list[bytes]) -> UInt32[np.ndarray, "n"]:
    """The checksums of short messages as TensorFlow stores them."""
    return mask(crc32c(messages))


def _from_zero(piece: np.ndarray) -> UInt32[np.ndarray, "1"]:
    """State after the bytes of a piece, from state zero, in which leading zeros change nothing."""
    lanes = 1 << max((len(piece) // _LANE).bit_length() - 1, 0)
    length = 2 * -(-len(piece) // (2 * lanes))
    padded = np.zeros(lanes * length, np.uint8)
    padded[len(padded) - len(piece) :] = piece
    state = np.zeros(lanes, np.uint32)
    for words in np.ascontiguousarray(padded.view("<u2").reshape(lanes, -1).T):
        state = _WORDS[(state ^ words) & 0xFFFF] ^ (state >> 16)
    operator = _zero_bytes(length)
    while len(state) > 1:
        state = _move(state[::2], operator) ^ state[1::2]
        operator = _move(operator, operator)
    return state


@functools.lru_cache(maxsize=64)
def _zero_bytes(count: int) -> UInt32[np.ndarray, "32"]:
    """What so many zero bytes make of each bit of a state; a linear operator."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    total, power = bits, _BYTES[bits & 0xFF] ^ (bits >> 8)
    while count:
        total = _move(total, power) if count & 1 else total
        power, count = _move(power, power), count >> 1
    return total


def _move(
    state: UInt32[np.ndarray, "n"], operator: UInt32[np.ndarray, "32"]
) -> UInt32[np.ndarray, "n"]:
    """Applies an operator to states."""
    out = np.zeros_like(state)
    for bit in range(32):
        out ^= (state >> np.uint32(bit) & np.uint32(1)) * operator[bit]
    return out


def wire_fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol-buffer message: (number, value), in the order of the bytes.

    A value is an int (wire type 0, or type 5: four bytes; both unsigned), a float (type 1, read as
    a double) or bytes (type 2: a string or an inner message). Unknown fields are the caller's to
    skip.

    Raises:
      ValueError: if the bytes end within a field, or have another wire type.

    >>> list(wire_fields(bytes([8, 150, 1, 18, 2, 104, 105])))
    [(1, 150), (2, b'hi')]
    """
    at = 0
    while at < len(message):
        key, at = read_varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = read_varint(message, at)
        elif kind in (1, 5):
            size, form = (8, "<d") if kind == 1 else (4, "<I")
            (value,), at = struct.unpack(form, _take(message, at, size)), at + size
        elif kind == 2:
            size, at = read_varint(message, at)
            value, at = _take(message, at, size), at + size
        else:
            raise ValueError(f"wire type {kind}")
        yield number, value


def read_varint(message: bytes, at: int) -> tuple[int, int]:
    """The number of variable length at a place, and the place behind it. Raises `ValueError`."""
    value = 0
    for shift in range(0, 70, 7):
        byte = _take(message, at, 1)[0]
        value, at = value | (byte & 0x7F) << shift, at + 1
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")


def _take(message: bytes, at: int, size: int) -> bytes:
    if at + size > len(message):
        raise ValueError("the message ends within a field")
    return message[at : at + size]
