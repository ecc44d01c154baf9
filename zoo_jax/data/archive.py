"""Unpacking of untrusted archives: everything is checked before anything is kept."""

import bz2
import contextlib
import gzip
import hashlib
import lzma
import os
import pathlib
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

from zoo_jax.core.errors import ArchiveError
from zoo_jax.core.files import PathLike

_CHUNK = 1 << 20
_MAX_HEADER = 1 << 20  # bytes between two files of a tar; tarfile keeps them in memory
_OPENERS = {
    ".tar": open,
    ".tar.gz": gzip.open,
    ".tgz": gzip.open,
    ".tar.bz2": bz2.open,
    ".tar.xz": lzma.open,
}
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    lzma.LZMAError,
    EOFError,
    ValueError,
    OverflowError,
    NotImplementedError,  # a compression that zipfile does not know
    RuntimeError,  # an encrypted zip
    zlib.error,
    gzip.BadGzipFile,
)


def sha256_of(path: PathLike) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def extract(
    archive: PathLike,
    to: PathLike,
    *,
    max_bytes: int = 64 << 30,
    max_files: int = 2_000_000,
    sha256: str | None = None,
) -> pathlib.Path:
    """Unpacks a zip or tar file into a new folder, or raises and leaves nothing behind.

    Only regular files and folders are accepted, with relative names that stay inside. Bytes
    are counted as they are unpacked, since headers may lie (in a tar, headers count too). Modes, owners and times of the
    archive are ignored. The folder appears under its name when it is complete.

    Args:
      archive: A ``.zip``, ``.tar``, ``.tar.gz``, ``.tgz``, ``.tar.bz2`` or ``.tar.xz`` file.
      to: The folder to make; it must not exist, or be empty.
      max_bytes: Most bytes of all files together.
      max_files: Most members.
      sha256: What the checksum of the archive must be, if known.

    Returns:
      `to`.

    Raises:
      ArchiveError: if the archive is absent, damaged, hostile or too large, or if `to` has
        something in it or cannot be written.
    """
    archive, to = pathlib.Path(archive), pathlib.Path(to)
    if not archive.is_file():
        raise ArchiveError(f"no archive {archive}")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ArchiveError(
            f"{to} is there already: remove it, or choose another folder"
        )
    if sha256 is not None and (found := sha256_of(archive)) != sha256.lower():
        raise ArchiveError(
            f"{archive} has the SHA-256 {found}, not {sha256}: get the file again"
        )
    members = _zip_members if archive.suffix.lower() == ".zip" else _tar_members
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        part = pathlib.Path(tempfile.mkdtemp(prefix=f".{to.name}.", dir=to.parent))
    except OSError as e:
        raise ArchiveError(f"cannot write beside {to}: {e.strerror}") from None
    try:
        budget = _Budget(archive, max_bytes, max_files)
        with contextlib.closing(members(archive, budget)) as found_members:
            for name, data in found_members:
                budget.count_file()
                _write(_inside(part, name, archive), data)
        part.chmod(0o755)
        os.replace(part, to)
    except _DAMAGED as e:
        raise ArchiveError(f"{archive} is damaged: {e or type(e).__name__}") from None
    except OSError as e:
        raise ArchiveError(f"{archive} cannot be unpacked to {to}: {e}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return to


class _Budget:
    def __init__(self, archive: pathlib.Path, max_bytes: int, max_files: int):
        self._archive, self._bytes, self._files = archive, max_bytes, max_files
        self._max_bytes, self._max_files = max_bytes, max_files

    def count_file(self) -> None:
        self._files -= 1
        if self._files < 0:
            raise ArchiveError(
                f"{self._archive} has more than {self._max_files} members: raise max_files "
                "if that is right"
            )

    def count_bytes(self, count: int) -> None:
        self._bytes -= count
        if self._bytes < 0:
            raise ArchiveError(
                f"{self._archive} unpacks to more than {self._max_bytes} bytes: raise "
                "max_bytes if that is right"
            )


def _inside(root: pathlib.Path, name: str, archive: pathlib.Path) -> pathlib.Path:
    parts = pathlib.PurePosixPath(name).parts
    # Backslashes and drive letters are names here and paths on Windows: refused everywhere.
    elsewhere = name.startswith("/") or ".." in parts or set(name) & set("\\\0")
    if not parts or elsewhere or re.match("[A-Za-z]:", name):
        raise ArchiveError(
            f"{archive} has a member {name!r} that leads outside its folder: do not trust it"
        )
    return root.joinpath(*parts)


def _write(path: pathlib.Path, data: IO[bytes] | None) -> None:
    if data is None:
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as f:  # "x": the second member of one name is refused
        shutil.copyfileobj(data, f, _CHUNK)


class _Metered:
    """A stream that charges what is read from it."""

    def __init__(self, stream: IO[bytes], budget: _Budget):
        self._stream, self._budget = stream, budget
        self.header_left: int | None = None

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._budget.count_bytes(len(data))
        if self.header_left is not None:
            self.header_left -= len(data)
            if self.header_left < 0:
                raise tarfile.ReadError(f"a header of more than {_MAX_HEADER} bytes")
        return data


def _zip_members(
    archive: pathlib.Path, budget: _Budget
) -> Iterator[tuple[str, _Metered | None]]:
    with zipfile.ZipFile(archive) as z:
        for info in z.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            # orig_filename: zipfile cuts names at NUL before anyone can look at them.
            name = info.orig_filename
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ArchiveError(
                    f"{archive} has a member {name!r} that is a link or device: refused"
                )
            if info.is_dir():
                yield name, None
                continue
            with z.open(info) as data:
                yield name, _Metered(data, budget)


def _tar_members(
    archive: pathlib.Path, budget: _Budget
) -> Iterator[tuple[str, IO[bytes] | None]]:
    name = archive.name.lower()
    ending = next((e for e in _OPENERS if name.endswith(e)), None)
    if ending is None:
        raise ArchiveError(
            f"{archive}: not one of {' '.join(['.zip', *_OPENERS])}: repack it"
        )
    with _OPENERS[ending](archive, "rb") as stream:
        metered = _Metered(stream, budget)
        metered.header_left = _MAX_HEADER
        with tarfile.open(fileobj=metered, mode="r|") as t:
            while (member := t.next()) is not None:
                metered.header_left = None
                if member.isdir():
                    yield member.name, None
                elif member.isreg() and not member.issparse():
                    yield member.name, t.extractfile(member)
                else:
                    raise ArchiveError(
                        f"{archive} has a member {member.name!r} that is a link, a device "
                        "or sparse: refused"
                    )
                metered.header_left = _MAX_HEADER
                t.members.clear()  # it would keep every header
