"""Path patterns select leaves; frozen leaves do not move."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.optim.masks import freeze, mask

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
