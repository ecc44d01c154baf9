"""An exported program is the model, or there is no file."""

import json
import sys

import jax
import jax.export
import numpy as np
import pytest

import zoo_jax
from zoo_jax.core.errors import ConfigError, ZooError
from zoo_jax.export import export_model

NAME = "deep_k_means/digits_cnn"


@pytest.fixture(scope="module")
def model():
    return zoo_jax.create_model(NAME, widths=(3,), strides=(2,), num_classes=4)


def load(path):
    return jax.export.deserialize(bytearray(path.read_bytes()))


def image(batch):
    return np.random.default_rng(batch).random((batch, 28, 28, 1), np.float32)


def test_an_open_batch_size_takes_any_batch(model, tmp_path):
    path = tmp_path / "m.stablehlo"
    facts = export_model(model, path)
    program = load(path)
    for batch in (1, 2, 5):
        np.testing.assert_allclose(
            program.call(image(batch)), model(image(batch)), rtol=1e-5, atol=1e-5
        )
    assert facts["inputs"] == [{"shape": ["b", 28, 28, 1], "dtype": "float32"}]
    assert facts["outputs"] == [{"shape": ["b", 4], "dtype": "float32"}]
    assert facts["bytes"] == path.stat().st_size
    assert json.loads((tmp_path / "m.stablehlo.json").read_text()) == facts


def test_a_fixed_batch_size_and_several_platforms(model, tmp_path):
    path = tmp_path / "m.stablehlo"
    facts = export_model(model, path, batch=3, platforms=["cuda", "tpu"])
    assert facts["platforms"] == ["cuda", "tpu", "cpu"]  # this one checked it
    program = load(path)
    assert program.platforms == ("cuda", "tpu", "cpu")
    assert program.in_avals[0].shape == (3, 28, 28, 1)
    np.testing.assert_allclose(
        program.call(image(3)), model(image(3)), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("kw", "message"),
    [
        ({"batch": 0}, "at least 1, got 0"),
        ({"platforms": ["gpu"]}, "unknown platform 'gpu': choose from cpu, cuda"),
    ],
)
def test_wrong_requests_are_refused(model, tmp_path, kw, message):
    with pytest.raises(ConfigError, match=message):
        export_model(model, tmp_path / "m", **kw)


def test_without_flatbuffers_the_error_says_how_to_get_it(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ZooError, match=r'pip install "zoo-jax\[export\]"'):
        export_model(model, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", ["noise", "nan"])
def test_a_program_that_disagrees_is_not_written(model, tmp_path, monkeypatch, wrong):
    original = jax.export.deserialize

    class Wrong:
        def __init__(self, data):
            self.right = original(data)

        def call(self, x):
            return self.right.call(x) + (1e-2 if wrong == "noise" else np.nan)

    monkeypatch.setattr(jax.export, "deserialize", Wrong)
    with pytest.raises(ZooError, match="nothing was written"):
        export_model(model, tmp_path / "m", batch=2)
    assert list(tmp_path.iterdir()) == []


class FixedBatch:
    """Stands in for a network that computes with its batch size as with a number."""

    def apply(self, variables, x, *, train):
        return x * float(x.shape[0])


def test_a_network_that_needs_its_batch_size_says_so(tmp_path):
    model = zoo_jax.Model(NAME, FixedBatch(), {})
    with pytest.raises(ZooError, match="open batch size, give a number: ") as error:
        export_model(model, tmp_path / "m")
    assert "\n" not in str(error.value)
    assert export_model(model, tmp_path / "m", batch=2)["relative_difference"] == 0
