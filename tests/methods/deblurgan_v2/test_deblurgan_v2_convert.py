"""Published layouts of DeblurGAN-v2: every key accounted for, and one line for each misfit."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from golden import Golden

from zoo_jax import cli, convert, models
from zoo_jax.core.errors import ConfigError, WeightsError
from zoo_jax.core.tree import named_leaves
from zoo_jax.methods.deblurgan_v2.convert import load_backbone, load_vgg19
from zoo_jax.methods.deblurgan_v2.model import build_resnet9
from zoo_jax.nn.vgg import Vgg19Features

MOBILENET = "deblurgan_v2/fpn_mobilenet"


@functools.cache
def published(name):
    """Every array of a published file, by its key."""
    return Golden(f"deblurgan_v2_{name}.npz").weights


@functools.cache
def network(name):
    module = models.build_module(name)
    template = models.abstract_variables(name, module)
    return models.model_table(name, module), template


def trainable(keys, weights):
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    return sum(weights[k].size for k in keys if not k.endswith(buffers))


@pytest.mark.parametrize(
    ("name", "keys", "copies", "parameters", "used"),
    [
        ("fpn_mobilenet", 622, 270, 3_312_707, 2_106_627),
        ("fpn_inception", 2384, 1038, 60_929_291, 35_840_099),
        ("fpn_inception_simple", 2369, 1038, 59_159_051, 34_069_859),
    ],
)
def test_every_key_of_a_published_file_has_its_use(
    name, keys, copies, parameters, used
):
    table, template = network(f"deblurgan_v2/{name}")
    weights = published(name)
    found = convert.match(table, weights, template)
    assert found.problems() == ""
    assert len(weights) == keys
    assert len(found.copies) == copies
    matched = [key for key, _ in found.matched]
    assert len(matched) + len(found.copies) + len(found.ignored) == keys
    assert trainable(matched, weights) == used
    assert trainable([*matched, *found.ignored], weights) == parameters
    # What is left out is named: blocks that never run, and counters.
    assert any("features.17" in k or "block8" in k for k in found.ignored)


def as_data_parallel(weights):
    return {f"module.{k}": v for k, v in weights.items()}


def as_nested(weights):
    return {"epoch": 3, "model": as_data_parallel(weights)}


def without_counters(weights):
    return {k: v for k, v in weights.items() if "num_batches" not in k}


def without_copies(weights):
    return {k: v for k, v in weights.items() if ".enc" not in k}


def without_originals(weights):
    """Safetensors files of shared tensors keep the name that comes first: the copy's."""
    whole = {k for k in weights if k.startswith("fpn.features.")}
    return {
        k: v
        for k, v in weights.items()
        if k not in whole or int(k.split(".")[2]) > 15  # these have no copy
    }


@pytest.fixture(scope="module")
def variables():
    table, template = network(MOBILENET)
    return convert.apply(table, published("fpn_mobilenet"), template)


@pytest.mark.parametrize(
    "change",
    [
        as_data_parallel,
        as_nested,
        without_counters,
        without_copies,
        without_originals,
    ],
)
def test_each_way_to_publish_gives_the_same_network(change, variables):
    weights = change(published("fpn_mobilenet"))
    model = models.create_model(MOBILENET, weights=weights)
    jax.tree.map(np.testing.assert_array_equal, model.variables, variables)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_torch_file_named_h5_is_read(legacy, variables, tmp_path):
    torch = pytest.importorskip("torch")
    weights = as_data_parallel(published("fpn_mobilenet"))
    tensors = {k: torch.from_numpy(np.array(v)) for k, v in weights.items()}
    torch.save(
        {"model": tensors},
        tmp_path / "fpn_mobilenet.h5",
        _use_new_zipfile_serialization=not legacy,
    )
    model = models.create_model(MOBILENET, weights=tmp_path / "fpn_mobilenet.h5")
    jax.tree.map(np.testing.assert_array_equal, model.variables, variables)


def test_the_published_keys_come_back_without_their_copies(variables):
    table, _ = network(MOBILENET)
    back, weights = convert.invert(table, variables), published("fpn_mobilenet")
    assert len(back) == 260
    assert not any(".enc" in k or "features.16." in k for k in back)
    for key, array in back.items():
        np.testing.assert_array_equal(array, weights[key])


def one_line(weights, name=MOBILENET):
    with pytest.raises(WeightsError) as error:
        models.create_model(name, weights=weights)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_copy_that_differs_is_named_with_its_original():
    key = "module.fpn.enc2.1.conv.3.weight"
    weights = as_data_parallel(published("fpn_mobilenet"))
    weights[key] = weights[key] + 1e-6
    text = one_line(weights)
    assert "1 arrays that do not fit" in text
    assert f"{key} (is not the copy of module.fpn.features.5.conv.3.weight" in text


def test_missing_and_foreign_keys_are_named_together():
    weights = without_copies(published("fpn_mobilenet"))
    weights["fpn.td4.0.weight"] = weights.pop("fpn.td3.0.weight")
    del weights["fpn.features.9.conv.6.weight"]
    text = one_line(weights)
    assert "no place for: fpn.td4.0.weight" in text
    assert "fpn.features.9.conv.6.weight" in text
    assert "fpn.td3.0.weight" in text


