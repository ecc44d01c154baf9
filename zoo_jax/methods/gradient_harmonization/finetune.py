"""Fine-tuning a pre-trained backbone on labels, and testing it over many views of a clip."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jaxtyping import Array

from zoo_jax.core.config import require_keys, to_dict
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.rng import fold_name
from zoo_jax.core.types import Batch, Key, Params, Terms, Variables
from zoo_jax.methods.gradient_harmonization.model import Classifier, make_vatt
from zoo_jax.methods.gradient_harmonization.networks import BACKBONE, make_inputs
from zoo_jax.metrics.classification import correct, negative_log_likelihood
from zoo_jax.optim.build import build_optimizer
from zoo_jax.task import Aux, Evaluator, Player, Ratio, Task, TrainState

CLASSIFIER = "classifier"
_CLASSIFY: dict[str, Any] = {
    "modality": "video",
    "num_classes": None,
    "dropout_rate": 0.5,
    "label_smoothing": 0.1,
    "windows": 1,
}


def make_finetune_task(config: ml_collections.ConfigDict, steps: int) -> Task:
    """Builds the training of a classifier on one modality of a backbone.

    Start it with ``init_from``, a run of pre-training: its backbone is taken, the classifier is
    fresh. Batches hold ``video`` or ``audio``, and ``label`` (int32 [b]). To predict, a
    clip may have an axis of views behind b; probabilities are averaged over them.

    Args:
      config: Sections

        - ``model``: of `make_vatt`; ``inputs``: of `make_inputs`.
        - ``classify``: ``modality`` "video" or "audio", ``num_classes``, ``dropout_rate`` of the
          feature, ``label_smoothing``, and ``windows``: so many consecutive examples of an
          evaluation named ``views`` are of one clip, and averaged.
        - ``optim``: ``backbone`` and ``classifier``, sections of `build_optimizer`. The released
          code clips the gradient of the backbone alone.

      steps: Length of the run, for schedules.

    Raises:
      ConfigError: for a section that does not fit.

    Source: arXiv 2104.11178, section 4 and its released code.
    """
    vatt = make_vatt(config.model)
    backbone, inputs = (
        vatt.backbone,
        make_inputs(config.get("inputs"), vatt.backbone.audio_input),
    )
    options = _options(config.classify)
    modality, classes = options["modality"], options["num_classes"]
    classifier = Classifier(num_classes=classes, dropout_rate=options["dropout_rate"])
    optim = to_dict(config.optim)
    require_keys(optim, (BACKBONE, CLASSIFIER), "optim")
    for name in (BACKBONE, CLASSIFIER):
        if name not in optim:
            raise ConfigError(f"optim lacks the section {name!r}")

    def init(key: Key, batch: Batch) -> Variables:
        del batch
        variables = dict(backbone.init(fold_name(key, BACKBONE)))
        params = {BACKBONE: variables.pop("params")}
        example = {"video": (1, *backbone.clip, 3), "audio": (1, *backbone.sound)}
        feature = jax.eval_shape(
            lambda p: backbone.apply(
                {"params": p}, **{modality: jnp.zeros(example[modality])}
            )[modality],
            params[BACKBONE],
        )
        params[CLASSIFIER] = classifier.init(
            fold_name(key, CLASSIFIER), jnp.zeros(feature.shape)
        )["params"]
        return {"params": params, "model_state": {}}

    def loss(
        owned: Mapping[str, Params], state: TrainState, batch: Batch, key: Key
    ) -> tuple[Terms, Aux]:
        del state
        keys = jax.random.split(fold_name(key, "inputs"), len(batch["label"]))
        x = jax.vmap(partial(inputs, modality))(batch[modality], keys)
        rngs = {k: fold_name(key, k) for k in ("dropout", "drop_token")}
        feature = backbone.apply(
            {"params": owned[BACKBONE]}, **{modality: x}, train=True, rngs=rngs
        )[modality]
        logits = classifier.apply(
            {"params": owned[CLASSIFIER]},
            feature,
            train=True,
            rngs={"dropout": fold_name(key, CLASSIFIER)},
        )
        target = jax.nn.one_hot(batch["label"], classes)
        target = optax.smooth_labels(target, options["label_smoothing"])
        accuracy = jnp.mean(correct(logits, batch["label"]))
        entropy = optax.softmax_cross_entropy(logits, target)
        return {"cross_entropy": entropy}, Aux({}, {"accuracy": accuracy})

    def predict(variables: Variables, batch: Batch) -> dict[str, Array]:
        params, x = variables["params"], batch[modality]
        inner = {"video": 4, "audio": 1}[modality]
        rows = inputs(modality, x.reshape(-1, *x.shape[x.ndim - inner :]))
        feature = backbone.apply({"params": params[BACKBONE]}, **{modality: rows})
        logits = classifier.apply({"params": params[CLASSIFIER]}, feature[modality])
        found = jax.nn.log_softmax(logits).reshape(len(x), -1, classes)
        views = found.shape[1]
        return {"log_probability": jax.nn.logsumexp(found, axis=1) - np.log(views)}

    def metrics(outputs: Mapping[str, Array], batch: Batch) -> dict[str, Ratio]:
        scores, label, mask = (
            outputs["log_probability"],
            batch["label"],
            batch.get("mask"),
        )
        out = {
            "top1": Ratio.of(correct(scores, label), mask),
            "nll": Ratio.of(negative_log_likelihood(scores, label), mask),
        }
        if classes > 5:
            out["top5"] = Ratio.of(correct(scores, label, top=5), mask)
        return out

    def views_step(variables: Variables, batch: Batch):
        return {}, {**predict(variables, batch), "label": batch["label"]}

    def views_finish(sums: Any, found: Mapping[str, np.ndarray]) -> dict[str, float]:
        del sums
        return view_accuracy(
            found["log_probability"], found["label"], options["windows"]
        )

    tx = optax.partition(
        {name: build_optimizer(optim[name], total_steps=steps) for name in optim},
        lambda params: {name: name for name in params},
    )
    player = Player(name="vatt", owns=(BACKBONE, CLASSIFIER), loss=loss, tx=tx)
    return Task(
        init=init,
        players=(player,),
        predict=predict,
        metrics=metrics,
        evaluators={"views": Evaluator(step=views_step, finish=views_finish)},
    )


def view_accuracy(
    log_probability: np.ndarray, label: np.ndarray, windows: int
) -> dict[str, float]:
    """Accuracy of the mean probability over `windows` consecutive examples.

    Raises:
      ConfigError: if the examples do not divide into clips of so many windows.
    """
    n, classes = log_probability.shape
    if n % windows:
        raise ConfigError(
            f"classify.windows={windows} does not divide {n} examples: it must be the windows of"
            " the data source"
        )
    mean = np.exp(np.float64(log_probability)).reshape(-1, windows, classes).mean(1)
    right = label.reshape(-1, windows)[:, 0]
    own = np.take_along_axis(mean, right[:, None], 1)
    before = np.sum(mean > own, 1) + np.sum(
        (mean == own) & (np.arange(classes) < right[:, None]), 1
    )
    out = {"top1": float(np.mean(before < 1))}
    return out | ({"top5": float(np.mean(before < 5))} if classes > 5 else {})


def _options(section: Mapping[str, Any]) -> dict[str, Any]:
    section = to_dict(section)
    require_keys(section, _CLASSIFY, "classify")
    options = {**_CLASSIFY, **section}
    if options["modality"] not in ("video", "audio"):
        raise ConfigError(
            f"classify.modality={options['modality']!r}:"
            f" {closest(options['modality'], ('video', 'audio'))}"
        )
    for key in ("num_classes", "windows"):
        value = options[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(
                f"classify.{key} must be a whole number from 1, got {value!r}"
            )
    return options
