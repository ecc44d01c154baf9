r"""Deep k-Means: the regulariser, k-means and the compressed file beside what exists.

  python -m experiments.benchmarks.deep_k_means --csv=experiments/results/deep_k_means_benchmark.csv

Everything runs on ``--cores`` cores (one by default), ours and theirs in turn, ``--rounds``
times; medians are shown, and the file holds the least and the largest too. Compilation is apart: a
first call of each compiled program is not timed.

- Regulariser: a training step of Wide ResNet 16-4 at batch 32. What the regulariser does
  depends on the weights only, so its share falls in proportion to the batch: at the published
  128 it is a quarter.
- K-means: at most 30 Lloyd steps from one start, tolerance 1e-4; quality is the sum of squared
  errors (SSE) over theirs. faiss starts from random samples, the others from k-means++.
- Files: networks of made-up heavy-tailed weights, compressed ten times. Instead: ``gzip -9`` of
  the same clustered weights as a safetensors file. Limit: that file, uncompressed.

scikit-learn comes with the extra ``samples``; faiss with ``pip install faiss-cpu``. What is not
installed is left out, with a note.
"""

import functools
import gzip
import importlib
import math
import pathlib
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from absl import flags, logging

from experiments import common
from experiments.benchmarks.side_by_side import (
    Measured,
    Row,
    gemm_rate,
    in_turn,
    on_cores,
    show,
    store,
)
from zoo_jax import models
from zoo_jax.core import rng
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.tree import named_leaves
from zoo_jax.methods.deep_k_means import artefact, codec, host_kmeans
from zoo_jax.methods.deep_k_means.accounting import dense_file, index_entropy
from zoo_jax.methods.deep_k_means.compress_file import compress_arrays, expand
from zoo_jax.optim import clustering
from zoo_jax.optim.kmeans import kmeans_regularization
from zoo_jax.optim.layer_spec import LayerSpec, make_spec

PARTS = ("regulariser", "kmeans", "files")
_PARTS = flags.DEFINE_list("parts", list(PARTS), f"Which of {', '.join(PARTS)}.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Measurements of each.", lower_bound=1)
_CORES = flags.DEFINE_integer("cores", 1, "Cores to run on.", lower_bound=1)
_TINY = flags.DEFINE_bool("tiny", False, "Sizes that measure nothing: for tests.")
_JSON = flags.DEFINE_string("json", None, "Write the rows to this file.")
_CSV = flags.DEFINE_string("csv", None, "Write the rows to this table.")

NUM_ITERS = 30
RATIO = 10  # of the compressed files
EPOCH = 1406  # steps of 45,000 images at batch 32
CASES = {  # samples, their length, clusters
    "scalars": ((1_000_000, 1, 16), (1_000_000, 1, 256)),
    "rows": ((200_000, 3, 64), (1_000_000, 3, 256)),
    "kernels": ((200_000, 9, 256),),
}


def main(argv: Sequence[str]) -> None:
    """Measures, prints one table and stores it."""
    del argv
    for part in _PARTS.value:
        if part not in PARTS:
            raise ConfigError(f"--parts: unknown part {part!r}: {closest(part, PARTS)}")
    with on_cores(_CORES.value):
        rate = gemm_rate(64 if _TINY.value else 1024)
        rows = []
        if "regulariser" in _PARTS.value:
            rows += regulariser_rows(rate)
        if "kmeans" in _PARTS.value:
            rows += kmeans_rows(rate)
        if "files" in _PARTS.value:
            rows += file_rows()
    show(rows)
    from zoo_jax.train.mesh import make_mesh
    from zoo_jax.train.run import run_facts

    facts = run_facts(make_mesh(1))
    facts = {
        "cores": _CORES.value,
        "rounds": _ROUNDS.value,
        "hardware": facts["hardware"],
        "revision": facts["revision"],
    }
    store(rows, facts, json=_JSON.value, csv_file=_CSV.value)


# --- the regulariser --------------------------------------------------------------------------


