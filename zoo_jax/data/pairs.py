"""Pairs of a blurred and a sharp image on disk, matched by their names."""

import hashlib
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from zoo_jax.core.errors import ConfigError, DataError, MediaError, closest
from zoo_jax.core.files import PathLike
from zoo_jax.data.folder import resolve
from zoo_jax.data.media import EXTENSIONS, decode_image
from zoo_jax.data.source import Source, open_source

Item = TypeVar("Item")

# Source: the configuration of the released code of arXiv 1908.03826: [0, 0.9) and [0.9, 1).
_BUCKETS = {"train": range(90), "valid": range(90, 100)}


class Pair(NamedTuple):
    """Two files of one picture."""

    name: str  # what both names share, with its folders: "GOPR0372_07_00/000047"
    image: pathlib.Path
    sharp: pathlib.Path


class PairedFolder:
    """Blurred and sharp images of equal names, in the order of the names.

    An example is ``image`` (blurred) and ``sharp``, both uint8 [h, w, 3] of one size; sizes
    may differ from pair to pair. ``info["groups"]`` names the folder of each pair.

    `blurred` and `sharp` are folders below `root`, in which images have the same names up to
    their extensions, in sub-folders or not. Or they are patterns with stars for files that
    are told apart by their names. The stars of `sharp` take what the stars of `blurred`, in
    the same order, have matched; if it has fewer, several blurred images share a sharp one.

    >>> PairedFolder("gopro", blurred="*_blur.webp", sharp="*_sharp.webp")  # doctest: +SKIP
    >>> PairedFolder(
    ...     "levin", blurred="im*_kernel*_img.png", sharp="gt/im*.png"
    ... )  # doctest: +SKIP

    Args:
      root: The folder; a relative path is below ``$ZOO_DATA``.
      blurred: Folder or pattern of the blurred images.
      sharp: Folder or pattern of the sharp ones.
      split: ``"train"`` or ``"valid"``; None for all pairs.
      split_by: ``"hash"`` splits by `choose_by_hash` of the two file names; ``"none"`` takes
        all pairs, and no `split`.
      every: Only every so-many-th pair, counted before the split.

    Raises:
      ConfigError: for an unknown split or a value out of range.
      DataError: for absent or empty folders, or images without a partner.
      MediaError: while reading, for a damaged image or a pair that differs in size.
    """

    def __init__(
        self,
        root: PathLike,
        *,
        blurred: str = "blur",
        sharp: str = "sharp",
        split: str | None = None,
        split_by: Literal["hash", "none"] = "hash",
        every: int = 1,
    ):
        if split_by not in ("hash", "none"):
            raise ConfigError(
                f"unknown split_by {split_by!r}: {closest(split_by, ('hash', 'none'))}"
            )
        if split_by == "none" and split is not None:
            raise ConfigError(
                f"paired_folder: split_by='none' takes all pairs, so leave split={split!r} out"
            )
        root = resolve(root)
        pairs = every_nth(match_pairs(root, blurred, sharp), every)
        self.pairs = choose_by_hash(
            pairs, split, names=lambda p: (p.image.name, p.sharp.name), where=root
        )
        self.info = {"groups": tuple(os.path.dirname(p.name) for p in self.pairs)}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        pair = self.pairs[index]
        return decode_pair(pair.image, pair.sharp, str(pair.image), str(pair.sharp))


class JoinedSources:
    """Several sources, one after the other: the mix of data that a paper trains on.

    Args:
      sources: Their sections, e.g. ``[dict(name="gopro", split="train", every=2), ...]``.

    Raises:
      ConfigError: for an empty list.
    """

    def __init__(self, sources: Sequence[Mapping[str, Any] | Source]):
        if not sources:
            raise ConfigError("joined: needs at least one source, got an empty list")
        self._sources = [
            open_source(source) if isinstance(source, Mapping) else source
            for source in sources
        ]
        self._ends = np.cumsum([len(source) for source in self._sources])
        self.info = {"lengths": tuple(len(source) for source in self._sources)}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        source = self._sources[number]
        return source[index - int(self._ends[number]) + len(source)]


