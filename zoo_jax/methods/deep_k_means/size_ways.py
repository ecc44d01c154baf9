"""Ways to make a network's file small, for a comparison at equal bytes.

All of them take and give flat arrays (``params/conv1/kernel``), and their bytes are those of a
real file. `budget` is this project's; the others share scalars, one number of clusters for all
kernels, and pack the whole dense file with gzip, as users of clustering tools are told to.
"""

import glob
import gzip
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from zoo_jax.core.errors import ConfigError
from zoo_jax.methods.deep_k_means import baselines, file_kernels, host_kmeans
from zoo_jax.methods.deep_k_means.compress_file import cluster_arrays
from zoo_jax.optim.layer_spec import LayerSpec

Arrays = dict[str, np.ndarray]
MOST = 256  # clusters of a scalar way: 8 bits per weight


class Small(NamedTuple):
    """A network that has become small."""

    arrays: Arrays  # read back from the bytes of the file
    bytes: int
    clusters: (
        int | None
    )  # of every kernel; None where kernels differ, or nothing is shared
    layers: list[dict[str, Any]]  # entries of a spec, paths without "params/"
    repack: Callable[[Arrays], "Small"]  # after training, with the same sharing


Way = Callable[[Arrays, float], Small | None]  # (arrays, ratio); None: out of reach


def dense_bytes(arrays: Mapping[str, np.ndarray]) -> int:
    """Bytes of the network as a safetensors file: what ratios are relative to."""
    return len(_dense(arrays))


def dense(arrays: Arrays, ratio: float) -> Small:
    """The whole network in float32; the ratio is 1 whatever is asked for."""
    data = _dense(arrays)
    back = safetensors.numpy.load(data)
    return Small(back, len(data), None, [], lambda new: dense(new, ratio))


def budget(arrays: Arrays, ratio: float) -> Small | None:
    """Samples and number of clusters of each kernel by `cluster_arrays`, range-coded."""
    try:
        shared = cluster_arrays(arrays, target_ratio=ratio, codebook_dtype="float16")
    except (
        ConfigError
    ):  # it says so of a budget that cannot be met, and here of nothing else
        return None

    def small(shared) -> Small:
        return Small(
            arrays=shared.arrays(),
            bytes=len(shared.data),
            clusters=None,
            layers=shared.layers("params/"),
            repack=lambda new: small(shared.retrained(new)),
        )

    return small(shared)


def scalar(arrays: Arrays, ratio: float) -> Small | None:
    """K-means of the single weights of each kernel, then ``gzip -9``."""

    def share(name: str, weights: np.ndarray, k: int) -> np.ndarray:
        del name
        centres, labels = host_kmeans.fit(weights[:, None], LayerSpec(k, "scalar"))
        return centres[labels, 0]

    return _largest(arrays, ratio, share)


def linear(arrays: Arrays, ratio: float) -> Small | None:
    """Each weight to the nearest of equal steps from the least to the greatest, then gzip.

    These are the first centres of TensorFlow Model Optimization with its linear
    initialisation. Training moves them.
    """

    def share(name: str, weights: np.ndarray, k: int) -> np.ndarray:
        del name
        centres = np.asarray(
            baselines.first_centres(weights[:, None], k, init="linear")
        )
        middles = (centres[1:, 0] + centres[:-1, 0]) / 2
        return centres[np.searchsorted(middles, weights), 0]

    return _largest(arrays, ratio, share)


WAYS: dict[str, Way] = {
    "dense": dense,
    "budget": budget,
    "scalar": scalar,
    "linear": linear,
}


def _largest(
    arrays: Arrays, ratio: float, share: Callable[[str, np.ndarray, int], np.ndarray]
) -> Small | None:
    """Shares scalars with as many clusters as the ratio allows, found by bisection."""
    limit = dense_bytes(arrays) / ratio
    kernels = file_kernels.find_kernels(arrays, "flax", dense=True)

    def pack(k: int) -> bytes:
        shared = {
            name: share(name, kernel.reshape(-1), min(k, kernel.size)).reshape(
                kernel.shape
            )
            for name, kernel in kernels.items()
        }
        return gzip.compress(_dense({**arrays, **shared}), compresslevel=9, mtime=0)

    low, high, found = 1, MOST + 1, None
    while high - low > 1:
        middle = (low + high) // 2
        data = pack(middle)
        if len(data) <= limit:
            low, found = middle, (middle, data)
        else:
            high = middle
    if found is None:
        return None
    k, data = found
    layers = [
        {
            "path": glob.escape(name.removeprefix("params/")),
            "num_clusters": min(k, kernel.size),
            "samples": "scalar",
        }
        for name, kernel in kernels.items()
    ]

    def small(data: bytes) -> Small:
        back = safetensors.numpy.load(gzip.decompress(data))
        return Small(back, len(data), k, layers, repack)

    def repack(new: Arrays) -> Small:
        return small(gzip.compress(_dense(new), compresslevel=9, mtime=0))

    return small(data)


def _dense(arrays: Mapping[str, np.ndarray]) -> bytes:
    flat = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
    return safetensors.numpy.save(flat)
