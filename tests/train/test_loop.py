"""The loop as a whole on toy tasks: resuming, stopping, skipping, measuring, refusing."""

import json
import signal

import chex
import jax
import numpy as np
import optax
import pytest
import toys

from zoo_jax.core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DeviceError,
    DivergenceError,
)
from zoo_jax.data.source import ArraySource
from zoo_jax.task import Evaluator, Ratio
from zoo_jax.train import loop
from zoo_jax.train.evaluate import default_evaluator, evaluate_variables, make_evaluate
from zoo_jax.train.mesh import make_mesh
from zoo_jax.train.preempt import Interrupted, StopRequest
from zoo_jax.train.run import check_config, open_run, workdir_variables

TASKS = {
    "classifier": toys.classifier,
    "adversarial": toys.adversarial,
    "per_term": lambda: toys.multi_term(
        "per_term", optax.chain(toys.sum_terms(), optax.sgd(0.01))
    ),
    "frozen": toys.frozen_teacher,
}


def fit(task, workdir, config=None, *, devices=1, **arguments):
    workdir.mkdir(exist_ok=True)
    config = toys.toy_config() if config is None else config
    return loop.fit(task, config, workdir=workdir, mesh=make_mesh(devices), **arguments)


def metrics(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def assert_same_run(a, b):
    chex.assert_trees_all_equal(
        jax.device_get(a.replace(key=jax.random.key_data(a.key))),
        jax.device_get(b.replace(key=jax.random.key_data(b.key))),
    )


@pytest.mark.parametrize("name", TASKS)
def test_a_run_in_two_parts_equals_one_bit_for_bit(name, tmp_path):
    config = toys.toy_config(log_every=1, checkpoint=dict(every=3))
    whole = fit(TASKS[name](), tmp_path / "whole", config)
    config.steps = 3
    fit(TASKS[name](), tmp_path / "parts", config)
    config.steps = 6
    parts = fit(TASKS[name](), tmp_path / "parts", config)
    assert_same_run(whole, parts)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")
    assert [m["step"] for m in metrics(tmp_path / "parts")] == [1, 2, 3, 3, 4, 5, 6, 6]


def test_a_signal_saves_and_the_same_command_goes_on(tmp_path, monkeypatch):
    config = toys.toy_config(log_every=1, checkpoint=dict(every=100))
    whole = fit(toys.classifier(), tmp_path / "whole", config)
    answers = iter([0, 0, 0, signal.SIGTERM, 0, 0])
    monkeypatch.setattr(StopRequest, "agreed", lambda self: next(answers))
    with pytest.raises(Interrupted, match="after 4 of 6") as stop:
        fit(toys.classifier(), tmp_path / "parts", config)
    assert stop.value.signum == signal.SIGTERM
    parts = fit(toys.classifier(), tmp_path / "parts", config)
    assert_same_run(whole, parts)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")


def test_signals_are_remembered_and_handlers_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert stop.agreed() == 0
        signal.raise_signal(signal.SIGTERM)
        assert stop.agreed() == signal.SIGTERM
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.agreed() == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_a_dead_run_logged_after_its_checkpoint_is_forgotten(tmp_path):
    config = toys.toy_config(log_every=1, checkpoint=dict(every=3))
    whole = fit(toys.classifier(), tmp_path / "whole", config)
    fit(toys.classifier(), tmp_path / "cut", config.copy_and_resolve_references())
    expected = (tmp_path / "cut" / "metrics.jsonl").read_text()
    # As if the process had died while writing: the last checkpoint gone, a torn line.
    import shutil

    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "6")
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as f:
        f.write('{"step": 7, "train/lo')
    again = fit(toys.classifier(), tmp_path / "cut", config)
    assert_same_run(whole, again)
    assert (tmp_path / "cut" / "metrics.jsonl").read_text() == expected
    table = (tmp_path / "cut" / "metrics.csv").read_text()
    assert table == (tmp_path / "whole" / "metrics.csv").read_text()


class Poisoned(ArraySource):
    """Rows [0, 80) are good; a run without shuffling meets a NaN in batch `bad`."""

    def __init__(self, bad=(), drop=()):
        rng = np.random.default_rng(0)
        image = rng.uniform(size=(160, toys.SIDE, toys.SIDE, 1)).astype(np.float32)
        label = rng.integers(0, toys.CLASSES, 160).astype(np.int32)
        for g in bad:
            image[g * toys.BATCH + 3, 0, 0, 0] = np.nan
        rows = np.arange(160).reshape(-1, toys.BATCH)
        kept = np.delete(rows, list(drop), axis=0).reshape(-1)
        super().__init__({"image": image[kept], "label": label[kept]})


def poisoned_config(steps, **arguments):
    train = dict(name="test_loop:Poisoned", batch_size=toys.BATCH, shuffle=False)
    return toys.toy_config(steps=steps, data=dict(train=train | arguments), eval={})


