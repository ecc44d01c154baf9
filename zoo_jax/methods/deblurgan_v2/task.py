"""Training a generator that deblurs, alone or against one or two discriminators."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float

from zoo_jax.core.config import require_keys, to_dict
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.rng import fold_name, step_key
from zoo_jax.core.types import Batch, Key, Params, Terms, Variables
from zoo_jax.losses.adversarial import ADVERSARIAL, gradient_penalty, init_pool
from zoo_jax.losses.perceptual import (
    PIXEL_SPACES,
    gradient_features,
    perceptual_distance,
    pixel_distance,
)
from zoo_jax.methods.deblurgan_v2.convert import load_backbone, load_vgg19
from zoo_jax.methods.deblurgan_v2.model import make_discriminator, make_generator
from zoo_jax.metrics.image import psnr, ssim_uniform
from zoo_jax.nn.vgg import Vgg19Features
from zoo_jax.optim.build import build_optimizer, gradient_form
from zoo_jax.task import Aux, Player, Ratio, Task, TrainState

GENERATOR, DISCRIMINATOR, VGG19 = "generator", "discriminator", "vgg19"
DISCRIMINATORS = ("patch", "full")
FEATURES = ("vgg19", "gradients", "none")
STATISTICS, POOL = "batch_stats", "pool"

_LOSS: dict[str, Any] = {
    "content": "mse",
    "pixel": 0.5,
    "pixel_space": "imagenet",
    "perceptual": 0.006,
    "features": "vgg19",
    "vgg19": "",
    "adversarial": "ragan_ls",
    "adversarial_weight": 0.001,
    "pool": 50,
    "penalty": 10.0,
    "reference_compat": False,
}


def make_task(config: ml_collections.ConfigDict, steps: int) -> Task:
    """Builds the training problem of a config.

    Batches hold ``image`` (blurred) and ``sharp``, float32 RGB in [0, 1]. With discriminators
    there are two players. The discriminators move first, against what the generator makes of the
    batch; then the generator moves against the discriminators as they are now. Of two
    discriminators both losses count half. Without any, one player learns from the content alone.

    Args:
      config: Sections

        - ``model``: of `make_generator`.
        - ``backbone``: a file with published weights of the backbone, trained on ImageNet, for the
          start; empty starts it from random ones. See `convert.load_backbone`.
        - ``discriminators``: ``patch`` and ``full``, sections of `make_discriminator`; one, both
          or none.
        - ``optim``: ``generator`` and ``discriminator``, sections of `build_optimizer`; with
          ``realign`` the terms of that player's loss get gradients of their own.
        - ``loss``: ``pixel`` weighs the `pixel_distance` of kind ``content`` in ``pixel_space``;
          ``perceptual`` the `perceptual_distance` of ``features``: ``"vgg19"`` (conv3_3, needs
          the file ``vgg19``, torchvision's layout), ``"gradients"`` (`gradient_features`: a
          stand-in that needs no weights and is not the paper's), or ``"none"`` for no such
          term. ``adversarial`` names one of `ADVERSARIAL`; ``adversarial_weight`` scales it for
          both players, ``pool`` is the number of images whose scores it remembers, ``penalty``
          weighs the gradient penalty of wgan_gp and ``reference_compat`` chooses its variant.

      steps: Length of the run, for schedules.

    Raises:
      ConfigError: for a section that does not fit.

    Source: arXiv 1908.03826, section 3.2: ``0.5 MSE + 0.006 VGG + 0.01 adversarial``. The
    released code has 0.001 in place of 0.01, also scales the discriminator's loss by it, and
    measures the MSE in ImageNet's units; these are the defaults.
    """
    options = _loss_options(config.loss)
    generator = make_generator(config.model)
    sections = to_dict(config.discriminators)
    require_keys(sections, DISCRIMINATORS, "discriminators")
    critics = {name: make_discriminator(s) for name, s in sections.items()}
    optim = to_dict(config.optim)
    require_keys(optim, (GENERATOR, DISCRIMINATOR), "optim")
    game = ADVERSARIAL[options["adversarial"]]
    vgg19 = Vgg19Features() if options["features"] == "vgg19" else None
    # Read when training starts: a measurement needs none of them.
    read_vgg19 = functools.cache(lambda: load_vgg19(options["vgg19"]))
    backbone = str(config.get("backbone") or "")

    def init(key: Key, batch: Batch) -> Variables:
        image = jnp.zeros((1, *batch["image"].shape[1:]), jnp.float32)
        params, model_state = {}, {}
        for name, module in {GENERATOR: generator, **critics}.items():
            rngs = {"params": fold_name(key, name)}
            variables = dict(module.init(rngs, image, train=False))
            params[name] = variables.pop("params")
            model_state[name] = variables
        if backbone:
            loaded = load_backbone(backbone, generator)
            params[GENERATOR] |= {"backbone": loaded["params"]}
            statistics = {**model_state[GENERATOR][STATISTICS]}
            statistics["backbone"] = loaded[STATISTICS]
            model_state[GENERATOR] = {STATISTICS: statistics}
        for name in critics if game.pooled else ():
            model_state[name] |= {POOL: init_pool(options["pool"])}
        if vgg19 is not None:
            params[VGG19] = read_vgg19()
        return {"params": params, "model_state": model_state}

    def restore(
        params: Params, state: TrainState, batch: Batch
    ) -> tuple[Float[Array, "b h w 3"], dict[str, Any]]:
        """What the generator makes of a batch in [-1, 1], and its new statistics."""
        # Both players draw the same dropout. Since the generator has not moved in between, they
        # then see the same pictures, and the compiler makes them once.
        key = fold_name(step_key(state.key, state.step), GENERATOR)
        return _apply(
            generator,
            params,
            state.model_state[GENERATOR],
            _signed(batch["image"]),
            rngs={"dropout": key},
        )

    def discriminator_loss(
        owned: Mapping[str, Params], state: TrainState, batch: Batch, key: Key
    ) -> tuple[Terms, Aux]:
        fake, _ = restore(state.params[GENERATOR], state, batch)
        fake, real = jax.lax.stop_gradient(fake), _signed(batch["sharp"])
        # Side by side, so that on many devices each keeps its share of both.
        both = jnp.stack([real, fake], 1).reshape(-1, *real.shape[1:])
        terms, new, metrics = {}, {}, {}
        for name, module in critics.items():
            old = state.model_state[name]
            scores, statistics = _apply(module, owned[name], old, both)
            scores = scores.reshape(-1, 2, *scores.shape[1:])
            terms[name], pool = game.discriminator(
                scores[:, 0], scores[:, 1], old.get(POOL)
            )
            new[name] = {**old, **statistics}
            if game.pooled:
                new[name][POOL] = pool
            if game.penalised:
                terms[f"{name}_penalty"] = gradient_penalty(
                    fold_name(key, name),
                    lambda x, m=module, n=name, o=old: _apply(m, owned[n], o, x)[0],
                    real,
                    fake,
                    reference_compat=options["reference_compat"],
                )
            for kind, column in (("real", 0), ("fake", 1)):
                metrics[f"{name}_{kind}"] = jnp.mean(scores[:, column])
        return terms, Aux(new, metrics)

    def generator_loss(
        owned: Mapping[str, Params], state: TrainState, batch: Batch, key: Key
    ) -> tuple[Terms, Aux]:
        del key
        fake, statistics = restore(owned[GENERATOR], state, batch)
        real = _signed(batch["sharp"])
        kind, space = options["content"], options["pixel_space"]
        terms = {"pixel": pixel_distance(fake, real, kind=kind, space=space)}
        if options["features"] != "none":
            features = gradient_features
            if vgg19 is not None:
                vgg19_variables = {"params": state.params[VGG19]}
                features = functools.partial(vgg19.apply, vgg19_variables)
            terms["perceptual"] = perceptual_distance(features, fake, real)
        for name, module in critics.items():
            old = state.model_state[name]
            of_fake, of_real = (
                _apply(module, state.params[name], old, x)[0] for x in (fake, real)
            )
            terms[name] = game.generator(of_real, of_fake, old.get(POOL))
        metrics = {"psnr": jnp.mean(psnr(_unit(fake), batch["sharp"]))}
        return terms, Aux({GENERATOR: statistics}, metrics)

    def predict(variables: Variables, batch: Batch) -> dict[str, Array]:
        restored = generator.apply(
            {
                "params": variables["params"][GENERATOR],
                **variables["model_state"].get(GENERATOR, {}),
            },
            _signed(batch["image"]),
            train=False,
        )
        return {"restored": _unit(restored)}

    def metrics(outputs: Mapping[str, Array], batch: Batch) -> dict[str, Ratio]:
        sharp, mask = batch["sharp"], batch.get("mask")
        return {
            "psnr": Ratio.of(psnr(outputs["restored"], sharp), mask),
            "ssim": Ratio.of(ssim_uniform(outputs["restored"], sharp), mask),
            "psnr_input": Ratio.of(psnr(batch["image"], sharp), mask),
        }

    share = options["adversarial_weight"] / max(len(critics), 1)
    weights = {name: share for name in critics}
    penalties = {
        f"{name}_penalty": share * options["penalty"]
        for name in critics
        if game.penalised
    }
    content = {"pixel": options["pixel"]}
    if options["features"] != "none":
        content["perceptual"] = options["perceptual"]
    players = [
        Player(
            name=GENERATOR,
            owns=(GENERATOR,),
            loss=generator_loss,
            tx=_optimizer(optim, GENERATOR, steps),
            weights={**content, **weights},
            gradient=gradient_form(optim[GENERATOR]),
        )
    ]
    if critics:
        player = Player(
            name=DISCRIMINATOR,
            owns=tuple(critics),
            loss=discriminator_loss,
            tx=_optimizer(optim, DISCRIMINATOR, steps),
            weights={**weights, **penalties},
            gradient=gradient_form(optim[DISCRIMINATOR]),
        )
        players.insert(0, player)
    return Task(init=init, players=tuple(players), predict=predict, metrics=metrics)


def _apply(
    module: Any, params: Params, state: Mapping[str, Any], x: Array, **options: Any
) -> tuple[Array, dict[str, Any]]:
    """Output in training mode, and what replaces the statistics (nothing without norms)."""
    statistics = {k: v for k, v in state.items() if k == STATISTICS}
    out, new = module.apply(
        {"params": params, **statistics}, x, train=True, mutable=[STATISTICS], **options
    )
    return out, dict(new)


def _signed(image: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    return 2 * image - 1


def _unit(image: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    return (image + 1) / 2


def _optimizer(optim: Mapping[str, Any], name: str, steps: int) -> Any:
    if name not in optim:
        raise ConfigError(f"optim lacks the section {name!r} of that player")
    return build_optimizer(optim[name], total_steps=steps)


def _loss_options(section: Mapping[str, Any]) -> dict[str, Any]:
    section = to_dict(section)
    require_keys(section, _LOSS, "loss")
    options = {**_LOSS, **section}
    choices: dict[str, Callable | tuple] = {
        "content": ("mse", "l1"),
        "pixel_space": PIXEL_SPACES,
        "features": FEATURES,
        "adversarial": tuple(ADVERSARIAL),
    }
    for key, names in choices.items():
        if options[key] not in names:
            raise ConfigError(
                f"unknown loss.{key} {options[key]!r}: {closest(options[key], names)}"
            )
    for key in ("pixel", "perceptual", "adversarial_weight", "penalty"):
        value = options[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise ConfigError(f"loss.{key} must be a number from 0, got {value!r}")
    pool = options["pool"]
    if isinstance(pool, bool) or not isinstance(pool, int) or pool < 1:
        raise ConfigError(f"loss.pool must be a whole number from 1, got {pool!r}")
    if options["features"] == "vgg19" and not options["vgg19"]:
        raise ConfigError(
            "loss.features='vgg19' needs loss.vgg19, a file with its weights (docs/weights.md); "
            "without one choose loss.features='gradients' or 'none'"
        )
    return options
