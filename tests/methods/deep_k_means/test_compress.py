"""Any network's arrays to a byte budget and back: search, exactness, refusals."""

import itertools
import runpy
import zlib

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError, WeightsError, ZooError
from zoo_jax.core.tree import named_leaves, nest
from zoo_jax.methods.deep_k_means import artefact, file_kernels, host_kmeans
from zoo_jax.methods.deep_k_means.accounting import index_entropy
from zoo_jax.methods.deep_k_means.allocation import Option, allocate, options
from zoo_jax.methods.deep_k_means.compress_file import (
    cluster_arrays,
    compress_arrays,
    expand,
)
from zoo_jax.optim import clustering
from zoo_jax.optim.kmeans import LayerSpec, check_assigned
from zoo_jax.optim.layer_spec import make_spec


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(0, 0.1, shape).astype(dtype)


# --- k-means on the host --------------------------------------------------------------


@pytest.mark.parametrize(("n", "d", "k"), [(431, 3, 9), (533, 1, 6)])
def test_host_kmeans_costs_what_the_compiled_one_costs(n, d, k):
    x = normal(n, d)
    compiled = clustering.kmeans(jnp.asarray(x), k, jax.random.key(0), num_init=4)
    costs = []
    for seed in range(4):
        centres, labels = host_kmeans.fit(x, LayerSpec(k), seed=seed)
        assert centres.dtype == np.float32
        costs.append(np.square(x - centres[labels]).sum())
        nearest = np.square(x[:, None] - centres[None]).sum(-1).argmin(1)
        assert (labels == nearest).mean() > 0.99  # ties and rounding
    assert min(costs) == pytest.approx(float(compiled.sse), rel=0.03)


def test_few_distinct_samples_stay_as_they_are():
    x = normal(5, 3)[np.random.default_rng(1).integers(0, 5, 400)]
    centres, labels = host_kmeans.fit(x, LayerSpec(5))
    assert centres[labels].tobytes() == x.tobytes()
    assert len(centres) == 5
    assert host_kmeans.distinct(x, 4) is None


def test_the_core_is_what_lies_nearest_to_the_mean():
    x = normal(600, 3, seed=2)
    centres, labels = host_kmeans.fit(x, LayerSpec(8, core=0.4))
    order = np.argsort(np.square(x - x.mean(0)).sum(1))
    assert set(np.flatnonzero(labels == 0)) == set(order[:240])
    np.testing.assert_allclose(centres[0], x[order[:240]].mean(0), rtol=1e-5)
    assert len(np.unique(labels)) == 8


@pytest.mark.parametrize("d", [1, 2])
def test_a_cluster_that_runs_empty_moves_to_a_far_sample(d):
    x = np.concatenate([normal(50, d) + 9, normal(50, d, seed=1) + 18])
    start = np.full((3, d), 9, np.float32)  # two of them win nothing
    _, labels, sse = host_kmeans.lloyd(x, start, 30)
    assert len(np.unique(labels)) == 3
    assert sse < 3


def test_more_samples_than_the_subsample_are_all_used(monkeypatch):
    monkeypatch.setattr(host_kmeans, "SUBSAMPLE", 64)
    x = np.concatenate([normal(3000, 2), normal(9, 2) + 50])
    centres, labels = host_kmeans.fit(x, LayerSpec(4), seed=1)
    np.testing.assert_allclose(
        centres, [x[labels == i].mean(0) for i in range(4)], atol=0.05
    )


# --- allocation -----------------------------------------------------------------------


def random_choices(layers=3, points=5):
    """Convex curves: what a Lagrange multiplier can reach is then all there is."""
    rng = np.random.default_rng(4)
    choices = {}
    for i in range(layers):
        size = np.cumsum(rng.uniform(10, 30, points))
        slope = np.sort(rng.uniform(0.1, 3, points))[::-1]
        error = np.cumsum((slope * np.diff(size, append=400))[::-1])[::-1]
        choices[f"layer{i}"] = [
            Option(None, b, e) for b, e in zip(size, error, strict=True)
        ]
    return choices


def brute_force(choices, budget, weight):
    combinations = itertools.product(*choices.values())
    fits = [c for c in combinations if sum(o.bytes for o in c) <= budget]
    cost = {n: weight.get(n, 1.0) for n in choices}
    return min(
        sum(w * o.error for w, o in zip(cost.values(), c, strict=True)) for c in fits
    )


