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


@pytest.fixture(scope="module")
def deblur():
    """Takes multiples of 4; its transposed convolutions have a form for each backend."""
    return zoo_jax.create_model("deblurgan_v2/resnet9", width=4, blocks=1)


@pytest.fixture
def onnxruntime():
    for package in ("jax2onnx", "onnxruntime"):
        pytest.importorskip(package, reason='ONNX needs pip install "zoo-jax[onnx]"')
    return sys.modules["onnxruntime"]


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
        ({"size": (0, 5)}, "size must be at least 1, got 0"),
        ({"format": "onx"}, "unknown format 'onx': did you mean 'onnx'"),
        ({"format": "onnx", "platforms": ["cpu"]}, "platforms are for StableHLO"),
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


def signed(*shape):
    return np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)


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


def test_a_network_of_any_size_keeps_it_open_on_every_platform(deblur, tmp_path):
    path = tmp_path / "m.stablehlo"
    facts = export_model(deblur, path, platforms=["cuda"])
    assert facts["inputs"][0]["shape"] == ["b", "4*h", "4*w", 3]
    assert facts["outputs"][0]["shape"] == facts["inputs"][0]["shape"]
    program = load(path)
    assert program.platforms == ("cuda", "cpu")
    assert "stablehlo.case" in program.mlir_module()  # a form for each
    x = signed(2, 16, 12, 3)
    np.testing.assert_allclose(program.call(x), deblur(x), atol=1e-4)
    for wrong in (signed(1, 10, 12, 3), signed(1, 4, 12, 3)):  # no multiple; too small
        with pytest.raises(ValueError, match="shape"):
            program.call(wrong)


def test_a_size_fixes_the_image(deblur, tmp_path):
    path = tmp_path / "m.stablehlo"
    facts = export_model(deblur, path, batch=1, size=(16, 12))
    assert facts["inputs"][0]["shape"] == [1, 16, 12, 3]
    with pytest.raises(ConfigError, match="multiples of 4, got 10x12"):
        export_model(deblur, tmp_path / "n", size=(10, 12))
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["m.stablehlo", "m.stablehlo.json"]


def test_onnx_runs_elsewhere_and_agrees(onnxruntime, tmp_path):
    path = tmp_path / "m.onnx"
    plain = zoo_jax.create_model("deblurgan_v2/plain_residual", width=4, blocks=1)
    facts = export_model(plain, path, size=(16, 12))
    assert facts["format"] == "onnx"
    assert facts["inputs"] == [
        {"name": "input", "shape": ["b", 16, 12, 3], "dtype": "float32"}
    ]
    assert [o["name"] for o in facts["outputs"]] == ["output"]
    session = onnxruntime.InferenceSession(path.read_bytes())
    x = signed(2, 16, 12, 3)
    (got,) = session.run(None, {"input": x})
    np.testing.assert_allclose(got, plain(x), atol=1e-3)
    assert json.loads((tmp_path / "m.onnx.json").read_text()) == facts


def test_mirrored_borders_and_transposed_convolutions_reach_onnx(
    deblur, onnxruntime, tmp_path
):
    """The converter declares wrong shapes for the one and drops the dilation of the other."""
    path = tmp_path / "m.onnx"
    export_model(deblur, path, size=(16, 12))
    x = signed(2, 16, 12, 3)
    (got,) = onnxruntime.InferenceSession(path.read_bytes()).run(None, {"input": x})
    np.testing.assert_allclose(got, deblur(x), atol=1e-3)


def test_a_program_that_onnxruntime_refuses_is_one_line(
    model, onnxruntime, tmp_path, monkeypatch
):
    class Refusing:
        def __init__(self, *_, **__):
            raise RuntimeError("not this one\nand why")

    monkeypatch.setattr(onnxruntime, "InferenceSession", Refusing)
    with pytest.raises(ZooError, match=r"onnxruntime refuses .* StableHLO") as error:
        export_model(model, tmp_path / "m.onnx")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow  # four programs of 70 convolutions each
@pytest.mark.parametrize("suffix", [".stablehlo", ".onnx"])
def test_a_pyramid_is_exported_in_both_formats(onnxruntime, tmp_path, suffix):
    model = zoo_jax.create_model(
        "deblurgan_v2/fpn_mobilenet", pyramid=16, head=8, width=0.25
    )
    size = None if suffix == ".stablehlo" else (64, 96)
    facts = export_model(model, tmp_path / f"m{suffix}", batch=1, size=size)
    shape = [1, "32*h", "32*w", 3] if size is None else [1, 64, 96, 3]
    assert facts["inputs"][0]["shape"] == shape


@pytest.mark.slow  # two programs of 60 convolutions each
def test_the_inception_pyramid_reaches_onnx(onnxruntime, tmp_path):
    model = zoo_jax.create_model(
        "deblurgan_v2/fpn_inception", pyramid=8, head=4, blocks=(1, 1)
    )
    export_model(model, tmp_path / "m.onnx", size=(128, 128))


def test_the_format_may_be_named(model, onnxruntime, tmp_path):
    path = tmp_path / "m.program"
    facts = export_model(model, path, format="onnx", batch=2)
    session = onnxruntime.InferenceSession(path.read_bytes())
    (got,) = session.run(None, {"input": image(2)})
    np.testing.assert_allclose(got, model(image(2)), atol=1e-4)
    assert facts["inputs"][0]["shape"] == [2, 28, 28, 1]


def test_an_onnx_file_that_disagrees_is_not_written(
    model, onnxruntime, tmp_path, monkeypatch
):
    original = onnxruntime.InferenceSession

    class Wrong(original):
        def run(self, *arguments):
            return [1.01 * y for y in super().run(*arguments)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Wrong)
    with pytest.raises(ZooError, match="nothing was written"):
        export_model(model, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["jax2onnx", "onnxruntime"])
def test_without_its_packages_onnx_says_how_to_get_them(
    model, tmp_path, monkeypatch, package
):
    for name in ("jax2onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, sys)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ZooError, match=rf'{package}: pip install "zoo-jax\[onnx\]"'):
        export_model(model, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
