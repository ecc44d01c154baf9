"""Ends the commands of a searcher that died without ending them itself.

Runs as a process of its own, by path, so that it starts in milliseconds: it may import nothing
of this package. Standard input is a pipe from the searcher, with lines ``+PID`` when a command
has started and ``-PID`` when it has ended. However the searcher ends, the kernel closes the
pipe; the process groups that are left then are killed.
"""

import os
import signal
import sys


def main() -> None:
    """Follows the pipe to its end."""
    alive = set()
    for line in sys.stdin:
        if line.endswith("\n"):  # else the searcher died while writing
            (alive.add if line[0] == "+" else alive.discard)(int(line[1:]))
    for group in alive:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            pass


if __name__ == "__main__":
    main()
