"""Training the segmentation network itself, with masks or without, and reading its answers."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float, Int

from zoo_jax.core.config import require_keys, to_dict
from zoo_jax.core.errors import ConfigError
from zoo_jax.core.types import Batch, Key, Params, Terms, Variables
from zoo_jax.methods.u_said.losses import (
    IGNORE,
    focal_argmax_loss,
    focal_loss,
    shrink_labels,
)
from zoo_jax.methods.u_said.model import make_segmentation, without_mean
from zoo_jax.metrics.segmentation import (
    class_counts,
    confusion_matrix,
    mean_iou,
    usage_entropy,
)
from zoo_jax.optim.build import build_optimizer
from zoo_jax.task import Aux, Evaluator, Player, Ratio, Task, TrainState, ratios

SEGMENTATION = "segmentation"
SEGMENTATION_MODES = ("supervised", "label_free")
_LOSS = {"mode": None, "gamma": 2.0, "batch_statistics": True}


def make_segmentation_task(config: ml_collections.ConfigDict, steps: int) -> Task:
    """Builds the training of the segmentation network: FPN/train.py and FPN/B3_train.py.

    Batches hold ``image`` (RGB, float32 in [0, 1]) and ``segmentation`` (class indices [b, h, w],
    255 for none), which "label_free" does not read. Without masks the network is asked to be
    certain of whatever it says, and one class everywhere is optimal: watch ``usage_entropy``,
    and freeze the trunk by ``optim.freeze=["segmentation/resnet/*"]``, as published.

    Args:
      config: Sections ``segmentation`` (arguments of `build_fpn_segmentation`), ``optim``, and
        ``loss``: ``mode`` ("supervised" or "label_free"), ``gamma``, and ``batch_statistics``
        (whether norms use those of the batch while training, and update the running ones).
      steps: Length of the run, for schedules.

    Returns:
      A task whose measurements give ``usage_entropy`` and, with masks, ``miou`` and
      ``pixel_accuracy``, all over the whole stream.

    Raises:
      ConfigError: for a section that does not fit.
    """
    module = make_segmentation(config.segmentation)
    options = _options(config.loss)

    def init(key: Key, batch: Batch) -> Variables:
        image = jnp.zeros((1, *batch["image"].shape[1:]), jnp.float32)
        variables = dict(module.init(key, image))
        params = variables.pop("params")
        return {
            "params": {SEGMENTATION: params},
            "model_state": {SEGMENTATION: variables},
        }

    def loss(
        owned: Mapping[str, Params], state: TrainState, batch: Batch, key: Key
    ) -> tuple[Terms, Aux]:
        del key
        given = {"params": owned[SEGMENTATION], **state.model_state[SEGMENTATION]}
        image, kept = without_mean(batch["image"]), state.model_state[SEGMENTATION]
        if options["batch_statistics"]:
            logits, kept = module.apply(
                given, image, train=True, mutable=["batch_stats"]
            )
        else:
            logits = module.apply(given, image)
        if options["mode"] == "supervised":
            if "segmentation" not in batch:
                raise ConfigError(
                    "loss.mode='supervised' needs batches with 'segmentation': take a source "
                    "with masks such as camvid or voc2012, or the mode label_free"
                )
            labels = shrink_labels(batch["segmentation"], *logits.shape[1:3])
            term = focal_loss(logits, labels, gamma=options["gamma"])
        else:
            term = focal_argmax_loss(logits, gamma=options["gamma"])
        counts = class_counts(jnp.argmax(logits, -1), num_classes=module.num_classes)
        return {"segmentation": term}, Aux(
            {SEGMENTATION: dict(kept)}, {"usage_entropy": usage_entropy(counts)}
        )

    def predict(variables: Variables, batch: Batch) -> dict[str, Array]:
        return {"segmentation": segment(module, network_of(variables), batch["image"])}

    def measure(variables: Variables, batch: Batch):
        outputs = predict(variables, batch)
        seen = outputs["segmentation"]
        gathered = {"used": class_counts(seen, num_classes=module.num_classes)}
        if "segmentation" in batch:
            gathered["confused"] = confusion_matrix(
                seen, batch["segmentation"], num_classes=module.num_classes
            )
        return _accuracy(outputs, batch), gathered

    player = Player(
        name=SEGMENTATION,
        owns=(SEGMENTATION,),
        loss=loss,
        tx=build_optimizer(config.optim, total_steps=steps),
    )
    evaluator = Evaluator(step=measure, finish=_finish)
    return Task(
        init=init,
        players=(player,),
        predict=predict,
        metrics=_accuracy,
        evaluators=dict.fromkeys(to_dict(config.get("eval") or {}), evaluator),
    )


def segment(
    module: Any, variables: Variables, images: Float[Array, "b h w 3"]
) -> Int[Array, "b h w"]:
    """The most probable class of every pixel.

    The quarter-size logits are resized bilinearly before the decision; the released evaluation
    resizes the decision, by nearest neighbours.

    Args:
      module: From `build_fpn_segmentation`.
      variables: Its ``params`` and ``batch_stats``; norms use the running statistics.
      images: RGB in [0, 1].
    """
    logits = module.apply(variables, without_mean(images))
    shape = (*images.shape[:3], logits.shape[-1])
    return jnp.argmax(jax.image.resize(logits, shape, "bilinear"), axis=-1)


def network_of(variables: Variables) -> Variables:
    """What the segmentation network itself takes, out of the variables of a task."""
    state = variables["model_state"].get(SEGMENTATION, {})
    return {"params": variables["params"][SEGMENTATION], **state}


def _accuracy(outputs: Mapping[str, Array], batch: Batch) -> dict[str, Ratio]:
    if "segmentation" not in batch:
        return {}
    labels = batch["segmentation"]
    known = (labels != IGNORE).astype(jnp.float32)
    hits = known * (outputs["segmentation"] == labels)
    if "mask" in batch:
        known, hits = (x * batch["mask"].reshape(-1, 1, 1) for x in (known, hits))
    return {"pixel_accuracy": Ratio(jnp.sum(hits), jnp.sum(known))}


def _finish(sums: Mapping[str, tuple[float, float]], gathered: Mapping[str, Any]):
    out = ratios(sums, gathered)
    out["usage_entropy"] = float(usage_entropy(gathered["used"]))
    if "confused" in gathered:
        out["miou"] = float(mean_iou(gathered["confused"].sum(axis=0)))
    return out


def _options(section: Mapping[str, Any]) -> dict[str, Any]:
    section = to_dict(section)
    require_keys(section, _LOSS, "loss")
    options = {**_LOSS, **section}
    gamma = options["gamma"]
    if isinstance(gamma, bool) or not isinstance(gamma, int | float) or gamma < 0:
        raise ConfigError(f"loss.gamma must be a number from 0, got {gamma!r}")
    return options
