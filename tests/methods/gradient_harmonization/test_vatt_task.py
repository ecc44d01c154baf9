"""Pre-training with harmonized gradients: levels, gates, controls, and bad batches."""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.rng import make_key
from zoo_jax.methods.gradient_harmonization.conflict import state_of
from zoo_jax.methods.gradient_harmonization.controls import (
    gated_gradient,
    kept_at_random,
)
from zoo_jax.methods.gradient_harmonization.task import make_task, step_macs
from zoo_jax.optim.harmonized import Harmonizer
from zoo_jax.task import Aux
from zoo_jax.train.mesh import make_mesh, put_batch, replicated
from zoo_jax.train.step import init_state, make_train_step

B = 8
MODEL = dict(
    name="vatt",
    encoder=[1, 8, 16, 1],
    d_kv=8,
    clip=[2, 8, 8],
    patch=[2, 4, 4],
    sound=[64],
    sound_patch=[16],
    words=3,
    vocabulary=12,
    word_width=4,
    projection=8,
    spaces=[8, 4],
    keep_tokens=1.0,  # the battery of all methods drops tokens
    dropout_rate=0.0,
)


def make_config(**harmonize):
    harmonize = {"level": "none", "chunk": 4, **harmonize}
    return ml_collections.ConfigDict(
        dict(
            steps=4,
            model=MODEL,
            loss=dict(video_audio=1.0, video_text=0.7),
            harmonize=harmonize,
            optim=dict(name="sgd", lr=0.1),
        )
    )


def make_batch(**changes):
    rng = np.random.default_rng(0)
    batch = dict(
        video=rng.integers(0, 256, (B, 2, 8, 8, 3)).astype(np.uint8),
        audio=rng.uniform(-1, 1, (B, 64)).astype(np.float32),
        text=rng.integers(1, 12, (B, 2, 3)).astype(np.int32),
        text_mask=np.array([1, 1, 0, 1, 1, 1, 0, 1], np.float32),
        wrong_audio=np.array([0, 1, 0, 0, 0, 0, 0, 0], np.float32),
        wrong_text=np.array([0, 0, 0, 0, 1, 0, 0, 0], np.float32),
    )
    return batch | changes


@functools.cache
def compiled(devices=1, **harmonize):
    """A function of a batch to (gradients, metrics, state after one step), and its start."""
    harmonize = {
        k: dict(v) if isinstance(v, tuple) else v for k, v in harmonize.items()
    }
    task = make_task(make_config(**harmonize), 4)
    mesh = make_mesh(devices)
    state = jax.jit(
        lambda key: init_state(task, key, make_batch()), out_shardings=replicated(mesh)
    )(make_key(0))
    step = jax.jit(make_train_step(task), static_argnames="active")

    def run(batch):
        new, metrics = step(state, {"train": put_batch(batch, mesh)}, active=(0,))
        # Plain descent of rate 0.1: its step is the gradient.
        moved = jax.tree.map(lambda a, b: (a - b) / 0.1, state.params, new.params)
        return jax.device_get((moved, metrics, new.skipped))

    return run


def gap(a, b):
    """Largest difference, relative to the largest gradient."""
    gaps = jax.tree.map(lambda x, y: np.abs(x - y).max(), a, b)
    return max(jax.tree.leaves(gaps)) / max(np.abs(x).max() for x in jax.tree.leaves(b))


def assert_close(a, b):
    # The gradients of examples are about that of the batch, and rounding is that of their sum.
    assert gap(a, b) < 1e-4


def differ(a, b):
    return gap(a, b) > 1e-2


@pytest.mark.slow  # compiles long
def test_without_gate_and_rule_every_level_is_plain_training():
    plain = compiled()(make_batch())[0]
    assert_close(compiled(level="triplet", rule="none")(make_batch())[0], plain)