def regulariser_rows(rate: float) -> Iterator[Row]:
    """A training step with and without it, then its own update and refresh alone."""
    batch_size = 4 if _TINY.value else 32
    steps = {arm: _Step(arm, batch_size) for arm in ("plain", "labels")}
    network = f"WRN-16-4, batch {batch_size}"
    times = in_turn(steps, max(5, _ROUNDS.value))
    plain, labels = (times[arm][0] for arm in steps)
    yield Row(
        what=f"training step, {network}, labels/rows",
        unit="s",
        ours=labels,
        other="plain step",
        theirs=plain,
        # A backward pass does twice the multiply-adds of a forward pass.
        limit=3 * batch_size * steps["plain"].macs / rate,
        limit_is="multiply-adds at the rate of a matrix product",
        remark=f"+{labels.median / plain.median - 1:.1%}, without refresh",
    )
    params = steps["plain"].params
    kinds = {
        "labels/rows": ("labels", steps["labels"].layers),
        "spectral/filters": (
            "spectral",
            make_spec([{"path": "*/kernel", "num_clusters": 8, "samples": "filter"}]),
        ),
    }
    for name, (relaxation, layers) in kinds.items():
        convolutions = {
            path: leaf for path, leaf in named_leaves(params).items() if leaf.ndim == 4
        }
        update, refresh = _link(relaxation, layers, convolutions)
        share = (update.median + refresh.median / EPOCH) / plain.median
        yield Row(
            what=f"regulariser's update, {network}, {name}",
            unit="s",
            ours=update,
            other="plain step",
            theirs=plain,
            remark=f"{share:.2%} of the step with a refresh per epoch",
        )
        yield Row(
            what=f"regulariser's refresh, {network}, {name}",
            unit="s",
            ours=refresh,
            other="plain step",
            theirs=plain,
            remark="once per epoch",
        )


class _Step:
    """The compiled step of a config of Wide ResNet 16-4, on made-up images."""

    def __init__(self, arm: str, batch_size: int):
        from experiments.configs.deep_k_means import cifar10_wrn
        from zoo_jax.metrics.cost import count_macs
        from zoo_jax.train.step import init_state, make_train_step

        tiny = ",tiny=True" if _TINY.value else ""
        config = cifar10_wrn.get_config(f"stage=retrain,arm={arm}{tiny}")
        if _TINY.value and arm != "plain":
            one = dict(path="network/conv1/kernel", num_clusters=6)
            config.optim.kmeans.layers = [one]
        task = common.load_method(config).make_task(config, config.steps)
        size = 16 if _TINY.value else 32
        generator = np.random.default_rng(0)
        batch = {
            "image": generator.normal(size=(batch_size, size, size, 3)).astype("f4"),
            "label": generator.integers(0, 10, batch_size).astype("i4"),
        }
        self._batches = {task.players[0].stream: jax.device_put(batch)}
        init = jax.jit(lambda key: init_state(task, key, batch))
        self._state = init(rng.make_key(0))
        variables = self._state.variables(averaged=False)
        self.macs = count_macs(task.predict, variables, batch) / batch_size
        # The state itself is donated.
        self.params = jax.tree.map(jnp.copy, variables["params"]["network"])
        kmeans = config.optim.get("kmeans")
        self.layers = kmeans and make_spec(
            [
                {**entry, "path": entry["path"].removeprefix("network/")}
                for entry in kmeans.to_dict()["layers"]
            ]
        )
        self._step = jax.jit(
            functools.partial(make_train_step(task), active=(0,)), donate_argnums=0
        )
        self(0)  # compiles, and finds the first clusters

    def __call__(self, number: int) -> None:
        del number
        self._state, metrics = self._step(self._state, self._batches)
        jax.block_until_ready(metrics)


