"""The published winners and encodings of WeakNAS against outputs of the released code.

The golden files of networks hold outputs only: weights and inputs follow from ``rule.py``.
"""

import hashlib
import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.core.tree import count_parameters, named_leaves
from zoo_jax.methods.weaknas.model import build_mobilenet_v3_ofa
from zoo_jax.methods.weaknas.spaces import nas_bench_101
from zoo_jax.methods.weaknas.spaces.ofa_mobilenet_v3 import (
    WINNERS,
    count_costs,
)
from zoo_jax.metrics.cost import count_macs
from zoo_jax.models import create_model

FILES = {name: f"weaknas_ofa_mbv3_{name}.npz" for name in WINNERS}
INNER = {
    "800": ("first_conv", "blocks.0", "blocks.1", "blocks.9", "blocks.18"),
    "1000": ("first_conv", "blocks.0", "blocks.1", "blocks.9", "blocks.17"),
}
LAST = ("final_expand_layer", "feature_mix_layer", "logits")


@pytest.fixture(scope="module")
def folder(root):
    return root / "tests" / "fixtures" / "golden"


@pytest.fixture(scope="module")
def rule(folder):
    spec = importlib.util.spec_from_file_location("golden_rule", folder / "rule.py")
    rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)
    return rule


@pytest.fixture(scope="module", params=sorted(WINNERS))
def run(request, folder, rule):
    """(name, golden file, its meta, every output computed here in PyTorch's layout)."""
    stored = np.load(folder / FILES[request.param])
    meta = json.loads(str(stored["meta"]))
    weights = rule.weights(meta["manifest"], meta["seed"], meta["gain"])
    kind, shape, options = meta["inputs"]["x"]
    image = getattr(rule, kind)(shape, meta["seed"], **options).transpose(0, 2, 3, 1)
    model = create_model(
        "weaknas/mobilenet_v3_ofa", weights=weights, winner=request.param
    )
    with jax.default_matmul_precision("highest"):
        logits, state = jax.jit(
            lambda v, x: model.module.apply(
                v, x, capture_intermediates=True, mutable=["intermediates"]
            )
        )(model.variables, jnp.asarray(image))
    inner = named_leaves(state["intermediates"])
    out = {"logits": np.asarray(logits)}
    for name in (*INNER[request.param], *LAST[:-1]):
        value = inner[f"{name.replace('blocks.', 'blocks_')}/__call__/0"]
        out[name] = np.asarray(value).transpose(0, 3, 1, 2)
    # The released layer contains the activation that stands behind ours.
    out["feature_mix_layer"] = np.asarray(jax.nn.hard_swish(out["feature_mix_layer"]))
    return request.param, stored, meta, out, model


def test_every_layer_agrees_with_the_released_network(run, rule):
    _, stored, meta, out, _ = run
    errors = {}
    for name, how in meta["outputs"].items():
        got = out[name].reshape(-1)
        if how["stored"] != "full":
            got = rule.sample(got, int(how["stored"].split(":")[1]))
        # Set in the file: ten times what the reference itself loses in float32.
        error = np.abs(got - stored[f"out/{name}"].reshape(-1)).max() / how["atol"]
        errors[name] = error
    assert max(errors.values()) <= 1, errors


def test_all_golden_outputs_are_compared(run):
    name, _, meta, *_ = run
    assert sorted(meta["outputs"]) == sorted((*INNER[name], *LAST))


def test_architecture_and_costs_are_the_published_ones(run):
    name, _, meta, _, model = run
    net, extra = WINNERS[name], meta["extra"]
    lists = [extra["config"][f"{k}_list"] for k in ("ks", "expand_ratio", "depth")]
    assert [list(part) for part in net] == lists
    assert count_parameters(model.variables["params"]) == meta["parameters"]
    arrays = [np.array([part]) for part in net]
    for size, macs in extra["conv_and_linear_macs"].items():
        counted, params = count_costs(*arrays, image_size=int(size))
        assert (int(counted[0]), int(params[0])) == (macs, meta["parameters"])


def test_counted_costs_are_those_of_the_traced_network():
    """For another sub-net, size and width than the published ones."""
    options = dict(
        kernels=[7, 3, 5, 3, 5] * 4,
        expansions=[3, 6, 4, 4, 6] * 4,
        depths=[3, 2, 4, 2, 3],
    )
    module = build_mobilenet_v3_ofa(**options, width=0.5, num_classes=7)
    x = jax.ShapeDtypeStruct((1, 75, 75, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    macs, params = count_costs(
        *(np.array([part]) for part in options.values()),
        **dict(image_size=75, width=0.5, num_classes=7),
    )
    assert count_macs(module.apply, variables, x) == macs[0]
    assert count_parameters(variables["params"]) == params[0]


@pytest.fixture(scope="module")
def encodings(folder):
    return np.load(folder / "nb101_encoding.npz")


ENCODINGS = nas_bench_101.get_args(nas_bench_101.Encoding)


def test_all_golden_encodings_are_compared(encodings):
    assert sorted(json.loads(str(encodings["meta"]))["encodings"]) == sorted(ENCODINGS)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_small_cells_are_encoded_as_by_the_released_code(encodings, encoding):
    ops = encodings["small/node_codes"].astype(int)
    ops = np.where(ops == 255, nas_bench_101.ABSENT, ops)
    got = nas_bench_101.encode(encodings["small/adjacency"], ops, encoding)
    np.testing.assert_array_equal(got, encodings[f"small/{encoding}"])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_all_500_cells_are_encoded_as_by_the_released_code(shared, encodings, encoding):
    table = shared("data", "nas_bench_101", "nas_bench_101_subset500.npz")
    arrays = nas_bench_101.read_table(table)
    got = nas_bench_101.encode(arrays["adjacency"], arrays["ops"], encoding)
    if encoding == "org":
        np.testing.assert_array_equal(got, encodings["full/org"])
        digest, expected = got.astype(np.uint8), encodings["full/org_sha256_uint8"]
    else:
        first = encodings[f"full/{encoding}_first20"]
        np.testing.assert_array_equal(got[:20], first)
        digest, expected = got.astype(np.int8), encodings[f"full/{encoding}_sha256"]
    assert hashlib.sha256(digest.tobytes()).hexdigest() == str(expected)
