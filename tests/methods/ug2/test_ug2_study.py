"""The study of recognition: what must be equal is, nothing is done twice, and mistakes are one line."""

import contextlib
import importlib.util
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from zoo_jax.core.config import to_dict
from zoo_jax.core.errors import ConfigError
from zoo_jax.core.rng import make_key
from zoo_jax.data.source import open_source, split_spec
from zoo_jax.methods.ug2 import study
from zoo_jax.methods.ug2.figures import draw_curves
from zoo_jax.methods.ug2.perturb import PERTURBATIONS, check_levels, perturb
from zoo_jax.methods.ug2.study_report import (
    changes,
    rank_correlation,
    scalars,
    summarise,
)

pytestmark = pytest.mark.slow  # trains and compiles for a minute

CONFIGS = pathlib.Path(__file__).resolve().parents[3] / "experiments/configs/ug2"


class Context:
    """A run whose networks are as they start, with tables in memory."""

    def __init__(self, workdir):
        self.workdir, self.writer = workdir, self
        self.tables, self.figures, self.fitted = {}, {}, {}

    def load_source(self, spec):
        return open_source(split_spec(spec)[0])

    def fit(self, name, task, config, variables=None):
        self.fitted[name] = to_dict(config)
        image = jnp.zeros((1, 16, 16, 3))
        batch = {"image": image, "sharp": image, "label": jnp.zeros(1, int)}
        return jax.jit(task.init)(make_key(config.seed), batch)

    def progress(self, total, description):
        class Bar:
            def update(self, n=1):
                pass

        return contextlib.nullcontext(Bar())

    def table(self, name, rows, *, caption=""):
        self.tables[name] = json.loads(json.dumps(rows))

    def figure(self, name, figure, *, caption=""):
        self.figures[name] = figure


class Rich:
    """In the place of a published network: five classes, from flat to full of contrast."""

    def scores(self, images):
        spread = np.array([np.std(image) for image in images])
        return -np.abs(spread[:, None] - np.linspace(10, 70, 5)).astype(np.float32)


def tiny(name):
    path = CONFIGS / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config("tiny")


@pytest.fixture
def config(monkeypatch):
    """Made-up pictures, a published recogniser, nothing that is trained."""
    monkeypatch.setattr(study, "make_recogniser", lambda name, batch: Rich())
    config = tiny("cifar.py")
    with config.unlocked():
        config.recognisers = {"rich": {"published": "rich:file"}}
        config.arms = {
            "nothing": {"enhancer": "identity"},
            "equal": {"enhancer": "histogram"},
        }
        config.perturbations = {"blur": [0.0, 2.0], "contrast": [1.0, 0.5, 0.1]}
        config.data.test.size = 40
        config.study.right = [[4] if i % 3 else [0, 1] for i in range(10)]
        config.study.update(judge="", contrast=["equal", "nothing"], k=1)
        config.study.update(pictures=40, batch=20)
    return config


def test_identity_gains_exactly_nothing_and_the_contrast_is_a_difference_of_means(
    config, tmp_path
):
    ctx = Context(tmp_path)
    found = study.recognition_study(config, ctx)
    assert not ctx.fitted
    for part in ("blur", "contrast", "all"):
        name = f"{part}/rich/nothing"
        assert [found[f"{name}/{k}"] for k in ("gain", "gain_low", "gain_high")] == [
            0,
            0,
            0,
        ]
        assert found[f"{name}/psnr"] == found[f"{part}/rich/raw/psnr"]
    m1 = {arm: found[f"all/rich/{arm}/m1"] for arm in ("equal", "nothing")}
    assert m1["equal"] != m1["nothing"]
    assert found["contrast/rich"] == pytest.approx(m1["equal"] - m1["nothing"])
    # Against an arm that changes nothing, the contrast is the gain.
    assert found["contrast/rich_low"] == found["all/rich/equal/gain_low"]
    assert found["contrast/rich_high"] == found["all/rich/equal/gain_high"]
    rows = ctx.tables["recognition"]
    assert {(r["perturbation"], r["arm"]) for r in rows} == {
        (p, a) for p in ("blur", "contrast", "all") for a in ("raw", "nothing", "equal")
    }
    assert set(ctx.figures) == {"curves_rich", "pictures"}
    # One row for each perturbation; clean, spoilt, and a column for each arm.
    assert len(ctx.figures["pictures"].axes) == 2 * 4


