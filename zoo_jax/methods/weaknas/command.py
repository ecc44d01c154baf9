"""One query by a command of the user: started, watched, ended, and its value read.

Every command is the leader of a process group of its own, so that ending it ends what it has
started. The groups of a searcher that is itself killed are ended by `Reaper`.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from typing import IO, NamedTuple

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.files import PathLike
from zoo_jax.methods.weaknas import reaper

# What may stand in a command; config is the path of a JSON file, json its text in one line.
PLACEHOLDERS = ("config", "json", "trial", "slot")
GRACE_S = 5.0  # between asking a command to end and killing it
_TAIL = 64 * 1024  # bytes of an output that are looked at
# Waits for a line before it becomes the command: nothing starts that the reaper has not heard
# of. If the searcher dies in between, the end of the pipe ends this too.
_GATE = ("/bin/sh", "-c", 'read -r _ && exec "$@" </dev/null', "zoo-jax")
_NUMBER = re.compile(
    r"(?<![\w.])[-+]?(?>(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|nan|inf(?:inity)?)(?!\w)",
    re.IGNORECASE,
)


# --- what a command says --------------------------------------------------------------------


def read_value(output: str) -> float:
    r"""The number that a command has found, from what it printed.

    It stands on the last line that is not empty: either the whole line is a JSON object with a
    number under ``"value"``, or the last number of the line counts.

    Args:
      output: Standard output, or its end.

    Raises:
      ValueError: if there is no such number, or it is not finite; one line says which.

    >>> read_value("epoch 3\naccuracy: 93.5%\n\n")
    93.5
    >>> read_value('{"value": 0.25, "epochs": 12}')
    0.25
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if not lines:
        raise ValueError("printed nothing on standard output")
    last = lines[-1]
    shown = last if len(last) <= 60 else f"{last[:57]}..."
    if last.startswith("{"):
        try:
            value = json.loads(last)["value"]
        except (ValueError, KeyError):
            value = None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f'printed no {{"value": NUMBER}} but {shown!r}')
    else:
        numbers = _NUMBER.findall(last)
        if not numbers:
            raise ValueError(f"printed no number on its last line, {shown!r}")
        value = numbers[-1]
    try:
        value = float(value)
    except OverflowError:  # an integer of more than 308 digits
        value = math.inf
    if not math.isfinite(value):
        raise ValueError(f"printed {value} on its last line, {shown!r}")
    return value


class Outcome(NamedTuple):
    """How an attempt ended."""

    value: float | None  # as printed; None if it failed
    reason: str | None  # one line, if it failed
    stderr: str  # its last lines, if it failed
    seconds: float


# --- what is run ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Command:
    """A command with places for what differs from query to query.

    Attributes:
      template: A command line with ``{config}`` or ``{json}``, and perhaps ``{trial}`` and
        ``{slot}``. Split as a shell does, but run without one.
      shell: Run it by ``/bin/sh`` instead, for pipes and variables; what is put in is quoted.
      timeout: Seconds after which an attempt has failed; None waits for ever.
    """

    template: str
    shell: bool = False
    timeout: float | None = None

    def __post_init__(self):
        if self.timeout is not None and not self.timeout > 0:
            raise ConfigError(f"--timeout must be above 0 seconds, got {self.timeout}")
        if not {"{config}", "{json}"} & set(re.findall(r"\{\w+\}", self.template)):
            raise ConfigError(
                f"--command {self.template!r} has no {{config}}: write it where the path of"
                " the JSON file belongs, as in './train.sh {config}' (or {json} for its text)"
            )
        try:
            words = shlex.split(self.template)
        except ValueError as error:
            raise ConfigError(
                f"--command {self.template!r} cannot be split into words: {error}"
            ) from None
        if not self.shell and "{" not in words[0] and shutil.which(words[0]) is None:
            raise ConfigError(_not_found(words[0]))

    def argv(self, places: Mapping[str, str]) -> list[str]:
        """The words to run, with `places` filled in; other braces stay as they are."""

        def fill(text: str, quote=str) -> str:
            return re.sub(
                rf"\{{({'|'.join(PLACEHOLDERS)})\}}",
                lambda match: quote(places[match[1]]),
                text,
            )

        if self.shell:
            return ["/bin/sh", "-c", fill(self.template, shlex.quote)]
        return [fill(word) for word in shlex.split(self.template)]


def _not_found(program: str) -> str:
    found = pathlib.Path(program).is_file()
    if "/" in program:
        what = "cannot be run: chmod +x it" if found else "there is no such file"
    else:
        what = f"is not on the PATH{f': write ./{program}' if found else ''}"
    return f"--command: {program}: {what}"


