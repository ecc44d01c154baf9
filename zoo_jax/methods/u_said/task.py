"""Training a blind denoiser: plainly, with true masks, or made easy to segment without any."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float

from zoo_jax.core.config import require_keys, to_dict
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.types import Batch, Key, Params, Terms, Variables
from zoo_jax.data.degrade import gaussian_noise
from zoo_jax.methods.u_said.losses import (
    UNCERTAINTIES,
    focal_loss,
    noise_loss,
    shrink_labels,
)
from zoo_jax.methods.u_said.model import (
    make_denoiser,
    make_segmentation,
    without_mean,
)
from zoo_jax.methods.u_said.segmentation import (
    SEGMENTATION,
    SEGMENTATION_MODES,
    make_segmentation_task,
)
from zoo_jax.metrics.image import psnr, ssim_uniform
from zoo_jax.optim.build import build_optimizer
from zoo_jax.task import Aux, Player, Ratio, Task, TrainState

DENOISER = "denoiser"
MODES = ("plain", "s_said", "u_said")

_LOSS = {
    "mode": None,
    "denoising": 0.5,
    "segmentation": 0.5,
    "uncertainty": "focal_argmax",
    "gamma": 2.0,
    "detach": False,
    "batch_statistics": False,
}


def make_task(config: ml_collections.ConfigDict, steps: int) -> Task:
    """Builds the training problem of a config.

    Batches hold ``image``: clean RGB, float32 in [0, 1]. Noise is added on the device. Mode
    "s_said" also reads ``segmentation``: class indices [b, h, w], 255 for none. Batches to predict
    or measure hold ``noisy`` as well; without it ``image`` counts as noisy already.

    Args:
      config: Sections ``model`` (``name`` and the arguments of its builder), ``segmentation``
        (arguments of `build_fpn_segmentation`), ``noise`` (``sigma``: least and largest deviation in
        grey levels), ``optim``, and ``loss``: ``mode``; the weights ``denoising`` and
        ``segmentation``; ``uncertainty`` ("focal_argmax" or "entropy") and ``gamma``; ``detach``
        (no gradient from the segmentation, the control arm); ``batch_statistics`` (the frozen
        network normalises by the batch; its running statistics never change).
      steps: Length of the run, for schedules.

    Returns:
      The task; with the ``loss.mode`` "supervised" or "label_free" that of
      `make_segmentation_task`, which trains the segmentation network itself.

    Raises:
      ConfigError: for a section that does not fit.
    """
    if config.loss.get("mode") in SEGMENTATION_MODES:
        return make_segmentation_task(config, steps)
    module, loss_options = make_denoiser(config.model), _loss_options(config.loss)
    sigma, mode = _sigma(config.noise), loss_options["mode"]
    segmentation = None if mode == "plain" else make_segmentation(config.segmentation)

    def init(key: Key, batch: Batch) -> Variables:
        image = jnp.zeros((1, *batch["image"].shape[1:]), jnp.float32)
        modules = {DENOISER: module}
        if segmentation is not None:
            modules[SEGMENTATION] = segmentation
        params, model_state = {}, {}
        for index, (name, network) in enumerate(modules.items()):
            variables = dict(network.init(jax.random.fold_in(key, index), image))
            params[name] = variables.pop("params")
            model_state[name] = variables
        return {"params": params, "model_state": model_state}

    def loss(
        owned: Mapping[str, Params], state: TrainState, batch: Batch, key: Key
    ) -> tuple[Terms, Aux]:
        clean = batch["image"]
        noise, _ = gaussian_noise(key, clean.shape, sigma=sigma)
        noisy = clean + noise  # not clipped
        estimate, denoiser_state = module.apply(
            {"params": owned[DENOISER], **state.model_state[DENOISER]},
            noisy,
            train=True,
            mutable=["batch_stats"],
        )
        denoised = restore(noisy, estimate)
        terms = {"denoising": noise_loss(estimate, noise)}
        if segmentation is not None:
            seen = (
                jax.lax.stop_gradient(denoised) if loss_options["detach"] else denoised
            )
            # The gradient passes through the frozen network; no player owns it.
            logits = _segment(state, seen)
            terms["segmentation"] = _judge(logits, batch)
        metrics = {"psnr": jnp.mean(psnr(denoised, clean))}
        return terms, Aux({DENOISER: dict(denoiser_state)}, metrics)

    def _segment(state: TrainState, image: Array) -> Array:
        variables = {
            "params": state.params[SEGMENTATION],
            **state.model_state[SEGMENTATION],
        }
        image = without_mean(image)
        if not loss_options["batch_statistics"]:
            return segmentation.apply(variables, image)
        return segmentation.apply(
            variables, image, train=True, mutable=["batch_stats"]
        )[0]

    def _judge(logits: Array, batch: Batch) -> Array:
        gamma = loss_options["gamma"]
        if mode == "s_said":
            if "segmentation" not in batch:
                raise ConfigError(
                    "loss.mode='s_said' needs batches with 'segmentation': take a source with "
                    "masks such as segmented_photos, or the mode u_said"
                )
            labels = shrink_labels(batch["segmentation"], *logits.shape[1:3])
            return focal_loss(logits, labels, gamma=gamma)
        if loss_options["uncertainty"] == "entropy":
            return UNCERTAINTIES["entropy"](logits)
        return UNCERTAINTIES["focal_argmax"](logits, gamma=gamma)

    def predict(variables: Variables, batch: Batch) -> dict[str, Array]:
        noisy = batch.get("noisy", batch["image"])
        state = variables["model_state"].get(DENOISER, {})
        estimate = module.apply(
            {"params": variables["params"][DENOISER], **state}, noisy
        )
        return {"denoised": restore(noisy, estimate)}

    def metrics(outputs: Mapping[str, Array], batch: Batch) -> dict[str, Ratio]:
        pair, mask = (outputs["denoised"], batch["image"]), batch.get("mask")
        out = {"psnr": Ratio.of(psnr(*pair), mask)}
        out["ssim"] = Ratio.of(ssim_uniform(*pair), mask)
        if "noisy" in batch:
            out["psnr_noisy"] = Ratio.of(psnr(batch["noisy"], batch["image"]), mask)
        return out

    player = Player(
        name=DENOISER,
        owns=(DENOISER,),
        loss=loss,
        tx=build_optimizer(config.optim, total_steps=steps),
        weights={
            name: loss_options[name]
            for name in ("denoising", "segmentation")
            if name == "denoising" or segmentation is not None
        },
    )
    return Task(init=init, players=(player,), predict=predict, metrics=metrics)


def restore(
    noisy: Float[Array, "b h w c"], estimate: Float[Array, "b h w c"]
) -> Float[Array, "b h w c"]:
    """The image without the estimated noise, in [0, 1]. Saturated pixels pass no gradient."""
    return jnp.clip(noisy - estimate, 0, 1)


def _loss_options(section: Mapping[str, Any]) -> dict[str, Any]:
    section = to_dict(section)
    require_keys(section, _LOSS, "loss")
    options = {**_LOSS, **section}
    modes = (*MODES, *SEGMENTATION_MODES)
    for key, choices in (("mode", modes), ("uncertainty", tuple(UNCERTAINTIES))):
        if options[key] not in choices:
            raise ConfigError(
                f"unknown loss.{key} {options[key]!r}: {closest(options[key], choices)}"
            )
    for key in ("denoising", "segmentation", "gamma"):
        value = options[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise ConfigError(f"loss.{key} must be a number from 0, got {value!r}")
    return options


def _sigma(section: Mapping[str, Any]) -> tuple[float, float]:
    section = to_dict(section)
    require_keys(section, ("sigma",), "noise")
    given = section.get("sigma")
    ends = given if isinstance(given, list) else [given, given]
    numbers = all(isinstance(x, int | float) for x in ends)
    if len(ends) != 2 or not numbers or not 0 <= ends[0] <= ends[1] <= 255:
        raise ConfigError(
            "noise.sigma must be one deviation in grey levels or [least, largest] within "
            f"0..255, got {given!r}"
        )
    return float(ends[0]), float(ends[1])
