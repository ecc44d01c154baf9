"""Training SRNet: its terms by hand, what the frozen networks pass on, and what is refused."""

import functools
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.rng import make_key
from zoo_jax.core.tree import named_leaves
from zoo_jax.methods.ug2.frozen import Frozen, make_recogniser_judge, vgg16_judge
from zoo_jax.methods.ug2.losses import class_loss, feature_loss
from zoo_jax.methods.ug2.model import make_network, make_small_cnn
from zoo_jax.methods.ug2.task import make_task
from zoo_jax.nn.vgg import Vgg19Features
from zoo_jax.train.step import init_state, make_train_step

ROOT = pathlib.Path(__file__).resolve().parents[3]
GROUPS = [[0, 2], [1], [2, 3]]  # classes 2 twice, 4 never


def load(arg="", **loss):
    path = ROOT / "experiments" / "configs" / "ug2" / "srnet.py"
    spec = importlib.util.spec_from_file_location("srnet", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(f"tiny,{arg}" if arg else "tiny")
    config.recogniser.num_classes = 5
    if config.loss:
        config.loss.groups = GROUPS
    config.loss.update(loss)
    return config


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    sharp = rng.random((4, 12, 16, 3), np.float32)
    image = (sharp + np.roll(sharp, 1, 2)) / 2
    label = np.array([2, 0, 4, 1], np.int32)
    return {
        k: jnp.asarray(v)
        for k, v in dict(image=image, sharp=sharp, label=label).items()
    }


@pytest.fixture(scope="module")
def start(batch):
    """A task with its first state and what its loss gives, compiled once per form."""

    @functools.cache
    def build(arg="", **loss):
        task = make_task(load(arg, **loss), 20)
        state = jax.jit(lambda key: init_state(task, key, batch))(make_key(1))
        player = task.players[-1]
        owned = {"restorer": state.params["restorer"]}

        def total(owned, state):
            terms, aux = player.loss(owned, state, batch, None)
            means = {name: jnp.mean(term) for name, term in terms.items()}
            return sum(player.weights[n] * m for n, m in means.items()), (terms, aux)

        run = jax.jit(jax.value_and_grad(total, has_aux=True))
        (_, (terms, _)), grads = run(owned, state)
        return task, state, terms, grads

    return build


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_both_terms_are_what_the_frozen_network_says_of_output_and_truth(start, batch):
    task, state, terms, _ = start()
    assert set(terms) == {"perceptual", "class"}
    assert task.players[0].weights == {"perceptual": 1.0, "class": 1.0}
    module, judge = make_network(load().model), make_small_cnn(plain_recogniser())
    own = {"params": state.params["restorer"], **state.model_state["restorer"]}
    frozen = {"params": state.params["recogniser"], **state.model_state["recogniser"]}

    @jax.jit
    def run(own, frozen):
        image, _ = module.apply(
            own, batch["image"], train=True, mutable=["batch_stats"]
        )
        return judge.apply(frozen, image), judge.apply(frozen, batch["sharp"])

    (logits, seen), (_, wanted) = run(own, frozen)
    perceptual = np.square(np.asarray(seen) - wanted).mean((1, 2, 3))
    np.testing.assert_allclose(terms["perceptual"], perceptual, rtol=1e-4)
    p = softmax(np.asarray(logits, np.float64))
    expected = []
    for i, label in enumerate(batch["label"].tolist()):
        errors = [
            (sum(p[i, j] for j in group) - (label in group)) ** 2 for group in GROUPS
        ]
        expected.append(np.mean(errors))
    np.testing.assert_allclose(terms["class"], expected, rtol=1e-4)


def plain_recogniser():
    options = dict(load().recogniser)
    options.pop("name")
    return options


def test_gradients_reach_the_restorer_and_the_frozen_recogniser_stays(start, batch):
    task, state, _, grads = start()
    for name, grad in named_leaves(grads).items():
        assert np.isfinite(grad).all(), name
        assert np.abs(grad).max() > 0, name
    step = jax.jit(make_train_step(task), static_argnames="active")
    after, _ = step(state, {"train": batch}, active=(0,))
    for kind in ("params", "model_state"):
        before, moved = (
            named_leaves(getattr(s, kind)["recogniser"]) for s in (state, after)
        )
        for name in before:
            np.testing.assert_array_equal(before[name], moved[name], err_msg=name)
    old, new = (named_leaves(s.params["restorer"]) for s in (state, after))
    assert all((old[name] != new[name]).any() for name in old)


def abstract_terms(task, batch):
    """Shapes of the terms of the restorer's loss, without computing any."""
    state = jax.eval_shape(lambda key: init_state(task, key, batch), make_key(0))
    owned = {"restorer": state.params["restorer"]}
    player = task.players[-1]
    terms, _ = jax.eval_shape(lambda o, s: player.loss(o, s, batch, None), owned, state)
    return state, {name: term.shape for name, term in terms.items()}


def test_an_arm_without_the_class_term_does_not_look_at_labels(batch):
    without = {k: v for k, v in batch.items() if k != "label"}
    _, shapes = abstract_terms(make_task(load("arm=perceptual"), 20), without)
    assert shapes == {"perceptual": (4,)}


def test_a_critic_plays_against_the_restorer(batch):
    task = make_task(load("arm=adversarial"), 20)
    assert [p.name for p in task.players] == ["critic", "restorer"]
    assert task.players[1].weights == {"perceptual": 1.0, "adversarial": 0.01}
    state = jax.jit(lambda key: init_state(task, key, batch))(make_key(1))
    step = jax.jit(make_train_step(task), static_argnames="active")
    after, metrics = step(state, {"train": batch}, active=(0, 1))
    assert int(metrics["skipped"]) == 0
    for network in ("critic", "restorer"):
        old, new = (named_leaves(s.params[network]) for s in (state, after))
        assert all((old[name] != new[name]).any() for name in old), network


def test_predictions_have_the_histograms_of_their_input_and_are_counted(start, batch):
    task, state, *_ = start()
    out = jax.jit(task.predict)(state.variables(), batch)
    for c in range(3):
        np.testing.assert_array_equal(
            np.sort(np.asarray(out["restored"])[1, ..., c].ravel()),
            np.sort(np.asarray(batch["image"])[1, ..., c].ravel()),
        )
    found = task.metrics(out, {**batch, "mask": jnp.array([1.0, 1, 1, 0])})
    best = np.asarray(out["probabilities"]).argmax(1)
    right = [
        any(guess in g and label in g for g in GROUPS)
        for guess, label in zip(best, batch["label"].tolist(), strict=True)
    ]
    assert float(found["accuracy"].total) == sum(right[:3])
    assert float(found["accuracy"].count) == 3


def test_any_frozen_network_can_judge(batch):
    variables = {"params": {"scale": jnp.float32(2.0)}}
    edges = Frozen(
        lambda key: variables,
        features=lambda v, x: v["params"]["scale"] * (x[:, 1:] - x[:, :-1]),
    )
    config = load("arm=perceptual")
    config.recogniser = {}
    config.loss.features = "none"
    task = make_task(config, 10, features=edges)
    state, shapes = abstract_terms(task, batch)
    assert set(state.params) == {"restorer", "features"}
    assert shapes == {"perceptual": (4,)}


def test_published_judges_see_what_the_config_says(tmp_path):
    """VGG-16's features behind the ReLU of conv2_2, with and without ImageNet's units."""
    module = Vgg19Features("conv2_2")
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    rng = np.random.default_rng(0)
    arrays = {}
    for name, number in (
        ("conv1_1", 0),
        ("conv1_2", 2),
        ("conv2_1", 5),
        ("conv2_2", 7),
    ):
        h, w, c, d = shapes["params"][name]["kernel"].shape
        kernel = rng.normal(0, (2 / (9 * c)) ** 0.5, (d, c, h, w))
        arrays[f"features.{number}.weight"] = kernel.astype(np.float32)
        arrays[f"features.{number}.bias"] = rng.normal(size=d).astype(np.float32)
    arrays["features.10.weight"] = np.zeros(1, np.float32)  # deeper layers, not needed
    arrays["classifier.6.bias"] = np.zeros(1, np.float32)
    np.savez(tmp_path / "vgg16.npz", **arrays)
    x = jnp.asarray(rng.random((1, 8, 8, 3), np.float32))
    published, own = (
        vgg16_judge(tmp_path / "vgg16.npz", own_units=u) for u in (False, True)
    )
    variables = published.init(make_key(0))
    raw = module.apply(variables, x)
    assert raw.shape == (1, 4, 4, 128)
    np.testing.assert_allclose(
        published.features(variables, x), np.maximum(raw, 0), atol=1e-5
    )
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    units = jnp.asarray((np.asarray(x) - mean) / std, jnp.float32)
    np.testing.assert_allclose(
        own.features(variables, x), published.features(variables, units), atol=2e-4
    )


def test_the_losses_are_zero_for_what_is_right():
    x = jnp.ones((2, 3, 4, 5))
    np.testing.assert_array_equal(feature_loss(x, x), 0)
    sure = jnp.array([[0.0, 0.0, 1.0, 0.0]])
    members = jnp.array([[1.0, 0, 1, 0], [0, 1, 0, 0]])
    assert float(class_loss(sure, members, jnp.array([[1.0, 0]]))[0]) == 0
    assert float(class_loss(sure, members, jnp.array([[0.0, 1]]))[0]) == 1


def test_the_small_recogniser_learns_made_up_classes():
    config = load("stage=recogniser")
    task = make_task(config, 15)
    x = jnp.asarray(np.eye(5, 3, dtype=np.float32)).reshape(5, 1, 1, 3)
    rows = {"image": x * jnp.ones((1, 8, 8, 1)), "label": jnp.arange(5)}
    rows = {k: v[:4] for k, v in rows.items()}
    state = jax.jit(lambda key: init_state(task, key, rows))(make_key(0))
    step = jax.jit(make_train_step(task), static_argnames="active")
    losses = []
    for _ in range(15):
        state, metrics = step(state, {"train": rows}, active=(0,))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.5 * losses[0]
    assert set(state.params) == {"recogniser"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss.perceptual": -1}, "loss.perceptual must be a number from 0, got -1"),
        ({"loss.features": "vgg"}, "unknown loss.features 'vgg': did you mean 'vgg16'"),
        ({"loss.features": "vgg16"}, "needs loss.vgg16"),
        ({"loss.features": "none"}, "loss.perceptual needs loss.features"),
        ({"loss.label": "fine"}, "unknown loss.label 'fine'"),
        ({"loss.game": "wgan_gp"}, "unknown loss.game 'wgan_gp'"),
        ({"loss.typo": 1}, "unknown key loss.typo"),
        ({"loss.perceptual": 0, "loss.class": 0}, "all four weights are 0"),
        ({"loss.map": "map.txt"}, "loss.groups and loss.map say the same"),
        ({"recogniser": {}}, "loss.class needs a recogniser"),
        ({"recogniser": {"name": "vgg16"}}, "recogniser vgg16 needs weights"),
        ({"recogniser": {"name": "vgg17"}}, "unknown recogniser.name 'vgg17'"),
        ({"model.name": "srnett"}, "unknown model.name 'srnett': did you mean 'srnet'"),
        ({"model.start": "zeros"}, "unknown start 'zeros'"),
        ({"model.blocks": 0}, "blocks must be at least 1"),
    ],
)
def test_bad_configs_are_one_clear_line(changes, message):
    config = load()
    with config.unlocked():
        for key, value in changes.items():
            section, _, name = key.partition(".")
            if name:
                config[section][name] = value
            else:
                config[section] = value
    with pytest.raises(ConfigError, match=message):
        make_task(config, 10)


def test_more_groups_than_classes_are_refused(batch):
    config = load()
    config.loss.groups = [[0], [7]]
    task = make_task(config, 10)

    def measure(key):
        return task.metrics(task.predict(task.init(key, batch), batch), batch)

    with pytest.raises(ConfigError, match="name 8 classes, the recogniser has 5"):
        jax.eval_shape(measure, make_key(0))


def test_a_recogniser_section_takes_no_foreign_keys():
    with pytest.raises(ConfigError, match="takes weights and size"):
        make_recogniser_judge(dict(name="vgg16", weights="x", width=3), own_units=False)
