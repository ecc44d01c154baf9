"""Compression of trained networks: assign, re-estimate norms, train centres, write the file."""

import functools
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from zoo_jax.core.config import digest, require_keys, to_dict
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.rng import fold_name
from zoo_jax.core.tree import map_named, named_leaves
from zoo_jax.core.types import Batch, Variables
from zoo_jax.data.loader import eval_batches, train_batches
from zoo_jax.data.source import split_spec
from zoo_jax.methods.deep_k_means import figures
from zoo_jax.methods.deep_k_means.accounting import (
    dense_file,
    gzip_bytes,
    reference_size,
)
from zoo_jax.methods.deep_k_means.artefact import (
    check_codebook_dtype,
    load_compressed,
    save_compressed,
)
from zoo_jax.methods.deep_k_means.clustered import Clustered
from zoo_jax.methods.deep_k_means.layers import NETWORK, make_spec
from zoo_jax.methods.deep_k_means.model import make_module
from zoo_jax.methods.deep_k_means.norms import norm_estimator
from zoo_jax.methods.deep_k_means.task import make_task
from zoo_jax.optim.kmeans import LayerSpec, assign_params, resolve_spec
from zoo_jax.task import RunContext, Task

SUFFIX = ".zdkm"


def compress(config: ml_collections.ConfigDict, ctx: RunContext) -> Mapping[str, float]:
    """Compresses every arm to every budget and measures each stage on real files.

    Per arm (a trained network) and budget (which kernels get how many centres): hard
    assignment, batch-norm statistics anew, training of the centres with the common loop,
    statistics anew, and a file that is read back and evaluated.

    Args:
      config: As for `make_task`, where ``steps``, ``optim`` and ``data.train`` are those of
        training the centres, and ``arms`` (name -> workdir or ``<model>:<published weights>``,
        as `RunContext.load_variables` reads them), ``budgets`` (name -> list for
        `make_spec`) and ``compress``: ``stream`` (the data section that accuracies are
        measured on), ``norm_batches``, ``reduce`` (see `share_cluster_updates`),
        ``codebook_dtype`` ("float32" or "float16").
      ctx: Where to read, train and write.

    Returns:
      ``"<arm>/accuracy"`` of the dense networks, and under ``"<arm>/<budget>/"`` the accuracy
      and negative log-likelihood of the reloaded network, bytes and ratios.

    Raises:
      ConfigError: for sections that do not fit.
    """
    options = _options(config)
    bench = _Bench(config, ctx, options)
    rows, scalars, pictures = [], {}, []
    with ctx.progress(len(config.arms) * len(config.budgets), "compress") as bar:
        for arm, workdir in config.arms.items():
            dense = jax.tree.map(np.asarray, ctx.load_variables(workdir))
            before = bench.measure(dense)
            scalars[f"{arm}/accuracy"] = before["accuracy"]
            for budget, layers in config.budgets.items():
                key = fold_name(ctx.key, budget)
                row, picture = _compress_one(bench, dense, arm, budget, layers, key)
                named = {"arm": arm, "budget": budget, "dense": before["accuracy"]}
                rows.append({**named, **row})
                scalars |= {
                    f"{arm}/{budget}/{name}": row[name]
                    for name in ("accuracy", "nll", "bytes", "ratio", "formula_ratio")
                }
                pictures.append(picture)
                bar.update()
    ctx.writer.table("compression", rows, caption=_CAPTION.format(**options))
    figures.draw(ctx.writer, rows, pictures, stream=options["stream"])
    return scalars


_CAPTION = (
    "Accuracy on the stream '{stream}' at each stage: the dense network, right after the "
    "hard assignment, after new batch-norm statistics, and of the file that was read back "
    "after training the centres. relative_sse: squared error of the assignment over the "
    "spread of the rows. ratio: bytes of a dense float32 safetensors file over bytes of "
    "the file. gzip_ratio: the same for gzip -9 of the dense file of the same clustered "
    "network. formula_ratio: the published formula, which leaves norms out."
)


