"""The compressed file beside gzip and safetensors: size, compressing, loading, decoding."""

import gzip
import math
import pathlib
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import safetensors.numpy

from experiments.benchmarks.side_by_side import Measured, Row, Setting, in_turn
from zoo_jax import models
from zoo_jax.core.tree import named_leaves
from zoo_jax.methods.deep_k_means import artefact, codec
from zoo_jax.methods.deep_k_means.accounting import dense_file, index_entropy
from zoo_jax.methods.deep_k_means.compress_file import compress_arrays, expand
from zoo_jax.optim.samples import to_matrix

RATIO = 10  # of the compressed files


def file_rows(setting: Setting) -> Iterator[Row]:
    """Compressing and loading a small and a large network, and the decoder alone."""
    yield from _network("WRN-16-4", _wide_resnet_shapes(setting.tiny), setting)
    yield from _network(
        "made-up ResNet", _large_shapes(setting.tiny), setting._replace(rounds=1)
    )
    yield _decoding(10_000 if setting.tiny else 2_000_000, 64, setting)


def _network(
    name: str, shapes: Mapping[str, Sequence[int]], setting: Setting
) -> Iterator[Row]:
    arrays = _weights(shapes)
    dense_mb = sum(array.nbytes for array in arrays.values()) / 1e6
    what = f"{name}, {dense_mb:.0f} MB"
    with tempfile.TemporaryDirectory() as folder:
        ours, plain, zipped = (
            pathlib.Path(folder, n) for n in ("a.zdkm", "a.safetensors", "a.gz")
        )
        compress = in_turn(
            {
                f"compress {what}": lambda _: compress_arrays(
                    arrays, ours, target_ratio=RATIO
                )
            },
            setting.rounds,
        )
        (taken, reports), *_ = compress.values()
        clustered = dense_file(expand(ours)[0])
        plain.write_bytes(clustered)
        # Level 9 takes long on what repeats so much: the beginning of a large file tells.
        part = clustered[: 32 << 20]
        scale = len(clustered) / len(part)
        packed = in_turn(
            {"gzip -9": lambda _: gzip.compress(part, 9, mtime=0)},
            min(setting.rounds, 2),
        )
        seconds, results = packed["gzip -9"]
        note = "" if scale == 1 else f"; gzip from {len(part) / 1e6:.0f} MB of it"
        zipped.write_bytes(results[0])
        report = reports[0]
        yield Row(
            what=f"compress, {what}",
            unit="s",
            ours=taken,
            other="gzip -9 of the clustered file",
            theirs=_scaled(seconds, scale),
            remark=f"{dense_mb / taken.median:.3g} MB/s, k-means and search included{note}",
        )
        yield Row(
            what=f"size, {what}",
            unit="bytes",
            ours=_exactly(report["bytes"]),
            other="gzip -9 of the clustered file",
            theirs=_exactly(len(results[0]) * scale),
            limit=_entropy_bytes(ours),
            limit_is="entropy and codebooks",
            remark=f"{report['ratio']:.2f} times smaller than dense{note}",
        )

        def unzip(_):
            with gzip.open(zipped) as f:
                data = f.read()
            return safetensors.numpy.load(data) if scale == 1 else data

        load = in_turn(
            {
                f"load {what}": lambda _: artefact.load_compressed(ours),
                "gunzip": unzip,
                "safetensors": lambda _: safetensors.numpy.load_file(plain),
            },
            max(setting.rounds, 3),
        )
        (loaded, _), (unzipped, _), (limit, _) = load.values()
        yield Row(
            what=f"load, {what}",
            unit="s",
            ours=loaded,
            other="gunzip and safetensors",
            theirs=_scaled(unzipped, scale),
            limit=limit.median,
            limit_is="safetensors, not compressed",
            remark=f"{dense_mb / loaded.median:.0f} MB/s of float32{note}",
        )


