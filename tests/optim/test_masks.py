"""Path patterns select leaves; frozen leaves do not move."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.optim.masks import freeze, mask, thaw

PARAMS = {
    "stem": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
    "head": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)},
}


def test_a_leaf_is_marked_where_any_pattern_matches():
    assert mask(PARAMS, ["*/kernel", "head/*"]) == {
        "stem": {"kernel": True, "bias": False},
        "head": {"kernel": True, "bias": True},
    }
    assert mask(PARAMS, "stem/bias")["stem"] == {"kernel": False, "bias": True}


def test_no_patterns_mark_nothing():
    assert not any(jax.tree.leaves(mask(PARAMS, [])))


def test_a_pattern_without_a_match_raises():
    with pytest.raises(ConfigError, match=r"'stem/kernels' matches no.*'stem/kernel'"):
        mask(PARAMS, ["*/bias", "stem/kernels"])


def test_frozen_leaves_stay_bit_for_bit_even_under_weight_decay():
    tx = optax.chain(optax.adamw(0.1, weight_decay=0.5), freeze(["stem/*"]))
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(3):
        updates, state = tx.update(jax.tree.map(jnp.sin, params), state, params)
        params = optax.apply_updates(params, updates)
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(params["stem"][name], PARAMS["stem"][name])
        assert not np.allclose(params["head"][name], PARAMS["head"][name])


def test_freezing_what_is_not_there_raises_at_init():
    with pytest.raises(ConfigError, match=r"'neck/.*' matches no parameter"):
        freeze("neck/*").init(PARAMS)


def test_a_thawed_run_is_two_runs_the_second_with_a_fresh_optimiser():
    """Adam with decay, a schedule and a clip that frozen leaves must not enter."""
    rates = optax.linear_schedule(0.1, 0.02, 4)

    def adam():
        return optax.chain(
            optax.clip_by_global_norm(0.3), optax.adamw(rates, weight_decay=0.5)
        )

    def run(tx, params, steps):
        state = tx.init(params)
        for _ in range(steps):
            updates, state = tx.update(jax.tree.map(jnp.sin, params), state, params)
            params = optax.apply_updates(params, updates)
        return params

    head = run(adam(), {"head": PARAMS["head"]}, 3)
    halfway = {"stem": PARAMS["stem"], **head}
    got = run(thaw(adam(), "stem/*", at=3), PARAMS, 3)
    jax.tree.map(np.testing.assert_array_equal, got["stem"], PARAMS["stem"])
    assert_close(got, halfway)
    assert_close(run(thaw(adam(), "stem/*", at=3), PARAMS, 7), run(adam(), halfway, 4))


def assert_close(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), one, other)


def test_the_state_restarts_at_the_switch_and_only_there():
    tx = thaw(optax.adam(0.1), "stem/*", at=2)
    state, counts = tx.init(PARAMS), []
    for _ in range(4):
        _, state = jax.jit(tx.update)(PARAMS, state, PARAMS)
        counts.append(int(optax.tree.get(state.inner, "count")))
        moments = optax.tree.get(state.inner, "mu")
        assert np.any(moments["stem"]["kernel"]) == (len(counts) > 2)
    assert counts == [1, 2, 1, 2]


def test_what_cannot_be_thawed():
    with pytest.raises(ConfigError, match=r"'neck/.*' matches no parameter"):
        thaw(optax.sgd(1.0), "neck/*", at=1).init(PARAMS)
    with pytest.raises(ValueError, match="at=0"):
        thaw(optax.sgd(1.0), "stem/*", at=0)
