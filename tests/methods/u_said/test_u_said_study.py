"""The study: arms that must agree do, nothing is done twice, and the judge judges only."""

import contextlib
import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest
from toy_segmentation import make_toy

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.rng import make_key
from zoo_jax.data.source import open_source, split_spec
from zoo_jax.methods.u_said import segmentation, study, task
from zoo_jax.methods.u_said.study import judge_study
from zoo_jax.methods.u_said.study_report import compare
from zoo_jax.train.loop import fit
from zoo_jax.train.mesh import make_mesh

ROOT = pathlib.Path(__file__).resolve().parents[3]


class Context:
    """A run with real training, and tables in memory."""

    def __init__(self, workdir):
        self.workdir, self.writer, self.key = workdir, self, make_key(0)
        self.tables, self.figures, self.fitted = {}, {}, []

    def load_source(self, spec):
        return open_source(split_spec(spec)[0])

    def fit(self, name, task, config, variables=None):
        workdir = self.workdir / name
        workdir.mkdir(parents=True, exist_ok=True)
        if not (workdir / "checkpoints").exists():
            self.fitted.append(name)
        return fit(
            task, config, workdir=workdir, mesh=make_mesh(1), variables=variables
        ).variables()

    def progress(self, total, description):
        class Bar:
            def update(self, n=1):
                pass

        return contextlib.nullcontext(Bar())

    def table(self, name, rows, *, caption=""):
        self.tables[name] = json.loads(json.dumps(rows))

    def figure(self, name, figure, *, caption=""):
        self.figures[name] = figure


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    for module in (study, segmentation, task):
        monkeypatch.setattr(module, "make_segmentation", make_toy)


