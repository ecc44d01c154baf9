"""One battery over every method that trains: a new method is one line in `CASES`."""

import dataclasses
import functools
import importlib.util
import json
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zoo_jax.core import registry
from zoo_jax.core.errors import ConfigError
from zoo_jax.core.rng import make_key
from zoo_jax.core.tree import named_leaves
from zoo_jax.train.loop import fit
from zoo_jax.train.mesh import make_mesh, put_batch, replicated
from zoo_jax.train.settings import Settings
from zoo_jax.train.step import init_state, make_train_step
from zoo_jax.train.streams import open_streams

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "experiments" / "configs"


@dataclasses.dataclass(frozen=True, eq=False)  # by identity: usable as a cache key
class Case:
    """A method in its smallest form."""

    config: str  # file below experiments/configs
    arg: str  # trains for 20 steps within seconds
    plain: (
        dict  # config changes that leave a plain SGD update, for parity between devices
    )
    low_precision: dict  # config changes that make the network compute in bfloat16
    heavy: bool = False  # compiles long: half of the battery runs with the slow tests

    @property
    def name(self) -> str:
        return f"{self.config}:{self.arg}"


CASES = [
    Case(
        "deblurgan_v2/gopro_mobilenet.py",
        "tiny,generator=plain_residual,critics=patch",  # compiles fast
        plain={
            f"optim.{player}": dict(name="sgd", lr=0.01)
            for player in ("generator", "discriminator")
        },
        low_precision={
            "model.dtype": "bfloat16",
            "discriminators.patch.dtype": "bfloat16",
        },
    ),
    Case(
        "deep_k_means/digits_cnn.py",
        "tiny",
        plain={"optim": dict(name="sgd", lr=0.01)},
        low_precision={"model.dtype": "bfloat16"},
    ),
    Case(
        "deep_k_means/digits_cnn.py",
        "tiny,stage=retrain",
        plain={"optim": dict(name="sgd", lr=0.01)},
        low_precision={"model.dtype": "bfloat16"},
        heavy=True,
    ),
    Case(
        "deep_k_means/digits_baselines.py",
        "tiny",
        plain={"optim": dict(name="sgd", lr=0.01)},
        low_precision={"model.dtype": "bfloat16"},
        heavy=True,
    ),
    Case(
        "gradient_harmonization/pretrain.py",
        "tiny,arm=batch_pcgrad",  # by triplet it compiles for a minute: its tests are its own
        plain={"optim": dict(name="sgd", lr=1e-4)},  # gradients of 20 and more
        low_precision={"model.dtype": "bfloat16"},
        heavy=True,
    ),
    Case(
        "u_said/photos.py",
        "tiny,stage=finetune",
        plain={"optim": dict(name="sgd", lr=1e-5)},  # the loss is a sum over pixels
        low_precision={"model.dtype": "bfloat16"},
    ),
    Case(
        "ug2/srnet.py",
        "tiny",
        plain={"optim": dict(name="sgd", lr=0.01)},
        low_precision={"model.dtype": "bfloat16"},
        heavy=True,
    ),
]
cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
quick_cases = pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=pytest.mark.slow if c.heavy else ()) for c in CASES],
    ids=lambda case: case.name,
)


def load_config(case: Case, changes=None):
    path = CONFIGS / case.config
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(case.arg)
    config.init_from = ""
    with config.unlocked():
        for key, value in (changes or {}).items():
            *sections, last = key.split(".")
            functools.reduce(lambda c, s: c[s], sections, config)[last] = value
    return config


def build(config):
    return registry.get(config.task).make_task(config, config.steps)


@functools.cache
def first_batches(case: Case, count: int = 1):
    """Batches of every stream that the players read, on the host."""
    config = load_config(case)
    task = build(config)
    streams = open_streams(
        task, Settings.of(config), make_mesh(1), pathlib.Path("/nonexistent")
    )
    out = [
        {n: jax.device_get(s.next()) for n, s in streams.items()} for _ in range(count)
    ]
    for stream in streams.values():
        stream.close()
    return out