class Attempt:
    """A command at work on one query. Make and poll it from one thread."""

    def __init__(
        self,
        command: Command,
        places: Mapping[str, str],
        *,
        output: PathLike,
        errors: PathLike,
        reaper: "Reaper",
    ):
        """Starts the command.

        Args:
          command: What to run.
          places: Text for each of `PLACEHOLDERS`.
          output: File for standard output, replaced.
          errors: File for standard error, replaced.
          reaper: Is told of the process group.
        """
        self._output, self._errors = pathlib.Path(output), pathlib.Path(errors)
        self._reaper = reaper
        self._timeout = command.timeout
        self._start = time.monotonic()
        self._signal: int | None = None  # the last that we have sent
        self._asked = 0.0  # when it was asked to end
        self._outcome: Outcome | None = None
        with _new_file(self._output) as out, _new_file(self._errors) as err:
            try:
                self._process = subprocess.Popen(
                    [*_GATE, *command.argv(places)],
                    stdin=subprocess.PIPE,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,  # and a Ctrl-C at the terminal passes it by
                )
            except OSError as error:  # too many processes, too long a line
                reason = f"cannot be started: {error.strerror or error}"
                self._outcome = Outcome(None, reason, "", self.seconds)
                return
        reaper.watch(self._process.pid)
        with contextlib.suppress(BrokenPipeError), self._process.stdin as gate:
            gate.write(b"\n")

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start

    def poll(self) -> Outcome | None:
        """The outcome, or None while it runs. Ends what has run out of time."""
        if self._outcome is None:
            code = self._process.poll()
            if code is not None:
                self._outcome = self._read(code)
                self._send(signal.SIGKILL)  # what the command has left behind
                self._reaper.release(self._process.pid)
            elif self._timeout is not None and self.seconds > self._timeout:
                self.end()
        return self._outcome

    def end(self, *, now: bool = False) -> None:
        """Asks the process group to end, kills it when it has had its time, or at once."""
        if self._outcome is not None:
            return
        late = self._signal and time.monotonic() - self._asked > GRACE_S
        if now or late:
            self._send(signal.SIGKILL)
        elif self._signal is None:
            self._asked = time.monotonic()
            self._send(signal.SIGTERM)

    def _send(self, signum: int) -> None:
        self._signal = signum
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signum)

    def _read(self, code: int) -> Outcome:
        seconds = self.seconds
        reason = value = None
        lines = _tail(self._errors).splitlines()[-20:]
        if self._signal is not None and self._timeout is None:
            reason = "ended with the search"
        elif self._signal is not None:
            reason = f"no end within {self._timeout:g} s (--timeout)"
        elif code < 0:
            reason = f"killed by {_signal_name(-code)}"
        elif code > 0:
            last = next((line.strip() for line in lines[::-1] if line.strip()), "")
            reason = f"exit code {code}" + (f": {last[:120]}" if last else "")
        else:
            try:
                value = read_value(_tail(self._output))
            except ValueError as error:
                reason = str(error)
        stderr = "\n".join(lines)[-4000:] if reason else ""
        return Outcome(value, reason, stderr, seconds)


def end_all(attempts: Iterable[Attempt]) -> None:
    """Ends commands: asks, waits a little, kills; a second Ctrl-C kills at once."""
    left = list(attempts)
    now = False
    while left:
        try:
            for attempt in left:
                attempt.end(now=now)
            left = [attempt for attempt in left if attempt.poll() is None]
            time.sleep(0.02 if left else 0)
        except KeyboardInterrupt:
            now = True


def _new_file(path: pathlib.Path) -> IO[bytes]:
    # A fresh file, not the old one emptied: a stale command may still write into that.
    path.unlink(missing_ok=True)
    return path.open("xb")


def _tail(path: pathlib.Path) -> str:
    with path.open("rb") as f:
        size = f.seek(0, os.SEEK_END)
        f.seek(max(0, size - _TAIL))
        return f.read().decode("utf-8", errors="replace")


def _signal_name(number: int) -> str:
    if number == signal.SIGKILL:
        return "SIGKILL (by the system when memory runs out, perhaps)"
    with contextlib.suppress(ValueError):  # a real-time signal has no name
        return signal.Signals(number).name
    return f"signal {number}"


# --- when the searcher dies -----------------------------------------------------------------


class Reaper:
    """A process that outlives the searcher just long enough to kill its commands.

    It holds for any end of the searcher, kill -9 among them, and on any POSIX system. Only what
    a command puts into another process group (a daemon) escapes it.
    """

    def __enter__(self) -> "Reaper":
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", reaper.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self

    def __exit__(self, *exc) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def watch(self, pid: int) -> None:
        """A process group has begun."""
        self._tell(f"+{pid}\n")

    def release(self, pid: int) -> None:
        """A process group has ended."""
        self._tell(f"-{pid}\n")

    def _tell(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # somebody has killed the reaper
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
