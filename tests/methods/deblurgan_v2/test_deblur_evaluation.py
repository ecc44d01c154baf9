"""The table of restorers: its numbers against scikit-image, its files, and what it refuses."""

import contextlib
import csv

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError, DataError, WeightsError
from zoo_jax.methods.deblurgan_v2 import evaluation
from zoo_jax.methods.deblurgan_v2.evaluation import evaluate_pairs
from zoo_jax.methods.deblurgan_v2.model import make_generator
from zoo_jax.metrics.complex_wavelet import complex_wavelet_ssim
from zoo_jax.metrics.niqe import NiqeModel, niqe

SECTION = dict(name="plain_residual", width=4, blocks=1)
SIZES = ((40, 52), (33, 64), (40, 52))


class Pairs:
    """Blurred and sharp pictures; sharp ones are random, blurred ones their means."""

    def __init__(self, sizes=SIZES, dtype=np.uint8, equal=False):
        self.examples = []
        for i, (h, w) in enumerate(sizes):
            coarse = np.random.default_rng(i).integers(
                0, 256, (h // 4 + 1, w // 4 + 1, 3)
            )
            sharp = coarse.repeat(4, 0).repeat(4, 1)[:h, :w]
            blurred = (sharp + np.roll(sharp, 1, 1) + np.roll(sharp, 2, 1)) // 3
            image = sharp if equal else blurred
            self.examples.append(
                {"image": image.astype(dtype), "sharp": sharp.astype(dtype)}
            )
        self.info = {"groups": tuple("abc"[: len(sizes)])}

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        return self.examples[index]


class Context:
    """What a run gives to a procedure, kept in memory."""

    def __init__(self, workdir, source, variables=None):
        self.workdir, self.source, self.variables = workdir, source, variables
        self.key, self.writer = jax.random.key(0), self
        self.tables, self.figures, self.loaded = {}, {}, []

    def load_source(self, spec):
        assert spec == {"name": "made_up"}
        return self.source

    def load_variables(self, where):
        self.loaded.append(where)
        return self.variables

    def table(self, name, rows, *, caption=""):
        self.tables[name] = rows

    def figure(self, name, figure, *, caption=""):
        self.figures[name] = figure

    def progress(self, total, description):
        return contextlib.nullcontext(self)

    def update(self, n=1):
        pass


def weights(change=0.0):
    """A network that adds tanh(change) and nothing else."""
    module = make_generator(SECTION)
    variables = module.init(jax.random.key(1), jnp.zeros((1, 8, 8, 3)), train=False)
    params = dict(variables["params"])
    final = params["final"]
    params["final"] = {
        "kernel": jnp.zeros_like(final["kernel"]),
        "bias": jnp.full_like(final["bias"], change),
    }
    return {"params": {"generator": params}, "model_state": {"generator": {}}}


def config(arms=None, batch_size=1, **options):
    return ml_collections.ConfigDict(
        dict(
            model=SECTION,
            data=dict(test=dict(name="made_up", batch_size=batch_size)),
            arms={"net": dict(weights="here")} if arms is None else arms,
            evaluation=dict(stream="test", pictures=0, **options),
        )
    )


def by_scikit_image(image, sharp):
    metrics = pytest.importorskip("skimage.metrics")
    common = dict(channel_axis=-1, data_range=255)
    gaussian = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)

    def unit(x):
        return jnp.asarray(x[None] / 255, jnp.float32)

    def energy(x):
        return sum((np.diff(x.astype(float), axis=axis) ** 2).sum() for axis in (0, 1))

    return {
        "psnr": metrics.peak_signal_noise_ratio(sharp, image),
        "ssim_skimage_uniform7": metrics.structural_similarity(sharp, image, **common),
        "ssim_gauss11_valid": metrics.structural_similarity(
            sharp, image, **common, **gaussian
        ),
        "ssim_cw": float(complex_wavelet_ssim(unit(image), unit(sharp))[0]),
        "sharpness": energy(image) / energy(sharp),
    }


def test_the_input_and_each_protocol_are_measured_as_scikit_image_does(tmp_path):
    source = Pairs()
    change = 6.0 / 127.5
    ctx = Context(tmp_path, source, weights(np.arctanh(change)))
    out = evaluate_pairs(config(protocols=["reflect", "predict"]), ctx)
    assert ctx.loaded == ["here"]
    brighter = [np.minimum(e["image"] + 6.0, 255) for e in source.examples]
    for arm, images in (
        ("identity/none", [e["image"] for e in source.examples]),
        ("net/reflect", [x.astype(np.uint8) for x in brighter]),
    ):
        each = [
            by_scikit_image(image, example["sharp"])
            for image, example in zip(images, source.examples, strict=True)
        ]
        for metric in each[0]:
            values = np.array([values[metric] for values in each])
            assert out[f"{arm}/{metric}"] == pytest.approx(values.mean(), abs=1e-4)
            error = values.std(ddof=1) / np.sqrt(3)
            assert out[f"{arm}/{metric}_se"] == pytest.approx(error, abs=1e-4)
    # Truncation may lose one level to float32.
    assert abs(out["net/predict/psnr"] - out["net/reflect/psnr"]) < 0.5
    row = next(r for r in ctx.tables["deblurring"] if r["protocol"] == "predict")
    kernels = 9 * (3 * 4 + 2 * 4 * 4 + 4 * 3)
    pixels = (64 * 64 + 64 * 96 + 64 * 64) / 3  # 40x52 and 33x64 with their padding
    assert row["gmacs"] == pytest.approx(pixels * kernels / 1e9)
    assert row["parameters"] == kernels + 4 * 3 + 3
    assert row["images"] == 3
    assert row["seconds"] > 0