@pytest.mark.parametrize("name", ["classifier", "adversarial_turns"])
def test_a_batch_that_is_not_finite_leaves_no_trace(name, tmp_path):
    task = {
        "classifier": toys.classifier,
        "adversarial_turns": lambda: toys.adversarial(every=2),
    }[name]
    bad = fit(task(), tmp_path / "bad", poisoned_config(5, bad=[2]))
    clean = fit(task(), tmp_path / "clean", poisoned_config(4, bad=[2], drop=[2]))
    assert int(bad.skipped) == 1
    assert_same_run(bad.replace(skipped=clean.skipped), clean)


def test_the_profile_holds_a_few_steps(tmp_path):
    config = toys.toy_config(steps=16, eval={}, checkpoint={})
    fit(toys.classifier(), tmp_path / "run", config, profile=True)
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
    plain = fit(toys.classifier(), tmp_path / "plain", config)
    assert not (tmp_path / "plain" / "profile").exists()
    assert int(plain.step) == 16


def test_many_such_batches_stop_the_run_with_a_diagnosis(tmp_path):
    config = poisoned_config(9, bad=[2, 3, 4, 5, 6, 7, 8])
    config.max_streak = 3
    with pytest.raises(
        DivergenceError, match=r"3 batches in a row.*batch train 'image'"
    ):
        fit(toys.classifier(), tmp_path / "run", config)


def test_players_read_their_own_streams(tmp_path):
    config = toys.toy_config()
    config.data.valid = config.data.train.copy_and_resolve_references()
    config.data.valid.seed = 2
    two = fit(toys.adversarial(streams=("valid", "train")), tmp_path / "two", config)
    one = fit(toys.adversarial(), tmp_path / "one", config)
    # The generator never looks into its batch, so the critic's stream decides everything.
    config.data.train = config.data.valid
    same = fit(toys.adversarial(), tmp_path / "same", config)
    critics = [np.asarray(s.params["critic"]["kernel"]) for s in (two, one, same)]
    np.testing.assert_array_equal(critics[0], critics[2])
    assert np.abs(critics[0] - critics[1]).max() > 1e-4
    with pytest.raises(ConfigError, match=r"'vali'.*config.data.*did you mean 'valid'"):
        fit(toys.adversarial(streams=("train", "vali")), tmp_path / "x", config)


def test_devices_agree(tmp_path):
    task = lambda: toys.classifier(optax.sgd(0.1))  # noqa: E731
    states = [fit(task(), tmp_path / str(n), devices=n) for n in (1, 8)]
    chex.assert_trees_all_close(
        jax.device_get(states[0].params), jax.device_get(states[1].params), atol=1e-6
    )
    a, b = (metrics(tmp_path / str(n)) for n in (1, 8))
    for x, y in zip(a, b, strict=True):
        assert x == pytest.approx(y, abs=1e-5)


def test_measurements_do_not_depend_on_batches_or_devices():
    task = toys.classifier()
    config = toys.toy_config()
    variables = task.init(
        jax.random.key(0), {"image": np.zeros((2, toys.SIDE, toys.SIDE, 1), np.float32)}
    )
    found = []
    for batch_size, devices in ((37, 1), (16, 1), (8, 8), (40, 4)):
        config.data.eval.batch_size = batch_size
        found.append(evaluate_variables(task, config, variables, make_mesh(devices)))
    assert 0 < found[0]["eval/accuracy"] < 1
    assert found[0]["eval/accuracy"] * 37 == pytest.approx(
        round(found[0]["eval/accuracy"] * 37)
    )
    for other in found[1:]:
        assert other == pytest.approx(found[0], abs=1e-7)


def test_padding_never_counts_even_if_it_is_not_finite():
    ratio = Ratio.of(np.array([1.0, 0.0, np.nan]), np.array([1.0, 1.0, 0.0]))
    assert float(ratio.total) == 1.0
    assert float(ratio.count) == 2.0


def test_evaluators_gather_the_real_examples_in_order():
    labels = np.arange(11)
    evaluator = Evaluator(
        step=lambda v, batch: (
            {"n": Ratio.of(batch["x"], batch["mask"])},
            {"x": batch["x"]},
        ),
        finish=lambda sums, gathered: {
            "n": sums["n"][1],
            "sorted": float((gathered["x"] == labels).all()),
        },
    )
    rows = [np.arange(8), np.array([8, 9, 10, 10, 10, 10, 10, 10])]
    batches = [
        {"x": r.astype(np.float32), "mask": np.array([1.0] * k + [0.0] * (8 - k))}
        for r, k in zip(rows, (8, 3), strict=True)
    ]
    found = make_evaluate(evaluator, make_mesh(8))({}, batches)
    assert found == {"n": 11.0, "sorted": 1.0}


