"""Spaces of one's own: Python files with choices."""

import collections
import itertools
import json
import textwrap

import ml_collections
import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.methods.weaknas.spaces import floats, integers, open_pool, when
from zoo_jax.methods.weaknas.spaces.config_space import Space

HEAD = "from zoo_jax.methods.weaknas.spaces import floats, integers, when\n"


@pytest.fixture
def opened(tmp_path):
    def write_and_open(body, **options):
        path = tmp_path / "my_space.py"
        path.write_text(HEAD + textwrap.dedent(body))
        return open_pool(str(path), **options)

    return write_and_open


LISTED = """
    def get_space():
        return dict(
            model=dict(width=[16, 32, 64], depth=integers(2, 5)),
            name=("sgd", "adam"),
            momentum=when("name", "sgd", [0.8, 0.9]),
            steps=100,
        )
"""


def test_small_spaces_are_listed_in_full(opened):
    pool = opened(LISTED)
    assert pool.name == "my_space"
    expected = [
        {"model": {"width": w, "depth": d}, "name": "adam", "steps": 100}
        for w, d in itertools.product((16, 32, 64), (2, 3, 4, 5))
    ] + [
        {"model": {"width": w, "depth": d}, "name": "sgd", "momentum": m, "steps": 100}
        for w, d, m in itertools.product((16, 32, 64), (2, 3, 4, 5), (0.8, 0.9))
    ]
    keys = [json.dumps(pool.config(i), sort_keys=True) for i in range(len(pool))]
    assert sorted(keys) == sorted(json.dumps(c, sort_keys=True) for c in expected)


def test_features_are_one_hot_choices_and_places_in_ranges(opened):
    pool = opened(LISTED)
    assert pool.features.shape == (36, 3 + 1 + 2 + 2)  # the constant has none
    for i in range(len(pool)):
        config = pool.config(i)
        width = [config["model"]["width"] == w for w in (16, 32, 64)]
        depth = (config["model"]["depth"] - 2) / 3
        name = [config["name"] == n for n in ("sgd", "adam")]
        momentum = [config.get("momentum") == m for m in (0.8, 0.9)]
        expected = np.float32([*width, depth, *name, *momentum])
        np.testing.assert_allclose(pool.features[i], expected)


def test_descriptions_name_what_varies(opened):
    pool = opened(LISTED)
    texts = {pool.describe(i) for i in range(len(pool))}
    assert len(texts) == 36
    assert "model.width=64 model.depth=5 name=sgd momentum=0.9" in texts
    assert "model.width=16 model.depth=2 name=adam" in texts


def test_neighbours_differ_in_one_leaf(opened):
    pool = opened(LISTED)
    at = {pool.describe(i): i for i in range(len(pool))}
    near = pool.neighbours(at["model.width=16 model.depth=2 name=adam"])
    assert {pool.describe(i) for i in near} == {
        "model.width=32 model.depth=2 name=adam",
        "model.width=64 model.depth=2 name=adam",
        "model.width=16 model.depth=3 name=adam",
        "model.width=16 model.depth=4 name=adam",
        "model.width=16 model.depth=5 name=adam",
        # A leaf that comes with the change does not count as one of its own.
        "model.width=16 model.depth=2 name=sgd momentum=0.8",
        "model.width=16 model.depth=2 name=sgd momentum=0.9",
    }


def test_larger_spaces_are_sampled_by_seed(opened):
    body = """
        def get_space():
            return dict(lr=floats(1e-4, 1e-1, log=True), width=[8, 16], k=integers(1, 9))
    """
    pool, again = opened(body, size=500), opened(body, size=500)
    assert len({pool.describe(i) for i in range(500)}) == len(pool) == 500
    np.testing.assert_array_equal(pool.features, again.features)
    np.testing.assert_array_equal(opened(body, size=20).features, pool.features[:20])
    assert not np.array_equal(
        opened(body, size=20, seed=1).features, pool.features[:20]
    )
    assert pool.neighbours is None
    rates = np.array([pool.config(i)["lr"] for i in range(500)])
    assert rates.min() >= 1e-4
    assert rates.max() <= 1e-1
    # Half of them below the geometric mean.
    assert 0.42 < np.mean(rates < 10**-2.5) < 0.58
    assert 0.42 < np.mean([pool.config(i)["width"] == 8 for i in range(500)]) < 0.58
    counts = collections.Counter(pool.config(i)["k"] for i in range(500))
    assert sorted(counts) == list(range(1, 10))
    assert min(counts.values()) > 30
    place = (np.log(rates) - np.log(1e-4)) / np.log(1e3)
    np.testing.assert_allclose(pool.features[:, 0], place, atol=1e-6)


