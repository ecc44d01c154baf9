"""The losses: closed forms, invariances, and the places where they could divide or log by zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.methods.u_said.losses import (
    entropy_loss,
    focal_argmax_loss,
    focal_loss,
    noise_loss,
    shrink_labels,
)


def logits(k=5, shape=(2, 3, 4)):
    return jax.random.normal(jax.random.key(0), (*shape, k)) * 2


@pytest.mark.parametrize(
    ("k", "value"), [(5, 1.03004), (11, 1.98173), (21, 2.76147), (31, 3.21602)]
)
def test_of_equal_classes_has_its_closed_form(k, value):
    zeros = jnp.zeros((2, 3, 4, k))
    np.testing.assert_allclose(focal_argmax_loss(zeros), [value] * 2, rtol=1e-5)
    labels = jnp.arange(24).reshape(2, 3, 4) % k
    np.testing.assert_allclose(focal_loss(zeros, labels), [value] * 2, rtol=1e-5)
    np.testing.assert_allclose(entropy_loss(zeros), [np.log(k)] * 2, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_agrees_with_a_loop_in_float64(gamma):
    z = np.asarray(logits(), np.float64)
    q = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    labels = np.arange(24).reshape(2, 3, 4) % 6  # 5 is made void below
    expected, own, entropy = np.zeros(2), np.zeros(2), np.zeros(2)
    for b in range(2):
        known = []
        for y in range(3):
            for x in range(4):
                m, p = q[b, y, x].max(), q[b, y, x]
                expected[b] += -((1 - m) ** gamma) * np.log(m) / 12
                entropy[b] -= (p * np.log(p)).sum() / 12
                if labels[b, y, x] < 5:
                    true = p[labels[b, y, x]]
                    known.append(-((1 - true) ** gamma) * np.log(true))
        own[b] = np.mean(known)
    z = jnp.asarray(z, jnp.float32)
    void = jnp.asarray(np.where(labels == 5, 255, labels))
    np.testing.assert_allclose(focal_argmax_loss(z, gamma=gamma), expected, rtol=1e-5)
    np.testing.assert_allclose(focal_loss(z, void, gamma=gamma), own, rtol=1e-5)
    np.testing.assert_allclose(entropy_loss(z), entropy, rtol=1e-5)


@pytest.mark.parametrize("loss", [focal_argmax_loss, entropy_loss])
def test_uncertainty_ignores_a_common_offset_and_the_names_of_classes(loss):
    z = logits()
    np.testing.assert_allclose(loss(z + 7), loss(z), rtol=1e-5)
    order = jnp.array([3, 0, 4, 1, 2])
    np.testing.assert_allclose(loss(z[..., order]), loss(z), rtol=1e-5)


def test_focal_argmax_is_the_focal_loss_of_its_own_answer_and_gradient():
    z = logits()
    labels = jnp.argmax(z, axis=-1)
    np.testing.assert_allclose(focal_argmax_loss(z), focal_loss(z, labels), rtol=1e-6)
    a = jax.grad(lambda z: focal_argmax_loss(z).sum())(z)
    b = jax.grad(lambda z: focal_loss(z, labels).sum())(z)
    np.testing.assert_allclose(a, b, atol=1e-7)
    assert np.abs(a).max() > 1e-3


@pytest.mark.parametrize("loss", [focal_argmax_loss, entropy_loss])
@pytest.mark.parametrize("height", [0.0, 40.0, 1e4])
def test_value_and_gradient_stay_finite_from_indifference_to_certainty(loss, height):
    z = jnp.zeros((1, 2, 3, 4)).at[..., 2].set(height)
    value, grad = jax.value_and_grad(lambda z: loss(z).sum())(z)
    assert np.isfinite(value)
    assert np.isfinite(grad).all()
    if height:
        assert value < 1e-6
        assert np.abs(grad).max() < 1e-6


def test_of_equal_classes_the_lowest_wins():
    grad = jax.grad(lambda z: focal_argmax_loss(z).sum())(jnp.zeros((1, 1, 1, 4)))
    np.testing.assert_array_equal(np.sign(grad).ravel(), [-1, 1, 1, 1])


def test_void_pixels_change_nothing_and_an_image_of_them_counts_zero():
    z, labels = logits(), jnp.full((2, 3, 4), 255).at[0, 1, 2].set(3)
    value, grad = jax.value_and_grad(lambda z: focal_loss(z, labels).sum())(z)
    assert np.isfinite(value)
    moved = np.abs(grad).max(-1) > 0
    assert moved.sum() == 1
    assert moved[0, 1, 2]
    assert focal_loss(z, labels)[1] == 0


def test_one_class_is_refused():
    one = jnp.zeros((1, 2, 3, 1))
    for loss in (focal_argmax_loss, entropy_loss):
        with pytest.raises(ValueError, match="2 classes or more, got 1"):
            loss(one)
    with pytest.raises(ValueError, match="2 classes or more, got 1"):
        focal_loss(one, jnp.zeros((1, 2, 3), int))


def test_noise_loss_is_half_the_sum_per_image():
    a, b = jax.random.normal(jax.random.key(1), (2, 3, 4, 5, 2))
    expected = [0.5 * np.square(np.asarray(a - b)[i]).sum() for i in range(3)]
    np.testing.assert_allclose(noise_loss(a, b), expected, rtol=1e-5)


@pytest.mark.parametrize(("size", "new"), [((12, 8), (3, 2)), ((13, 50), (4, 13))])
def test_labels_shrink_as_pillow_does_it(size, new):
    Image = pytest.importorskip("PIL.Image")
    labels = np.random.default_rng(0).integers(0, 200, size).astype(np.uint8)
    expected = Image.fromarray(labels).resize(new[::-1], Image.Resampling.NEAREST)
    got = shrink_labels(jnp.asarray(labels, jnp.int32)[None], *new)
    np.testing.assert_array_equal(got[0], expected)
