"""Chains of enhancers and the exhaustive search over their steps."""

import itertools

import jax.numpy as jnp
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.methods.ug2.enhancers import make_enhancer
from zoo_jax.methods.ug2.enhancers.chain import MOST, Chain, search_chain

STEPS = [
    ("add", lambda x: x + 1),
    ("double", lambda x: 2 * x),
    ("square", lambda x: x * x),
]


def test_an_empty_chain_is_the_identity():
    x = jnp.ones((1, 2, 3, 3))
    assert Chain()(x) is x
    assert Chain(STEPS, on=(False,) * 3)(x) is x


def test_steps_are_applied_in_their_order():
    assert Chain(STEPS)(3) == 64
    chain = Chain(STEPS, on=(True, False, True))
    assert chain(3) == 16
    assert chain.applied == ("add", "square")


def test_the_search_finds_what_trying_all_finds():
    def score(chain):
        return -abs(chain(3) - 17)

    found = search_chain(Chain(STEPS), score)
    all_on = list(itertools.product((False, True), repeat=3))
    assert set(found.scores) == set(all_on)
    best = max(score(Chain(STEPS, on=on)) for on in all_on)
    assert found.scores[found.best.on] == best == -1
    assert found.best(3) in (16, 18)


def test_of_equal_chains_the_shortest_wins():
    found = search_chain(Chain(STEPS), lambda chain: 1.0)
    assert found.best.applied == ()
    assert len(found.scores) == 8


def test_a_search_says_what_it_cannot_do():
    with pytest.raises(ConfigError, match="the chain of steps add is not a number"):
        search_chain(Chain(STEPS[:1]), lambda c: float("nan") if c.applied else 0.0)
    many = [(str(i), lambda x: x) for i in range(MOST + 1)]
    with pytest.raises(ConfigError, match="at most 10"):
        search_chain(Chain(many), lambda chain: 0.0)


def test_a_cascade_takes_names_with_options():
    steps = ("histogram", ("nearest_x2", dict(factor=3)))
    chain = make_enhancer("cascade", steps=steps, on=(False, True))
    assert chain.applied == ("nearest_x2",)
    x = jnp.linspace(0, 1, 60).reshape(1, 4, 5, 3)
    assert float(jnp.abs(chain(x) - x).max()) == 0
    with pytest.raises(ConfigError, match="unknown enhancer 'unsharpen'"):
        make_enhancer("cascade", steps=("unsharpen",))
