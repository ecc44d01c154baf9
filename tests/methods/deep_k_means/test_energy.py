import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.methods.deep_k_means.clustered import Clustered
from zoo_jax.methods.deep_k_means.energy import (
    NOTE,
    Hardware,
    Layer,
    energy_table,
    layer_energy,
    products_left,
    trace_layers,
)
from zoo_jax.methods.deep_k_means.model import build_digits_cnn, build_lenet_caffe_5
from zoo_jax.metrics.cost import count_macs
from zoo_jax.optim.samples import sample_shape

# 3x3 kernel, 2 inputs, 4 outputs, from 5x6 to 3x4 pixels: D = 18, 18 * 3 * 4 * 4 products.
CONV = Layer("conv/kernel", (3, 3, 2, 4), (5, 6, 2), (3, 4, 4), bias=4)
DENSE = Layer("dense/kernel", (6, 5), (6,), (5,))
# Everything but one cost at zero.
FREE = dict(mac=0.0, register=0.0, array=0.0, buffer=0.0, dram=0.0)


def clusters(layer, k, samples="row", row_length=None, seed=0):
    n, d = sample_shape(layer.kernel, samples, row_length)
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    codebook = rng.normal(size=(k, d)).astype(np.float32)
    return Clustered(codebook, rng.permutation(labels), samples, row_length)


def test_computation_of_a_hand_computed_layer():
    assert CONV.macs == 864
    # 864 products of 8 x 4 bits; 48 outputs of 17 additions of 8 + 4 + ceil(log2 18) - 1
    # bits; one 16-bit multiply-add takes 256 + 31 adders.
    adders = 864 * 32 + 48 * 17 * (8 + 4 + 5 - 1)
    hardware = Hardware(weight_bits=4, activation_bits=8, **FREE | {"mac": 1.0})
    got = layer_energy(CONV, variant="dense", hardware=hardware)
    assert got.total == got.computation == pytest.approx(adders / 287)
    double = Hardware(weight_bits=4, activation_bits=8, **FREE | {"mac": 2.0})
    twice = layer_energy(CONV, variant="dense", hardware=double)
    assert twice.total == pytest.approx(2 * adders / 287)


def test_traffic_of_a_hand_computed_layer():
    hardware = Hardware(
        weight_bits=8, activation_bits=4, **FREE | {"dram": 200.0, "buffer": 6.0}
    )
    dense = layer_energy(CONV, variant="dense", hardware=hardware)
    # 72 weights and 4 biases of 8 bits, 60 inputs and 48 outputs of 4 bits, words of 16.
    assert dense.weight_bits == 76 * 8
    assert dense.weight_traffic == pytest.approx(206 * 76 * 8 / 16)
    assert dense.activation_traffic == pytest.approx(206 * 108 * 4 / 16)
    assert dense.total == pytest.approx(dense.weight_traffic + dense.activation_traffic)

    # 24 rows of 3; three in four are centre 0, the others centres 1 to 3 in equal parts.
    labels = np.array([0] * 18 + [1, 2, 3] * 2)
    shared = Clustered(np.eye(4, 3, dtype=np.float32), labels)
    entropy = -(0.75 * math.log2(0.75) + 3 * (1 / 12) * math.log2(1 / 12))
    fixed = layer_energy(CONV, shared, variant="fixed", hardware=hardware)
    coded = layer_energy(CONV, shared, variant="entropy", hardware=hardware)
    plain = 12 * 8 + 4 * 8  # codebook and biases
    assert fixed.weight_bits == plain + 24 * 2
    assert coded.weight_bits == pytest.approx(plain + 24 * entropy)
    assert fixed.weight_traffic == pytest.approx(206 * (plain + 48) / 16)
    # Behind the far memory the indices have a fixed length again.
    assert coded.weight_traffic == pytest.approx(
        200 * (plain + 24 * entropy) / 16 + 6 * (plain + 48) / 16
    )
    assert fixed.activation_traffic == coded.activation_traffic


def test_maps_that_stay_on_the_chip_cost_no_far_memory():
    near = Hardware(activation_levels=("buffer", "register"))
    got = layer_energy(CONV, variant="dense", hardware=near)
    assert got.activation_traffic == pytest.approx((6 + 1) * 108)
    assert got.weight_traffic == pytest.approx((200 + 6 + 2 + 1) * 76)


