"""The published Wide ResNet against outputs of the published PyTorch code.

The golden file holds outputs only: weights and inputs follow from ``rule.py``.
"""

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.convert import apply, invert
from zoo_jax.core.errors import WeightsError
from zoo_jax.core.tree import count_parameters, named_leaves
from zoo_jax.methods.deep_k_means.convert import (
    digits_cnn_table,
    lenet_caffe_5_table,
    wide_resnet_table,
)
from zoo_jax.methods.deep_k_means.model import (
    build_digits_cnn,
    build_lenet_caffe_5,
    build_wide_resnet,
)


@pytest.fixture(scope="module")
def golden(root):
    folder = root / "tests" / "fixtures" / "golden"
    spec = importlib.util.spec_from_file_location("golden_rule", folder / "rule.py")
    rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)
    stored = np.load(folder / "deep_k_means_wide_resnet_16_4.npz")
    meta = json.loads(str(stored["meta"]))
    weights = rule.weights(meta["manifest"], meta["seed"], meta["gain"])
    kind, shape, options = meta["inputs"]["x"]
    image = getattr(rule, kind)(shape, meta["seed"], **options)
    return rule, stored, meta, weights, jnp.asarray(image.transpose(0, 2, 3, 1))


@pytest.fixture(scope="module")
def module():
    return build_wide_resnet(dropout=0.0)


@pytest.fixture(scope="module")
def template(module):
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    return dict(jax.eval_shape(module.init, jax.random.key(0), x))


@pytest.fixture(scope="module")
def outputs(golden, module, template):
    """Everything the golden file knows, computed here, in PyTorch's layout."""
    _, _, _, weights, image = golden
    variables = apply(wide_resnet_table(), weights, template)
    with jax.default_matmul_precision("highest"):
        logits, state = jax.jit(
            lambda v, x: module.apply(
                v, x, capture_intermediates=True, mutable=["intermediates"]
            )
        )(variables, image)
        train_logits, updated = jax.jit(
            lambda v, x: module.apply(v, x, train=True, mutable=["batch_stats"])
        )(variables, image)
    inner = named_leaves(state["intermediates"])
    out = {"logits": logits, "train_no_dropout/logits": train_logits}
    for name, ours in {
        "conv1": "conv1",
        "layer1": "layer1_1",
        "layer2": "layer2_1",
        "layer3": "layer3_1",
        "bn1": "bn1",
    }.items():
        out[name] = inner[f"{ours}/__call__/0"].transpose(0, 3, 1, 2)
    running = invert(
        wide_resnet_table(),
        {"params": variables["params"], "batch_stats": updated["batch_stats"]},
    )
    return out | {f"updated/{key}": value for key, value in running.items()}


NAMES = [
    *(
        "conv1",
        "layer1",
        "layer2",
        "layer3",
        "bn1",
        "logits",
        "train_no_dropout/logits",
    ),
    *(f"updated/bn1.running_{s}" for s in ("mean", "var")),
    *(f"updated/layer1.0.bn1.running_{s}" for s in ("mean", "var")),
]


@pytest.mark.parametrize("name", NAMES)
def test_outputs_agree_with_the_published_code(name, golden, outputs):
    rule, stored, meta, *_ = golden
    expected = stored[f"out/{name}"].reshape(-1)
    got = np.asarray(outputs[name]).reshape(-1)
    how = meta["outputs"][name]
    if how["stored"] != "full":
        got = rule.sample(got, int(how["stored"].split(":")[1]))
    # Set in the file: ten times what the reference itself loses in float32.
    assert np.abs(got - expected).max() <= how["atol"]


def test_all_golden_outputs_are_compared(golden):
    assert sorted(golden[2]["outputs"]) == sorted(NAMES)


def test_the_number_of_parameters_is_the_published_one(golden, template):
    assert golden[2]["parameters"] == count_parameters(template["params"]) == 2_751_146


def test_old_files_without_batch_counters_are_read_alike(golden, template):
    weights = golden[3]
    old = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    assert len(old) == len(weights) - 13
    a, b = (apply(wide_resnet_table(), w, template) for w in (weights, old))
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_missing_and_foreign_keys_are_named_together(golden, template):
    weights = dict(golden[3])
    del weights["layer3.0.shortcut.0.weight"]
    weights["layer4.0.conv1.weight"] = np.zeros((1, 1, 3, 3), np.float32)
    with pytest.raises(WeightsError) as error:
        apply(wide_resnet_table(), weights, template)
    assert "layer3.0.shortcut.0.weight" in str(error.value)
    assert "layer4.0.conv1.weight" in str(error.value)


@pytest.mark.parametrize(
    ("module", "table", "image"),
    [
        (build_wide_resnet(depth=10, widen=1), wide_resnet_table(10), (8, 8, 3)),
        (build_lenet_caffe_5(), lenet_caffe_5_table(), (28, 28, 1)),
        (build_digits_cnn(), digits_cnn_table(), (28, 28, 1)),
        (
            build_digits_cnn(widths=(4, 6), strides=(1, 2)),
            digits_cnn_table((4, 6)),
            (8, 8, 1),
        ),
    ],
)
def test_networks_survive_the_way_there_and_back(module, table, image):
    x = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda s: rng.normal(size=s.shape).astype(np.float32), dict(shapes)
    )
    back = apply(table, invert(table, variables), shapes)
    jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_lenets_first_dense_layer_reads_the_maps_in_pytorchs_order():
    module = build_lenet_caffe_5()
    rng = np.random.default_rng(0)
    shapes = {
        **{"conv1.weight": (20, 1, 5, 5), "conv1.bias": (20,)},
        **{"conv2.weight": (50, 20, 5, 5), "conv2.bias": (50,)},
        **{"ip1.weight": (500, 800), "ip1.bias": (500,)},
        **{"ip2.weight": (10, 500), "ip2.bias": (10,)},
    }
    w = {k: rng.normal(size=s, scale=0.1).astype(np.float32) for k, s in shapes.items()}
    image = rng.random((3, 28, 28, 1), np.float32)
    with jax.default_matmul_precision("highest"):
        # The same network channels first, without any change of layout.
        x = jnp.asarray(image.transpose(0, 3, 1, 2))
        for i in (1, 2):
            x = jax.lax.conv(x, w[f"conv{i}.weight"], (1, 1), "VALID")
            x += w[f"conv{i}.bias"].reshape(1, -1, 1, 1)
            b, c, h, _ = x.shape
            x = x.reshape(b, c, h // 2, 2, h // 2, 2).max((3, 5))
        x = x.reshape(3, -1) @ w["ip1.weight"].T + w["ip1.bias"][None]
        expected = jax.nn.relu(x) @ w["ip2.weight"].T + w["ip2.bias"][None]
        template = jax.eval_shape(module.init, jax.random.key(0), image)
        got = module.apply(apply(lenet_caffe_5_table(), w, template), image)
    # float32 sums of up to 800 products.
    np.testing.assert_allclose(got, expected, atol=2e-5 * np.abs(expected).max())
