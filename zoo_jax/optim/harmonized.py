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
from typing import Literal

import optax
from jaxtyping import Array, Float

from zoo_jax.core.types import Batch, Key, Params, Terms
from zoo_jax.optim.realign_rules import Rule
from zoo_jax.task import Aux, LossFn, TrainState

Level = Literal["triplet", "device", "batch", "embedding", "subset"]
# (params, one example: a batch without its leading axis, its key) -> feature of any shape.
Tower = Callable[[Params, Batch, Key], Array]
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
      towers: By name. A tower that has the method ``tapped`` (`zoo_jax.nn.taps.ModuleTower`)
        can be used with ghost statistics.
      heads: See `Heads`. They get every owned network, and move all but `backbone`.
      backbone: The owned network whose parameters the towers take.
      weights: Of the terms; absent ones count 1.
      level: Whose gradients are realigned with each other.

        - ``"triplet"``: those of each example.
        - ``"device"``: those of the examples of one device, for each device; their sums cross
          devices afterwards.
        - ``"batch"``: those of the whole batch.
        - ``"embedding"``: as triplet, but products are taken between the cotangents of the
          features that several terms read (as if J J^T were the identity). Costs nothing.
        - ``"subset"``: as triplet, but products are taken over the parameters `subset` only.
      subset: Path patterns (`zoo_jax.optim.masks`) for that level.
      rule: How; see `zoo_jax.optim.realign_rules`. ``"none"`` only gates.
      gamma: The gate: an example (device, batch) counts while the lowest cosine between its
        gradients is at least this. A number, a schedule of the step, or None for no gate.
      quantile: The gate as a share: the lowest `quantile` of the cosines are dropped. A number, a
        schedule, or None.
      normalize: After dropping divide by the ``"kept"`` examples or by all of the ``"batch"``.
      statistics: ``"two_pass"`` scans over chunks of examples and forms gradients of one chunk.
        ``"ghost"`` forms none in dense layers: it keeps the inputs of the layers and the
        cotangents of their outputs for each term, and needs `ModuleTower`s.
      chunk: Examples whose gradients two_pass forms at a time, on all devices together;
        0 is one per device.
      groups: Devices of level ``"device"``; 0 is all.
      eps: Below this multiple of the median norm a gradient counts as this long.
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
    normalize: Literal["kept", "batch"] = "kept"
    statistics: Literal["two_pass", "ghost"] = "two_pass"
    chunk: int = 0
    groups: int = 0
    eps: float = 1e-6

    def loss(
        self, owned: dict[str, Params], state: TrainState, batch: Batch, key: Key
    ) -> tuple[Terms, Aux]:
        """The plain loss: towers on all examples, then heads. A `LossFn`."""
        raise NotImplementedError

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
        kept and dropped) and ``nonfinite`` (dropped because something was not finite).

        Gradients of the heads are those of the kept examples' own terms. If nothing is kept all
        gradients are exactly zero: wrap the optimiser in `realign.skip_when_empty`.
        """
        raise NotImplementedError

    def grams(
        self, owned: dict[str, Params], state: TrainState, batch: Batch, key: Key
    ) -> Float[Array, "g k k"]:
        """Inner products of the raw weighted gradients, one matrix per example, device or batch.

        For reports on conflict; `gradient` computes the same ones.
        """
        raise NotImplementedError
