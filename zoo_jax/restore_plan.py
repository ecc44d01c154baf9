"""Which files a command line names, and where the restored ones go."""

import glob
import os
import pathlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.files import PathLike
from zoo_jax.data import picture as pictures
from zoo_jax.data import video as videos


class Job(NamedTuple):
    """One file to restore."""

    source: pathlib.Path
    target: pathlib.Path


class Plan(NamedTuple):
    """What a command line asks for."""

    jobs: tuple[Job, ...]
    folder: pathlib.Path | None  # where outputs go; None for a single OUT file
    ignored: int  # files of folders that are neither pictures nor videos


def plan_jobs(inputs: Sequence[PathLike], output: PathLike) -> Plan:
    """Finds the files and where each goes; writes nothing.

    A folder is searched with its sub-folders, whose names are kept. A pattern such as
    ``"scans/*.png"`` that names no file is expanded. `output` is a file for a single picture
    or video if it has the suffix of one, and else a folder.

    Raises:
      ConfigError: for an input that is not there or cannot be written again, or outputs that
        are inputs or collide.
    """
    output = pathlib.Path(output)
    found: list[tuple[pathlib.Path, pathlib.Path]] = []  # file, its place in a folder
    ignored = 0
    for given in inputs:
        matches = [str(given)]
        if not os.path.lexists(given):
            matches = sorted(glob.glob(str(given), recursive=True))
            if not matches:
                raise ConfigError(f"{given}: there is no such file or folder")
        for path in map(pathlib.Path, matches):
            if path.is_dir():
                inside = _walk(path, output)
                some = [p for p in inside if kind_of(p)]
                ignored += len(inside) - len(some)
                found += [(p, p.relative_to(path)) for p in some]
            elif kind_of(path):
                found.append((path, pathlib.Path(path.name)))
            else:
                raise ConfigError(
                    f"{path}: is neither a picture ({', '.join(sorted(pictures.FORMATS))})"
                    f" nor a video ({', '.join(sorted(videos.EXTENSIONS))})"
                )
    if not found:
        raise ConfigError(
            f"{', '.join(map(str, inputs))}: no picture and no video in it"
        )
    if _is_file(inputs, found, output):
        source = found[0][0]
        if kind_of(source) != kind_of(output):
            raise ConfigError(
                f"{output}: {source} is a {kind_of(source)}, and so must be what is written;"
                " end the path with / for a folder"
            )
        plan = Plan((Job(source, output),), None, ignored)
    else:
        jobs = tuple(Job(source, output / place) for source, place in found)
        plan = Plan(jobs, output, ignored)
    _require_distinct(plan.jobs)
    return plan


def kind_of(path: pathlib.Path) -> Literal["picture", "video"] | None:
    """What a file is, by its suffix."""
    suffix = path.suffix.lower()
    if suffix in videos.EXTENSIONS:
        return "video"
    return "picture" if suffix in pictures.FORMATS else None


def _walk(folder: pathlib.Path, output: pathlib.Path) -> list[pathlib.Path]:
    """Files below a folder, sorted; without hidden ones and without our own outputs."""
    found, out = [], output.resolve()
    for place, folders, names in os.walk(folder):
        here = pathlib.Path(place)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and (here / name).resolve() != out
        )
        found += [here / name for name in sorted(names) if not name.startswith(".")]
    return found


def _is_file(given: Sequence[PathLike], found: Sequence[Any], output: PathLike) -> bool:
    """Whether a command line means one file, and not a folder, by its output."""
    text = str(output)
    path = pathlib.Path(output)
    if len(given) != 1 or len(found) != 1 or pathlib.Path(given[0]).is_dir():
        return False
    return not path.is_dir() and not text.endswith(("/", os.sep)) and bool(path.suffix)


def _require_distinct(jobs: Sequence[Job]) -> None:
    sources = {job.source.resolve(): job.source for job in jobs}
    targets: dict[pathlib.Path, Job] = {}
    for job in jobs:
        target = job.target.resolve()
        if target in sources or (
            job.target.exists() and os.path.samefile(job.source, job.target)
        ):
            raise ConfigError(f"{job.target}: is an input as well: choose another -o")
        if target in targets:
            raise ConfigError(
                f"{job.source} and {targets[target].source} would both become {job.target}:"
                " restore them one after the other, or give their common folder"
            )
        targets[target] = job