class Rows(NamedTuple):
    """What the figures need of one assignment: its largest kernel."""

    arm: str
    budget: str
    layer: str
    samples: np.ndarray  # n d, before
    centres: np.ndarray  # k d
    labels: np.ndarray  # n


def _compress_one(
    bench: "_Bench",
    dense: Variables,
    arm: str,
    budget: str,
    layers: list[Mapping[str, Any]],
    key: jax.Array,
) -> tuple[dict[str, Any], Rows]:
    spec = make_spec(layers)
    selected = resolve_spec(spec, dense["params"])
    if not selected:
        raise ConfigError(f"budgets.{budget} selects no kernel: name one in its layers")
    params, found = jax.jit(functools.partial(assign_params, spec=spec))(
        dense["params"], key=key
    )
    variables = {**dense, "params": params}
    assigned = bench.measure(variables)
    variables = bench.reestimate_norms(variables)
    norms = bench.measure(variables)
    variables = bench.train_centres(f"{arm}_{budget}", variables, layers)
    variables, clustered = quantise(
        bench.reestimate_norms(variables), selected, bench.options["codebook_dtype"]
    )
    path = pathlib.Path(bench.ctx.workdir) / f"{arm}_{budget}{SUFFIX}"
    metadata = {
        "method": "deep_k_means",
        "model": to_dict(bench.config.model),
        "config_digest": digest(bench.config),
        "arm": arm,
        "budget": budget,
    }
    sizes = save_compressed(
        path,
        variables,
        {f"params/{name}": value for name, value in clustered.items()},
        metadata=metadata,
        codebook_dtype=bench.options["codebook_dtype"],
    )
    loaded, _ = load_compressed(path)
    _require_equal(loaded, variables)
    final = bench.measure(loaded)
    file = dense_file(variables)
    row = {
        "assigned": assigned["accuracy"],
        "norms": norms["accuracy"],
        "accuracy": final["accuracy"],
        "bytes": sizes["file"],
        "ratio": len(file) / sizes["file"],
        "gzip_ratio": len(file) / gzip_bytes(file),
        "formula_ratio": reference_size(variables["params"], clustered).ratio,
        "relative_sse": _relative_sse(dense["params"], selected, found),
        "nll": final["nll"],
        "index_bytes": sizes["indices"],
        "dense_bytes": len(file),
    }
    largest = max(selected, key=lambda name: named_leaves(dense["params"])[name].size)
    samples = selected[largest].matrix(
        jnp.asarray(named_leaves(dense["params"])[largest])
    )
    picture = Rows(
        arm,
        budget,
        largest.removeprefix(f"{NETWORK}/"),
        np.asarray(samples),
        *map(np.asarray, found[largest]),
    )
    return row, picture


