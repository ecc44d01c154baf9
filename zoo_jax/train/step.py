"""One training step: every active player in turn, then one decision to keep or skip it all.

The step is pure and compiled once per set of active players. It knows nothing of files,
data or time.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.rng import step_key
from zoo_jax.core.types import Batch, Metrics, Params, Terms
from zoo_jax.task import Aux, Player, Task, TrainState

TrainStep = Callable[..., tuple[TrainState, Metrics]]


def active_players(task: Task, step: int) -> tuple[int, ...]:
    """Indices of the players that move at `step`. Static: the others cost nothing."""
    return tuple(
        i
        for i, player in enumerate(task.players)
        if step >= player.start and step % player.every == 0
    )


def init_state(task: Task, key: jax.Array, batch: Batch) -> TrainState:
    """Fresh parameters and optimiser states. Pure: `jax.eval_shape` of it is a template."""
    variables = task.init(jax.random.fold_in(key, 0), batch)
    return build_state(task, variables, key)


def build_state(task: Task, variables: Mapping[str, Any], key: jax.Array) -> TrainState:
    """Fresh optimiser states and averages around given variables."""
    params = dict(variables["params"])
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=dict(variables.get("model_state", {})),
        opt_state={p.name: p.tx.init(_owned(params, p)) for p in task.players},
        # A copy: state is donated, and two leaves must not share one buffer.
        ema={name: jax.tree.map(jnp.copy, params[name]) for name in task.ema},
        key=key,
        skipped=jnp.zeros((), jnp.int32),
        streak=jnp.zeros((), jnp.int32),
    )


def make_train_step(task: Task, *, accumulate: int = 1) -> TrainStep:
    """Builds ``step(state, batches, active) -> (state, metrics)``.

    Args:
      task: The players and their losses.
      accumulate: Splits each batch into so many equal parts that are differentiated one after
        the other and averaged. Terms that are means over examples give the same gradient as
        the whole batch; batch statistics are those of the parts.

    Returns:
      A pure function. `batches` maps stream names to batches; `active` holds indices from
      `active_players`. Metrics are scalars: each term's mean, each player's weighted ``loss``,
      what the losses report, ``skipped`` (batches skipped so far) and ``streak`` (of these,
      how many just now in a row).

    Raises:
      ConfigError: if `accumulate` is below 1 or does not fit a player.
    """
    if accumulate < 1:
        raise ConfigError(f"accumulate={accumulate}: it must be at least 1")
    if accumulate > 1 and any(p.gradient == "per_example_term" for p in task.players):
        raise ConfigError(
            f"accumulate={accumulate} mixes the examples that a per-example player keeps"
            " apart: set it to 1"
        )

    def step(
        state: TrainState, batches: Mapping[str, Batch], active: tuple[int, ...]
    ) -> tuple[TrainState, Metrics]:
        new, metrics, ok = state, {}, jnp.asarray(True)
        for index in active:
            player = task.players[index]
            new, reported, finite = _play(
                player,
                new,
                batches[player.stream],
                step_key(state.key, state.step, index),
                accumulate,
            )
            prefix = f"{player.name}/" if len(task.players) > 1 else ""
            metrics |= {prefix + name: value for name, value in reported.items()}
            ok &= finite
        new = new.replace(
            step=state.step + 1,
            streak=jnp.zeros_like(state.streak),
            ema={
                name: optax.incremental_update(new.params[name], average, 1.0 - decay)
                for name, decay in task.ema.items()
                for average in (state.ema[name],)
            },
        )
        # A step that is not finite changes nothing but the counters: the run goes on as if the
        # batch had not been there.
        old = state.replace(skipped=state.skipped + 1, streak=state.streak + 1)
        new = jax.tree.map(lambda a, b: b if a is b else jnp.where(ok, a, b), new, old)
        return new, metrics | {"skipped": new.skipped, "streak": new.streak}

    return step


def _owned(params: Mapping[str, Params], player: Player) -> dict[str, Params]:
    return {name: params[name] for name in player.owns}


def _play(
    player: Player, state: TrainState, batch: Batch, key: jax.Array, accumulate: int
) -> tuple[TrainState, dict[str, jax.Array], jax.Array]:
    """One player's move. Returns the new state, what to log, and whether all is finite."""
    owned = _owned(state.params, player)
    loss_key, tx_key = jax.random.split(key)
    weights = {
        name: weight(state.step) if callable(weight) else weight
        for name, weight in player.weights.items()
    }
    gradient = _gradient_fn(player, weights)
    if accumulate == 1:
        grads, terms, aux = gradient(owned, state, batch, loss_key)
    else:
        grads, terms, aux = _accumulated(
            gradient, owned, state, batch, loss_key, accumulate
        )
    loss = _weighted(terms, weights)
    tx = optax.with_extra_args_support(player.tx)
    updates, opt_state = tx.update(
        grads,
        state.opt_state[player.name],
        owned,
        value=loss,
        terms=terms,
        step=state.step,
        key=tx_key,
    )
    finite = (
        _all_finite(updates)
        & _all_finite(aux.model_state)
        & _still_finite(opt_state, state.opt_state[player.name])
    )
    new = state.replace(
        params={**state.params, **optax.apply_updates(owned, updates)},
        model_state={**state.model_state, **aux.model_state},
        opt_state={**state.opt_state, player.name: opt_state},
    )
    logged = {name: jnp.mean(term) for name, term in terms.items()}
    return new, {"loss": loss, **logged, **aux.metrics}, finite


