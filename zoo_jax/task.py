"""What a method gives to the training loop, and what the loop gives back: types only.

A method that trains is a `Task`: a pure `init`, one or more `Player`s (who updates which
network, by which loss), a pure `predict`, and masked metrics. A supervised net has one
player, a GAN two, an architecture search two on different data streams; the loop in
`zoo_jax/train` is the same code for all. A method without a training loop is a `Procedure`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import flax.struct
import jax.numpy as jnp
import ml_collections
import optax
from jaxtyping import Array, Float, Int

from zoo_jax.core.types import Batch, Key, Metrics, Params, Terms, Variables


class TrainState(flax.struct.PyTreeNode):
    """Everything that training changes, and the key that it started from."""

    step: Int[Array, ""]  # updates applied so far; a skipped batch does not count
    params: dict[str, Params]  # one entry per network
    model_state: dict[str, Any]  # batch statistics and the like; same keys as params
    opt_state: dict[str, Any]  # one entry per player
    ema: dict[str, Params]  # averaged parameters of the networks named in Task.ema
    key: Key  # never split; see core/rng.py
    skipped: Int[Array, ""]  # batches skipped because something was not finite
    streak: Int[Array, ""]  # how many of the last batches in a row were skipped

    def variables(self, *, averaged: bool = True) -> Variables:
        """What `Task.predict` takes; averaged parameters where the task keeps them."""
        params = {**self.params, **self.ema} if averaged else dict(self.params)
        return {"params": params, "model_state": dict(self.model_state)}


class Aux(NamedTuple):
    """What a loss returns beside its terms."""

    model_state: Mapping[str, Any]  # replaces these entries of TrainState.model_state
    metrics: Mapping[str, Array]  # scalars to log, not differentiated


class Ratio(NamedTuple):
    """A mean that is still two sums, so that batches of any size merge exactly."""

    total: Float[Array, ""]
    count: Float[Array, ""]

    @classmethod
    def of(cls, values: Array, mask: Array | None = None) -> "Ratio":
        """Masked sum and count of per-example `values` [b]; entries with mask 0 never count.

        A padded example may hold anything, NaN included.
        """
        values = jnp.asarray(values, jnp.float32)
        if mask is None:
            return cls(jnp.sum(values), jnp.asarray(values.size, jnp.float32))
        kept = jnp.where(mask > 0, values, 0.0)
        return cls(jnp.sum(kept * mask), jnp.sum(mask))


LossFn = Callable[[dict[str, Params], TrainState, Batch, Key], tuple[Terms, Aux]]
# A player's own way to a gradient: (weighted loss terms are its business) ->
# (gradients shaped like the owned params, unweighted terms, aux).
GradientFn = Callable[
    [LossFn, dict[str, Params], TrainState, Batch, Key],
    tuple[dict[str, Params], Terms, Aux],
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Player:
    """One optimiser with the networks that it moves and the loss that moves them.

    ``gradient`` says what `tx` receives:

    - ``"sum"``: the gradient of the weighted sum of the terms (batch mean of those of shape "b").
    - ``"per_term"``: every leaf gains one leading axis [m], the terms in sorted order of their
      names. The first link of `tx` must remove it. Summing over it gives ``"sum"``.
    - ``"per_example_term"``: leaves gain [b, m]; all terms must have shape "b". Summing over
      both axes gives ``"sum"`` (each example carries the factor 1/b).
    - a `GradientFn`, for methods that never materialise such leaves.
    """

    name: str
    owns: tuple[str, ...]  # players own disjoint sets of networks
    loss: LossFn  # its first argument, the owned params, is the only differentiated one
    tx: optax.GradientTransformation  # sees terms=, step=, key= as extra arguments
    weights: Mapping[str, float | optax.Schedule] = dataclasses.field(
        default_factory=dict
    )
    gradient: Literal["sum", "per_term", "per_example_term"] | GradientFn = "sum"
    stream: str = "train"  # the data stream that feeds it
    every: int = 1  # plays when step % every == 0 and step >= start
    start: int = 0


MetricsFn = Callable[[Mapping[str, Array], Batch], Mapping[str, Ratio]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A method's training problem, free of any loop.

    `init` returns ``{"params": {network: ...}, "model_state": {network: ...}}`` and is
    traced under `jax.eval_shape` first. The batch that it gets holds abstract or real arrays:
    it may look at shapes and dtypes only.
    """

    init: Callable[[Key, Batch], Variables]
    players: tuple[Player, ...]  # in order; later ones see what earlier ones changed
    predict: Callable[[Variables, Batch], Mapping[str, Array]]
    metrics: MetricsFn
    ema: Mapping[str, float] = dataclasses.field(
        default_factory=dict
    )  # network -> decay
    evaluators: Mapping[str, "Evaluator"] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        owned = [network for player in self.players for network in player.owns]
        if len(owned) != len(set(owned)):
            raise ValueError(f"players must own disjoint networks, got {owned}")
        names = [player.name for player in self.players]
        if len(names) != len(set(names)):
            raise ValueError(f"players need distinct names, got {names}")