def train(case, *, devices=1, steps=3, changes=None, repeat=False):
    config = load_config(case, changes)
    task, mesh = build(config), make_mesh(devices)
    batches = first_batches(case, 1 if repeat else steps)
    batch = batches[0][task.players[0].stream]
    state = jax.jit(
        lambda key: init_state(task, key, batch), out_shardings=replicated(mesh)
    )(make_key(0))
    chex.clear_trace_counter()
    step = jax.jit(
        chex.assert_max_traces(make_train_step(task), n=1),
        static_argnames="active",
        out_shardings=replicated(mesh),
    )
    active = tuple(range(len(task.players)))
    history = []
    for i in range(steps):
        rows = batches[0 if repeat else i]
        put = {name: put_batch(b, mesh) for name, b in rows.items()}
        state, metrics = step(state, put, active=active)
        history.append(jax.device_get(metrics))
    return task, state, history


@cases
def test_abstract_init_equals_real_init(case):
    task = build(load_config(case))
    batch = first_batches(case)[0][task.players[0].stream]
    key = make_key(0)
    abstract = jax.eval_shape(lambda k: task.init(k, batch), key)
    real = jax.jit(lambda k: task.init(k, batch))(key)
    chex.assert_trees_all_equal_shapes_and_dtypes(abstract, real)
    assert set(real["params"]) >= {n for p in task.players for n in p.owns}


@cases
def test_prediction_is_finite_traces_once_and_has_a_row_per_example(case):
    task, state, _ = train(case, steps=1)
    stream = task.players[0].stream
    batch = first_batches(case)[0][stream]
    chex.clear_trace_counter()
    predict = jax.jit(chex.assert_max_traces(task.predict, n=1))
    for _ in range(2):
        outputs = predict(state.variables(), batch)
    for name, output in outputs.items():
        assert np.isfinite(np.asarray(output, np.float64)).all(), name
    mask = jnp.ones(len(next(iter(batch.values()))))
    ratios = task.metrics(outputs, {**batch, "mask": mask})
    assert ratios
    for ratio in ratios.values():
        assert 0 < float(ratio.count) <= np.prod(next(iter(batch.values())).shape)


@quick_cases
def test_every_trainable_leaf_moves_and_no_other(case):
    task, state, _ = train(case, steps=1)
    batches = first_batches(case)[0]
    for index, player in enumerate(task.players):
        owned = {name: state.params[name] for name in player.owns}

        def loss(owned, player=player, index=index):
            terms, _ = player.loss(
                owned, state, batches[player.stream], jax.random.key(index)
            )
            return sum(jnp.mean(t) for t in terms.values())

        for name, grad in named_leaves(jax.jit(jax.grad(loss))(owned)).items():
            assert np.isfinite(grad).all(), name
            assert np.abs(grad).max() > 0, f"{name} gets no gradient"
    owned = {name for player in task.players for name in player.owns}
    _, after, _ = train(case, steps=2)
    for name in set(state.params) - owned:
        chex.assert_trees_all_equal(state.params[name], after.params[name])


@quick_cases
def test_twenty_steps_on_one_batch_lower_the_loss(case):
    _, _, history = train(case, steps=20, repeat=True)
    losses = [loss_of_all_players(metrics) for metrics in history]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < losses[0]


def loss_of_all_players(metrics):
    return sum(float(v) for n, v in metrics.items() if n.split("/")[-1] == "loss")


@quick_cases
@pytest.mark.parametrize("devices", [pytest.param(2, marks=pytest.mark.slow), 8])
def test_devices_agree_under_plain_sgd(case, devices):
    _, one, a = train(case, changes=case.plain)
    _, many, b = train(case, changes=case.plain, devices=devices)
    for field in ("params", "model_state"):
        chex.assert_trees_all_close(
            jax.device_get(getattr(one, field)),
            jax.device_get(getattr(many, field)),
            atol=1e-6,
            rtol=1e-5,
        )
    for x, y in zip(a, b, strict=True):
        chex.assert_trees_all_close(x, y, atol=1e-5, rtol=1e-5)


