"""Accuracy against the bytes of the file: one trained network, several ways, with fine-tuning.

Every point (way, ratio, and seed of the fine-tuning) is kept in a file of its own as soon as it
is measured, so that a study which is cut off goes on with the next point. All points see the
same test images: losses are therefore compared image by image.
"""

import base64
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from zoo_jax.core.config import require_keys, to_dict
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.files import read_json, write_json
from zoo_jax.core.tree import named_leaves, nest
from zoo_jax.core.types import Batch, Variables
from zoo_jax.data.loader import eval_batches, train_batches
from zoo_jax.data.source import split_spec
from zoo_jax.methods.deep_k_means import size_figure
from zoo_jax.methods.deep_k_means.layers import NETWORK
from zoo_jax.methods.deep_k_means.model import make_module
from zoo_jax.methods.deep_k_means.norms import norm_estimator
from zoo_jax.methods.deep_k_means.sharing import make_sharing
from zoo_jax.methods.deep_k_means.size_ways import WAYS, Arrays, dense_bytes
from zoo_jax.methods.deep_k_means.task import make_task
from zoo_jax.metrics.classification import correct
from zoo_jax.task import RunContext

_KEYS = ("source", "stream", "ratios", "fine_tune", "seeds", "reduce", "norm_batches")


def size_study(
    config: ml_collections.ConfigDict, ctx: RunContext
) -> Mapping[str, float]:
    """Measures accuracy against bytes for a trained network, without and with fine-tuning.

    Without: the file is made from the weights and evaluated. With: batch-norm statistics
    anew, training of the shared values and of what is stored plainly with the common loop,
    statistics anew, and the file again. The way ``linear`` is trained as TensorFlow Model
    Optimization does, from the dense weights with a straight-through gradient. ``dense`` is
    the control: the network itself, trained for as many steps.

    Args:
      config: As for `make_task`, where ``steps``, ``optim`` and ``data.train`` are those of
        the fine-tuning, and ``size_study``: ``source`` (the network, for
        `RunContext.load_variables`; empty: an untrained one), ``stream`` (the data section to measure on), ``ratios``
        (way -> list of ratios without fine-tuning), ``fine_tune`` (way -> list of ratios
        with), ``seeds`` (of the fine-tuning: order of the images, augmentation),
        ``reduce`` (see `share_cluster_updates`) and ``norm_batches``.
      ctx: Where to read, train and write.

    Returns:
      Under ``"<way>/<ratio>/"``: bytes, real ratio, accuracy and the loss of it, and with
      ``"tuned_"`` the same after fine-tuning, where ``accuracy_std`` is over
      ``accuracy_seeds`` seeds.

    Raises:
      ConfigError: for sections that do not fit.
    """
    options = _options(config)
    bench = _Bench(config, ctx, options)
    folder = pathlib.Path(ctx.workdir) / "points"
    points = plan(options)
    found = []
    with ctx.progress(len(points), "size study") as bar:
        for point in points:
            path = folder / f"{point.name}.json"
            if not path.exists():
                write_json(path, {**point._asdict(), **bench.run(point)})
            found.append(read_json(path))
            bar.update()
    rows = summarise(found)
    caption = _CAPTION.format(n=bench.examples, **options)
    ctx.writer.table("accuracy_against_bytes", rows, caption=caption)
    size_figure.draw(ctx.writer, rows, stream=options["stream"])
    return _scalars(rows)


_CAPTION = (
    "Accuracy on the {n} images of '{stream}' against the bytes of the file; ratio: to the "
    "dense float32 safetensors file. tuned: after training the shared values and what is "
    "stored plainly; norms: only with new batch-norm statistics, of the first seed. accuracy is "
    "a mean over seeds, std its standard deviation over them. se: binomial standard error "
    "of an accuracy on so many images. loss: what is lost against the dense network (tuned: "
    "against the dense network after as many steps, same seeds), loss_se: its standard error, "
    "image by image."
)


class Point(NamedTuple):
    """One measurement."""

    way: str
    ratio: float
    seed: int | None  # None: without fine-tuning

    @property
    def name(self) -> str:
        """Also that of its file."""
        tuned = "" if self.seed is None else f"_seed{self.seed}"
        return f"{self.way}_{self.ratio:g}{tuned}"


