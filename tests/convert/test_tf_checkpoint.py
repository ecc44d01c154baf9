"""TensorFlow checkpoints: what is read, and every way in which a hostile one is refused."""

import itertools
import pathlib
import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from zoo_jax.convert import open_weights, read_weights, tf_checkpoint
from zoo_jax.core.errors import WeightsError
from zoo_jax.core.wire import long_crc32c, mask

FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures" / "vatt" / "ckpt-3"
END = "/.ATTRIBUTES/VARIABLE_VALUE"
CODES = {
    np.dtype(kind): code for code, kind in tf_checkpoint._DTYPES.items() if code != 14
} | {np.dtype(ml_dtypes.bfloat16): 14}


def number(value):
    """A varint."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(index, value):
    """A field of a message: a number, or bytes."""
    if isinstance(value, bytes):
        return number(index << 3 | 2) + number(len(value)) + value
    return number(index << 3) + number(value)


def shape_message(shape):
    return b"".join(field(2, field(1, size)) for size in shape)


def entry(dtype, shape, shard, offset, data, *, crc=None, size=None, more=b""):
    crc = int(mask(long_crc32c(data))) if crc is None else crc
    return (
        field(1, dtype)
        + field(2, shape_message(shape))
        + field(3, shard)
        + field(4, offset)
        + field(5, len(data) if size is None else size)
        + number(6 << 3 | 5)
        + crc.to_bytes(4, "little")
        + more
    )


def block(entries, *, kind=0):
    """A block with its trailer; keys share prefixes but for every third."""
    out, restarts, last = b"", [], b""
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % 3:
            pairs = itertools.takewhile(
                lambda p: p[0] == p[1], zip(last, key, strict=False)
            )
            shared = sum(1 for _ in pairs)
        else:
            restarts.append(len(out))
        out += number(shared) + number(len(key) - shared) + number(len(value))
        out += key[shared:] + value
        last = key
    return sealed(out, restarts, kind)


def sealed(out, restarts, kind=0):
    """A block from its entries."""
    out += b"".join(r.to_bytes(4, "little") for r in [*restarts, len(restarts)])
    out += bytes([kind])
    return out + int(mask(long_crc32c(out))).to_bytes(4, "little")


def write_index(
    path, entries, *, shards=1, header=None, per_block=4, kind=0, handles=None, blank=0
):
    """A sorted string table of (name, entry) pairs."""
    header = field(1, shards) if header is None else header
    pairs = [(b"", header), *((name.encode(), value) for name, value in entries)]
    out, index = sealed(b"", [0] * blank), []  # a block without entries
    for i in range(0, len(pairs), per_block):
        part = pairs[i : i + per_block]
        data = block(part, kind=kind)
        index.append((part[-1][0] + b"~", number(len(out)) + number(len(data) - 5)))
        out += data
    index = index if handles is None else handles(index)
    places = []
    for data in (block([]), block(index)):
        places.append(number(len(out)) + number(len(data) - 5))
        out += data
    footer = b"".join(places).ljust(40, b"\0")
    magic = tf_checkpoint._MAGIC.to_bytes(8, "little")
    path.with_name(f"{path.name}.index").write_bytes(out + footer + magic)


def data_file(path, shard=0, shards=1):
    return path.with_name(f"{path.name}.data-{shard:05d}-of-{shards:05d}")


def write(path, arrays, *, shards=1, **options):
    """A checkpoint, arrays dealt out to its data files in turn."""
    datas, entries = [b""] * shards, []
    for i, (name, array) in enumerate(sorted(arrays.items())):
        data, shard = array.tobytes(), i % shards
        code = CODES[array.dtype]
        entries.append((name, entry(code, array.shape, shard, len(datas[shard]), data)))
        datas[shard] += data
    for shard, data in enumerate(datas):
        data_file(path, shard, shards).write_bytes(data)
    write_index(path, entries, shards=shards, **options)
    return path


def arrays():
    rng = np.random.default_rng(0)
    out = {
        f"model/layers/{i}/kernel{END}": rng.normal(size=(3, i + 1)).astype(np.float32)
        for i in range(9)
    }
    for dtype in CODES:
        values = np.arange(6).reshape(2, 3) - (0 if dtype.kind in "ub" else 2)
        out[f"model/of_{dtype.name}{END}"] = values.astype(dtype)
    out[f"model/scalar{END}"] = np.asarray(7, np.int64)
    out[f"model/empty{END}"] = np.zeros((0, 4), np.float32)
    return out


def refuse(path, message):
    """Reading raises one line, in little memory, and writes nothing."""
    before = sorted(path.parent.iterdir())
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=message) as error:
            read_weights(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    text = str(error.value)
    assert path.name in text
    assert "\n" not in text
    assert len(text) < 600
    assert peak < 2 * sum(p.stat().st_size for p in before) + 4 * 2**20
    assert sorted(path.parent.iterdir()) == before


# --- what is read ---------------------------------------------------------------------------


def test_a_checkpoint_of_tensorflow_is_read():
    """Its numbers are compared through a network in the tests of VATT."""
    file = open_weights(FIXTURE)
    graph = "_CHECKPOINTABLE_OBJECT_GRAPH"
    slots = [name for name in file.skipped if "/.OPTIMIZER_SLOT/optimizer/" in name]
    assert set(file.skipped) == {graph, *slots}
    assert len(slots) == 4  # two of each of two variables
    assert file.arrays[f"save_counter{END}"].tolist() == 1
    assert file.arrays[f"optimizer/iter{END}"].dtype == np.int64
    assert file.arrays[f"optimizer/beta_1{END}"] == np.float32(0.9)
    assert (file.ours, file.widened) == (False, ())


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("per_block", [1, 4, 100])
def test_every_array_is_given_back(tmp_path, shards, per_block):
    want = arrays()
    path = write(tmp_path / "ckpt-1", want, shards=shards, per_block=per_block)
    for name in (path, f"{path}.index", data_file(path, shards - 1, shards)):
        file = open_weights(name)
        assert list(file.arrays) == sorted(want)
        for key, array in want.items():
            got = file.arrays[key]
            if array.dtype == ml_dtypes.bfloat16:
                assert file.widened == (key,)
                array = array.astype(np.float32)
            np.testing.assert_array_equal(got, array)
            assert (got.dtype, got.shape) == (array.dtype, array.shape)


def test_a_file_of_the_very_name_is_what_is_read(tmp_path):
    path = write(tmp_path / "w.npz", {"a": np.zeros(2, np.float32)})
    with path.open("wb") as f:
        np.savez(f, b=np.ones(3))
    assert list(read_weights(path)) == ["b"]


# --- what is refused ------------------------------------------------------------------------


def test_no_flipped_bit_passes(tmp_path):
    want = {f"m/{name}": np.arange(3, dtype=np.float32) for name in "ab"}
    path = write(tmp_path / "c", want, per_block=2)
    silent = 0
    for file in (path.with_name("c.index"), data_file(path)):
        good = file.read_bytes()
        for at in range(len(good)):
            bad = bytearray(good)
            bad[at] ^= 1 << at % 8
            file.write_bytes(bad)
            try:
                got = read_weights(path)
            except WeightsError:
                continue
            # The padding of the footer, and blocks that are not needed.
            silent += 1
            assert file.suffix == ".index"
            assert {k: v.tolist() for k, v in got.items()} == {
                k: v.tolist() for k, v in want.items()
            }
        file.write_bytes(good)
    assert silent <= 40 + 2 * len(block([]))


def test_cut_files_are_refused(tmp_path):
    path = write(tmp_path / "c", {"a": np.arange(5, dtype=np.float32)})
    table = "is no intact index of a TensorFlow checkpoint"
    for file, message in (
        (data_file(path), "is cut short: a ends at byte 20"),
        (path.with_name("c.index"), table),
    ):
        good = file.read_bytes()
        for size in (0, 7, len(good) - 1):
            file.write_bytes(good[:size])
            refuse(path, message)
        file.write_bytes(good)
    data_file(path).unlink()
    refuse(path, r"data-00000-of-00001: is missing beside c\.index")


VALUE = np.arange(4, dtype=np.float32).tobytes()


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (entry(1, (5,), 0, 0, VALUE), r"shape \(5,\) of float32, but 16 bytes"),
        (entry(1, (2**20, 2**20), 0, 0, VALUE), "but 16 bytes"),
        (entry(1, (2**50,), 0, 0, VALUE), "an axis of size 1125899906842624"),
        (entry(1, (2**64 - 1,), 0, 0, VALUE), "an axis of size 18446744073709551615"),
        (entry(1, (2**30,), 0, 0, VALUE, size=2**32), "is cut short"),
        (entry(1, (4,), 0, 2**40, VALUE), "is cut short"),
        (entry(1, (4,), 3, 0, VALUE), "is in data file 3 of 1"),
        (entry(1, (4,), 0, 0, VALUE, crc=5), "fails its checksum"),
        (entry(1, (4,), 0, 0, VALUE, more=field(7, b"")), "stored in slices"),
        (entry(1, (4,), 0, 0, VALUE, more=field(1, b"x")), "fields of another kind"),
        (field(2, 3), "is no message"),
        (b"\x0b", "wire type 3"),
    ],
)
def test_entries_that_lie_are_refused(tmp_path, case, message):
    path = tmp_path / "c"
    data_file(path).write_bytes(VALUE)
    write_index(path, [("a", case)])
    refuse(path, message)


def test_tensors_that_share_their_bytes_are_refused(tmp_path):
    path = tmp_path / "c"
    data_file(path).write_bytes(VALUE)
    same = entry(1, (4,), 0, 0, VALUE)
    write_index(path, [(f"{i:03}", same) for i in range(200)])
    refuse(path, "its tensors overlap")


EMPTY = (b"~", number(0) + number(4 * 1000 + 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(kind=1), "is compressed"),
        (dict(header=field(1, 1) + field(2, 1)), "the other byte order"),
        (dict(header=b""), "names 0 data files"),
        (dict(header=field(1, 2**31)), "names 2147483648 data files"),
        (dict(handles=lambda index: index * 2), "holds  twice"),
        (
            dict(blank=1000, handles=lambda index: index + [EMPTY] * 50),
            "its blocks overlap",
        ),
        (dict(handles=lambda index: []), "has no header"),
        (
            dict(handles=lambda index: [(b"a", number(2**40) + number(9))]),
            "behind the end",
        ),
    ],
)
def test_tables_that_lie_are_refused(tmp_path, options, message):
    path = tmp_path / "c"
    data_file(path).write_bytes(VALUE)
    write_index(path, [("a", entry(1, (4,), 0, 0, VALUE))], **options)
    refuse(path, message)


def test_names_may_not_be_repeated_nor_grow_without_end(tmp_path, monkeypatch):
    path = tmp_path / "c"
    data_file(path).write_bytes(VALUE)
    one = entry(1, (4,), 0, 0, VALUE)
    write_index(path, [("a", one), ("a", one)])
    refuse(path, "holds a twice")
    # Most names repeat a long one in a few bytes.
    names = [("x" * 4000 + f"{i:03}", b"") for i in range(60)]
    write_index(path, names, per_block=100)
    monkeypatch.setattr(tf_checkpoint, "MAX_NAMES", 2**17)
    assert path.with_name("c.index").stat().st_size < 2**17
    refuse(path, "its names have more than 131,072 bytes")


def test_other_files_of_that_name_are_refused(tmp_path):
    path = tmp_path / "c"
    path.with_name("c.index").write_bytes(b"<html>" * 20)
    refuse(path, "not those of a sorted string table")
    with path.with_name("c.index").open("wb") as f:
        f.truncate(tf_checkpoint.MAX_INDEX + 1)
    refuse(path, "at most 4,194,304 are read")
    with pytest.raises(WeightsError, match="there is no"):
        tf_checkpoint.read(tmp_path / "absent")