def test_what_was_measured_is_not_measured_again_until_something_else_is_asked(
    config, tmp_path, monkeypatch
):
    config.study.shown = 0
    first = study.recognition_study(config, Context(tmp_path))
    measured, original = [], study._measure

    def count(*args):
        measured.append(args)
        return original(*args)

    monkeypatch.setattr(study, "_measure", count)
    assert study.recognition_study(config, Context(tmp_path)) == first
    assert not measured
    with config.unlocked():
        config.arms.equal = {"enhancer": "unsharp"}
    study.recognition_study(config, Context(tmp_path))
    assert len(measured) == 1  # that arm alone
    config.perturbations.blur = [0.0, 1.0]
    study.recognition_study(config, Context(tmp_path))
    assert len(measured) == 4  # all arms, and the spoilt pictures
    damaged = tmp_path / "raw" / "measured.npz"
    damaged.unlink()
    study.recognition_study(config, Context(tmp_path))
    assert len(measured) == 5


def test_trained_arms_see_the_judge_and_one_seed_each(tmp_path):
    config = tiny("cifar.py")
    with config.unlocked():
        config.perturbations = {"blur": [0.0, 1.0]}
        del config.arms["clahe"], config.arms["perceptual"]
        config.study.update(contrast=[], shown=0)
    ctx = Context(tmp_path)
    found = study.recognition_study(config, ctx)
    assert list(ctx.fitted) == [
        "recognisers/held_out",
        "recognisers/judge",
        "both/seed0",
        "both/seed1",
    ]
    for name, plain in ctx.fitted.items():
        assert not {"arms", "recognisers", "perturbations", "study"} & set(plain)
        assert set(plain["data"]) == {"train"}
        if name.startswith("both"):
            assert plain["seed"] == int(name[-1])
            assert (plain["loss"]["class"], plain["loss"]["pixel"]) == (1.0, 0.0)
            assert (tmp_path / name / "measured.npz").is_file()
    assert found["all/held_out/both/m1_seeds"] == 2
    assert not any(key.startswith("contrast") for key in found)