def test_weights_of_the_other_backbone_are_refused():
    text = one_line(published("fpn_mobilenet"), "deblurgan_v2/fpn_inception")
    assert "no place for: fpn.features.0.0.weight" in text
    assert "missing: fpn.inception.conv2d_1a.conv.weight" in text
    # Top-down convolutions that the simple network has no place for.
    text = one_line(published("fpn_inception"), "deblurgan_v2/fpn_inception_simple")
    assert "12 keys that the network has no place for: fpn.td1.0.weight" in text


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("deblurgan_v2/fpn_mobilenet_dsc", {}),
        ("deblurgan_v2/plain_residual", {}),
        (MOBILENET, {"decoder": "separable"}),
    ],
)
def test_networks_without_published_weights_say_so(name, overrides):
    with pytest.raises(WeightsError, match="has no published layout; give a folder"):
        models.create_model(name, weights=published("fpn_mobilenet"), **overrides)


def test_converting_reports_what_was_left_out(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("w.npz", **as_data_parallel(published("fpn_mobilenet")))
    command = [
        "convert",
        "--model",
        MOBILENET,
        "w.npz",
        "-o",
        "out",
        "--json",
        "c.json",
    ]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "270 repeat another key" in out
    assert "module.fpn.features.18.0.weight" in out
    assert "2,106,627 parameters" in out
    report = json.loads((tmp_path / "c.json").read_text())
    assert len(report["copies"]) == 270
    assert len(report["matched"]) == 260


def as_backbone(prefix, weights):
    """What a classifier's file holds: the backbone's own keys, and layers behind it."""
    own = {
        k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)
    }
    return own | {"classifier.1.weight": np.zeros((3, 2), np.float32)}


def as_torchvision(weights):
    """There a convolution, its norm and ReLU6 are one module; the last one is bare."""
    out = {}
    for key, array in weights.items():
        parts = key.split(".")
        if parts[0] == "features" and parts[2] == "conv":
            layer, part = divmod(int(parts[3]), 3)
            last = layer == (1 if parts[1] == "1" else 2)
            parts[3] = f"{layer + part}" if last else f"{layer}.{part}"
        out[".".join(parts)] = array
    assert len(out) == len(weights)
    return out


@pytest.mark.parametrize("change", [dict, as_data_parallel, as_torchvision])
def test_a_mobilenet_of_either_layout_becomes_the_backbone(change, variables, tmp_path):
    features = {
        k: v for k, v in published("fpn_mobilenet").items() if ".features." in k
    }
    np.savez(tmp_path / "w.npz", **change(as_backbone("fpn.", features)))
    got = load_backbone(tmp_path / "w.npz", models.build_module(MOBILENET))
    assert set(got) == {"params", "batch_stats"}
    for kind, tree in got.items():
        jax.tree.map(np.testing.assert_array_equal, tree, variables[kind]["backbone"])


def test_an_inception_resnet_becomes_the_backbone(tmp_path):
    name = "deblurgan_v2/fpn_inception"
    np.savez(
        tmp_path / "w.npz", **as_backbone("fpn.inception.", published("fpn_inception"))
    )
    got = load_backbone(tmp_path / "w.npz", models.build_module(name))
    whole = convert.apply(
        network(name)[0], published("fpn_inception"), network(name)[1]
    )
    for kind, tree in got.items():
        jax.tree.map(np.testing.assert_array_equal, tree, whole[kind]["backbone"])


def test_a_generator_without_a_backbone_or_with_another_one_says_so(tmp_path):
    with pytest.raises(ConfigError, match="ResNetGenerator has none, leave it empty"):
        load_backbone(tmp_path / "w.npz", build_resnet9())
    inception = as_backbone("fpn.inception.", published("fpn_inception"))
    np.savez(tmp_path / "w.npz", **{k: inception[k] for k in list(inception)[:9]})
    with pytest.raises(WeightsError, match=r"no place for: conv2d_1a\.conv\.weight"):
        load_backbone(tmp_path / "w.npz", models.build_module(MOBILENET))


@pytest.fixture(scope="module")
def vgg():
    return Golden("deblurgan_v2_perceptual.npz").weights


def test_vgg_is_read_with_and_without_the_layers_behind(vgg, tmp_path):
    more = {
        "features.16.weight": np.zeros((2, 3), np.float32),
        "features.34.bias": np.zeros(2, np.float32),
        "classifier.6.weight": np.zeros((2, 2), np.float32),
    }
    trees = []
    for i, weights in enumerate((vgg, vgg | more)):
        path = tmp_path / f"{i}.safetensors"
        path.write_bytes(safetensors.numpy.save(weights))
        trees.append(load_vgg19(path))
    jax.tree.map(np.testing.assert_array_equal, *trees)
    np.testing.assert_array_equal(
        trees[0]["conv3_3"]["kernel"],
        vgg["features.14.weight"].transpose(2, 3, 1, 0),
    )
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    template = jax.eval_shape(Vgg19Features().init, jax.random.key(0), x)
    assert named_leaves(template["params"]).keys() == named_leaves(trees[0]).keys()


def test_a_file_that_is_no_vgg_is_refused_in_one_line(vgg, tmp_path):
    path = tmp_path / "vgg.safetensors"
    short = {k: v for k, v in vgg.items() if not k.startswith("features.12.")}
    path.write_bytes(safetensors.numpy.save(short))
    with pytest.raises(
        WeightsError, match=r"missing: features\.12\.weight, .*12\.bias"
    ):
        load_vgg19(path)
    with pytest.raises(WeightsError, match="no such weights file"):
        load_vgg19(tmp_path / "absent.pth")
