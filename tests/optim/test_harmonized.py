"""Harmonized gradients against gradients of which every example has its own parameters."""

import dataclasses
import functools
import re

import harmonized_toys as toys
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.tree import named_leaves

SIZE, STEP = 8, jnp.int32(2)
# Words are read by one term alone; video's stem by both, like the encoder and positions.
OWN = "words"
OPTIONS = {
    "two_pass": dict(chunk=3),
    "ghost": dict(statistics="ghost"),
    "subset": dict(level="subset", subset=("blocks_0/*",), statistics="ghost"),
    "embedding": dict(level="embedding"),
    "batch": dict(level="batch"),
    "device": dict(level="device", groups=4),
}


@functools.cache
def problem():
    """Networks, examples, and the raw gradients [b, k, ...] of each."""
    batch = toys.make_batch(SIZE)
    owned = toys.make_owned(toys.Backbone(), batch)
    raw = toys.each_gradient(toys.make())(owned, batch)
    raw = {n: np.swapaxes(g, 0, 1) for n, g in named_leaves(raw).items()}
    return owned, batch, raw


@functools.cache
def gradient(name, **options):
    return toys.run(toys.make(**{**OPTIONS[name], **options}))


def own(name):
    return name.startswith(OWN)


def by_hand(raw, weights, factors):
    """Shared parameters are weighed by the rule, the others by what the gate says."""
    out = {}
    for name, g in raw.items():
        w = factors[:, None] * np.ones(2) if own(name) else weights
        out[name] = np.einsum("bk,bk...->...", w, g)
    return out


def gram_of(raw, names):
    flat = np.concatenate([raw[n].reshape(*raw[n].shape[:2], -1) for n in names], -1)
    flat = flat.astype(np.float64)
    return np.einsum("bkp,blp->bkl", flat, flat)


def pcgrad(gram):
    d, n = np.minimum(gram[:, 0, 1], 0), np.diagonal(gram, axis1=1, axis2=2)
    return 1 - d[:, None] / n


def close(got, want, rtol=1e-4):
    got = named_leaves(got)
    assert set(got) == set(want)
    scale = max(np.abs(w).max() for w in want.values())
    for name, w in want.items():
        np.testing.assert_allclose(got[name], w, atol=rtol * scale, err_msg=name)


@pytest.mark.parametrize("name", ["two_pass", "ghost"])
def test_each_triplet_is_realigned_by_its_own_gram_matrix(name):
    owned, batch, raw = problem()
    gram = gram_of(raw, [n for n in raw if not own(n)])
    weights = pcgrad(gram)
    assert (weights > 1.01).any()
    assert (weights == 1).any()
    grads, _, metrics = gradient(name)(owned, batch, STEP)
    close(grads["backbone"], by_hand(raw, weights, np.ones(SIZE)))
    cosines = gram[:, 0, 1] / np.sqrt(gram[:, 0, 0] * gram[:, 1, 1])
    np.testing.assert_allclose(metrics["cosine"], cosines.mean(), atol=1e-5)
    np.testing.assert_allclose(metrics["conflict"], (cosines < 0).mean(), atol=1e-6)
    assert (metrics["kept"], metrics["dropped"], metrics["nonfinite"]) == (SIZE, 0, 0)


@pytest.mark.slow  # compiles long
def test_triplets_sum_up_to_the_plain_gradient():
    owned, batch, raw = problem()
    want = toys.plain(toys.make())(owned, batch)
    close(want["backbone"], by_hand(raw, np.ones((SIZE, 2)), np.ones(SIZE)), 1e-5)
    got = toys.run(toys.make(rule="none"))(owned, batch, STEP)[0]
    close(got, named_leaves(want), 1e-5)


