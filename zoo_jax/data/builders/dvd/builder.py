"""The TFDS builder of DVD."""

from collections.abc import Sequence
from typing import ClassVar

from zoo_jax.core.errors import DataError
from zoo_jax.data.builders.paired import (
    FramePair,
    PairedImages,
    first_folder,
    match_frames,
)

# In the order of the table of results. Source: issue 2 of shuochsu/DeepVideoDeblurring.
TEST_VIDEOS = (
    "IMG_0030 IMG_0049 IMG_0021 720p_240fps_2 IMG_0032 IMG_0033 IMG_0031 IMG_0003 "
    "IMG_0039 IMG_0037"
).split()
_LAYOUT = (
    "DeepVideoDeblurring_Dataset/quantitative_datasets/<video>/{input,GT}/<frame>.jpg, or "
    "regrouped {train,test}/{blur,gt}/<video>/<frame>.jpg"
)


class Dvd(PairedImages, skip_registration=True):
    """DVD (deep video deblurring): 61 videos to train and 10 to test."""

    name = "dvd"
    COUNTS: ClassVar = {"train": 5_708, "test": 1_000}
    HOMEPAGE = "https://www.cs.ubc.ca/labs/imager/tr/2017/DeepVideoDeblurring/"
    CITATION = (
        "S. Su, M. Delbracio, J. Wang, G. Sapiro, W. Heidrich and O. Wang. Deep video "
        "deblurring for hand-held cameras. CVPR 2017."
    )

    def find(self, split: str) -> Sequence[FramePair]:
        """The pairs of all videos of a split."""
        folder = self.source_dir / split
        if folder.is_dir():
            return match_frames(folder, "blur", "gt")
        folder = first_folder(
            self.source_dir / "DeepVideoDeblurring_Dataset" / "quantitative_datasets",
            self.source_dir / "quantitative_datasets",
            layout=_LAYOUT,
        )
        videos = sorted(
            path
            for path in folder.iterdir()
            if path.is_dir() and (path.name in TEST_VIDEOS) == (split == "test")
        )
        if not videos:
            raise DataError(
                f"no videos of split {split!r} in {folder}: expected {_LAYOUT}"
            )
        return [
            pair
            for path in videos
            for pair in match_frames(path, "input", "GT", sequence=path.name)
        ]
