"""Training: what reaches the denoiser from the frozen network, and what must not change."""

import functools
import importlib.util
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.rng import make_key, step_key
from zoo_jax.data.degrade import gaussian_noise
from zoo_jax.methods.u_said.losses import focal_argmax_loss
from zoo_jax.methods.u_said.model import DnCNN, build_dncnn
from zoo_jax.methods.u_said.task import make_task, restore
from zoo_jax.train.step import init_state, make_train_step

ROOT = pathlib.Path(__file__).resolve().parents[3]
SEED = 3


def load(arg, **loss):
    path = ROOT / "experiments" / "configs" / "u_said" / "photos.py"
    spec = importlib.util.spec_from_file_location("photos", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(f"tiny,{arg}" if arg else "tiny")
    config.loss.update(loss)
    return config


@pytest.fixture(scope="module")
def batch():
    """Four images, half of each saturated, with masks."""
    rng = np.random.default_rng(0)
    image = rng.random((4, 16, 20, 3), np.float32)
    image[:, :, 10:] = np.round(image[:, :, 10:])
    labels = rng.integers(0, 5, (4, 16, 20)).astype(np.int32)
    labels[0], labels[1, :8] = 255, 255
    return {"image": jnp.asarray(image), "segmentation": jnp.asarray(labels)}


class Start:
    """A task with its first state, and gradients at the first step, compiled once per form."""

    def __init__(self, config, batch):
        self.task, self.batch = make_task(config, 20), batch
        self.player = self.task.players[0]
        self.state = jax.jit(lambda key: init_state(self.task, key, batch))(
            make_key(SEED)
        )
        self.owned = {"denoiser": self.state.params["denoiser"]}

    @functools.cached_property
    def gradients(self):
        """Of the segmentation term alone (where there is one), and of the weighted sum."""

        def terms(owned, state):
            found, _ = self.player.loss(
                owned, state, self.batch, step_key(state.key, 0)
            )
            total = sum(self.player.weights[n] * jnp.mean(t) for n, t in found.items())
            return jnp.stack([jnp.mean(found.get("segmentation", 0.0)), total])

        def both(owned, state):
            _, pullback = jax.vjp(lambda owned: terms(owned, state), owned)
            return jax.vmap(pullback)(jnp.eye(2))[0]

        both = jax.jit(both)(self.owned, self.state)
        return [jax.tree.map(lambda g, i=i: np.asarray(g[i]), both) for i in range(2)]


@pytest.fixture(scope="module")
def start(batch):
    """Remembers what was built: a network of thirty convolutions takes long to compile."""
    built = {}

    def get(arg, **loss):
        key = (arg, *sorted(loss.items()))
        if key not in built:
            built[key] = Start(load(arg, **loss), batch)
        return built[key]

    return get


def largest(tree):
    return max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    "options",
    [{}, {"uncertainty": "entropy"}, {"mode": "s_said"}, {"batch_statistics": True}],
    ids=str,
)
def test_the_segmentation_term_reaches_every_leaf(start, options):
    grads, _ = start("stage=finetune", **options).gradients
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))


def test_forms_of_the_term_are_different_terms(start):
    plain = start("stage=finetune").gradients[0]
    for options in ({"uncertainty": "entropy"}, {"mode": "s_said"}):
        other = start("stage=finetune", **options).gradients[0]
        ratio = largest(jax.tree.map(np.subtract, plain, other)) / largest(plain)
        assert ratio > 0.05, options
    batch_statistics = start("stage=finetune", batch_statistics=True).gradients[0]
    difference = largest(jax.tree.map(np.subtract, plain, batch_statistics))
    assert difference > 0.01 * largest(plain)


def test_the_published_script_gives_the_term_no_gradient(start):
    """Detached as there, no weight hears of it, and plain training at half the loss is left."""
    nothing, detached = start("stage=finetune,arm=detached").gradients
    assert largest(nothing) == 0.0
    _, plain = start("", denoising=0.5).gradients
    # The same operations among fewer others: XLA may fuse and round them otherwise.
    chex.assert_trees_all_close(plain, detached, rtol=1e-4, atol=1e-4 * largest(plain))
    _, attached = start("stage=finetune").gradients
    assert largest(jax.tree.map(np.subtract, plain, attached)) > 1e-3 * largest(plain)


def test_saturated_pixels_pass_exactly_no_gradient():
    key = jax.random.key(0)
    noisy = 0.5 + jax.random.normal(key, (2, 6, 7, 3))
    estimate = 0.3 * jax.random.normal(jax.random.key(1), noisy.shape)
    head = jax.random.normal(jax.random.key(2), (3, 5))
    grad = jax.grad(lambda r: focal_argmax_loss(restore(noisy, r) @ head).sum())(
        estimate
    )
    raw = noisy - estimate
    saturated = (raw < 0) | (raw > 1)
    assert 0 < saturated.sum() < saturated.size
    assert np.abs(np.asarray(grad)[saturated]).max() == 0.0
    assert (np.abs(np.asarray(grad)[~saturated]) > 0).all()


def test_frozen_network_and_its_statistics_never_change(start, batch):
    # The harder case: the network runs in training mode.
    begun = start("stage=finetune", batch_statistics=True)
    state = begun.state
    before = jax.device_get((state.params, state.model_state))
    step = jax.jit(make_train_step(begun.task), static_argnames="active")
    for _ in range(3):
        state, metrics = step(state, {"train": batch}, active=(0,))
    after = jax.device_get((state.params, state.model_state))
    for old, new in zip(before, after, strict=True):
        chex.assert_trees_all_equal(old["segmentation"], new["segmentation"])
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), old, new)
        assert all(jax.tree.leaves(moved["denoiser"]))
    assert int(metrics["skipped"]) == 0
    assert "segmentation" not in state.opt_state