def test_devices_agree_on_whole_batches_and_the_device_level_differs():
    batch = make_batch()
    whole = compiled(level="batch")(batch)[0]
    assert differ(whole, compiled()(batch)[0])  # the two losses conflict here
    assert_close(compiled(devices=8, level="batch")(batch)[0], whole)
    assert differ(compiled(devices=8, level="device", groups=4)(batch)[0], whole)


@pytest.mark.slow  # compiles long
@pytest.mark.parametrize("statistics", ["two_pass", "ghost"])
def test_devices_agree_on_triplets(statistics):
    batch, options = make_batch(), dict(level="triplet", statistics=statistics)
    alone = compiled(**options)(batch)[0]
    assert_close(compiled(devices=8, **options)(batch)[0], alone)


GATE = dict(level="triplet", gate=(("by", "cosine"), ("gamma", 0.99)))


def test_a_batch_without_text_trains_on_sound_alone_and_keeps_everything():
    silent = make_batch(text_mask=np.zeros(B, np.float32))
    moved, metrics, skipped = compiled(**GATE)(silent)
    assert skipped == 0
    assert metrics["video_text"] == 0
    assert metrics["kept"] == B
    assert metrics["conflict"] == 0  # no pair to speak of
    assert not np.any(moved["heads"]["txt_to_vat"]["kernel"])
    assert_close(moved, compiled()(silent)[0])


@pytest.mark.slow  # compiles long
def test_a_gate_that_drops_all_leaves_the_parameters_alone():
    moved, metrics, skipped = compiled(**GATE)(
        make_batch(text_mask=np.ones(B, np.float32))
    )
    assert metrics["dropped"] == B
    assert skipped == 0
    assert not any(np.any(x) for x in jax.tree.leaves(moved))


def test_a_nan_in_one_triplet_is_dropped_counted_and_poisons_nothing():
    audio = make_batch()["audio"].copy()
    audio[3, 5] = np.nan
    silent = make_batch(audio=audio, text_mask=np.zeros(B, np.float32))
    moved, metrics, skipped = compiled(**GATE)(silent)
    assert skipped == 0
    assert metrics["nonfinite"] == 1
    assert metrics["kept"] == B - 1
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(moved))
    assert np.any(moved["backbone"]["video_stem"]["patch"]["project"]["kernel"])


def toy(by, **batch):
    """Gradients of a bilinear toy whose loss has a closed form, with examples dropped."""

    def heads(rest, features, state, batch, key):
        del state, key
        z = features["video"] * rest["heads"][None]
        # Each example's term reads all features, as contrastive terms do.
        term = z * batch["text_mask"] * jnp.sum(z)
        return {"only": term}, Aux({}, {})

    harmonizer = Harmonizer(
        towers={"video": lambda p, x, key: p * x["x"]},
        heads=heads,
        weights={"only": 3.0},
    )
    owned = {"backbone": jnp.array(2.0), "heads": jnp.array(5.0)}
    batch = {k: jnp.asarray(v) for k, v in batch.items()}
    state = state_of({"params": owned, "model_state": {}})
    return gated_gradient(
        harmonizer, owned, state, batch, make_key(0), by=by, quantile=0.5
    )


@pytest.mark.slow  # compiles long
def test_the_oracle_drops_what_is_wrong_as_the_formula_says():
    x, wrong = np.array([1.0, -2.0, 0.5, 3.0]), np.array([0, 1, 0, 0])
    grads, terms, aux = toy("oracle", x=x, text_mask=np.ones(4), wrong_text=wrong)
    np.testing.assert_allclose(terms["only"], 100 * x * x.sum())
    assert (aux.metrics["kept"], aux.metrics["dropped"]) == (3, 1)
    keep = 1 - wrong
    # L = 3/4 w^2 (sum_i p x_i)^2, p = 2, w = 5. Of dL/dp the shares of the kept x_i, times 4 / 3.
    share = 0.75 * 25 * 2 * (2 * x).sum() * x
    np.testing.assert_allclose(
        grads["backbone"], (share * keep).sum() * 4 / 3, rtol=1e-5
    )
    own = 0.75 * 2 * 5 * 4 * x * x.sum()
    np.testing.assert_allclose(grads["heads"], (own * keep).sum() * 4 / 3, rtol=1e-5)


