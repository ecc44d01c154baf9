"""The ratio of gradient energies."""

import jax.numpy as jnp
import numpy as np

from zoo_jax.metrics.sharpness import sharpness_ratio


def test_sharpness_is_the_ratio_of_squared_differences_of_neighbours():
    rng = np.random.default_rng(5)
    image, truth = rng.random((2, 2, 6, 9, 3))

    def energy(x):
        h, w = x.shape[:2]
        down = sum(((x[i + 1] - x[i]) ** 2).sum() for i in range(h - 1))
        return down + sum(((x[:, i + 1] - x[:, i]) ** 2).sum() for i in range(w - 1))

    expected = [energy(a) / energy(b) for a, b in zip(image, truth, strict=True)]
    got = sharpness_ratio(jnp.asarray(image), jnp.asarray(truth))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_blur_lowers_sharpness_and_noise_raises_it(root):
    golden = np.load(root / "tests" / "fixtures" / "golden" / "image_metrics.npz")
    clean, blurred, noisy = (
        jnp.asarray(golden[name][None] / 255, jnp.float32)
        for name in ("clean", "blur/image", "noise/image")
    )
    np.testing.assert_allclose(sharpness_ratio(clean, clean), 1)
    assert float(sharpness_ratio(blurred, clean)[0]) < 0.7
    assert float(sharpness_ratio(noisy, clean)[0]) > 1.1
