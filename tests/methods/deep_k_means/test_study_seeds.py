"""Training of several seeds at once: equal to training one, on the batches that it says."""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from zoo_jax.core.tree import named_leaves
from zoo_jax.methods.deep_k_means import study_seeds
from zoo_jax.methods.deep_k_means.model import make_module
from zoo_jax.methods.deep_k_means.norms import norm_estimator
from zoo_jax.methods.deep_k_means.study_seeds import Data, Schedule
from zoo_jax.methods.deep_k_means.task import make_task
from zoo_jax.metrics.classification import negative_log_likelihood

pytestmark = pytest.mark.slow  # trains and compiles for a minute

SEEDS = 3
MODEL = dict(
    name="digits_cnn",
    widths=[4, 6],
    strides=[1, 2],
    convolution="matmul",
    dtype="float32",
)


@pytest.fixture(scope="module")
def data():
    image = jax.random.uniform(jax.random.key(0), (23, 5, 6, 1))
    return Data(image, jnp.arange(23) % 10)


def task_of(**optim):
    optim = dict(name="sgd", lr=0.05, momentum=0.9) | optim
    config = ml_collections.ConfigDict(dict(model=MODEL, loss={}, seed=0, optim=optim))
    return make_task(config, 7)


KMEANS = dict(
    layers=[dict(path="network/conv2/kernel", num_clusters=3)],
    strength=0.5,
    relaxation="labels",
    refresh_every=3,
)


@pytest.fixture(scope="module")
def alone(data):
    """(training of one seed, its arguments by seed, its results by seed)."""
    task, schedule = task_of(kmeans=KMEANS), Schedule(7, 4, 1)

    def run(data, key, batches):
        variables = task.init(key, {"image": data.image[:1]})
        return study_seeds.train(task, data, variables, key, batches, 1)

    keys = jax.random.split(jax.random.key(5), SEEDS)
    drawn = [study_seeds.draw_batches(s, "train", 23, schedule) for s in range(SEEDS)]
    compiled = jax.jit(run)
    results = [compiled(data, *args) for args in zip(keys, drawn, strict=True)]
    return run, (keys, study_seeds.stack(drawn)), results


@pytest.mark.parametrize("at_once", [1, SEEDS])
def test_a_seed_among_others_trains_as_alone(data, alone, at_once):
    run, args, results = alone
    together = study_seeds.over_seeds(run, at_once)(data, *args)
    assert len(results) == SEEDS
    for i, result in enumerate(results):
        expected = named_leaves(result)
        for name, value in named_leaves(together).items():
            np.testing.assert_allclose(
                value[i], expected[name], rtol=1e-4, atol=2e-5, err_msg=name
            )
    kernels = together[0]["params"]["network"]["conv2"]["kernel"]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.1


def test_training_is_gradient_descent_on_the_drawn_batches(data):
    key, schedule, lr = jax.random.key(3), Schedule(4, 5, 1), 0.05
    task = task_of(momentum=0.0)
    variables = task.init(key, {"image": data.image[:1]})
    batches = study_seeds.draw_batches(3, "train", 23, schedule)
    train = jax.jit(lambda *args: study_seeds.train(task, *args, 1))
    trained, loss = train(data, variables, key, batches)

    module = make_module(MODEL)
    params = variables["params"]["network"]
    state = variables["model_state"]["network"]

    @jax.jit
    def by_hand(params, state, image, label):
        def objective(p):
            logits, new = module.apply(
                {"params": p, **state}, image, train=True, mutable=["batch_stats"]
            )
            return jnp.mean(negative_log_likelihood(logits, label)), new

        (value, new), g = jax.value_and_grad(objective, has_aux=True)(params)
        return jax.tree.map(lambda p, d: p - lr * d, params, g), new, value

    padded = np.pad(np.asarray(data.image), ((0, 0), (1, 1), (1, 1), (0, 0)))
    for index, corner in zip(*batches, strict=True):
        crops = zip(index, corner, strict=True)
        image = np.stack([padded[i, y : y + 5, x : x + 6] for i, (y, x) in crops])
        params, state, value = by_hand(params, state, image, data.label[index])
    expected = {"params": {"network": params}, "model_state": {"network": state}}
    found = named_leaves(trained)
    for name, leaf in named_leaves(expected).items():
        np.testing.assert_allclose(found[name], leaf, atol=2e-5, err_msg=name)
    assert float(loss) == pytest.approx(float(value), abs=1e-4)  # the last tenth: 1


def test_every_epoch_has_all_examples_in_an_order_of_its_own():
    order = study_seeds.draw_batches(1, "train", 10, Schedule(6, 4)).index
    assert order.shape == (6, 4)
    flat = order.ravel()
    first, second, rest = flat[:10], flat[10:20], flat[20:]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first.tolist() != second.tolist()
    assert len(set(rest.tolist())) == 4


def test_batches_follow_from_seed_and_phase():
    def draw(seed, phase):
        return study_seeds.draw_batches(seed, phase, 10, Schedule(3, 4, 2))

    first = draw(1, "train")
    for other, same in (
        (draw(1, "train"), True),
        (draw(2, "train"), False),
        (draw(1, "norms"), False),
    ):
        assert np.array_equal(first.index, other.index) == same
        assert np.array_equal(first.corner, other.corner) == same


def test_shifts_reach_every_offset_and_no_further():
    corners = study_seeds.draw_batches(1, "train", 9, Schedule(40, 5, 2)).corner
    assert corners.shape == (40, 5, 2)
    assert np.unique(corners).tolist() == [0, 1, 2, 3, 4]
    image = jnp.arange(1.0, 13.0).reshape(1, 3, 4, 1)
    data = Data(image, jnp.array([7]))
    # The corner is one of the padded image: (1, 1) changes nothing.
    index, corner = jnp.array([0, 0]), jnp.array([[0, 2], [1, 1]])
    moved = [[0, 0, 0, 0], [2, 3, 4, 0], [6, 7, 8, 0]]
    batch = study_seeds.take(data, index, corner, 1)
    assert batch["image"][0, :, :, 0].tolist() == moved
    np.testing.assert_array_equal(batch["image"][1], image[0])
    assert batch["label"].tolist() == [7, 7]


def test_norms_get_the_mean_statistics_of_the_drawn_batches(data):
    key, module, task = jax.random.key(8), make_module(MODEL), task_of()
    drawn = study_seeds.draw_batches(8, "norms", 23, Schedule(3, 6, 1))
    variables = task.init(key, {"image": data.image[:1]})
    found = study_seeds.reestimate_norms(module, data, variables, drawn, shift=1)
    take = functools.partial(study_seeds.take, data, shift=1)
    batches = [take(i, c) for i, c in zip(*drawn, strict=True)]
    expected = norm_estimator(module, "network")(variables, batches)
    assert expected["model_state"]["network"]["batch_stats"]["bn1"]["mean"].any()
    for name, leaf in named_leaves(expected).items():
        np.testing.assert_allclose(
            named_leaves(found)[name], leaf, atol=1e-5, err_msg=name
        )


def test_a_network_of_another_training_is_the_start(data):
    task, key = task_of(), jax.random.key(2)
    given = task.init(jax.random.key(9), {"image": data.image[:1]})
    found = study_seeds.start(task, data, given, key)
    assert optax.tree.norm(jax.tree.map(jnp.subtract, found, given)) == 0