def test_the_batch_is_one_pair_and_devices_are_one_pair_each():
    owned, batch, raw = problem()
    results = {}
    for name, groups in (("batch", 1), ("device", 4)):
        parts = {n: g.reshape(groups, -1, *g.shape[1:]).sum(1) for n, g in raw.items()}
        weights = pcgrad(gram_of(parts, [n for n in raw if not own(n)]))
        want = by_hand(parts, weights, np.ones(groups))
        results[name] = gradient(name)(owned, batch, STEP)
        close(results[name][0]["backbone"], want)
        assert results[name][2]["kept"] == groups
    one, many = (named_leaves(r[0]["backbone"]) for r in results.values())
    assert max(np.abs(one[n] - many[n]).max() for n in one) > 1e-3


@pytest.mark.slow  # compiles long
def test_a_subset_counts_alone_but_all_shared_parameters_are_weighed():
    owned, batch, raw = problem()
    weights = pcgrad(gram_of(raw, [n for n in raw if n.startswith("blocks_0/")]))
    grads = gradient("subset")(owned, batch, STEP)[0]
    close(grads["backbone"], by_hand(raw, weights, np.ones(SIZE)))


@pytest.mark.slow  # compiles long
def test_the_embedding_level_compares_cotangents_of_the_video_feature():
    owned, batch, raw = problem()

    def terms(video, rest):
        found, _ = toys.heads(owned, {"video": video, **rest}, None, batch, None)
        return jnp.stack(
            [jnp.mean(found["video_audio"]), 0.5 * jnp.mean(found["video_text"])]
        )

    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(3), i))(
        jnp.arange(SIZE)
    )
    towers = toys.make_towers(toys.Backbone())

    @toys.jit
    def cotangents():
        h = {
            n: jax.vmap(t, (None, 0, 0))(owned["backbone"], batch, keys)
            for n, t in towers.items()
        }
        return jax.jacrev(terms)(h.pop("video"), h)

    weights = pcgrad(gram_of({"h": np.swapaxes(cotangents(), 0, 1)}, ["h"]))
    grads = gradient("embedding")(owned, batch, STEP)[0]
    close(grads["backbone"], by_hand(raw, weights, np.ones(SIZE)))


@pytest.mark.parametrize("rule", ["pcgrad", "mgda"])
def test_the_embedding_level_is_the_same_for_towers_that_cannot_be_tapped(rule):
    owned, batch, _ = problem()
    # With a large second term the least norm gives many examples' first one all the weight.
    weights = {"video_text": 50.0 if rule == "mgda" else 0.5}
    tapped = toys.make(level="embedding", rule=rule, gamma=-0.5, weights=weights)
    functions = {n: lambda *a, t=t: t(*a) for n, t in tapped.towers.items()}
    plain = dataclasses.replace(tapped, towers=functions)
    one, other = (toys.run(h)(owned, batch, STEP) for h in (tapped, plain))
    assert 0 < one[2]["dropped"] < SIZE
    assert one[2] == other[2]
    for name, leaf in named_leaves(one[0]).items():
        np.testing.assert_allclose(
            leaf, named_leaves(other[0])[name], rtol=1e-5, atol=5e-6, err_msg=name
        )


@pytest.mark.parametrize("name", ["two_pass", "ghost"])
@pytest.mark.slow  # compiles long
def test_a_clip_without_text_keeps_its_gradient_and_is_no_conflict(name):
    owned, batch, _ = problem()
    mask = jnp.ones(SIZE).at[jnp.array([1, 4])].set(0)
    grads, _, metrics = gradient(name)(owned, {**batch, "mask": 0 * mask}, STEP)
    assert metrics["conflict"] == 0
    assert metrics["kept"] == SIZE
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert not np.abs(grads["backbone"]["words"]["embedding"]).any()