def plan(options: Mapping[str, Any]) -> list[Point]:
    """All points; what says most comes first, for those who look before the end."""
    fine_tune = [(w, ratio) for w, of in options["fine_tune"].items() for ratio in of]
    fine_tune = [("dense", 1), *fine_tune]
    first, *more = options["seeds"]
    points = [Point(*f, seed) for f in fine_tune for seed in (None, first)]
    for way, ratios in options["ratios"].items():
        points += [Point(way, ratio, None) for ratio in ratios]
    points += [Point(*f, seed) for seed in more for f in fine_tune]
    return list(dict.fromkeys(points))


class _Bench:
    """The measuring and training that all points share, compiled once."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        ctx: RunContext,
        options: Mapping[str, Any],
    ):
        self._config, self._ctx, self._options = config, ctx, options
        task = make_task(_loop_config(config), config.steps)
        spec, self._loader = split_spec(config.data["train"])
        self._train = ctx.load_source(spec)
        if options["source"]:
            variables = ctx.load_variables(options["source"])
        else:
            with train_batches(self._train, seed=0, **self._loader) as batches:
                variables = jax.jit(task.init)(ctx.key, next(batches))
        self._arrays = _flat(jax.tree.map(np.asarray, variables))
        self._dense_bytes = dense_bytes(self._arrays)

        def hits(variables: Variables, batch: Batch) -> jax.Array:
            return correct(task.predict(variables, batch)["logits"], batch["label"])

        self._hits = jax.jit(hits)
        spec, loader = split_spec(config.data[options["stream"]])
        # Each point reads them again: decoded once, they are kept.
        self._test = list(eval_batches(ctx.load_source(spec), **loader))
        self.examples = int(sum(batch["mask"].sum() for batch in self._test))
        self._estimate = norm_estimator(make_module(config.model), NETWORK)

    def run(self, point: Point) -> dict[str, Any]:
        """Makes the file of a point and measures what comes back from it."""
        small = WAYS[point.way](self._arrays, point.ratio)
        if small is None:
            return {"reached": False}
        extra = {}
        if point.seed is not None:
            variables = self._new_norms(_tree(small.arrays), point.seed)
            if point.seed == self._options["seeds"][0]:
                extra["norms"] = float(self._measure(variables).mean())
            trained = self._train_on(point, variables, small.layers)
            small = small.repack(_flat(self._new_norms(trained, point.seed)))
        hits = self._measure(_tree(small.arrays))
        return {
            "reached": True,
            "bytes": small.bytes,
            "real_ratio": self._dense_bytes / small.bytes,
            "clusters": small.clusters,
            "accuracy": float(hits.mean()),
            **extra,
            # One bit per image, for differences image by image.
            "correct": base64.b64encode(np.packbits(hits)).decode(),
            "images": len(hits),
        }

    def _measure(self, variables: Variables) -> np.ndarray:
        """Whether each test image is classified correctly, bool [n]."""
        variables = jax.device_put(variables)
        hits = [
            np.asarray(self._hits(variables, batch))[batch["mask"] > 0]
            for batch in self._test
        ]
        return np.concatenate(hits) > 0

    def _new_norms(self, variables: Variables, seed: int) -> Variables:
        def some() -> Iterable[Batch]:
            with train_batches(self._train, seed=seed, **self._loader) as batches:
                for _ in range(self._options["norm_batches"]):
                    yield next(batches)

        return self._estimate(variables, some())

    def _train_on(
        self, point: Point, variables: Variables, layers: Sequence[Mapping[str, Any]]
    ) -> Variables:
        fit = _loop_config(self._config)
        fit.seed = point.seed
        layers = [{**entry, "path": f"{NETWORK}/{entry['path']}"} for entry in layers]
        reduce = self._options["reduce"]
        if point.way == "linear":
            fit.sharing = {
                "name": "straight_through",
                "layers": layers,
                "init": "linear",
                "reduce": reduce,
                "optim": {"centres": to_dict(fit.optim)},
            }
            variables = self._new_norms(_tree(self._arrays), point.seed)
        elif layers:
            fit.optim.share_updates = {"layers": layers, "reduce": reduce}
        task = make_task(fit, fit.steps)
        state = self._ctx.fit(point.name, task, fit, variables)
        params = make_sharing(fit, fit.steps).deploy(state)
        return {
            "params": {NETWORK: params},
            "model_state": {NETWORK: state["model_state"].get(NETWORK, {})},
        }


# --- from points to a table -----------------------------------------------------------


def summarise(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per way, ratio and whether it was fine-tuned; what is out of reach is left out."""
    reached = [p for p in points if p["reached"]]
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for p in reached:
        groups.setdefault((p["way"], p["ratio"], p["seed"] is not None), []).append(p)
    dense = {p["seed"]: _hits(p) for p in reached if p["way"] == "dense"}
    rows = []
    for (way, ratio, tuned), group in groups.items():
        accuracy = [p["accuracy"] for p in group]
        mean, n = float(np.mean(accuracy)), group[0]["images"]
        lost = np.mean([dense[p["seed"]] - _hits(p) for p in group], axis=0)
        rows.append(
            {
                "way": way,
                "target_ratio": ratio,
                "tuned": tuned,
                "clusters": group[0]["clusters"],
                "bytes": float(np.mean([p["bytes"] for p in group])),
                "ratio": float(np.mean([p["real_ratio"] for p in group])),
                "norms": next((p["norms"] for p in group if "norms" in p), None),
                "accuracy": mean,
                "std": float(np.std(accuracy, ddof=1)) if len(group) > 1 else None,
                "seeds": len(group) if tuned else None,
                "se": math.sqrt(mean * (1 - mean) / n),
                "loss": float(lost.mean()),
                "loss_se": float(lost.std() / math.sqrt(n)),
            }
        )
    return rows


