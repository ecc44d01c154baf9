"""Pre-training on video, sound and text, with or without harmonized gradients."""

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
from zoo_jax.core.rng import make_key
from zoo_jax.core.types import Batch, Key, Params, Terms, Variables
from zoo_jax.losses.contrastive import mil_nce, nce
from zoo_jax.methods.gradient_harmonization.conflict import (
    conflict_evaluator,
    state_of,
)
from zoo_jax.methods.gradient_harmonization.controls import CONTROLS, gated_gradient
from zoo_jax.methods.gradient_harmonization.evaluation import retrieval_report
from zoo_jax.methods.gradient_harmonization.finetune import make_finetune_task
from zoo_jax.methods.gradient_harmonization.model import make_vatt
from zoo_jax.methods.gradient_harmonization.networks import (
    BACKBONE,
    HEADS,
    embed,
    init_networks,
    make_inputs,
    make_towers,
)
from zoo_jax.metrics.cost import count_macs
from zoo_jax.optim.build import build_optimizer
from zoo_jax.optim.harmonized import Harmonizer
from zoo_jax.optim.masks import mask
from zoo_jax.optim.realign import skip_when_empty
from zoo_jax.optim.schedules import build_schedule
from zoo_jax.task import Aux, Evaluator, Player, Ratio, Task, TrainState

OBJECTIVES = ("contrastive", "classify")
TERMS = ("video_audio", "video_text")
STATISTICS = "batch_stats"
LEVELS = ("none", "triplet", "device", "batch", "embedding", "subset")

_LOSS: dict[str, Any] = {
    "video_audio": 1.0,
    "video_text": 1.0,
    "temperature": 0.07,
    "form": "asymmetric",
}
_HARMONIZE: dict[str, Any] = {
    "level": None,
    "rule": "pcgrad",
    "gate": {},
    "normalize": "kept",
    "statistics": "two_pass",
    "chunk": 0,
    "groups": 0,
    "subset": [],
}
_GATE = ("by", "gamma", "quantile", "schedule")


