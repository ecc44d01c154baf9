"""What goes into a checkpoint comes out of it, on any devices, and no step too few stays."""

import json
import logging
import pathlib
import shutil

import absl.logging
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from checkpoint_worker import state_of
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from zoo_jax.core.errors import CheckpointError
from zoo_jax.task import TrainState
from zoo_jax.train.checkpoint import Checkpointer, read_checkpoint
from zoo_jax.train.mesh import make_mesh


def bits(tree):
    """Every leaf as bytes, with its shape and dtype: equal only if nothing differs."""

    def one(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        host = np.asarray(leaf)
        return host.shape, str(host.dtype), host.tobytes()

    return jax.tree.map(one, tree)


def train_state(step: int = 7) -> TrainState:
    """Every kind of leaf and of empty place that a run may hold."""
    odd = np.array([0x7FC00001, 0xFFC12345, 0x80000000, 0x00000001], np.uint32)
    params = {
        "net": {
            "kernel": jnp.linspace(-1, 1, 15).reshape(3, 5) + step,
            "half": jnp.arange(5, dtype=jnp.bfloat16) / 3,
            "odd": jnp.asarray(odd.view(np.float32)),  # NaN payloads, -0.0, a denormal
            "none": jnp.zeros((0, 3)),
        }
    }
    tx = optax.chain(optax.clip(1.0), optax.adam(0.1))
    return TrainState(
        step=jnp.int32(step),
        params=params,
        model_state={"net": {}},
        opt_state={"main": tx.init(params), "other": optax.sgd(0.1).init(params)},
        ema={},
        key=jax.random.key(step),
        skipped=jnp.int32(1),
        streak=jnp.int32(0),
    )


def template_of(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def save(folder, *steps, metrics=None, **options):
    with Checkpointer(folder, **options) as checkpointer:
        for step in steps:
            checkpointer.save(
                step,
                state_of(step, 11),
                iterator={"train": {"position": step}},
                meta={"seed": 3},
                metrics=metrics and metrics[step],
            )
        checkpointer.wait()
        return checkpointer.steps(), checkpointer.best_step()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_train_state_comes_back_bit_for_bit(tmp_path, asynchronous):
    state = train_state()
    iterator = {"train": {"epoch": 2, "position": [3, 4]}, "valid": {}}
    meta = {"config": {"lr": 0.1, "name": None}, "config_digest": "ab"}
    with Checkpointer(tmp_path / "c", asynchronous=asynchronous) as checkpointer:
        assert checkpointer.restore(template_of(state)) is None
        checkpointer.save(7, state, iterator=iterator, meta=meta)
        found = checkpointer.restore(template_of(state))
    assert found.step == 7
    assert found.iterator == iterator
    assert found.meta == meta
    assert bits(found.state) == bits(state)
    assert jax.tree.structure(found.state) == jax.tree.structure(state)
    assert jax.random.key_impl(found.state.key) == jax.random.key_impl(state.key)
    want = jax.random.uniform(state.key)
    assert jax.random.uniform(found.state.key) == want


def test_reading_without_a_template_gives_nested_dictionaries(tmp_path):
    state = train_state()
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(7, state, iterator={}, meta={"a": 1})
    found = read_checkpoint(tmp_path)
    assert (found.step, found.iterator, found.meta) == (7, {}, {"a": 1})
    assert bits(found.state["params"]) == bits(state.params)
    assert bits(found.state["key"]) == bits(jax.random.key_data(state.key))
    assert found.state["model_state"] == {"net": {}}
    assert found.state["ema"] == {}
    adam = found.state["opt_state"]["main"]["1"]["0"]
    assert bits(adam["mu"]) == bits(state.opt_state["main"][1][0].mu)
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(found.state))


def test_a_state_may_be_donated_as_soon_as_it_is_saved(tmp_path):
    """On CPU a NumPy view of an array shares memory with it, and donation overwrites that."""
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    state = step({"w": jnp.zeros(300_000), "n": jnp.int32(0)})
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state, iterator={}, meta={})
        for _ in range(20):
            state = step(state)
        jax.block_until_ready(state)
    found = read_checkpoint(tmp_path).state
    assert found["n"] == 1
    np.testing.assert_array_equal(found["w"], 1.0)


def test_what_is_passed_along_is_kept_as_it_was_when_saving(tmp_path):
    place = {"train": {"position": [1]}}
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state_of(1), iterator=place, meta={})
        place["train"]["position"].append(2)
    assert read_checkpoint(tmp_path).iterator == {"train": {"position": [1]}}


