import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.core.forms import forms
from zoo_jax.nn.conv import conv, pointwise


class Layer(nn.Module):
    options: dict

    @nn.compact
    def __call__(self, x):
        return conv(x, 6, name="layer", **self.options)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (dict(size=3, stride=2, padding=1), dict(kernel_size=3, stride=2, padding=1)),
        (
            dict(size=(1, 7), padding=(0, 3), bias=False),
            dict(kernel_size=(1, 7), padding=(0, 3), bias=False),
        ),
        (dict(size=4, stride=2, padding=2), dict(kernel_size=4, stride=2, padding=2)),
    ],
)
def test_strides_and_padding_are_pytorchs_also_at_even_sizes(ours, theirs):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(2, 8, 10, 5)).astype(np.float32)
    layer = Layer(ours)
    variables = layer.init(jax.random.key(0), x)
    params = variables["params"]["layer"]
    twin = torch.nn.Conv2d(5, 6, **theirs)
    with torch.no_grad():
        kernel = np.asarray(params["kernel"]).transpose(3, 2, 0, 1).copy()
        twin.weight.copy_(torch.from_numpy(kernel))
        if twin.bias is not None:
            twin.bias.copy_(torch.from_numpy(np.array(params["bias"])))
        expected = twin(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    got = np.asarray(layer.apply(variables, x)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_fresh_arrays_are_drawn_by_the_inputs_of_an_output():
    x = jax.ShapeDtypeStruct((1, 8, 8, 40), np.float32)
    layer = Layer(dict(size=(5, 3)))
    params = jax.jit(layer.init)(jax.random.key(0), np.zeros(x.shape, x.dtype))
    bound = (5 * 3 * 40) ** -0.5
    for leaf in jax.tree.leaves(params):
        assert np.abs(leaf).max() <= bound
    kernel = np.asarray(params["params"]["layer"]["kernel"])
    # 3,600 draws; uniform, so the deviation is bound / sqrt(3).
    assert kernel.std() == pytest.approx(bound / 3**0.5, rel=0.03)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_pointwise_convolution_is_the_same_in_both_forms(stride):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 5, 6, 7)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(1, 1, 7, 3)), jnp.float32)
    layer = nn.Conv(
        3,
        (1, 1),
        strides=stride,
        padding=0,
        use_bias=False,
        conv_general_dilated=pointwise,
    )

    def out(x, kernel):
        return layer.apply({"params": {"kernel": kernel}}, x)

    expected = np.asarray(x)[:, ::stride, ::stride] @ np.asarray(kernel)[0, 0]
    for form in ("cpu", "native"):
        with forms(form):
            np.testing.assert_allclose(out(x, kernel), expected, rtol=1e-5, atol=1e-5)
            slope = jax.grad(lambda k: jnp.sum(out(x, k)))(kernel)
        total = np.asarray(x)[:, ::stride, ::stride].sum((0, 1, 2))
        np.testing.assert_allclose(slope[0, 0, :, 1], total, rtol=1e-4, atol=1e-4)
