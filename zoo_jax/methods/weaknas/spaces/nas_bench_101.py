"""NAS-Bench-101: 423,624 cells of up to seven nodes and nine edges, trained on CIFAR-10.

A cell is a directed graph from an input to an output node; each node between has one of three
operations (arXiv 1902.09635). The measurements come from a compact ``.npz`` table or from the
official file ``nasbench_only108.tfrecord`` (or ``nasbench_full.tfrecord``), for which neither
TensorFlow nor the official package is needed.
"""

import base64
import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float32, Int

from zoo_jax.core.errors import ConfigError, DataError, closest
from zoo_jax.core.files import PathLike, atomic_write
from zoo_jax.core.wire import wire_fields
from zoo_jax.methods.weaknas.spaces.nas_bench_101_cell import (
    ABSENT,
    NODES,
    OPS,
    OUTPUT,
    Cell,
    format_cell,
    graph_hash,
    one_edit,
)
from zoo_jax.methods.weaknas.spaces.pool import Graph, Pool
from zoo_jax.methods.weaknas.spaces.tables import (
    choose_runs,
    load_npz,
    locate,
    one_hot,
)
from zoo_jax.methods.weaknas.spaces.tfrecord import read_records

TABLE = "nas_bench_101/nas_bench_101.npz"
ORIGIN = (
    "docs/data.md says how the compact table is laid out; write one from the official "
    "nasbench_only108.tfrecord (https://github.com/google-research/nasbench), or give that "
    "file as the table"
)
Encoding = Literal[
    *("org", "last_0", "last_-1", "mid_0", "mid_-1", "last_0_fill", "mid_0_fill"),
    *("onehot_0", "onehot_-1", "onehot_0_fill"),
]


def build_pool(
    *,
    table: PathLike | None = None,
    encoding: Encoding = "org",
    label: Literal["mean", "one_run"] = "mean",
    seed: int = 0,
) -> Pool:
    """Opens NAS-Bench-101.

    Labels are accuracies in per cent after 108 epochs: ``search`` of validation images,
    ``test`` of test images (mean of the runs), if the table has them.

    Args:
      table: The compact table or an official TFRecord file;
        default: ``$ZOO_DATA/nas_bench_101/nas_bench_101.npz``.
      encoding: As in `encode`.
      label: Whether ``search`` is the mean over a cell's training runs, as in the published
        experiments, or of one run, drawn once for each cell.
      seed: For that draw.

    Raises:
      ConfigError: for an unknown encoding or label.
      DataError: for a table that is missing or malformed, or lacks the single runs.
    """
    if label not in ("mean", "one_run"):
        raise ConfigError(f"label must be mean or one_run, got {label!r}")
    path = locate(table, TABLE, ORIGIN)
    arrays = read_official(path) if path.suffix == ".tfrecord" else read_table(path)
    adjacency, ops = arrays["adjacency"], arrays["ops"]
    labels = {"search": arrays["val108"]}
    if label == "one_run":
        labels["search"] = choose_runs(path, arrays, "val108_runs", seed)
    if "test108" in arrays:
        labels["test"] = arrays["test108"]
    costs = {name: arrays[name] for name in ("params", "seconds") if name in arrays}

    def cell(index: int) -> Cell:
        n = int(np.sum(ops[index] != ABSENT))
        return Cell(adjacency[index, :n, :n], ops[index, :n])

    @functools.cache
    def rows() -> dict[bytes, list[int]]:
        found: dict[bytes, list[int]] = {}
        for i, digest in enumerate(arrays["hash"]):
            found.setdefault(digest.tobytes(), []).append(i)
        return found

    def neighbours(index: int) -> Int[np.ndarray, "q"]:
        near = {
            i
            for other in one_edit(cell(index))
            for i in rows().get(bytes.fromhex(graph_hash(other)), [])
        }
        own = arrays["hash"][index].tobytes()
        return np.array(sorted(near - set(rows()[own])), np.int64)

    classes = np.unique(arrays["hash"], axis=0, return_inverse=True)[1]
    return Pool(
        name="nas_bench_101",
        features=encode(adjacency, ops, encoding),
        labels={k: v.astype(np.float32) for k, v in labels.items()},
        classes=classes.reshape(-1).astype(np.int32),
        graph=Graph(adjacency.astype(np.float32), one_hot(ops, len(OPS))),
        costs={k: v.astype(np.float32) for k, v in costs.items()},
        describe=lambda i: format_cell(cell(i)),
        config=lambda i: {
            "matrix": cell(i).adjacency.tolist(),
            "ops": [OPS[op] for op in cell(i).ops],
        },
        neighbours=neighbours,
    )


