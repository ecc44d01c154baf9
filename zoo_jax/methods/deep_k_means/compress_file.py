"""Any network's arrays -> one small file of a given size, and back. No data, no training.

Kernels of convolutions and dense layers become codebooks and indices; everything else is
stored exactly. Layout of the file: docs/compressed_format.md.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy

from zoo_jax.core.errors import ConfigError, WeightsError
from zoo_jax.core.files import PathLike, atomic_write
from zoo_jax.core.tree import named_leaves
from zoo_jax.methods.deep_k_means import artefact, file_kernels
from zoo_jax.methods.deep_k_means.allocation import Option, allocate, options
from zoo_jax.methods.deep_k_means.clustered import Clustered
from zoo_jax.methods.deep_k_means.file_clusters import (
    TRANSPOSED,
    FileClusters,
    require_numbers,
)
from zoo_jax.optim.kmeans import LayerSpec

_CLOSE = 0.995  # a file that takes this much of its budget is large enough
_ROUNDS = 6  # files that are made to come closer to the budget

Progress = Callable[[Sequence[Any], str], Iterable[Any]]


def compress_arrays(
    arrays: Mapping[str, np.ndarray], path: PathLike, **options: Any
) -> dict[str, Any]:
    """Writes a network as one small file, by a byte budget or a list of layers.

    Args:
      arrays: Key -> array. Keys with ``/`` are taken as paths.
      path: The file. It appears when it is complete, and is never larger than the budget.
      **options: Those of `cluster_arrays`, which also says what is minimised.

    Returns:
      ``layers`` (one dict per kernel), ``spec`` (the same for `spec`), ``layout``,
      ``bytes``, ``dense_bytes``, ``ratio``, ``target_bytes``, ``relative_sse`` (mean over
      kernels), ``exact_bytes``, ``sizes`` (bytes of the parts of the file).

    Raises:
      ConfigError, WeightsError: as `cluster_arrays`.
    """
    shared = cluster_arrays(arrays, **options)
    shared.write(path)
    return shared.report


def cluster_arrays(
    arrays: Mapping[str, np.ndarray],
    *,
    target_ratio: float | None = None,
    target_bytes: int | None = None,
    spec: Sequence[Mapping[str, Any]] | None = None,
    layout: str = "auto",
    dense: bool = True,
    codebook_dtype: str = "float32",
    sensitivity: Mapping[str, float] | None = None,
    metadata: Mapping[str, Any] | None = None,
    progress: Progress = lambda items, text: items,
) -> "SharedArrays":
    """Clusters the kernels of a network so that its file meets a budget.

    With a budget, samples and number of clusters of each kernel are chosen so that the sum of
    relative squared errors is least. With white inputs this is the noise-to-signal ratio that
    the layers add to their outputs. It knows nothing of data, norms or skip connections: it
    ranks choices, and does not predict accuracy. Measure the result.

    Args:
      arrays: Key -> array. Keys with ``/`` are taken as paths.
      target_ratio: Budget as bytes of a safetensors file of `arrays` over bytes of the file.
      target_bytes: Budget in bytes.
      spec: Instead of a budget, entries for `make_spec`: patterns of keys and layers.
      layout: Of convolution and dense kernels: "torch" (OIHW, named ``weight``), "flax" (HWIO,
        ``kernel``), or "auto": told by the names.
      dense: Cluster dense kernels too (an extension: the published method leaves them).
        A `spec` decides for itself.
      codebook_dtype: "float32" or "float16".
      sensitivity: Key -> weight of its relative error; 1 by default.
      metadata: JSON values to keep in the file.
      progress: Wraps what is looped over, as `tqdm` does.

    Raises:
      ConfigError: for arguments that do not fit, or a budget that cannot be met.
      WeightsError: for arrays that hold NaN, no kernel, or have no place in the file.
    """
    if sum(x is not None for x in (target_ratio, target_bytes, spec)) != 1:
        raise ConfigError("give one of target_ratio, target_bytes and spec")
    artefact.check_codebook_dtype(codebook_dtype)
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    require_numbers(arrays)
    dense_bytes = len(_safetensors(arrays, None))
    target = _target(target_ratio, target_bytes, dense_bytes)
    layout = file_kernels.find_layout(arrays, layout)
    if spec is None:
        kernels = file_kernels.find_kernels(arrays, layout, dense)
    else:
        layers = file_kernels.resolve(spec, arrays, layout)
        kernels = {name: file_kernels.to_ours(arrays[name], layout) for name in layers}
    for name, kernel in kernels.items():
        if not np.isfinite(kernel).all():
            raise WeightsError(f"{name} holds values that are not finite")
    file = FileClusters(arrays, kernels, layout, codebook_dtype, dict(metadata or {}))
    if spec is not None:
        for name in progress(list(layers), "clustering"):
            file.fit(name, layers[name])
        data, sizes = file.pack(layers)
    else:
        choices = {
            name: options(kernels[name], codebook_bytes=file.codebook_bytes)
            for name in progress(list(kernels), "measuring")
        }
        layers, data, sizes = _search(
            file, choices, target, sensitivity or {}, dense_bytes, progress
        )
    rows = [file.row(name, layers.get(name)) for name in kernels]
    report = {
        "layers": rows,
        "spec": [
            file_kernels.entry(name, layer) for name, layer in layers.items() if layer
        ],
        "layout": layout,
        "bytes": len(data),
        "dense_bytes": dense_bytes,
        "ratio": dense_bytes / len(data),
        "target_bytes": target,
        "relative_sse": float(np.mean([row["relative_sse"] for row in rows])),
        "exact_bytes": sizes["raw"],
        "sizes": sizes,
    }
    return SharedArrays(file, data, file.clusters(layers), report)


class SharedArrays:
    """A network whose kernels share samples, and the bytes of its file."""

    def __init__(
        self,
        file: FileClusters,
        data: bytes,
        clusters: Mapping[str, Clustered],
        report: dict[str, Any],
    ):
        """Use `cluster_arrays`."""
        self._file, self.data = file, data
        self.clusters, self.report = clusters, report

    def arrays(self) -> dict[str, np.ndarray]:
        """What the file gives back, read from its bytes: key -> array in its own layout."""
        variables, metadata = artefact.unpack(self.data)
        return _as_given(variables, metadata, "the file")

    def layers(self, prefix: str = "") -> list[dict[str, Any]]:
        """Entries for `make_spec` that select the clusters as they are, for training them.

        Args:
          prefix: What is taken off the front of each key.
        """
        return [
            file_kernels.entry(
                name.removeprefix(prefix),
                LayerSpec(len(c.codebook), c.samples, 0.0, c.row_length),
            )
            for name, c in self.clusters.items()
        ]

    def retrained(self, arrays: Mapping[str, np.ndarray]) -> "SharedArrays":
        """The same clusters with other centres, and with whatever is stored exactly.

        Indices, and with them the size of the file, stay: the budget keeps being met.

        Args:
          arrays: As `cluster_arrays` got them, after training; samples of a cluster are
            equal bit for bit.

        Raises:
          ConfigError: if the centres do not fit into the codebook's dtype, or the file would
            exceed its budget.
          ValueError: if samples of a cluster differ, or arrays are other ones.
        """
        clusters, data, sizes = self._file.repack(self.clusters, arrays)
        target = self.report["target_bytes"]
        if target is not None and len(data) > target:
            raise ConfigError(
                f"the file has {len(data):,} bytes after training, more than the "
                f"{target:,} asked for: ask for a few bytes less"
            )
        report = self.report | {"bytes": len(data), "sizes": sizes}
        report |= {"ratio": report["dense_bytes"] / len(data)}
        return SharedArrays(self._file, data, clusters, report)

    def write(self, path: PathLike) -> None:
        """Writes the file, whole or not at all."""
        with atomic_write(path, "wb") as f:
            f.write(self.data)


def expand(path: PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads a compressed network back under its keys, in the layout that it came in.

    Returns:
      (key -> array, metadata).

    Raises:
      WeightsError: if the file is missing, foreign or damaged.
    """
    variables, metadata = artefact.load_compressed(path)
    return _as_given(variables, metadata, path), metadata