def _link(
    relaxation: str, layers: Any, params: Mapping[str, jax.Array]
) -> tuple[Measured, Measured]:
    """Seconds of an update of the regulariser, and what a refresh adds to it."""

    # The period is an argument: one program, which refreshes or does not.
    @jax.jit
    def update(updates, state, params, every):
        tx = kmeans_regularization(
            1.0, layers, refresh_every=every, relaxation=relaxation
        )
        return tx.update(updates, state, params)

    never, always = jnp.int32(1 << 30), jnp.int32(1)
    zero = jax.tree.map(jnp.zeros_like, params)
    init = kmeans_regularization(1.0, layers, refresh_every=1, relaxation=relaxation)
    _, state = jax.block_until_ready(update(zero, init.init(params), params, never))

    def run(every, state=state):
        return lambda _: jax.block_until_ready(update(zero, state, params, every))

    times = in_turn({"update": run(never), "with refresh": run(always)}, 7)
    least, whole = times["update"][0], times["with refresh"][0]
    refresh = [v - least.median for v in (whole.median, whole.least, whole.most)]
    return least, Measured(*(max(v, 0.0) for v in refresh))


# --- k-means ----------------------------------------------------------------------------------


def kmeans_rows(rate: float) -> Iterator[Row]:
    """Whole runs against scikit-learn and faiss, then the search for the nearest centre."""
    for kind, cases in CASES.items():
        for n, d, k in cases:
            if _TINY.value:
                n, k = 1000, 8
            yield from _runs(f"k-means, {kind}, n {n:,}, d {d}, K {k}", n, d, k)
    n, d, k = (500, 9, 8) if _TINY.value else (200_000, 9, 256)
    yield from _nearest(n, d, k, rate)


def _samples(n: int, d: int) -> np.ndarray:
    """Heavier tails than a normal distribution, as trained weights have."""
    x = np.random.default_rng(0).standard_t(5, (n, d))
    return (x / 20).astype(np.float32)


def _runs(what: str, n: int, d: int, k: int) -> Iterator[Row]:
    x = _samples(n, d)
    compiled = jax.jit(
        lambda x, key: clustering.kmeans(x, k, key, num_iters=NUM_ITERS, tol=1e-4)
    )

    def jit(number):
        result = jax.block_until_ready(compiled(x, jax.random.key(number)))
        return np.asarray(result.centres), np.asarray(result.labels)

    def host(number):
        return host_kmeans.fit(x, LayerSpec(k), seed=number)

    functions = {"jit": jit, "host": host}
    if _installed("sklearn.cluster"):
        functions["scikit-learn"] = functools.partial(_sklearn, x, k)
    if _installed("faiss"):
        functions["faiss"] = functools.partial(_faiss, x, k, n)
        functions["faiss, 256 samples per centre"] = functools.partial(
            _faiss, x, k, 256
        )
    jit(0)
    times = in_turn(functions, 1 if n * k > 10**8 else _ROUNDS.value)
    sse = {
        name: np.median([_sse(x, *result) for result in results])
        for name, (_, results) in times.items()
    }
    # On the host, as in faiss unless it is told otherwise, most steps look at a part only.
    pairs = [("jit", "scikit-learn"), ("jit", "faiss"), ("host", "scikit-learn")]
    pairs.append(("host", "faiss, 256 samples per centre"))
    for ours, theirs in pairs:
        if theirs in times:
            yield Row(
                what=f"{what}, {ours}",
                unit="s",
                ours=times[ours][0],
                other=theirs,
                theirs=times[theirs][0],
                remark=f"SSE x {sse[ours] / sse[theirs]:.4f}",
            )
    if len(times) == 2:
        for ours in times:
            yield Row(what=f"{what}, {ours}", unit="s", ours=times[ours][0])


