"""SIGTERM and Ctrl-C become a question that the loop asks between two steps."""

import signal
import threading
from types import FrameType

import jax

from zoo_jax.core.errors import ZooError


class Interrupted(ZooError):
    """A run that was asked to stop, has saved, and can go on from there."""

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.signum = signum


class StopRequest:
    """Remembers the first SIGTERM, SIGINT or SIGUSR1; a second Ctrl-C acts at once.

    SIGUSR1 is what batch systems are asked to send ahead of the end of a time slot. With several
    processes all of them stop at the same step, whichever got the signal.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self) -> None:
        self._signum = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        # Python delivers signals to the main thread only.
        if threading.current_thread() is threading.main_thread():
            for signum in self.SIGNALS:
                self._previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *exc) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._signum and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self._signum = signum

    def agreed(self) -> int:
        """The signal that ends the run now, or 0. Every process gets the same answer."""
        if jax.process_count() == 1:
            return self._signum
        from jax.experimental import multihost_utils

        return int(multihost_utils.process_allgather(self._signum).max())
