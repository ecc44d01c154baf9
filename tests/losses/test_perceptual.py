"""Distances of pixels and features: against the released code, and invariants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden

from zoo_jax.convert import apply
from zoo_jax.convert.vgg import vgg19_features_table
from zoo_jax.losses.perceptual import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    gradient_features,
    perceptual_distance,
    pixel_distance,
    to_space,
)
from zoo_jax.nn.vgg import Vgg19Features


def pictures(seed, b=2):
    return np.random.default_rng(seed).uniform(-1, 1, (b, 6, 9, 3)).astype("f4")


def test_content_loss_and_its_gradient_agree_with_the_released_code():
    file, module = Golden("deblurgan_v2_perceptual.npz"), Vgg19Features()
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    template = dict(jax.eval_shape(module.init, jax.random.key(0), x))
    variables = apply(vgg19_features_table(), file.weights, template)

    def content(image, truth):
        features = perceptual_distance(
            lambda x: module.apply(variables, x), image, truth
        )
        pixels = pixel_distance(image, truth, space="imagenet")
        return jnp.mean(0.006 * features + 0.5 * pixels)

    with jax.default_matmul_precision("highest"):
        value, gradient = jax.value_and_grad(content)(
            file.inputs["fake"], file.inputs["real"]
        )
    found = {"loss_one": value, "grad_fake_one": gradient}
    file.compare(found, of=["loss_one", "grad_fake_one"])


@pytest.mark.parametrize("kind", ["mse", "l1"])
@pytest.mark.parametrize("space", ["imagenet", "unit", "pm1"])
def test_pixel_distance_agrees_with_numpy(kind, space):
    a, b = pictures(0).astype(np.float64), pictures(1).astype(np.float64)
    scale = {"imagenet": 1 / (2 * IMAGENET_STD), "unit": 0.5, "pm1": 1.0}[space]
    difference = (a - b) * scale
    expected = (difference**2 if kind == "mse" else np.abs(difference)).mean((1, 2, 3))
    got = pixel_distance(pictures(0), pictures(1), kind=kind, space=space)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_squared_error_in_the_released_codes_units_is_about_twenty_times_larger():
    ratio = np.mean(1 / IMAGENET_STD**2)
    assert 19 < ratio < 20
    white, black = jnp.ones((1, 2, 2, 3)), -jnp.ones((1, 2, 2, 3))
    got = pixel_distance(white, black, space="imagenet")
    np.testing.assert_allclose(got, ratio, rtol=1e-5)


def test_units():
    image = to_space(jnp.zeros((1, 1, 1, 3)), "imagenet")[0, 0, 0]
    np.testing.assert_allclose(image, (0.5 - IMAGENET_MEAN) / IMAGENET_STD, rtol=1e-6)
    with pytest.raises(ValueError, match="unknown pixel space 'bgr'"):
        to_space(jnp.zeros((1, 1, 1, 3)), "bgr")
    with pytest.raises(ValueError, match="kind"):
        pixel_distance(jnp.zeros((1, 1, 1, 3)), jnp.zeros((1, 1, 1, 3)), kind="l2")


DISTANCES = {
    "pixels": pixel_distance,
    "features": lambda a, b: perceptual_distance(gradient_features, a, b),
}


@pytest.mark.parametrize("name", DISTANCES)
def test_distances_vanish_for_equal_images_and_treat_each_image_alone(name):
    distance, a, b = DISTANCES[name], pictures(0, 3), pictures(1, 3)
    assert not np.any(distance(a, a))
    order = [2, 0, 1]
    np.testing.assert_allclose(
        distance(a[order], b[order]), distance(a, b)[jnp.array(order)], rtol=1e-6
    )
    np.testing.assert_allclose(distance(a[:1], b[:1]), distance(a, b)[:1], rtol=1e-6)


@pytest.mark.parametrize("name", DISTANCES)
def test_only_the_restored_image_gets_a_gradient(name):
    gradients = jax.grad(lambda a, b: jnp.sum(DISTANCES[name](a, b)), (0, 1))(
        pictures(0), pictures(1)
    )
    assert np.any(gradients[0])
    assert not np.any(gradients[1])


def test_gradient_features_see_edges_and_no_brightness():
    a = pictures(0)
    np.testing.assert_allclose(
        gradient_features(a + 0.25), gradient_features(a), atol=1e-6
    )
    np.testing.assert_allclose(
        gradient_features(a)[..., 3:], np.diff(a, axis=2)[:, :-1], rtol=1e-6
    )
