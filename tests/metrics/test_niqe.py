"""NIQE step by step against another computation, and against published values where possible."""

import importlib.util
import os

import numpy as np
import pytest
import scipy.ndimage
import scipy.special

from zoo_jax.core.errors import DataError
from zoo_jax.metrics.image import luma
from zoo_jax.metrics.niqe import NiqeModel, _half, load_niqe_model, niqe


@pytest.fixture(scope="module")
def golden(root):
    return np.load(root / "tests" / "fixtures" / "golden" / "image_metrics.npz")


def picture(seed, shape=(205, 300)):
    """Smooth patches with noise, whole grey levels."""
    rng = np.random.default_rng(seed)
    image = scipy.ndimage.gaussian_filter(rng.normal(size=shape), 3) * 400
    return np.clip(np.round(120 + image + 6 * rng.normal(size=shape)), 0, 255)


def other_features(image, size):
    """The 18 features per block, written from the paper with scipy."""
    line = np.exp(-(np.arange(-3.0, 4) ** 2) / (2 * (7 / 6) ** 2))
    window = np.outer(line, line) / np.outer(line, line).sum()
    mean = scipy.ndimage.convolve(image, window, mode="nearest")
    power = scipy.ndimage.convolve(image**2, window, mode="nearest")
    image = (image - mean) / (np.sqrt(abs(power - mean**2)) + 1)
    shapes = np.linspace(0.2, 10, 9801)
    gamma = scipy.special.gamma
    curve = gamma(2 / shapes) ** 2 / gamma(1 / shapes) / gamma(3 / shapes)

    def fit(x):
        left = np.sqrt((x[x < 0] ** 2).mean())
        right = np.sqrt((x[x > 0] ** 2).mean())
        g = left / right
        r = abs(x).mean() ** 2 / (x**2).mean()
        r *= (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
        a = shapes[abs(curve - r).argmin()]
        scale = np.sqrt(gamma(1 / a) / gamma(3 / a))
        return a, left * scale, right * scale

    rows = []
    for top in range(0, image.shape[0], size):
        for left_edge in range(0, image.shape[1], size):
            x = image[top : top + size, left_edge : left_edge + size]
            a, bl, br = fit(x)
            row = [a, (bl + br) / 2]
            for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
                a, bl, br = fit(x * np.roll(np.roll(x, dy, 0), dx, 1))
                row += [a, (br - bl) * gamma(2 / a) / gamma(1 / a), bl, br]
            rows.append(row)
    return np.array(rows)


def test_agrees_with_a_second_implementation():
    rng = np.random.default_rng(0)
    root = 0.1 * rng.normal(size=(36, 36))
    model = NiqeModel(rng.normal(size=36), root @ root.T + 0.1 * np.eye(36))
    image = picture(1)
    whole = image[:192, :288]
    found = np.hstack([other_features(whole, 96), other_features(_half(whole), 48)])
    step = model.mean - found.mean(0)
    both = (model.covariance + np.cov(found.T)) / 2
    expected = np.sqrt(step @ np.linalg.pinv(both) @ step)
    # Two ways of rounding can pick neighbours of the grid of shapes, which is 0.001 wide.
    assert niqe(image, model) == pytest.approx(expected, rel=1e-3)


def test_halving_agrees_with_the_matlab_convention(golden):
    got = _half(golden["imresize/input"].astype(np.float64))
    np.testing.assert_allclose(got, golden["imresize/half"], atol=1e-5)


def test_disturbed_pictures_are_less_natural_than_those_of_the_model():
    clean = [
        np.hstack([other_features(p, 96), other_features(_half(p), 48)])
        for p in (picture(seed, (192, 288)) for seed in range(8))
    ]
    clean = np.concatenate(clean)
    model = NiqeModel(clean.mean(0), np.cov(clean.T))
    image = picture(99)
    noise = np.random.default_rng(0).normal(size=image.shape) * 25
    blurred = scipy.ndimage.gaussian_filter(image, 2)
    assert niqe(image, model) < min(niqe(image + noise, model), niqe(blurred, model))


def test_too_small_images_are_refused():
    model = NiqeModel(np.zeros(36), np.eye(36))
    with pytest.raises(ValueError, match=r"96x96 pixels or more, got \(191, 191\)"):
        niqe(np.zeros((191, 191)), model)


@pytest.mark.parametrize("name", ["absent.npz", "other.npz", "short.npz", "text.npz"])
def test_what_is_no_model_is_one_clear_error(tmp_path, name):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    short = {"mu_pris_param": np.zeros(35), "cov_pris_param": np.eye(36)}
    np.savez(tmp_path / "short.npz", **short)
    (tmp_path / "text.npz").write_text("no model")
    with pytest.raises(DataError, match="is no NIQE model"):
        load_niqe_model(tmp_path / name)


def test_a_file_in_the_published_form_is_read(tmp_path):
    mean, covariance = np.arange(36.0)[None], np.eye(36)
    np.savez(tmp_path / "m.npz", mu_pris_param=mean, cov_pris_param=covariance)
    model = load_niqe_model(tmp_path / "m.npz")
    np.testing.assert_array_equal(model.mean, np.arange(36))
    np.testing.assert_array_equal(model.covariance, np.eye(36))


@pytest.mark.parametrize("name", ["rule0", "rule1", "astronaut", "coffee"])
def test_agrees_with_published_values_where_the_model_is_at_hand(root, golden, name):
    path = os.environ.get("ZOO_NIQE_MODEL")
    if not path:
        pytest.skip(
            "ZOO_NIQE_MODEL names no file such as BasicSR's niqe_pris_params.npz"
        )
    if name.startswith("rule"):
        file = root / "tests" / "fixtures" / "golden" / "rule.py"
        spec = importlib.util.spec_from_file_location("golden_rule", file)
        rule = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(rule)
        shape = (1, 3, *golden[f"niqe/{name}/shape"])
        tag = f"niqe{name[-1]}"
        rgb = np.round(rule.image(shape, 1, 0, 255, tag=tag))[0].transpose(1, 2, 0)
    else:
        rgb = getattr(pytest.importorskip("skimage.data"), name)()
    grey = np.round(255 * np.asarray(luma(np.float32(rgb) / 255))[..., 0])
    got = niqe(grey, load_niqe_model(path))
    ends = [float(golden[f"niqe/{name}/{v}"]) for v in ("value", "value_float64")]
    # The stored values are of float32 and of float64 pictures; flat areas part them.
    assert min(ends) * 0.999 <= got <= max(ends) * 1.001
