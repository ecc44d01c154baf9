r"""Realigned gradients of several losses without a gradient per example in memory.

A network is cut where its examples are still apart: *towers* map one example to a feature, *heads*
map the features of the whole batch to loss terms (contrastive terms mix the examples, and so may
batch normalisation in the heads). With h_i the features of example i, J_i its Jacobian and
:math:`c_k^i = \partial L_k / \partial h_i`,

.. math:: g_k^i = J_i^T c_k^i, \qquad \sum_i g_k^i = \nabla L_k \text{ exactly.}

A rule of `zoo_jax.optim.realign_rules` turns the Gram matrix of the gradients g_1^i, ..., g_m^i into
weights, and since :math:`\sum_k w_k^i g_k^i = J_i^T \sum_k w_k^i c_k^i`, the update is one ordinary
backward pass. Only shared parameters, those that two terms reach, are weighed by the rule;
what is shared is read off the computation itself.

Source: arXiv 2211.02077; definitions are ours where the paper is silent, see the README of
`zoo_jax.methods.gradient_harmonization`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.rng import fold_name
from zoo_jax.core.types import Batch, Key, Params, Terms
from zoo_jax.optim.cut import Cut, Tower, make_cut
from zoo_jax.optim.examples import each, finite_rows, rows
from zoo_jax.optim.realign_rules import (
    Coefficients,
    Normalize,
    Rule,
    check_rule,
    coefficients,
)
from zoo_jax.optim.sweeps import by_embedding, by_ghost, by_group, by_scan
from zoo_jax.task import Aux, LossFn, TrainState

Level = Literal["triplet", "device", "batch", "embedding", "subset"]
# (owned networks, features by tower, each with the leading axis b, state, batch, key) -> terms of
# shape "b" (their mean is the loss) or "", and what a loss returns beside them.
Heads = Callable[
    [dict[str, Params], dict[str, Array], TrainState, Batch, Key], tuple[Terms, Aux]
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Harmonizer:
    """Loss and gradient of a player whose terms are realigned per example, device or batch.

    ``Player(loss=h.loss, gradient=h.gradient, weights=h.weights, ...)``. Terms are numbered in
    the order of their names.

    Attributes:
      towers: By name. Ghost statistics need `zoo_jax.nn.taps.ModuleTower`s.
      heads: See `Heads`. They get every owned network but `backbone`.
      backbone: The owned network whose parameters the towers take.
      weights: Of the terms; absent ones count 1.
      level: Whose gradients are realigned with each other.

        - ``"triplet"``: those of each example.
        - ``"device"``: those of the examples of one device, for each device; their sums cross
          devices afterwards.
        - ``"batch"``: those of the whole batch.
        - ``"embedding"``: as triplet, but products are taken between the cotangents of the
          features that several terms read (as if J J^T were the identity). Costs nothing.
        - ``"subset"``: as triplet, but products are taken over the shared ones of the parameters
          `subset` only.
      subset: Path patterns (`zoo_jax.optim.masks`) within the backbone, for that level.
      rule: See `zoo_jax.optim.realign_rules`; ``"none"`` only gates. Not ``"gradvac"``, which
        keeps targets.
      gamma: The gate: an example (device, batch) counts while the lowest cosine between its
        gradients is at least this. A number, a schedule of the step, or None for no gate.
      quantile: The gate as a share: the lowest `quantile` of the cosines are dropped. A number, a
        schedule, or None.
      normalize: After dropping divide by the ``"kept"`` examples or by all of the ``"batch"``.
      statistics: ``"two_pass"`` scans over chunks of examples and forms gradients of one chunk.
        ``"ghost"`` forms none in dense layers: it keeps the inputs of the layers and the
        cotangents of their outputs for each term. Both give the same numbers.
      chunk: Examples whose gradients are formed at a time, on all devices together; 0 is one
        per device.
      groups: Devices of level ``"device"``; 0 is all.
      eps: See `coefficients`.

    Raises:
      ConfigError: for options that do not fit each other.
    """

    towers: Mapping[str, Tower]
    heads: Heads
    backbone: str = "backbone"
    weights: Mapping[str, float | optax.Schedule] = dataclasses.field(
        default_factory=dict
    )
    level: Level = "triplet"
    subset: tuple[str, ...] = ()
    rule: Rule = "pcgrad"
    gamma: float | optax.Schedule | None = None
    quantile: float | optax.Schedule | None = None
    normalize: Normalize = "kept"
    statistics: Literal["two_pass", "ghost"] = "two_pass"
    chunk: int = 0
    groups: int = 0
    eps: float = 1e-12

    def __post_init__(self) -> None:
        check_rule(self.rule)
        choices = {
            "level": get_args(Level),
            "normalize": get_args(Normalize),
            "statistics": ("two_pass", "ghost"),
        }
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(f"{name}={value!r}: {closest(value, known)}")
        if self.rule == "gradvac":
            raise ConfigError(
                "gradvac keeps targets from step to step: use it in realign_gradients"
            )
        if (self.level == "subset") != bool(self.subset):
            raise ConfigError(
                f"level={self.level!r} with subset={self.subset!r}: the level 'subset' needs"
                " path patterns, the others take none"
            )
        if self.statistics == "ghost":
            for name, tower in self.towers.items():
                if not hasattr(tower, "tapped"):
                    raise ConfigError(
                        f"ghost statistics need a ModuleTower; {name!r} is a plain function"
                    )

    def loss(
        self, owned: dict[str, Params], state: TrainState, batch: Batch, key: Key
    ) -> tuple[Terms, Aux]:
        """The plain loss: towers on all examples, then heads. A `LossFn`."""
        params, keys = owned[self.backbone], _keys(key, batch)
        features = {
            name: each(tower)(params, dict(batch), keys)
            for name, tower in self.towers.items()
        }
        return self._apply_heads(self._rest(owned), features, state, batch, key)

    def gradient(
        self,
        loss: LossFn,
        owned: dict[str, Params],
        state: TrainState,
        batch: Batch,
        key: Key,
    ) -> tuple[dict[str, Params], Terms, Aux]:
        """Realigned gradients, unweighted terms and what the heads return. A `GradientFn`.

        To the metrics come ``conflict`` (share of the pairs of gradients at an obtuse angle),
        ``cosine`` (their mean cosine), ``kept`` and ``dropped`` (how many examples the gate
        kept and dropped; of the coarser levels, devices or batches) and ``nonfinite`` (dropped
        because something was not finite).

        Gradients of the heads are those of the kept examples' own terms. If nothing is kept all
        gradients are exactly zero: wrap the optimiser in `realign.skip_when_empty`. An example
        with NaN or infinite input is dropped and stands in the batch as a zero feature. If all
        are, or if finite input becomes infinite inside a tower, the gradient is not finite, and
        the training loop skips the step.
        """
        del loss  # the same as `self.loss`, in parts
        parts = self._measure(owned, state, batch, key)
        found = coefficients(
            parts.gram,
            rule=self.rule,
            gamma=_at(self.gamma, state.step),
            quantile=_at(self.quantile, state.step),
            key=fold_name(key, "order"),
            normalize=self.normalize,
            eps=self.eps,
        )
        grads = {**parts.of_heads(found), self.backbone: parts.of_backbone(found)}
        grads = jax.tree.map(lambda g, p: g.astype(p.dtype), grads, dict(owned))
        values = found.statistics._asdict()
        del values["pairs"]
        metrics = {**parts.aux.metrics, **values}
        return grads, parts.terms, Aux(parts.aux.model_state, metrics)

    def grams(
        self, owned: dict[str, Params], state: TrainState, batch: Batch, key: Key
    ) -> Float[Array, "g k k"]:
        """Inner products of the raw weighted gradients, one matrix per example, device or batch.

        For reports on conflict; `gradient` computes the same ones.
        """
        return self._measure(owned, state, batch, key).gram

    def _measure(self, owned, state, batch, key) -> "_Parts":
        batch, finite = finite_rows(batch)
        size, keys = finite.shape[0], _keys(key, batch)
        rest = self._rest(owned)

        def weighted(rest, features):
            terms, aux = self._apply_heads(rest, features, state, batch, key)
            return _weighted(terms, self.weights, state.step), (terms, aux)

        cut = make_cut(
            self.towers,
            owned[self.backbone],
            batch,
            keys,
            terms_of=lambda features: weighted(rest, features)[0],
            subset=self.subset,
        )
        groups = self._groups(size)
        features, measure = self._sweep(cut, groups)
        for feature in features.values():
            finite &= jnp.all(jnp.isfinite(feature), tuple(range(1, feature.ndim)))
        # A broken example must not reach the others through the heads.
        seen = {n: jnp.where(rows(finite, h), h, 0) for n, h in features.items()}
        values, pull, (terms, aux) = jax.vjp(weighted, rest, seen, has_aux=True)
        cotangents = []  # term -> tower -> [b, ...]
        for k, towers in enumerate(cut.reads):
            one = [jnp.full_like(v, k == i) for i, v in enumerate(values)]
            of_features = pull(one)[1]
            cotangents.append({name: of_features[name] for name in towers})
        gram, combine = measure(cotangents)
        if groups == size:
            gram = jnp.where(finite[:, None, None], gram, jnp.nan)

        def of_heads(found: Coefficients) -> dict[str, Params]:
            each_example = jnp.repeat(found.single, size // groups)
            # A term that is one number has no examples: it counts while one is kept.
            any_kept = jnp.where(jnp.any(found.single != 0), 1.0, 0.0)
            scales = [each_example if v.ndim else any_kept for v in values]
            scales = [s.astype(v.dtype) for s, v in zip(scales, values, strict=True)]
            return pull(scales)[0]

        return _Parts(gram, combine, of_heads, terms, aux)

    def _groups(self, size: int) -> int:
        wanted = {"batch": 1, "device": self.groups or jax.device_count()}
        groups = wanted.get(self.level, size)
        if size % groups:
            raise ConfigError(
                f"a batch of {size} examples does not divide among {groups} devices"
            )
        return groups

    def _sweep(self, cut: Cut, groups: int):
        if self.level in ("batch", "device"):
            return by_group(cut, groups)
        if self.level == "embedding":
            return by_embedding(cut)
        if self.statistics == "ghost":
            return by_ghost(cut, chunk=self.chunk)
        return by_scan(cut, chunk=self.chunk)

    def _rest(self, owned: Mapping[str, Params]) -> dict[str, Params]:
        return {name: p for name, p in owned.items() if name != self.backbone}

    def _apply_heads(self, rest, features, state, batch, key) -> tuple[Terms, Aux]:
        return self.heads(rest, features, state, batch, fold_name(key, "heads"))


class _Parts(NamedTuple):
    """What is known before the coefficients are."""

    gram: Float[Array, "g k k"]
    of_backbone: Callable[[Coefficients], Params]
    of_heads: Callable[[Coefficients], dict[str, Params]]
    terms: Terms
    aux: Aux


def _keys(key: Key, batch: Batch) -> Key:
    size = next(iter(batch.values())).shape[0]
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(size))


def _weighted(terms: Terms, weights: Mapping[str, Any], step: Array) -> list[Array]:
    """The terms in the order of their names; those of shape "b" sum up to their mean."""
    unknown = sorted(set(weights) - set(terms))
    if unknown:
        raise ConfigError(
            f"weights for terms {unknown}, but the heads have {sorted(terms)}"
        )
    return [
        _at(weights.get(name, 1.0), step) * terms[name] / max(terms[name].size, 1)
        for name in sorted(terms)
    ]


def _at(value: float | optax.Schedule | None, step: Array) -> Any:
    return value(step) if callable(value) else value