CHANGES = {
    "no arms": ({"arms": {}}, "needs recognisers, and arms"),
    "an arm called raw": ({"arms": {"raw": {"enhancer": "clahe"}}}, "none called"),
    "an arm of two kinds": (
        {"arms.nothing.loss": {"pixel": 1.0}},
        "either an enhancer or a loss",
    ),
    "an unknown enhancer": ({"arms.nothing.enhancer": "clae"}, "clahe"),
    "a judge that is not trained": (
        {"arms": {"a": {"loss": {"pixel": 1.0}, "steps": 1}}, "study.judge": "rich"},
        "must be a recogniser that is trained here",
    ),
    "a contrast with nobody": ({"study.contrast": ["eqal", "raw"]}, "equal"),
    "a contrast of one": ({"study.contrast": ["equal"]}, "two arms, or none"),
    "no such stream": ({"study.stream": "tset"}, "test"),
    "no batch": ({"study.batch": 0}, "at least 1"),
    "no such perturbation": ({"perturbations.blurr": [0, 1]}, "blur"),
    "levels up and down": ({"perturbations.blur": [0, 2, 1]}, "rise or fall"),
    "one level": ({"perturbations.blur": [1]}, "two or more"),
    "too few labels": ({"study.right": [[0], [1]]}, "study.right has 2 labels"),
    "no such class": ({"study.right": [[5]] * 10}, "the 5 classes"),
    "a label without classes": ({"study.right": [[]] * 10}, "at least one"),
    "floats": ({"data.test.transform": [{"name": "to_float"}]}, "leave to_float out"),
    "an unknown key": ({"study.picture": 3}, "picture"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_mistake_is_one_line(config, tmp_path, case):
    edits, message = CHANGES[case]
    with config.unlocked():
        for key, value in edits.items():
            *sections, last = key.split(".")
            section = config
            for name in sections:
                section = section[name]
            section[last] = value
    with pytest.raises(ConfigError, match=message) as error:
        study.recognition_study(config, Context(tmp_path))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.npz"))


# --- the numbers ----------------------------------------------------------------------------


@pytest.fixture
def found():
    """Two seeds of one arm, one of another: 3 levels, 12 pictures."""
    rng = np.random.default_rng(0)

    def run(shift):
        hit = (rng.random((3, 12)) < 0.5 + shift).astype(np.float32)
        psnr = rng.normal(25, 3, (3, 12)).astype(np.float32)
        return {"blur/net": hit, "blur/psnr": psnr, "blur/ssim": psnr / 40}

    return {"raw": [run(0)], "fixed": [run(0.1)], "trained": [run(0.2), run(0.3)]}


LEVELS = {"blur": [0, 1, 2]}
OPTIONS = {"resamples": 50, "contrast": ["trained", "fixed"]}


def test_numbers_are_means_over_levels_but_the_mildest(found):
    rows = summarise(found, LEVELS, range(12), OPTIONS, baseline="raw")
    row = next(r for r in rows if (r["perturbation"], r["arm"]) == ("blur", "trained"))
    each = [run["blur/net"][1:].mean() for run in found["trained"]]
    raw = found["raw"][0]["blur/net"]
    assert row["m1"] == pytest.approx(np.mean(each))
    assert row["m1_std"] == pytest.approx(np.std(each, ddof=1))
    assert row["gain"] == pytest.approx(np.mean(each) - raw[1:].mean())
    assert row["gain_low"] < row["gain"] < row["gain_high"]
    # Pictures that are known at the mildest level unrestored; a trapezoid over three ranks.
    known = raw[0] > 0
    curves = [run["blur/net"][:, known].mean(axis=1) for run in found["trained"]]
    area = np.mean([(c[0] + 2 * c[1] + c[2]) / 4 for c in curves])
    assert row["area"] == pytest.approx(area)
    numbers = scalars(rows, found, LEVELS, range(12), OPTIONS, baseline="raw")
    fixed = found["fixed"][0]["blur/net"][1:].mean()
    assert numbers["contrast/net"] == pytest.approx(np.mean(each) - fixed)
    assert "contrast/net_std" not in numbers  # one seed against two: no pairs
    assert numbers["contrast/net_seeds"] == 1
    assert numbers["blur/net/trained/gain_low_seeds"] == 2


def test_disagreement_counts_changes_of_opposite_sign(found):
    psnr, m1 = changes(found, LEVELS, "net", baseline="raw")
    assert len(psnr) == len(m1) == 4  # two arms, two levels
    raw = found["raw"][0]
    first = found["fixed"][0]["blur/psnr"][1].mean() - raw["blur/psnr"][1].mean()
    assert psnr[0] == pytest.approx(first, rel=1e-4)
    rows = summarise(found, LEVELS, range(12), OPTIONS, baseline="raw")
    numbers = scalars(rows, found, LEVELS, range(12), OPTIONS, baseline="raw")
    moved = (psnr != 0) & (m1 != 0)
    assert numbers["disagree/net"] == np.mean((psnr * m1 < 0)[moved])
    expected = stats.spearmanr(psnr, m1).statistic
    assert numbers["rank_correlation/net"] == pytest.approx(expected)


@pytest.mark.parametrize("values", [3, 7, 1000], ids="{} different values".format)
def test_rank_correlation_agrees_with_scipy_with_and_without_ties(values):
    x, y = np.random.default_rng(values).integers(0, values, (2, 41)).astype(float)
    assert rank_correlation(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert rank_correlation(x, x**3) == pytest.approx(1)
    assert rank_correlation(x, np.ones(41)) == 0  # nothing to rank


def test_curves_show_the_means(found):
    figure = draw_curves(found, LEVELS, "net")
    [axes] = figure.axes
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert set(lines) == set(found)
    both = [run["blur/net"].mean(axis=1) for run in found["trained"]]
    np.testing.assert_allclose(lines["trained"], np.mean(both, axis=0), rtol=1e-6)


# --- how pictures are spoilt ----------------------------------------------------------------

STEPS = {
    "blur": [0.0, 0.5, 1.0, 2.0],
    "jpeg": [95, 50, 20, 5],
    "noise": [0.0, 10.0, 30.0, 90.0],
    "interlace": [0.0, 1.0, 2.0, 4.0],
    "contrast": [1.0, 0.7, 0.3, 0.1],
    "resolution": [1.0, 1.5, 2.0, 4.0],
}


@pytest.fixture(scope="module")
def pictures():
    """Waves of several lengths with a little grain, odd sizes."""
    y, x = np.mgrid[:33, :41]
    waves = np.sin(x / 3.1) + np.sin(y / 4.3) + np.sin((x + y) / 6.7)
    grain = np.random.default_rng(0).normal(0, 4, (2, 33, 41, 3))
    images = 127 + 35 * waves[None, ..., None] * [1.0, 0.8, 0.5] + grain
    return np.clip(images, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_each_level_is_further_from_the_picture(pictures, name):
    errors = []
    for level in STEPS[name]:
        spoilt = perturb(pictures, name, level)
        assert spoilt.dtype == np.uint8
        assert spoilt.shape == pictures.shape
        errors.append(np.mean((spoilt - pictures.astype(float)) ** 2))
        np.testing.assert_array_equal(perturb(pictures[:1], name, level)[0], spoilt[0])
    assert (np.diff(errors) > 0).all()
    assert (errors[0] == 0) == (name != "jpeg")


def test_noise_differs_from_picture_to_picture(pictures):
    flat = np.full_like(pictures, 128)
    a, b = perturb(flat, "noise", 20.0).astype(float) - 128
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.05
    assert np.std(a) == pytest.approx(20, rel=0.05)


def test_unknown_perturbations_are_refused(pictures):
    with pytest.raises(ConfigError, match="noise"):
        perturb(pictures, "nois", 1.0)
    check_levels(STEPS)