@pytest.mark.parametrize(("before", "after"), [(1, 8), (8, 1), (8, 2)])
def test_a_state_moves_to_other_devices(tmp_path, before, after):
    def lay_out(count):
        mesh = make_mesh(count)
        split = NamedSharding(mesh, PartitionSpec("data"))
        every = NamedSharding(mesh, PartitionSpec())
        return {"key": every, "rows": split, "scale": every}

    values = {
        "key": jax.random.key(5),
        "rows": jnp.arange(48.0).reshape(16, 3),
        "scale": jnp.arange(5.0),
    }
    with Checkpointer(tmp_path) as checkpointer:
        state = jax.device_put(values, lay_out(before))
        checkpointer.save(1, state, iterator={}, meta={})
        template = template_of(jax.device_put(values, lay_out(after)))
        found = checkpointer.restore(template).state
    assert bits(found) == bits(values)
    for name, sharding in lay_out(after).items():
        assert found[name].sharding.is_equivalent_to(sharding, found[name].ndim)
    # A template of arrays, or without any layout, will do too.
    with Checkpointer(tmp_path) as checkpointer:
        assert bits(checkpointer.restore(values).state) == bits(values)
        plain = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), values)
        found = checkpointer.restore(plain).state
    assert bits(found) == bits(values)
    assert isinstance(found["rows"].sharding, SingleDeviceSharding)


def test_a_foreign_template_is_refused_and_the_checkpoint_stays(tmp_path, caplog):
    save(tmp_path, 1)
    template = {
        "step": jax.ShapeDtypeStruct((), jnp.float32),
        "noise": jax.ShapeDtypeStruct((12,), jnp.float32),
        **{f"extra_{i}": jnp.zeros(2) for i in range(9)},
    }
    with Checkpointer(tmp_path) as checkpointer:
        with pytest.raises(CheckpointError) as error:
            checkpointer.restore(template)
        with pytest.raises(CheckpointError, match="it also has noise;"):
            checkpointer.restore({"step": jnp.int32(0)})
        assert checkpointer.steps() == [1]
    message = str(error.value)
    assert "step is int32(), not float32()" in message
    assert "noise is float32(11,), not float32(12,)" in message
    assert "lacks extra_0, extra_1" in message
    assert "and 3 more" in message
    assert "\n" not in message
    assert not caplog.records


def test_a_key_and_its_data_are_not_the_same_leaf(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, {"key": jax.random.key(0)}, iterator={}, meta={})
        with pytest.raises(CheckpointError, match=r"key is key<fry>\(\), not uint32"):
            checkpointer.restore({"key": jnp.zeros((2,), jnp.uint32)})


