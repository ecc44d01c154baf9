import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile

import pytest

from zoo_jax.core.errors import ArchiveError
from zoo_jax.data.archive import extract, sha256_of

ENDINGS = ("zip", "tar", "tar.gz", "tgz", "tar.bz2", "tar.xz")


def pack(path, files):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
            for name, data in files.items():
                z.writestr(name, data)
        return path
    mode = {".gz": "w:gz", ".tgz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}
    with tarfile.open(path, mode.get(path.suffix, "w")) as t:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return path


def tar_of(path, *members):
    with tarfile.open(path, "w") as t:
        for info, data in members:
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return path


def member(name, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def refused(archive, tmp_path, match, **limits):
    """Refused, and nothing is left behind in or beside the target."""
    home = tmp_path / "home"
    home.mkdir()
    with pytest.raises(ArchiveError, match=match):
        extract(archive, home / "out", **limits)
    assert os.listdir(home) == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_files_arrive_unchanged(tmp_path, ending):
    files = {"a/b.txt": b"b" * 70_000, "at 12:30.txt": b"", "a/e": b"e"}
    archive = pack(tmp_path / f"x.{ending}", files)
    out = extract(archive, tmp_path / "new" / "out", sha256=sha256_of(archive))
    found = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*.*")}
    assert {**found, "a/e": (out / "a/e").read_bytes()} == files
    assert os.listdir(out.parent) == ["out"]


@pytest.mark.parametrize("ending", ["zip", "tar"])
@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/tmp/x", "..\\x", "C:\\x", "C:x", "a/.."]
)
def test_names_that_lead_outside_are_refused(tmp_path, ending, name):
    archive = pack(tmp_path / f"x.{ending}", {"good": b"1", name: b"2"})
    refused(archive, tmp_path, "leads outside")


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]
    + [tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE],
)
def test_links_and_devices_are_refused(tmp_path, kind):
    first = (member("good"), b"1")
    archive = tar_of(tmp_path / "x.tar", first, (member("x", kind, "good"), b""))
    refused(archive, tmp_path, "link, a device or sparse|damaged")


def test_symlinks_in_a_zip_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as z:
        info = zipfile.ZipInfo("x")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        z.writestr(info, "/etc/passwd")
    refused(tmp_path / "x.zip", tmp_path, "link or device")


@pytest.mark.parametrize("ending", ENDINGS)
def test_bombs_are_stopped_while_they_unpack(tmp_path, ending):
    archive = pack(tmp_path / f"x.{ending}", {"a": bytes(300_000), "b": bytes(10)})
    refused(archive, tmp_path, "more than 200000 bytes", max_bytes=200_000)


def test_a_zip_header_that_lies_about_the_size_is_not_believed(tmp_path):
    archive = pack(tmp_path / "x.zip", {"a": bytes(300_000)})
    data = archive.read_bytes()
    # The true size stands in the local and in the central header.
    archive.write_bytes(data.replace(struct.pack("<I", 300_000), struct.pack("<I", 9)))
    refused(archive, tmp_path, "damaged|more than", max_bytes=200_000)


def test_a_huge_tar_header_is_not_read_into_memory(tmp_path):
    info = tarfile.TarInfo("a")
    info.pax_headers = {"comment": "x" * (3 << 20)}
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as t:
        t.addfile(info)
    refused(tmp_path / "x.tar", tmp_path, "header of more than")


@pytest.mark.parametrize("ending", ["zip", "tar"])
def test_too_many_members_are_refused(tmp_path, ending):
    archive = pack(tmp_path / f"x.{ending}", {f"f{i}": b"" for i in range(4)})
    refused(archive, tmp_path, "more than 3 members", max_files=3)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("keep", [0, 0.3, 0.8])
def test_truncated_archives_are_refused(tmp_path, ending, keep):
    noise = os.urandom(50_000)
    archive = pack(tmp_path / f"x.{ending}", {"a": noise, "b": noise})
    data = archive.read_bytes()
    archive.write_bytes(data[: int(keep * len(data))])
    refused(archive, tmp_path, "damaged|cannot be unpacked")


def test_a_flipped_bit_is_noticed(tmp_path):
    archive = pack(tmp_path / "x.zip", {"a": os.urandom(5000)})
    data = bytearray(archive.read_bytes())
    data[2500] ^= 1
    archive.write_bytes(data)
    refused(archive, tmp_path, "damaged")


def test_the_same_name_twice_is_refused(tmp_path):
    archive = tar_of(tmp_path / "x.tar", (member("a"), b"1"), (member("a"), b"2"))
    refused(archive, tmp_path, "File exists")


def test_a_file_is_not_used_as_a_folder(tmp_path):
    archive = tar_of(tmp_path / "x.tar", (member("a"), b"1"), (member("a/b"), b"2"))
    refused(archive, tmp_path, "cannot be unpacked")


def test_a_wrong_checksum_is_refused(tmp_path):
    archive = pack(tmp_path / "x.tar", {"a": b"1"})
    refused(archive, tmp_path, "SHA-256", sha256="0" * 64)


def test_other_formats_and_absent_files_are_named(tmp_path):
    (tmp_path / "x.rar").write_bytes(b"Rar!")
    refused(tmp_path / "x.rar", tmp_path, "not one of .zip")
    with pytest.raises(ArchiveError, match=r"no archive .*nothing\.zip"):
        extract(tmp_path / "nothing.zip", tmp_path / "out")


def test_an_existing_folder_is_not_touched(tmp_path):
    archive = pack(tmp_path / "x.tar", {"a": b"1"})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with pytest.raises(ArchiveError, match="there already"):
        extract(archive, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["mine"]


def test_what_follows_the_end_mark_is_not_unpacked(tmp_path):
    with gzip.open(tmp_path / "x.tar.gz", "wb") as f:
        f.write(pack(tmp_path / "y.tar", {"a": b"1"}).read_bytes()[:1024])
        f.write(bytes(20 << 20))
    extract(tmp_path / "x.tar.gz", tmp_path / "out", max_bytes=1 << 20)
    assert os.listdir(tmp_path / "out") == ["a"]
