"""Models by name: the same network from every kind of weights, and one line for each misfit."""

import inspect
import json
import subprocess
import sys
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from small_networks import SMALL_NETWORKS

import zoo_jax
from zoo_jax import convert, models
from zoo_jax.core.errors import ConfigError, WeightsError
from zoo_jax.core.files import read_json, write_json
from zoo_jax.core.tree import named_leaves, nest

NAME = "deep_k_means/digits_cnn"
SMALL = dict(widths=(3, 5), strides=(2, 1), num_classes=4)
every_model = pytest.mark.parametrize("name", models.list_models())


@pytest.fixture(scope="module")
def model():
    """A small network whose running statistics are not those of a fresh one."""
    fresh = zoo_jax.create_model(NAME, seed=3, **SMALL)
    rng = np.random.default_rng(0)
    noisy = jax.tree.map(
        lambda x: jnp.asarray(rng.uniform(0.5, 1.5, x.shape), x.dtype), fresh.variables
    )
    return fresh._replace(variables=noisy)


@pytest.fixture(scope="module")
def published(model):
    """Its weights under the published keys."""
    return convert.invert(models.model_table(NAME, model.module), model.variables)


def image(batch=2):
    return np.random.default_rng(1).random((batch, 28, 28, 1), np.float32)


def write_converted(folder, model, **changes):
    """What ``zoo-jax convert`` writes."""
    facts = {"format": models.FORMAT, "model": model.name, "overrides": SMALL} | changes
    folder.mkdir()
    leaves = named_leaves(model.variables)
    convert.write_weights(folder / models.VARIABLES_FILE, leaves, facts)
    write_json(folder / models.MODEL_FILE, facts)
    return folder


def write_run(workdir, model, *, ema=None, task="deep_k_means", name="digits_cnn"):
    """What `experiments.train` leaves behind, as far as weights go."""
    from zoo_jax.train.checkpoint import Checkpointer

    params, stats = model.variables["params"], model.variables["batch_stats"]
    state = {
        "step": jnp.zeros((), jnp.int32),
        "params": {"network": params},
        "model_state": {"network": {"batch_stats": stats}},
        "ema": {} if ema is None else {"network": ema},
    }
    with Checkpointer(workdir / "checkpoints") as checkpointer:
        checkpointer.save(20, state, iterator={}, meta={})
    section = {"name": name, "dtype": "bfloat16"} | SMALL  # trained in another dtype
    write_json(workdir / "config.json", {"task": task, "model": section})
    return workdir


