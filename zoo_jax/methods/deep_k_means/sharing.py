"""Training with shared weights in another way than by the penalty: from config to task.

What a way of sharing knows beside the weights (centres, a mixture) are its *values*. A run
may start from given weights, which a fresh task has not seen: the values are therefore made
from the weights of the first step and kept in the model state, and what an optimiser learns
of them is an offset, which starts at zero.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax import lax
from jaxtyping import Array

from zoo_jax.core.config import require_keys, to_dict
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.rng import fold_name, make_key
from zoo_jax.core.tree import map_named, named_leaves, nest
from zoo_jax.core.types import Params, Terms, Variables
from zoo_jax.methods.deep_k_means import baselines
from zoo_jax.methods.deep_k_means.layers import NETWORK
from zoo_jax.optim.build import build_optimizer
from zoo_jax.optim.layer_spec import LayerSpec, make_spec, resolve_spec
from zoo_jax.task import TrainState

SHARING = "sharing"  # the entry beside the network, in params and model state

Samples = dict[str, Array]  # path of a kernel -> its samples [n, d]
Layers = dict[str, LayerSpec]  # path of a kernel -> how it is clustered
Values = dict[str, Any]


class Way(NamedTuple):
    """One way of sharing, on samples."""

    first: Callable[[Samples, Layers], Values]  # from the weights of the first step
    # The samples that the network trains with, the values of the next step, loss terms.
    train: Callable[[Samples, Values], tuple[Samples, Values, Terms]]
    hard: Callable[[Samples, Values], Samples]  # that the network is used with
    learned: tuple[str, ...] = ()  # names of the values that an optimiser moves
    weights: Mapping[str, float] = {}  # of the loss terms


@dataclasses.dataclass(frozen=True)
class Sharing:
    """What a task does to its weights; without a `way` all of it does nothing."""

    way: Way | None = None
    spec: Mapping[str, LayerSpec | None] = dataclasses.field(default_factory=dict)
    optimizers: Mapping[str, optax.GradientTransformation] = dataclasses.field(
        default_factory=dict
    )

    @property
    def owns(self) -> tuple[str, ...]:
        """Networks of the one player."""
        learned = self.way is not None and self.way.learned
        return (NETWORK, SHARING) if learned else (NETWORK,)

    @property
    def weights(self) -> Mapping[str, float]:
        """Of the loss terms that `train` returns."""
        return {} if self.way is None else self.way.weights

    def init(self, variables: Variables) -> Variables:
        """Adds empty values to fresh variables; the first step fills them."""
        if self.way is None:
            return variables
        params = dict(variables["params"])
        first = jax.eval_shape(lambda p: self._first(self._samples(p), p), params)

        def empty(names):  # anew each time: donated leaves must not share a buffer
            shapes = {name: first[name] for name in names}
            return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

        if self.way.learned:
            params[SHARING] = empty(self.way.learned)
        model_state = {**variables["model_state"], SHARING: empty(first)}
        return {"params": params, "model_state": model_state}

    def train(
        self, owned: Mapping[str, Params], state: TrainState
    ) -> tuple[Params, Terms, dict[str, Values]]:
        """The network's weights for one training step.

        Returns:
          Its parameters, further loss terms, and the new entry of the model state.
        """
        if self.way is None:
            return owned[NETWORK], {}, {}
        samples = self._samples(owned)
        offsets = owned.get(SHARING, {})
        known = state.model_state[SHARING]
        fixed = lax.stop_gradient((samples, offsets))
        known = lax.cond(
            state.step == 0,
            # Offsets of an earlier run do not count twice.
            lambda: _moved(self._first(fixed[0], owned), fixed[1], -1),
            lambda: known,
        )
        shared, new, terms = self.way.train(samples, _moved(known, offsets, 1))
        kept = {n: known[n] if n in offsets else new[n] for n in known}
        return self._params(shared, owned), terms, {SHARING: kept}

    def deploy(self, variables: Variables) -> Params:
        """The network's weights as they are used and stored: hard-assigned.

        Not before the first training step, which makes the values.
        """
        params = variables["params"]
        if self.way is None:
            return params[NETWORK]
        offsets = params.get(SHARING, {})
        values = _moved(variables["model_state"][SHARING], offsets, 1)
        return self._params(self.way.hard(self._samples(params), values), params)

    def optimizer(
        self, network: optax.GradientTransformation
    ) -> optax.GradientTransformation:
        """The optimiser of the network, and beside it those of the learned values."""
        if not self.optimizers:
            return network

        def part(name: str, leaf: Any) -> str:
            del leaf
            entry, value, *_ = name.split("/")
            return value if entry == SHARING else NETWORK

        return optax.partition(
            {NETWORK: network, **self.optimizers}, lambda tree: map_named(part, tree)
        )

    def _layers(self, networks: Mapping[str, Params]) -> Layers:
        return resolve_spec(self.spec, {NETWORK: networks[NETWORK]})

    def _first(self, samples: Samples, networks: Mapping[str, Params]) -> Values:
        return self.way.first(samples, self._layers(networks))

    def _samples(self, networks: Mapping[str, Params]) -> Samples:
        leaves = named_leaves({NETWORK: networks[NETWORK]})
        layers = self._layers(networks)
        return {name: layer.matrix(leaves[name]) for name, layer in layers.items()}

    def _params(self, samples: Samples, networks: Mapping[str, Params]) -> Params:
        layers = self._layers(networks)

        def put(name, leaf):
            return layers[name].kernel(samples[name], leaf) if name in layers else leaf

        return map_named(put, {NETWORK: networks[NETWORK]})[NETWORK]


def make_sharing(config: ml_collections.ConfigDict, steps: int) -> Sharing:
    """Reads the section ``sharing`` of a config; without one, weights are not shared.

    All keys of a way are needed; ``layers`` is that of `make_spec`.

    - ``straight_through``: ``init`` (see `first_centres`), ``reduce``, and ``optim``:
      ``dict(centres=...)``.
    - ``soft``: ``tau``, ``data_size`` (the number of training examples), ``zero_share``,
      ``std``, ``precision_prior`` (see `mixture_loss`), and ``optim``: ``dict(means=...,
      log_precisions=..., log_mixing=...)``. One mixture serves all layers: each needs
      ``samples="scalar"`` and the same ``num_clusters``.
    - ``differentiable``: ``init``, ``temperature``, ``num_iters``.

    Entries of ``optim`` are sections for `build_optimizer`; the network itself follows
    ``config.optim``.

    Raises:
      ConfigError: for a section that does not fit, or together with another one.
    """
    section = to_dict(config.get("sharing") or {})
    if not section:
        return Sharing()
    for other in ("kmeans", "share_updates"):
        if config.optim.get(other):
            raise ConfigError(
                f"sharing and optim.{other} exclude each other: each decides how weights are shared"
            )
    name = section.pop("name", None)
    if name not in _WAYS:
        raise ConfigError(f"unknown sharing.name {name!r}: {closest(name, _WAYS)}")
    make, keys = _WAYS[name]
    require_keys(section, keys, "sharing")
    for key in keys:
        if key not in section:
            raise ConfigError(f"sharing lacks {key!r}: it needs {', '.join(keys)}")
    spec = make_spec(section["layers"])
    layers = [layer for layer in spec.values() if layer]
    if any(layer.core for layer in layers):
        raise ConfigError("sharing has no core: leave it out of sharing.layers")
    way = make(section, layers, config.get("seed", 0))
    optim = section.get("optim", {})
    if set(optim) != set(way.learned):
        raise ConfigError(
            f"sharing.optim needs one section for each of {', '.join(way.learned)}, got "
            f"{', '.join(optim) or 'none'}"
        )
    optimizers = {n: build_optimizer(s, total_steps=steps) for n, s in optim.items()}
    return Sharing(way, spec, optimizers)


def _moved(values: Values, offsets: Values, sign: int) -> Values:
    """Adds the learned offsets to the values that have one, or takes them off."""

    def add(value, offset):
        return value + sign * offset

    moved = {n: jax.tree.map(add, values[n], offset) for n, offset in offsets.items()}
    return {**values, **moved}


def _seeded_centres(section, seed) -> Callable[[Samples, Layers], Values]:
    def first(samples, layers):
        centres = {
            name: baselines.first_centres(
                x,
                layers[name].num_clusters,
                init=section["init"],
                key=fold_name(make_key(seed), name),
            )
            for name, x in samples.items()
        }
        return {"centres": nest(centres)}

    return first


def _straight_through(section, layers, seed) -> Way:
    del layers

    def train(samples, values):
        centres = named_leaves(values["centres"])
        shared = {
            name: baselines.straight_through(x, centres[name], reduce=section["reduce"])
            for name, x in samples.items()
        }
        return shared, values, {}

    first = _seeded_centres(section, seed)
    return Way(first, train, _to_nearest, learned=("centres",))


def _differentiable(section, layers, seed) -> Way:
    del layers

    def train(samples, values):
        centres = named_leaves(values["centres"])
        found = {
            name: baselines.differentiable_kmeans(
                x,
                # Where the last step ended: gradients do not pass between steps.
                lax.stop_gradient(centres[name]),
                temperature=section["temperature"],
                num_iters=section["num_iters"],
            )
            for name, x in samples.items()
        }
        shared = {name: soft for name, (soft, _) in found.items()}
        centres = {name: lax.stop_gradient(c) for name, (_, c) in found.items()}
        return shared, {"centres": nest(centres)}, {}

    return Way(_seeded_centres(section, seed), train, _to_nearest)


def _to_nearest(samples: Samples, values: Values) -> Samples:
    centres = named_leaves(values["centres"])
    return {n: centres[n][baselines.nearest(x, centres[n])] for n, x in samples.items()}


def _soft(section, layers, seed) -> Way:
    del seed  # nothing is drawn
    kinds = {(layer.num_clusters, layer.samples) for layer in layers}
    if len(kinds) != 1 or next(iter(kinds))[1] != "scalar":
        raise ConfigError(
            "sharing.name='soft' has one mixture of single weights: give all layers "
            f"samples='scalar' and the same num_clusters, got {sorted(kinds)}"
        )
    if section["tau"] < 0 or section["data_size"] < 1:
        raise ConfigError(
            "sharing needs tau of 0 or more and data_size of 1 or more, got "
            f"{section['tau']} and {section['data_size']}"
        )
    share, prior = section["zero_share"], section["precision_prior"]

    def first(samples, layers):
        weights = jnp.concatenate(list(samples.values()))[:, 0]
        count = next(iter(layers.values())).num_clusters
        mixture = baselines.first_mixture(weights, count, std=section["std"])
        return mixture._asdict()

    def train(samples, values):
        weights = jnp.concatenate(list(samples.values()))[:, 0]
        loss = baselines.mixture_loss(
            weights,
            baselines.Mixture(**values),
            zero_share=share,
            precision_prior=None if prior is None else tuple(prior),
        )
        return samples, values, {"mixture": loss}

    def hard(samples, values):
        mixture = baselines.Mixture(**values)
        return {
            name: baselines.snap(x[:, 0], mixture, zero_share=share)[:, None]
            for name, x in samples.items()
        }

    return Way(
        first,
        train,
        hard,
        learned=baselines.Mixture._fields,
        weights={"mixture": section["tau"] / section["data_size"]},
    )


_WAYS: dict[str, tuple[Callable[..., Way], tuple[str, ...]]] = {
    "straight_through": (_straight_through, ("layers", "init", "reduce", "optim")),
    "soft": (
        _soft,
        (
            *("layers", "tau", "data_size", "zero_share", "std", "precision_prior"),
            "optim",
        ),
    ),
    "differentiable": (_differentiable, ("layers", "init", "temperature", "num_iters")),
}