def make_task(config: ml_collections.ConfigDict, steps: int) -> Task:
    """Builds the training problem of a config.

    It is pre-training, or with ``objective="classify"`` what `make_finetune_task` builds.
    Batches of pre-training hold ``video`` (uint8 [b, t, h, w, 3]), ``audio`` (float32 [b, s] in [-1, 1]),
    ``text`` (int32 [b, l, words], the clip's own sentence first) and ``text_mask`` ([b], 0
    where a clip has no text). ``audio_mask`` may say the same of sound.

    Args:
      config: Sections

        - ``model``: of `make_vatt`; ``inputs``: of `make_inputs`, may be absent.
        - ``loss``: weights ``video_audio`` and ``video_text`` of the two terms (1 and 1 in the
          paper; the released code of VATT halves their sum), ``temperature``, and the ``form`` of
          both, "asymmetric" (released code) or "symmetric".
        - ``harmonize``: ``level`` of `Harmonizer`, or "none" for plain training; ``rule``,
          ``normalize``, ``statistics``, ``chunk``, ``groups``, ``subset`` likewise; and
          ``gate``, empty or: ``by`` "cosine", or, as controls of an experiment, "random" or
          "oracle" (which reads ``wrong_audio`` and ``wrong_text``); ``gamma``, the least
          cosine, or ``quantile``, the share that is dropped; and the ``schedule`` that either
          is multiplied by.
        - ``optim``: of `build_optimizer`.

      steps: Length of the run, for schedules.

    Raises:
      ConfigError: for a section that does not fit.

    Source: arXiv 2211.02077 on arXiv 2104.11178. What of the first is our reading is listed
    in this method's README.
    """
    objective = config.get("objective", OBJECTIVES[0])
    if objective not in OBJECTIVES:
        raise ConfigError(f"objective={objective!r}: {closest(objective, OBJECTIVES)}")
    if objective == "classify":
        return make_finetune_task(config, steps)
    vatt = make_vatt(config.model)
    inputs = make_inputs(config.get("inputs"), vatt.backbone.audio_input)
    terms_options = _section(config.loss, _LOSS, "loss")
    weights = {term: _weight(terms_options, term) for term in TERMS}
    common = {k: terms_options[k] for k in ("temperature", "form")}
    options = _harmonize(config.harmonize)
    gate, limits = options["gate"], _limits(options["gate"], steps)
    by = gate.get("by")

    def heads(
        owned: Mapping[str, Params],
        features: Mapping[str, Array],
        state: TrainState,
        batch: Batch,
        key: Key,
    ) -> tuple[Terms, Aux]:
        del key
        z, statistics = vatt.heads.apply(
            {"params": owned[HEADS], **state.model_state[HEADS]},
            features,
            train=True,
            mutable=[STATISTICS],
        )
        there = batch.get("audio_mask")
        terms = {
            "video_audio": nce(z["video_audio"], z["audio"], there, **common),
            "video_text": mil_nce(
                z["video_text"], z["text"], batch["text_mask"], **common
            ),
        }
        metrics = {"with_text": jnp.mean(batch["text_mask"].astype(jnp.float32))}
        return terms, Aux({HEADS: dict(statistics)}, metrics)

    def harmonizer(state: TrainState, **changes: Any) -> Harmonizer:
        level = options["level"]
        given = dict(
            towers=make_towers(vatt.backbone, state.model_state[BACKBONE], inputs),
            heads=heads,
            backbone=BACKBONE,
            weights=weights,
            level="batch" if level == "none" else level,
            subset=tuple(options["subset"]),
            **{k: options[k] for k in _PASSED},
            **(limits if by == "cosine" else {}),
        )
        return Harmonizer(**(given | changes))

    def loss(
        owned: dict[str, Params], state: TrainState, batch: Batch, key: Key
    ) -> tuple[Terms, Aux]:
        return harmonizer(state).loss(owned, state, batch, key)

    def gradient(given, owned, state, batch, key):
        if by in CONTROLS:
            quantile = limits.get("quantile", lambda step: 0.0)(state.step)
            return gated_gradient(
                harmonizer(state), owned, state, batch, key, by=by, quantile=quantile
            )
        return harmonizer(state).gradient(given, owned, state, batch, key)

    def predict(variables: Variables, batch: Batch) -> dict[str, Array]:
        return embed(vatt, variables, batch, inputs)

    tx = build_optimizer(config.optim, total_steps=steps)
    if not vatt.backbone.trainable_words:
        # Word vectors get no gradient; moments of a million words would be for nothing.
        tx = optax.masked(tx, _all_but_words)
    player = Player(
        name="vatt",
        owns=(BACKBONE, HEADS),
        loss=loss,
        tx=skip_when_empty(tx) if by else tx,
        weights=weights,
        gradient="sum" if options["level"] == "none" and not by else gradient,
    )
    return Task(
        init=partial(init_networks, vatt),
        players=(player,),
        predict=predict,
        metrics=agreement,
        evaluators={
            "retrieval": retrieval_evaluator(predict),
            "conflicts": conflict_evaluator(harmonizer, player.owns),
        },
    )


_PASSED = ("rule", "normalize", "statistics", "chunk", "groups")


def agreement(outputs: Mapping[str, Array], batch: Batch) -> dict[str, Ratio]:
    """Cosines of a video with its own sound and its own sentence; clips without do not count."""
    mask = batch.get("mask", jnp.ones(len(batch["text_mask"])))
    own = {"audio": outputs["audio"], "text": outputs["text"][:, 0]}
    out = {}
    for name, z in own.items():
        x = outputs[f"video_{name}"]
        x = x.mean(axis=1) if x.ndim == 3 else x
        z = z.mean(axis=1) if z.ndim == 3 else z
        norms = jnp.linalg.norm(x, axis=-1) * jnp.linalg.norm(z, axis=-1)
        cosine = jnp.sum(x * z, axis=-1) / jnp.maximum(norms, 1e-12)
        there = mask * batch.get(f"{name}_mask", jnp.ones_like(mask))
        out[f"cosine_{name}"] = Ratio.of(cosine, there)
    return out


