"""Maps of the backbones; their values are compared with published code in tests/parity."""

import jax
import jax.numpy as jnp
import pytest

from zoo_jax.core.tree import count_parameters
from zoo_jax.nn.inception_resnet_v2 import TAP_PADS, InceptionResNetV2Trunk
from zoo_jax.nn.mobilenet_v2 import MobileNetV2Trunk, scaled
from zoo_jax.nn.vgg import VGG19_LAYERS, Vgg19Features


def shapes(module, side, **options):
    x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    out, variables = jax.eval_shape(
        lambda key, x: module.init_with_output(key, x, **options), jax.random.key(0), x
    )
    return out, variables["params"]


def test_mobilenet_gives_five_maps_of_halving_sides():
    maps, params = shapes(MobileNetV2Trunk(), 256, train=False)
    sides, channels = (128, 64, 32, 16, 8), (16, 24, 32, 64, 160)
    expected = [(1, s, s, c) for s, c in zip(sides, channels, strict=True)]
    assert [m.shape for m in maps] == expected
    # 2,223,872 up to the classifier, less the blocks 16 to 18 that are never run.
    assert count_parameters(params) == 2_223_872 - 1_206_080


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [(32, 1.0, 32), (24, 0.5, 16), (16, 0.25, 8), (96, 0.75, 72), (160, 1.4, 224)],
)
def test_scaled_channels_are_multiples_of_eight(channels, width, expected):
    assert scaled(channels, width) == expected


@pytest.mark.parametrize("side", [128, 256, 320])
def test_inceptions_maps_fall_short_by_what_its_pads_add(side):
    maps, _ = shapes(InceptionResNetV2Trunk(blocks=(1, 1)), side, train=False)
    assert [m.shape[-1] for m in maps] == [32, 64, 192, 1088, 2080]
    if side == 256:
        assert [m.shape[1] for m in maps] == [127, 62, 29, 14, 6]
    for i, (tap, pad) in enumerate(zip(maps, TAP_PADS, strict=True), 1):
        assert tap.shape[1] + pad.top + pad.bottom == side // 2**i
        assert tap.shape[2] + pad.left + pad.right == side // 2**i


def test_vgg_stops_where_it_is_told():
    out, params = shapes(Vgg19Features("conv3_3"), 32)
    assert out.shape == (1, 8, 8, 256)
    assert count_parameters(params) == 1_735_488
    out, params = shapes(Vgg19Features("conv5_4"), 32)
    assert out.shape == (1, 2, 2, 512)
    assert set(params) == set(VGG19_LAYERS)
    assert count_parameters(params) == 20_024_384  # torchvision's vgg19().features


def test_vgg_names_its_layers_when_asked_for_another():
    with pytest.raises(ValueError, match="VGG19_LAYERS, got 'conv3_5'"):
        shapes(Vgg19Features("conv3_5"), 32)
