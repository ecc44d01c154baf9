"""Comparison of ways to share weights: several seeds, real files, equal epochs."""

import functools
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import safetensors.numpy

from zoo_jax.core.config import digest, to_dict
from zoo_jax.core.files import atomic_write, read_json, write_json
from zoo_jax.core.rng import make_key
from zoo_jax.core.tree import map_named, named_leaves, nest
from zoo_jax.core.types import Variables
from zoo_jax.data.source import split_spec
from zoo_jax.methods.deep_k_means import host_kmeans, study_results, study_seeds
from zoo_jax.methods.deep_k_means.accounting import dense_file
from zoo_jax.methods.deep_k_means.artefact import load_compressed, save_compressed
from zoo_jax.methods.deep_k_means.clustered import Clustered
from zoo_jax.methods.deep_k_means.layers import NETWORK, make_spec
from zoo_jax.methods.deep_k_means.model import make_module
from zoo_jax.methods.deep_k_means.procedure import quantise
from zoo_jax.methods.deep_k_means.sharing import make_sharing
from zoo_jax.methods.deep_k_means.study_config import (
    Budget,
    at_budget,
    read_arm,
    read_budgets,
    read_options,
)
from zoo_jax.methods.deep_k_means.study_seeds import (
    Batches,
    Schedule,
    draw_batches,
    over_seeds,
    stack,
    unstack,
)
from zoo_jax.methods.deep_k_means.task import make_task
from zoo_jax.optim.layer_spec import LayerSpec, resolve_spec
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
    budgets = {name: read_budgets(config, arm) for name, arm in arms.items()}
    rows = []
    with ctx.progress(1 + sum(map(len, budgets.values())), "sharing study") as bar:
        bench = _Bench(config, ctx, options, budgets)
        bar.update()
        for name, arm in arms.items():
            path = pathlib.Path(ctx.workdir) / "arms" / f"{name}.json"
            what = digest([bench.digest, name, arm, budgets[name]])
            known = read_json(path) if path.exists() else {}
            if known.get("digest") == what:
                bar.update(len(budgets[name]))
            else:
                found = []
                for budget, value in budgets[name].items():
                    found += bench.share(name, arm, budget, value)
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
        budgets: Mapping[str, Mapping[str, Budget]],
    ):
        self.config, self.ctx, self.options = config, ctx, options
        self.module = make_module(config.model)
        spec, loader = split_spec(config.data["train"])
        self.batch_size = loader["batch_size"]
        self.train_data = study_seeds.read_data(ctx.load_source(spec), loader)
        spec, loader = split_spec(config.data[options["stream"]])
        self.test_data = study_seeds.read_data(ctx.load_source(spec), loader)
        self.keys = jnp.stack([make_key(seed) for seed in options["seeds"]])
        self._measure = self._over_seeds(
            functools.partial(study_seeds.measure, self.module)
        )
        self._norms = self._over_seeds(
            functools.partial(
                study_seeds.reestimate_norms, self.module, shift=options["shift"]
            )
        )
        # Entry of a layer without its number of clusters -> the largest number of any budget.
        self._most: dict[str, int] = {}
        for budget in (b for named in budgets.values() for b in named.values()):
            for entry in budget.layers:
                most = max(
                    self._most.get(_kind(entry), 0), entry.get("num_clusters", 0)
                )
                self._most[_kind(entry)] = most
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
        self, name: str, arm: Mapping[str, Any], budget: str, value: Budget
    ) -> list[dict[str, Any]]:
        """All stages of one arm at one budget: one row per seed."""
        trained = self._retrain(name, arm, value)
        variables, selected = self._assign(arm, trained, value)
        error = _relative_sse(trained, variables, selected)
        stages = {
            "retrained": self.measure(trained),
            "assigned": self.measure(variables),
        }
        variables = self.reestimate_norms(variables)
        stages["norms"] = self.measure(variables)
        variables = self._train_centres(variables, value.layers)
        variables = self.reestimate_norms(variables)
        files = [
            self._store(name, budget, seed, one, selected)
            for seed, one in zip(self.options["seeds"], unstack(variables), strict=True)
        ]
        final = self.measure(stack([loaded for loaded, _, _ in files]))
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
        return jax.device_get(self._measure(self.test_data, _only_network(variables)))

    def reestimate_norms(self, variables: Variables) -> Variables:
        """New batch-norm statistics for every seed."""
        batches = self._batches("norms", self.options["norm_batches"])
        return self._norms(self.train_data, _only_network(variables), batches)

    def _pretrain(self) -> Variables:
        """Trains or reads the networks that all arms start from, one file per seed."""
        folder = pathlib.Path(self.ctx.workdir) / "dense"
        paths = [folder / f"seed{seed}.safetensors" for seed in self.options["seeds"]]
        mark = (
            folder / "digest.json"
        )  # written last: of what the networks were trained by
        if not mark.exists() or read_json(mark) != self.digest:
            steps = self.config.steps
            task = make_task(self._task_config(to_dict(self.config.optim)), steps)

            def run(data, key, batches):
                variables = task.init(key, {"image": data.image[:1]})
                return self._train(task, data, variables, key, batches)

            batches = self._batches("pretrain", steps)
            variables = self._over_seeds(run)(self.train_data, self.keys, batches)
            variables = self.reestimate_norms(variables)
            for path, one in zip(paths, unstack(variables), strict=True):
                with atomic_write(path, "wb") as f:
                    f.write(dense_file(one))
            write_json(mark, self.digest)
        return stack([nest(safetensors.numpy.load_file(path)) for path in paths])

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

    def _retrain(self, name: str, arm: Mapping[str, Any], budget: Budget) -> Variables:
        """The arm's networks before their assignment."""
        if not arm.get("optim"):
            return self.pretrained
        optim, sharing = at_budget(arm, budget)
        # A re-training that does not depend on the budget serves all budgets of its arm.
        what = json.dumps([name, optim, sharing])
        if self._retrained[0] != what:
            steps = self.options["retrain_steps"]
            task = make_task(self._task_config(optim, sharing), steps)

            def run(data, variables, key, batches):
                fresh = study_seeds.start(task, data, variables, key)
                return self._train(task, data, fresh, key, batches)

            batches = self._batches("retrain", steps)
            found = self._over_seeds(run)(
                self.train_data, self.pretrained, self.keys, batches
            )
            self._retrained = (what, found)
        return self._retrained[1]

    def _assign(
        self, arm: Mapping[str, Any], variables: Variables, budget: Budget
    ) -> tuple[Variables, dict[str, LayerSpec]]:
        """Replaces samples by shared ones: as the arm's sharing deploys, then by k-means.

        K-means leaves kernels alone that the sharing has brought to few samples already.
        """
        if arm.get("sharing"):
            task_config = self._task_config(*at_budget(arm, budget))
            sharing = make_sharing(task_config, self.options["retrain_steps"])
            deploy = jax.jit(jax.vmap(sharing.deploy))
            network = deploy(variables)
        else:
            network = variables["params"][NETWORK]
        networks = unstack({NETWORK: network})
        selected = resolve_spec(make_spec(budget.layers), networks[0])

        def replace(name, leaf, seed):
            if name not in selected:
                return leaf
            layer = selected[name]
            samples = np.asarray(layer.matrix(leaf))
            centres, labels = host_kmeans.fit(samples, layer, seed=seed)
            shared = Clustered(centres, labels, layer.samples, layer.row_length)
            return shared.restore(leaf.shape)

        shared = [
            map_named(functools.partial(replace, seed=seed), one)
            for seed, one in zip(self.options["seeds"], networks, strict=True)
        ]
        return {**_only_network(variables), "params": stack(shared)}, selected

    def _train_centres(self, variables: Variables, layers: Any) -> Variables:
        """Trains the centres, and everything that is not shared."""
        # A link for many clusters serves fewer as well: one program for all budgets.
        layers = [
            {**entry, "num_clusters": self._most[_kind(entry)]}
            if "num_clusters" in entry
            else entry
            for entry in to_dict(layers)
        ]
        what = json.dumps(layers)
        steps = self.options["centre_steps"]
        if what not in self._centre_training:
            share = {"layers": layers, "reduce": self.options["reduce"]}
            optim = {**self.options["centre_optim"], "share_updates": share}
            task = make_task(self._task_config(optim), steps)
            self._centre_training[what] = self._over_seeds(
                functools.partial(self._train, task)
            )
        return self._centre_training[what](
            self.train_data, variables, self.keys, self._batches("centres", steps)
        )

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
        variables, clustered = quantise(variables, selected, dtype)
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

    def _train(self, task: Task, data, variables, key, batches) -> Variables:
        shift = self.options["shift"]
        return study_seeds.train(task, data, variables, key, batches, shift)[0]

    def _over_seeds(self, f):
        return over_seeds(f, self.options["at_once"])

    def _batches(self, phase: str, steps: int) -> Batches:
        """Of every seed, stacked: all arms see the same."""
        schedule = Schedule(steps, self.batch_size, self.options["shift"])
        count = len(self.train_data.label)
        return stack(
            [draw_batches(s, phase, count, schedule) for s in self.options["seeds"]]
        )

    def _task_config(
        self, optim: Mapping[str, Any], sharing: Mapping[str, Any] | None = None
    ) -> ml_collections.ConfigDict:
        parts = {k: to_dict(self.config[k]) for k in ("model", "loss", "seed")}
        parts |= {"optim": optim} | ({"sharing": sharing} if sharing else {})
        return ml_collections.ConfigDict(parts)


def _kind(entry: Mapping[str, Any]) -> str:
    return json.dumps({k: v for k, v in entry.items() if k != "num_clusters"})


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
