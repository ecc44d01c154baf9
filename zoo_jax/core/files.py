"""Files that are either whole or not there: temporary name in the same folder, then rename."""

import contextlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import IO, Any

PathLike = str | os.PathLike[str]


@contextlib.contextmanager
def atomic_write(path: PathLike, mode: str = "w") -> Iterator[IO]:
    """Opens a file that appears under `path` only when the block ends without an error.

    Text is UTF-8. The data is flushed to disk before the rename, so that a power cut leaves
    either the old file or the new one. Parent folders are made. On an error the temporary
    file is removed and an existing file at `path` is untouched.

    Args:
      path: The final name.
      mode: ``"w"`` for text or ``"wb"`` for bytes.

    Raises:
      OSError: if the folder cannot be written or the disk is full.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    encoding = None if "b" in mode else "utf-8"
    fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, mode, encoding=encoding) as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        # mkstemp makes private files; give what an ordinary open() would have given.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def write_json(path: PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, atomically. Raises `OSError` or `TypeError`."""
    text = json.dumps(value, indent=2, allow_nan=True) + "\n"
    with atomic_write(path) as f:
        f.write(text)


def read_json(path: PathLike) -> Any:
    """Reads a JSON file. Raises `OSError` or `ValueError`."""
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def read_json_lines(path: PathLike) -> list[Any]:
    """Reads a JSONL file; a torn last line, as a killed writer leaves it, is passed over.

    Raises `OSError`, or `ValueError` for any other damaged line.
    """
    text = pathlib.Path(path).read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