def test_importing_the_package_imports_no_network_library():
    heavy = ("flax", "orbax", "grain", "tensorflow_datasets", "torch", "safetensors")
    code = f"""
import sys, zoo_jax
zoo_jax.list_models(), zoo_jax.list_methods()
found = [m for m in sys.modules
         if m.split(".")[0] in {heavy} or m.startswith(("zoo_jax.methods", "zoo_jax.nn"))]
sys.exit(str(found) if found else 0)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@every_model
def test_every_entry_builds_what_it_says(name):
    entry = models.get_entry(name)
    module = models.build_module(name, dtype=jnp.bfloat16)
    assert module.dtype == jnp.bfloat16
    variables = models.abstract_variables(name, module)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(variables)} == {"float32"}
    assert entry.doc
    assert entry.doc[-1] != "."
    parameters = inspect.signature(
        models.import_object(entry.build)
    ).parameters.values()
    assert {p.kind for p in parameters} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("name", [n for n, e in models.MODELS.items() if e.table])
def test_every_key_table_fills_its_network_and_inverts(name):
    module = models.build_module(name, **SMALL_NETWORKS.get(name, {}))
    template = models.abstract_variables(name, module)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: rng.normal(size=x.shape).astype(x.dtype), template
    )
    table = models.model_table(name, module)
    back = convert.apply(table, convert.invert(table, variables), template)
    jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_models_are_listed_in_order():
    assert zoo_jax.list_models() == tuple(sorted(models.MODELS))
    assert NAME in zoo_jax.list_models()


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("deep_k_means/digit_cnn", {}, "did you mean 'deep_k_means/digits_cnn'"),
        ("nothing", {}, "choose from deblurgan_v2/fpn_inception, "),
        (NAME, {"width": 3}, "has no argument 'width': did you mean 'widths'"),
        (NAME, {"num_classes": "ten"}, "cannot be built with num_classes='ten'"),
        (NAME, {"widths": 3, "dtype": "float32"}, "cannot be built with widths=3"),
        (NAME, {"dtype": "flot32"}, "cannot be built with dtype='flot32'"),
        (NAME, {"num_classes": 0}, "num_classes must be at least 1"),
    ],
)
def test_unknown_names_are_answered_with_the_closest(name, overrides, message):
    with pytest.raises(ConfigError, match=message):
        zoo_jax.create_model(name, **overrides)


def test_the_seed_decides_the_fresh_parameters():
    one, same, other = (
        zoo_jax.create_model(NAME, seed=s, **SMALL).variables["params"]["conv1"][
            "kernel"
        ]
        for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.01


def test_a_call_is_the_module_in_eval_mode(model):
    want = model.module.apply(model.variables, image(), train=False)
    np.testing.assert_allclose(model(image()), want, rtol=1e-5, atol=1e-5)


def test_keywords_reach_the_module(model):
    logits, changed = model(image(), train=True, mutable="batch_stats")
    want, _ = model.module.apply(
        model.variables, image(), train=True, mutable="batch_stats"
    )
    np.testing.assert_allclose(logits, want, rtol=1e-5, atol=1e-5)
    assert np.abs(logits - model(image())).max() > 1e-3
    assert set(changed) == {"batch_stats"}


class Noisy(nn.Module):
    """Adds a bias and, when training, noise; remembers how its bias was drawn."""

    drawn: ClassVar[list[bool]] = []
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, train):
        def init(key, shape):
            self.drawn.append(not isinstance(key, jax.core.Tracer))
            return jax.random.uniform(key, shape)

        x = x + self.param("bias", init, x.shape[-1:])[None]
        return x + jax.random.uniform(self.make_rng("noise"), x.shape) if train else x


def build_noisy(*, dtype=jnp.float32):
    return Noisy(dtype=dtype)


@pytest.fixture
def noisy(monkeypatch):
    """A model outside the registry, without published weights."""
    here = f"{__name__}:build_noisy"
    entry = models.ModelEntry(build=here, table=None, example=(1, 3), doc="a toy")
    monkeypatch.setitem(models.MODELS, "toy/noisy", entry)
    Noisy.drawn.clear()
    return "toy/noisy"


def test_arrays_among_the_keywords_are_traced(noisy):
    model = zoo_jax.create_model(noisy)
    x, before, out = np.ones((2, 3), np.float32), models._infer._cache_size(), []
    for seed in (0, 1, 0):
        keys = {"noise": jax.random.key(seed)}
        out.append(model(x, train=True, rngs=keys))
    assert models._infer._cache_size() == before + 1
    np.testing.assert_array_equal(out[0], out[2])
    assert np.abs(out[0] - out[1]).max() > 1e-3


def test_given_weights_are_not_preceded_by_an_initialisation(noisy, tmp_path):
    path = tmp_path / "w.safetensors"
    facts = {"format": models.FORMAT, "model": noisy, "overrides": {}}
    convert.write_weights(path, {"params/bias": np.ones(3, np.float32)}, facts)
    zoo_jax.create_model(noisy, weights=path)
    assert Noisy.drawn  # the initialiser was asked for a shape ...
    assert not any(Noisy.drawn)  # ... and drew nothing


def test_a_network_without_published_layout_says_so(noisy):
    with pytest.raises(WeightsError, match="toy/noisy has no published layout"):
        zoo_jax.create_model(noisy, weights={"bias": np.ones(3)})


def test_every_kind_of_weights_gives_the_same_network(model, published, tmp_path):
    np.savez(tmp_path / "w.npz", **published)
    prefixed = {f"module.{k}": v for k, v in published.items()}
    safetensors.numpy.save_file(prefixed, tmp_path / "w.safetensors")
    folder = write_converted(tmp_path / "converted", model)
    run = write_run(tmp_path / "run", model)
    sources = {
        "mapping": published,
        "npz": tmp_path / "w.npz",
        "a path as text": str(tmp_path / "w.npz"),
        "safetensors": tmp_path / "w.safetensors",
        "converted folder": folder,
        "file of a converted folder": folder / models.VARIABLES_FILE,
        "run": run,
        "checkpoint folder": run / "checkpoints",
    }
    own = {"converted folder", "file of a converted folder", "run", "checkpoint folder"}
    for kind, weights in sources.items():
        # What this project wrote knows how the network was built.
        overrides = {} if kind in own else SMALL
        got = zoo_jax.create_model(NAME, weights=weights, **overrides)
        assert got.module == model.module, kind
        jax.tree.map(np.testing.assert_array_equal, got.variables, model.variables)


@pytest.mark.torch
def test_a_torch_file_gives_the_same_network(model, published, tmp_path):
    torch = pytest.importorskip("torch")
    state = {k: torch.tensor(v) for k, v in published.items()}
    state["bn1.num_batches_tracked"] = torch.tensor(3)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "w.pth.tar")
    got = zoo_jax.create_model(NAME, weights=tmp_path / "w.pth.tar", **SMALL)
    jax.tree.map(np.testing.assert_array_equal, got.variables, model.variables)


def test_averaged_parameters_of_a_run_are_preferred(model, tmp_path):
    averaged = jax.tree.map(lambda x: x / 2, model.variables["params"])
    run = write_run(tmp_path / "run", model, ema=averaged)
    got = zoo_jax.create_model(NAME, weights=run)
    jax.tree.map(np.testing.assert_array_equal, got.variables["params"], averaged)


def test_given_overrides_win_over_stored_ones(model, tmp_path):
    folder = write_converted(tmp_path / "converted", model)
    got = zoo_jax.create_model(NAME, weights=folder, strides=(1, 2))
    assert got.module.strides == (1, 2)
    with pytest.raises(WeightsError, match=r"needed is \(5, 9\)"):
        zoo_jax.create_model(NAME, weights=folder, num_classes=9)


def test_parameters_stay_float32_at_any_compute_dtype(model, published):
    got = zoo_jax.create_model(NAME, weights=published, dtype=jnp.bfloat16, **SMALL)
    assert got.module.dtype == jnp.bfloat16
    jax.tree.map(np.testing.assert_array_equal, got.variables, model.variables)
    np.testing.assert_allclose(got(image()), model(image()), rtol=0.1, atol=0.1)


def test_the_model_does_not_share_memory_with_the_given_arrays(model, published):
    mine = {k: v.copy() for k, v in published.items()}
    got = zoo_jax.create_model(NAME, weights=mine, **SMALL)
    for array in mine.values():
        array[...] = 0
    jax.tree.map(np.testing.assert_array_equal, got.variables, model.variables)


def test_misfits_are_listed_with_the_place_they_come_from(published, tmp_path):
    broken = dict(published) | {"extra": np.zeros(3)}
    del broken["linear.bias"]
    np.savez(tmp_path / "w.npz", **broken)
    for weights, where in (
        (broken, "the given mapping"),
        (tmp_path / "w.npz", "w.npz"),
    ):
        with pytest.raises(WeightsError) as error:
            zoo_jax.create_model(NAME, weights=weights, **SMALL)
        for part in (where, "place for: extra", "missing: linear.bias"):
            assert part in str(error.value)


def test_folders_that_are_something_else_are_refused(model, tmp_path):
    other = "deep_k_means/lenet_caffe_5"
    folder = write_converted(tmp_path / "converted", model)
    foreign = write_converted(tmp_path / "foreign", model, format="else")
    damaged = write_converted(tmp_path / "damaged", model)
    (damaged / models.MODEL_FILE).write_text("{")
    listed = write_converted(tmp_path / "listed", model)
    (listed / models.MODEL_FILE).write_text("[1]")
    hollow = write_converted(tmp_path / "hollow", model)
    (hollow / models.VARIABLES_FILE).unlink()
    run = write_run(tmp_path / "run", model)
    (tmp_path / "empty").mkdir()
    cases = [
        (NAME, tmp_path / "absent", "absent: there is no such weights file or folder"),
        (NAME, tmp_path / "empty", "holds neither model.json"),
        (other, folder, f"holds '{NAME}', not '{other}'"),
        (other, folder / models.VARIABLES_FILE, f"holds '{NAME}', not '{other}'"),
        (NAME, foreign, "not written by zoo-jax"),
        (NAME, damaged, "model.json: is damaged"),
        (NAME, listed, "not written by zoo-jax"),
        (NAME, hollow, "there is no such weights file"),
        (other, run, f"is of a run of '{NAME}'"),
    ]
    for name, weights, message in cases:
        with pytest.raises(WeightsError) as error:
            zoo_jax.create_model(name, weights=weights)
        assert message in str(error.value)
        assert "\n" not in str(error.value)


def test_a_run_with_other_networks_or_no_config_is_named(model, tmp_path):
    from zoo_jax.train.checkpoint import Checkpointer

    run = tmp_path / "run"
    with Checkpointer(run / "checkpoints") as checkpointer:
        state = {"params": {"generator": model.variables["params"]}, "model_state": {}}
        checkpointer.save(1, state, iterator={}, meta={})
    with pytest.raises(
        WeightsError, match="no network 'network': did you mean 'generator'"
    ):
        zoo_jax.create_model(NAME, weights=run)
    good = write_run(tmp_path / "good", model)
    (good / "config.json").write_text(json.dumps({"task": "x"}))
    with pytest.raises(WeightsError, match="is no config of a run"):
        zoo_jax.create_model(NAME, weights=good)
    (good / "config.json").unlink()
    assert zoo_jax.create_model(NAME, weights=good, **SMALL).module == model.module


def test_the_stored_facts_are_plain_json(model, tmp_path):
    facts = read_json(write_converted(tmp_path / "c", model) / models.MODEL_FILE)
    assert facts["overrides"]["widths"] == [3, 5]
    assert nest(named_leaves(model.variables)).keys() == {"params", "batch_stats"}
