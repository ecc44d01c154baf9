"""Accuracy against bytes: the ways at equal bytes, the points, and the table of them."""

import base64
import gzip
import importlib.util
import json
import math

import numpy as np
import pytest
import safetensors.numpy

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.tree import named_leaves
from zoo_jax.methods.deep_k_means import make_task, size_study, size_ways
from zoo_jax.methods.deep_k_means.size_study import Point, plan, summarise
from zoo_jax.train.mesh import make_mesh
from zoo_jax.train.run import open_run, workdir_variables


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, shape).astype(np.float32)


@pytest.fixture(scope="module")
def arrays():
    return {
        "params/conv1/kernel": normal(3, 3, 5, 32),
        "params/conv2/kernel": normal(3, 3, 32, 24, seed=1),
        "params/linear/kernel": normal(24, 7, seed=2),
        "params/linear/bias": normal(7, seed=3),
        "batch_stats/bn/mean": normal(32, seed=4),
    }


def kernels(arrays):
    return {k: a for k, a in arrays.items() if k.endswith("kernel")}


# --- ways -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "ratio"), [("budget", 9), ("scalar", 6), ("linear", 6)]
)
def test_a_way_fits_the_ratio_and_leaves_the_rest_exact(arrays, way, ratio):
    small = size_ways.WAYS[way](arrays, ratio)
    assert small.bytes <= size_ways.dense_bytes(arrays) / ratio
    assert small.arrays.keys() == arrays.keys()
    for key, array in arrays.items():
        if key in kernels(arrays):
            assert not np.array_equal(small.arrays[key], array)
        else:
            np.testing.assert_array_equal(small.arrays[key], array)
    for entry in small.layers:
        kernel = small.arrays[f"params/{entry['path']}"]
        if entry["samples"] == "scalar":
            assert len(np.unique(kernel)) <= entry["num_clusters"]


@pytest.mark.parametrize("way", ["scalar", "linear"])
def test_scalars_get_as_many_clusters_as_fit(arrays, way):
    dense = size_ways.dense_bytes(arrays)
    small = size_ways.WAYS[way](arrays, 6)
    more = size_ways.WAYS[way](arrays, dense / (1.15 * dense / 6))
    assert more.clusters > small.clusters >= 2
    # The bytes are those of gzip -9 of the file.
    flat = {k: np.ascontiguousarray(v) for k, v in small.arrays.items()}
    file = safetensors.numpy.save(flat)
    assert len(gzip.compress(file, 9, mtime=0)) == small.bytes
    assert size_ways.WAYS[way](arrays, 200) is None


def test_a_budget_out_of_reach_is_none(arrays):
    assert size_ways.budget(arrays, 500) is None


def test_linear_centres_are_equal_steps_from_least_to_greatest(arrays):
    small = size_ways.linear(arrays, 6)
    for key, kernel in kernels(arrays).items():
        grid = np.linspace(kernel.min(), kernel.max(), small.clusters)
        shared = small.arrays[key]
        assert np.abs(shared[..., None] - grid).min(-1).max() < 1e-6
        assert np.abs(shared - kernel).max() <= (grid[1] - grid[0]) / 2 + 1e-6


def test_scalar_kmeans_errs_less_than_equal_steps(arrays):
    error = {}
    for way in ("scalar", "linear"):
        k = 4
        shared = size_ways.WAYS[way](arrays, 8)
        assert shared.clusters >= k - 1
        diff = shared.arrays["params/conv2/kernel"] - arrays["params/conv2/kernel"]
        error[way] = np.square(diff).sum()
    assert error["scalar"] < error["linear"]


@pytest.mark.parametrize("way", ["budget", "scalar"])
def test_other_values_in_the_same_places_take_the_same_bytes(arrays, way):
    small = size_ways.WAYS[way](arrays, 6)
    moved = {k: a * np.float32(1.25) for k, a in small.arrays.items()}
    again = small.repack(moved)
    if way == "budget":
        assert again.bytes == small.bytes
    assert again.bytes == pytest.approx(small.bytes, rel=0.02)
    for key, array in moved.items():
        # Centres are stored in half precision by a budget.
        np.testing.assert_allclose(again.arrays[key], array, rtol=1e-3)