@pytest.mark.parametrize("weight", [{}, {"layer1": 7.0}])
def test_allocation_finds_the_optimum_of_convex_curves(weight):
    choices = random_choices()
    smallest = sum(c[0].bytes for c in choices.values())
    exact = 0
    for budget in np.linspace(smallest, 320, 25):
        picked = allocate(choices, budget, sensitivity=weight)
        assert sum(o.bytes for o in picked.values()) <= budget
        cost = sum(weight.get(n, 1.0) * o.error for n, o in picked.items())
        best = brute_force(choices, budget, weight)
        # Three kernels at once are never exchanged: that may cost a little.
        assert best <= cost * (1 + 1e-9)
        assert cost <= 1.05 * best
        exact += cost == pytest.approx(best)
    assert exact > 20


def test_a_single_kernel_takes_the_largest_option_that_fits():
    # One of the options lies above the line between its neighbours.
    sizes, errors = (10, 20, 30), (1.0, 0.9, 0.1)
    found = [Option(None, b, e) for b, e in zip(sizes, errors, strict=True)]
    assert allocate({"a": found}, 29)["a"].bytes == 20


def test_nothing_is_allocated_below_the_smallest_options():
    choices = random_choices()
    smallest = sum(c[0].bytes for c in choices.values())
    assert allocate(choices, smallest * 0.999) is None


@pytest.mark.parametrize(
    "shape", [(3, 3, 16, 24), (40, 60), (1, 1, 30, 50), (5, 8, 40)]
)
def test_options_trade_bytes_for_error_and_estimate_both(shape):
    kernel = normal(*shape)
    found = options(kernel)
    size, error = (np.array([getattr(o, f) for o in found]) for f in ("bytes", "error"))
    assert (np.diff(size) > 0).all()
    assert (np.diff(error) < 0).all()
    assert found[-1] == Option(None, kernel.nbytes, 0.0)
    for option in found[:-1:7]:
        layer = option.layer
        x = clustering.to_matrix(kernel, layer.samples, layer.row_length)
        centres, labels = host_kmeans.fit(np.ascontiguousarray(x), layer)
        real = np.square(x - centres[labels]).sum() / np.square(x).sum()
        assert option.error == pytest.approx(real, rel=0.2)
        bits = 8 * (option.bytes - layer.num_clusters * (4 * x.shape[1] + 2) - 24)
        assert bits == pytest.approx(len(x) * index_entropy(labels), rel=0.1, abs=16)


# --- whole networks -------------------------------------------------------------------


def torch_network():
    """Every kind of array of a torch file; the kernels are of different sizes and scales."""
    return {
        "module.conv1.weight": normal(16, 3, 3, 5),
        "module.conv1.bias": normal(16, seed=1),
        "module.bn1.weight": normal(16, seed=2),
        "module.bn1.running_var": normal(16, seed=3) ** 2,
        "module.bn1.num_batches_tracked": np.array(41, np.int64),
        "module.conv2.weight": normal(48, 16, 3, 3, seed=4) ** 3,
        "module.depthwise.weight": normal(48, 1, 3, 3, seed=5),
        "module.point.weight": normal(64, 48, 1, 1, seed=6) * 1e-3,
        "module.sound.weight": normal(20, 8, 7, seed=7),
        "module.embedding.weight": normal(30, 8, seed=8),
        "module.fc.weight": normal(10, 256, seed=9),
        "module.fc.bias": normal(10, seed=10),
        "module.half.weight": normal(24, 32, seed=11, dtype=np.float16),
        "module.brain.weight": normal(24, 30, seed=12).astype(ml_dtypes.bfloat16),
        "module.double.weight": normal(4, 5, seed=13, dtype=np.float64),
        "module.mask": np.array([[True, False]]),
        "module.table": np.arange(12, dtype=np.int32).reshape(3, 4),
    }


def flax_network():
    return {
        "params/conv1/kernel": normal(3, 5, 3, 16),
        "params/conv1/bias": normal(16, seed=1),
        "params/block_0/conv/kernel": normal(3, 3, 16, 48, seed=2) ** 3,
        "params/head/kernel": normal(256, 10, seed=3),
        "params/tokens/embedding": normal(30, 8, seed=4),
        "batch_stats/bn/mean": normal(16, seed=5),
    }


NETWORKS = {"torch": torch_network, "flax": flax_network}