def test_images_are_listed_and_programs_compiled_once_per_size(tmp_path, monkeypatch):
    traced = []

    def counting(module, protocol, variables, image, restore=evaluation.restore):
        traced.append((protocol, image.shape))
        return restore(module, protocol, variables, image)

    monkeypatch.setattr(evaluation, "restore", counting)
    ctx = Context(tmp_path, Pairs(), weights())
    evaluate_pairs(config(protocols=["reflect", "predict"]), ctx)
    assert len(traced) == len(set(traced)) == 4
    rows = list(csv.DictReader((tmp_path / "images.csv").read_text().splitlines()))
    assert [row["image"] for row in rows[::3]] == ["a/0", "b/1", "c/2"]
    assert [row["protocol"] for row in rows[:3]] == ["none", "reflect", "predict"]
    # A network that changes nothing is as good as its input.
    assert rows[1]["psnr"] == rows[0]["psnr"]
    assert not ctx.figures


@pytest.mark.parametrize("equal", [100.0, float("inf")])
def test_equal_images_have_the_psnr_that_was_asked_for(tmp_path, equal):
    ctx = Context(tmp_path, Pairs(SIZES[:1], equal=True))
    out = evaluate_pairs(config(arms={}, psnr_of_equal=equal), ctx)
    assert out["identity/none/psnr"] == equal
    assert out["identity/none/ssim_cw"] == 1.0
    assert not any(name.endswith("_se") for name in out)  # one image has no spread


def test_fresh_weights_and_another_network_of_an_arm_and_pictures(tmp_path):
    arms = {
        "one": dict(weights="fresh"),
        "two": dict(weights="fresh", model={**SECTION, "width": 2}),
    }
    c = config(arms=arms, protocols=["reflect"], zoom=16)
    c.evaluation.pictures = 2
    ctx = Context(tmp_path, Pairs())
    out = evaluate_pairs(c, ctx)
    assert out["one/reflect/parameters"] > out["two/reflect/parameters"]
    axes = ctx.figures["pictures"].axes
    assert (
        len(axes) == 2 * 4
    )  # blurred, one, two, sharp of the first and the last image
    np.testing.assert_allclose(
        np.asarray(axes[3].images[0].get_array()),
        ctx.source[0]["sharp"][12:28, 18:34] / 255,
        atol=1e-6,
    )


def test_naturalness_is_measured_with_a_model(tmp_path):
    mean, covariance = np.zeros(36), np.eye(36)
    path = tmp_path / "model.npz"
    np.savez(path, mu_pris_param=mean, cov_pris_param=covariance)
    source = Pairs([(96, 192)])
    out = evaluate_pairs(
        config(arms={}, niqe_model=str(path)), Context(tmp_path, source)
    )
    rgb = source[0]["image"][None] / 255
    weights = np.array([65.481, 128.553, 24.966])
    grey = np.round(rgb[0] @ weights + 16)
    expected = niqe(grey, NiqeModel(mean, covariance))
    assert out["identity/none/niqe"] == pytest.approx(expected, rel=1e-3)
    with pytest.raises(DataError, match="a/0 has 95x192 pixels: NIQE needs two blocks"):
        evaluate_pairs(
            config(arms={}, niqe_model=str(path)), Context(tmp_path, Pairs([(95, 192)]))
        )


@pytest.mark.parametrize(
    ("source", "match"),
    [
        (Pairs([(10, 40)]), "image a/0 has 10x40 pixels: SSIM needs 11x11 or more"),
        (
            Pairs(SIZES[:1], np.float32),
            "takes uint8 'image', got float32: leave to_float",
        ),
    ],
)
def test_images_that_cannot_be_measured_are_named(tmp_path, source, match):
    with pytest.raises(DataError, match=match):
        evaluate_pairs(config(arms={}), Context(tmp_path, source))
    assert not (tmp_path / "images.csv").exists()


def other_network():
    return {"params": {"patch": {}}, "model_state": {}}


def other_width():
    module = make_generator({**SECTION, "width": 3})
    params = module.init(jax.random.key(1), jnp.zeros((1, 8, 8, 3)), train=False)
    return {"params": {"generator": params["params"]}, "model_state": {}}


@pytest.mark.parametrize(
    ("loaded", "match"),
    [
        (other_network, "here: holds no generator but patch"),
        (
            other_width,
            r"here: does not fit the model section: 7 of 8 arrays .*block0_",
        ),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, loaded, match):
    with pytest.raises(WeightsError, match=match):
        evaluate_pairs(config(), Context(tmp_path, Pairs(), loaded()))


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        (
            config(protocols=["predct"]),
            "unknown protocol 'predct': did you mean 'predict'",
        ),
        (config(protocols=[]), "protocols is empty: choose from predict"),
        (config(zom=3), "unknown key evaluation.zom: did you mean 'zoom'"),
        (config(zoom=0), "evaluation.zoom is too small, got 0"),
        (config(batch_size=2), "data.test.batch_size must be 1 here, got 2"),
        (
            config(arms={"identity": dict(weights="x")}),
            "arms.identity is measured anyway",
        ),
        (config(arms={"a": dict(weights="")}), "arms.a has no weights"),
        (config(arms={"a": dict(weight="x")}), "unknown key arms.a.weight"),
    ],
)
def test_wrong_sections_are_named(tmp_path, changed, match):
    with pytest.raises(ConfigError, match=match):
        evaluate_pairs(changed, Context(tmp_path, Pairs(), weights()))


def test_an_unknown_stream_is_named(tmp_path):
    c = config()
    c.evaluation.stream = "tset"
    with pytest.raises(
        ConfigError, match=r"'tset' is not in config\.data: did you mean"
    ):
        evaluate_pairs(c, Context(tmp_path, Pairs()))
