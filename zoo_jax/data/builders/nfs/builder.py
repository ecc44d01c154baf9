"""The TFDS builder of pairs from Need for Speed."""

import hashlib
import io
import pathlib
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from PIL import Image

from zoo_jax.core.errors import DataError, MediaError
from zoo_jax.data.builders.paired import PairedImages
from zoo_jax.data.folder import image_files
from zoo_jax.data.media import decode_image
from zoo_jax.data.motion_blur import mean_frame

# One pair per so many frames of 240 a second: every tenth picture of a camera of 30.
STRIDE = 80
WINDOWS = (7, 9, 11, 13)
GAMMA = 2.2
_LAYOUT = "<sequence>/240/<sequence>/<frame>.jpg"


class Window(NamedTuple):
    """Consecutive frames of a sequence."""

    frames: Sequence[pathlib.Path]
    sequence: str
    index: int  # number of the middle frame


class Nfs(PairedImages, skip_registration=True):
    """Need for Speed: 100 videos of 240 frames a second, from which pairs are made here.

    `sharp` is a frame, and `image` the mean light (gamma 2.2) of 7, 9, 11 or 13 frames around
    it; how many follows from the hash of its name. One pair per 80 frames. The paper of
    DeblurGAN-v2 says neither how it averaged nor how it interpolated: this is our reading.
    """

    name = "nfs"
    COUNTS: ClassVar = {"train": 100}
    UNIT = "sequences"
    HOMEPAGE = "http://ci2cv.net/nfs/index.html"
    CITATION = (
        "H. Kiani Galoogahi, A. Fagg, C. Huang, D. Ramanan and S. Lucey. Need for speed: a "
        "benchmark for higher frame rate object tracking. ICCV 2017."
    )

    def count(self, found: Sequence[Window]) -> int:
        """Sequences with a window."""
        return len({window.sequence for window in found})

    def find(self, split: str) -> Sequence[Window]:
        """Windows of consecutive numbers; one with a missing frame is left out."""
        del split
        folders = sorted(self.source_dir.glob("*/240/*/"))
        if not folders:
            raise DataError(f"no sequences in {self.source_dir}: expected {_LAYOUT}")
        return [window for folder in folders for window in _windows(folder)]

    def example(self, pair: Window) -> dict[str, Any]:
        """Averages the frames. Raises `MediaError`."""
        frames = [decode_image(path) for path in pair.frames]
        if len({frame.shape for frame in frames}) > 1:
            raise MediaError(f"{pair.frames[0].parent}: frames differ in size")
        out = io.BytesIO()
        Image.fromarray(mean_frame(frames, gamma=GAMMA)).save(out, format="png")
        return {
            "image": out.getvalue(),
            "sharp": str(pair.frames[len(pair.frames) // 2]),
            "sequence": pair.sequence,
            "index": pair.index,
        }


def _windows(folder: pathlib.Path) -> list[Window]:
    sequence, numbered = folder.name, {}
    for path in image_files(folder):
        if not path.stem.isdecimal():
            raise DataError(f"{path}: expected {_LAYOUT} with a number for a frame")
        numbered[int(path.stem)] = path
    out = []
    first, last = (min(numbered), max(numbered)) if numbered else (0, -1)
    for middle in range(first + STRIDE // 2, last + 1, STRIDE):
        digest = hashlib.sha1(f"{sequence}/{middle}".encode()).digest()
        half = WINDOWS[digest[0] % len(WINDOWS)] // 2
        numbers = range(middle - half, middle + half + 1)
        if all(number in numbered for number in numbers):
            out.append(Window([numbered[n] for n in numbers], sequence, middle))
    return out
