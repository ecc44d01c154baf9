"""What all search spaces have in common."""

import dataclasses

import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.methods.weaknas.spaces import SPACES, Graph, Pool, open_pool
from zoo_jax.methods.weaknas.spaces.sampling import draw_distinct

SMALL = {
    "ofa_mobilenet_v3": dict(size=37),
    "darts": dict(size=37),
    "nas_bench_graph": dict(dataset="proteins"),
}


def toy(**changes):
    fields = dict(
        name="toy",
        features=np.zeros((3, 2), np.float32),
        labels={"search": np.zeros(3, np.float32)},
        describe=str,
    )
    return Pool(**fields | changes)


@pytest.mark.parametrize("name", SMALL)
def test_pools_are_what_they_promise(name):
    pool = open_pool(name, **SMALL[name])
    m, d = pool.features.shape
    assert m == len(pool)
    assert d > 0
    per_item = {**pool.labels, **pool.costs}
    for array in (pool.features, *per_item.values()):
        assert array.dtype == np.float32
        assert array.shape[0] == m
    assert pool.classes.dtype == np.int32
    assert pool.classes.shape == (m,)
    assert pool.classes.min() >= 0
    assert len({pool.describe(i) for i in range(m)}) == m
    if pool.graph is not None:
        n = pool.graph.adjacency.shape[1]
        assert pool.graph.adjacency.shape == (m, n, n)
        assert pool.graph.ops.shape[:2] == (m, n)


def test_every_space_can_be_opened_or_says_what_it_needs():
    for name in SPACES:
        if name not in SMALL:
            with pytest.raises(ConfigError, match=r"has no argument 'nonsense'"):
                open_pool(name, nonsense=1)


def test_arrays_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="toy: search has 2 rows, features 3"):
        toy(labels={"search": np.zeros(2, np.float32)})
    with pytest.raises(ValueError, match="classes has 4 rows"):
        toy(classes=np.zeros(4, np.int32))
    graph = Graph(np.zeros((3, 5, 5), np.float32), np.zeros((2, 5, 1), np.float32))
    with pytest.raises(ValueError, match="ops has 2 rows"):
        toy(graph=graph)


def test_the_config_of_an_item_is_its_description_unless_told():
    assert toy().config(2) == "2"
    assert dataclasses.replace(toy(), config=lambda i: [i]).config(2) == [2]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nas_bench_2O1", {}, "'nas_bench_2O1' .*did you mean 'nas_bench_201'"),
        ("darts", {"dataset": "cifar10"}, "'darts' has no argument 'dataset'"),
        ("darts", {"sizes": 3}, "no argument 'sizes': did you mean 'size'"),
        ("nas_bench_graph", {"table": "x"}, "has no argument 'table'"),
        ("nowhere/space.py", {}, "nowhere/space.py: there is no such file"),
    ],
)
def test_unknown_names_are_one_clear_error(name, options, message):
    with pytest.raises(ConfigError, match=message):
        open_pool(name, **options)


def test_draws_are_distinct_repeatable_and_grow():
    def draw(rng):
        rows = rng.integers(0, 30, (16, 2))
        return rows, rows % 10, rows[:, 0] < 20  # equal modulo 10

    rows = draw_distinct(60, 0, draw, mend="-")
    assert len(np.unique(rows % 10, axis=0)) == 60
    assert rows[:, 0].max() < 20
    np.testing.assert_array_equal(draw_distinct(25, 0, draw, mend="-"), rows[:25])
    assert not np.array_equal(draw_distinct(60, 1, draw, mend="-"), rows)
    assert len(draw_distinct(100, 0, draw, mend="-")) == 100  # all there are
    with pytest.raises(ConfigError, match=r"only 100 of size=101 .*: ask for less"):
        draw_distinct(101, 0, draw, mend="ask for less")
    with pytest.raises(ConfigError, match="got size=0"):
        draw_distinct(0, 0, draw, mend="-")