def _hits(point: Mapping[str, Any]) -> np.ndarray:
    bits = np.frombuffer(base64.b64decode(point["correct"]), np.uint8)
    return np.unpackbits(bits, count=point["images"]).astype(np.float64)


def _scalars(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    out = {}
    for row in rows:
        place = f"{row['way']}/{row['target_ratio']:g}/"
        place += "tuned_" if row["tuned"] else ""
        for name in ("bytes", "ratio", "accuracy", "loss", "loss_se"):
            out[place + name] = row[name]
        if row["std"] is not None:
            out[f"{place}accuracy_std"] = row["std"]
            out[f"{place}accuracy_seeds"] = row["seeds"]
    return out


# --- the config -----------------------------------------------------------------------


def _options(config: ml_collections.ConfigDict) -> dict[str, Any]:
    section = to_dict(config.get("size_study") or {})
    require_keys(section, _KEYS, "size_study")
    for key in _KEYS:
        if key not in section:
            raise ConfigError(f"size_study lacks {key!r}: it needs {', '.join(_KEYS)}")
    for name in (section["stream"], "train"):
        if name not in config.data:
            hint = closest(name, config.data)
            raise ConfigError(f"size_study needs data.{name}: {hint}")
    for key in ("ratios", "fine_tune"):
        for way, ratios in section[key].items():
            if way not in WAYS:
                hint = closest(way, WAYS)
                raise ConfigError(f"unknown way size_study.{key}.{way}: {hint}")
            if not all(r >= 1 for r in ratios):
                raise ConfigError(
                    f"size_study.{key}.{way} needs ratios of 1 or more, got {ratios}"
                )
    if section["norm_batches"] < 1:
        raise ConfigError(
            f"size_study.norm_batches must be 1 or more, got {section['norm_batches']}"
        )
    return section


def _loop_config(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """What is left of the config for training: a new, unlocked one."""
    drop = ("size_study", "procedure", "init_from")
    plain = {k: v for k, v in to_dict(config).items() if k not in drop}
    return ml_collections.ConfigDict({**plain, "eval": {}})


def _flat(variables: Variables) -> Arrays:
    tree = {
        "params": variables["params"][NETWORK],
        **variables["model_state"].get(NETWORK, {}),
    }
    return {name: np.asarray(leaf) for name, leaf in named_leaves(tree).items()}


def _tree(arrays: Mapping[str, np.ndarray]) -> Variables:
    tree = dict(nest(dict(arrays)))
    params = jax.tree.map(jnp.asarray, tree.pop("params"))
    return {"params": {NETWORK: params}, "model_state": {NETWORK: tree}}