def count_by_hand(layer, labels, samples, row_length):
    """Every product of the convolution in turn; equal sample on equal input counts once."""
    _, d = sample_shape(layer.kernel, samples, row_length)
    seen = set()
    if len(layer.kernel) == 2:
        table = labels.reshape(layer.kernel[1], -1)
        for o, i in np.ndindex(*table.shape):
            seen.add((i, table[o, i]))
        return len(seen) * d
    kh, kw, i, o = layer.kernel
    groups = layer.inputs[-1] // i
    sh, sw = layer.strides or (1, 1)
    shape = {
        "row": (o, i, kh, 1),
        "scalar": (o, i, kh, kw),
        "kernel2d": (o, i, 1, 1),
        "filter": (o, 1, 1, 1),
    }[samples]
    table = labels.reshape(shape)
    for y, x in np.ndindex(*layer.outputs[:2]):
        for oo, ii, r, c in np.ndindex(*shape):
            place = (oo // (o // groups), ii, sh * y + r, sw * x + c)
            seen.add((*place, table[oo, ii, r, c]))
    return len(seen) * d


@pytest.mark.parametrize("samples", ["row", "kernel2d", "filter", "scalar"])
@pytest.mark.parametrize(
    "layer",
    [
        CONV,
        CONV._replace(strides=(2, 1), outputs=(4, 3, 4)),
        Layer("wide", (2, 3, 1, 4), (9, 9, 1), (3, 2, 4), (3, 2)),
        Layer("groups", (3, 1, 2, 6), (4, 5, 6), (4, 5, 6)),
        Layer("point", (1, 1, 5, 3), (4, 2, 5), (2, 1, 3), (2, 2)),
    ],
    ids=["plain", "strided", "wide", "groups", "point"],
)
def test_products_left_equal_a_count_one_by_one(layer, samples):
    n, _ = sample_shape(layer.kernel, samples)
    shared = clusters(layer, min(3, n), samples)
    got = products_left(layer, shared.labels, samples, None)
    assert got == count_by_hand(layer, shared.labels, samples, None)
    alone = products_left(layer, np.arange(n), samples, None)
    assert got <= alone == layer.macs


@pytest.mark.parametrize(("samples", "length"), [("row", 2), ("scalar", None)])
def test_products_left_of_dense_layers(samples, length):
    shared = clusters(DENSE, 2, samples, length)
    got = products_left(DENSE, shared.labels, samples, length)
    assert got == count_by_hand(DENSE, shared.labels, samples, length) < DENSE.macs


def test_one_centre_multiplies_every_input_row_once():
    labels = np.zeros(24, int)
    # 5 input rows of 2 channels, 4 places along the row, 3 products each.
    assert products_left(CONV, labels, "row", None) == 5 * 2 * 4 * 3


def test_shared_rows_save_products_and_no_additions():
    hardware = Hardware(**FREE | {"mac": 1.0})
    shared = clusters(CONV, 3)
    dense = layer_energy(CONV, shared, variant="dense", hardware=hardware)
    coded = layer_energy(CONV, shared, variant="entropy", hardware=hardware)
    assert dense.products == CONV.macs > coded.products
    saved = (dense.products - coded.products) * 256 / 287
    assert dense.total - coded.total == pytest.approx(saved)


def test_layers_of_a_network_are_found_in_its_program():
    module = build_digits_cnn(widths=(4, 6), strides=(2, 1))
    x = jax.ShapeDtypeStruct((1, 8, 6, 1), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    stats = {"batch_stats": variables["batch_stats"]}

    def f(params, x):
        return module.apply({"params": params, **stats}, x)

    stats = jax.tree.map(lambda s: jnp.zeros(s.shape), stats)
    layers = trace_layers(f, variables["params"], x)
    assert layers == [
        Layer("conv1/kernel", (3, 3, 1, 4), (8, 6, 1), (4, 3, 4), (2, 2)),
        Layer("conv2/kernel", (3, 3, 4, 6), (4, 3, 4), (4, 3, 6), (1, 1)),
        Layer("linear/kernel", (6, 10), (6,), (10,), (), 10),
    ]
    assert sum(layer.macs for layer in layers) == count_macs(f, variables["params"], x)


def test_bfloat16_kernels_are_found_behind_their_casts():
    module = build_lenet_caffe_5(dtype=jnp.bfloat16)
    x = jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    layers = trace_layers(lambda p, x: module.apply({"params": p}, x), params, x)
    assert [layer.name for layer in layers] == [
        f"{name}/kernel" for name in ("conv1", "conv2", "ip1", "ip2")
    ]
    assert [layer.bias for layer in layers] == [20, 50, 500, 10]


def test_products_that_are_no_layers_are_not_left_out_in_silence():
    def attention(params, x):
        y = x @ params["w"]
        return y @ y.T

    params, x = {"w": jnp.zeros((3, 4))}, jnp.zeros((1, 3))
    with pytest.raises(ValueError, match="4 multiply-adds are not those of a layer"):
        trace_layers(attention, params, x)
    with pytest.raises(ValueError, match="24 multiply-adds"):
        trace_layers(lambda p, x: x @ p["w"], params, jnp.zeros((2, 3)))


def test_the_table_sums_layers_and_says_what_it_is():
    shared = {CONV.name: clusters(CONV, 3)}
    rows = energy_table([CONV, DENSE], shared)
    assert len(rows) == 9
    assert {row["note"] for row in rows} == {NOTE} == {"model, not measurement"}
    for variant in ("dense", "fixed", "entropy"):
        own = [row for row in rows if row["variant"] == variant]
        *layers, total = own
        assert total["layer"] == "all"
        for key in ("macs", "products", "weight_bits", "computation", "total"):
            assert total[key] == pytest.approx(sum(row[key] for row in layers))
        # The plain layer is the same in every variant.
        assert layers[1]["total"] == layer_energy(DENSE, variant="dense").total
    sums = {row["variant"]: row["total"] for row in rows if row["layer"] == "all"}
    assert sums["dense"] > sums["fixed"] > sums["entropy"]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: Hardware(weight_bits=0), "weight_bits must be 1 or more, got 0"),
        (lambda: Hardware(dram=-1.0), "cost dram must be 0 or more, got -1.0"),
        (lambda: Hardware(weight_levels=("dran",)), "'dran': did you mean 'dram'"),
        (lambda: layer_energy(CONV, variant="coded"), "unknown variant 'coded'"),
        (
            lambda: energy_table([CONV], {"conf/kernel": clusters(CONV, 2)}),
            "no layer 'conf/kernel': did you mean 'conv/kernel'",
        ),
    ],
)
def test_mistakes_are_one_clear_line(call, match):
    with pytest.raises(ConfigError, match=match):
        call()


def test_labels_of_another_kernel_are_refused():
    with pytest.raises(ValueError, match="8 labels for 24 samples"):
        products_left(CONV, np.zeros(8, int), "row", None)
