"""A folder that can prove it is what was written: one SHA-256 per file, in ``SHA256SUMS``.

The list is in the format of coreutils, so ``sha256sum -c SHA256SUMS`` checks a folder without
this project. It needs no checksum of its own: verifying writes the list anew and compares the
text, so that a change to any byte of it, or to any file, shows.
"""

import errno
import hashlib
import os
import pathlib

SUMS = "SHA256SUMS"


class Damage(Exception):
    """Files that are not what was written: names the file and what is wrong with it."""


def seal(folder: pathlib.Path) -> None:
    """Lists every file of a folder and puts all of it on the disk.

    Args:
      folder: Complete but for the list, and touched by nobody else.

    Raises:
      OSError: if the disk is full or fails.
    """
    text = "".join(f"{_digest(folder / n, sync=True)}  {n}\n" for n in _files(folder))
    (folder / SUMS).write_text(text, encoding="utf-8")
    _digest(folder / SUMS, sync=True)
    for path, _, _ in os.walk(folder):
        sync_folder(pathlib.Path(path))


def verify(folder: pathlib.Path) -> None:
    """Compares a folder with its list.

    Raises:
      Damage: for a file that is missing, changed, unreadable or not listed, or a list that is
        missing or malformed.
      OSError: if the folder cannot be read for a reason that is not in it, such as missing
        permission.
    """
    try:
        text = (folder / SUMS).read_bytes().decode("utf-8")
        listed = dict(reversed(line.split("  ", 1)) for line in text.splitlines())
    except OSError as error:
        raise _damage_or_same(error, SUMS) from error
    except ValueError:  # bad UTF-8, or a line of another form
        raise Damage(f"{SUMS} is malformed") from None
    found = _files(folder)
    for name in sorted(listed.keys() | set(found)):
        if name not in found:
            raise Damage(f"{name} is missing")
        if name not in listed:
            raise Damage(f"{name} is not listed in {SUMS}")
        try:
            same = _digest(folder / name) == listed[name]
        except OSError as error:
            raise _damage_or_same(error, name) from error
        if not same:
            raise Damage(f"{name} does not match its checksum")
    if text != "".join(f"{listed[name]}  {name}\n" for name in found):
        raise Damage(f"{SUMS} is malformed")


def sync_folder(folder: pathlib.Path) -> None:
    """Makes the names in a folder, such as one just renamed, outlast a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _files(folder: pathlib.Path) -> list[str]:
    """Relative names of all files but the list itself, sorted."""

    def fail(error: OSError) -> None:
        raise error

    return sorted(
        name
        for parent, _, files in os.walk(folder, onerror=fail)
        for file in files
        if (name := pathlib.Path(parent, file).relative_to(folder).as_posix()) != SUMS
    )


def _digest(path: pathlib.Path, *, sync: bool = False) -> str:
    with path.open("rb") as f:
        if sync:
            os.fsync(f.fileno())
        return hashlib.file_digest(f, "sha256").hexdigest()


def _damage_or_same(error: OSError, name: str) -> Exception:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return Damage(f"{name} is missing")
    if error.errno in (errno.EIO, errno.EISDIR):
        return Damage(f"{name} is unreadable ({error.strerror})")
    return error  # permissions, too many open files: says nothing about the data
