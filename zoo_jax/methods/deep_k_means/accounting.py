"""What a clustered network costs: the paper's formula, fixed-length codes, real bytes."""

import gzip
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from jaxtyping import Int

from zoo_jax.core.tree import named_leaves
from zoo_jax.methods.deep_k_means.clustered import Clustered


class Size(NamedTuple):
    """Bits before and after, by one way of counting."""

    original: float
    compressed: float

    @property
    def ratio(self) -> float:
        """How many times smaller."""
        return self.original / self.compressed


def index_entropy(labels: Int[np.ndarray, "n"]) -> float:
    """Shannon entropy of the empirical distribution of labels, in bits per label.

    >>> index_entropy(np.array([0, 0, 1, 1]))
    1.0
    """
    _, counts = np.unique(labels, return_counts=True)
    p = counts / counts.sum()
    return float(-np.sum(p * np.log2(p))) + 0.0  # no negative zero


def reference_size(
    params: Any,
    clustered: Mapping[str, Clustered],
    *,
    coding: str = "entropy",
    bits: int = 32,
) -> Size:
    r"""Size by the formula of the released code.

    .. math:: \sum_{conv} b(|W|+|bias|) + \sum_{linear} b(|W|+|bias|)
       \;\to\; \sum_{conv} \bigl[K d b + N H + b|bias|\bigr] + \sum_{linear} b(|W|+|bias|)

    Scales, shifts and statistics of norms are in neither sum. The published code calls H a
    Huffman length; it is the entropy, which a Huffman code cannot reach below 1 bit.

    Args:
      params: Nested dict; a layer is a dict with a ``kernel`` and perhaps a ``bias``.
      clustered: Path of a kernel in `params` -> its clusters.
      coding: "entropy" (the formula), or "fixed" for ceil(log2 K) bits per index.
      bits: Bits of an uncompressed number, b.

    Source: arXiv 1806.09228, released code, ``get_memory`` and ``get_compressed_memory``.
    """
    original = compressed = 0.0
    leaves = named_leaves(params)
    for name, leaf in leaves.items():
        parent, _, last = name.rpartition("/")
        is_bias = last == "bias" and f"{parent}/kernel".lstrip("/") in leaves
        if last != "kernel" and not is_bias:
            continue
        size = bits * math.prod(leaf.shape)
        original += size
        if name not in clustered:
            compressed += size
            continue
        codebook, labels, *_ = clustered[name]
        used = np.unique(labels).size
        per_index = {
            "entropy": lambda labels=labels: index_entropy(labels),
            "fixed": lambda used=used: math.ceil(math.log2(used)) if used > 1 else 0,
        }[coding]()
        compressed += used * codebook.shape[1] * bits + labels.size * per_index
    return Size(original, compressed)


def dense_file(variables: Any) -> bytes:
    """The variables as one uncompressed safetensors file."""
    flat = {k: np.ascontiguousarray(v) for k, v in named_leaves(variables).items()}
    return safetensors.numpy.save(flat)


def gzip_bytes(data: bytes) -> int:
    """Length after ``gzip -9``: what users of other clustering tools are told to do."""
    return len(gzip.compress(data, compresslevel=9, mtime=0))