def _decoding(n: int, k: int, setting: Setting) -> Row:
    """The range coder alone, on indices as frequent as those of a normal distribution."""
    middles = np.linspace(-3, 3, k - 1)
    labels = np.searchsorted(middles, np.random.default_rng(0).normal(size=n))
    labels = np.unique(labels, return_inverse=True)[1]
    table = codec.frequency_table(np.bincount(labels))
    words = codec.encode(labels, table)
    zipped = zlib.compress(labels.astype(np.uint8).tobytes(), 9)
    times = in_turn(
        {
            "decode": lambda _: codec.decode(words, table, n),
            "zlib": lambda _: np.frombuffer(zlib.decompress(zipped), np.uint8),
        },
        max(setting.rounds, 3),
    )
    ours, theirs = times["decode"][0], times["zlib"][0]
    return Row(
        what=f"decode {n:,} indices, K {k}",
        unit="s",
        ours=ours,
        other="zlib -9 of the indices as bytes",
        theirs=theirs,
        remark=f"{n / ours.median / 1e6:.3g} M indices/s; {words.nbytes:,} bytes against "
        f"{len(zipped):,}",
    )


def _entropy_bytes(path: pathlib.Path) -> float:
    """Indices at their entropy, codebooks and exact arrays: what no such file goes below."""
    sections = artefact._sections(path.read_bytes())
    manifest = artefact._manifest(sections["manifest"])
    total = len(sections["codebooks"]) + len(sections["raw"])
    arrays = named_leaves(artefact.load_compressed(path)[0])
    for leaf in manifest["leaves"]:
        if leaf["coding"] == "clusters":
            rows = to_matrix(
                arrays[leaf["path"]], leaf["samples"], leaf.get("row_length")
            )
            rows = np.ascontiguousarray(rows)
            whole = rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize)))
            total += len(rows) * index_entropy(whole[:, 0]) / 8
    return total


def _weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """Kernels scaled by their inputs, with heavier tails than a normal distribution."""
    generator = np.random.default_rng(0)
    arrays = {}
    for name, shape in shapes.items():
        if name.endswith("kernel"):
            array = generator.standard_t(5, shape) / math.sqrt(math.prod(shape[:-1]))
        else:
            array = generator.uniform(0.5, 1.5, shape)
        arrays[name] = array.astype(np.float32)
    return arrays


def _wide_resnet_shapes(tiny: bool) -> dict[str, tuple[int, ...]]:
    name = "deep_k_means/wide_resnet_16_4"
    options = dict(depth=10, widen=1) if tiny else {}
    variables = models.abstract_variables(name, models.build_module(name, **options))
    return {path: leaf.shape for path, leaf in named_leaves(variables).items()}


def _large_shapes(tiny: bool) -> dict[str, tuple[int, ...]]:
    """Bottleneck blocks as in a ResNet-152: 60 million parameters."""
    stages = [(8, 2)] if tiny else [(64, 3), (128, 8), (256, 36), (512, 3)]
    shapes: dict[str, tuple[int, ...]] = {}
    for width, blocks in stages:
        for block in range(blocks):
            at = f"params/stage{width}_{block}"
            shapes[f"{at}/conv1/kernel"] = (1, 1, 4 * width, width)
            shapes[f"{at}/conv2/kernel"] = (3, 3, width, width)
            shapes[f"{at}/conv3/kernel"] = (1, 1, width, 4 * width)
            for i, outputs in ((1, width), (2, width), (3, 4 * width)):
                for leaf in ("scale", "bias", "mean", "var"):
                    shapes[f"{at}/norm{i}/{leaf}"] = (outputs,)
    shapes["params/linear/kernel"] = (4 * stages[-1][0], 1000)
    return shapes


def _scaled(measured: Measured, by: float) -> Measured:
    return Measured(measured.median * by, measured.least * by, measured.most * by)


def _exactly(value: float) -> Measured:
    return Measured(value, value, value)