@pytest.fixture(scope="module")
def get_config():
    path = ROOT / "experiments" / "configs" / "u_said" / "camvid.py"
    spec = importlib.util.spec_from_file_location("camvid", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config


@pytest.fixture
def config(get_config):
    """Made-up frames whose classes are waves; a few steps that change something."""
    config = get_config("tiny")
    with config.unlocked():
        config.steps = 2
        config.networks.head = dict(
            config.networks.trained, trunk_of="trained", steps=0
        )
        on = dict(start="pretrained", network="trained")
        config.arms.detached = dict(**on, loss=dict(detach=True))
        config.study.tuned = ["plain", "pretrained"]
        config.loss.segmentation = 1e4  # so much that it shows after two steps
    return config


@pytest.mark.slow  # compiles long
def test_arms_that_must_agree_do_and_nothing_is_done_twice(
    config, tmp_path, monkeypatch
):
    ctx = Context(tmp_path)
    found = judge_study(config, ctx)
    value = {
        arm: [found[f"sigma25/{arm}/{m}"] for m in ("miou", "psnr", "ssim")]
        for arm in config.arms
    }
    # Without a gradient the uncertainty changes nothing but rounding.
    away = {arm: abs(value[arm][1] - value["plain"][1]) for arm in value}
    assert away["detached"] < 0.01 * away["u_said_trained"]
    assert away["pretrained"] > 0
    assert found["sigma25/plain/gain"] == found["sigma25/plain/gain_high"] == 0
    assert found["sigma25/clean/miou"] == pytest.approx(found["networks/judge/miou"])
    assert "sigma25/clean/psnr" not in found  # infinite
    rows = {row["arm"]: row for row in ctx.tables["segmentation_after_denoising"]}
    assert set(rows) == {*config.arms, "noisy", "clean"}
    assert set(ctx.figures) == {"trade_off", "segmentations"}
    assert len(ctx.fitted) == 2 + len(config.arms)  # the head has no steps

    # The same command again: trained and measured already.
    def refuse(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(study, "_measure_all", refuse)
    again = Context(tmp_path)
    assert judge_study(config, again) == found
    assert not again.fitted
    # An arm that goes does not touch those that stay; other pictures do.
    with config.unlocked():
        del config.arms["detached"]
    less = judge_study(config, Context(tmp_path))
    assert less["sigma25/plain/psnr"] == value["plain"][1]
    config.data.test.seed = 5
    with pytest.raises(AssertionError, match="measured again"):
        judge_study(config, Context(tmp_path))


@pytest.mark.slow  # compiles long
def test_a_network_with_the_trunk_of_another_has_its_own_head(config, tmp_path):
    class Untrained(Context):
        def fit(self, name, task, config, variables=None):
            return variables

    ctx, sections = Untrained(tmp_path), config.to_dict()["networks"]
    trained = study._train_network(config, "trained", sections["trained"], {}, ctx)
    head = study._train_network(
        config, "head", {**sections["head"], "seed": 9}, {"trained": trained}, ctx
    )
    old, new = (n.variables["params"]["segmentation"] for n in (trained, head))
    jax.tree.map(np.testing.assert_array_equal, old["resnet"], new["resnet"])
    assert (old["classify"]["kernel"] != new["classify"]["kernel"]).any()
    states = [n.variables["model_state"] for n in (trained, head)]
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_the_tuned_baseline_wins_on_the_validation_pictures_not_on_the_test():
    def run(valid, test, psnr):
        """Two pictures of so many right pixels of 100, of two classes."""
        counts = [
            np.stack([np.array([[right, 100 - right], [0, 100]], np.float32)] * 2)
            for right in (valid, test)
        ]
        pictures = {"psnr": np.full(2, psnr), "ssim": np.ones(2)}
        keys = (("valid", 25.0), ("test", 25.0))
        return {
            key: {"confused": confused, **pictures}
            for key, confused in zip(keys, counts, strict=True)
        }

    found = {
        "plain": [run(50, 60, 30.0), run(50, 62, 31.0)],
        "slow": [run(70, 40, 28.0), run(71, 42, 28.0)],
    }
    options = {
        "sigmas": [25.0],
        "baseline": "plain",
        "tuned": ["plain", "slow"],
        "block": 1,
        "resamples": 10,
    }
    plain, slow = compare(found, options)
    assert plain["tuned"] == slow["tuned"] == "slow"
    assert slow["gain_tuned"] == plain["gain"] == 0
    iou = [50 * (r / 100 + 100 / (200 - r)) for r in (60, 62, 40, 42)]
    assert plain["miou"] == pytest.approx(np.mean(iou[:2]))
    assert plain["gain_tuned"] == pytest.approx(np.mean(iou[:2]) - np.mean(iou[2:]))
    assert slow["gain_low"] <= slow["gain"] <= slow["gain_high"] < 0
    assert plain["miou_std"] == pytest.approx(np.std(iou[:2], ddof=1))
    assert (plain["psnr"], plain["seeds"]) == (30.5, 2)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"arms.u_said_trained.network": "judge"}, "'judge', which is the judge"),
        ({"arms.plain.network": "trained"}, r"arms\.plain: a network goes with every"),
        ({"arms.detached.start": "plain"}, r"arms\.detached\.start='plain' must be an"),
        ({"arms.detached.network": "trainde"}, "did you mean 'trained'"),
        ({"study.judge": "jugde"}, "is no network: did you mean 'judge'"),
        ({"study.tuned": ["plian"]}, "names the arm 'plian': did you mean 'plain'"),
        (
            {"networks.head.trunk_of": "head"},
            r"networks\.head\.trunk_of='head' must be",
        ),
        ({"study.seeds": []}, "study needs seeds, sigmas, tuned"),
    ],
)
def test_sections_that_do_not_fit_are_named(config, tmp_path, change, match):
    with config.unlocked():
        for key, value in change.items():
            *sections, last = key.split(".")
            node = config
            for section in sections:
                node = node[section]
            node[last] = value
    with pytest.raises(ConfigError, match=match):
        judge_study(config, Context(tmp_path))
    assert not list(tmp_path.iterdir())