@quick_cases
def test_low_precision_stays_finite_with_float32_parameters(case):
    _, state, history = train(case, changes=case.low_precision)
    assert all(int(m["skipped"]) == 0 for m in history)
    for name, leaf in named_leaves(state.params).items():
        assert leaf.dtype == jnp.float32, name
    assert np.isfinite([float(v) for m in history for v in m.values()]).all()
    _, _, full = train(case)
    # Eight bits of mantissa: the same loss to a few percent, and not the same number.
    ratio = loss_of_all_players(history[0]) / loss_of_all_players(full[0])
    assert ratio == pytest.approx(1.0, abs=0.05)
    assert ratio != 1.0


@cases
def test_interrupted_and_resumed_equals_undisturbed_bit_for_bit(case, tmp_path):
    config = load_config(case)
    config.log_every, config.tensorboard = 1, False
    config.checkpoint = dict(every=2)
    config.eval = {}
    states = {}
    for name, parts in (("whole", [4]), ("parts", [2, 4])):
        (tmp_path / name).mkdir()
        for steps in parts:
            config.steps = steps
            # The schedules are those of the whole run.
            task = registry.get(config.task).make_task(config, 4)
            states[name] = fit(task, config, workdir=tmp_path / name, mesh=make_mesh(2))
    a, b = (s.replace(key=jax.random.key_data(s.key)) for s in states.values())
    chex.assert_trees_all_equal(jax.device_get(a), jax.device_get(b))
    lines = [(tmp_path / n / "metrics.jsonl").read_text() for n in ("whole", "parts")]
    assert lines[0] == lines[1]
    assert [json.loads(line)["step"] for line in lines[0].splitlines()] == [1, 2, 3, 4]


@quick_cases
def test_the_kmeans_link_joins_any_optimiser_by_config_alone(case):
    link = dict(
        layers=[dict(path="*kernel", num_clusters=2, samples="scalar")],
        strength=1.0,
        relaxation="labels",
        refresh_every=1,
    )
    joined = {key: {**optim, "kmeans": link} for key, optim in case.plain.items()}
    if load_config(case).get("sharing"):  # it shares weights in another way
        with pytest.raises(ConfigError, match="exclude each other"):
            build(load_config(case, joined))
        return
    plain = train(case, steps=1, changes=case.plain)[1]
    pulled = train(case, steps=1, changes=joined)[1]
    kernels = 0
    owned = {n for p in build(load_config(case)).players for n in p.owns}
    for name, before in named_leaves(plain.params).items():
        after = named_leaves(pulled.params)[name]
        if not name.endswith("kernel") or name.split("/")[0] not in owned:
            # Two programs, so equal up to rounding.
            np.testing.assert_allclose(
                before, after, rtol=1e-6, atol=1e-7, err_msg=name
            )
            continue
        kernels += 1
        costs = [two_means_cost(np.asarray(leaf)) for leaf in (before, after)]
        assert costs[1] < costs[0], name
    assert kernels


def two_means_cost(kernel):
    """Least squared error of two values: every split of the sorted numbers tried."""
    x = np.sort(kernel.astype(np.float64).ravel())
    n = np.arange(1, x.size)
    left, right = np.cumsum(x)[:-1], np.cumsum(x[::-1])[::-1][1:]
    return np.square(x).sum() - np.max(left**2 / n + right**2 / n[::-1])


def test_every_method_that_trains_is_in_the_battery():
    covered = {case.config.split("/")[0] for case in CASES}
    trained = {
        n for n in registry.list_methods() if hasattr(registry.get(n), "make_task")
    }
    assert covered == trained


def test_an_optimiser_of_optax_takes_the_loops_extra_arguments():
    tx = optax.with_extra_args_support(optax.adam(1e-3))
    params = {"a": jnp.ones((2,))}
    tx.update(params, tx.init(params), params, value=0.0, terms={}, step=0, key=None)