class _Bench:
    """The measuring and training that all arms and budgets share, compiled once."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        ctx: RunContext,
        options: Mapping[str, Any],
    ):
        self.config, self.ctx, self.options = config, ctx, options
        task = _plain_task(config)
        self._measure = jax.jit(lambda v, b: task.metrics(task.predict(v, b), b))
        spec, loader = split_spec(config.data[options["stream"]])
        self._eval_batches = eval_batches(ctx.load_source(spec), **loader)
        spec, self._train_loader = split_spec(config.data["train"])
        self._train_source = ctx.load_source(spec)
        self._estimate = norm_estimator(make_module(config.model), NETWORK)

    def measure(self, variables: Variables) -> dict[str, float]:
        """Mean of each metric over the evaluation stream."""
        sums: dict[str, np.ndarray] = {}
        for batch in self._eval_batches:
            for name, ratio in jax.device_get(self._measure(variables, batch)).items():
                sums[name] = sums.get(name, 0.0) + np.array(ratio, np.float64)
        return {name: float(total / count) for name, (total, count) in sums.items()}

    def reestimate_norms(self, variables: Variables) -> Variables:
        """Replaces running statistics by means over training batches, equally weighted."""
        return self._estimate(variables, self._norm_batches())

    def _norm_batches(self) -> Iterable[Batch]:
        with train_batches(
            self._train_source, seed=self.config.seed, **self._train_loader
        ) as batches:
            for _ in range(self.options["norm_batches"]):
                yield next(batches)

    def train_centres(
        self, name: str, variables: Variables, layers: list[Mapping[str, Any]]
    ) -> Variables:
        """Trains everything that is stored plainly, and the centres, with the common loop."""
        fit = _loop_config(self.config)
        fit.optim.share_updates = {"layers": layers, "reduce": self.options["reduce"]}
        task = make_task(fit, fit.steps)
        return jax.tree.map(np.asarray, self.ctx.fit(name, task, fit, variables))


def _options(config: ml_collections.ConfigDict) -> dict[str, Any]:
    allowed = ("stream", "norm_batches", "reduce", "codebook_dtype")
    section = to_dict(config.get("compress") or {})
    require_keys(section, allowed, "compress")
    for key in allowed:
        if key not in section:
            raise ConfigError(f"compress lacks {key!r}: it needs {', '.join(allowed)}")
    for name in ("arms", "budgets"):
        if not config.get(name):
            raise ConfigError(f"config.{name} is empty: compression needs one at least")
    if section["stream"] not in config.data:
        raise ConfigError(
            f"compress.stream={section['stream']!r} is not in config.data: "
            f"{closest(section['stream'], config.data)}"
        )
    check_codebook_dtype(section["codebook_dtype"])
    if section["norm_batches"] < 1:
        raise ConfigError(
            f"compress.norm_batches must be at least 1, got {section['norm_batches']}"
        )
    return section


def _loop_config(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """What is left of a compression's config for training: a new, unlocked one."""
    drop = ("arms", "budgets", "compress", "procedure", "init_from")
    plain = {k: v for k, v in to_dict(config).items() if k not in drop}
    plain["optim"] = {k: v for k, v in plain["optim"].items() if k != "kmeans"}
    return ml_collections.ConfigDict(plain)


def _plain_task(config: ml_collections.ConfigDict) -> Task:
    return make_task(_loop_config(config), config.steps)


def quantise(
    variables: Variables, selected: Mapping[str, LayerSpec], codebook_dtype: str
) -> tuple[Variables, dict[str, Clustered]]:
    """Rounds the centres as the file will hold them. Returns the clusters of each kernel."""
    clustered: dict[str, Clustered] = {}

    def round_centres(name: str, leaf: np.ndarray) -> np.ndarray:
        leaf = np.asarray(leaf)
        if name not in selected:
            return leaf
        layer = selected[name]
        shared = Clustered.of(leaf, layer.samples, layer.row_length)
        if len(shared.codebook) > layer.num_clusters:
            raise RuntimeError(
                f"{name} has {len(shared.codebook)} distinct samples after training the "
                f"centres, more than {layer.num_clusters}"
            )
        clustered[name] = shared.rounded(codebook_dtype)
        return clustered[name].restore(leaf.shape)

    params = map_named(round_centres, variables["params"])
    return {
        "params": params,
        "model_state": jax.tree.map(np.asarray, variables["model_state"]),
    }, clustered


def _relative_sse(
    params: Any, selected: Mapping[str, LayerSpec], found: Mapping[str, Any]
) -> float:
    """Squared error of the assignment over the spread of the samples, all kernels together."""
    leaves = named_leaves(params)
    error = spread = 0.0
    for name, layer in selected.items():
        x = np.asarray(layer.matrix(jnp.asarray(leaves[name])), np.float64)
        centres, labels = map(np.asarray, found[name])
        error += np.square(x - centres[labels]).sum()
        spread += np.square(x - x.mean(0)).sum()
    return float(error / spread)


def _require_equal(loaded: Variables, saved: Variables) -> None:
    left, right = named_leaves(loaded), named_leaves(saved)
    if left.keys() != right.keys() or any(
        left[name].tobytes() != np.asarray(right[name]).tobytes() for name in left
    ):
        raise RuntimeError("the compressed file does not give back what was saved")