def same_bits(a, b):
    return (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())


@pytest.mark.parametrize("layout", NETWORKS)
def test_everything_but_the_kernels_comes_back_bit_for_bit(layout, tmp_path):
    arrays = NETWORKS[layout]()
    report = compress_arrays(arrays, tmp_path / "a", target_ratio=4)
    back, _ = expand(tmp_path / "a")
    assert report["layout"] == layout
    assert sorted(back) == sorted(arrays)
    clustered = {r["path"] for r in report["layers"] if r["num_clusters"]}
    assert clustered
    for name, array in arrays.items():
        assert (back[name].shape, back[name].dtype) == (array.shape, array.dtype), name
        assert same_bits(back[name], array) == (name not in clustered), name
    exact = {n for n in arrays if n not in {r["path"] for r in report["layers"]}}
    kept = ("bias", "bn", "embedding", "double", "mask", "table")
    assert exact == {n for n in arrays if any(k in n for k in kept)}


def test_clusters_are_rows_of_the_torch_kernel_and_the_error_is_as_told(tmp_path):
    arrays = torch_network()
    spec = [
        {"path": "*conv1.weight", "num_clusters": 9},
        {"path": "*conv2.weight", "num_clusters": 7, "samples": "kernel2d"},
        {"path": "*fc.weight", "num_clusters": 5, "samples": "row", "row_length": 4},
        {"path": "*sound.weight", "num_clusters": 6, "core": 0.5},
        {"path": "*half.weight", "num_clusters": 4, "samples": "scalar"},
    ]
    report = compress_arrays(arrays, tmp_path / "a", spec=spec)
    back, _ = expand(tmp_path / "a")
    lengths = {"conv1": 5, "conv2": 9, "fc": 4, "sound": 7, "half": 1}
    assert len(report["layers"]) == 5
    for row in report["layers"]:
        name = row["path"]
        old, new = (a[name].astype(np.float64) for a in (arrays, back))
        samples = new.reshape(-1, lengths[name.split(".")[1]])  # as torch has them
        assert len(np.unique(samples, axis=0)) == row["num_clusters"]
        error = np.square(new - old).sum() / np.square(old).sum()
        assert row["relative_sse"] == pytest.approx(error, rel=1e-6)
        assert 0 < error < 0.9
    assert report["target_bytes"] is None


@pytest.mark.parametrize("ratio", [2.5, 6, 11])
@pytest.mark.parametrize("layout", NETWORKS)
def test_the_budget_is_met_and_used(layout, ratio, tmp_path):
    report = compress_arrays(NETWORKS[layout](), tmp_path / "a", target_ratio=ratio)
    size = (tmp_path / "a").stat().st_size
    assert size == report["bytes"] == report["sizes"]["file"]
    assert 0.95 * report["target_bytes"] <= size <= report["target_bytes"]
    assert report["ratio"] == pytest.approx(report["dense_bytes"] / size)
    assert report["ratio"] >= ratio


@pytest.mark.parametrize("k", [3, 6, 16])
def test_the_allocation_beats_the_same_number_of_clusters_everywhere(k, tmp_path):
    shapes = [
        (8, 4, 3, 3),
        (16, 8, 3, 3),
        (32, 16, 3, 3),
        (64, 32, 3, 3),
        (12, 9, 1, 1),
    ]
    arrays = {f"{i}.weight": normal(*shape, seed=i) for i, shape in enumerate(shapes)}
    for samples in ("scalar", "row"):
        spec = [{"path": "*", "num_clusters": k, "samples": samples}]
        uniform = compress_arrays(arrays, tmp_path / "a", spec=spec)
        ours = compress_arrays(arrays, tmp_path / "b", target_bytes=uniform["bytes"])
        assert ours["bytes"] <= uniform["bytes"]
        assert ours["relative_sse"] < 0.8 * uniform["relative_sse"]


def test_a_larger_budget_has_a_smaller_error(tmp_path):
    errors = [
        compress_arrays(flax_network(), tmp_path / "a", target_ratio=r)["relative_sse"]
        for r in (3, 6, 12)
    ]
    assert errors == sorted(errors)


def test_sensitivity_moves_bytes_to_a_kernel(tmp_path):
    name = "params/block_0/conv/kernel"

    def error(sensitivity):
        report = compress_arrays(
            flax_network(), tmp_path / "a", target_ratio=9, sensitivity=sensitivity
        )
        return next(r for r in report["layers"] if r["path"] == name)["relative_sse"]

    assert error({name: 50.0}) < 0.7 * error({})


