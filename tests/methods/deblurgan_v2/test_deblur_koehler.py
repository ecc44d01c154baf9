"""Koehler's benchmark over a folder in the official layout."""

import contextlib
import csv

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from PIL import Image

from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.methods.deblurgan_v2.koehler import evaluate_koehler
from zoo_jax.methods.deblurgan_v2.model import make_generator
from zoo_jax.metrics.koehler import koehler_score

SECTION = dict(name="plain_residual", width=2, blocks=1)
H, W = 177, 180


class Context:
    """What a run gives to a procedure, kept in memory."""

    def __init__(self, workdir):
        self.workdir, self.key, self.writer = workdir, jax.random.key(0), self
        self.tables = {}

    def load_variables(self, where):
        module = make_generator(SECTION)
        variables = module.init(jax.random.key(1), jnp.zeros((1, 8, 8, 3)), train=False)
        params = dict(variables["params"])
        params["final"] = jax.tree.map(
            jnp.zeros_like, params["final"]
        )  # changes nothing
        return {"params": {"generator": params}, "model_state": {}}

    def table(self, name, rows, *, caption=""):
        self.tables[name] = rows

    def progress(self, total, description):
        return contextlib.nullcontext(self)

    def update(self, n=1):
        pass


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two pictures with three frames each; of (1, 3) the best one is the one that is missing."""
    photo = pytest.importorskip("skimage.data").astronaut()[:H, 200 : 200 + W]
    rng = np.random.default_rng(0)
    frames = {}
    for k in (3, 4):
        blurred = (
            photo.astype(int) + np.roll(photo, 3, 1) + np.roll(photo, -3, 1)
        ) // 3
        save(tmp_path / f"Blurry1_{k}.png", blurred.astype(np.uint8))
        for n, noise in ((1, 60), (29, 25), (30, 0)):
            noisy = photo + rng.normal(0, 1, photo.shape) * noise
            frames[k, n] = np.clip(noisy, 0, 255).astype(np.uint8)
            place = tmp_path / "Image1" / f"Kernel{k}"
            save(place / f"GroundTruth1_{k}_{n}.png", frames[k, n])
    return tmp_path, blurred.astype(np.uint8), frames


def config(root, **options):
    return ml_collections.ConfigDict(
        dict(
            model=SECTION,
            arms={"net": dict(weights="here")},
            data=dict(),
            evaluation=dict(root=str(root), **options),
        )
    )


def test_every_picture_is_judged_by_the_best_frame_that_counts(folder, tmp_path):
    root, blurred, frames = folder
    ctx = Context(tmp_path)
    out = evaluate_koehler(config(root, protocols=["reflect"], partial=True), ctx)
    best = [
        koehler_score(blurred, [frames[3, n] for n in (1, 29)]),  # not the 30th
        koehler_score(blurred, [frames[4, n] for n in (1, 29, 30)]),
    ]
    assert best[1].psnr > best[0].psnr + 0.1
    for metric in ("psnr", "mssim"):
        values = np.array([getattr(score, metric) for score in best])
        for arm in ("identity/none", "net/reflect"):
            assert out[f"{arm}/{metric}"] == pytest.approx(values.mean())
            error = values.std(ddof=1) / 2**0.5
            assert out[f"{arm}/{metric}_se"] == pytest.approx(error)
    rows = list(csv.DictReader((tmp_path / "images.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == ["1_3", "1_3", "1_4", "1_4"]
    assert [row["images"] for row in ctx.tables["koehler"]] == [2, 2]


def test_an_incomplete_set_is_refused_unless_asked_for(folder, tmp_path):
    root, _, _ = folder
    with pytest.raises(
        DataError, match=r"has 2 of 48 pictures .* set evaluation\.partial"
    ):
        evaluate_koehler(config(root), Context(tmp_path))
    with pytest.raises(DataError, match="has 0 of 48 pictures"):
        evaluate_koehler(config(root / "Image1", partial=True), Context(tmp_path))


def test_frames_of_another_size_are_named(folder, tmp_path):
    root, blurred, _ = folder
    save(root / "Image1" / "Kernel3" / "GroundTruth1_3_29.png", blurred[1:])
    with pytest.raises(
        DataError, match=r"frame 29 of Blurry1_3 has \(176, 180\) pixels"
    ):
        evaluate_koehler(config(root, partial=True), Context(tmp_path))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(rot="x"), "unknown key evaluation.rot: did you mean 'root'"),
        (dict(protocols=["predct"]), "unknown protocol 'predct'"),
    ],
)
def test_wrong_sections_are_named(folder, tmp_path, options, match):
    with pytest.raises(ConfigError, match=match):
        evaluate_koehler(config(folder[0], **options), Context(tmp_path))