def encode(
    adjacency: Int[np.ndarray, "m 7 7"],
    ops: Int[np.ndarray, "m 7"],
    encoding: Encoding = "org",
) -> Float32[np.ndarray, "m d"]:
    """Features of cells, in the forms of the released code.

    ``org`` (45 features, the published one): for the nodes 1 to 6, the edges that end there
    and the operation, one-hot; nodes that a cell lacks are zeros, so the output does not move
    to the last place. The others start from the adjacency matrix without its last row:
    ``last`` flattens it and pads at the end, ``mid`` pads each row, both followed by the codes
    of the operations (49 features); ``onehot`` has a block for each number of nodes (139). The
    number is the padding. ``fill`` puts the code of an edge's target in place of the 1 and leaves
    the operations out (42 and 112 features).

    Args:
      adjacency: Zero where a cell has no node.
      ops: Codes; `ABSENT` where a cell has no node.
      encoding: One of the above.

    Raises:
      ConfigError: for another encoding.

    Source: arXiv 2102.10490, released code; `org` follows LaNAS.
    """
    if encoding not in get_args(Encoding):
        hint = closest(str(encoding), get_args(Encoding))
        raise ConfigError(f"unknown encoding {encoding!r}: {hint}")
    if encoding == "org":
        parts = []
        for c in range(1, NODES):
            parts += [
                adjacency[:, :c, c],
                one_hot(ops[:, c] - 1, OUTPUT),
            ]
        return np.concatenate(parts, axis=1).astype(np.float32)
    form, pad, *fill = encoding.split("_")
    sizes = np.sum(ops != ABSENT, axis=1)
    groups = {n: np.flatnonzero(sizes == n) for n in range(2, NODES + 1)}
    encoded = {
        n: _encode_size(
            adjacency[rows, : n - 1, :n], ops[rows, :n], form, int(pad), bool(fill)
        )
        for n, rows in groups.items()
        if len(rows)
    }
    width = next(iter(encoded.values())).shape[1]
    out = np.zeros((len(ops), width), np.float32)
    for n, features in encoded.items():
        out[groups[n]] = features
    return out


def _encode_size(
    matrix: np.ndarray, ops: np.ndarray, form: str, pad: int, fill: bool
) -> np.ndarray:
    """Cells of one size: `matrix` is (m, n - 1, n)."""
    m, rows, n = matrix.shape
    matrix = matrix.astype(np.float32)
    if fill:
        matrix = np.where(matrix != 0, ops[:, None, :], matrix)
    own = [] if fill else [ops]

    def padding(count: int, value: int = pad) -> np.ndarray:
        return np.full((m, count), value, np.float32)

    if form == "onehot":
        sizes = {k: k * (k - 1) if fill else k * k for k in range(2, NODES + 1)}
        before = sum(size for k, size in sizes.items() if k < n)
        after = sum(size for k, size in sizes.items() if k > n)
        parts = [padding(before), matrix.reshape(m, -1), *own, padding(after)]
        return np.concatenate(parts, axis=1)
    if form == "mid":
        whole = np.full((m, NODES - 1, NODES), pad, np.float32)
        whole[:, :rows, :n] = matrix
        parts = [whole.reshape(m, -1)]
    else:
        flat = matrix.reshape(m, -1)
        parts = [flat, padding((NODES - 1) * NODES - flat.shape[1])]
    # The codes are padded with 0, whatever the matrix is padded with.
    tail = [] if fill else [ops, padding(NODES - n, 0)]
    return np.concatenate([*parts, *tail], axis=1)


