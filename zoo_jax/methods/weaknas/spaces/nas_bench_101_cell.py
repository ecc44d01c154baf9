"""One cell of NAS-Bench-101: printing, pruning, hashing and editing it."""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

# Codes of the released search code; ABSENT fills the places behind the last node.
INPUT, CONV1X1, CONV3X3, MAXPOOL3X3, OUTPUT, ABSENT = 0, 1, 2, 3, 4, -1
OPS = ("input", "conv1x1-bn-relu", "conv3x3-bn-relu", "maxpool3x3", "output")
NODES, EDGES = 7, 9
# What the official hash calls the operations, in our order.
_HASH_LABELS = {INPUT: -1, CONV1X1: 1, CONV3X3: 0, MAXPOOL3X3: 2, OUTPUT: -2}


class Cell(NamedTuple):
    """One cell of n nodes: the first is the input, the last the output."""

    adjacency: Int[np.ndarray, "n n"]  # strictly upper triangular, 0 or 1
    ops: Int[np.ndarray, "n"]  # codes as `CONV1X1`


def format_cell(cell: Cell) -> str:
    """A readable form: every node with the nodes that it reads.

    >>> format_cell(Cell(np.eye(3, k=1, dtype=int), np.array([INPUT, CONV3X3, OUTPUT])))
    '1:conv3x3-bn-relu(0) output(1)'
    """
    parts = []
    for node in range(1, len(cell.ops)):
        reads = ",".join(map(str, np.flatnonzero(cell.adjacency[:, node])))
        last = node == len(cell.ops) - 1
        name = OPS[cell.ops[node]]
        parts.append(f"{name}({reads})" if last else f"{node}:{name}({reads})")
    return " ".join(parts)


def prune(cell: Cell) -> Cell | None:
    """Drops the nodes that are on no path from input to output; None if there is no path."""
    n = len(cell.ops)
    after, before = np.zeros(n, bool), np.zeros(n, bool)
    after[0] = before[n - 1] = True
    for node in range(1, n):  # edges go to higher numbers only
        after[node] = np.any(after & (cell.adjacency[:, node] > 0))
    for node in reversed(range(n - 1)):
        before[node] = np.any(before & (cell.adjacency[node] > 0))
    keep = np.flatnonzero(after & before)
    if len(keep) < 2:
        return None
    return Cell(cell.adjacency[np.ix_(keep, keep)], cell.ops[keep])


def graph_hash(cell: Cell) -> str:
    """The official hash of a cell after pruning: equal for isomorphic cells.

    Each node starts from its degrees and label and takes in the hashes of its neighbours,
    once for each node of the cell.

    Raises:
      ValueError: if no path leads from input to output.

    Source: arXiv 1902.09635, appendix; the official code.
    """
    pruned = prune(cell)
    if pruned is None:
        raise ValueError("no path leads from the input to the output of the cell")
    matrix, ops = pruned.adjacency.tolist(), pruned.ops.tolist()
    nodes = range(len(ops))
    reads = [[w for w in nodes if matrix[w][v]] for v in nodes]
    feeds = [[w for w in nodes if matrix[v][w]] for v in nodes]
    hashes = [
        _md5(str((len(feeds[v]), len(reads[v]), _HASH_LABELS[ops[v]]))) for v in nodes
    ]
    for _ in nodes:
        hashes = [
            _md5(
                "".join(sorted(hashes[w] for w in reads[v]))
                + "|"
                + "".join(sorted(hashes[w] for w in feeds[v]))
                + "|"
                + hashes[v]
            )
            for v in nodes
        ]
    return _md5(str(sorted(hashes)))


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def one_edit(cell: Cell) -> Iterator[Cell]:
    """Cells of the space that one edit of the pruned cell leads to.

    An edit puts in or takes out an edge, changes an operation, or puts in a node that one
    node feeds and that feeds another one (two edges). Taking out the edge of such a node
    takes out the node, so there is an edit back.
    """
    pruned = prune(cell)
    if pruned is None:
        return
    for other in _edits(pruned):
        other = prune(other)
        if other is not None and other.adjacency.sum() <= EDGES:
            yield other


def _edits(cell: Cell) -> Iterator[Cell]:
    n = len(cell.ops)
    for node in range(1, n - 1):
        for op in {CONV1X1, CONV3X3, MAXPOOL3X3} - {int(cell.ops[node])}:
            ops = cell.ops.copy()
            ops[node] = op
            yield Cell(cell.adjacency, ops)
    for i in range(n):
        for j in range(i + 1, n):
            adjacency = cell.adjacency.copy()
            adjacency[i, j] = 1 - adjacency[i, j]
            yield Cell(adjacency, cell.ops)
            if n < NODES:  # a node between i and j, in the place right behind i
                grown = np.insert(np.insert(cell.adjacency, i + 1, 0, 0), i + 1, 0, 1)
                grown[i, i + 1] = grown[i + 1, j + 1] = 1
                for op in (CONV1X1, CONV3X3, MAXPOOL3X3):
                    yield Cell(grown, np.insert(cell.ops, i + 1, op))
