"""Compression from trained workdirs to files, at the smallest size."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax import models
from zoo_jax.convert import write_weights
from zoo_jax.core.errors import ConfigError
from zoo_jax.core.files import write_json
from zoo_jax.core.tree import named_leaves
from zoo_jax.methods.deep_k_means import compress, make_task
from zoo_jax.methods.deep_k_means.artefact import load_compressed
from zoo_jax.methods.deep_k_means.procedure import _Bench, _options
from zoo_jax.train.mesh import make_mesh
from zoo_jax.train.run import open_run, workdir_variables

pytestmark = pytest.mark.slow  # trains and compiles for a minute


def get_config(root, name, arg):
    path = root / "experiments" / "configs" / "deep_k_means" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg)


def run(workdir, config, load=None):
    with open_run(workdir, config, make_mesh(1), load=load) as context:
        if config.procedure:
            scalars = compress(config, context)
            context.writer.result(scalars)
            return scalars
        context.train(make_task(config, config.steps))
        return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory, root):
    """A folder with a pre-trained and a re-trained tiny network."""
    folder = tmp_path_factory.mktemp("runs")
    run(folder / "pretrain", get_config(root, "digits_cnn", "tiny"))
    run(folder / "retrain_labels", get_config(root, "digits_cnn", "tiny,stage=retrain"))
    return folder


def compress_config(root, folder):
    config = get_config(root, "digits_cnn", f"tiny,stage=compress,runs={folder}")
    config.arms = {k: v for k, v in config.arms.items() if k != "plain"}
    return config


@pytest.fixture(scope="module")
def compressed(folder, root):
    """(workdir, numbers) of a compression of two arms to two budgets."""
    workdir = folder / "compress"
    return workdir, run(workdir, compress_config(root, folder))


def test_every_arm_and_budget_has_its_row_file_and_numbers(compressed):
    workdir, scalars = compressed
    rows = json.loads((workdir / "result.json").read_text())["tables"][0]["rows"]
    pairs = [(a, b) for a in ("labels", "pretrained") for b in ("k3", "k6")]
    assert [(row["arm"], row["budget"]) for row in rows] == pairs
    for row in rows:
        path = workdir / f"{row['arm']}_{row['budget']}.zdkm"
        assert row["bytes"] == path.stat().st_size
        assert row["ratio"] == row["dense_bytes"] / row["bytes"]
        assert scalars[f"{row['arm']}/{row['budget']}/bytes"] == row["bytes"]
        assert 0 <= row["accuracy"] <= 1
        assert 0 < row["relative_sse"] < 1
    by = {(row["arm"], row["budget"]): row for row in rows}
    assert by["pretrained", "k3"]["bytes"] < by["pretrained", "k6"]["bytes"]
    assert (
        by["pretrained", "k3"]["relative_sse"] > by["pretrained", "k6"]["relative_sse"]
    )


def test_files_hold_shared_half_precision_rows_of_the_trained_network(
    compressed, folder
):
    workdir, _ = compressed
    variables, metadata = load_compressed(workdir / "pretrained_k3.zdkm")
    assert (metadata["arm"], metadata["budget"]) == ("pretrained", "k3")
    assert metadata["model"]["name"] == "digits_cnn"
    before = named_leaves(workdir_variables(folder / "pretrain"))
    after = named_leaves(variables)
    assert {k: v.shape for k, v in after.items()} == {
        k: v.shape for k, v in before.items()
    }
    for layer in ("conv2", "conv3"):
        kernel = after[f"params/network/{layer}/kernel"]
        rows = kernel.transpose(3, 2, 0, 1).reshape(-1, 3)
        assert len(np.unique(rows, axis=0)) <= 3
        np.testing.assert_array_equal(kernel, kernel.astype(np.float16))
    kernel = after["params/network/conv1/kernel"]
    assert len(np.unique(kernel)) == kernel.size


def test_an_arm_may_be_published_weights(compressed, folder, root, tmp_path):
    published = tmp_path / "published"
    variables = workdir_variables(folder / "pretrain")
    config = compress_config(root, folder)
    sections = {k: v for k, v in config.model.to_dict().items() if k != "dtype"}
    name = f"deep_k_means/{sections.pop('name')}"
    arrays = named_leaves(
        {
            "params": variables["params"]["network"],
            **variables["model_state"]["network"],
        }
    )
    facts = {"format": models.FORMAT, "model": name, "overrides": sections}
    write_weights(published / models.VARIABLES_FILE, arrays, facts)
    write_json(published / models.MODEL_FILE, facts)
    config.budgets = {"k6": config.budgets.k6}
    config.arms = {"pretrained": f"{name}:{published}"}
    scalars = run(tmp_path / "run", config, models.load_variables)
    for name in ("accuracy", "k6/accuracy", "k6/nll", "k6/formula_ratio"):
        key = f"pretrained/{name}"
        assert scalars[key] == compressed[1][key], key


def test_pictures_are_made_and_captioned(compressed):
    workdir, _ = compressed
    figures = json.loads((workdir / "result.json").read_text())["figures"]
    names = {"accuracy_against_bytes", "row_distances", "row_scatter"}
    assert {figure["name"] for figure in figures} == names
    for figure in figures:
        assert len(figure["caption"]) > 40
        assert (workdir / figure["file"]).stat().st_size > 5_000


def test_repeating_gives_the_same_files(compressed, folder, root):
    workdir, scalars = compressed
    again = folder / "again"
    assert run(again, compress_config(root, folder)) == scalars
    for path in workdir.glob("*.zdkm"):
        assert (again / path.name).read_bytes() == path.read_bytes()


def test_norms_get_the_mean_statistics_of_the_batches(folder, root):
    config = compress_config(root, folder)
    with open_run(folder / "norms", config, make_mesh(1)) as context:
        bench = _Bench(config, context, _options(config))
        variables = context.load_variables(str(folder / "pretrain"))
        found = bench.reestimate_norms(variables)["model_state"]["network"]
        batches = list(bench._norm_batches())
    assert len(batches) == 3
    kernel = variables["params"]["network"]["conv1"]["kernel"]
    means, unbiased = [], []
    for batch in batches:
        # The first norm sees the first convolution, whatever the later ones do.
        x = jax.lax.conv_general_dilated(
            jnp.asarray(batch["image"]),
            jnp.asarray(kernel),
            (1, 1),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
        means.append(x.mean(0))
        unbiased.append(x.var(0, ddof=1))
    stats = found["batch_stats"]["bn1"]
    np.testing.assert_allclose(stats["mean"], np.mean(means, 0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stats["var"], np.mean(unbiased, 0), rtol=1e-4)


def test_a_network_without_norms_is_compressed_too(tmp_path, root):
    run(tmp_path / "pretrain", get_config(root, "mnist_lenet", "tiny"))
    config = get_config(root, "mnist_lenet", f"tiny,stage=compress,runs={tmp_path}")
    config.arms = {"pretrained": config.arms.pretrained}
    config.budgets = {"k3": config.budgets.k3}
    scalars = run(tmp_path / "compress", config)
    # 425,500 weights in rows of 5: at most log2(3) bits each; 5,590 plain numbers; manifest.
    assert scalars["pretrained/k3/bytes"] < 425_500 / 5 * 1.585 / 8 + 5_590 * 4 + 700
    assert scalars["pretrained/k3/ratio"] > 35


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"arms": {}}, "config.arms is empty"),
        ({"budgets": {}}, "config.budgets is empty"),
        (
            {"budgets": {"none": [{"path": "network/conv1/kernel"}]}},
            "selects no kernel",
        ),
        ({"compress": {"stream": "test"}}, "lacks 'norm_batches'"),
    ],
)
def test_sections_that_do_not_fit_are_one_clear_error(
    changes, match, folder, root, tmp_path
):
    config = compress_config(root, folder)
    with config.unlocked():
        for name, section in changes.items():
            del config[name]
            config[name] = section
    with pytest.raises(ConfigError, match=match):
        run(tmp_path, config)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("stream", "tset", "did you mean 'test'"),
        ("norm_batches", 0, "norm_batches must be at least 1"),
        ("reduce", "max", "unknown reduce 'max'"),
        ("codebook_dtype", "float8", "'float8'"),
    ],
)
def test_options_that_do_not_fit_are_one_clear_error(
    key, value, match, folder, root, tmp_path
):
    config = compress_config(root, folder)
    config.compress[key] = value
    with pytest.raises(ConfigError, match=match):
        run(tmp_path, config)