def ratios(
    sums: Mapping[str, tuple[float, float]], collected: Mapping[str, Any]
) -> dict:
    """The plain finish of an evaluator: total / count of each metric."""
    del collected
    return {
        name: total / count if count else float("nan")
        for name, (total, count) in sums.items()
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator:
    """One measurement on one data stream. The default is `Task.metrics` of `Task.predict`."""

    step: Callable[[Variables, Batch], tuple[Mapping[str, Ratio], Mapping[str, Array]]]
    """Runs under jit; returns masked sums, and per-example arrays to gather on the host."""
    finish: Callable[
        [Mapping[str, tuple[float, float]], Mapping[str, Any]], Mapping[str, float]
    ] = ratios
    """(sums, gathered arrays without the padded examples) -> numbers, e.g. an area under a curve."""


class Writer(Protocol):
    """Where numbers, tables and pictures of a run go."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Logs numbers under a step."""

    def table(
        self, name: str, rows: list[Mapping[str, Any]], *, caption: str = ""
    ) -> None:
        """Keeps a table for the report."""

    def figure(self, name: str, figure: Any, *, caption: str = "") -> None:
        """Keeps a matplotlib figure for the report and closes it."""


class RunContext(Protocol):
    """What a procedure may use of the machine around it. Built by `zoo_jax.train`."""

    workdir: Any  # pathlib.Path, exists, belongs to this process alone
    writer: Writer
    key: Key
    mesh: Any  # jax.sharding.Mesh

    def load_source(self, spec: Mapping[str, Any]) -> Any:
        """Opens a data source by its config section, e.g. ``dict(name="mnist_5k", split="test")``."""

    def load_variables(self, path: str) -> Variables:
        """Reads a trained network.

        The newest good checkpoint of another workdir (averaged parameters if kept), or
        published weights as ``<model name>:<file>``.
        """

    def fit(
        self,
        name: str,
        task: Task,
        config: ml_collections.ConfigDict,
        variables: Variables | None = None,
    ) -> Variables:
        """Trains `task` with the common loop in ``workdir/name`` and returns its variables.

        Starts from `variables` where given. Resumes, and returns at once when it has finished.
        """

    def progress(self, total: int, description: str) -> Any:
        """A progress bar: a context manager with ``update(n=1)``."""


class Procedure(Protocol):
    """Work without a training loop: a search, a fit, a benchmark, a compression."""

    def __call__(
        self, config: ml_collections.ConfigDict, ctx: RunContext
    ) -> Mapping[str, float]:
        """Does the work and returns the numbers to keep. Must be repeatable from `ctx.key`."""


__all__ = [
    "Aux",
    "Batch",
    "Evaluator",
    "GradientFn",
    "LossFn",
    "Metrics",
    "Player",
    "Procedure",
    "Ratio",
    "RunContext",
    "Task",
    "TrainState",
    "Writer",
    "ratios",
]
