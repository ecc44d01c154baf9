import gzip
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from zoo_jax.core.tree import named_leaves, nest
from zoo_jax.methods.deep_k_means import artefact
from zoo_jax.methods.deep_k_means.accounting import (
    dense_file,
    gzip_bytes,
    index_entropy,
    reference_size,
)
from zoo_jax.methods.deep_k_means.clustered import Clustered
from zoo_jax.methods.deep_k_means.model import build_wide_resnet
from zoo_jax.optim.samples import sample_shape

# The published settings: K and the share p of each layer's core; three variants of one layer.
SETTINGS = {
    "conv1": (144, 0.0),
    "layer1_0/conv1": (90, 0.3),
    "layer1_0/conv2": (80, 0.4),
    "layer1_0/shortcut": (50, 0.5),
    "layer1_1/conv1": (30, 0.4),
    "layer1_1/conv2": (30, 0.4),
    "layer2_0/conv1": (100, 0.5),
    "layer2_0/conv2": (50, 0.5),
    "layer2_0/shortcut": (10, 0.5),
    "layer2_1/conv1": (50, 0.5),
    "layer2_1/conv2": (50, 0.5),
    "layer3_0/shortcut": (12, 0.5),
    "layer3_1/conv1": (7, 0.75),
    "layer3_1/conv2": (7, 0.9),
}
VARIANTS = {
    45: {"layer3_0/conv1": (30, 0.62), "layer3_0/conv2": (7, 0.9)},
    47: {"layer3_0/conv1": (7, 0.6), "layer3_0/conv2": (6, 0.9)},
    50: {"layer3_0/conv1": (7, 0.87), "layer3_0/conv2": (6, 0.9)},
}
# Ratios by entropy and by fixed length from an independent float64 computation, under the
# assumption that rows outside the core spread evenly over the other K - 1 centres.
EXPECTED = {
    45: (43.452860073420226, 22.310253266315335),
    47: (45.38257321489024, 23.496215846410397),
    50: (48.09497013414426, 23.496215846410397),
}


def even_labels(n, k, p):
    core = int(n * p)
    if not core:
        return np.arange(n) % k
    return np.concatenate([np.zeros(core, int), 1 + np.arange(n - core) % (k - 1)])


@pytest.fixture(scope="module")
def wide_resnet_params():
    module = build_wide_resnet()
    shapes = jax.eval_shape(
        module.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3), jnp.float32)
    )
    return shapes["params"]


@pytest.mark.parametrize("setting", VARIANTS)
def test_formula_gives_the_ratios_of_the_published_settings(
    setting, wide_resnet_params
):
    clustered = {}
    leaves = named_leaves(wide_resnet_params)
    for layer, (k, p) in (SETTINGS | VARIANTS[setting]).items():
        n, d = sample_shape(leaves[f"{layer}/kernel"].shape)
        clustered[f"{layer}/kernel"] = Clustered(np.zeros((k, d)), even_labels(n, k, p))
    entropy, fixed = EXPECTED[setting]
    size = reference_size(wide_resnet_params, clustered)
    assert size.original == 87_920_960
    assert size.ratio == pytest.approx(entropy, rel=1e-6)
    fixed_size = reference_size(wide_resnet_params, clustered, coding="fixed")
    assert fixed_size.ratio == pytest.approx(fixed, rel=1e-6)


def test_a_file_is_within_5_percent_of_the_formula_and_beats_gzip(wide_resnet_params):
    rng = np.random.default_rng(0)
    params, clustered = {}, {}
    for name, leaf in named_leaves(wide_resnet_params).items():
        array = rng.normal(0, 0.1, leaf.shape).astype(np.float32)
        k, core = (SETTINGS | VARIANTS[47]).get(name[: -len("/kernel")], (0, 0))
        if name.endswith("/kernel") and k:
            n, d = sample_shape(leaf.shape)
            labels = rng.permutation(even_labels(n, k, core))
            codebook = rng.normal(0, 0.1, (k, d)).astype(np.float32)
            clustered[name] = Clustered(codebook, labels)
            array = clustered[name].restore(leaf.shape)
        params[name] = array
    params = nest(params)
    data, _ = artefact.pack(params, clustered)
    formula = reference_size(params, clustered).compressed / 8
    # The formula leaves norms out, which the file must hold: 4 bytes each.
    leaves = named_leaves(params)
    norms = 4 * sum(
        leaf.size
        for name, leaf in leaves.items()
        if name.rpartition("/")[0] + "/kernel" not in leaves
    )
    assert norms > 10_000
    assert formula + norms < len(data) <= 1.05 * (formula + norms)
    assert len(data) < gzip_bytes(dense_file(params))


def test_stored_ratios_are_those_of_the_golden_file(shared):
    golden = np.load(shared("golden", "deep_k_means.npz"))
    for setting, expected in EXPECTED.items():
        np.testing.assert_allclose(golden[f"ratio/{setting}/ratios"][:2], expected)


def test_formula_by_hand():
    params = {
        "conv": {"kernel": np.zeros((3, 3, 2, 4)), "bias": np.zeros(4)},
        "norm": {"scale": np.zeros(4), "bias": np.zeros(4)},  # in neither sum
        "linear": {"kernel": np.zeros((4, 5)), "bias": np.zeros(5)},
    }
    # 24 rows of 3: half have the first centre, a quarter each of two others; one is unused.
    labels = np.repeat([0, 2, 3], [12, 6, 6])
    size = reference_size(params, {"conv/kernel": Clustered(np.zeros((4, 3)), labels)})
    assert size.original == 32 * (72 + 4 + 20 + 5)
    assert size.compressed == 32 * (3 * 3 + 4 + 20 + 5) + 24 * 1.5
    assert size.ratio == size.original / size.compressed


def test_a_single_centre_costs_no_indices():
    params = {"kernel": np.zeros((3, 3, 2, 4))}
    one = {"kernel": Clustered(np.zeros((1, 3)), np.zeros(24, int))}
    for coding in ("entropy", "fixed"):
        assert reference_size(params, one, coding=coding).compressed == 32 * 3


@pytest.mark.parametrize("k", [1, 2, 7, 300])
def test_entropy_is_that_of_scipy(k):
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(k)
    labels = rng.choice(k, 5_000, p=rng.dirichlet(np.ones(k)))
    expected = stats.entropy(np.bincount(labels), base=2)
    assert index_entropy(labels) == pytest.approx(expected, abs=1e-12)


def test_dense_file_holds_every_leaf():
    variables = {
        "params": {"net": {"kernel": jnp.arange(12.0).reshape(3, 4)}},
        "model_state": {"net": {"mean": np.arange(3, dtype=np.float32)}},
    }
    data = dense_file(variables)
    back = safetensors.numpy.load(data)
    assert back.keys() == named_leaves(variables).keys()
    np.testing.assert_array_equal(
        back["params/net/kernel"], variables["params"]["net"]["kernel"]
    )
    assert math.prod((3, 4)) * 4 + 12 < len(data) < 300
    assert gzip_bytes(data) == len(gzip.compress(data, 9, mtime=0))