@pytest.mark.slow  # compiles long
def test_the_oracle_without_wrong_partners_is_plain_and_with_all_wrong_is_nothing():
    x = np.array([1.0, -2.0, 0.5, 3.0])
    plain = toy("oracle", x=x, text_mask=np.ones(4), wrong_audio=np.zeros(4))[0]
    np.testing.assert_allclose(
        plain["backbone"], 3 / 4 * 25 * 4 * x.sum() ** 2, rtol=1e-5
    )
    nothing = toy("oracle", x=x, text_mask=np.ones(4), wrong_audio=np.ones(4))[0]
    assert nothing["backbone"] == nothing["heads"] == 0


@pytest.mark.slow  # compiles long
def test_random_drop_drops_as_many_as_the_quantile_says_among_those_with_text():
    has = jnp.array([1, 1, 0, 1, 1, 1, 0, 1]) > 0
    counts = []
    for seed in range(20):
        keep = kept_at_random(jax.random.key(seed), has, 0.5)
        assert keep[~has].all()
        counts.append(int(has.sum() - keep[has].sum()))
    assert set(counts) == {3}
    patterns = {
        tuple(kept_at_random(jax.random.key(seed), has, 0.5).tolist())
        for seed in range(20)
    }
    assert len(patterns) > 5


@pytest.mark.slow  # compiles long
def test_windows_are_embedded_like_clips_of_their_own():
    task = make_task(make_config(), 4)
    batch = make_batch()
    variables = jax.jit(lambda k: task.init(k, batch))(make_key(0))
    one = task.predict(variables, batch)
    stacked = {
        **batch,
        "video": np.stack([batch["video"], batch["video"][::-1]], axis=1),
        "audio": batch["audio"][:, None],
    }
    two = task.predict(variables, stacked)
    np.testing.assert_allclose(two["video_text"][:, 0], one["video_text"], atol=1e-5)
    np.testing.assert_allclose(
        two["video_text"][:, 1], one["video_text"][::-1], atol=1e-5
    )
    np.testing.assert_allclose(two["audio"][:, 0], one["audio"], atol=1e-5)


@pytest.mark.slow  # compiles long
def test_harmonizing_costs_more_multiply_adds_than_plain_training():
    shapes = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in make_batch().items()
    }
    plain = step_macs(make_config(), shapes)
    embedding = step_macs(make_config(level="embedding"), shapes)
    triplet = step_macs(make_config(level="triplet"), shapes)
    assert plain < embedding < triplet < 4 * plain


@pytest.mark.parametrize(
    ("harmonize", "match"),
    [
        (dict(level="clip"), "harmonize.level='clip'"),
        (dict(gate=dict(by="luck", quantile=0.1)), "gate.by='luck'"),
        (dict(gate=dict(by="cosine", quantile=0.1)), "needs a level"),
        (dict(level="triplet", gate=dict(by="cosine")), "takes gamma or quantile"),
        (dict(gate=dict(by="random", gamma=0.1)), "takes quantile"),
        (dict(level="batch", gate=dict(by="oracle")), "a control of plain"),
        (dict(levels="batch"), "unknown key harmonize.levels"),
    ],
)
def test_sections_that_do_not_fit_are_named(harmonize, match):
    with pytest.raises(ConfigError, match=match):
        make_task(make_config(**harmonize), 4)


def test_the_oracle_needs_batches_that_say_what_is_wrong():
    task = make_task(make_config(gate=dict(by="oracle")), 4)
    batch = make_batch()
    del batch["wrong_audio"], batch["wrong_text"]
    with pytest.raises(ConfigError, match="mispaired"):
        jax.eval_shape(
            lambda key: make_train_step(task)(
                init_state(task, key, batch), {"train": batch}, (0,)
            ),
            make_key(0),
        )
