"""Every network of the project goes into a compressed file and comes back bit for bit."""

import json
import math

import jax
import numpy as np
import pytest
import safetensors.numpy
from small_networks import SMALL_NETWORKS

import zoo_jax
from zoo_jax import cli, convert, models
from zoo_jax.core.tree import map_named, named_leaves
from zoo_jax.methods.deep_k_means import artefact
from zoo_jax.methods.deep_k_means.clustered import Clustered
from zoo_jax.methods.deep_k_means.compress_file import expand
from zoo_jax.optim.samples import sample_shape

LARGE = 1 << 17  # weights; whole filters of larger kernels are samples, to save time


def cut(shape):
    """How a kernel is cut into samples; None leaves it exact."""
    if len(shape) > 1 and math.prod(shape) > LARGE:
        return "filter", None
    if len(shape) == 2:
        return ("row", 2) if shape[0] % 2 == 0 else ("scalar", None)
    if len(shape) > 2:
        return ("row", None) if shape[-3] > 1 else ("scalar", None)
    return None


def network(name, codebook_dtype):
    """Made-up variables of a model whose kernels are clustered, and the clusters."""
    rng = np.random.default_rng(0)
    clustered = {}

    def fill(path, leaf):
        kind = cut(leaf.shape) if path.endswith("kernel") else None
        if kind is None:
            return rng.normal(0, 0.1, leaf.shape).astype(leaf.dtype)
        n, d = sample_shape(leaf.shape, *kind)
        k = min(2 + len(clustered) % 60, n)
        codebook = rng.normal(0, 0.1, (k, d)).astype(codebook_dtype).astype(leaf.dtype)
        codebook[0] = -0.0  # equals zero, and has other bits
        # Sums of two: some labels are frequent, as those of a core are.
        labels = rng.integers(0, k, n) * rng.integers(0, 2, n)
        clustered[path] = Clustered(codebook, labels, *kind)
        return clustered[path].restore(leaf.shape)

    # The pyramids come as they are: kernels of every shape.
    whole = name.startswith("deblurgan_v2/")
    small = {} if whole else SMALL_NETWORKS.get(name, {})
    template = models.abstract_variables(name, models.build_module(name, **small))
    return map_named(fill, template), clustered


def assert_same_bits(tree, other):
    left, right = named_leaves(tree), named_leaves(other)
    assert sorted(left) == sorted(right)
    for name, array in left.items():
        a, b = np.asarray(array), np.asarray(right[name])
        assert (a.shape, a.dtype) == (b.shape, b.dtype), name
        assert a.tobytes() == b.tobytes(), name


@pytest.mark.parametrize("name", models.list_models())
def test_load_of_save_is_the_network_bit_for_bit(name, tmp_path):
    half = len(name) % 2 == 0
    codebook_dtype = "float16" if half else "float32"
    variables, clustered = network(name, codebook_dtype)
    sizes = artefact.save_compressed(
        tmp_path / "a", variables, clustered, codebook_dtype=codebook_dtype
    )
    loaded, _ = artefact.load_compressed(tmp_path / "a")
    assert_same_bits(variables, loaded)
    dense = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(variables))
    assert sizes["indices"] > 0
    assert sizes["file"] < 0.8 * dense


def test_compressed_on_the_command_line_a_network_is_what_the_file_holds(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    name, k = "deep_k_means/cifar_resnet_20", 6
    variables, _ = network(name, "float32")
    table = models.model_table(name, models.build_module(name))
    published = convert.invert(table, variables)
    rng = np.random.default_rng(1)
    published = {  # distinct weights: k-means has work to do
        key: rng.normal(0, 0.1, array.shape).astype(np.float32)
        for key, array in published.items()
    }
    (tmp_path / "w.safetensors").write_bytes(safetensors.numpy.save(published))
    spec = [{"path": "*conv*", "num_clusters": k}]
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    command = ["compress", "w.safetensors", "-o", "w.zdkm", "--spec", "spec.json"]
    assert cli.main(command) == 0
    held, _ = expand("w.zdkm")
    model = zoo_jax.create_model(name, weights="w.zdkm")
    assert_same_bits(model.variables, convert.apply(table, held, variables))
    for key, array in held.items():
        if "conv" in key and array.ndim == 4:
            rows = np.unique(array.reshape(-1, array.shape[-1]), axis=0)
            assert 1 < len(rows) <= k, key
        else:
            assert array.tobytes() == published[key].tobytes(), key
    # And once more: what was loaded is stored and loaded without a change.
    clusters = {
        path: Clustered.of(leaf)
        for path, leaf in named_leaves(model.variables).items()
        if np.ndim(leaf) == 4
    }
    artefact.save_compressed("again.zdkm", model.variables, clusters)
    assert_same_bits(model.variables, artefact.load_compressed("again.zdkm")[0])
