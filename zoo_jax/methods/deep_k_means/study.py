"""Comparison of ways to share weights: several seeds, real files, equal epochs."""

import functools
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import safetensors.numpy

from zoo_jax.core.config import digest, to_dict
from zoo_jax.core.files import atomic_write, read_json, write_json
from zoo_jax.core.rng import fold_name, make_key
from zoo_jax.core.tree import map_named, named_leaves, nest
from zoo_jax.core.types import Variables
from zoo_jax.data.source import split_spec
from zoo_jax.methods.deep_k_means import study_results, study_seeds
from zoo_jax.methods.deep_k_means.accounting import dense_file
from zoo_jax.methods.deep_k_means.artefact import load_compressed, save_compressed
from zoo_jax.methods.deep_k_means.clustered import Clustered
from zoo_jax.methods.deep_k_means.layers import NETWORK, make_spec
from zoo_jax.methods.deep_k_means.model import make_module
from zoo_jax.methods.deep_k_means.sharing import make_sharing
from zoo_jax.methods.deep_k_means.study_config import (
    Layers,
    read_arm,
    read_options,
    with_layers,
)
from zoo_jax.methods.deep_k_means.study_seeds import Schedule, over_seeds
from zoo_jax.methods.deep_k_means.task import make_task
from zoo_jax.optim.kmeans import LayerSpec, assign_params, resolve_spec
from zoo_jax.task import RunContext, Task


def sharing_study(
    config: ml_collections.ConfigDict, ctx: RunContext
) -> Mapping[str, float]:
    """Shares the weights of the same pre-trained networks in several ways.

    Every seed pre-trains one network. Every arm re-trains it (or not), for the same number of
    steps on the same batches, and assigns its weights at each budget; what follows is the same
    for all arms: batch-norm statistics anew, training of the centres, statistics anew, and a
    file that is read back and evaluated. Finished arms of an interrupted run are not repeated.

    Args:
      config: ``model``, ``loss``, ``optim`` and ``steps`` of pre-training, ``data`` (whose
        transforms draw nothing); ``budgets`` (name -> list for `make_spec`); ``arms``: name ->
        section with ``optim`` of re-training (without it there is none; it may have
        ``kmeans``), ``sharing`` (see `make_sharing`), and ``budgets`` in place of the config's;
        ``layers`` of ``kmeans`` and ``sharing`` are by default those of the budget;
        ``study``: ``seeds``, ``at_once`` (seeds that run vectorised), ``stream`` (the data
        section to evaluate on), ``shift`` (pixels, of training images), ``retrain_steps``,
        ``centre_steps``, ``centre_optim``, ``reduce`` (see `share_cluster_updates`),
        ``norm_batches``, ``codebook_dtype``, ``ratios`` (at which arms are compared).
      ctx: Where to read and write.

    Returns:
      ``"<arm>/<budget>/<metric>"``, the mean over seeds, and ``.../<metric>_se``, its standard
      error; ``"dense/..."`` of the pre-trained networks.

    Raises:
      ConfigError: for sections that do not fit.
    """
    options = read_options(config)
    arms = {name: read_arm(name, section) for name, section in config.arms.items()}
    budgets = {
        n: arm.get("budgets") or to_dict(config.budgets) for n, arm in arms.items()
    }
    rows = []
    with ctx.progress(1 + sum(map(len, budgets.values())), "sharing study") as bar:
        bench = _Bench(config, ctx, options)
        bar.update()
        for name, arm in arms.items():
            path = pathlib.Path(ctx.workdir) / "arms" / f"{name}.json"
            what = digest([bench.digest, name, arm, budgets[name]])
            known = read_json(path) if path.exists() else {}
            if known.get("digest") == what:
                bar.update(len(budgets[name]))
            else:
                found = []
                for budget, layers in budgets[name].items():
                    found += bench.share(name, arm, budget, layers)
                    bar.update()
                known = {"digest": what, "rows": found}
                write_json(path, known)
            rows += known["rows"]
    return study_results.publish(
        ctx.writer,
        rows,
        bench.dense,
        stream=options["stream"],
        ratios=options["ratios"],
    )