def write_safetensors(
    path: PathLike, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None
) -> int:
    """Writes arrays with the metadata of the file that they came from; returns its bytes."""
    data = _safetensors(arrays, metadata)
    with atomic_write(path, "wb") as f:
        f.write(data)
    return len(data)


def _as_given(
    variables: Mapping[str, Any], metadata: Mapping[str, Any], where: PathLike
) -> dict[str, np.ndarray]:
    """Flat keys, and torch kernels in their own layout again."""
    arrays = {name: np.asarray(a) for name, a in named_leaves(variables).items()}
    transposed = metadata.get(TRANSPOSED, [])
    for name in transposed if isinstance(transposed, list) else [transposed]:
        array = arrays.get(name) if isinstance(name, str) else None
        if array is None or array.ndim not in file_kernels.TORCH:
            raise WeightsError(
                f"{where}: metadata speaks of {name!r}, which is no kernel"
            )
        array = file_kernels.TORCH[array.ndim].to_published(array)
        arrays[name] = np.asarray(array, order="C")
    return arrays


# --- the search -----------------------------------------------------------------------


def _search(
    file: FileClusters,
    choices: Mapping[str, Sequence[Option]],
    target: int,
    sensitivity: Mapping[str, float],
    dense_bytes: int,
    progress: Progress,
) -> tuple[dict[str, LayerSpec | None], bytes, dict[str, int]]:
    """Makes files until one takes nearly all of the budget and no more.

    Estimates of the options are corrected by what each file turned out to take.
    """
    scale = dict.fromkeys(choices, 1.0)
    fixed = file.fixed_bytes()
    best, best_error = None, math.inf
    attempt = 0
    while True:
        scaled = {
            name: [o._replace(bytes=o.bytes * scale[name]) for o in found]
            for name, found in choices.items()
        }
        # Estimates that keep being too low must not keep it from ending.
        margin = target * 0.001 * max(0, attempt - 1) ** 2
        picked = allocate(scaled, target - fixed - margin, sensitivity=sensitivity)
        least = picked is None
        if least:
            picked = {
                name: min(found, key=lambda o: o.bytes)
                for name, found in scaled.items()
            }
        layers = {name: option.layer for name, option in picked.items()}
        new = [n for n, layer in layers.items() if layer and not file.has(n, layer)]
        for name in progress(new, f"clustering, round {attempt + 1}"):
            file.fit(name, layers[name])
        data, sizes = file.pack(layers)
        error = sum(
            sensitivity.get(name, 1.0) * file.error(name, layer)
            for name, layer in layers.items()
        )
        if len(data) <= target and error < best_error:
            best, best_error = (layers, data, sizes), error
        attempt += 1
        if best and (len(data) >= _CLOSE * target or error == 0 or attempt >= _ROUNDS):
            return best
        if least:
            if best:
                return best
            raise ConfigError(
                f"a file of {target:,} bytes (ratio {dense_bytes / target:.4g}) cannot be "
                f"reached: the smallest has {len(data):,} bytes (ratio "
                f"{dense_bytes / len(data):.4g}), {sizes['raw']:,} of them for arrays that "
                "stay exact"
            )
        real = {name: file.stored(name, layer) for name, layer in layers.items()}
        fixed = len(data) - sum(real.values())
        for name, option in picked.items():
            if option.layer:
                scale[name] *= real[name] / option.bytes


def _target(ratio: float | None, size: int | None, dense_bytes: int) -> int | None:
    if ratio is not None and not 0 < ratio < math.inf:
        raise ConfigError(f"the target ratio must be a number above 0, got {ratio}")
    if size is not None and size < 1:
        raise ConfigError(f"the target must be 1 byte or more, got {size}")
    return size if ratio is None else max(1, int(dense_bytes / ratio))


def _safetensors(
    arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None
) -> bytes:
    flat = {k: np.asarray(v, order="C") for k, v in arrays.items()}
    return safetensors.numpy.save(flat, metadata=dict(metadata) if metadata else None)
