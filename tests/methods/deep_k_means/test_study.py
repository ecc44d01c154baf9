"""The comparison over seeds: real files, resumed arms, and what it publishes."""

import importlib.util
import json

import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.tree import named_leaves
from zoo_jax.data.source import open_source, split_spec
from zoo_jax.methods.deep_k_means import sharing_study, study_results
from zoo_jax.methods.deep_k_means.artefact import load_compressed
from zoo_jax.methods.deep_k_means.model import make_module
from zoo_jax.train.mesh import make_mesh
from zoo_jax.train.run import open_run

pytestmark = pytest.mark.slow  # trains and compiles for a minute


def get_config(root):
    path = root / "experiments" / "configs" / "deep_k_means" / "sharing_study.py"
    spec = importlib.util.spec_from_file_location("sharing_study_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config("tiny")
    config.arms = {n: config.arms[n].to_dict() for n in ("none", "straight_through")}
    config.model.widths, config.model.strides = [4, 8], [1, 2]
    config.budgets = {"k3": config.budgets["k3"]}
    return config


def run(workdir, config):
    with open_run(workdir, config, make_mesh(1), allow_config_change=True) as context:
        scalars = sharing_study(config, context)
        context.writer.result(scalars)
    return scalars


def tables(workdir):
    found = json.loads((workdir / "result.json").read_text())["tables"]
    return {table["name"]: table["rows"] for table in found}


@pytest.fixture(scope="module")
def study(tmp_path_factory, root):
    """(workdir, numbers) of two arms, one budget and two seeds."""
    workdir = tmp_path_factory.mktemp("study")
    return workdir, run(workdir, get_config(root))


def test_bytes_and_accuracy_are_those_of_files_on_disk(study, root):
    workdir, _ = study
    config = get_config(root)
    source = open_source(split_spec(config.data["test"])[0])
    batch = [source[i] for i in range(len(source))]
    image = np.stack([e["image"] for e in batch]).astype(np.float32) / 255
    label = np.stack([e["label"] for e in batch])
    module = make_module(config.model)
    rows = tables(workdir)["seeds"]
    assert {(r["arm"], r["budget"], r["seed"]) for r in rows} == {
        (arm, "k3", seed) for arm in ("none", "straight_through") for seed in (0, 1)
    }
    for row in rows:
        path = workdir / "files" / f"{row['arm']}_{row['budget']}_{row['seed']}.zdkm"
        assert row["bytes"] == path.stat().st_size
        variables, metadata = load_compressed(path)
        assert metadata["seed"] == row["seed"]
        dense = workdir / "dense" / f"seed{row['seed']}.safetensors"
        assert row["dense_bytes"] == dense.stat().st_size
        assert row["ratio"] == row["dense_bytes"] / row["bytes"]
        logits = module.apply(
            {
                "params": variables["params"]["network"],
                **variables["model_state"]["network"],
            },
            jnp.asarray(image),
        )
        accuracy = float(np.mean(np.argmax(np.asarray(logits), 1) == label))
        assert row["accuracy"] == pytest.approx(accuracy, abs=1e-6)
        kernel = named_leaves(variables)["params/network/conv2/kernel"]
        samples = kernel.transpose(3, 2, 0, 1).reshape(-1, 3)
        assert len(np.unique(samples, axis=0)) == 3
        np.testing.assert_array_equal(kernel, kernel.astype(np.float16))


def test_means_and_errors_are_those_of_the_seeds(study):
    workdir, scalars = study
    found = tables(workdir)
    for mean in found["means"]:
        own = [r["accuracy"] for r in found["seeds"] if r["arm"] == mean["arm"]]
        assert mean["accuracy"] == pytest.approx(np.mean(own))
        # Of two values: half their difference.
        half = abs(own[0] - own[1]) / 2
        assert mean["accuracy_se"] == pytest.approx(half)
        assert scalars[f"{mean['arm']}/k3/accuracy"] == mean["accuracy"]
    assert (workdir / "figures" / "sharing_study.png").stat().st_size > 5_000


def test_finished_arms_and_networks_are_not_repeated(study, root, monkeypatch):
    workdir, scalars = study
    from zoo_jax.methods.deep_k_means.study import _Bench

    shared = []
    monkeypatch.setattr(
        _Bench, "share", lambda self, name, *rest: shared.append(name) or []
    )
    before = {p: p.read_bytes() for p in sorted(workdir.glob("*/*")) if p.is_file()}
    assert run(workdir, get_config(root)) == scalars
    assert shared == []
    after = {p: p.read_bytes() for p in before if p.suffix != ".png"}
    assert after == {p: b for p, b in before.items() if p.suffix != ".png"}


def test_an_arm_with_another_section_is_done_again(study, root, monkeypatch):
    workdir, _ = study
    from zoo_jax.methods.deep_k_means.study import _Bench

    class Stop(Exception):
        pass

    def share(self, name, *rest):
        raise Stop(name)

    monkeypatch.setattr(_Bench, "share", share)
    config = get_config(root)
    config.arms["straight_through"].optim.lr = 0.3
    with pytest.raises(Stop, match="straight_through"):
        run(workdir, config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.study.update(seeds=[4]), "study.seeds needs two or more"),
        (lambda c: c.study.update(seeds=[4, 4]), "study.seeds needs two or more"),
        (lambda c: c.study.update(stream="tset"), "study.stream='tset'.*test"),
        (lambda c: c.study.update(codebook_dtype="int8"), "codebook_dtype.*'int8'"),
        (lambda c: c.study.update(centre_steps=0), "study.centre_steps.*got 0"),
        (
            lambda c: c.arms.none.update(optin={}),
            "unknown key arms.none.optin: .*optim",
        ),
        (
            lambda c: delattr(c.arms.straight_through, "optim"),
            "sharing needs arms.straight",
        ),
        (lambda c: setattr(c, "budgets", {}), "config.budgets is empty"),
        (
            lambda c: c.arms.none.update(budgets={"k3": {"layer": []}}),
            "unknown key budgets.k3.layer: .*layers",
        ),
    ],
)
def test_sections_that_do_not_fit_are_named(root, tmp_path, change, message):
    config = get_config(root)
    with config.unlocked():
        change(config)
    with pytest.raises(ConfigError, match=message):
        run(tmp_path / "w", config)


def test_accuracies_between_files_are_interpolated_and_never_extrapolated():
    rows = [
        {"seed": seed, "ratio": ratio, "accuracy": accuracy}
        for seed, shift in ((0, 0.0), (1, 0.02))
        for ratio, accuracy in ((8.0, 0.9 + shift), (32.0, 0.7 + shift))
    ]
    found = study_results.at_ratios(rows, [16, 40])
    assert found["at_16x"] == pytest.approx(0.81)  # half-way in log bytes
    assert found["at_16x_se"] == pytest.approx(0.01)
    assert np.isnan(found["at_40x"])


def test_an_arm_without_optimiser_is_the_pretrained_network(study):
    workdir, scalars = study
    means = {mean["arm"]: mean for mean in tables(workdir)["means"]}
    assert means["none"]["retrained"] == pytest.approx(scalars["dense/accuracy"])
    assert 0 < means["none"]["relative_sse"] < 1
