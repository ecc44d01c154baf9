"""Weights files: what is read, and every way in which a hostile one is refused."""

import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from zoo_jax.convert import open_weights, read_weights, write_weights
from zoo_jax.convert import read as reading
from zoo_jax.core.errors import WeightsError

ARRAYS = {
    "a.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "b": np.arange(5, dtype=np.int64),
    "c": np.float64([[1.5, -2.0]]),
    "d": np.asarray(7, np.float16),
    "e/f": np.asarray([True, False]),
}
SLACK = 4 * 2**20  # Python's own buffers and imports, whatever the file


def same(got, want):
    assert list(got) == list(want)
    for key in want:
        np.testing.assert_array_equal(got[key], want[key])
        assert got[key].dtype == want[key].dtype
        assert got[key].shape == want[key].shape


def refuse(path, message):
    """Reading raises one line that names the file, in little memory, and writes nothing."""
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
    assert peak < 2 * path.stat().st_size + SLACK
    assert sorted(path.parent.iterdir()) == before


def npy(array, **kw):
    f = io.BytesIO()
    np.lib.format.write_array(f, np.asarray(array), **kw)
    return f.getvalue()


def npy_header(shape, descr="<f8"):
    """A header that declares what it likes, and 80 bytes of data."""
    f = io.BytesIO()
    facts = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(f, facts)
    return f.getvalue() + bytes(80)


def zip_file(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def patch(path, old, new):
    """Replaces bytes of a file, e.g. a size in both headers of a zip member."""
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))
    return path


# --- what is read ---------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("name", ["w.npz", "w.pth"])  # content decides, not the name
def test_npz_gives_back_every_array(tmp_path, save, name):
    with (tmp_path / name).open("wb") as f:
        save(f, **ARRAYS)
    same(read_weights(tmp_path / name), ARRAYS)


def test_npz_keeps_the_values_of_fortran_and_big_endian_arrays(tmp_path):
    array = np.arange(6.0).reshape(2, 3)
    np.savez(tmp_path / "w.npz", f=np.asfortranarray(array), b=array.astype(">f4"))
    got = read_weights(tmp_path / "w.npz")
    np.testing.assert_array_equal(got["f"], array)
    np.testing.assert_array_equal(got["b"], array)


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin"])
def test_safetensors_gives_back_every_array(tmp_path, name):
    safetensors.numpy.save_file(ARRAYS, tmp_path / name, metadata={"format": "pt"})
    got = open_weights(tmp_path / name)
    same({k: got.arrays[k] for k in ARRAYS}, ARRAYS)
    assert len(got.arrays) == len(ARRAYS)
    assert (got.metadata, got.ours) == ({"format": "pt"}, False)


def test_a_header_whose_length_begins_like_a_pickle_is_one_all_the_same(tmp_path):
    path = tmp_path / "x"
    for pad in range(64):
        arrays = {"k" * (1 + 8 * pad): ARRAYS["a.weight"]}
        data = safetensors.numpy.save(arrays)
        if data[0] == 0x80:
            break
    assert data[0] == 0x80
    path.write_bytes(data)
    same(read_weights(path), arrays)


def test_bfloat16_becomes_the_same_numbers_in_float32(tmp_path):
    values = np.asarray([1.0, -0.15625, 3e38], ml_dtypes.bfloat16)
    safetensors.numpy.save_file({"a": values}, tmp_path / "w.safetensors")
    got = read_weights(tmp_path / "w.safetensors")["a"]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, values.astype(np.float32))


def test_written_weights_come_back_with_their_metadata(tmp_path):
    arrays = {"t": ARRAYS["a.weight"].transpose(2, 0, 1), "s": np.float32(3)}
    facts = {"model": "x/y", "overrides": {"widths": [1, 2]}}
    write_weights(tmp_path / "w.safetensors", arrays, facts)
    got = open_weights(tmp_path / "w.safetensors")
    assert (got.metadata, got.ours) == (facts, True)
    for key, array in arrays.items():
        np.testing.assert_array_equal(got.arrays[key], array)
        assert got.arrays[key].shape == array.shape


