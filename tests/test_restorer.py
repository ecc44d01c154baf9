"""Restorers: padding, sizes, batches, tiles, merged statistics, and what they refuse."""

import jax
import numpy as np
import pytest
from restoring import DNCNN, PYRAMID, RESNET, noise, random_model, smooth

import zoo_jax
from zoo_jax import restorer
from zoo_jax.core.errors import ConfigError, DataError, DeviceError
from zoo_jax.restorer import Restorer, merge_statistics


@pytest.fixture(scope="module")
def dncnn():
    name, small = DNCNN
    return random_model(name, seed=1, **small)


@pytest.fixture(scope="module")
def resnet():
    name, small = RESNET
    return random_model(name, seed=2, **small)


@pytest.fixture(scope="module")
def pyramid():
    name, small = PYRAMID
    return random_model(name, seed=2, **small)


def test_a_restored_picture_is_what_the_network_says_of_it(dncnn, resnet):
    x = noise(40, 56)
    unit = x.astype(np.float32) / 255
    found = np.asarray(dncnn(unit))
    np.testing.assert_allclose(
        Restorer(dncnn)(x), np.clip(unit - found, 0, 1), atol=1e-6
    )
    assert np.abs(found).max() > 0.1  # the network does something here
    expected = (np.asarray(resnet(2 * unit - 1)) + 1) / 2
    np.testing.assert_allclose(Restorer(resnet)(x), expected, atol=1e-5)
    np.testing.assert_allclose(Restorer(resnet)(unit), expected, atol=1e-5)
    assert 0.01 < np.abs(expected - unit).mean() < 0.2


@pytest.mark.parametrize(
    ("pad", "options", "size"),
    [
        ("reflect", {"bucket": 16}, (80, 64)),
        ("edge", {"bucket": 16}, (80, 64)),
        ("reference", {}, (96, 64)),
    ],
)
def test_padding_is_that_of_its_name_and_is_cut_off(resnet, pad, options, size):
    x = noise(65, 60).astype(np.float32) / 255
    (height, width), (h, w) = size, x.shape[1:3]
    widths = ((0, 0), (0, height - h), (0, width - w), (0, 0))
    if pad == "reference":
        padded = np.pad(2 * x - 1, widths)  # zero behind the conversion
    else:
        padded = np.pad(2 * x - 1, widths, mode=pad)
    expected = (np.asarray(resnet(padded))[:, :h, :w] + 1) / 2
    out = Restorer(resnet, pad=pad, **options)(x)
    assert out.shape == x.shape
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_sizes_are_padded_to_what_is_needed(pyramid, dncnn):
    assert Restorer(pyramid).padded_size(720, 1280) == (736, 1280)
    assert Restorer(pyramid).padded_size(5, 70) == (64, 96)  # the minimum
    assert Restorer(pyramid, pad="reference").padded_size(720, 1280) == (736, 1312)
    assert Restorer(pyramid, bucket=128).padded_size(720, 1290) == (768, 1408)
    assert Restorer(dncnn).padded_size(5, 70) == (5, 70)


@pytest.mark.parametrize("shape", [(1, 1), (1, 60), (7, 8), (63, 33)])
def test_pictures_below_the_minimum_come_back_at_their_size(resnet, shape):
    out = Restorer(resnet, bucket=64)(noise(*shape))
    assert out.shape == (1, *shape, 3)
    assert out.min() >= 0
    assert out.max() <= 1


def test_batches_of_any_size_give_what_single_pictures_give(resnet):
    x = noise(24, 32, b=3)
    alone = np.concatenate([Restorer(resnet)(one[None]) for one in x])
    np.testing.assert_allclose(Restorer(resnet, batch=2)(x), alone, atol=1e-5)


@pytest.mark.parametrize("size", [(70, 90), (40, 97)])
@pytest.mark.parametrize("batch", [1, 3])
def test_tiles_of_a_network_of_finite_reach_equal_the_whole(dncnn, size, batch):
    x = noise(*size)
    whole = Restorer(dncnn)(x)
    tiled = Restorer(dncnn, tile=40, batch=batch)(x)
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-6)
    # Two pixels of overlap less than the reach needs would not do.
    narrow = Restorer(dncnn, tile=40)
    narrow._restoring = narrow._restoring._replace(reach=3)
    narrow._overlap = 6
    assert np.abs(narrow(x) - whole).max() > 1e-4


