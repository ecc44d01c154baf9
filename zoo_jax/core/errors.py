"""The errors a user can mend, each one clear line.

Every binary and every ``zoo-jax`` sub-command turns a `ZooError` into its message on
standard error and exit code 2, with no traceback. A message says what is wrong, with the
value, and how to mend it. Anything that is *our* mistake stays an ordinary exception.
"""


class ZooError(Exception):
    """Base of all errors that a user can mend."""


class ConfigError(ZooError):
    """A config key, value, method or model name that does not exist or does not fit."""


class DataError(ZooError):
    """A data set that is missing, laid out differently, or damaged beyond use."""


class MediaError(DataError):
    """One image, clip or sound file that cannot be decoded safely."""


class ArchiveError(DataError):
    """An archive that is damaged, or that would write outside its target folder."""


class WeightsError(ZooError):
    """A weights file that is damaged, unsafe, or does not fit the network."""


class CheckpointError(ZooError):
    """A training checkpoint that is missing, damaged, or belongs to another run."""


class StorageError(ZooError):
    """A file of a run that cannot be written: the disk is full, or the folder read-only."""


class DeviceError(ZooError):
    """Too few devices or hosts, too little memory, or a batch that does not divide."""


class DivergenceError(ZooError):
    """Training stopped because updates were not finite for too many steps in a row."""


def closest(name: str, choices, *, count: int = 3) -> str:
    """Returns a hint such as ``did you mean 'lr'?``, or the choices if none is close.

    Args:
      name: What the user wrote.
      choices: The names that exist.
      count: At most so many suggestions.
    """
    import difflib

    choices = sorted(map(str, choices))
    near = difflib.get_close_matches(str(name), choices, n=count, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(map(repr, near)) + "?"
    if not choices:
        return "there are none"
    return "choose from " + ", ".join(choices)
