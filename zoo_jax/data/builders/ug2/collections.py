"""The three collections of UG^2: what is in them, how they lie on disk, and splits by video."""

import hashlib
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from zoo_jax.core.errors import DataError
from zoo_jax.data.builders.ug2.annotations import UNMAPPED

LAYOUT = (
    "{uav,glider,ground}/{train,test}/<video>.txt with <video>/<frame>.png, or"
    " .../<video>/<sequence>.txt with <video>/<sequence>/<frame>.png"
)


class Partition(NamedTuple):
    """Published numbers of a part of a collection; frames and objects are annotated ones."""

    videos: int
    frames: int
    objects: int  # in full view
    classes: int


# Source: README of the repository UG2-Dataset.
COLLECTIONS: dict[str, dict[str, Partition]] = {
    "uav": {
        "train": Partition(30, 28_263, 29_826, 31),
        "test": Partition(19, 2_814, 3_000, 28),
    },
    "glider": {
        "train": Partition(30, 25_246, 31_760, 20),
        "test": Partition(15, 2_909, 3_000, 17),
    },
    "ground": {
        "train": Partition(136, 98_574, 98_574, 20),
        "test": Partition(21, 3_187, 3_187, 20),
    },
}

# The super-classes of the published map, and the two without ImageNet classes.
MAPPED = tuple(
    """
    Aircraft AnalogClock Arch Bannister Bicycle Bird Boat Bridge Car1 Car2 ChainlinkFence
    Church ConstructionMachinery Dock Dog Dome FarmMachines Fence Flagpost FlowerPot Fountain
    FountainMonument Golfcart Greenhouse Lighthouse Livestock Mountain Obelisk
    OtherLandVehicle Palace Parachute ParkBench Patio Pole Roof Ruins Shore StoneWall
    StreetSign StreetSigns Swing Tent Trashcan Umbrella Wall WaterTower Yurt
    """.split()
)
CLASSES = (*MAPPED, *UNMAPPED)


class VideoSequence(NamedTuple):
    """Frames of one video with their annotations."""

    video: str
    annotations: pathlib.Path
    frames: pathlib.Path  # folder of <number>.png


def find_sequences(folder: pathlib.Path) -> list[VideoSequence]:
    """Annotation files below a folder, each with the folder of its frames beside it.

    The video is the first part of the path below `folder`, so sequences of one video share it.

    Raises:
      DataError: if the folder is absent or has none, or frames are missing.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: expected {LAYOUT} (docs/data.md)")
    out = []
    for path in sorted(folder.rglob("*.txt")):
        frames = path.with_suffix("")
        if not frames.is_dir():
            raise DataError(f"{path}: no folder {frames} with its frames")
        video = path.relative_to(folder).with_suffix("").parts[0]
        out.append(VideoSequence(video, path, frames))
    if not out:
        raise DataError(f"no annotations in {folder}: expected {LAYOUT} (docs/data.md)")
    return out


def is_train_video(video: str, *, share: float = 0.9) -> bool:
    """On which side of a split a video falls, by the SHA-1 of its name.

    Frames of one video resemble each other, so a split must never part them: this one cannot,
    since it does not see frames. Adding videos moves none of the others.

    Args:
      video: Its name.
      share: Of all videos, about so many train.

    >>> videos = [f"AV{i:05}" for i in range(1000)]
    >>> 870 < sum(is_train_video(video) for video in videos) < 930
    True
    """
    digest = hashlib.sha1(video.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def split_by_video(
    videos: Sequence[str], *, share: float = 0.9
) -> tuple[list[int], list[int]]:
    """Indices of the examples that train, and of those that are held out.

    Args:
      videos: The video of each example.
      share: See `is_train_video`.

    Raises:
      DataError: if one side would be empty.
    """
    train = [i for i, v in enumerate(videos) if is_train_video(v, share=share)]
    kept = set(train)
    rest = [i for i in range(len(videos)) if i not in kept]
    if not train or not rest:
        raise DataError(
            f"{len(set(videos))} videos do not split at {share}: choose another share"
        )
    return train, rest
