"""Sub-nets of the once-for-all MobileNetV3; tests/parity compares the networks."""

import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.methods.weaknas.model import build_mobilenet_v3_ofa
from zoo_jax.methods.weaknas.spaces import ofa_mobilenet_v3 as space
from zoo_jax.methods.weaknas.spaces import open_pool

SLOT = np.arange(20) % 4


@pytest.fixture(scope="module")
def pool():
    return open_pool("ofa_mobilenet_v3", size=300)


def test_drawn_sub_nets_are_distinct_and_within_the_range(pool):
    flops = pool.costs["flops"].astype(float)
    assert flops.min() >= 550e6
    assert flops.max() <= 600e6
    assert np.ptp(flops) > 45e6
    assert len(np.unique(pool.features, axis=0)) == 300
    for i in (0, 17, 299):
        config = pool.config(i)
        macs, params = space.count_costs(*(np.array([v]) for v in config.values()))
        assert np.float32(macs[0]) == pool.costs["flops"][i]
        assert np.float32(params[0]) == pool.costs["params"][i]
        assert build_mobilenet_v3_ofa(**config).depths == tuple(config["depths"])


def test_draws_follow_the_seed(pool):
    fewer = open_pool("ofa_mobilenet_v3", size=40)
    np.testing.assert_array_equal(fewer.features, pool.features[:40])
    other = open_pool("ofa_mobilenet_v3", size=40, seed=1)
    assert not np.array_equal(other.features, fewer.features)


def test_unused_slots_are_masked_unless_told(pool):
    raw = open_pool("ofa_mobilenet_v3", size=300, mask_inactive=False)
    depths = raw.features[:, 40:]
    used = SLOT < np.repeat(depths, 4, axis=1)
    for block in (slice(0, 20), slice(20, 40)):
        assert raw.features[:, block].min() >= 3
        np.testing.assert_array_equal(
            pool.features[:, block], raw.features[:, block] * used
        )
    assert not used.all()
    np.testing.assert_array_equal(pool.features[:, 40:], depths)


def test_unused_slots_cost_nothing_and_name_nothing():
    nets = [np.array([part, part]) for part in space.WINNERS["800"]]
    unused = ~space.used_slots(nets[2])[1]
    nets[0][1][unused] = 7
    nets[1][1][unused] = 3
    for cost in space.count_costs(*nets):
        assert cost[0] == cost[1]
    features = space.encode(*nets)
    np.testing.assert_array_equal(features[0], features[1])


def test_a_deeper_wider_net_costs_more():
    base = [np.full((1, n), v) for n, v in ((20, 3), (20, 3), (5, 2))]
    for part, value in ((0, 5), (1, 4), (2, 3)):
        more = [p.copy() for p in base]
        more[part][:] = value
        for a, b in zip(
            space.count_costs(*base), space.count_costs(*more), strict=True
        ):
            assert b[0] > a[0]


def test_descriptions_show_used_blocks(tmp_path):
    path = write(tmp_path / "t.npz", *space.WINNERS.values())
    pool = open_pool("ofa_mobilenet_v3", table=path)
    text = "k3e4 k5e6 | k7e4 k5e3 k7e4 k3e6 | k3e4 k7e6 k5e6 k7e3 | "
    assert pool.describe(0) == text + "k3e6 k3e6 k5e6 k5e3 | k7e6 k5e6 k3e4 k5e3"
    assert pool.config(1) == {
        k: list(v) for k, v in space.WINNERS["1000"]._asdict().items()
    }


def write(path, *nets, **changes):
    nets = nets or (space.WINNERS["800"], space.WINNERS["1000"])
    arrays = dict(
        zip(space.SubNet._fields, map(np.array, zip(*nets, strict=True)), strict=True)
    )
    np.savez(path, **arrays | changes)
    return path


def test_tables_bring_labels(tmp_path):
    path = write(tmp_path / "t.npz", search=np.array([np.nan, 81.3]))
    pool = open_pool("ofa_mobilenet_v3", table=path)
    np.testing.assert_array_equal(pool.labels["search"], np.float32([np.nan, 81.3]))
    assert sorted(pool.labels) == ["search"]
    twice = write(tmp_path / "u.npz", *[space.WINNERS["800"]] * 2)
    assert open_pool("ofa_mobilenet_v3", table=twice).classes.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"kernels": np.full((2, 20), 4)},
            r"'kernels' holds 4, not one of \(3, 5, 7\)",
        ),
        ({"depths": np.full((2, 5), 1)}, "'depths' holds 1"),
        ({"expansions": np.full((2, 19), 3)}, r"shape \(2, 19\), not \('m', 20\)"),
        ({"search": np.zeros((2, 1))}, r"'search' has shape \(2, 1\)"),
    ],
)
def test_malformed_tables_are_one_clear_error(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        open_pool("ofa_mobilenet_v3", table=write(tmp_path / "t.npz", **changes))


def test_an_empty_range_is_one_clear_error():
    with pytest.raises(
        ConfigError, match=r"only 0 of size=5 .*range of 1 to 2 million"
    ):
        open_pool("ofa_mobilenet_v3", size=5, min_mflops=1, max_mflops=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"winner": "900"}, "unknown winner '900': "),
        ({"kernels": [3] * 20}, "either winner or all of .*; got kernels"),
        (
            {"winner": "800"}
            | {k: list(v) for k, v in space.WINNERS["800"]._asdict().items()},
            "got kernels, expansions, depths, winner",
        ),
        (
            {"kernels": [3] * 19, "expansions": [3] * 20, "depths": [2] * 5},
            r"kernels must be 20 numbers out of \(3, 5, 7\)",
        ),
        (
            {"kernels": [3] * 20, "expansions": [5] * 20, "depths": [2] * 5},
            r"expansions must be 20 numbers out of \(3, 4, 6\)",
        ),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"num_classes": 0}, "num_classes=0"),
    ],
)
def test_impossible_networks_are_one_clear_error(options, message):
    with pytest.raises(ConfigError, match=message):
        build_mobilenet_v3_ofa(**options)


def test_the_default_network_is_the_winner_of_800_queries():
    assert build_mobilenet_v3_ofa() == build_mobilenet_v3_ofa(winner="800")
    assert build_mobilenet_v3_ofa(winner=1000).depths == (4, 3, 3, 3, 4)