def test_default_evaluator_is_the_tasks_metrics_of_its_predictions():
    task = toys.frozen_teacher()
    batch = {
        "image": np.ones((3, toys.SIDE, toys.SIDE, 1), np.float32),
        "label": np.array([0, 1, 2]),
        "mask": np.ones(3, np.float32),
    }
    variables = task.init(jax.random.key(0), batch)
    ratios, outputs = default_evaluator(task).step(variables, batch)
    assert not outputs
    assert float(ratios["accuracy"].count) == 3


def test_training_starts_from_given_networks(tmp_path):
    trained = fit(toys.classifier(), tmp_path / "a")
    variables = workdir_variables(tmp_path / "a")
    chex.assert_trees_all_equal(
        variables["params"]["net"], jax.device_get(trained.ema["net"])
    )
    config = toys.toy_config(steps=1)
    frozen = fit(
        toys.classifier(optax.sgd(0.0)), tmp_path / "b", config, variables=variables
    )
    chex.assert_trees_all_equal(
        jax.device_get(frozen.params["net"]), variables["params"]["net"]
    )
    with pytest.raises(ConfigError, match=r"first/bias: \(8,\) given, \(9,\) needed"):
        fit(toys.classifier(width=9), tmp_path / "c", variables=variables)
    with pytest.raises(ConfigError, match="this task trains"):
        fit(toys.frozen_teacher(), tmp_path / "d", variables=variables)


def test_an_earlier_step_is_read_by_its_folder(tmp_path):
    config = toys.toy_config(steps=4, checkpoint=dict(every=2, keep_last=2))
    fit(toys.classifier(), tmp_path, config)
    newest = workdir_variables(tmp_path)
    same, earlier = (
        workdir_variables(tmp_path / "checkpoints" / step) for step in ("4", "2")
    )
    chex.assert_trees_all_equal(newest, same)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(newest["params"], earlier["params"])
    with pytest.raises(CheckpointError, match="has no step 3"):
        workdir_variables(tmp_path / "checkpoints" / "3")


def test_bad_configs_are_named(tmp_path):
    def failing(match, error=ConfigError, devices=1, **changes):
        with pytest.raises(error, match=match):
            fit(
                toys.classifier(),
                tmp_path / "x",
                toys.toy_config(**changes),
                devices=devices,
            )

    failing("steps=0", steps=0)
    failing("eval.eval.evry.*did you mean 'every'", eval=dict(eval=dict(evry=3)))
    failing("checkpoint.evry", checkpoint=dict(evry=3))
    failing(
        "'tset'.*did you mean 'test'|eval.test.stream", eval=dict(test=dict(every=1))
    )
    failing("stream 'train'", data={})
    config = toys.toy_config()
    config.data.train.batch_size = 12
    with pytest.raises(
        DeviceError, match="batch_size=12 does not divide among 8 devices"
    ):
        fit(toys.classifier(), tmp_path / "x", config, devices=8)
    del config.data.train.batch_size
    with pytest.raises(ConfigError, match="no batch_size"):
        fit(toys.classifier(), tmp_path / "x", config)
    with pytest.raises(DeviceError, match=r"mesh\.devices=99, but there are 8"):
        make_mesh(99)


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    config = toys.toy_config(steps=2)
    fit(toys.classifier(), tmp_path / "x", config)
    config.seed, config.steps = 4, 4
    with pytest.raises(DataError, match="seed was 3"):
        fit(toys.classifier(), tmp_path / "x", config)


def test_a_workdir_of_another_config_is_refused(tmp_path):
    config, mesh = toys.toy_config(), make_mesh(1)
    with open_run(tmp_path / "w", config, mesh):
        pass
    config.seed = 4
    config.data.train.batch_size = 8
    with (
        pytest.raises(
            ConfigError, match=r"data.train.batch_size: 16 -> 8; seed: 3 -> 4"
        ),
        open_run(tmp_path / "w", config, mesh),
    ):
        pass
    with open_run(tmp_path / "w", config, mesh, allow_config_change=True):
        pass
    check_config(tmp_path / "w", config)


def test_procedures_train_through_the_same_loop(tmp_path):
    config, mesh = toys.toy_config(), make_mesh(1)
    with open_run(tmp_path / "w", config, mesh) as run:
        variables = run.fit("stage", toys.classifier(), config)
        again = run.fit("stage", toys.classifier(), config)
        chex.assert_trees_all_equal(jax.device_get(variables), jax.device_get(again))
        run.writer.table("t", [{"a": 1}], caption="one")
        run.writer.result({"x": 1.0})
        run.record(finished=True)
        assert run.finished
        assert len(run.load_source(config.data.eval)) == 37
    direct = fit(toys.classifier(), tmp_path / "direct")
    chex.assert_trees_all_equal(
        jax.device_get(variables["params"]["net"]), jax.device_get(direct.ema["net"])
    )
    result = json.loads((tmp_path / "w" / "result.json").read_text())
    assert result["scalars"] == {"x": 1.0}
    assert result["tables"] == [{"name": "t", "caption": "one", "rows": [{"a": 1}]}]