def retrieval_evaluator(predict: Any) -> Evaluator:
    """Zero-shot retrieval on the whole stream; see `retrieval_report`."""
    names = ("video_audio", "audio", "video_text", "text")

    def step(variables: Variables, batch: Batch):
        found = predict(variables, batch)
        kept = {name: found[name] for name in names}
        return {}, {**kept, "word_ids": batch["text"], "text_mask": batch["text_mask"]}

    def finish(sums: Any, collected: Mapping[str, np.ndarray]) -> dict[str, float]:
        del sums
        return retrieval_report(collected)

    return Evaluator(step=step, finish=finish)


def _all_but_words(params: Params) -> Params:
    words = mask(params, f"{BACKBONE}/*words/table/embedding")
    return _negated(words)


def _negated(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {name: _negated(value) for name, value in tree.items()}
    return not tree


def _section(
    section: Mapping[str, Any], defaults: Mapping[str, Any], where: str
) -> dict[str, Any]:
    section = to_dict(section)
    require_keys(section, defaults, where)
    return {**defaults, **section}


def _weight(options: Mapping[str, Any], name: str) -> float:
    value = options[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ConfigError(f"loss.{name} must be a number from 0, got {value!r}")
    return value


def _harmonize(section: Mapping[str, Any]) -> dict[str, Any]:
    options = _section(section, _HARMONIZE, "harmonize")
    gate = options["gate"]
    require_keys(gate, _GATE, "harmonize.gate")
    level, by = options["level"], gate.get("by")
    choices = ("cosine", *CONTROLS)
    if level not in LEVELS:
        raise ConfigError(f"harmonize.level={level!r}: {closest(level, LEVELS)}")
    if gate and by not in choices:
        raise ConfigError(f"harmonize.gate.by={by!r}: {closest(by, choices)}")
    limits = [k for k in ("gamma", "quantile") if gate.get(k) is not None]
    needed = {"cosine": 1, "random": 1, "oracle": 0}.get(by, 0)
    if len(limits) != needed or (by == "random" and limits != ["quantile"]):
        wanted = {"cosine": "gamma or quantile", "random": "quantile"}.get(
            by, "neither"
        )
        raise ConfigError(
            f"harmonize.gate.by={by!r} takes {wanted}, got {', '.join(limits) or 'none'}"
        )
    if by == "cosine" and level == "none":
        raise ConfigError(
            "a gate by cosine needs a level: harmonize.level='triplet', with rule='none' to "
            "gate only"
        )
    if by in CONTROLS and level != "none":
        raise ConfigError(
            f"harmonize.gate.by={by!r} is a control of plain training: set "
            "harmonize.level='none'"
        )
    return options


def _limits(gate: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """The gate's limits as schedules."""
    return {
        key: build_schedule(gate[key], gate.get("schedule"), total_steps=steps)
        for key in ("gamma", "quantile")
        if gate.get(key) is not None
    }


def step_macs(config: ml_collections.ConfigDict, batch: Batch) -> int:
    """Multiply-adds of one training step: forward, backward, and what harmonizing adds.

    Args:
      config: As for `make_task`.
      batch: Shapes suffice (`jax.ShapeDtypeStruct`).
    """
    task = make_task(config, max(config.steps, 2))
    player = task.players[0]
    key = jax.eval_shape(lambda: make_key(0))
    variables = jax.eval_shape(task.init, key, batch)

    def gradient(variables: Variables, batch: Batch, key: Key):
        state = state_of(variables)
        if player.gradient != "sum":
            return player.gradient(player.loss, state.params, state, batch, key)[0]

        def total(owned):
            terms, _ = player.loss(owned, state, batch, key)
            return sum(
                weight * jnp.mean(terms[k]) for k, weight in player.weights.items()
            )

        return jax.grad(total)(state.params)

    return count_macs(gradient, variables, dict(batch), key)