def read_table(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads a compact table and checks it; layout in docs/data.md. Raises `DataError`."""
    if path.suffix != ".npz":
        raise DataError(
            f"{path}: is neither a compact table (.npz) nor an official .tfrecord; {ORIGIN}"
        )
    shapes = {
        "adjacency": (None, NODES, NODES),
        "ops": (None, NODES),
        "val108": (None,),
    }
    optional = {
        "test108": (None,),
        "val108_runs": (None, None),
        "hash": (None, 16),
        "params": (None,),
        "seconds": (None,),
    }
    arrays = load_npz(path, shapes, optional)
    names = [str(name) for name in arrays.get("op_names", OPS)]
    codes = arrays["ops"].astype(np.int64)
    for name in names:
        if name not in OPS:
            raise DataError(f"{path}: op_names: {name!r}: {closest(name, OPS)}")
    absent = (codes < 0) | (codes == 255)  # -1, also as uint8
    if np.any(codes[~absent] >= len(names)):
        raise DataError(f"{path}: array 'ops' holds {codes[~absent].max()}")
    table = np.array([OPS.index(name) for name in names] + [ABSENT])
    arrays["ops"] = table[np.where(absent, len(names), codes)]
    adjacency = arrays["adjacency"] = arrays["adjacency"].astype(np.int64)
    if np.any(np.tril(adjacency)) or not np.isin(adjacency, (0, 1)).all():
        raise DataError(
            f"{path}: array 'adjacency' is not strictly upper triangular with 0 and 1"
        )
    if "hash" not in arrays:
        arrays["hash"] = _hashes(path, adjacency, arrays["ops"])
    return arrays


def _hashes(path: pathlib.Path, adjacency: np.ndarray, ops: np.ndarray) -> np.ndarray:
    out = []
    for i, (matrix, codes) in enumerate(zip(adjacency, ops, strict=True)):
        n = int(np.sum(codes != ABSENT))
        try:
            digest = graph_hash(Cell(matrix[:n, :n], codes[:n]))
        except ValueError as error:
            raise DataError(f"{path}: row {i}: {error}") from None
        out.append(np.frombuffer(bytes.fromhex(digest), np.uint8))
    return np.stack(out)


def read_official(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads an official TFRecord file: about half a minute for all cells and 108 epochs.

    A record is a JSON list: the hash of the cell, the number of epochs, the flattened
    adjacency matrix, the operations, and in base 64 a protocol-buffer message with the
    measurements. Records of other than 108 epochs are passed over.

    Returns:
      The arrays of a compact table: ``adjacency``, ``ops``, ``hash``, ``val108`` and ``test108``
      (means), ``val108_runs``, ``params``, ``seconds`` (mean training time).

    Raises:
      DataError: if the file is damaged or holds other records.
    """
    cells: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    runs: dict[str, list[tuple[float, ...]]] = {}
    for number, record in enumerate(read_records(path)):
        try:
            digest, epochs, matrix, ops, metrics = json.loads(record)
            if epochs != 108:
                continue
            if digest not in cells:
                bytes.fromhex(digest)
                cells[digest] = _official_cell(matrix, ops)
            runs.setdefault(digest, []).append(_metrics(base64.b64decode(metrics)))
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{path}: record {number} is none of NAS-Bench-101 ({error})"
            ) from None
    if not cells:
        raise DataError(f"{path}: holds no results of 108 epochs")
    most = max(map(len, runs.values()))
    table = np.full((len(cells), most, 4), np.nan)  # cell run measurement
    for i, digest in enumerate(cells):
        table[i, : len(runs[digest])] = runs[digest]
    means = np.nanmean(table, axis=1)
    return {
        "adjacency": np.stack([matrix for matrix, _ in cells.values()]),
        "ops": np.stack([ops for _, ops in cells.values()]),
        "hash": np.array([list(bytes.fromhex(digest)) for digest in cells], np.uint8),
        "val108": means[:, 0],
        "test108": means[:, 1],
        "seconds": means[:, 2],
        "params": means[:, 3],
        "val108_runs": table[:, :, 0],
    }


def _official_cell(matrix: str, ops: str) -> tuple[np.ndarray, np.ndarray]:
    names = ops.split(",")
    n = len(names)
    if not 2 <= n <= NODES or len(matrix) != n * n or set(matrix) - {"0", "1"}:
        raise ValueError(f"matrix {matrix!r} with operations {ops!r}")
    adjacency = np.zeros((NODES, NODES), np.int64)
    adjacency[:n, :n] = np.array(list(matrix), np.int64).reshape(n, n)
    codes = np.full(NODES, ABSENT)
    codes[:n] = [OPS.index(name) for name in names]
    return adjacency, codes


def _metrics(message: bytes) -> tuple[float, float, float, float]:
    """Accuracies in per cent (validation, test), training seconds, number of parameters.

    ModelMetrics: 1 (repeated) EvaluationData, 2 trainable parameters. EvaluationData: 2
    training time, 4 validation and 5 test accuracy. Evaluated are the start, the middle and
    the end of the training.
    """
    fields = list(wire_fields(message))
    evaluations = [value for number, value in fields if number == 1]
    params = [value for number, value in fields if number == 2]
    if len(evaluations) != 3 or len(params) != 1:
        raise ValueError(f"{len(evaluations)} evaluations, {len(params)} sizes")
    end = dict(wire_fields(evaluations[2]))
    return 100 * end[4], 100 * end[5], end[2], float(params[0])


def write_table(path: PathLike, arrays: Mapping[str, Any]) -> None:
    """Writes a compact table, e.g. ``write_table("t.npz", read_official(file))``."""
    small = {
        name: value.astype(np.float32) if value.dtype == np.float64 else value
        for name, value in arrays.items()
    }
    small |= {name: small[name].astype(np.int8) for name in ("adjacency", "ops")}
    with atomic_write(path, "wb") as f:
        np.savez_compressed(f, op_names=np.array(OPS), **small)
