"""Checksums against the standard and each other; messages against the protobuf library."""

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from zoo_jax.core import wire
from zoo_jax.core.wire import crc32c, long_crc32c, mask, masked_crc32c, wire_fields

# RFC 3720, appendix B.4, and the check value of the algorithm.
KNOWN = {
    bytes(32): 0x8A9136AA,
    bytes([255] * 32): 0x62A8AB43,
    bytes(range(32)): 0x46DD794E,
    b"123456789": 0xE3069283,
    b"": 0,
}


def test_checksums_are_those_of_the_standard():
    assert crc32c(list(KNOWN)).tolist() == list(KNOWN.values())
    assert [long_crc32c(message) for message in KNOWN] == list(KNOWN.values())
    assert crc32c([]).tolist() == []


@pytest.mark.parametrize("piece", [1000, 2**24])
def test_long_messages_have_the_checksum_of_short_ones(monkeypatch, piece):
    monkeypatch.setattr(wire, "_PIECE", piece)
    rng = np.random.default_rng(0)
    sizes = (1, 2, 3, 255, 256, 257, 511, 512, 513, 999, 1000, 1001, 2000, 7777)
    messages = [rng.bytes(size) for size in sizes]
    assert [long_crc32c(m) for m in messages] == crc32c(messages).tolist()


def test_masks_of_one_and_of_many_are_the_same():
    many = masked_crc32c(list(KNOWN))
    assert [int(mask(long_crc32c(m))) for m in KNOWN] == many.tolist()
    # The mask of zero is its constant; the rotation is seen in that of one.
    assert (int(mask(0)), int(mask(1))) == (0xA282EAD8, 0xA282EAD8 + 2**17)


def message_class():
    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="x.proto", package="x")
    entry = file.message_type.add(name="Message")
    for number, (name, code) in enumerate(
        {
            "number": kind.TYPE_UINT64,
            "text": kind.TYPE_STRING,
            "real": kind.TYPE_DOUBLE,
            "bits": kind.TYPE_FIXED32,
        }.items(),
        1,
    ):
        entry.field.add(name=name, number=number, type=code, label=1)
    inner = {"name": "inner", "type": kind.TYPE_MESSAGE, "type_name": ".x.Message"}
    entry.field.add(number=5, label=3, **inner)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("x.Message"))


def test_messages_are_read_as_by_another_library():
    out = message_class()(number=2**40 + 3, text="né", real=0.1, bits=0x7FA00001)
    out.inner.add(real=0.5)
    out.inner.add(number=300)
    fields = list(wire_fields(out.SerializeToString()))
    assert [number for number, _ in fields] == [1, 2, 3, 4, 5, 5]
    assert [value for _, value in fields[:4]] == [
        2**40 + 3,
        "né".encode(),
        0.1,
        0x7FA00001,
    ]
    assert [dict(wire_fields(value)) for _, value in fields[4:]] == [{3: 0.5}, {1: 300}]


@pytest.mark.parametrize(
    "data",
    [b"\x08", b"\x08\x96", b"\x12\x05ab", b"\x21abc", b"\x0b", b"\x08" + b"\xff" * 11],
)
def test_cut_and_unknown_fields_are_refused(data):
    with pytest.raises(ValueError, match=r"field|wire type|ten bytes"):
        list(wire_fields(data))
