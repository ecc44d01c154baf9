"""The file that is to be: the clusters that were tried for it, and its bytes."""

import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from zoo_jax.core.errors import WeightsError
from zoo_jax.core.tree import nest
from zoo_jax.methods.deep_k_means import artefact, file_kernels, host_kmeans
from zoo_jax.methods.deep_k_means.accounting import index_entropy
from zoo_jax.methods.deep_k_means.clustered import Clustered
from zoo_jax.optim.kmeans import LayerSpec
from zoo_jax.optim.samples import to_matrix

TRANSPOSED = "transposed"  # metadata: torch kernels, which the file holds as HWIO


class _Fit(NamedTuple):
    clusters: Clustered
    error: float  # squared error over the sum of squares of the kernel
    bytes: float  # of codebook, table and indices


class FileClusters:
    """The file that is to be, and the clusters that were tried for it."""

    def __init__(self, arrays, kernels, layout, codebook_dtype, metadata):
        self._arrays, self._kernels = arrays, kernels
        self._transposed = layout == "torch"
        self._codebook_dtype = codebook_dtype
        self._metadata = metadata
        self._fits: dict[tuple[str, LayerSpec], _Fit] = {}
        self.codebook_bytes = np.dtype(codebook_dtype).itemsize

    def fixed_bytes(self) -> int:
        """Bytes of a file in which every kernel is empty: all that cannot be saved."""
        rest = {n: a for n, a in self._arrays.items() if n not in self._kernels}
        data, _ = artefact.pack(
            nested(rest), {}, metadata=self._described(self._kernels)
        )
        return len(data)

    def has(self, name: str, layer: LayerSpec) -> bool:
        """Whether `fit` has been called with this."""
        return (name, layer) in self._fits

    def fit(self, name: str, layer: LayerSpec) -> None:
        """Clusters one kernel."""
        kernel = self._kernels[name]
        matrix = np.ascontiguousarray(
            to_matrix(kernel, layer.samples, layer.row_length), np.float32
        )
        seed = zlib.crc32(name.encode())
        centres, labels = host_kmeans.fit(matrix, layer, seed=seed)
        with np.errstate(over="ignore"):  # `rounded` looks for it
            codebook = centres.astype(kernel.dtype)
        clusters = Clustered(codebook, labels, layer.samples, layer.row_length)
        clusters = clusters.compact().rounded(self._codebook_dtype)
        x = matrix.astype(np.float64)
        sse = np.square(x - clusters.codebook.astype(np.float64)[clusters.labels]).sum()
        error = float(sse / np.square(x).sum()) if sse else 0.0
        k, d = clusters.codebook.shape
        size = k * (d * self.codebook_bytes + 2)
        size += len(labels) * index_entropy(clusters.labels) / 8
        self._fits[name, layer] = _Fit(clusters, error, size)

    def error(self, name: str, layer: LayerSpec | None) -> float:
        """Relative squared error of a kernel."""
        return self._fits[name, layer].error if layer else 0.0

    def stored(self, name: str, layer: LayerSpec | None) -> float:
        """Bytes of a kernel, without its entry in the manifest."""
        exact = self._kernels[name].nbytes
        return min(exact, self._fits[name, layer].bytes) if layer else exact

    def clusters(self, layers: Mapping[str, LayerSpec | None]) -> dict[str, Clustered]:
        """The clusters of the kernels that these layers do not leave exact."""
        return {
            n: self._fits[n, layer].clusters for n, layer in layers.items() if layer
        }

    def pack(
        self, layers: Mapping[str, LayerSpec | None]
    ) -> tuple[bytes, dict[str, int]]:
        """The bytes of the file with these layers, and of its parts."""
        return self._pack(self._arrays, self.clusters(layers))

    def repack(
        self, clusters: Mapping[str, Clustered], arrays: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, Clustered], bytes, dict[str, int]]:
        """The file with the same indices and the centres that `arrays` hold."""
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        kinds = [
            {n: (a.shape, a.dtype) for n, a in x.items()}
            for x in (arrays, self._arrays)
        ]
        if kinds[0] != kinds[1]:
            raise ValueError("arrays differ in name, shape or dtype from those before")
        require_numbers(arrays)
        layout = "torch" if self._transposed else "flax"
        new = {}
        for name, old in clusters.items():
            kernel = file_kernels.to_ours(arrays[name], layout)
            matrix = np.asarray(to_matrix(kernel, old.samples, old.row_length))
            _, first = np.unique(old.labels, return_index=True)
            codebook = np.ascontiguousarray(matrix[first])
            if not np.array_equal(codebook[old.labels], matrix):
                raise ValueError(f"{name}: samples of one cluster differ")
            new[name] = old._replace(codebook=codebook).rounded(self._codebook_dtype)
        return new, *self._pack(arrays, new)

    def _pack(
        self, arrays: Mapping[str, np.ndarray], clusters: Mapping[str, Clustered]
    ) -> tuple[bytes, dict[str, int]]:
        shared = {n: c.restore(self._kernels[n].shape) for n, c in clusters.items()}
        return artefact.pack(
            nested({**arrays, **shared}),
            clusters,
            metadata=self._described(clusters),
            codebook_dtype=self._codebook_dtype,
        )

    def row(self, name: str, layer: LayerSpec | None) -> dict[str, Any]:
        """What the table says of a kernel."""
        kernel = self._kernels[name]
        row = {"path": name, "shape": list(self._arrays[name].shape)}
        row |= {"weights": kernel.size, "samples": "exact", "num_clusters": None}
        if layer:
            clusters = self._fits[name, layer].clusters
            row["samples"] = layer.samples
            row["num_clusters"] = len(clusters.codebook)
            row["core"], row["row_length"] = layer.core, layer.row_length
        row["bits_per_weight"] = 8 * self.stored(name, layer) / kernel.size
        row["relative_sse"] = self.error(name, layer)
        return row

    def _described(self, clustered: Iterable[str]) -> dict[str, Any]:
        transposed = sorted(clustered) if self._transposed else []
        return self._metadata | {TRANSPOSED: transposed}


def require_numbers(arrays: Mapping[str, np.ndarray]) -> None:
    """Raises `WeightsError` for an array that holds NaN."""
    for name, array in arrays.items():
        if array.dtype.kind not in "iub" and np.isnan(array).any():
            raise WeightsError(f"{name} holds NaN: the network is broken")


def nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Nested dicts from keys with ``/``. Raises `WeightsError` if one is part of another."""
    try:
        return nest(dict(arrays))
    except ValueError as error:
        raise WeightsError(f"keys of the weights clash: {error}") from None
