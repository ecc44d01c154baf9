"""Training the segmentation network: which loss, what moves, and how it is measured."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from toy_segmentation import ToySegmentation, make_toy

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.rng import make_key
from zoo_jax.methods.u_said import segmentation
from zoo_jax.methods.u_said.losses import (
    focal_argmax_loss,
    focal_loss,
    shrink_labels,
)
from zoo_jax.methods.u_said.model import RGB_MEAN
from zoo_jax.methods.u_said.segmentation import SEGMENTATION, network_of, segment
from zoo_jax.methods.u_said.task import make_task
from zoo_jax.train.evaluate import default_evaluator, make_evaluate
from zoo_jax.train.mesh import make_mesh
from zoo_jax.train.step import init_state, make_train_step

K = 3


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setattr(segmentation, "make_segmentation", make_toy)


@pytest.fixture
def batch():
    """Four pictures with masks; one has no labelled pixel at all."""
    rng = np.random.default_rng(0)
    labels = rng.choice(np.array([0, 1, 2, 255]), (4, 16, 20)).astype(np.int32)
    labels[1] = 255
    image = rng.random((4, 16, 20, 3), np.float32)
    return {"image": jnp.asarray(image), "segmentation": jnp.asarray(labels)}


def config(mode, *, freeze=(), **loss):
    return ml_collections.ConfigDict(
        {
            "segmentation": {"num_classes": K},
            "loss": {"mode": mode, **loss},
            "optim": {"name": "sgd", "lr": 0.1, "freeze": list(freeze)},
            "eval": {"valid": {"stream": "valid"}},
        }
    )


def start(cfg, batch):
    task = make_task(cfg, 10)
    return task, jax.jit(lambda batch: init_state(task, make_key(0), batch))(batch)


def forward(state, batch, *, train):
    """Logits of the toy network, without the code under test."""
    image = batch["image"] - np.array(RGB_MEAN, np.float32).reshape(1, 1, 1, 3)
    apply = jax.jit(ToySegmentation(K).apply, static_argnames=("train", "mutable"))
    mutable = ("batch_stats",) if train else ()
    return apply(network_of(state.variables()), image, train=train, mutable=mutable)[0]


def test_the_supervised_term_is_the_focal_loss_of_the_shrunk_masks(batch):
    task, state = start(config("supervised", gamma=1.5), batch)
    terms, aux = jax.jit(task.players[0].loss)(state.params, state, batch, make_key(0))
    logits = forward(state, batch, train=True)
    labels = shrink_labels(batch["segmentation"], 4, 5)
    expected = focal_loss(logits, labels, gamma=1.5)
    np.testing.assert_allclose(terms["segmentation"], expected, rtol=1e-5)
    assert terms["segmentation"][1] == 0
    used = np.bincount(np.argmax(logits, -1).ravel(), minlength=K) / (4 * 4 * 5)
    entropy = -sum(p * np.log(p) for p in used if p)
    assert float(aux.metrics["usage_entropy"]) == pytest.approx(entropy, rel=1e-5)


def test_without_labels_no_mask_is_read(batch):
    task, state = start(config("label_free", batch_statistics=False), batch)
    loss = jax.jit(task.players[0].loss)
    terms, _ = loss(state.params, state, batch, make_key(0))
    unmasked, _ = loss(state.params, state, {"image": batch["image"]}, make_key(0))
    np.testing.assert_array_equal(terms["segmentation"], unmasked["segmentation"])
    logits = forward(state, batch, train=False)
    expected = focal_argmax_loss(logits)
    np.testing.assert_allclose(terms["segmentation"], expected, rtol=1e-5)


@pytest.mark.parametrize("statistics", [True, False])
def test_a_frozen_trunk_stays_and_the_head_learns(batch, statistics):
    cfg = config(
        "label_free", freeze=["segmentation/resnet/*"], batch_statistics=statistics
    )
    task, state = start(cfg, batch)
    step = make_train_step(task)
    new, metrics = jax.jit(step, static_argnames="active")(
        state, {"train": batch}, active=(0,)
    )
    old, params = state.params[SEGMENTATION], new.params[SEGMENTATION]
    jax.tree.map(np.testing.assert_array_equal, old["resnet"], params["resnet"])
    assert (old["classify"]["kernel"] != params["classify"]["kernel"]).any()
    assert "usage_entropy" in metrics
    # Running statistics follow the batches exactly when norms use them.
    kept = [s.model_state[SEGMENTATION]["batch_stats"] for s in (state, new)]
    moved = [
        bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, kept), strict=True)
    ]
    assert all(moved) if statistics else not any(moved)


def test_label_free_training_of_a_head_collapses_and_the_entropy_tells(batch):
    cfg = config("label_free", batch_statistics=False)
    cfg.optim.lr = 2.0
    task, state = start(cfg, batch)
    step = jax.jit(make_train_step(task), static_argnames="active")
    state, first = step(state, {"train": batch}, active=(0,))
    for _ in range(60):
        state, last = step(state, {"train": batch}, active=(0,))
    assert (
        last["segmentation"] < 0.1 * first["segmentation"]
    )  # it is certain of what it says
    assert last["usage_entropy"] < 0.5 * first["usage_entropy"]


class Given:
    """A network with these logits, whatever it sees."""

    def __init__(self, logits):
        self.logits = logits

    def apply(self, variables, images):
        return self.logits


def test_logits_are_resized_like_torch_before_the_decision():
    torch = pytest.importorskip("torch")
    logits = np.random.default_rng(1).normal(size=(2, 3, 4, 5)).astype(np.float32)
    classes = segment(Given(jnp.asarray(logits)), {}, jnp.zeros((2, 11, 15, 3)))
    large = torch.nn.functional.interpolate(
        torch.from_numpy(logits.transpose(0, 3, 1, 2)),
        size=(11, 15),
        mode="bilinear",
        align_corners=False,
    )
    np.testing.assert_array_equal(classes, large.argmax(1).numpy())


def test_measurements_are_those_of_the_whole_stream(batch):
    task, state = start(config("supervised"), batch)
    # Two batches of three: the last two rows are padding, with nonsense in them.
    order = [0, 1, 2, 3, 0, 0]
    padded = {k: np.asarray(v)[order] for k, v in batch.items()} | {
        "mask": np.array([1, 1, 1, 1, 0, 0], np.float32)
    }
    padded["segmentation"][4:] = 0
    batches = [{k: v[i : i + 3] for k, v in padded.items()} for i in (0, 3)]
    evaluate = make_evaluate(task.evaluators["valid"], make_mesh(1))
    found = evaluate(state.variables(), batches)

    seen = np.asarray(task.predict(state.variables(), batch)["segmentation"])
    labels = np.asarray(batch["segmentation"])
    known = labels != 255
    assert found["pixel_accuracy"] == pytest.approx((seen == labels)[known].mean())
    iou = [
        np.sum((seen == k) & (labels == k))
        / np.sum(((seen == k) & known) | (labels == k))
        for k in range(K)
    ]
    assert found["miou"] == pytest.approx(np.mean(iou), rel=1e-6)
    share = np.bincount(seen.ravel(), minlength=K) / seen.size
    entropy = -sum(p * np.log(p) for p in share if p)
    assert found["usage_entropy"] == pytest.approx(entropy, rel=1e-5)
    plain = make_evaluate(default_evaluator(task), make_mesh(1))
    assert set(plain(state.variables(), batches)) == {"pixel_accuracy"}
    # Without masks only the use of classes can be measured.
    for one in batches:
        del one["segmentation"]
    assert set(evaluate(state.variables(), batches)) == {"usage_entropy"}


def test_what_does_not_fit_is_named(batch):
    with pytest.raises(
        ConfigError, match=r"loss\.gamma must be a number from 0, got -1"
    ):
        make_task(config("supervised", gamma=-1), 1)
    with pytest.raises(ConfigError, match=r"unknown key loss\.detach"):
        make_task(config("label_free", detach=True), 1)
    task, state = start(config("supervised"), batch)
    with pytest.raises(ConfigError, match="needs batches with 'segmentation'"):
        task.players[0].loss(
            state.params, state, {"image": batch["image"]}, make_key(0)
        )
