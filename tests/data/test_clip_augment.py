"""Augmentations of clips, on the host and on the device; log-mel spectrograms."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.data.clip_jitter import (
    add_noise,
    adjust_hsv,
    jitter_colours,
    to_signed,
    to_unit,
)
from zoo_jax.data.geometry import RandomResizedCrop, Resize
from zoo_jax.data.spectrogram import log_mel, mel_weights
from zoo_jax.data.transforms import make_transform


def clip(t=3, h=20, w=31, seed=0):
    shape = (t, h, w, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def apply(step, example, seed=0):
    return make_transform([step])(example, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(4))
def test_all_pictures_get_the_crop_that_one_would(seed):
    video = clip()
    step = {"name": "clip_resized_crop", "size": (8, 9)}
    out = apply(step, {"video": video, "audio": 1}, seed)
    assert out["audio"] == 1
    for picture, found in zip(video, out["video"], strict=True):
        crop = RandomResizedCrop((8, 9), area=(0.08, 1.0), aspect=(0.5, 2.0))
        same = crop({"image": picture}, np.random.default_rng(seed))["image"]
        np.testing.assert_array_equal(found, same)


def test_random_crop_resizes_the_shorter_side_first():
    video = clip()
    large = np.stack([Resize((24, 37))({"image": p}, None)["image"] for p in video])
    found = {}
    for seed in range(60):
        step = {"name": "clip_random_crop", "size": (22, 30), "resize": 24}
        out = apply(step, {"video": video}, seed)["video"]
        places = [
            (y, x)
            for y in range(3)
            for x in range(8)
            if np.array_equal(out, large[:, y : y + 22, x : x + 30])
        ]
        assert len(places) == 1
        found[places[0]] = True
    assert {y for y, _ in found} == {0, 1, 2}
    assert {x for _, x in found} == set(range(8))


def test_center_crop_and_views():
    video = clip(h=20, w=31)
    out = apply({"name": "clip_center_crop", "size": (10, 11)}, {"video": video})
    np.testing.assert_array_equal(out["video"], video[:, 5:15, 10:21])
    step = {"name": "clip_views", "size": 20}
    out = apply(step, {"video": video})["video"]
    assert out.shape == (3, 3, 20, 20, 3)
    for view, x in zip(out, (0, 5, 11), strict=True):
        np.testing.assert_array_equal(view, video[:, :, x : x + 20])
    upright = video.swapaxes(1, 2)
    out = apply(step, {"video": upright})["video"]
    np.testing.assert_array_equal(out[2], upright[:, 11:])
    with pytest.raises(
        DataError, match="pictures of 20x31 are smaller than the crop 21x"
    ):
        apply({"name": "clip_center_crop", "size": 21}, {"video": video})


def test_flip_mirrors_whole_clips_half_of_the_time():
    video = clip()
    flipped = [
        np.array_equal(
            apply({"name": "clip_flip"}, {"video": video}, s)["video"],
            video[:, :, ::-1],
        )
        for s in range(40)
    ]
    assert 10 < sum(flipped) < 30
    never = apply({"name": "clip_flip", "probability": 0}, {"video": video})["video"]
    np.testing.assert_array_equal(never, video)


def test_wrong_values_are_named():
    for step, words in (
        ({"name": "clip_flip", "probability": 2}, "must lie in"),
        ({"name": "clip_resized_crop", "area": (0, 1)}, "area must be a range"),
        ({"name": "clip_center_crop", "method": "cubic"}, "did you mean 'bicubic'"),
        ({"name": "audio_noise", "scale": -1}, "must not be negative"),
    ):
        with pytest.raises(ConfigError, match=words):
            make_transform([step])
    with pytest.raises(DataError, match=r"'video' is float32 \(2, 4, 4, 3\)"):
        apply({"name": "clip_flip"}, {"video": np.zeros((2, 4, 4, 3), np.float32)})
    with pytest.raises(DataError, match="'video' is absent"):
        apply({"name": "clip_flip"}, {"image": 1})


def test_audio_noise_is_a_share_of_the_loudest_sample():
    audio = np.sin(np.arange(20_000)).astype(np.float32) * 0.5
    host = apply({"name": "audio_noise"}, {"audio": audio})["audio"] - audio
    device = add_noise(jax.random.key(0), jnp.asarray(audio)) - audio
    for noise in (host, np.asarray(device)):
        assert noise.dtype == np.float32
        # The spread of a deviation of n numbers is 1 / sqrt(2 n): five of them.
        assert noise.std() == pytest.approx(0.01 * audio.max(), rel=5 / np.sqrt(40_000))
        assert abs(noise.mean()) < 5 * 0.005 / np.sqrt(20_000)
    silent = np.zeros(5, np.float32)
    assert not apply({"name": "audio_noise"}, {"audio": silent})["audio"].any()


@pytest.mark.parametrize(("saturation", "turn"), [(1.0, 0.0), (0.6, 0.1), (1.4, -0.2)])
def test_hue_and_saturation_are_those_of_colorsys(saturation, turn):
    pixels = np.random.default_rng(1).random((300, 3))
    pixels[:8] = (
        np.array(np.meshgrid([0, 1], [0, 1], [0, 1])).reshape(3, 8).T
    )  # corners
    pixels[8] = 0.3  # grey
    found = adjust_hsv(jnp.asarray(pixels), saturation=saturation, turn=turn)
    expected = []
    for h, s, v in (colorsys.rgb_to_hsv(*p) for p in pixels):
        expected.append(colorsys.hsv_to_rgb((h + turn) % 1, min(s * saturation, 1), v))
    np.testing.assert_allclose(found, expected, atol=3e-6)  # float32, values up to 6


def test_colours_change_alike_in_all_pictures_of_a_clip():
    one = jnp.asarray(clip(1, 5, 7)) / 255
    video = jnp.concatenate([one] * 4)
    jitter = jax.jit(jax.vmap(jitter_colours))
    keys = jax.random.split(jax.random.key(0), 200)
    out = np.asarray(jitter(keys, jnp.stack([video] * 200)))
    assert out.min() >= 0
    assert out.max() <= 1
    np.testing.assert_allclose(out[:, :1] + np.zeros((1, 4, 1, 1, 1)), out, atol=1e-6)
    changed = (np.abs(out - np.asarray(video)).max(axis=(1, 2, 3, 4)) > 0).mean()
    assert abs(changed - 0.8) < 4 * np.sqrt(0.16 / 200)  # four deviations
    again = np.asarray(jitter(keys, jnp.stack([video] * 200)))
    np.testing.assert_array_equal(out, again)
    assert not jnp.isnan(
        jax.grad(lambda v: jitter_colours(keys[0], v).sum())(video)
    ).any()


def test_each_change_is_what_it_says_and_drawn_apart():
    none = {"brightness": 0.0, "saturation": 0.0, "contrast": 0.0, "hue": 0.0}
    video = 0.3 + 0.4 * jnp.asarray(clip(2, 6, 5)) / 255  # nothing is cut off

    @jax.jit
    def change(**strengths):
        return jitter_colours(jax.random.key(3), video, probability=1.1, **strengths)

    def hsv(image):
        return np.array([colorsys.rgb_to_hsv(*p) for p in image.reshape(-1, 3)])

    np.testing.assert_allclose(change(**none), video, atol=1e-6)
    outs = {n: np.asarray(change(**{**none, n: 0.1})) for n in none}
    video = np.asarray(video)
    mean = video.mean(axis=(1, 2), keepdims=True)
    before, after = hsv(video), {n: hsv(out) for n, out in outs.items()}
    np.testing.assert_allclose(
        before[:, [0, 2]], after["saturation"][:, [0, 2]], atol=1e-4
    )
    np.testing.assert_allclose(before[:, 1:], after["hue"][:, 1:], atol=1e-5)
    # How far each goes is one number for all pixels, of its own, of 0.1 at most.
    amounts = {
        "brightness": outs["brightness"] - video,
        "contrast": (outs["contrast"] - mean) / (video - mean) - 1,
        "saturation": after["saturation"][:, 1] / before[:, 1] - 1,
        "hue": (after["hue"][:, 0] - before[:, 0] + 0.5) % 1 - 0.5,
    }
    for amount in amounts.values():
        assert np.ptp(amount) < 1e-3
        assert 0 < abs(amount.mean()) <= 0.1
    rounded = {round(float(amount.mean()), 3) for amount in amounts.values()}
    assert len(rounded) == 4


def test_ranges():
    assert to_unit(jnp.array([0, 51, 255], jnp.uint8)).tolist() == pytest.approx(
        [0, 0.2, 1]
    )
    assert to_signed(jnp.array([-1.0, 0.0, 0.75, 2.0])).tolist() == [-1, -1, 0.5, 1]


def mel_by_hand(bins, length, rate, low, high):
    """Triangles, one number at a time."""

    def mel(hertz):
        return 1127.0 * np.log(1.0 + hertz / 700.0)

    edges = [
        mel(low) + (mel(high) - mel(low)) * i / (bins + 1) for i in range(bins + 2)
    ]
    out = np.zeros((length // 2 + 1, bins))
    for f in range(1, length // 2 + 1):
        at = mel(f * rate / length)
        for m in range(bins):
            left, centre, right = edges[m : m + 3]
            if left < at <= centre:
                out[f, m] = (at - left) / (centre - left)
            elif centre < at < right:
                out[f, m] = (right - at) / (right - centre)
    return out


def test_log_mel_agrees_with_scipy():
    rate, length, step, bins = 8000, 256, 100, 12
    audio = np.random.default_rng(0).uniform(-1, 1, (2, 1210)).astype(np.float32)
    options = {"rate": rate, "frame_length": length, "frame_step": step}
    found = log_mel(jnp.asarray(audio), bins=bins, low=100, high=3500, **options)
    assert found.shape == (2, 13, bins)
    padded = np.pad(audio.astype(np.float64), ((0, 0), (0, 12 * step + length - 1210)))
    magnitude = scipy.signal.spectrogram(
        padded,
        window=scipy.signal.get_window("hann", length),
        nperseg=length,
        noverlap=length - step,
        detrend=False,
        scaling="spectrum",
        mode="magnitude",
    )[2]
    # `spectrum` divides by the sum of the window.
    magnitude = magnitude.swapaxes(1, 2) * scipy.signal.get_window("hann", length).sum()
    mel = magnitude @ mel_by_hand(bins, length, rate, 100, 3500)
    np.testing.assert_allclose(found, np.log(1 + 10_000 * mel), rtol=2e-5)


def test_spectrogram_of_the_paper_has_150_frames_of_80_bins():
    shape = jax.eval_shape(
        log_mel, jax.ShapeDtypeStruct((2, 153_600), jnp.float32)
    ).shape
    assert shape == (2, 150, 80)
    weights = mel_weights(80, 2048, 48_000, 80.0, 7600.0)
    assert not weights[0].any()
    # No more than two triangles are above a place, and between centres they add up to 1.
    sums = weights.sum(axis=1)
    inner = slice(int(120 / 48_000 * 2048) + 1, int(7300 / 48_000 * 2048))
    np.testing.assert_allclose(sums[inner], 1, atol=1e-5)
    assert not log_mel(jnp.zeros((5000,))).any()
    with pytest.raises(ConfigError, match="mel bands need 0 <= low < high <= rate / 2"):
        log_mel(jnp.zeros((5000,)), rate=8000)
