"""The TFDS builder of REDS."""

from collections.abc import Sequence
from typing import ClassVar

import tensorflow_datasets as tfds

from zoo_jax.data.builders.paired import (
    FramePair,
    PairedImages,
    first_folder,
    match_frames,
)


class Reds(PairedImages, skip_registration=True):
    """REDS: 100 frames of each clip. The sharp frames of its test clips are not published."""

    name = "reds"
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name="blur", description="Blurred."),
        tfds.core.BuilderConfig(
            name="blur_comp", description="Blurred, then compressed as video."
        ),
    ]
    COUNTS: ClassVar = {"train": 24_000, "valid": 3_000}
    HOMEPAGE = "https://seungjunnah.github.io/Datasets/reds"
    CITATION = (
        "S. Nah and others. NTIRE 2019 challenge on video deblurring and super-resolution: "
        "dataset and study. CVPR workshops 2019."
    )

    def find(self, split: str) -> Sequence[FramePair]:
        """The pairs of all clips."""
        split = "val" if split == "valid" else split  # as its folders say
        blurred, sharp = f"{split}_{self.builder_config.name}", f"{split}_sharp"
        layout = f"REDS/{split}/{{{blurred},{sharp}}}/<clip>/<frame>.png"
        folder = first_folder(
            *(
                root / blurred
                for top in (self.source_dir / "REDS", self.source_dir)
                for root in (top / split, top)
            ),
            layout=layout,
        )
        return match_frames(folder.parent, blurred, sharp)
