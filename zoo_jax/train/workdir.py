"""One writer per workdir."""

import contextlib
import errno
import fcntl
import json
import logging
import os
import pathlib
import socket
from collections.abc import Iterator

from zoo_jax.core.errors import CheckpointError
from zoo_jax.core.files import PathLike

LOCK = ".lock"


@contextlib.contextmanager
def lock_workdir(workdir: PathLike) -> Iterator[pathlib.Path]:
    """Makes a workdir if need be and keeps other writers out of it.

    The kernel holds the lock for the life of the process and frees it however that ends, so a
    killed run leaves nothing to clean up. Of several processes of one run the first takes it.

    Args:
      workdir: The folder of a run.

    Yields:
      Its absolute path.

    Raises:
      CheckpointError: if the folder cannot be written, or another process holds it.
    """
    workdir = pathlib.Path(workdir).absolute()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        # Not inherited by spawned loader workers, which may outlive a killed parent.
        fd = os.open(workdir / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise CheckpointError(
            f"cannot write to workdir {str(workdir)!r}: {error.strerror};"
            " choose another one"
        ) from error
    try:
        _lock(fd, workdir)
        owner = {"pid": os.getpid(), "host": socket.gethostname()}
        with contextlib.suppress(
            OSError
        ):  # a full disk must not keep a run from resuming
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps(owner).encode(), 0)
        yield workdir
    finally:
        os.close(
            fd
        )  # and with it the lock; the file stays, or a rival could lock a ghost


def _lock(fd: int, workdir: pathlib.Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise CheckpointError(
                f"workdir {str(workdir)!r} is in use by {_owner(fd)}:"
                " wait for it, stop it, or choose another workdir"
            ) from None
        logging.getLogger(__name__).warning(
            "%s: this file system has no locks (%s); make sure that no other run writes here",
            workdir,
            error.strerror,
        )


def _owner(fd: int) -> str:
    try:
        owner = json.loads(os.pread(fd, 4096, 0))
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
