r"""Turns a data set as published into the form that training reads, and checks its counts.

  python -m experiments.prepare_data --dataset=cifar10 --source_dir=$ZOO_DATA/cifar10

docs/data.md shows how the published files must lie on disk.
"""

from collections.abc import Sequence

from absl import flags

from experiments import common

_DATASET = flags.DEFINE_string(
    "dataset", None, "E.g. cifar10, mnist or gopro/linear.", required=True
)
_SOURCE = flags.DEFINE_string(
    "source_dir", None, "Folder of the published files; by default below $ZOO_DATA."
)
_TARGET = flags.DEFINE_string(
    "data_dir", None, "Where to write; by default below $ZOO_DATA."
)


def main(argv: Sequence[str]) -> None:
    """Prepares and prints the number of examples per split."""
    del argv
    from zoo_jax.data.tfds import prepare_dataset

    counts = prepare_dataset(
        _DATASET.value, source_dir=_SOURCE.value, data_dir=_TARGET.value
    )
    for split, count in counts.items():
        print(f"{_DATASET.value} {split}: {count} examples")


if __name__ == "__main__":
    common.run_main(main)
