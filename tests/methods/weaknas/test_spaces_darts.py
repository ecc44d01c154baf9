"""The cells of DARTS."""

import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.methods.weaknas.spaces import darts as space
from zoo_jax.methods.weaknas.spaces import open_pool

V2, WEAKNAS = space.KNOWN["darts_v2"], space.KNOWN["weaknas_800"]


@pytest.fixture(scope="module")
def pool():
    return open_pool("darts", size=200)


class Counter:
    """Walks through the network as the released code builds it, one layer after another."""

    def __init__(self):
        self.macs = self.params = 0

    def conv(self, inputs, outputs, size, side, groups=1):
        weights = inputs // groups * outputs * size * size
        self.macs += weights * side * side
        self.params += weights

    def norm(self, channels):
        self.params += 2 * channels

    def op(self, name, c, stride, side):
        out = (side + stride - 1) // stride
        if name == "skip_connect":
            if stride == 2:
                self.conv(c, c // 2, 1, out)
                self.conv(c, c // 2, 1, out)
                self.norm(c)
        elif name.startswith(("sep", "dil")):
            size = int(name[-1])
            for _ in range(2 if name.startswith("sep") else 1):
                self.conv(c, c, size, out, groups=c)
                self.conv(c, c, 1, out)
                self.norm(c)
        return out

    def cell(self, steps, reduction, reduced, older, old, c, side):
        if reduced:
            self.conv(older, c // 2, 1, side)
            self.conv(older, c // 2, 1, side)
        else:
            self.conv(older, c, 1, side)
        self.norm(c)
        self.conv(old, c, 1, side)
        self.norm(c)
        sides = [side, side]
        for step in steps:
            outs = {
                self.op(name, c, 2 if reduction and read < 2 else 1, sides[read])
                for name, read in step
            }
            (out,) = outs
            sides.append(out)
        return sides[-1]

    def network(self, network, macro):
        c, side = macro.channels, macro.image_size
        if macro.stem == "cifar":
            self.conv(3, 3 * c, 3, side)
            self.norm(3 * c)
            older = old = 3 * c
        else:
            for inputs, outputs in ((3, c // 2), (c // 2, c), (c, c)):
                side = (side + 1) // 2
                self.conv(inputs, outputs, 3, side)
                self.norm(outputs)
            older = old = c
        reduced = macro.stem == "imagenet"
        thirds = (macro.cells // 3, 2 * macro.cells // 3)
        for i in range(macro.cells):
            reduction = i in thirds
            c = 2 * c if reduction else c
            steps = [
                [(space.OPS[op], read) for op, read in step]
                for step in network[int(reduction)].tolist()
            ]
            side = self.cell(steps, reduction, reduced, older, old, c, side)
            older, old, reduced = old, 4 * c, reduction
        self.macs += old * macro.num_classes
        self.params += (old + 1) * macro.num_classes
        return self.macs, self.params


@pytest.mark.parametrize(
    "macro",
    [
        space.CIFAR10,
        space.Macro(),
        space.Macro(channels=46),
        space.Macro("imagenet", 10, 8, 75, 7),
        space.Macro("cifar", 6, 5, 15, 4),
    ],
)
def test_costs_are_those_of_a_walk_through_the_network(pool, macro):
    drawn = space._draw(np.random.default_rng(0), 6, True)
    networks = np.concatenate([[V2, WEAKNAS], drawn])
    macs, params = space.count_costs(networks, macro)
    for i, network in enumerate(networks):
        assert Counter().network(network, macro) == (macs[i], params[i])


def test_parameters_are_the_published_ones():
    """3.349 million on CIFAR-10 and 4.719 million on ImageNet, by the README of DARTS."""
    cifar, imagenet = (
        int(space.count_costs(V2[None], m)[1][0])
        for m in (space.CIFAR10, space.Macro())
    )
    assert (round(cifar / 1e6, 3), round(imagenet / 1e6, 3)) == (3.349, 4.719)


def test_features_count_what_every_step_reads():
    features = space.encode(np.stack([V2, WEAKNAS]))
    assert features.shape == (2, 196)
    np.testing.assert_array_equal(features.sum(1), 16)
    swapped = V2[:, :, ::-1]
    np.testing.assert_array_equal(space.encode(swapped[None])[0], features[0])
    # Both inputs of the last step read step 2, by different operations.
    assert features.max() == 1
    same = WEAKNAS.copy()
    same[1, 3, :, 0] = 3
    assert space.encode(same[None]).max() == 2


def test_drawn_networks_are_distinct_and_within_the_range(pool):
    assert len(np.unique(pool.features, axis=0)) == 200
    assert pool.costs["flops"].max() <= 600e6
    assert pool.labels == {}
    light = open_pool("darts", size=30, max_mflops=350, min_mflops=300)
    assert light.costs["flops"].min() >= 300e6
    assert light.costs["flops"].max() <= 350e6


def test_steps_read_two_different_results_unless_told(pool):
    rng = np.random.default_rng(0)
    reads = space._draw(rng, 500, False)[..., 1]
    assert (reads[..., 0] < reads[..., 1]).all()
    assert (reads.max(axis=(0, 1, 3)) == np.arange(1, 5)).all()
    repeated = space._draw(rng, 500, True)[..., 1]
    share = np.mean(repeated[:, :, 0, 0] == repeated[:, :, 0, 1])
    assert 0.45 < share < 0.55  # two results to read at the first step


@pytest.mark.parametrize(("repeat", "count"), [(False, 120), (True, 136)])
def test_edits_change_one_number(repeat, count):
    """6 other operations for 16 inputs; sources: s + 1 others, or s without the twin's."""
    near = space.one_edit(V2, repeat_inputs=repeat)
    assert len(near) == len(np.unique(near.reshape(count, -1), axis=0)) == count
    np.testing.assert_array_equal((near != V2).sum(axis=(1, 2, 3, 4)), 1)
    twins = near[..., 0, 1] == near[..., 1, 1]
    assert twins.any() == repeat


def test_printed_and_published_forms_are_read_back(pool):
    for i in (0, 100):
        config = pool.config(i)
        assert config["normal_concat"] == config["reduce_concat"] == [2, 3, 4, 5]
        for name, text in zip(space.CELLS, pool.describe(i).split(" | "), strict=True):
            terms = [f"{op}({read})" for op, read in config[name]]
            assert text.replace("+", " ") == f"{name}: " + " ".join(terms)
    assert space.genotype(V2)["normal"][:3] == [
        ["sep_conv_3x3", 0],
        ["sep_conv_3x3", 1],
        ["sep_conv_3x3", 0],
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stem": "mnist"}, "unknown stem 'mnist': "),
        ({"channels": 45}, "channels must be even .*channels=45"),
        ({"cells": 2}, "cells=2"),
        ({"image_size": 0}, "image_size=0"),
        ({"size": 5, "max_mflops": 1.0}, r"only 0 of size=5 .*widen the range"),
    ],
)
def test_impossible_pools_are_one_clear_error(options, message):
    with pytest.raises(ConfigError, match=message):
        open_pool("darts", **options)
