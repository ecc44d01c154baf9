"""The TFDS builder of Koehler's benchmark, and its many sharp frames."""

import itertools
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import UInt8

from zoo_jax.core.errors import DataError
from zoo_jax.data.builders.paired import FramePair, PairedImages
from zoo_jax.data.media import decode_image

_LAYOUT = (
    "Blurry<i>_<k>.png and Image<i>/Kernel<k>/GroundTruth<i>_<k>_<n>.png for the images i of "
    "1..4 and the trajectories k of 1..12"
)
_NUMBER = re.compile(r"GroundTruth(\d+)_(\d+)_(\d+)\.png")


class Koehler(PairedImages, skip_registration=True):
    """Koehler's benchmark: 4 photographs under 12 recorded trajectories of a camera.

    `sequence` is the number of the photograph and `index` that of the trajectory. `sharp` is
    the frame in the middle of about 199; the protocol compares with all of them, see
    `sharp_frames`.
    """

    name = "koehler"
    COUNTS: ClassVar = {"test": 48}
    HOMEPAGE = "https://webdav.tuebingen.mpg.de/pixel/benchmark4camerashake/"
    CITATION = (
        "R. Koehler, M. Hirsch, B. Mohler, B. Schoelkopf and S. Harmeling. Recording and "
        "playback of camera shake: benchmarking blind deconvolution with a real-world "
        "database. ECCV 2012."
    )

    def find(self, split: str) -> Sequence[FramePair]:
        """The 48 blurred pictures, each with its middle frame."""
        del split
        pairs = []
        for image, trajectory in itertools.product(range(1, 5), range(1, 13)):
            blurred = self.source_dir / f"Blurry{image}_{trajectory}.png"
            if not blurred.is_file():
                continue  # counted by the caller
            frames = _frames(self.source_dir, image, trajectory)
            middle = sorted(frames)[len(frames) // 2]
            pairs.append(FramePair(blurred, frames[middle], str(image), trajectory))
        if not pairs:
            raise DataError(
                f"no Blurry<i>_<k>.png in {self.source_dir}: expected {_LAYOUT}"
            )
        return pairs


def sharp_frames(
    source_dir: pathlib.Path, image: int, trajectory: int
) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
    """Reads the sharp frames of one blurred picture, one at a time.

    Args:
      source_dir: The official folder.
      image: 1 to 4.
      trajectory: 1 to 12.

    Yields:
      The number of the frame, from 1 on, and the frame.

    Raises:
      DataError: if there are none.
    """
    for number, path in sorted(_frames(source_dir, image, trajectory).items()):
        yield number, decode_image(path)


def _frames(
    source_dir: pathlib.Path, image: int, trajectory: int
) -> dict[int, pathlib.Path]:
    folder = source_dir / f"Image{image}" / f"Kernel{trajectory}"
    found = {
        int(match[3]): path
        for path in folder.glob("*.png")
        if (match := _NUMBER.fullmatch(path.name))
        and (int(match[1]), int(match[2])) == (image, trajectory)
    }
    if not found:
        packed = f"GroundTruth{image}_{trajectory}.mat"
        extra = ""
        if (source_dir / packed).is_file() or (folder / packed).is_file():
            extra = f" ({packed} is not read: save its frames as PNG)"
        raise DataError(f"no sharp frames in {folder}: expected {_LAYOUT}{extra}")
    return found
