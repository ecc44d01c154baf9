"""Downloads of files whose checksum is known."""

import hashlib
import http.client
import pathlib
import urllib.error
import urllib.parse
import urllib.request

import tqdm

from zoo_jax.core.errors import DataError
from zoo_jax.core.files import PathLike, atomic_write
from zoo_jax.data.archive import sha256_of

_CHUNK = 1 << 20


def download(
    url: str,
    to: PathLike,
    *,
    sha256: str,
    timeout_s: float = 60.0,
    progress: bool = True,
) -> pathlib.Path:
    """Downloads one file; it appears under its name only when its checksum is right.

    A file that is there already with the right checksum is kept as it is.

    Args:
      url: Of the scheme https, http or file.
      to: The name of the file to write. Parent folders are made.
      sha256: What the checksum must be, in hexadecimal.
      timeout_s: How long the server may be silent, in seconds.
      progress: Whether to show a progress bar on standard error.

    Returns:
      `to`.

    Raises:
      DataError: if the download fails, the checksum differs, or another file is in the way.
    """
    to = pathlib.Path(to)
    sha256 = sha256.lower()
    if to.exists():
        if to.is_file() and sha256_of(to) == sha256:
            return to
        raise DataError(f"{to} is there already with another content: remove it first")
    scheme = urllib.parse.urlsplit(url).scheme
    if scheme not in ("http", "https", "file"):
        raise DataError(
            f"cannot download {url}: only https, http and file are possible"
        )
    try:
        _fetch(url, to, sha256, timeout_s, progress)
    except urllib.error.HTTPError as e:
        e.close()
        raise DataError(
            f"cannot download {url}: the server says {e.code} {e.reason}"
        ) from None
    except (OSError, ValueError, http.client.HTTPException) as e:
        reason = getattr(e, "reason", None) or e
        raise DataError(f"cannot download {url} to {to}: {reason}") from None
    return to


def _fetch(
    url: str, to: pathlib.Path, sha256: str, timeout_s: float, progress: bool
) -> None:
    digest = hashlib.sha256()
    with (
        urllib.request.urlopen(url, timeout=timeout_s) as response,
        atomic_write(to, "wb") as f,
        tqdm.tqdm(
            total=int(response.headers.get("Content-Length") or 0) or None,
            unit="B",
            unit_scale=True,
            desc=to.name,
            disable=not progress,
        ) as bar,
    ):
        while chunk := response.read(_CHUNK):
            digest.update(chunk)
            f.write(chunk)
            bar.update(len(chunk))
        if digest.hexdigest() != sha256:
            # Raised inside the block, so that nothing appears under the final name.
            length = response.headers.get("Content-Length")
            raise DataError(
                f"{url} gave {f.tell()} of {length or 'unknown'} bytes with the SHA-256 "
                f"{digest.hexdigest()}, not {sha256}: try again, or check the source"
            )
