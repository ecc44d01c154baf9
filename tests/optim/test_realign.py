"""The link that realigns gradients: against stored results, in a training step, by config."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toys

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.rng import make_key
from zoo_jax.optim.build import build_gate, build_optimizer, gradient_form
from zoo_jax.optim.realign import realign_gradients, realign_state, skip_when_empty
from zoo_jax.train.step import init_state, make_train_step

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "fixtures" / "golden"
GOLDEN = np.load(FIXTURES / "gradient_aggregators.npz")
TRIPLETS = np.float32(GOLDEN["triplet/gradients"])  # [b, 2, 11]

PAIRS = TRIPLETS[np.abs(TRIPLETS).max(-1).min(-1) > 0]  # the others have no cosine


def tree(flat):
    """Parameters of 11 numbers in two leaves, behind any leading axes."""
    return {
        "a": jnp.asarray(flat[..., :6]).reshape(*flat.shape[:-1], 2, 3),
        "b": jnp.asarray(flat[..., 6:]),
    }


def flat(updates):
    return np.concatenate([np.ravel(updates["a"]), np.ravel(updates["b"])])


PARAMS = tree(np.zeros(11, np.float32))


def apply(tx, updates, params=PARAMS, **extra):
    return jax.jit(lambda u, s: tx.update(u, s, params, **extra))(
        updates, tx.init(params)
    )


def test_examples_equal_stored_sums_of_triplets():
    updates, state = apply(realign_gradients(example_axis=0), tree(TRIPLETS))
    atol = 1e-5 * np.abs(TRIPLETS).max()
    np.testing.assert_allclose(flat(updates), GOLDEN["triplet/pcgrad_sum"], atol=atol)
    assert state.kept == len(TRIPLETS)
    last = jax.tree.map(lambda x: jnp.moveaxis(x, (0, 1), (-1, 0)), tree(TRIPLETS))
    moved, _ = apply(realign_gradients(term_axis=0, example_axis=-1), last)
    np.testing.assert_allclose(flat(moved), flat(updates), atol=atol)


def test_terms_equal_the_stored_sum_of_the_batch():
    updates, state = apply(realign_gradients(), tree(TRIPLETS.sum(0)))
    atol = 1e-5 * np.abs(TRIPLETS).max()
    np.testing.assert_allclose(
        flat(updates), GOLDEN["triplet/batch_level_pcgrad"], atol=atol
    )
    assert (state.count, state.kept) == (1, 1)


def test_a_parameter_that_one_term_moves_is_neither_counted_nor_weighed():
    terms = tree(
        np.float32(
            [[1, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0], [-1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]]
        )
    )
    updates, state = apply(realign_gradients(), terms)
    np.testing.assert_allclose(flat(updates)[:2], [0.5, 1.5], rtol=1e-6)
    assert updates["b"][0] == 9
    np.testing.assert_allclose(state.cosine, -(2**-0.5), rtol=1e-6)
    # Named ones are taken at their word.
    named, _ = apply(realign_gradients(shared=["*"]), terms)
    assert named["b"][0] > 9
    with pytest.raises(ConfigError, match="matches no parameter"):
        realign_gradients(shared="c*").init(PARAMS)


def test_broken_examples_are_left_out_and_a_broken_batch_is_not_hidden():
    broken = TRIPLETS.copy()
    broken[2, 1, 4] = np.inf
    rest = np.delete(TRIPLETS, 2, 0)
    tx = realign_gradients(example_axis=0, normalize="batch")
    updates, state = apply(tx, tree(broken))
    np.testing.assert_allclose(
        flat(updates), flat(apply(tx, tree(rest))[0]), rtol=1e-5, atol=1e-5
    )
    assert (state.nonfinite, state.kept) == (1, len(rest))
    updates, _ = apply(realign_gradients(), tree(broken.sum(0)))
    assert np.isnan(flat(updates)).any()


def test_the_state_averages_conflict_and_counts_examples():
    tx = realign_gradients(
        example_axis=0, gamma=lambda step: jnp.where(step == 0, -1.0, 2.0)
    )
    update = jax.jit(tx.update)
    _, state = update(tree(PAIRS), tx.init(PARAMS), PARAMS)
    first = state
    updates, state = update(tree(np.zeros_like(PAIRS)), state, PARAMS)  # no pairs
    assert (state.conflict, state.seen) == (first.conflict, 1)
    updates, state = update(tree(PAIRS), state, PARAMS)
    assert not flat(updates).any()
    assert state.dropped == len(PAIRS)
    np.testing.assert_allclose(state.cosine, first.cosine, rtol=1e-6)
    assert realign_state((optax.EmptyState(), state)) is state
    with pytest.raises(ValueError, match="0 links"):
        realign_state(optax.EmptyState())


def test_an_empty_batch_leaves_adam_alone():
    tx = optax.chain(
        realign_gradients(example_axis=0, gamma=lambda step: 3.0 * step),
        skip_when_empty(optax.adamw(0.1, weight_decay=0.1)),
    )
    params = tree(np.ones(11, np.float32))
    update = jax.jit(tx.update)
    start = np.abs(TRIPLETS[:1])
    moved, before = update(tree(start), tx.init(params), params)
    assert flat(moved).any()
    stopped, after = update(tree(start), before, params)
    assert not flat(stopped).any()
    for a, b in zip(
        jax.tree.leaves(before[1].inner), jax.tree.leaves(after[1].inner), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert after[1].skipped == 1


def test_gradvac_learns_its_targets():
    tx = realign_gradients(rule="gradvac", num_terms=2)
    agreeing = tree(np.float32([[1] + [0] * 10, [1, 1] + [0] * 9]))
    _, state = apply(tx, agreeing)
    np.testing.assert_allclose(state.targets[0, 1], 0.01 * 2**-0.5, rtol=1e-5)
    with pytest.raises(ConfigError, match="num_terms=2, but there are 3"):
        apply(tx, tree(np.zeros((3, 11), np.float32)))
    with pytest.raises(ConfigError, match="give num_terms"):
        realign_gradients(rule="gradvac")


@pytest.mark.parametrize(
    "options",
    [
        dict(rule="pcgrd"),
        dict(normalize="all"),
        dict(gamma=0.0, quantile=0.1),
        dict(term_axis=0, example_axis=0),
    ],
)
def test_options_that_do_not_fit_are_refused(options):
    with pytest.raises(ConfigError):
        realign_gradients(**options)


@pytest.mark.parametrize("mode", ["per_term", "per_example_term"])
def test_without_a_rule_a_training_step_is_the_plain_one(mode):
    batch = toys.ToyImages(toys.BATCH, 0).arrays
    level = {"per_term": "batch", "per_example_term": "example"}[mode]
    section = dict(name="sgd", lr=0.01, realign=dict(rule="none", level=level))
    assert gradient_form(section) == mode
    ends = []
    for form, optim in ((mode, section), ("sum", dict(name="sgd", lr=0.01))):
        tx = build_optimizer(optim, total_steps=4)
        task = toys.multi_term(form, tx, weights={"near": 0.7, "far": 2.0})
        state = init_state(task, make_key(1), batch)
        step = jax.jit(make_train_step(task), static_argnums=2)
        ends.append(step(state, {"train": batch}, (0,))[0].params)
    for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_config_builds_the_link_with_its_gate():
    section = dict(
        name="sgd",
        lr=1.0,
        realign=dict(
            rule="pcgrad", level="example", gamma=dict(start=2.0, end=-2.0, over=1)
        ),
    )
    tx = build_optimizer(section, total_steps=10)
    updates, state = apply(tx, tree(PAIRS))
    assert not flat(updates).any()
    assert realign_state(state).dropped == len(PAIRS)
    updates, _ = jax.jit(tx.update)(tree(PAIRS), state, PARAMS)
    want, _ = apply(realign_gradients(example_axis=0), tree(PAIRS))
    np.testing.assert_allclose(-flat(updates), flat(want), rtol=1e-6)


@pytest.mark.parametrize(
    ("realign", "message"),
    [
        (dict(level="batch"), "lacks 'rule'"),
        (dict(rule="pcgrad", level="triplet"), "unknown optim.realign.level 'triplet'"),
        (dict(rule="pcgrad", gama=0.1), "gama"),
        (dict(rule="pcgrad", gamma="high"), "optim.realign.gamma is a number or"),
        (
            dict(rule="pcgrad", gamma=dict(start=0.0)),
            "optim.realign.gamma is a number or",
        ),
    ],
)
def test_a_wrong_section_is_one_line(realign, message):
    with pytest.raises(ConfigError, match=message):
        build_optimizer(dict(name="sgd", lr=0.1, realign=realign), total_steps=10)


def test_gates_are_numbers_or_lines():
    assert build_gate(None, total_steps=4, where="gamma") is None
    assert build_gate(-0.5, total_steps=4, where="gamma") == -0.5
    line = build_gate(dict(start=0.0, end=1.0), total_steps=4, where="gamma")
    assert [float(line(step)) for step in (0, 2, 4, 9)] == [0, 0.5, 1, 1]