def test_the_reported_spec_makes_the_same_file(tmp_path):
    arrays = torch_network() | {"odd[0].weight": normal(32, 12, seed=20)}
    report = compress_arrays(arrays, tmp_path / "a", target_ratio=7)
    again = compress_arrays(arrays, tmp_path / "b", spec=report["spec"])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    chosen = {r["path"]: r for r in report["layers"] if r["num_clusters"]}
    assert chosen == {r["path"]: r for r in again["layers"]}


def test_compressing_what_was_compressed_changes_nothing(tmp_path):
    report = compress_arrays(torch_network(), tmp_path / "a", target_ratio=7)
    once, _ = expand(tmp_path / "a")
    compress_arrays(once, tmp_path / "b", spec=report["spec"])
    twice, _ = expand(tmp_path / "b")
    assert all(same_bits(once[n], twice[n]) for n in once)


@pytest.mark.parametrize("layout", NETWORKS)
def test_other_centres_keep_the_size_and_come_back(layout, tmp_path):
    arrays = NETWORKS[layout]()
    shared = cluster_arrays(arrays, target_ratio=6)
    start = shared.arrays()
    # A power of two is exact in every dtype; the rest may be any numbers.
    moved = {
        n: a * 2 if a.ndim > 1 and a.dtype.kind == "f" else a for n, a in start.items()
    }
    again = shared.retrained(moved)
    assert len(again.data) == shared.report["bytes"] == again.report["bytes"]
    again.write(tmp_path / "a")
    back, _ = expand(tmp_path / "a")
    assert any(not np.array_equal(back[n], start[n]) for n in shared.clusters)
    for name, array in moved.items():
        assert same_bits(back[name], array), name


def test_layers_for_training_select_the_clusters_as_they_are():
    arrays = flax_network()
    shared = cluster_arrays(arrays, target_ratio=9)
    params = nest({n.removeprefix("params/"): a for n, a in shared.arrays().items()})
    spec = make_spec(shared.layers("params/"))
    counts = check_assigned(params, spec)
    assert counts == {
        n.removeprefix("params/"): len(c.codebook) for n, c in shared.clusters.items()
    }
    assert all(layer.core == 0 for layer in spec.values())


def test_what_training_must_not_do_is_refused():
    arrays = flax_network()
    shared = cluster_arrays(arrays, target_ratio=6)
    start = shared.arrays()
    name = next(iter(shared.clusters))
    torn = start[name].copy()
    torn.flat[0] += 1
    with pytest.raises(ValueError, match="samples of one cluster differ"):
        shared.retrained(start | {name: torn})
    with pytest.raises(ValueError, match="differ in name, shape or dtype"):
        shared.retrained({name: start[name]})
    with pytest.raises(WeightsError, match="holds NaN"):
        shared.retrained(start | {"params/conv1/bias": np.full(16, np.nan, np.float32)})
    shared.report["target_bytes"] -= 10**6
    with pytest.raises(ConfigError, match="more than the"):
        shared.retrained(start)


def test_a_budget_above_the_network_keeps_it_exactly(tmp_path):
    arrays = torch_network()
    report = compress_arrays(arrays, tmp_path / "a", target_bytes=10**6)
    back, _ = expand(tmp_path / "a")
    assert report["relative_sse"] == 0
    assert all(same_bits(back[n], arrays[n]) for n in arrays)


def test_dense_layers_may_be_left_out(tmp_path):
    report = compress_arrays(
        flax_network(), tmp_path / "a", target_ratio=2, dense=False
    )
    assert {r["path"] for r in report["layers"]} == {
        "params/conv1/kernel",
        "params/block_0/conv/kernel",
    }


def test_half_codebooks_are_smaller_and_exact_as_well(tmp_path):
    spec = [{"path": "*conv/kernel", "num_clusters": 100, "samples": "row"}]
    sizes = {
        dtype: compress_arrays(
            flax_network(), tmp_path / dtype, spec=spec, codebook_dtype=dtype
        )["sizes"]["codebooks"]
        for dtype in ("float32", "float16")
    }
    assert sizes["float32"] == 2 * sizes["float16"]
    back, _ = expand(tmp_path / "float16")
    kernel = back["params/block_0/conv/kernel"]
    assert (kernel == kernel.astype(np.float16)).all()
    assert kernel.dtype == np.float32