def test_tiles_of_the_published_depth_equal_the_whole():
    model = random_model("u_said/dncnn", features=4, seed=3)
    x = noise(64, 100)
    whole, tiled = Restorer(model)(x), Restorer(model, tile=60)(x)
    assert Restorer(model)._restoring.reach == 20  # 41 pixels see each other
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-6)


def test_tiles_of_a_plain_residual_network_equal_the_whole():
    model = random_model("deblurgan_v2/plain_residual", width=4, blocks=1)
    x = noise(40, 51)
    whole = Restorer(model)(x)
    np.testing.assert_allclose(Restorer(model, tile=20)(x), whole, rtol=0, atol=1e-6)


def test_tiles_share_the_statistics_of_the_picture(resnet):
    """Nearer to the whole picture than tiles that see only themselves."""
    x = smooth(64, 192)
    x[:, :, 64:] *= 0.5  # parts with different statistics
    whole = Restorer(resnet)(x)
    tiled = Restorer(resnet, tile=64, overlap=32)
    shared = np.abs(tiled(x) - whole).mean()
    tiled._restoring = tiled._restoring._replace(statistics=None)
    alone = np.abs(tiled(x) - whole).mean()
    assert shared < 0.8 * alone
    assert shared < 0.02


def test_merged_statistics_are_those_of_all_numbers_together():
    x = np.random.default_rng(0).normal(size=(4, 50, 3)) * [1, 2, 3] + [[[5, 0, -5]]]
    x[1] += 4  # parts that differ
    parts = [
        {"a": {"norm": {"mean": part.mean(0), "var": part.var(0)}}, "b": {}}
        for part in x
    ]
    merged = merge_statistics(parts)["a"]["norm"]
    every = x.reshape(-1, 3)
    np.testing.assert_allclose(merged["mean"], every.mean(0), rtol=1e-6)
    np.testing.assert_allclose(merged["var"], every.var(0), rtol=1e-6)


def test_a_picture_within_one_tile_is_not_tiled(resnet):
    x = noise(24, 32)
    tiled = Restorer(resnet, tile=32, overlap=16)
    np.testing.assert_array_equal(tiled(x), Restorer(resnet)(x))


def test_compute_in_bfloat16_is_close(resnet):
    name, small = RESNET
    half = random_model(name, seed=2, dtype="bfloat16", **small)
    x = smooth(24, 32)
    out = Restorer(half)(x)
    assert out.dtype == np.float32
    assert 0 < np.abs(out - Restorer(resnet)(x)).mean() < 0.01


def test_numbers_that_are_not_finite_are_an_error(dncnn):
    x = noise(16, 24).astype(np.float32)
    x[0, 3, 4, 1] = np.nan
    with pytest.raises(DataError, match="not finite"):
        Restorer(dncnn)(x)


def test_too_little_memory_is_one_line(dncnn, monkeypatch):
    def full(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")

    monkeypatch.setattr(restorer, "_run", full)
    with pytest.raises(DeviceError, match="2 x 16x24 pixels need more memory"):
        Restorer(dncnn, batch=2)(noise(16, 24))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(pad="mirror"), "unknown padding 'mirror'"),
        (dict(batch=0), "batch must be at least 1, got 0"),
        (dict(bucket=48), "bucket must be a multiple of 32"),
        (dict(tile=100), "tile must be a multiple of 32"),
        (dict(tile=64), "tile must be at least 96 .* overlap of 64, got 64"),
        (dict(tile=128, overlap=33), "overlap must be a multiple of 32"),
        (dict(tile=-32), "tile must be a multiple"),
    ],
)
def test_options_that_do_not_fit_are_named(pyramid, options, words):
    with pytest.raises(ConfigError, match=words):
        Restorer(pyramid, **options)


def test_too_little_overlap_for_the_reach_is_refused(dncnn):
    with pytest.raises(ConfigError, match="overlap must be at least 8"):
        Restorer(dncnn, tile=32, overlap=7)


def test_batches_that_would_mix_pictures_are_refused():
    name, small = PYRAMID
    model = random_model(name, norm_mode="batch", **small)
    with pytest.raises(ConfigError, match="would mix the 2 pictures"):
        Restorer(model, batch=2)


def test_other_shapes_and_models_are_refused(dncnn):
    for bad in (np.zeros((4, 4, 3)), np.zeros((1, 4, 4, 1)), np.zeros((1, 0, 4, 3))):
        with pytest.raises(ConfigError, match="restores pictures"):
            Restorer(dncnn)(bad)
    with pytest.raises(ConfigError, match=r"restores no pictures: .*u_said/dncnn"):
        Restorer(zoo_jax.create_model("deep_k_means/digits_cnn"))