@pytest.mark.parametrize("name", ["two_pass", "ghost", "embedding"])
@pytest.mark.slow  # compiles long
def test_a_broken_clip_is_dropped_and_counted(name):
    owned, batch, _ = problem()
    broken = {**batch, "video": batch["video"].at[3, 0, 0].set(jnp.nan)}
    grads, terms, metrics = gradient(name)(owned, broken, STEP)
    assert metrics["nonfinite"] == 1
    assert metrics["kept"] == SIZE - 1
    for leaf in jax.tree.leaves((grads, terms)):
        assert np.isfinite(leaf).all()
    everything = {**batch, "video": jnp.full_like(batch["video"], jnp.inf)}
    grads, _, metrics = gradient(name)(owned, everything, STEP)
    assert metrics["kept"] == 0
    assert np.isnan(grads["backbone"]["blocks_0"]["q"]["kernel"]).any()


@pytest.mark.slow  # compiles long
def test_a_gate_that_drops_all_gives_exact_zeros_also_in_the_heads():
    owned, batch, raw = problem()
    gated = toys.run(
        toys.make(gamma=lambda step: jnp.where(step > 5, 2.0, -0.1), level="triplet")
    )
    grads, _, metrics = gated(owned, batch, jnp.int32(6))
    assert metrics["dropped"] == SIZE
    assert not any(np.abs(g).any() for g in jax.tree.leaves(grads))
    # Before, it drops some and makes up for them.
    gram = gram_of(raw, [n for n in raw if not own(n)])
    cosines = gram[:, 0, 1] / np.sqrt(gram[:, 0, 0] * gram[:, 1, 1])
    keep = cosines >= -0.1
    assert 0 < keep.sum() < SIZE
    factors = keep * SIZE / keep.sum()
    grads, _, metrics = gated(owned, batch, STEP)
    want = by_hand(raw, pcgrad(gram) * factors[:, None], factors)
    close(grads["backbone"], want)
    assert metrics["dropped"] == SIZE - keep.sum()


@pytest.mark.parametrize(
    ("name", "options", "groups"),
    [("two_pass", dict(chunk=8), SIZE), ("device", dict(groups=8), 8)],
)
def test_eight_devices_come_to_the_same_and_exchange_no_gradient_of_a_term(
    name, options, groups
):
    owned, batch, raw = problem()
    weights = pcgrad(gram_of(raw, [n for n in raw if not own(n)]))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    owned8 = jax.device_put(owned, NamedSharding(mesh, PartitionSpec()))
    batch8 = jax.device_put(batch, split)
    function = toys.run(toys.make(**{**OPTIONS[name], **options}))
    compiled = function.lower(owned8, batch8, STEP).compile()
    grads = compiled(owned8, batch8, STEP)[0]
    # One example per device: the levels coincide.
    close(grads["backbone"], by_hand(raw, weights, np.ones(groups)))
    # A kernel [6, 6] crosses devices once, summed; never by term or by example.
    exchanged = re.findall(
        r"= \(?(f32\[[\d,]*\][^=]*) (?:all-reduce|all-gather|all-to-all)",
        compiled.as_text(),
    )
    assert exchanged
    assert not any(re.search(r"\[(\d+,)+6,6\]", shapes) for shapes in exchanged)


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="level='triplett': did you mean 'triplet'"):
        toys.make(level="triplett")
    with pytest.raises(ConfigError, match="needs path patterns"):
        toys.make(level="subset")
    with pytest.raises(ConfigError, match="realign_gradients"):
        toys.make(rule="gradvac")
    with pytest.raises(ConfigError, match="'video' is a plain function"):
        toys.Harmonizer(
            towers={"video": lambda params, example, key: example["video"]},
            heads=toys.heads,
            statistics="ghost",
        )
    owned, batch, _ = problem()
    with pytest.raises(ConfigError, match="does not divide among 3 devices"):
        toys.run(toys.make(level="device", groups=3))(owned, batch, STEP)
    with pytest.raises(ConfigError, match=r"weights for terms \['vt'\]"):
        toys.run(toys.make(weights={"vt": 1.0}))(owned, batch, STEP)