def test_the_newest_steps_stay(tmp_path):
    assert save(tmp_path, 1, 2, 5, 10) == ([5, 10], None)
    assert save(tmp_path, 11, keep_last=1) == ([11], None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["11"]


@pytest.mark.parametrize(("mode", "best"), [("max", 2), ("min", 1)])
def test_the_best_steps_stay_across_runs(tmp_path, mode, best):
    scores = {1: 0.1, 2: 0.9, 3: 0.5, 4: float("nan"), 5: 0.5, 6: float("inf"), 7: 0.5}
    metrics = {step: {"eval/a": value} for step, value in scores.items()}
    options = dict(best_metric="eval/a", best_mode=mode, metrics=metrics)
    save(tmp_path, 1, 2, 3, 4, **options)
    metrics[6] = None
    assert save(tmp_path, 5, 6, 7, **options) == (sorted({best, 6, 7}), best)
    assert read_checkpoint(tmp_path, best=True).step == best
    assert read_checkpoint(tmp_path).step == 7
    assert read_checkpoint(tmp_path, step=6).step == 6


def test_the_best_of_a_run_without_measurements_is_asked_for_in_vain(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(CheckpointError, match="best_metric"):
        read_checkpoint(tmp_path, best=True)


def test_saving_a_step_again_replaces_it(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        for seed in (0, 1):
            checkpointer.save(4, {"a": jnp.int32(seed)}, iterator={}, meta={})
    assert read_checkpoint(tmp_path).state["a"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["4"]


def test_an_older_step_taken_up_again_sets_later_ones_aside(tmp_path, caplog):
    save(tmp_path, 10, 20)
    save(tmp_path, 15)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["10", "15", "20.stale-1"]
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "step 20" in caplog.text
    assert "20.stale-1" in caplog.text


def test_a_step_can_be_named_or_is_said_to_be_missing(tmp_path):
    save(tmp_path, 1, 2)
    template = template_of(state_of(1, 11))
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.restore(template, step=1).state["step"] == 1
        assert checkpointer.restore(template, step=2).iterator["train"]["position"] == 2
        with pytest.raises(CheckpointError, match=r"no step 3, only \[1, 2\]"):
            checkpointer.restore(template, step=3)
        with pytest.raises(CheckpointError, match="no step 3"):
            read_checkpoint(tmp_path, step=3)


def test_a_folder_of_something_else_is_refused_and_untouched(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        read_checkpoint(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        read_checkpoint(tmp_path)
    (tmp_path / "3").mkdir()  # such as images sorted into classes
    (tmp_path / "3" / "cat.png").write_bytes(b"cat")
    with pytest.raises(CheckpointError, match="no checkpoint of this project"):
        read_checkpoint(tmp_path)
    with (
        Checkpointer(tmp_path) as checkpointer,
        pytest.raises(CheckpointError, match="no checkpoint of this project"),
    ):
        checkpointer.restore({"a": jnp.zeros(2)})
    assert (tmp_path / "3" / "cat.png").read_bytes() == b"cat"
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="Not a directory"):
        read_checkpoint(tmp_path / "file")


def test_a_newer_format_is_refused_and_kept(tmp_path):
    save(tmp_path, 1)
    change_manifest(tmp_path / "1", lambda m: m.update(format=99))
    with pytest.raises(CheckpointError, match="format 99, this version reads 1"):
        read_checkpoint(tmp_path)
    assert (tmp_path / "1").exists()


def change_manifest(folder: pathlib.Path, change) -> None:
    """As if the project had written it so: the checksums agree."""
    from zoo_jax.train import inventory

    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    inventory.seal(folder)


def test_values_that_changed_on_the_way_to_the_disk_are_found(tmp_path, caplog):
    save(tmp_path, 1, 2, 3, keep_last=3)
    change_manifest(tmp_path / "3", lambda m: m["leaves"]["noise"].update(crc32=1))
    change_manifest(tmp_path / "2", lambda m: m["leaves"].pop("noise"))
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.restore(template_of(state_of(1, 11)), step=1).step == 1
        with pytest.raises(CheckpointError, match="lacks noise"):
            checkpointer.restore(template_of(state_of(1, 11)), step=2)
    assert read_checkpoint(tmp_path).step == 1
    messages = [r.getMessage() for r in caplog.records]
    assert len(messages) == 2
    assert "step 3 is damaged: leaf noise does not match" in messages[0]
    assert "step 2 is damaged: leaf noise is only in one" in messages[1]


@pytest.mark.parametrize("place", ["below a file", "where no files can be"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, place):
    (tmp_path / "file").write_text("")
    below = {
        "below a file": tmp_path / "file" / "run",
        "where no files can be": pathlib.Path("/proc/run"),
    }[place]
    with pytest.raises(CheckpointError, match=r"cannot write .* choose another") as e:
        Checkpointer(below)
    assert str(below) in str(e.value)


def test_options_out_of_range_are_refused(tmp_path):
    for options in (dict(keep_last=0), dict(keep_best=-1), dict(best_mode="least")):
        with pytest.raises(ValueError, match=next(iter(options))):
            Checkpointer(tmp_path, **options)


def test_an_error_in_the_run_is_not_hidden_by_a_failed_save(tmp_path, caplog):
    class Mistake(Exception):
        pass

    def run():
        with Checkpointer(tmp_path / "c") as checkpointer:
            checkpointer.save(1, state_of(1), iterator={}, meta={})
            checkpointer.wait()
            shutil.rmtree(tmp_path / "c")
            (tmp_path / "c").write_text("")
            checkpointer.save(2, state_of(2), iterator={}, meta={})
            raise Mistake

    with pytest.raises(Mistake):
        run()
    assert any("could not save step 2" in r.getMessage() for r in caplog.records)


def test_saving_and_restoring_say_nothing(tmp_path, caplog):
    before = absl.logging.get_verbosity()
    try:
        absl.logging.set_verbosity(absl.logging.INFO)
        with caplog.at_level(logging.INFO):
            save(tmp_path, 1, 2, 3)
            read_checkpoint(tmp_path)
            absl.logging.info("heard")
    finally:
        absl.logging.set_verbosity(before)
    assert [r.getMessage() for r in caplog.records] == ["heard"]