def test_values_that_are_no_longer_shared_are_refused(arrays):
    small = size_ways.budget(arrays, 9)
    with pytest.raises(ValueError, match="samples of one cluster differ"):
        small.repack({k: a + normal(*a.shape) for k, a in small.arrays.items()})


# --- the table ------------------------------------------------------------------------


def point(way, seed, hits, norms=None, ratio=10):
    hits = np.asarray(hits)
    return {
        **{"way": way, "ratio": ratio, "seed": seed, "reached": True, "bytes": 100},
        **{"real_ratio": 10.0, "clusters": None, "accuracy": float(hits.mean())},
        **({} if norms is None else {"norms": norms}),
        "correct": base64.b64encode(np.packbits(hits)).decode(),
        "images": len(hits),
    }


def test_losses_are_counted_image_by_image_and_seed_by_seed():
    rng = np.random.default_rng(0)
    dense = {s: rng.random(301) < 0.9 for s in (None, 0, 1)}
    small = {s: dense[s] & (rng.random(301) < 0.9) for s in dense}
    points = [point("dense", s, hits, ratio=1) for s, hits in dense.items()]
    points += [point("budget", s, h, 0.5 if s == 0 else None) for s, h in small.items()]
    points.append({"way": "scalar", "ratio": 30, "seed": None, "reached": False})
    rows = {(r["way"], r["tuned"]): r for r in summarise(points)}
    assert set(rows) == {(w, t) for w in ("dense", "budget") for t in (False, True)}
    plain, tuned = rows["budget", False], rows["budget", True]
    lost = dense[None].astype(float) - small[None]
    assert plain["loss"] == pytest.approx(lost.mean())
    assert plain["loss_se"] == pytest.approx(lost.std() / math.sqrt(301))
    assert (plain["std"], plain["seeds"]) == (None, None)
    accuracy = [small[s].mean() for s in (0, 1)]
    assert tuned["accuracy"] == pytest.approx(np.mean(accuracy))
    assert tuned["std"] == pytest.approx(abs(accuracy[0] - accuracy[1]) / math.sqrt(2))
    assert (tuned["seeds"], tuned["norms"]) == (2, 0.5)
    both = [dense[s].mean() - small[s].mean() for s in (0, 1)]
    assert tuned["loss"] == pytest.approx(np.mean(both))
    p = tuned["accuracy"]
    assert tuned["se"] == pytest.approx(math.sqrt(p * (1 - p) / 301))
    assert rows["dense", True]["loss"] == 0


def test_every_point_is_planned_once_and_the_first_seed_early():
    options = {
        "ratios": {"budget": [4, 10], "scalar": [6]},
        "fine_tune": {"budget": [10]},
        "seeds": [3, 4],
    }
    assert plan(options) == [
        *(Point("dense", 1, None), Point("dense", 1, 3)),
        *(Point("budget", 10, None), Point("budget", 10, 3)),
        *(Point("budget", 4, None), Point("scalar", 6, None)),
        *(Point("dense", 1, 4), Point("budget", 10, 4)),
    ]


# --- the procedure --------------------------------------------------------------------


