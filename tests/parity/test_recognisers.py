"""Classifiers against the same networks written in PyTorch here, with weights in published keys.

The forward passes below make their weights as they go, under the names of the published files:
one pass gives the expected output and a file to convert. `apply` refuses a key too much or too
few, so the key tables are tested as well.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.convert import apply
from zoo_jax.convert.vgg import vgg_table
from zoo_jax.core.errors import WeightsError
from zoo_jax.methods.ug2.convert import (
    efficientnet_lite_table,
    inception_v3_table,
    resnet_table,
    squeezenet_table,
)
from zoo_jax.nn.efficientnet import EfficientNetLite, Group
from zoo_jax.nn.inception_v3 import InceptionV3
from zoo_jax.nn.resnet import ResNet
from zoo_jax.nn.squeezenet import SqueezeNet
from zoo_jax.nn.vgg import VGG

pytestmark = pytest.mark.torch


class Torch:
    """Operations of PyTorch that draw their weights and keep them in ``arrays``."""

    def __init__(self, torch, *, bias=False, eps=1e-5, key="{}.{}"):
        self.torch, self.f, self.arrays = torch, torch.nn.functional, {}
        self.rng = np.random.default_rng(0)
        self.bias, self.eps, self.key = bias, eps, key

    def image(self, height, width):
        x = self.rng.normal(size=(2, height, width, 3)).astype(np.float32)
        return x, self.torch.from_numpy(x.transpose(0, 3, 1, 2).copy())

    def draw(self, layer, name, shape, *, std=0.1, mean=0.0, positive=False):
        x = mean + std * self.rng.normal(size=shape)
        x = (np.abs(x) + 0.1 if positive else x).astype(np.float32)
        self.arrays[self.key.format(layer, name)] = x
        return self.torch.from_numpy(x)

    def conv(self, x, layer, out, size, *, stride=1, pad=0, groups=1, bias=None):
        rows, columns = (size, size) if isinstance(size, int) else size
        shape = (out, x.shape[1] // groups, rows, columns)
        std = (2 / np.prod(shape[1:])) ** 0.5
        weight = self.draw(layer, "weight", shape, std=std)
        biased = self.bias if bias is None else bias
        offset = self.draw(layer, "bias", (out,)) if biased else None
        return self.f.conv2d(x, weight, offset, stride, pad, 1, groups)

    def norm(self, x, layer):
        c = x.shape[1]
        factor = self.draw(layer, "weight", (c,), mean=1)
        offset = self.draw(layer, "bias", (c,))
        mean = self.draw(layer, "running_mean", (c,))
        var = self.draw(layer, "running_var", (c,), mean=1, positive=True)
        return self.f.batch_norm(x, mean, var, factor, offset, eps=self.eps)

    def linear(self, x, layer, out):
        weight = self.draw(layer, "weight", (out, x.shape[1]), std=x.shape[1] ** -0.5)
        return self.f.linear(x, weight, self.draw(layer, "bias", (out,)))


class Keras(Torch):
    """The same with the names and layouts of Keras."""

    NAMES = {  # noqa: RUF012
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    }

    def __init__(self, torch, *, factors=True, **options):
        super().__init__(torch, key="{}/{}", **options)
        self.factors = factors

    def draw(self, layer, name, shape, **options):
        value = super().draw(layer, name, shape, **options)
        array = self.arrays.pop(f"{layer}/{name}")
        if array.ndim == 4:
            name, array = "kernel", array.transpose(2, 3, 1, 0)
        elif array.ndim == 2:
            name, array = "kernel", array.T
        self.arrays[f"{layer}/{self.NAMES.get(name, name)}"] = array
        return value

    def norm(self, x, layer):
        y = super().norm(x, layer)
        self.arrays[f"{layer}/beta"] = self.arrays.pop(f"{layer}/bias")
        gamma = self.arrays.pop(f"{layer}/weight")
        if self.factors:
            self.arrays[f"{layer}/gamma"] = gamma
            return y
        shape = (1, -1, 1, 1)
        beta = self.torch.from_numpy(self.arrays[f"{layer}/beta"]).reshape(shape)
        return (y - beta) / self.torch.from_numpy(gamma).reshape(shape) + beta


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def check(module, table, torch_like, x, expected):
    template = dict(jax.eval_shape(module.init, jax.random.key(0), x))
    template.pop("intermediates", None)
    variables = apply(table, torch_like.arrays, template)
    with jax.default_matmul_precision("highest"):
        run = jax.jit(lambda v, x: module.apply(v, x, mutable=["intermediates"]))
        got, state = run(variables, x)
    assert got.shape == tuple(expected.shape)
    assert expected.numpy().std() > 0.01
    # Sums of up to thousands of float32 products, a few dozen layers deep.
    scale = np.abs(expected.numpy()).max()
    assert np.abs(got - expected.numpy()).max() < 1e-4 * scale
    return variables, state.get("intermediates", {})


def torch_vgg(t, x, counts, width, hidden, names):
    f = t.f
    for stage, count in enumerate(counts):
        for _ in range(count):
            x = t.conv(x, next(names), width * min(2**stage, 8), 3, pad=1)
            x = f.relu(x)
        x = f.max_pool2d(x, 2)
    return f.adaptive_avg_pool2d(x, (7, 7))


def linear_stack(t, x, names, hidden):
    x = t.f.relu(t.linear(x, names[0], hidden))
    x = t.f.relu(t.linear(x, names[1], hidden))
    return t.linear(x, names[2], 10)


# Not 7x7 before the linear layers, so that pooling to it counts; not square.
@pytest.mark.parametrize("size", [(224, 224), (96, 160)])
def test_vgg_agrees_with_torchvisions_stack(torch, size):
    t, counts = Torch(torch, bias=True), (1, 1, 1, 2, 2)
    x, theirs = t.image(*size)
    names = iter([f"features.{i}" for i in (0, 3, 6, 9, 11, 14, 16)])
    y = torch_vgg(t, theirs, counts, 2, 16, names)
    places = [f"classifier.{i}" for i in (0, 3, 6)]
    expected = linear_stack(t, y.flatten(1), places, 16)
    module = VGG(counts, width=2, hidden=16, num_classes=10)
    check(module, vgg_table(counts, 2), t, x, expected)


def test_vgg_takes_the_layout_of_keras(torch):
    t, counts = Keras(torch, bias=True), (1, 2, 1, 1, 1)
    x, theirs = t.image(224, 224)
    layers = ("1_conv1", "2_conv1", "2_conv2", "3_conv1", "4_conv1", "5_conv1")
    y = torch_vgg(t, theirs, counts, 2, 16, iter(f"block{name}" for name in layers))
    y = y.permute(0, 2, 3, 1).flatten(1)  # Keras flattens channels last
    expected = linear_stack(t, y, ("fc1", "fc2", "predictions"), 16)
    module = VGG(counts, width=2, hidden=16, num_classes=10, variant="keras")
    check(module, vgg_table(counts, 2, "keras"), t, x, expected)


BLOCKS = (2, 1, 2, 1)


def test_resnet_agrees_with_torchvisions(torch):
    t = Torch(torch)
    x, y = t.image(75, 90)

    def conv_norm(y, conv, norm, out, size, stride=1):
        y = t.conv(y, conv, out, size, stride=stride, pad=size // 2)
        return t.norm(y, norm)

    y = t.f.relu(conv_norm(y, "conv1", "bn1", 4, 7, 2))
    y = t.f.max_pool2d(y, 3, 2, 1)
    for group, count in enumerate(BLOCKS):
        for i in range(count):
            p, width = f"layer{group + 1}.{i}", 4 * 2**group
            stride = 2 if group and i == 0 else 1
            z = t.f.relu(conv_norm(y, f"{p}.conv1", f"{p}.bn1", width, 1))
            z = t.f.relu(conv_norm(z, f"{p}.conv2", f"{p}.bn2", width, 3, stride))
            z = conv_norm(z, f"{p}.conv3", f"{p}.bn3", 4 * width, 1)
            if i == 0:
                down = f"{p}.downsample."
                y = conv_norm(y, f"{down}0", f"{down}1", 4 * width, 1, stride)
            y = t.f.relu(y + z)
    expected = t.linear(y.mean((2, 3)), "fc", 10)
    check(ResNet(BLOCKS, 4, 10), resnet_table(BLOCKS), t, x, expected)


def test_resnet_of_keras_has_its_own_strides_biases_and_pooling(torch):
    t = Keras(torch, bias=True, eps=1e-3)
    x, y = t.image(75, 90)

    def layer(y, name, out, size, stride=1, pad=0):
        y = t.conv(y, f"res{name}", out, size, stride=stride, pad=pad)
        return t.norm(y, f"bn{name}")

    y = t.conv(t.f.pad(y, (3, 3, 3, 3)), "conv1", 4, 7, stride=2)
    y = t.f.max_pool2d(t.f.relu(t.norm(y, "bn_conv1")), 3, 2)
    for stage, count in enumerate(BLOCKS, 2):
        for i in range(count):
            p, width = f"{stage}{'ab'[i]}_branch", 4 * 2 ** (stage - 2)
            stride = 2 if stage > 2 and i == 0 else 1
            z = t.f.relu(layer(y, f"{p}2a", width, 1, stride))
            z = t.f.relu(layer(z, f"{p}2b", width, 3, 1, 1))
            z = layer(z, f"{p}2c", 4 * width, 1)
            y = layer(y, f"{p}1", 4 * width, 1, stride) if i == 0 else y
            y = t.f.relu(y + z)
    expected = t.linear(y.mean((2, 3)), "fc1000", 10)
    module = ResNet(BLOCKS, 4, 10, variant="keras")
    check(module, resnet_table(BLOCKS, "keras"), t, x, expected)


def torch_inception(t, x, conv, mean):
    """Inception-v3 of a sixteenth of the channels, and one block of each kind.

    `conv(y, name, out, size, stride=1, pad=0)` has norm and ReLU, `mean` is the pooling.
    """
    f, cat = t.f, t.torch.cat
    x = conv(x, "Conv2d_1a_3x3", 32, 3, 2)
    x = conv(conv(x, "Conv2d_2a_3x3", 32, 3), "Conv2d_2b_3x3", 64, 3, 1, 1)
    x = conv(f.max_pool2d(x, 3, 2), "Conv2d_3b_1x1", 80, 1)
    x = f.max_pool2d(conv(x, "Conv2d_4a_3x3", 192, 3), 3, 2)

    p = "Mixed_5b."
    one = conv(x, f"{p}branch1x1", 64, 1)
    five = conv(x, f"{p}branch5x5_1", 48, 1)
    five = conv(five, f"{p}branch5x5_2", 64, 5, 1, 2)
    three = conv(x, f"{p}branch3x3dbl_1", 64, 1)
    three = conv(three, f"{p}branch3x3dbl_2", 96, 3, 1, 1)
    three = conv(three, f"{p}branch3x3dbl_3", 96, 3, 1, 1)
    x = cat([one, five, three, conv(mean(x), f"{p}branch_pool", 32, 1)], 1)

    p = "Mixed_6a."
    three = conv(x, f"{p}branch3x3", 384, 3, 2)
    double = conv(x, f"{p}branch3x3dbl_1", 64, 1)
    double = conv(double, f"{p}branch3x3dbl_2", 96, 3, 1, 1)
    double = conv(double, f"{p}branch3x3dbl_3", 96, 3, 2)
    x = cat([three, double, f.max_pool2d(x, 3, 2)], 1)

    p, wide, tall = "Mixed_6c.", ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))
    one = conv(x, f"{p}branch1x1", 192, 1)
    seven = conv(x, f"{p}branch7x7_1", 160, 1)
    seven = conv(seven, f"{p}branch7x7_2", 160, *wide)
    seven = conv(seven, f"{p}branch7x7_3", 192, *tall)
    double = conv(x, f"{p}branch7x7dbl_1", 160, 1)
    double = conv(double, f"{p}branch7x7dbl_2", 160, *tall)
    double = conv(double, f"{p}branch7x7dbl_3", 160, *wide)
    double = conv(double, f"{p}branch7x7dbl_4", 160, *tall)
    double = conv(double, f"{p}branch7x7dbl_5", 192, *wide)
    x = cat([one, seven, double, conv(mean(x), f"{p}branch_pool", 192, 1)], 1)
    inner = x

    p = "Mixed_7a."
    three = conv(conv(x, f"{p}branch3x3_1", 192, 1), f"{p}branch3x3_2", 320, 3, 2)
    seven = conv(x, f"{p}branch7x7x3_1", 192, 1)
    seven = conv(seven, f"{p}branch7x7x3_2", 192, *wide)
    seven = conv(seven, f"{p}branch7x7x3_3", 192, *tall)
    seven = conv(seven, f"{p}branch7x7x3_4", 192, 3, 2)
    x = cat([three, seven, f.max_pool2d(x, 3, 2)], 1)

    p, wide, tall = "Mixed_7b.", ((1, 3), 1, (0, 1)), ((3, 1), 1, (1, 0))
    one = conv(x, f"{p}branch1x1", 320, 1)
    three = conv(x, f"{p}branch3x3_1", 384, 1)
    a = conv(three, f"{p}branch3x3_2a", 384, *wide)
    three = cat([a, conv(three, f"{p}branch3x3_2b", 384, *tall)], 1)
    double = conv(x, f"{p}branch3x3dbl_1", 448, 1)
    double = conv(double, f"{p}branch3x3dbl_2", 384, 3, 1, 1)
    a = conv(double, f"{p}branch3x3dbl_3a", 384, *wide)
    double = cat([a, conv(double, f"{p}branch3x3dbl_3b", 384, *tall)], 1)
    x = cat([one, three, double, conv(mean(x), f"{p}branch_pool", 192, 1)], 1)
    return x.mean((2, 3)), inner


INCEPTION = ("Mixed_5b", "Mixed_6a", "Mixed_6c", "Mixed_7a", "Mixed_7b")


def test_inception_v3_and_its_head_agree_with_torchvisions(torch):
    t = Torch(torch, eps=1e-3)
    x, theirs = t.image(299, 299)

    def conv(y, name, out, size, stride=1, pad=0):
        y = t.conv(y, f"{name}.conv", out // 16, size, stride=stride, pad=pad)
        return t.f.relu(t.norm(y, f"{name}.bn"))

    def mean(y):
        return t.f.avg_pool2d(y, 3, 1, 1)

    y, inner = torch_inception(t, theirs, conv, mean)
    z = conv(t.f.avg_pool2d(inner, 5, 3), "AuxLogits.conv0", 128, 1)
    z = conv(z, "AuxLogits.conv1", 768, 5).mean((2, 3))
    head = t.linear(z, "AuxLogits.fc", 10)
    expected = t.linear(y, "fc", 10)
    options = dict(num_classes=10, blocks=INCEPTION, width=1 / 16)
    module = InceptionV3(**options, aux=True)
    table = inception_v3_table(INCEPTION, aux=True)
    variables, inner = check(module, table, t, x, expected)
    got = inner["aux_logits"][0]
    assert np.abs(got - head.numpy()).max() < 1e-4 * np.abs(head.numpy()).max()
    # Without the head the same file gives the same network.
    plain = InceptionV3(**options)
    template = jax.eval_shape(plain.init, jax.random.key(0), x)
    smaller = apply(inception_v3_table(INCEPTION), t.arrays, template)
    assert "AuxLogits" not in smaller["params"]
    again = smaller["params"]["Mixed_7b"]["branch1x1"]["conv"]["kernel"]
    kernel = variables["params"]["Mixed_7b"]["branch1x1"]["conv"]["kernel"]
    np.testing.assert_array_equal(again, kernel)


def test_inception_v3_takes_the_numbered_layers_of_keras(torch):
    t, made = Keras(torch, factors=False, eps=1e-3), []
    x, theirs = t.image(91, 99)

    def conv(y, name, out, size, stride=1, pad=0):
        made.append(name)
        layer = f"conv2d_{len(made)}"
        y = t.conv(y, layer, out // 16, size, stride=stride, pad=pad)
        return t.f.relu(t.norm(y, f"batch_normalization_{len(made)}"))

    def mean(y):  # "same" in TensorFlow: padding does not count
        return t.f.avg_pool2d(y, 3, 1, 1, count_include_pad=False)

    y, _ = torch_inception(t, theirs, conv, mean)
    expected = t.linear(y, "predictions", 10)
    module = InceptionV3(10, INCEPTION, width=1 / 16, variant="keras")
    table = inception_v3_table(INCEPTION, variant="keras")
    variables, _ = check(module, table, t, x, expected)
    # Keras counts from network to network, and gives the first layer of a kind no number.
    for shift in (-1, 94):

        def moved(match, shift=shift):
            number = int(match[2]) + shift
            return f"{match[1]}_{number}/" if number else f"{match[1]}/"

        arrays = {re.sub(r"^(.*)_(\d+)/", moved, k): v for k, v in t.arrays.items()}
        assert arrays.keys() != t.arrays.keys()
        again = apply(table, arrays, jax.eval_shape(lambda v: v, variables))
        jax.tree.map(np.testing.assert_array_equal, again, variables)


@pytest.mark.parametrize("size", [(64, 64), (37, 50)])  # even and odd: padding differs
def test_efficientnet_lite_pads_and_filters_as_tensorflow(torch, size):
    t = Torch(torch, eps=1e-3)
    x, y = t.image(*size)

    def conv_norm(y, conv, norm, out, kernel, stride=1, groups=1):
        total = [
            max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in y.shape[2:]
        ]
        pads = [p for n in reversed(total) for p in (n // 2, n - n // 2)]
        y = t.conv(t.f.pad(y, pads), conv, out, kernel, stride=stride, groups=groups)
        return t.norm(y, norm)

    y = t.f.relu6(conv_norm(y, "_conv_stem", "_bn0", 8, 3, 2))
    # (kernel, stride, expansion, channels) of each block
    blocks = [(3, 1, 1, 4), (3, 2, 6, 6), (3, 1, 6, 6), (5, 2, 6, 8), (5, 1, 6, 10)]
    for i, (kernel, stride, expansion, out) in enumerate(blocks):
        p, z, hidden = f"_blocks.{i}", y, y.shape[1] * expansion
        if expansion != 1:
            z = t.f.relu6(conv_norm(z, f"{p}._expand_conv", f"{p}._bn0", hidden, 1))
        names = (f"{p}._depthwise_conv", f"{p}._bn1")
        z = t.f.relu6(conv_norm(z, *names, hidden, kernel, stride, hidden))
        z = conv_norm(z, f"{p}._project_conv", f"{p}._bn2", out, 1)
        y = y + z if z.shape == y.shape else z
    y = t.f.relu6(conv_norm(y, "_conv_head", "_bn1", 20, 1))
    expected = t.linear(y.mean((2, 3)), "_fc", 10)
    groups = (
        Group(1, 3, 1, 1, 4),
        Group(2, 3, 2, 6, 6),
        Group(1, 5, 2, 6, 8),
        Group(1, 5, 1, 6, 10),
    )
    module = EfficientNetLite(groups, stem=8, head=20, num_classes=10)
    check(module, efficientnet_lite_table(groups), t, x, expected)


def test_squeezenet_agrees_and_its_codes_decode(torch):
    t = Torch(torch, bias=True, key="{}/{}")
    x, y = t.image(67, 90)

    def pool(y):
        return t.f.max_pool2d(y, 3, 2, ceil_mode=True)

    fires = ((4, 8), (4, 8), (6, 8), (6, 10), (6, 10), (6, 10), (8, 12), (8, 12))
    y = pool(t.f.relu(t.conv(y, "conv1", 12, 7, stride=2)))
    for i, (squeeze, expand) in enumerate(fires, 2):
        z = t.f.relu(t.conv(y, f"fire{i}/conv1x1_1", squeeze, 1))
        one = t.f.relu(t.conv(z, f"fire{i}/conv1x1_2", expand, 1))
        three = t.f.relu(t.conv(z, f"fire{i}/conv3x3_2", expand, 3, pad=1))
        y = torch.cat([one, three], 1)
        y = pool(y) if i in (4, 8) else y
    expected = t.f.relu(t.conv(y, "conv_final", 10, 1, pad=1)).mean((2, 3))
    module, table = SqueezeNet(12, fires, 10), squeezenet_table(fires)
    variables, _ = check(module, table, t, x, expected)
    coded = {k: v for k, v in t.arrays.items() if not k.endswith("/weight")}
    for key in set(t.arrays) - set(coded):
        name = key.removesuffix("/weight")
        codebook, codes = np.unique(t.arrays[key], return_inverse=True)
        coded[f"{name}/codebook"] = codebook
        coded[f"{name}/codes"] = codes.reshape(t.arrays[key].shape).astype(np.uint16)
    again = apply(table, coded, jax.eval_shape(lambda v: v, variables))
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_every_table_refuses_a_key_too_much_and_a_key_too_few(torch):
    t, counts = Torch(torch, bias=True), (1, 1, 1, 1, 1)
    x, theirs = t.image(32, 32)
    names = iter([f"features.{3 * i}" for i in range(5)])
    y = torch_vgg(t, theirs, counts, 2, 4, names)
    linear_stack(t, y.flatten(1), [f"classifier.{i}" for i in (0, 3, 6)], 4)
    module = VGG(counts, width=2, hidden=4, num_classes=10)
    template = jax.eval_shape(module.init, jax.random.key(0), jnp.asarray(x))
    t.arrays["features.1.weight"] = t.arrays.pop("features.0.weight")
    expected = (
        "no place for: features.1.weight; 1 keys that are missing: features.0.weight"
    )
    with pytest.raises(WeightsError, match=expected):
        apply(vgg_table(counts, 2), t.arrays, template)
