"""What a judge sees in restored pictures: counted over whole sets, compared in pairs."""

import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.data.source import ArraySource
from zoo_jax.methods.u_said import judging
from zoo_jax.methods.u_said.judging import (
    Agreement,
    FileJudge,
    Pictures,
    clean_picture,
    noisy_picture,
    paired_interval,
    set_miou,
)
from zoo_jax.metrics.segmentation import mean_iou

K = 3


def brightness(images):
    """A judge: dark, medium or bright."""
    return jnp.clip((K * jnp.mean(images, axis=-1)).astype(jnp.int32), 0, K - 1)


@pytest.fixture
def source():
    """Five noisy pictures; the judge is right about the clean ones, a pixel of each is void."""
    rng = np.random.default_rng(0)
    clean = rng.random((5, 8, 9, 3)).astype(np.float32)
    labels = np.asarray(brightness(clean)).copy()
    labels[:, 0, 0] = 255
    noisy = clean + rng.normal(0, 0.3, clean.shape).astype(np.float32)
    return ArraySource({"image": clean, "noisy": noisy, "segmentation": labels})


def test_every_picture_counts_once_whatever_the_batch(source):
    found = [
        Pictures(source, dict(batch_size=size), brightness, num_classes=K).measure(
            noisy_picture
        )
        for size in (1, 2, 5)
    ]
    for other in found[1:]:
        for name, values in found[0].items():
            np.testing.assert_allclose(other[name], values, rtol=1e-5)
    np.testing.assert_array_equal(found[0]["confused"].sum(axis=(1, 2)), 8 * 9 - 1)
    clipped = np.clip(source.arrays["noisy"], 0, 1)
    error = np.mean((clipped - source.arrays["image"]) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(found[0]["psnr"], -10 * np.log10(error), rtol=1e-5)


def test_a_judge_is_right_about_what_it_was_asked(source):
    pictures = Pictures(source, dict(batch_size=2), brightness, num_classes=K)
    clean = pictures.measure(clean_picture)["confused"][None]
    noisy = pictures.measure(noisy_picture)["confused"][None]
    assert set_miou(clean)[0] == 1
    assert 0 < set_miou(noisy)[0] < 1


def random_counts(seeds, pictures, right, rng):
    """Confusion matrices of about so much accuracy."""
    counts = rng.poisson(20 * (1 - right), (seeds, pictures, K, K))
    return (
        counts + rng.poisson(100 * right, (seeds, pictures, 1, 1)) * np.eye(K)
    ).astype(np.float32)


def test_an_arm_does_not_differ_from_itself():
    arm = random_counts(3, 12, 0.7, np.random.default_rng(0))
    assert paired_interval(arm, arm, block=4, resamples=50) == (0, 0)


def test_the_interval_is_the_bootstrap_written_as_a_loop():
    rng = np.random.default_rng(1)
    arm, base = random_counts(3, 7, 0.8, rng), random_counts(3, 7, 0.6, rng)
    # The same draws: blocks of two pictures, the last of one, then the seeds.
    draws = np.random.RandomState(0)
    blocks = [[0, 1], [2, 3], [4, 5], [6]]
    taken = [
        [p for b in row for p in blocks[b]] for row in draws.randint(4, size=(40, 4))
    ]
    seeds = draws.randint(3, size=(40, 3))
    means = [
        np.mean(
            [mean_iou(arm[s][at].sum(0)) - mean_iou(base[s][at].sum(0)) for s in chosen]
        )
        for at, chosen in zip(taken, seeds, strict=True)
    ]
    found = paired_interval(arm, base, block=2, resamples=40, coverage=0.8)
    np.testing.assert_allclose(found, np.percentile(means, [10, 90]), rtol=1e-9)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(60):
        # Both arms are equally good: the true difference is 0.
        arm, base = (random_counts(1, 30, 0.7, rng) for _ in range(2))
        low, high = paired_interval(arm, base, block=1, resamples=200)
        hits += low <= 0 <= high
    assert 50 <= hits <= 60  # 57 on average; 50 or fewer has a chance below 1 %


def test_agreement_is_with_the_clean_picture():
    rng = np.random.default_rng(3)
    clean = rng.random((4, 6, 7, 3))
    half = clean.copy()
    half[:, :3] = 1 - half[:, :3]
    agreement = Agreement({"eye": brightness}, {"eye": K})
    for a, b in zip(clean, half, strict=True):
        agreement.add({"clean": a, "same": a, "half": b})
    rows = {row["arm"]: row for row in agreement.rows(baseline="half", resamples=20)}
    assert set(rows) == {"same", "half"}
    assert rows["same"]["agreement"] == rows["same"]["miou"] == 100
    seen = [np.asarray(brightness(x)) for x in (clean, half)]
    share = 100 * np.mean(seen[0] == seen[1])
    assert rows["half"]["agreement"] == pytest.approx(share)
    assert rows["half"]["gain"] == rows["half"]["gain_low"] == 0
    assert rows["same"]["gain"] == pytest.approx(100 - rows["half"]["miou"])
    assert rows["same"]["gain_low"] > 0
    assert "gain" not in agreement.rows(baseline="")[0]


def test_a_picture_is_fitted_into_the_input_of_a_file(monkeypatch):
    seen = []

    class Network:
        size = (20, 20)

        def __init__(self, path):
            pass

        def __call__(self, images):
            seen.append(images)
            return images[..., 0].astype(np.int64)

    monkeypatch.setattr(judging, "TfliteNetwork", Network)
    image = np.full((6, 12, 3), 0.4)
    classes = FileJudge("any.tflite")(image)
    assert classes.shape == (10, 20)  # enlarged with its aspect kept
    assert (classes == round(0.4 * 255)).all()
    (given,) = seen
    assert given.shape == (1, 20, 20, 3)
    assert given.dtype == np.uint8
    assert (given[0, 10:] == 127).all()


def test_deeplab_sees_the_same_cat_in_a_slightly_noisy_picture(shared):
    pytest.importorskip("ai_edge_litert")
    from zoo_jax.data.photos import SamplePhotos

    judge = FileJudge(
        shared("weights", "tflite_quant", "deeplabv3_mnv2_pascal_quant.tflite")
    )
    cat = SamplePhotos("test")[0]["image"] / 255  # chelsea
    classes = judge(cat)
    assert classes.shape == (341, 513)  # of 300x451
    assert np.mean(classes == 8) > 0.5  # cat
    noise = np.random.RandomState(0).normal(0, 4 / 255, cat.shape)
    assert np.mean(judge(cat + noise) == classes) > 0.95
