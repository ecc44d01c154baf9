"""NAS-Bench-201: 15,625 cells of four nodes, all trained on three data sets.

A cell is six edges between four nodes, each with one of five operations; a node is the sum of
what its edges bring. Every cell was put into the same network and trained for 200 epochs
(arXiv 2001.00326; the same cells are the topology space of NATS-Bench, arXiv 2009.00437).

The measurements come from a compact ``.npz`` table, or from the folder of the official
NATS-Bench (``NATS-tss-v1_0-3ffb9-simple``, one small pickle per cell), whose pickles hold plain
values and are read as such. The official single files of NAS-Bench-201 (``.pth``) are pickles
of PyTorch's own with weights in them, which cannot be read without running them: they are refused.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Int

from zoo_jax.core.errors import ConfigError, DataError, closest
from zoo_jax.core.files import PathLike, atomic_write
from zoo_jax.methods.weaknas.spaces.pool import Graph, Pool
from zoo_jax.methods.weaknas.spaces.tables import (
    choose_runs,
    load_npz,
    locate,
    one_hot,
    read_pickle,
)

# Index of an operation: the order of the official code.
OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
# The order of the printed form: |op~0|+|op~0|op~1|+|op~0|op~1|op~2|.
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
DATASETS = ("cifar10", "cifar100", "imagenet16_120")  # columns of the tables
LABELS = {
    "search": "search200",
    "test": "test200",
    "val12": "val12",
    "test12": "test12",
}
TABLE = "nas_bench_201/nas_bench_201.npz"
ORIGIN = (
    "docs/data.md says how the compact table is laid out; write one from the official "
    "folder NATS-tss-v1_0-3ffb9-simple (https://github.com/D-X-Y/NATS-Bench), or give that "
    "folder as the table"
)

_IMAGE = {"cifar10": (32, 10), "cifar100": (32, 100), "imagenet16_120": (16, 120)}
_OFFICIAL = {
    "cifar10": "cifar10",
    "cifar100": "cifar100",
    "imagenet16_120": "ImageNet16-120",
}
_POWERS = len(OPS) ** np.arange(len(EDGES))

Encoding = Literal["one_hot", "integer"]


def build_pool(
    *,
    dataset: str | None = None,
    table: PathLike | None = None,
    encoding: Encoding = "one_hot",
    label: Literal["mean", "one_run"] = "mean",
    seed: int = 0,
) -> Pool:
    """Opens NAS-Bench-201.

    Labels are accuracies in per cent. ``search`` is the label that a search may query,
    ``test`` the mean test accuracy after 200 epochs, ``val12`` and ``test12`` those of
    separate trainings for 12 epochs. In the compact table ``search`` is the accuracy of *one*
    training run, which for two of the data sets seems to be of test images (see docs/data.md);
    in the official folder it is the mean accuracy on held-out validation images.

    Args:
      dataset: ``"cifar10"``, ``"cifar100"`` or ``"imagenet16_120"``.
      table: The compact table or the official folder; default: ``$ZOO_DATA/nas_bench_201/
        nas_bench_201.npz``.
      encoding: As in `encode`.
      label: Whether ``search`` is what the table calls it (of an official folder the mean over
        a cell's training runs), or of one run, drawn once for each cell.
      seed: For that draw.

    Returns:
      The pool; item i of a complete table is architecture i of the official numbering.

    Raises:
      ConfigError: for an unknown data set, encoding or label.
      DataError: for a table that is missing or malformed, or lacks the single runs.
    """
    if label not in ("mean", "one_run"):
        raise ConfigError(f"label must be mean or one_run, got {label!r}")
    if dataset not in DATASETS:
        raise ConfigError(
            f"nas_bench_201 needs a data set, got dataset={dataset!r}: "
            f"{closest(str(dataset), DATASETS)}"
        )
    path = locate(table, TABLE, ORIGIN)
    arrays = read_nats_bench(path) if path.is_dir() else read_table(path)
    arch = arrays["arch"]
    column = DATASETS.index(dataset)
    labels = {
        label: arrays[name][:, column].astype(np.float32)
        for label, name in LABELS.items()
        if name in arrays
    }
    if label == "one_run":
        runs = choose_runs(path, arrays, "search200_runs", seed)
        labels["search"] = runs[:, column].astype(np.float32)
    row = np.full(len(OPS) ** len(EDGES), -1, np.int64)
    row[arch @ _POWERS] = np.arange(len(arch))

    def neighbours(index: int) -> Int[np.ndarray, "q"]:
        near = row[one_edit(arch[index]) @ _POWERS]
        return near[near >= 0]

    return Pool(
        name=f"nas_bench_201/{dataset}",
        features=encode(arch, encoding),
        labels=labels,
        classes=arrays["iso_class"].astype(np.int32),
        graph=cell_graph(arch),
        costs=cell_costs(arch, dataset),
        describe=lambda i: format_cell(arch[i]),
        neighbours=neighbours,
    )


def encode(
    arch: Int[np.ndarray, "m 6"], encoding: Encoding = "one_hot"
) -> Float32[np.ndarray, "m d"]:
    """Features of cells: one-hot per edge (30), or the six op indices as they are.

    Source: released code of arXiv 2102.10490, whose flag for the one-hot form cannot be
    turned off, so that ``"integer"`` was never run there.

    Raises:
      ConfigError: for another encoding.
    """
    if encoding == "one_hot":
        return one_hot(arch, len(OPS)).reshape(len(arch), -1)
    if encoding == "integer":
        return np.asarray(arch, np.float32)
    raise ConfigError(f"encoding must be one_hot or integer, got {encoding!r}")


def format_cell(arch: Int[np.ndarray, "6"]) -> str:
    """The official printed form, ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``.

    >>> format_cell(np.array([3, 0, 1, 2, 4, 3]))
    '|nor_conv_3x3~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|avg_pool_3x3~1|nor_conv_3x3~2|'
    """
    nodes: dict[int, str] = {}
    for (source, target), op in zip(EDGES, arch, strict=True):
        nodes[target] = nodes.get(target, "|") + f"{OPS[op]}~{source}|"
    return "+".join(nodes.values())


def parse_cell(text: str) -> Int[np.ndarray, "6"]:
    """The op indices of a printed cell.

    Raises:
      ValueError: if the text is not in the official form.

    >>> parse_cell(format_cell(np.array([3, 0, 1, 2, 4, 3])))
    array([3, 0, 1, 2, 4, 3])
    """
    parts = [part for node in text.split("+") for part in node.strip("|").split("|")]
    names = [part.rpartition("~")[0] for part in parts]
    unknown = [name for name in names if name not in OPS]
    if not unknown and len(names) == len(EDGES):
        arch = np.array([OPS.index(name) for name in names])
        if format_cell(arch) == text:
            return arch
    raise ValueError(f"{text!r} is no cell of NAS-Bench-201")


def one_edit(arch: Int[np.ndarray, "6"]) -> Int[np.ndarray, "24 6"]:
    """The 24 cells that differ from a cell in one operation."""
    out = []
    for edge in range(len(EDGES)):
        for step in range(1, len(OPS)):
            other = np.array(arch, np.int64)
            other[edge] = (other[edge] + step) % len(OPS)
            out.append(other)
    return np.stack(out)


def cell_graph(arch: Int[np.ndarray, "m 6"]) -> Graph:
    """Cells with operations on nodes: input, one node per edge, output.

    Two edge nodes are joined if the first ends where the second begins. A node ``none``
    brings nothing, so it keeps its label but has no edges.

    Returns:
      8 nodes; 7 labels: input, the five operations, output.
    """
    m, n = len(arch), len(EDGES) + 2
    adjacency = np.zeros((n, n), np.float32)
    for i, (source, target) in enumerate(EDGES, 1):
        adjacency[0, i] = source == 0
        adjacency[i, n - 1] = target == 3
        for j, (begin, _) in enumerate(EDGES, 1):
            adjacency[i, j] = target == begin
    alive = np.ones((m, n), np.float32)
    alive[:, 1:-1] = np.asarray(arch) != OPS.index("none")
    ends = np.zeros((m, 1), np.int64), np.full((m, 1), len(OPS) + 1)
    labels = np.concatenate([ends[0], np.asarray(arch, np.int64) + 1, ends[1]], axis=1)
    return Graph(
        adjacency=adjacency * alive[:, :, None] * alive[:, None, :],
        ops=one_hot(labels, len(OPS) + 2),
    )


def cell_costs(
    arch: Int[np.ndarray, "m 6"], dataset: str
) -> dict[str, Float32[np.ndarray, "m"]]:
    """Parameters and multiply-adds of the network that was trained with each cell.

    The network is a 3x3 stem of 16 channels, three stages of five cells with 16, 32 and 64
    channels, residual blocks of stride 2 between the stages, and a linear layer. ``flops``
    counts multiply-adds of convolutions and linear layers; the published numbers add the
    biases of the last layer (10 to 120).
    """
    side, classes = _IMAGE[dataset]
    params = 3 * 3 * 3 * 16 + 2 * 16 + 2 * 64 + 65 * classes
    macs = 3 * 3 * 3 * 16 * side**2 + 64 * classes
    for c, area in ((32, (side // 2) ** 2), (64, (side // 4) ** 2)):
        # Two 3x3 convolutions with norms; a 1x1 convolution without on the shortcut.
        weights = 9 * c * c // 2 + 9 * c * c + c * c // 2
        params += weights + 2 * 2 * c
        macs += weights * area
    stages = [(c, (side * 16 // c) ** 2) for c in (16, 32, 64)]
    per_op = {"params": np.zeros(len(OPS)), "flops": np.zeros(len(OPS))}
    for name, taps in (("nor_conv_1x1", 1), ("nor_conv_3x3", 9)):
        i = OPS.index(name)
        per_op["params"][i] = 5 * sum(taps * c * c + 2 * c for c, _ in stages)
        per_op["flops"][i] = 5 * sum(taps * c * c * area for c, area in stages)
    base = {"params": params, "flops": macs}
    return {
        name: (base[name] + cost[np.asarray(arch, np.int64)].sum(1)).astype(np.float32)
        for name, cost in per_op.items()
    }


def read_table(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the compact table and checks it; layout in docs/data.md. Raises `DataError`."""
    if path.suffix != ".npz":
        raise DataError(
            f"{path}: is neither a compact table (.npz) nor an official folder; {ORIGIN}"
        )
    columns = len(DATASETS)
    shapes = {"arch": (None, 6), "iso_class": (None,)}
    shapes |= {name: (None, columns) for name in ("search200", "test200")}
    optional = {name: (None, columns) for name in ("val12", "test12")}
    optional["search200_runs"] = (None, columns, None)
    arrays = load_npz(path, shapes, optional)
    arch = arrays["arch"] = _checked_arch(path, arrays["arch"])
    ops = tuple(map(str, arrays.get("op_names", OPS)))
    if sorted(ops) != sorted(OPS):
        raise DataError(f"{path}: op_names are {', '.join(ops)}, not {', '.join(OPS)}")
    arrays["arch"] = np.array([OPS.index(name) for name in ops])[arch]
    return arrays


def _checked_arch(path: pathlib.Path, arch: np.ndarray) -> np.ndarray:
    if arch.dtype.kind not in "iu" or not 0 <= arch.min() <= arch.max() < len(OPS):
        raise DataError(f"{path}: array 'arch' holds other values than 0 to 4")
    arch = arch.astype(np.int64)
    codes, counts = np.unique(arch @ _POWERS, return_counts=True)
    if counts.max() > 1:
        twice = codes[counts > 1][0] // _POWERS % len(OPS)
        raise DataError(f"{path}: holds {format_cell(twice)} twice")
    return arch


def read_nats_bench(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the official folder ``NATS-tss-v1_0-3ffb9-simple``: minutes for all cells.

    Args:
      folder: Holds ``meta.pickle.pbz2`` (the printed cells in their order) and one
        ``<number>.pickle.pbz2`` per cell.

    Returns:
      The arrays of a compact table: ``arch``, ``iso_class``, ``search200`` (validation images),
      ``test200``, ``val12``, ``test12``, each the mean over the training runs that the folder
      has, and ``search200_runs``. What it lacks is NaN. Cells without a file are left out.

    Raises:
      DataError: if the folder has another layout, or a file is damaged or asks for code.
    """
    meta = read_pickle(folder / "meta.pickle.pbz2")
    archs, records = [], []
    for number, cell in enumerate(_meta_cells(folder, meta)):
        names = (f"{number:06d}.pickle.pbz2", f"{number}.pickle.pbz2")
        path = next((folder / n for n in names if (folder / n).is_file()), None)
        if path is not None:
            archs.append(parse_cell(cell))
            records.append(_nats_runs(path, read_pickle(path)))
    if not records:
        raise DataError(f"{folder}: holds no file of a cell such as 000000.pickle.pbz2")
    arch = np.stack(archs)
    out = {"arch": arch, "iso_class": isomorphism_classes(arch)}
    for i, name in enumerate(LABELS.values()):
        cells = [record[i] for record in records]  # cell, data set, run
        most = max(len(runs) for cell in cells for runs in cell)
        runs = np.full((len(cells), len(DATASETS), max(most, 1)), np.nan, np.float32)
        for at, column in np.ndindex(runs.shape[:2]):
            runs[at, column, : len(cells[at][column])] = cells[at][column]
        count = np.sum(~np.isnan(runs), axis=-1)
        mean = np.nansum(runs, axis=-1) / np.maximum(count, 1)
        out[name] = np.where(count > 0, mean, np.float32("nan"))
        if name == "search200":
            out["search200_runs"] = runs
    return out


def _meta_cells(folder: pathlib.Path, meta: Any) -> list[str]:
    cells = meta.get("meta_archs") if isinstance(meta, Mapping) else None
    try:
        for cell in cells:
            parse_cell(cell)
    except (TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{folder}/meta.pickle.pbz2: has no list of cells 'meta_archs' ({error})"
        ) from None
    return list(cells)


def _nats_runs(path: pathlib.Path, record: Any) -> list[list[list[float]]]:
    """Accuracies of the training runs of one cell: label, data set, run."""

    def runs(epochs: str, dataset: str, images: str) -> list[float]:
        results = record[epochs]["all_results"] if epochs in record else {}
        key = f"{images}@{int(epochs) - 1}"
        return [
            float(run["eval_acc1es"][key])
            for (trained, _), run in sorted(results.items())
            if trained == dataset and key in run["eval_acc1es"]
        ]

    def valid(epochs: str, dataset: str) -> list[float]:
        # Of CIFAR-10 only the networks trained on half of it have images held out.
        held = "cifar10-valid" if dataset == "cifar10" else dataset
        return runs(epochs, held, "x-valid")

    def test(epochs: str, dataset: str) -> list[float]:
        return runs(epochs, dataset, "ori-test" if dataset == "cifar10" else "x-test")

    try:
        if not isinstance(record, Mapping):
            raise TypeError(f"it holds a {type(record).__name__}")
        # In the order of LABELS.
        sources = [(valid, "200"), (test, "200"), (valid, "12"), (test, "12")]
        return [
            [measure(epochs, _OFFICIAL[d]) for d in DATASETS]
            for measure, epochs in sources
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: is no record of NATS-Bench ({type(error).__name__}: {error})"
        ) from None


def isomorphism_classes(arch: Int[np.ndarray, "m 6"]) -> Int[np.ndarray, "m"]:
    """Numbers cells so that those with the same canonical form have the same number.

    In the official form a skip connection is the node that it copies, ``none`` and an edge
    out of a dead node are ``#``, and a sum is sorted: 6,466 forms of 15,625 cells. It is cautious: a
    node that sums two ``#`` does not count as dead, so that a few forms compute the same.

    Source: arXiv 2001.00326, section 2.1 (the number), and its released code (the form).
    """
    number: dict[str, int] = {}
    out = []
    for cell in np.asarray(arch).tolist():
        sums: list[list[str]] = [["0"], [], [], []]
        for (source, target), op in zip(EDGES, cell, strict=True):
            below = "+".join(sorted(sums[source]))
            if OPS[op] == "none" or below == "#":
                sums[target].append("#")
            elif OPS[op] == "skip_connect":
                sums[target].append(below)
            else:
                sums[target].append(f"({below})@{OPS[op]}")
        out.append(number.setdefault("+".join(sorted(sums[3])), len(number)))
    return np.array(out, np.int32)


def write_table(path: PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a compact table, e.g. ``write_table("t.npz", read_nats_bench(folder))``."""
    names = np.array(OPS), np.array(DATASETS)
    with atomic_write(path, "wb") as f:
        np.savez_compressed(f, op_names=names[0], datasets=names[1], **arrays)