def test_terms_are_those_of_the_document(start, batch):
    begun, key = start("stage=finetune"), jax.random.key(7)
    terms, aux = jax.jit(begun.player.loss)(begun.owned, begun.state, batch, key)
    noise, level = gaussian_noise(key, batch["image"].shape, sigma=(25.0, 25.0))
    assert (np.asarray(level) == 25).all()
    noisy = batch["image"] + noise
    variables = {
        "params": begun.owned["denoiser"],
        **begun.state.model_state["denoiser"],
    }
    module = build_dncnn(depth=4, features=6)
    estimate, _ = jax.jit(
        lambda v, x: module.apply(v, x, train=True, mutable=["batch_stats"])
    )(variables, noisy)
    error = np.asarray(noisy - estimate - batch["image"], np.float64)
    # Half the squared error of the unclipped image: the loss before clipping.
    expected = 0.5 * np.square(error).sum((1, 2, 3))
    np.testing.assert_allclose(terms["denoising"], expected, rtol=1e-4)
    assert begun.player.weights == {"denoising": 0.5, "segmentation": 0.5}
    # Never above that of indifference between five classes.
    assert terms["segmentation"].shape == (4,)
    assert (np.asarray(terms["segmentation"]) < 1.0301).all()
    assert (np.asarray(terms["segmentation"]) > 0).all()
    assert float(aux.metrics["psnr"]) == pytest.approx(20.2, abs=1.5)


def test_no_noise_at_all_is_legal(batch):
    config = load("")
    config.noise.sigma = [0.0, 0.0]
    _, grads = Start(config, batch).gradients
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_prediction_takes_the_noisy_image_and_measures_against_the_clean_one(
    start, batch
):
    begun = start("", denoising=0.5)
    task, state = begun.task, begun.state
    noisy = batch["image"] + 0.1 * jax.random.normal(jax.random.key(0), (4, 16, 20, 3))
    params = jax.tree.map(jnp.zeros_like, state.params)  # estimates no noise
    variables = {"params": params, "model_state": state.model_state}
    outputs = task.predict(variables, {**batch, "noisy": noisy})
    np.testing.assert_array_equal(outputs["denoised"], jnp.clip(noisy, 0, 1))
    found = task.metrics(outputs, {**batch, "noisy": noisy})
    error = np.square(np.asarray(outputs["denoised"] - batch["image"], np.float64))
    expected = (-10 * np.log10(error.mean((1, 2, 3)))).sum()
    assert float(found["psnr"].total) == pytest.approx(expected, rel=1e-5)
    assert float(found["psnr_noisy"].total) < float(found["psnr"].total)
    assert set(found) == {"psnr", "psnr_noisy", "ssim"}


def test_denoiser_does_not_know_where_it_is():
    module = DnCNN(depth=4, features=5)
    image = jax.random.normal(jax.random.key(0), (1, 24, 26, 3))
    variables = jax.jit(module.init)(jax.random.key(1), image)
    run = jax.jit(module.apply)
    whole, part = (run(variables, x) for x in (image, image[:, 3:, 5:]))
    rim = 4  # one pixel per convolution
    np.testing.assert_allclose(
        whole[:, 3 + rim : -rim, 5 + rim : -rim],
        part[:, rim:-rim, rim:-rim],
        atol=1e-6,
    )


def test_masks_are_asked_for_by_name(start, batch):
    begun = start("stage=finetune", mode="s_said")
    images = {"image": batch["image"]}
    with pytest.raises(ConfigError, match="'s_said' needs batches with 'segmentation'"):
        jax.eval_shape(
            begun.player.loss, begun.owned, begun.state, images, jax.random.key(0)
        )


@pytest.mark.parametrize(
    ("section", "value", "match"),
    [
        (
            "loss",
            dict(mode="usaid"),
            "unknown loss.mode 'usaid': did you mean 'u_said'",
        ),
        ("loss", dict(mode="plain", weight=1), "unknown key loss.weight"),
        ("loss", dict(mode="u_said", gamma=-1), "loss.gamma must be a number .* -1"),
        ("loss", dict(mode="u_said", uncertainty="x"), "unknown loss.uncertainty 'x'"),
        ("noise", dict(sigma=[30, 20]), r"within 0..255, got \[30, 20\]"),
        ("noise", dict(), "within 0..255, got None"),
        ("model", dict(name="dncn"), "unknown model.name 'dncn': did you mean 'dncnn'"),
        ("model", dict(name="dncnn", depth=2), "3 or more, got depth=2"),
        ("model", dict(name="dncnn", dtype="int8"), "model.dtype must be .* 'int8'"),
        ("segmentation", dict(num_classes=1), "2 or more, got num_classes=1"),
        ("segmentation", dict(blocks=[1, 2]), r"four numbers, got blocks=\(1, 2\)"),
        ("segmentation", dict(head_std=0.0), "above 0, got head_std=0.0"),
        ("segmentation", dict(classes=3), "unknown key segmentation.classes"),
    ],
)
def test_sections_that_do_not_fit_are_named(section, value, match):
    config = load("stage=finetune")
    with config.unlocked():
        config[section] = value
    with pytest.raises(ConfigError, match=match):
        make_task(config, 2)