def test_the_same_weights_give_the_same_bytes(tmp_path):
    facts = {str(i): i for i in range(9)}
    for name in "ab":
        write_weights(tmp_path / name, ARRAYS, facts)
        facts = dict(reversed(facts.items()))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failed_write_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "w.safetensors"
    write_weights(path, {"a": np.zeros(2)}, {})
    old = path.read_bytes()
    with pytest.raises(TypeError):
        write_weights(path, {"a": np.ones(2)}, {"no JSON": object()})
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


# --- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a weights file"),
        (b"hello, world, this is text", "not a weights file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"\x1f\x8b" + bytes(20), "gzip"),
        (npy([1.0]), "numpy.savez"),
        (b"PK\x03\x04" + bytes(60), "no intact"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, content, message):
    (tmp_path / "w.pth").write_bytes(content)
    refuse(tmp_path / "w.pth", message)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(WeightsError, match=r"absent\.npz: there is no such"):
        read_weights(tmp_path / "absent.npz")
    with pytest.raises(WeightsError, match="is a folder"):
        read_weights(tmp_path)


class Marker:
    """Unpickling it makes a file: the test sees whether code ran."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_object_arrays_run_no_code(tmp_path):
    objects = np.empty(1, object)
    objects[0] = Marker(tmp_path / "ran")
    np.savez(tmp_path / "w.npz", fine=np.zeros(3), evil=objects)
    refuse(tmp_path / "w.npz", "evil.npy holds Python objects")


@pytest.mark.parametrize(
    "name", ["../up.npy", "/abs.npy", "a/../../up.npy", "..\\up.npy"]
)
def test_members_that_point_outside_are_refused(tmp_path, name):
    refuse(zip_file(tmp_path / "w.npz", [(name, npy([1.0]))]), "points outside")


def test_a_member_twice_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        zip_file(tmp_path / "w.npz", [("a.npy", npy([1.0])), ("a.npy", npy([2.0]))])
    refuse(tmp_path / "w.npz", "twice")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npy(np.zeros((2, 3)))[:-8], "declares 48 bytes of data and stores 40"),
        (npy(np.zeros((2, 3))) + b"12345678", "declares 48 bytes"),
        (npy_header((10**10,)), "declares 80,000,000,000 bytes of data and stores 80"),
        (npy_header((2**62, 2**62)), "declares"),
        (npy_header((-10,)), "declares"),
        (npy_header((10,)).replace(b"(10,)", b"10**9"), "damaged header"),
        (npy_header((10,)).replace(b"'<f8'", b"'|O8'"), "Python objects"),
        (npy(np.asarray(["text"])), "not real numbers"),
        (npy(np.zeros(2, complex)), "not real numbers"),
        (npy(np.zeros(2), version=(2, 0)), "version"),
        (b"not an array", "damaged header"),
    ],
)
def test_arrays_that_are_not_what_they_declare_are_refused(tmp_path, data, message):
    refuse(zip_file(tmp_path / "w.npz", [("a.npy", data)]), message)


def test_a_member_larger_than_declared_is_refused(tmp_path):
    data = npy(np.zeros(1000))
    path = zip_file(tmp_path / "w.npz", [("a.npy", data)], zipfile.ZIP_DEFLATED)
    small = npy(np.zeros(10))
    patch(path, struct.pack("<I", len(data)), struct.pack("<I", len(small)))
    refuse(path, "CRC-32")


def test_a_bomb_is_refused_before_it_unpacks(tmp_path):
    path = tmp_path / "w.npz"
    np.savez_compressed(path, a=np.zeros(reading.FREE_BYTES + 8, np.uint8))
    refuse(path, "more than 100 times its size")


def test_a_damaged_packed_member_costs_no_memory(tmp_path):
    path = tmp_path / "w.npz"
    np.savez_compressed(path, a=np.zeros(40 * 2**20, np.uint8))
    with zipfile.ZipFile(path) as archive:
        crc = archive.getinfo("a.npy").CRC
    patch(path, struct.pack("<I", crc), struct.pack("<I", crc ^ 1))
    refuse(path, "checksum")


def test_overlapping_members_are_refused(tmp_path):
    path = zip_file(
        tmp_path / "w.npz", [(f"{i}.npy", npy(np.zeros(4000))) for i in range(3)]
    )
    patch(path, struct.pack("<I", len(npy(np.zeros(4000)))), struct.pack("<I", 90000))
    refuse(path, "overlap")


@pytest.mark.parametrize("width", [4, 8])
def test_a_directory_of_very_many_members_is_refused(tmp_path, width):
    path = zip_file(tmp_path / "w.npz", [("a.npy", npy([1.0]))])
    data = bytearray(path.read_bytes())
    end = data.rfind(b"PK\x05\x06")
    if width == 4:
        data[end + 12 : end + 16] = struct.pack("<I", 5 * 2**20)
    else:  # the 64-bit end record: the size stands 40 bytes into it
        data[end + 12 : end + 16] = b"\xff" * 4
        data[end:end] = b"PK\x06\x06" + bytes(36) + struct.pack("<QQ", 2**40, 0)
    path.write_bytes(data)
    refuse(path, "its directory claims")


def test_an_npz_of_thousands_of_members_is_read(tmp_path):
    members = [(f"{i}.npy", npy(np.float32(i))) for i in range(3000)]
    got = read_weights(zip_file(tmp_path / "w.npz", members))
    assert (len(got), got["2999"]) == (3000, 2999)


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.97])
def test_a_truncated_npz_is_refused(tmp_path, keep):
    path = tmp_path / "w.npz"
    np.savez(path, **ARRAYS)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    refuse(path, "no intact|overlap")


def test_any_flipped_byte_of_an_npz_is_noticed_or_harmless(tmp_path):
    path = tmp_path / "w.npz"
    np.savez(path, a=ARRAYS["c"])
    good = path.read_bytes()
    for position in range(len(good)):
        path.write_bytes(
            good[:position] + bytes([good[position] ^ 0x41]) + good[position + 1 :]
        )
        try:
            got = read_weights(path)
        except WeightsError:
            continue
        # Dates, permissions and the name are not weights.
        np.testing.assert_array_equal(*got.values(), ARRAYS["c"])


def tensor(start, stop, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("header", "body", "message"),
    [
        ({"a": tensor(0, 4), "b": tensor(0, 4)}, 4, "no intact"),  # shared bytes
        ({"a": tensor(0, 4), "b": tensor(2, 6)}, 6, "no intact"),  # overlap
        ({"a": tensor(0, 4)}, 9, "no intact"),  # bytes that nobody owns
        ({"a": tensor(0, 4)}, 2, "no intact"),  # truncated
        ({"a": tensor(4, 0)}, 4, "no intact"),
        ({"a": tensor(0, 4, (2**40, 2**40))}, 4, "no intact"),  # size overflows
        ({"a": tensor(0, 4, (2**40,))}, 4, "no intact"),
        ({"a": tensor(0, 4, (1,), "F99")}, 4, "no intact"),
        ({"a": tensor(0, 4, (4,), "F8_E4M3")}, 4, "a has dtype F8_E4M3"),
        ({"a": tensor(0, 8, (1,), "C64")}, 8, "a has dtype C64"),
        ({"__metadata__": {"zoo_jax": "{"}, "a": tensor(0, 4)}, 4, "no intact"),
        (b"{" * 5000, 4, "no intact"),
        (b'{"a": 3}', 0, "no intact"),
    ],
)
def test_hostile_safetensors_headers_are_refused(tmp_path, header, body, message):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(body))
    refuse(path, message)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**8, 1000])
def test_a_safetensors_header_longer_than_its_file_is_refused(tmp_path, length):
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b'{"a":1}')
    refuse(path, f"header claims {length:,} bytes")


@pytest.mark.parametrize("size", [0, 3, 8])
def test_a_safetensors_file_of_a_few_bytes_is_refused(tmp_path, size):
    (tmp_path / "w.safetensors").write_bytes(bytes(size))
    refuse(tmp_path / "w.safetensors", "safetensors")


def test_no_error_of_ours_comes_from_a_pickle_named_npz(tmp_path):
    (tmp_path / "w.npz").write_bytes(pickle.dumps({"a": Marker(tmp_path / "ran")}))
    refuse(tmp_path / "w.npz", "refused")
