"""Training a restorer for a recogniser, and the small recogniser itself."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jaxtyping import Array, Bool

from zoo_jax.core.config import require_keys, to_dict
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.rng import fold_name
from zoo_jax.core.types import Batch, Key, Params, Terms, Variables
from zoo_jax.losses.adversarial import ADVERSARIAL
from zoo_jax.methods.ug2.class_map import ClassMap
from zoo_jax.methods.ug2.frozen import Frozen, make_recogniser_judge, vgg16_judge
from zoo_jax.methods.ug2.losses import class_loss, feature_loss
from zoo_jax.methods.ug2.model import make_critic, make_network, make_small_cnn
from zoo_jax.methods.ug2.restorer import restore_matched, restore_plain, run_network
from zoo_jax.metrics.image import psnr
from zoo_jax.optim.build import build_optimizer
from zoo_jax.task import Aux, Player, Ratio, Task, TrainState

RESTORER, RECOGNISER, FEATURES, CRITIC = "restorer", "recogniser", "features", "critic"
FEATURE_KINDS = ("recogniser", "vgg16", "none")
GAMES = tuple(n for n, g in ADVERSARIAL.items() if not (g.pooled or g.penalised))

_LOSS: dict[str, Any] = {
    "perceptual": 1.0,
    "class": 1.0,
    "pixel": 0.0,
    "adversarial": 0.0,
    "features": "vgg16",
    "vgg16": "",
    "own_units": False,
    "groups": [],
    "map": "",
    "label": "group",
    "game": "lsgan",
}


def make_task(
    config: ml_collections.ConfigDict,
    steps: int,
    *,
    features: Frozen | None = None,
    recogniser: Frozen | None = None,
) -> Task:
    """Builds the training problem of a config.

    With ``model.name="small_cnn"`` it is the recogniser that learns, see `make_recogniser_task`.
    Else batches hold ``image`` (degraded) and ``sharp``, float32 RGB in [0, 1], and ``label``.
    The restorer learns by a sum of up to four terms; one with the weight 0 is left out:

    - ``perceptual``: `feature_loss` between what a frozen network sees in output and truth.
    - ``class``: `class_loss` of a frozen recogniser's answer to the output.
    - ``pixel``: mean squared error; not of the released code.
    - ``adversarial``: against a critic that learns as well; a reconstruction.

    Args:
      config: Sections

        - ``model``: of `make_network`.
        - ``recogniser``: of `make_recogniser_judge`; empty where no term needs it. The
          parameters of a small one come with ``init_from``.
        - ``critic``: of `make_critic`; empty without the adversarial term.
        - ``optim``: of `build_optimizer`; the critic has the same.
        - ``loss``: the four weights; ``features``: ``"vgg16"`` (with the file ``vgg16``),
          ``"recogniser"`` (the inner map of the small one) or ``"none"``; ``own_units``: see
          `make_recogniser_judge`; ``groups``: the classes of each super-class, or ``map``: a
          file of `ClassMap`; neither makes each class its own; ``label``: whether labels are
          numbers of super-classes (``"group"``) or of the recogniser's classes (``"class"``);
          ``game``: one of `GAMES`.

      steps: Length of the run, for schedules.
      features: Another frozen network in place of ``loss.features``.
      recogniser: Another frozen one in place of the section.

    Raises:
      ConfigError: for a section that does not fit.

    Source: a participant's released code: perceptual and class term with the weight 1 each,
    VGG-16, inputs without normalisation, Adam. Its learning rate and batch are not known.
    """
    if config.model.get("name") == "small_cnn":
        return make_recogniser_task(config, steps)
    options = _loss_options(config.loss)
    module = make_network(config.model)
    weights = {
        name: options[name]
        for name in ("perceptual", "class", "pixel", "adversarial")
        if options[name] > 0
    }
    if not weights:
        raise ConfigError("loss: all four weights are 0: nothing would be learned")
    judges = _judges(config, options, weights, features, recogniser)
    critic = make_critic(config.critic) if "adversarial" in weights else None
    game = ADVERSARIAL[options["game"]]
    members = _members(options)

    def init(key: Key, batch: Batch) -> Variables:
        image = jnp.zeros((1, *batch["image"].shape[1:]), jnp.float32)
        seen = image[..., : getattr(module, "channels", 3)]
        networks = {RESTORER: dict(module.init(fold_name(key, RESTORER), seen))}
        for name, judge in judges.items():
            networks[name] = dict(judge.init(fold_name(key, name)))
        if critic is not None:
            networks[CRITIC] = dict(critic.init(fold_name(key, CRITIC), image))
        params = {name: v.pop("params") for name, v in networks.items()}
        return {"params": params, "model_state": networks}

    def restore(
        params: Params, state: TrainState, batch: Batch
    ) -> tuple[Array, dict[str, Any]]:
        variables = {"params": params, **state.model_state[RESTORER]}
        image, new = run_network(
            module, variables, batch["image"], train=True, mutable=["batch_stats"]
        )
        return image, dict(new)

    def judged(name: str, kind: str, variables: Variables, x: Array) -> Array:
        own = {
            "params": variables["params"][name],
            **variables["model_state"].get(name, {}),
        }
        return getattr(judges[name], kind)(own, x)

    def probabilities(variables: Variables, x: Array) -> Array:
        return judged(RECOGNISER, "probabilities", variables, x)

    def belonging(count: int) -> Array:
        table = np.eye(count) if members is None else members
        if options["groups"] and table.shape[1] < count:  # the last classes are in none
            table = np.pad(table, ((0, 0), (0, count - table.shape[1])))
        if table.shape[1] != count:
            raise ConfigError(
                f"loss.groups or loss.map name {table.shape[1]} classes, the recogniser has"
                f" {count}"
            )
        return jnp.asarray(table, jnp.float32)

    def target(label: Array, table: Array) -> Array:
        if options["label"] == "group":
            return jax.nn.one_hot(label, len(table))
        return table.T[label]

    def restorer_loss(
        owned: Mapping[str, Params], state: TrainState, batch: Batch, key: Key
    ) -> tuple[Terms, Aux]:
        del key
        image, new = restore(owned[RESTORER], state, batch)
        sharp, frozen = batch["sharp"], state.variables(averaged=False)
        terms = {}
        if "perceptual" in weights:
            name = FEATURES if FEATURES in judges else RECOGNISER
            seen, wanted = (judged(name, "features", frozen, x) for x in (image, sharp))
            terms["perceptual"] = feature_loss(seen, jax.lax.stop_gradient(wanted))
        if "class" in weights:
            found = probabilities(frozen, image)
            table = belonging(found.shape[1])
            terms["class"] = class_loss(found, table, target(batch["label"], table))
        if "pixel" in weights:
            terms["pixel"] = jnp.mean(jnp.square(image - sharp), axis=(1, 2, 3))
        if critic is not None:
            scores = [
                critic.apply({"params": state.params[CRITIC]}, x)
                for x in (sharp, image)
            ]
            terms["adversarial"] = game.generator(*scores, None)
        return terms, Aux({RESTORER: new}, {})

    def critic_loss(
        owned: Mapping[str, Params], state: TrainState, batch: Batch, key: Key
    ) -> tuple[Terms, Aux]:
        del key
        image, _ = restore(state.params[RESTORER], state, batch)
        pair = (batch["sharp"], jax.lax.stop_gradient(image))
        scores = [critic.apply({"params": owned[CRITIC]}, x) for x in pair]
        value, _ = game.discriminator(*scores, None)
        return {"adversarial": value}, Aux({}, {})

    def predict(variables: Variables, batch: Batch) -> dict[str, Array]:
        own = {
            "params": variables["params"][RESTORER],
            **variables["model_state"].get(RESTORER, {}),
        }
        matched = config.model.name == "srnet"
        finish = restore_matched if matched else restore_plain
        out = {"restored": finish(module, own, batch["image"])}
        if RECOGNISER in judges:
            kinds = {
                "": out["restored"],
                "_input": batch["image"],
                "_sharp": batch["sharp"],
            }
            for name, x in kinds.items():
                out[f"probabilities{name}"] = probabilities(variables, x)
        return out

    def metrics(outputs: Mapping[str, Array], batch: Batch) -> dict[str, Ratio]:
        mask, sharp = batch.get("mask"), batch["sharp"]
        found = {
            "psnr": psnr(outputs["restored"], sharp),
            "psnr_input": psnr(batch["image"], sharp),
        }
        for kind in ("", "_input", "_sharp"):
            if f"probabilities{kind}" not in outputs:
                continue
            answer = outputs[f"probabilities{kind}"]
            table = belonging(answer.shape[1])
            groups = table.T[jnp.argmax(answer, axis=1)]  # those of the likeliest class
            right = jnp.any((groups * target(batch["label"], table)) > 0, axis=1)
            found[f"accuracy{kind}"] = right.astype(jnp.float32)
        return {name: Ratio.of(values, mask) for name, values in found.items()}

    players = []
    if critic is not None:
        players.append(
            Player(
                name=CRITIC,
                owns=(CRITIC,),
                loss=critic_loss,
                tx=build_optimizer(config.optim, total_steps=steps),
            )
        )
    players.append(
        Player(
            name=RESTORER,
            owns=(RESTORER,),
            loss=restorer_loss,
            tx=build_optimizer(config.optim, total_steps=steps),
            weights=weights,
        )
    )
    return Task(init=init, players=tuple(players), predict=predict, metrics=metrics)


def make_recogniser_task(config: ml_collections.ConfigDict, steps: int) -> Task:
    """Trains the small recogniser by cross entropy on ``image`` and ``label``.

    The network has the name that a restorer's task looks for, so that the workdir can be its
    ``init_from``.

    Args:
      config: ``model``: ``name="small_cnn"`` and arguments of `build_small_cnn`; ``optim``.
      steps: Length of the run, for schedules.
    """
    section = to_dict(config.model)
    section.pop("name")
    module = make_small_cnn(section)

    def init(key: Key, batch: Batch) -> Variables:
        image = jnp.zeros((1, *batch["image"].shape[1:]), jnp.float32)
        variables = dict(module.init(key, image))
        params = {RECOGNISER: variables.pop("params")}
        return {"params": params, "model_state": {RECOGNISER: variables}}

    def loss(
        owned: Mapping[str, Params], state: TrainState, batch: Batch, key: Key
    ) -> tuple[Terms, Aux]:
        del key
        variables = {"params": owned[RECOGNISER], **state.model_state[RECOGNISER]}
        (logits, _), new = module.apply(
            variables, batch["image"], train=True, mutable=["batch_stats"]
        )
        terms = {"cross_entropy": _cross_entropy(logits, batch)}
        return terms, Aux({RECOGNISER: dict(new)}, {})

    def predict(variables: Variables, batch: Batch) -> dict[str, Array]:
        own = {
            "params": variables["params"][RECOGNISER],
            **variables["model_state"][RECOGNISER],
        }
        return {"logits": module.apply(own, batch["image"])[0]}

    def metrics(outputs: Mapping[str, Array], batch: Batch) -> dict[str, Ratio]:
        right = jnp.argmax(outputs["logits"], axis=1) == batch["label"]
        return {"accuracy": Ratio.of(right.astype(jnp.float32), batch.get("mask"))}

    player = Player(
        name=RECOGNISER,
        owns=(RECOGNISER,),
        loss=loss,
        tx=build_optimizer(config.optim, total_steps=steps),
    )
    return Task(init=init, players=(player,), predict=predict, metrics=metrics)


def _cross_entropy(logits: Array, batch: Batch) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])


def _judges(
    config: ml_collections.ConfigDict,
    options: Mapping[str, Any],
    weights: Mapping[str, float],
    features: Frozen | None,
    recogniser: Frozen | None,
) -> dict[str, Frozen]:
    """The frozen networks that the terms need; a recogniser that is there also measures."""
    section, kind = to_dict(config.get("recogniser") or {}), options["features"]
    own_units = options["own_units"]
    found: dict[str, Frozen] = {}
    if recogniser is None and section:
        recogniser = make_recogniser_judge(section, own_units=own_units)
    if recogniser is not None:
        found[RECOGNISER] = recogniser
    if "class" in weights and RECOGNISER not in found:
        raise ConfigError(
            "loss.class needs a recogniser: give the section 'recogniser'"
        )
    if "perceptual" not in weights:
        return found
    if features is not None:
        found[FEATURES] = features
    elif kind == "vgg16":
        found[FEATURES] = vgg16_judge(options["vgg16"], own_units=own_units)
    elif kind == "none":
        raise ConfigError("loss.perceptual needs loss.features: vgg16 or recogniser")
    elif RECOGNISER not in found or found[RECOGNISER].features is None:
        raise ConfigError(
            "loss.features='recogniser' needs one with an inner map: recogniser.name='small_cnn'"
        )
    return found


def _members(options: Mapping[str, Any]) -> Bool[np.ndarray, "k n"] | None:
    """Which classes belong to which super-class; None: each to its own."""
    groups, path = options["groups"], options["map"]
    if groups and path:
        raise ConfigError("loss.groups and loss.map say the same: give one of them")
    if path:
        return ClassMap.read(path).members
    if not groups:
        return None
    count = 1 + max(max(group, default=0) for group in groups)
    members = np.zeros((len(groups), count), bool)
    for row, group in zip(members, groups, strict=True):
        row[list(group)] = True
    return members


def _loss_options(section: Mapping[str, Any]) -> dict[str, Any]:
    section = to_dict(section)
    require_keys(section, _LOSS, "loss")
    options = {**_LOSS, **section}
    choices = {"features": FEATURE_KINDS, "label": ("group", "class"), "game": GAMES}
    for key, names in choices.items():
        if options[key] not in names:
            raise ConfigError(
                f"unknown loss.{key} {options[key]!r}: {closest(options[key], names)}"
            )
    for key in ("perceptual", "class", "pixel", "adversarial"):
        value = options[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise ConfigError(f"loss.{key} must be a number from 0, got {value!r}")
    return options