def _weighted(terms: Terms, weights: Mapping[str, Any]) -> jax.Array:
    unknown = sorted(set(weights) - set(terms))
    if unknown:
        raise ValueError(
            f"weights for terms {unknown}, but the loss has {sorted(terms)}"
        )
    return sum(
        (weights.get(name, 1.0) * jnp.mean(terms[name]) for name in sorted(terms)),
        start=jnp.zeros(()),
    )


def _gradient_fn(player: Player, weights: Mapping[str, Any]) -> Callable:
    """``(owned, state, batch, key) -> (gradients, terms, aux)`` in the form that tx takes."""
    mode = player.gradient
    if callable(mode):
        return lambda owned, state, batch, key: mode(
            player.loss, owned, state, batch, key
        )
    stack = {
        "sum": lambda terms: _weighted(terms, weights),
        "per_term": lambda terms: _stacked(terms, weights, jnp.mean),
        "per_example_term": lambda terms: _stacked(terms, weights, _over_batch),
    }
    if mode not in stack:
        raise ValueError(
            f"gradient={mode!r} is not one of {sorted(stack)} or a function"
        )

    def gradient(owned, state, batch, key):
        def objective(owned):
            terms, aux = player.loss(owned, state, batch, key)
            return stack[mode](terms), (terms, aux)

        values, pullback, (terms, aux) = jax.vjp(objective, owned, has_aux=True)
        # One backward pass per entry of `values`: "" or [m] or [b, m].
        ones = jnp.eye(values.size, dtype=values.dtype)
        ones = ones.reshape(values.shape + values.shape)
        for _ in values.shape:
            pullback = jax.vmap(pullback)
        (grads,) = pullback(ones)
        return grads, terms, aux

    return gradient


def _stacked(terms: Terms, weights: Mapping[str, Any], reduce: Callable) -> jax.Array:
    _weighted(terms, weights)  # checks the names
    return jnp.stack(
        [weights.get(name, 1.0) * reduce(terms[name]) for name in sorted(terms)],
        axis=-1,
    )


def _over_batch(term: jax.Array) -> jax.Array:
    if term.ndim != 1:
        raise ValueError(
            f'"per_example_term" needs terms of shape "b", got {term.shape}'
        )
    return term / term.shape[0]


def _accumulated(
    gradient: Callable,
    owned: Mapping[str, Params],
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    parts: int,
) -> tuple[Any, Terms, Aux]:
    """The mean gradient over equal parts of the batch; batch statistics pass through them."""

    def divide(x):
        if x.shape[0] % parts:
            raise ValueError(f"a batch of {x.shape[0]} does not divide into {parts}")
        # Part i takes the rows i::parts, so every device holds its share of every part.
        return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)

    def one(carry, part):
        total, model_state = carry
        index, rows = part
        grads, terms, aux = gradient(
            owned,
            state.replace(model_state=model_state),
            rows,
            jax.random.fold_in(key, index),
        )
        total = jax.tree.map(jnp.add, total, grads)
        return (total, {**model_state, **aux.model_state}), (terms, aux.metrics)

    rows = jax.tree.map(divide, dict(batch))
    shapes = jax.eval_shape(
        gradient, owned, state, jax.tree.map(lambda x: x[0], rows), key
    )
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes[0])
    (total, model_state), (terms, metrics) = jax.lax.scan(
        one, (zeros, state.model_state), (jnp.arange(parts), rows)
    )
    grads = jax.tree.map(lambda g: g / parts, total)
    terms = {
        name: jnp.mean(t) if t.ndim == 1 else t.swapaxes(0, 1).reshape(-1)
        for name, t in terms.items()
    }
    metrics = {name: jnp.mean(m, axis=0) for name, m in metrics.items()}
    return grads, terms, Aux(model_state, metrics)


def _all_finite(tree: Any) -> jax.Array:
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    if not leaves:
        return jnp.asarray(True)
    # One reduction over all leaves end to end: as fast as one per leaf, and a network of 180
    # leaves does not compile several times longer for it.
    dtype = jnp.result_type(*leaves)
    flat = jnp.concatenate([x.reshape(-1).astype(dtype) for x in leaves])
    return jnp.all(jnp.isfinite(flat))


def _still_finite(new: Any, old: Any) -> jax.Array:
    """Finite, or not finite before either: some states start at infinity by design."""

    def suspects(a, b):
        inexact = jnp.issubdtype(a.dtype, jnp.inexact)
        return jnp.where(jnp.isfinite(b), a, 0) if inexact else a

    return _all_finite(jax.tree.map(suspects, new, old))