def test_a_listed_space_is_thinned_to_the_size(opened):
    pool = opened(LISTED, size=10)
    assert len({pool.describe(i) for i in range(10)}) == len(pool) == 10
    assert pool.neighbours is None


def test_only_valid_configs_are_admitted(opened):
    body = """
        def get_space():
            return dict(a=integers(1, 10), b=integers(1, 10))
        def is_valid(config):
            return config["a"] * config["b"] == 12
    """
    pool = opened(body)
    pairs = {tuple(pool.config(i).values()) for i in range(len(pool))}
    assert pairs == {(2, 6), (3, 4), (4, 3), (6, 2)}
    with pytest.raises(ConfigError, match="is_valid admits no config"):
        opened(body.replace("== 12", "== 999"))


def test_config_dicts_and_nested_conditions_are_understood():
    space = ml_collections.ConfigDict()
    # Governed leaves may come first.
    space.late = when("kind", ["b", "c"], when("deep", True, integers(1, 3)))
    space.kind = ["a", "b", "c"]
    space.deep = [False, True]
    space.sizes = [[3, 3], [5, 5]]
    parsed = Space(space)
    names = [leaf.name for leaf in parsed.leaves]
    assert names.index("late") > max(names.index("kind"), names.index("deep"))
    for kind, deep in itertools.product("abc", (False, True)):
        given = {"kind": kind, "deep": deep, "sizes": [5, 5], "late": 2}
        config = parsed.config(parsed.admit([given[name] for name in names]))
        there = kind in "bc" and deep
        assert config == {k: v for k, v in given.items() if k != "late" or there}


def test_true_is_not_one():
    parsed = Space({"a": [1, True, 0, False]})
    hot = [parsed.encode([v]).argmax() for v in (1, True, 0, False)]
    assert hot == [0, 1, 2, 3]


def test_ranges_reach_both_ends():
    for made in (integers(3, 11), integers(1, 64, log=True), floats(-2, 5)):
        assert (made.value(0.0), made.value(1.0)) == (made.low, made.high)
        for unit in np.linspace(0, 1, 17):
            value = made.value(unit)
            assert made.low <= value <= made.high
            assert abs(made.place(value) - unit) < (0.5 if made.integer else 1e-5)
    assert type(integers(3, 11).value(0.3)) is int


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: integers(5, 5), r"integers\(5, 5\): the first number must be below"),
        (lambda: integers(1, 2.5), r"integers\(1, 2.5\): the ends must be integers"),
        (lambda: floats(0, 1, log=True), "a logarithmic range must be above 0"),
        (lambda: floats(0, float("nan")), "must be below"),
        (lambda: floats("a", 1), "must be below"),
        (lambda: Space({}), "the space is empty"),
        (lambda: Space({"a": []}), "a: an empty list is no choice"),
        (lambda: Space({"a": [3, 3]}), "a: lists 3 twice"),
        (lambda: Space({"a": [print]}), "a: configs hold numbers, .* not <built-in"),
        (lambda: Space({"a.b": [1]}), "a.b: a name must not hold a dot"),
        (
            lambda: Space({"rate": [1], "b": when("rat", 1, [2])}),
            "b depends on 'rat': did you mean 'rate'",
        ),
        (
            lambda: Space({"a": when("b", 1, [2]), "b": when("a", 2, [1])}),
            "a, b depend on each other",
        ),
    ],
)
def test_impossible_spaces_are_one_clear_error(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("x = 1", r"my_space.py: defines no get_space\(\)"),
        ("def get_space():\n    return 3", "returned int, not a ConfigDict or dict"),
        ("def get_space():\n    return {}['a']", "my_space.py, line 3: KeyError: 'a'"),
        ("def get_space(:\n", "my_space.py, line 2: SyntaxError"),
        (
            "def get_space():\n    return dict(a=[1, 1])",
            "my_space.py: a: lists 1 twice",
        ),
        (
            "def get_space():\n    return dict(a=[1, 2])\n"
            "def is_valid(config):\n    return config['b']",
            "my_space.py, line 5: KeyError: 'b'",
        ),
        ("def get_space():\n    return dict(a=floats(2, 1))", r"floats\(2, 1\)"),
    ],
)
def test_files_that_fail_are_one_clear_error(opened, body, message):
    with pytest.raises(ConfigError, match=message) as error:
        opened(body)
    assert "\n" not in str(error.value)


def test_sizes_below_one_and_unfillable_samples_are_one_clear_error(opened):
    with pytest.raises(ConfigError, match="size=0"):
        opened(LISTED, size=0)
    body = """
        def get_space():
            return dict(lr=floats(0, 1), k=[1, 2])
        def is_valid(config):
            return False
    """
    with pytest.raises(ConfigError, match=r"only 0 of size=4 .*lower size"):
        opened(body, size=4)