def match_pairs(root: pathlib.Path, blurred: str, sharp: str) -> list[Pair]:
    """The pairs below `root`, sorted by name; see `PairedFolder` for the two patterns.

    Raises:
      DataError: for absent or empty folders, or images without a partner: lists them.
    """
    stars = sharp.count("*")
    if ("*" in blurred) != bool(stars) or stars > max(blurred.count("*"), 1):
        raise ConfigError(
            "blurred and sharp must both be folders or both patterns, sharp with no more stars "
            f"than blurred; got {blurred!r} and {sharp!r}"
        )
    left, right = _find(root, blurred), _find(root, sharp)
    kept = stars or 1
    wanted = {key[:kept] for key in left}
    no_sharp = [str(path) for key, path in left.items() if key[:kept] not in right]
    no_blurred = [str(path) for key, path in right.items() if key not in wanted]
    if no_sharp or no_blurred:
        raise DataError(
            f"{root}: {len(no_sharp)} of {len(left)} images of {blurred!r} have no partner in "
            f"{sharp!r}, and {len(no_blurred)} of {len(right)} the other way round: "
            + ", ".join((no_sharp + no_blurred)[:5])
            + (" ..." if len(no_sharp + no_blurred) > 5 else "")
        )
    pairs = [Pair("_".join(key), path, right[key[:kept]]) for key, path in left.items()]
    return sorted(pairs, key=lambda pair: pair.name)


def _find(root: pathlib.Path, pattern: str) -> dict[tuple[str, ...], pathlib.Path]:
    """What the stars matched -> the file. A folder has one star, for all below it."""
    if "*" in pattern:
        parts = [re.escape(part) for part in pattern.split("*")]
        rule, where = re.compile("([^/]*)".join(parts)), root / pattern
        folder = root / os.path.dirname(pattern.partition("*")[0] + "x")
    else:
        rule = re.compile(re.escape(pattern.rstrip("/")) + r"/(.*)\.[^./]*")
        folder = where = root / pattern
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: see docs/data.md for the layouts")
    found: dict[tuple[str, ...], pathlib.Path] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(root)
        if path.suffix.lower() not in EXTENSIONS or any(
            part[0] == "." for part in name.parts
        ):
            continue
        match = rule.fullmatch(name.as_posix())
        if match is None:
            continue
        if match.groups() in found:
            raise DataError(
                f"{found[match.groups()]} and {path} have one name: remove one of them"
            )
        found[match.groups()] = path
    if not found:
        raise DataError(
            f"no images in {where}: expected files of {' '.join(sorted(EXTENSIONS))}"
        )
    return found


def choose_by_hash(
    items: Sequence[Item],
    split: str | None,
    *,
    names: Callable[[Item], Sequence[str]],
    where: PathLike,
) -> list[Item]:
    """The part of `items` whose names fall into the buckets of a split.

    The bucket of an item is the SHA-1 of its names joined, with ``"_"`` behind, modulo 100:
    below 90 is "train", the others are "valid". Equal names share a bucket.

    Args:
      items: In any order, which is kept.
      split: ``"train"``, ``"valid"``, or None for all.
      names: Gives the names of an item, without their folders.
      where: For the error.

    Raises:
      ConfigError: for an unknown split.
      DataError: if nothing falls into it.
    """
    if split is None:
        return list(items)
    if split not in _BUCKETS:
        raise ConfigError(f"unknown split {split!r}: {closest(split, _BUCKETS)}")
    chosen = [item for item in items if _bucket(names(item)) in _BUCKETS[split]]
    if not chosen:
        raise DataError(
            f"{where}: none of {len(items)} names falls into split {split!r}: take all with "
            "split=None, or name the folders of your own split"
        )
    return chosen


def _bucket(names: Sequence[str]) -> int:
    return int(hashlib.sha1(("".join(names) + "_").encode()).hexdigest(), 16) % 100


def every_nth(items: Sequence[Item], every: int) -> Sequence[Item]:
    """Items 0, `every`, 2 `every`, ... Raises `ConfigError` for less than 1."""
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ConfigError(f"every must be a whole number from 1 on, got {every!r}")
    return items[::every]


def decode_pair(
    image: PathLike | bytes, sharp: PathLike | bytes, image_name: str, sharp_name: str
) -> dict[str, Any]:
    """Decodes both images of a pair.

    Returns:
      ``image`` and ``sharp``, uint8 [h, w, 3].

    Raises:
      MediaError: if one cannot be decoded, or if they differ in size.
    """
    out = {"image": decode_image(image), "sharp": decode_image(sharp)}
    (h, w), (sh, sw) = (value.shape[:2] for value in out.values())
    if (h, w) != (sh, sw):
        raise MediaError(
            f"{image_name} has {h}x{w} pixels and {sharp_name} {sh}x{sw}: a pair must have "
            "one size"
        )
    return out
