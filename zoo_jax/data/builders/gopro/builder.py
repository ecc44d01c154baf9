"""The TFDS builder of GoPro."""

from collections.abc import Sequence
from typing import ClassVar

import tensorflow_datasets as tfds

from zoo_jax.core.errors import DataError
from zoo_jax.data.builders.paired import (
    FramePair,
    PairedImages,
    first_folder,
    match_frames,
)

_BLURRED = {"linear": "blur", "gamma": "blur_gamma"}
_LAYOUT = (
    "GOPRO_Large/{train,test}/<sequence>/{blur,blur_gamma,sharp}/*.png, or regrouped "
    "{train,test}/{blur,sharp}/*.png or {train,test}/{input,target}/*.png"
)


class Gopro(PairedImages, skip_registration=True):
    """GoPro (GOPRO_Large): street scenes, blurred by the mean of frames of a fast camera."""

    name = "gopro"
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(
            name="linear", description="Means of the frames' values."
        ),
        tfds.core.BuilderConfig(
            name="gamma", description="Means after undoing gamma 2.2."
        ),
    ]
    COUNTS: ClassVar = {"train": 2_103, "test": 1_111}
    HOMEPAGE = "https://seungjunnah.github.io/Datasets/gopro"
    CITATION = (
        "S. Nah, T. H. Kim and K. M. Lee. Deep multi-scale convolutional neural network for "
        "dynamic scene deblurring. CVPR 2017."
    )

    def find(self, split: str) -> Sequence[FramePair]:
        """The pairs of all sequences; in a regrouped folder the light is not checked."""
        folder = first_folder(
            self.source_dir / "GOPRO_Large" / split,
            self.source_dir / split,
            layout=_LAYOUT,
        )
        blurred = _BLURRED[self.builder_config.name]
        for image, sharp in (
            (blurred, "sharp"),
            ("blur", "sharp"),
            ("input", "target"),
        ):
            if (folder / image).is_dir():
                return match_frames(folder, image, sharp)
        sequences = sorted(p for p in folder.iterdir() if p.is_dir())
        if not sequences:
            raise DataError(f"no folders in {folder}: expected {_LAYOUT}")
        return [
            pair
            for path in sequences
            for pair in match_frames(path, blurred, "sharp", sequence=path.name)
        ]
