"""Comparing denoisers: the numbers are those of the pictures, and files and runs mix."""

import contextlib
import importlib.util
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.convert import invert
from zoo_jax.core.errors import ConfigError
from zoo_jax.core.rng import make_key
from zoo_jax.data.source import open_source, split_spec
from zoo_jax.methods.u_said.convert import dncnn_table
from zoo_jax.methods.u_said.procedure import denoise
from zoo_jax.methods.u_said.task import make_task
from zoo_jax.metrics.image import psnr

ROOT = pathlib.Path(__file__).resolve().parents[3]


class Context:
    """What a procedure sees of a run, kept in memory."""

    def __init__(self, runs):
        self.runs, self.writer, self.key = runs, self, make_key(0)
        self.tables, self.figures = {}, {}

    def load_source(self, spec):
        return open_source(spec)

    def load_variables(self, path):
        return self.runs[path]

    def progress(self, total, description):
        class Bar:
            def update(self, n=1):
                pass

        return contextlib.nullcontext(Bar())

    def table(self, name, rows, *, caption=""):
        self.tables[name] = json.loads(json.dumps(rows))

    def figure(self, name, figure, *, caption=""):
        self.figures[name] = figure


@pytest.fixture
def config():
    path = ROOT / "experiments" / "configs" / "u_said" / "photos.py"
    spec = importlib.util.spec_from_file_location("photos", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config("tiny,stage=denoise")
    config.data.test.source.size = 3
    return config


def test_arms_from_runs_and_files_are_measured_on_the_same_pictures(config, tmp_path):
    task = make_task(config, 1)
    image = {"image": jnp.zeros((1, 24, 24, 3))}
    variables = jax.jit(lambda key: task.init(key, image))(make_key(1))
    network = {
        "params": variables["params"]["denoiser"],
        **variables["model_state"]["denoiser"],
    }
    arrays = {
        f"module.{k}": v
        for k, v in invert(dncnn_table(4), jax.device_get(network)).items()
    }
    np.savez(tmp_path / "w.npz", **arrays)
    silent = {
        "params": jax.tree.map(jnp.zeros_like, variables["params"]),
        "model_state": variables["model_state"],
    }
    config.arms = {"run": "r", "file": str(tmp_path / "w.npz"), "silent": "s"}
    ctx = Context({"r": variables, "s": silent})
    found = denoise(config, ctx)

    assert found["run/psnr"] == found["file/psnr"] != found["silent/psnr"]
    source = open_source(split_spec(config.data.test)[0])
    clipped = [
        float(psnr(jnp.clip(e["noisy"], 0, 1)[None], e["image"][None])[0])
        for e in (source[i] for i in range(3))
    ]
    assert found["silent/psnr"] == pytest.approx(np.mean(clipped), rel=1e-5)
    assert found["noisy/psnr"] < found["silent/psnr"]
    rows = ctx.tables["denoising"]
    assert len(rows) == 4 * 4  # the mean and three images; noisy and three arms
    own = [r["psnr"] for r in rows if r["arm"] == "silent" and r["image"] != "mean"]
    np.testing.assert_allclose(own, clipped, rtol=1e-5)
    drawn = ctx.figures["pictures"].axes
    assert len(drawn) == 3 * 5
    titles = [ax.get_title().split()[0] for ax in drawn[:5]]
    assert titles == ["noisy", "file", "run", "silent", "clean"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"arms": {}}, "config.arms is empty"),
        ({"denoise": {"stream": "test"}}, "denoise lacks 'pictures'"),
        ({"denoise.stream": "tst"}, "'tst' is not in config.data: did you mean 'test'"),
        ({"denoise.baseline": "b"}, r"denoise\.baseline='b' is no arm: choose from a"),
        (
            {"denoise.judges": {"deeplab": {"file": "x.tflite"}}},
            r"denoise\.judges\.deeplab lacks 'classes'",
        ),
        ({"data.test.batch_size": 2}, "data.test.batch_size must be 1 here, got 2"),
    ],
)
def test_sections_that_do_not_fit_are_named(config, change, match):
    config.arms = {"a": "r"}
    with config.unlocked():
        for key, value in change.items():
            *sections, last = key.split(".")
            node = config
            for section in sections:
                node = node[section]
            node[last] = value
    with pytest.raises(ConfigError, match=match):
        denoise(config, Context({}))
