"""Key table of VGG-19 in the layout of torchvision."""

from zoo_jax.convert.table import Entry, Table, conv_entries

# Convolutions between poolings.
_COUNTS = (2, 2, 4, 4, 4)


def vgg19_features_table(upto: str = "conv3_3") -> Table:
    """The convolutions ``conv1_1`` to `upto`; the file may hold the others.

    In the published stack, ``features.0.weight`` and so on, a convolution, its ReLU and a pooling
    take one number each.
    """
    entries: list[Entry] = []
    unused: list[str] = ["classifier.*"]
    number, found = 0, False
    for stage, count in enumerate(_COUNTS, 1):
        for i in range(1, count + 1):
            name = f"conv{stage}_{i}"
            if found:
                unused.append(f"features.{number}.*")
            else:
                entries += conv_entries(f"features.{number}", name)
            found = found or name == upto
            number += 2
        number += 1
    return Table(tuple(entries), ignore=tuple(unused))