def test_kernels_of_zeros_and_tiny_ones_do_no_harm(tmp_path):
    arrays = flax_network()
    arrays["params/zero/kernel"] = np.zeros((3, 3, 4, 8), np.float32)
    arrays["params/tiny/kernel"] = normal(1, 3)
    report = compress_arrays(arrays, tmp_path / "a", target_ratio=5)
    back, _ = expand(tmp_path / "a")
    assert same_bits(back["params/zero/kernel"], arrays["params/zero/kernel"])
    assert same_bits(back["params/tiny/kernel"], arrays["params/tiny/kernel"])
    assert np.isfinite(report["relative_sse"])


# --- refusals -------------------------------------------------------------------------


def changed(**arrays):
    return torch_network() | {f"module.{k}.weight": v for k, v in arrays.items()}


SPEC = [{"path": "*conv1.weight", "num_clusters": 9}]
REFUSED = {
    "no goal": (torch_network, {}, "give one of"),
    "two goals": (torch_network, {"target_ratio": 4, "target_bytes": 9}, "give one of"),
    "zero": (torch_network, {"target_ratio": 0}, "above 0, got 0"),
    "nan ratio": (torch_network, {"target_ratio": float("nan")}, "got nan"),
    "no bytes": (torch_network, {"target_bytes": 0}, "got 0"),
    "unreachable": (torch_network, {"target_ratio": 900}, "the smallest has"),
    "layout": (torch_network, {"target_ratio": 4, "layout": "tf"}, "choose from"),
    "wrong layout": (
        flax_network,
        {"target_ratio": 4, "layout": "torch"},
        "named weight",
    ),
    "codebook": (torch_network, {"spec": SPEC, "codebook_dtype": "f8"}, "'f8'"),
    "many clusters": (
        torch_network,
        {"spec": [{"path": "*conv1.weight", "num_clusters": 145}]},
        "144 row samples",
    ),
    "no match": (
        torch_network,
        {"spec": [{"path": "conv9", "num_clusters": 2}]},
        "matches no parameter",
    ),
    "nothing": (torch_network, {"spec": [{"path": "*"}]}, "selects no kernel"),
    "no path": (torch_network, {"spec": [{"num_clusters": 2}]}, "path"),
    "field": (torch_network, {"spec": [{"path": "*", "k": 2}]}, "layers[0].k"),
    "type": (
        torch_network,
        {"spec": [SPEC[0] | {"core": "much"}]},
        "wrong type",
    ),
    "double": (
        torch_network,
        {"spec": [{"path": "*double*", "num_clusters": 2, "samples": "scalar"}]},
        "float64",
    ),
    "nan": (
        lambda: changed(conv1=np.full((16, 3, 3, 5), np.nan, np.float32)),
        {"target_ratio": 4},
        "module.conv1.weight holds NaN",
    ),
    "nan elsewhere": (
        lambda: changed(bn1=np.array([1, np.nan], np.float32)),
        {"target_ratio": 4},
        "module.bn1.weight holds NaN",
    ),
    "infinite": (
        lambda: changed(fc=np.full((10, 256), np.inf, np.float32)),
        {"target_ratio": 4},
        "module.fc.weight holds values that are not finite",
    ),
    "too large for half": (
        lambda: changed(fc=normal(10, 256) * 1e7),
        {"target_ratio": 4, "codebook_dtype": "float16"},
        "does not fit into float16",
    ),
    "integers": (
        lambda: {"a.weight": np.arange(12).reshape(3, 4)},
        {"target_ratio": 4},
        "no kernels",
    ),
    "vectors": (lambda: {"a.weight": normal(9)}, {"target_ratio": 4}, "no kernels"),
    "embeddings": (
        lambda: {"emb.weight": normal(9, 8)},
        {"target_ratio": 4},
        "embeddings do not count",
    ),
    "dense only": (
        lambda: {"fc.weight": normal(9, 8)},
        {"target_ratio": 2, "dense": False},
        "no convolution kernels",
    ),
    "both names": (
        lambda: torch_network() | flax_network(),
        {"target_ratio": 4},
        "give the layout",
    ),
    "clash": (
        lambda: flax_network() | {"params/conv1": normal(4)},
        {"target_ratio": 4},
        "clash",
    ),
    "empty part": (
        lambda: flax_network() | {"params//x": normal(4)},
        {"target_ratio": 4},
        "non-empty",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_with_one_line(case, tmp_path):
    make, options, message = REFUSED[case]
    with pytest.raises(ZooError) as error:
        compress_arrays(make(), tmp_path / "a", **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_what_an_unreachable_budget_calls_the_smallest_can_be_had(tmp_path):
    with pytest.raises(ConfigError) as error:
        compress_arrays(flax_network(), tmp_path / "a", target_bytes=300)
    smallest = str(error.value).partition("the smallest has ")[2].partition(" bytes")[0]
    smallest = int(smallest.replace(",", ""))
    report = compress_arrays(flax_network(), tmp_path / "a", target_bytes=smallest)
    assert report["bytes"] <= smallest


# --- damaged, newer and old files -----------------------------------------------------


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("stored") / "a.zdkm"
    compress_arrays(flax_network(), path, target_ratio=11)
    return path.read_bytes()


def test_five_hundred_flipped_bits_are_all_refused(stored):
    rng = np.random.default_rng(0)
    artefact.unpack(stored)
    for place in rng.choice(8 * len(stored), 500, replace=False):
        bad = bytearray(stored)
        bad[place // 8] ^= 1 << (place % 8)
        with pytest.raises(WeightsError):
            artefact.unpack(bytes(bad))


def test_every_cut_is_refused(stored):
    for length in range(0, len(stored), 37):
        with pytest.raises(WeightsError):
            artefact.unpack(stored[:length])


def test_a_newer_file_says_that_it_is_newer(stored):
    newer = bytearray(stored)
    newer[8] = artefact.VERSION + 1
    with pytest.raises(WeightsError, match=r"format version 2, .* update zoo_jax"):
        artefact.unpack(bytes(newer))


def test_a_transposed_entry_that_is_no_kernel_is_refused(tmp_path):
    for value in (["b"], ["x"], [3], "a", {"a": 1}):
        artefact.save_compressed(
            tmp_path / "a", {"b": normal(3)}, {}, metadata={"transposed": value}
        )
        with pytest.raises(WeightsError, match="which is no kernel"):
            expand(tmp_path / "a")


def test_a_file_of_version_1_still_reads(root):
    fixtures = root / "tests" / "fixtures"
    made = runpy.run_path(str(fixtures / "make_artefact_v1.py"))
    variables, clustered = made["network"]()
    loaded, metadata = artefact.load_compressed(fixtures / "artefact_v1.zdkm")
    assert metadata == made["METADATA"]
    left, right = named_leaves(loaded), named_leaves(variables)
    assert sorted(left) == sorted(right)
    assert len(clustered) == 9
    for name, array in right.items():
        assert same_bits(left[name], np.asarray(array)), name
    assert loaded["empty"] == {}
    arrays, _ = expand(fixtures / "artefact_v1.zdkm")
    np.testing.assert_array_equal(arrays["dense.weight"], right["dense.weight"].T)


def test_the_seed_of_a_kernel_is_its_name(tmp_path):
    # Not its place in the file: adding an array must not change the others.
    arrays = flax_network()
    spec = [{"path": "*conv/kernel", "num_clusters": 6}]
    compress_arrays(arrays, tmp_path / "a", spec=spec)
    compress_arrays(
        {"params/aa/kernel": normal(9, 9), **arrays}, tmp_path / "b", spec=spec
    )
    (a, _), (b, _) = expand(tmp_path / "a"), expand(tmp_path / "b")
    assert same_bits(a["params/block_0/conv/kernel"], b["params/block_0/conv/kernel"])
    x = arrays["params/block_0/conv/kernel"].transpose(3, 2, 0, 1).reshape(-1, 3)
    seed = zlib.crc32(b"params/block_0/conv/kernel")
    centres, labels = host_kmeans.fit(np.ascontiguousarray(x), LayerSpec(6), seed=seed)
    rows = a["params/block_0/conv/kernel"].transpose(3, 2, 0, 1).reshape(-1, 3)
    np.testing.assert_array_equal(rows, centres[labels])


def test_layouts_are_told_by_names():
    assert file_kernels.find_layout(torch_network()) == "torch"
    assert file_kernels.find_layout(flax_network()) == "flax"
    assert file_kernels.find_layout(flax_network(), "torch") == "torch"