class _Bench:
    """Networks, data and compiled programs that all arms share."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        ctx: RunContext,
        options: Mapping[str, Any],
    ):
        self.config, self.ctx, self.options = config, ctx, options
        self.module = make_module(config.model)
        spec, loader = split_spec(config.data["train"])
        self.batch_size = loader["batch_size"]
        self.train_data = study_seeds.read_data(ctx.load_source(spec), loader)
        spec, loader = split_spec(config.data[options["stream"]])
        test_data = study_seeds.read_data(ctx.load_source(spec), loader)
        self.keys = jnp.stack([make_key(seed) for seed in options["seeds"]])
        self._measure = self._over_seeds(
            lambda v: study_seeds.measure(self.module, v, test_data)
        )
        norms = self._schedule(options["norm_batches"])
        self._norms = self._over_seeds(
            lambda v, key: study_seeds.reestimate_norms(
                self.module, v, self.train_data, key, norms
            )
        )
        self._centre_training: dict[str, Any] = {}
        # Everything but the arms: their files know by it whether they still hold.
        parts = {
            k: v for k, v in to_dict(config).items() if k not in ("arms", "budgets")
        }
        parts["study"] = {k: v for k, v in parts["study"].items() if k != "ratios"}
        self.digest = digest(parts)
        self.pretrained = self._pretrain()
        self.dense = self._dense_rows()
        self._retrained: tuple[str, Any] = ("", None)

    def share(
        self, name: str, arm: Mapping[str, Any], budget: str, layers: Layers
    ) -> list[dict[str, Any]]:
        """All stages of one arm at one budget: one row per seed."""
        trained = self._retrain(name, arm, layers)
        variables, selected = self._assign(arm, trained, layers)
        error = _relative_sse(trained, variables, selected)
        stages = {
            "retrained": self.measure(trained),
            "assigned": self.measure(variables),
        }
        variables = self.reestimate_norms(variables)
        stages["norms"] = self.measure(variables)
        variables = self._train_centres(variables, layers)
        variables = self.reestimate_norms(variables)
        files = [
            self._store(name, budget, seed, one, selected)
            for seed, one in zip(
                self.options["seeds"], _unstack(variables), strict=True
            )
        ]
        final = self.measure(_stack([loaded for loaded, _, _ in files]))
        return [
            {
                "arm": name,
                "budget": budget,
                "seed": seed,
                **{stage: float(m["accuracy"][i]) for stage, m in stages.items()},
                "accuracy": float(final["accuracy"][i]),
                "nll": float(final["nll"][i]),
                "bytes": sizes["file"],
                "index_bytes": sizes["indices"],
                "dense_bytes": dense,
                "ratio": dense / sizes["file"],
                "relative_sse": error[i],
            }
            for i, (seed, (_, sizes, dense)) in enumerate(
                zip(self.options["seeds"], files, strict=True)
            )
        ]

    def measure(self, variables: Variables) -> dict[str, np.ndarray]:
        """Accuracy and negative log-likelihood of every seed's network."""
        return jax.device_get(self._measure(_only_network(variables)))

    def reestimate_norms(self, variables: Variables) -> Variables:
        """New batch-norm statistics for every seed."""
        return self._norms(_only_network(variables), self._phase("norms"))

    def _pretrain(self) -> Variables:
        """Trains or reads the networks that all arms start from, one file per seed."""
        folder = pathlib.Path(self.ctx.workdir) / "dense"
        paths = [folder / f"seed{seed}.safetensors" for seed in self.options["seeds"]]
        if not all(path.exists() for path in paths):
            schedule = self._schedule(self.config.steps)
            task = make_task(
                self._task_config(to_dict(self.config.optim)), schedule.steps
            )

            def run(key):
                variables = task.init(key, {"image": self.train_data.image[:1]})
                return self._train(task, variables, key, schedule)

            keys = self._phase("pretrain")
            variables = self.reestimate_norms(self._over_seeds(run)(keys))
            for path, one in zip(paths, _unstack(variables), strict=True):
                with atomic_write(path, "wb") as f:
                    f.write(dense_file(one))
        return _stack([nest(safetensors.numpy.load_file(path)) for path in paths])

    def _dense_rows(self) -> list[dict[str, Any]]:
        found = self.measure(self.pretrained)
        return [
            {
                "seed": seed,
                "accuracy": float(found["accuracy"][i]),
                "nll": float(found["nll"][i]),
            }
            for i, seed in enumerate(self.options["seeds"])
        ]

    def _retrain(self, name: str, arm: Mapping[str, Any], layers: Layers) -> Variables:
        """The arm's networks before their assignment."""
        if not arm.get("optim"):
            return self.pretrained
        optim, sharing = with_layers(arm, layers)
        # A re-training that does not depend on the budget serves all budgets of its arm.
        what = json.dumps([name, optim, sharing])
        if self._retrained[0] != what:
            schedule = self._schedule(self.options["retrain_steps"])
            task = make_task(self._task_config(optim, sharing), schedule.steps)

            def run(variables, key):
                fresh = study_seeds.start(task, variables, self.train_data, key)
                return self._train(task, fresh, key, schedule)

            found = self._over_seeds(run)(self.pretrained, self._phase("retrain"))
            self._retrained = (what, found)
        return self._retrained[1]

    def _assign(
        self, arm: Mapping[str, Any], variables: Variables, layers: Layers
    ) -> tuple[Variables, dict[str, LayerSpec]]:
        """Replaces samples by shared ones: by k-means, or as the arm's sharing deploys."""
        spec = make_spec(layers)
        networks = {NETWORK: variables["params"][NETWORK]}
        selected = resolve_spec(spec, jax.tree.map(lambda x: x[0], networks))
        if arm.get("sharing"):
            task_config = self._task_config(*with_layers(arm, layers))
            sharing = make_sharing(task_config, self.options["retrain_steps"])
            shared = over_seeds(lambda v: {NETWORK: sharing.deploy(v)}, 1)(variables)
        else:

            def assign(params, key):
                return assign_params(params, spec, key)[0]

            # One seed after the other: k-means ends when its labels stand still.
            shared = over_seeds(assign, 1)(networks, self._phase("assign"))
        return {**_only_network(variables), "params": shared}, selected

    def _train_centres(self, variables: Variables, layers: Layers) -> Variables:
        """Trains the centres, and everything that is not shared."""
        what = json.dumps(to_dict(layers))
        if what not in self._centre_training:
            schedule = self._schedule(self.options["centre_steps"])
            share = {"layers": to_dict(layers), "reduce": self.options["reduce"]}
            optim = {**self.options["centre_optim"], "share_updates": share}
            task = make_task(self._task_config(optim), schedule.steps)
            self._centre_training[what] = self._over_seeds(
                lambda v, key: self._train(task, v, key, schedule)
            )
        return self._centre_training[what](variables, self._phase("centres"))

    def _store(
        self,
        arm: str,
        budget: str,
        seed: int,
        variables: Variables,
        selected: Mapping[str, LayerSpec],
    ) -> tuple[Variables, dict[str, int], int]:
        """Writes one file. Returns what was read back, sizes, and bytes of the dense file."""
        dtype = self.options["codebook_dtype"]
        clustered: dict[str, Clustered] = {}

        def rounded(name, leaf):
            if name not in selected:
                return leaf
            layer = selected[name]
            found = Clustered.of(leaf, layer.samples, layer.row_length)
            if len(found.codebook) > layer.num_clusters:
                raise RuntimeError(
                    f"{name} has {len(found.codebook)} distinct samples after training the "
                    f"centres, more than {layer.num_clusters}"
                )
            clustered[name] = found.rounded(dtype)
            return clustered[name].restore(leaf.shape)

        variables = {**variables, "params": map_named(rounded, variables["params"])}
        path = pathlib.Path(self.ctx.workdir) / "files" / f"{arm}_{budget}_{seed}.zdkm"
        sizes = save_compressed(
            path,
            variables,
            {f"params/{name}": value for name, value in clustered.items()},
            metadata={
                "method": "deep_k_means",
                "model": to_dict(self.config.model),
                "arm": arm,
                "budget": budget,
                "seed": seed,
            },
            codebook_dtype=dtype,
        )
        loaded, _ = load_compressed(path)
        for name, value in named_leaves(variables).items():
            if named_leaves(loaded)[name].tobytes() != value.tobytes():
                raise RuntimeError(f"{path} does not give back {name}")
        return loaded, sizes, len(dense_file(variables))

    def _train(self, task: Task, variables, key, schedule) -> Variables:
        return study_seeds.train(task, variables, self.train_data, key, schedule)[0]

    def _over_seeds(self, f):
        return over_seeds(f, self.options["at_once"])

    def _phase(self, name: str) -> jax.Array:
        """The seeds' keys of one phase: arms see the same batches."""
        return jax.vmap(functools.partial(fold_name, name=name))(self.keys)

    def _schedule(self, steps: int) -> Schedule:
        return Schedule(steps, self.batch_size, self.options["shift"])

    def _task_config(
        self, optim: Mapping[str, Any], sharing: Mapping[str, Any] | None = None
    ) -> ml_collections.ConfigDict:
        parts = {k: to_dict(self.config[k]) for k in ("model", "loss", "seed")}
        parts |= {"optim": optim} | ({"sharing": sharing} if sharing else {})
        return ml_collections.ConfigDict(parts)


def _relative_sse(
    before: Variables, after: Variables, selected: Mapping[str, LayerSpec]
) -> list[float]:
    """Squared error of the assignment over the spread of the samples, of every seed."""
    old, new = (named_leaves({NETWORK: v["params"][NETWORK]}) for v in (before, after))
    error = spread = 0.0
    for name, layer in selected.items():
        x, y = (
            np.asarray(jax.vmap(layer.matrix)(jnp.asarray(leaves[name])), np.float64)
            for leaves in (old, new)
        )
        error = error + np.square(x - y).sum((1, 2))
        spread = spread + np.square(x - x.mean(1, keepdims=True)).sum((1, 2))
    return [float(e / s) if s else math.nan for e, s in zip(error, spread, strict=True)]


def _only_network(variables: Variables) -> Variables:
    """Without what a way of sharing keeps beside the network."""
    return {p: {NETWORK: variables[p][NETWORK]} for p in ("params", "model_state")}


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _unstack(tree: Any) -> list[Any]:
    tree = jax.tree.map(np.asarray, tree)
    count = len(jax.tree.leaves(tree)[0])
    return [jax.tree.map(lambda x, i=i: x[i], tree) for i in range(count)]
