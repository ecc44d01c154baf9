"""NAS-Bench-Graph: 26,206 graph neural networks, all trained on nine graph data sets.

A network is four operations, each reading the input or one earlier operation; what nobody
reads goes to the output (arXiv 2206.09166). The measurements lie in the installed package
``nas-bench-graph`` (``pip install "zoo-jax[samples]"``); its files are read without importing it.
This space is none of the experiments of arXiv 2102.10490.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from zoo_jax.core.errors import ConfigError, DataError, closest
from zoo_jax.data.samples import package_file
from zoo_jax.methods.weaknas.spaces.pool import Graph, Pool
from zoo_jax.methods.weaknas.spaces.tables import one_hot, read_pickle

DATASETS = (
    *("cora", "citeseer", "pubmed", "cs", "physics"),
    *("photo", "computers", "arxiv", "proteins"),
)
# What each of the four operations reads: 0 is the input, k the k-th operation.
LINKS = (
    *((0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 1), (0, 0, 1, 2), (0, 0, 1, 3)),
    *((0, 1, 1, 1), (0, 1, 1, 2), (0, 1, 2, 2), (0, 1, 2, 3)),
)
OPS = ("gat", "gcn", "gin", "cheb", "sage", "arma", "graph", "fc", "skip")
SKIP, SLOTS = OPS.index("skip"), 4


def build_pool(*, dataset: str | None = None) -> Pool:
    """Opens NAS-Bench-Graph.

    Labels: ``search`` is the validation and ``test`` the test score in per cent (accuracy; for
    proteins the area under the ROC curve), means over three seeds. Costs: ``latency`` in
    seconds and ``params``.

    Args:
      dataset: One of `DATASETS`. Proteins has 2,021 networks: those of gcn, sage, arma, fc
        and skip.

    Returns:
      The pool, in the order of the package's table. Features are the link pattern and the
      four operations, one-hot: 45.

    Raises:
      ConfigError: for an unknown data set.
      DataError: if the package is absent or damaged.
    """
    if dataset not in DATASETS:
        raise ConfigError(
            f"nas_bench_graph needs a data set, got dataset={dataset!r}: "
            f"{closest(str(dataset), DATASETS)}"
        )
    keys, values = _read(dataset)
    base = len(OPS) + 1  # of the digits of a key: the link, then the operations
    digits = keys[:, None] // base ** np.arange(SLOTS, -1, -1) % base
    digits[:, 0] = keys // base**SLOTS
    if digits[:, 0].max() >= len(LINKS) or digits[:, 1:].max() >= len(OPS):
        raise DataError(f"nas-bench-graph: {dataset}: a key is none of the space")
    link, ops = digits[:, 0], digits[:, 1:]
    row = {tuple(d): i for i, d in enumerate(digits.tolist())}

    def neighbours(index: int) -> Int[np.ndarray, "q"]:
        near = {
            row.get((LINKS.index(reads), *other))
            for reads, other in _one_edit(LINKS[link[index]], ops[index].tolist())
        }
        return np.array(sorted(near - {None, index}), np.int64)

    graph_ops = one_hot(
        np.insert(ops + 1, [0, SLOTS], [0, len(OPS) + 1], axis=1), len(OPS) + 2
    )
    return Pool(
        name=f"nas_bench_graph/{dataset}",
        features=np.concatenate(
            [one_hot(link, len(LINKS)), one_hot(ops, len(OPS)).reshape(len(ops), -1)],
            axis=1,
        ),
        labels={
            "search": 100 * values["valid_perf"],
            "test": 100 * values["perf"],
        },
        classes=np.arange(len(keys), dtype=np.int32),  # isomorphic networks share a row
        graph=Graph(_adjacency()[link], graph_ops),
        costs={"latency": values["latency"], "params": 1e6 * values["para"]},
        describe=lambda i: " ".join(
            f"{k}:{OPS[op]}({reads})"
            for k, (op, reads) in enumerate(zip(ops[i], LINKS[link[i]], strict=True), 1)
        ),
        config=lambda i: {
            "link": list(LINKS[link[i]]),
            "ops": [OPS[op] for op in ops[i]],
        },
        neighbours=neighbours,
    )


def canonical(
    link: Sequence[int], ops: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The form under which the table holds a network, or None for one without operations.

    A ``skip`` that others read, that has no neighbour, or that reads the raw input adds
    nothing: it moves to the front, where the rest then reads from it. Of the orders that are left,
    that with the smallest operations stands for all.

    Args:
      link: What each operation reads, a number below its own.
      ops: Indices of operations.

    Source: arXiv 2206.09166, section 3.2, and the released package.
    """
    parent = dict(enumerate(link, 1))
    for node in range(1, SLOTS + 1):
        if ops[node - 1] != SKIP:
            continue
        above = parent[node]
        sons = [k for k, p in parent.items() if p == node]
        brothers = [k for k, p in parent.items() if p == above and k != node]
        if sons or not brothers or above == 0:
            del parent[node]
            parent |= dict.fromkeys(sons, above)
    if not parent:
        return None
    front = SLOTS - len(parent)
    forms = []
    for order in itertools.permutations(parent):
        place = {0: front} | {node: front + i for i, node in enumerate(order, 1)}
        reads = [place[parent[node]] for node in order]
        whole = (*range(front), *reads)
        if whole in LINKS:
            forms.append((whole, (*[SKIP] * front, *(ops[n - 1] for n in order))))
    return min(forms)


def _one_edit(
    link: tuple[int, ...], ops: list[int]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Networks with one other operation or another link pattern, in canonical form."""
    edits = [(other, ops) for other in LINKS if other != link]
    for slot, op in itertools.product(range(SLOTS), range(len(OPS))):
        edits.append((link, [*ops[:slot], op, *ops[slot + 1 :]]))
    forms = [canonical(*edit) for edit in edits]
    return [form for form in forms if form is not None]


def _adjacency() -> np.ndarray:
    """Link pattern -> matrix over input, four operations, output."""
    out = np.zeros((len(LINKS), SLOTS + 2, SLOTS + 2), np.float32)
    for matrix, link in zip(out, LINKS, strict=True):
        for node, reads in enumerate(link, 1):
            matrix[reads, node] = 1
            matrix[node, -1] = node not in link
    return out


def _read(dataset: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    path = package_file("nas_bench_graph", "light", f"{dataset}.bench")
    table: Any = read_pickle(path)
    try:
        keys = np.array(list(table), np.int64)
        values = {
            name: np.array([record[name] for record in table.values()], np.float32)
            for name in ("valid_perf", "perf", "latency", "para")
        }
        if keys.min() < 0:
            raise ValueError(f"key {keys.min()}")
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise DataError(
            f"{path}: is no table of NAS-Bench-Graph ({error}): reinstall the package"
        ) from None
    return keys, values