def _sklearn(x: np.ndarray, k: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.cluster import KMeans

    model = KMeans(k, n_init=1, max_iter=NUM_ITERS, tol=1e-4, random_state=number).fit(
        x
    )
    return model.cluster_centers_, model.labels_


def _faiss(
    x: np.ndarray, k: int, per_centre: int, number: int
) -> tuple[np.ndarray, np.ndarray]:
    import faiss

    faiss.omp_set_num_threads(_CORES.value)
    model = faiss.Kmeans(
        x.shape[1],
        k,
        niter=NUM_ITERS,
        seed=number + 1,
        max_points_per_centroid=per_centre,
        min_points_per_centroid=1,
    )
    model.train(x)
    _, labels = model.index.search(x, 1)
    return model.centroids, labels[:, 0]


def _sse(x: np.ndarray, centres: np.ndarray, labels: np.ndarray) -> float:
    return float(np.square(x - centres[labels], dtype=np.float64).sum())


def _nearest(n: int, d: int, k: int, rate: float) -> Iterator[Row]:
    x = _samples(n, d)
    centres = x[:k].copy()
    compiled = jax.jit(lambda x, c: clustering.kmeans(x, k, init=c, num_iters=0).labels)
    functions = {
        "jit": lambda _: jax.block_until_ready(compiled(x, centres)),
        "host": lambda _: host_kmeans.lloyd(x, centres, 0)[1],
    }
    theirs, other = None, ""
    if _installed("faiss"):
        import faiss

        faiss.omp_set_num_threads(_CORES.value)
        other, index = "faiss", faiss.IndexFlatL2(d)
        index.add(centres)
        functions[other] = lambda _: index.search(x, 1)[1][:, 0]
    functions["jit"](0)
    times = in_turn(functions, 2 * _ROUNDS.value + 1)
    theirs = times[other][0] if other else None
    for name in ("jit", "host"):
        same = np.mean(times[name][1][0] == times[other or "jit"][1][0])
        yield Row(
            what=f"nearest centre, n {n:,}, d {d}, K {k}, {name}",
            unit="s",
            ours=times[name][0],
            other=other,
            theirs=theirs,
            limit=n * d * k / rate,
            limit_is="multiply-adds",
            remark=f"{same:.3%} of the labels equal" if other else "",
        )


# --- the file ---------------------------------------------------------------------------------


def file_rows() -> Iterator[Row]:
    """Compressing and loading a small and a large network, and the decoder alone."""
    yield from _network("WRN-16-4", _wide_resnet_shapes(), _ROUNDS.value)
    yield from _network("made-up ResNet", _large_shapes(), 1)
    yield _decoding(10_000 if _TINY.value else 2_000_000, 64)


def _network(
    name: str, shapes: Mapping[str, Sequence[int]], rounds: int
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
            rounds,
        )
        (taken, reports), *_ = compress.values()
        clustered = dense_file(expand(ours)[0])
        plain.write_bytes(clustered)
        # Level 9 takes long on what repeats so much: the beginning of a large file tells.
        part = clustered[: 32 << 20]
        scale = len(clustered) / len(part)
        packed = in_turn(
            {"gzip -9": lambda _: gzip.compress(part, 9, mtime=0)}, min(rounds, 2)
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
            max(_ROUNDS.value, 3),
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


def _decoding(n: int, k: int) -> Row:
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
        max(_ROUNDS.value, 3),
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
            rows = clustering.to_matrix(
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


def _wide_resnet_shapes() -> dict[str, tuple[int, ...]]:
    name = "deep_k_means/wide_resnet_16_4"
    options = dict(depth=10, widen=1) if _TINY.value else {}
    variables = models.abstract_variables(name, models.build_module(name, **options))
    return {path: leaf.shape for path, leaf in named_leaves(variables).items()}


def _large_shapes() -> dict[str, tuple[int, ...]]:
    """Bottleneck blocks as in a ResNet-152: 60 million parameters."""
    stages = [(8, 2)] if _TINY.value else [(64, 3), (128, 8), (256, 36), (512, 3)]
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


@functools.cache
def _installed(package: str) -> bool:
    """Imports a package, so that no timing holds that; False if it is not there."""
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package.partition(".")[0]:
            raise
        logging.warning("%s is not installed: rows with it are left out", package)
        return False
    return True


if __name__ == "__main__":
    common.run_main(main)