def get_config(root, weights):
    path = root / "experiments" / "configs" / "deep_k_means" / "cifar10_published.py"
    spec = importlib.util.spec_from_file_location("cifar10_published", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config("tiny")
    config.size_study.source = str(weights)
    # A smaller network compiles faster.
    config.model = dict(name="digits_cnn", widths=[4, 24], strides=[2, 2])
    config.size_study.update(
        ratios=dict(budget=[4], linear=[200]),
        fine_tune=dict(budget=[6], linear=[2.5]),
    )
    return config


def run(workdir, config, study=True):
    with open_run(workdir, config, make_mesh(1)) as context:
        if not study:
            context.train(make_task(config, config.steps))
            return None
        scalars = size_study(config, context)
        context.writer.result(scalars)
        return scalars


@pytest.fixture(scope="module")
def studied(tmp_path_factory, root):
    folder = tmp_path_factory.mktemp("size_study")
    run(folder / "trained", get_config(root, ""), study=False)
    config = get_config(root, folder / "trained")
    return folder, config, run(folder / "study", config)


def test_a_study_measures_every_point_that_can_be_reached(studied):
    folder, _, scalars = studied
    result = json.loads((folder / "study" / "result.json").read_text())
    rows = {
        (r["way"], r["target_ratio"], r["tuned"]): r
        for r in result["tables"][0]["rows"]
    }
    assert set(rows) == {
        *(("dense", 1, False), ("dense", 1, True), ("budget", 4, False)),
        *(("budget", 6, False), ("budget", 6, True)),
        *(("linear", 2.5, False), ("linear", 2.5, True)),
    }
    for (_, ratio, tuned), row in rows.items():
        assert (
            row["ratio"] >= ratio * 0.95
        )  # training may move scalars to other centres
        assert (row["seeds"], row["norms"] is not None) == (
            (2, True) if tuned else (None, False)
        )
    assert rows["budget", 6, True]["bytes"] == rows["budget", 6, False]["bytes"]
    assert scalars["budget/6/tuned_bytes"] == rows["budget", 6, True]["bytes"]
    assert scalars["dense/1/loss"] == scalars["dense/1/tuned_loss"] == 0
    (figure,) = result["figures"]
    assert (folder / "study" / figure["file"]).stat().st_size > 5_000


def test_a_study_that_was_cut_off_measures_only_what_is_missing(studied):
    folder, config, scalars = studied
    points = folder / "study" / "points"
    before = {p.name: p.stat().st_mtime_ns for p in points.iterdir()}
    (points / "budget_6_seed1.json").unlink()
    assert run(folder / "study", config) == scalars
    after = {p.name: p.stat().st_mtime_ns for p in points.iterdir()}
    assert {n for n in after if after[n] != before[n]} == {"budget_6_seed1.json"}


def test_seeds_see_other_batches(studied):
    folder, _, _ = studied
    losses = set()
    for seed in (0, 1):
        lines = (folder / "study" / f"dense_1_seed{seed}" / "metrics.jsonl").read_text()
        losses.add(json.loads(lines.splitlines()[-1])["train/loss"])
    assert len(losses) == 2


def test_fine_tuned_centres_are_shared_by_as_many_weights(studied):
    folder, _, _ = studied
    state = workdir_variables(folder / "study" / "budget_6_seed0")
    trained = named_leaves(state["params"]["network"])
    start = named_leaves(workdir_variables(folder / "trained")["params"]["network"])
    shared = [k for k in trained if len(np.unique(trained[k])) < trained[k].size / 4]
    assert "conv2/kernel" in shared
    assert all(len(np.unique(start[k])) > start[k].size / 4 for k in shared)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"stream": "tset"}, "data.tset: did you mean 'test'"),
        ({"ratios": {"budgets": [3]}}, "did you mean 'budget'"),
        ({"fine_tune": {"budget": [0.5]}}, "ratios of 1 or more"),
        ({"norm_batches": 0}, "norm_batches must be 1 or more"),
        ({"colour": 1}, "colour"),
    ],
)
def test_sections_that_do_not_fit_are_one_clear_error(root, tmp_path, changes, match):
    config = get_config(root, "none")
    section = {**config.size_study.to_dict(), **changes}
    config.size_study = section
    with pytest.raises(ConfigError, match=match):
        run(tmp_path, config)


def test_a_missing_key_is_named(root, tmp_path):
    config = get_config(root, "none")
    del config.size_study["seeds"]
    with pytest.raises(ConfigError, match="size_study lacks 'seeds'"):
        run(tmp_path, config)
