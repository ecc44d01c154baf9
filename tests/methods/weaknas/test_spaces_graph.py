"""NAS-Bench-Graph out of the installed package, whose own code is the judge."""

import itertools
import pickle
import sys

import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.methods.weaknas.spaces import nas_bench_graph as space
from zoo_jax.methods.weaknas.spaces import open_pool, tables

pytest.importorskip("nas_bench_graph", reason='needs pip install "zoo-jax[samples]"')


@pytest.fixture(scope="module")
def pool():
    return open_pool("nas_bench_graph", dataset="cora")


@pytest.mark.parametrize("dataset", space.DATASETS)
def test_labels_and_costs_are_those_that_the_package_reads(dataset):
    from nas_bench_graph import Arch, light_read

    bench = light_read(dataset)
    pool = open_pool("nas_bench_graph", dataset=dataset)
    assert len(pool) == len(bench) == (2021 if dataset == "proteins" else 26206)
    for i in range(0, len(pool), 397):
        arch = pool.config(i)
        info = bench[Arch(arch["link"], arch["ops"]).valid_hash()]
        assert pool.labels["search"][i] == pytest.approx(100 * info["valid_perf"])
        assert pool.labels["test"][i] == pytest.approx(100 * info["perf"])
        assert pool.costs["latency"][i] == pytest.approx(info["latency"])
        assert pool.costs["params"][i] == pytest.approx(1e6 * info["para"])


def test_canonical_forms_are_those_of_the_package():
    from nas_bench_graph import Arch

    rng = np.random.default_rng(0)
    checked = 0
    for link in itertools.product([0], [0, 1], [0, 1, 2], [0, 1, 2, 3]):
        # Skips are what the rules are about, so half of the operations are.
        draws = rng.integers(0, 9, (150, 4))
        draws[rng.random(draws.shape) < 0.4] = space.SKIP
        for ops in draws.tolist():
            form = space.canonical(link, ops)
            if form is None:
                assert set(ops) == {space.SKIP}
                continue
            digits = "".join(map(str, (space.LINKS.index(form[0]), *form[1])))
            theirs = Arch(list(link), [space.OPS[op] for op in ops])
            assert theirs.valid_hash() == int(digits)
            assert space.canonical(*form) == form
            checked += 1
    assert checked > 3000


def test_features_say_link_and_operations(pool):
    assert pool.features.shape == (26206, 45)
    np.testing.assert_array_equal(pool.features.sum(1), 5)
    assert len(np.unique(pool.features, axis=0)) == len(pool)
    item = 12345
    config = pool.config(item)
    hot = np.flatnonzero(pool.features[item])
    assert list(space.LINKS[hot[0]]) == config["link"]
    assert [space.OPS[(h - 9) % 9] for h in hot[1:]] == config["ops"]


def test_graphs_join_what_reads_and_what_nobody_reads_to_the_output(pool):
    item = next(i for i in range(len(pool)) if pool.config(i)["link"] == [0, 1, 2, 2])
    edges = {tuple(map(int, e)) for e in np.argwhere(pool.graph.adjacency[item])}
    assert edges == {(0, 1), (1, 2), (2, 3), (2, 4), (3, 5), (4, 5)}
    labels = pool.graph.ops[item].argmax(-1)
    names = [space.OPS[label - 1] for label in labels[1:5]]
    assert (labels[0], names, labels[5]) == (0, pool.config(item)["ops"], 10)
    described = " ".join(
        f"{k}:{name}({read})"
        for k, (name, read) in enumerate(zip(names, [0, 1, 2, 2], strict=True), 1)
    )
    assert pool.describe(item) == described


def test_neighbours_are_an_edit_away_in_some_form(pool):
    rng = np.random.default_rng(1)
    forms = {}
    for i in rng.integers(0, len(pool), 25).tolist():
        config = pool.config(i)
        ops = [space.OPS.index(op) for op in config["ops"]]
        near = pool.neighbours(i)
        assert i not in near
        assert len(set(near.tolist())) == len(near) > 5
        for j in near.tolist():
            other = pool.config(j)
            forms[j] = (
                tuple(other["link"]),
                [space.OPS.index(o) for o in other["ops"]],
            )
        edits = {
            space.canonical(config["link"], [*ops[:slot], op, *ops[slot + 1 :]])
            for slot in range(4)
            for op in range(9)
        } | {space.canonical(link, ops) for link in space.LINKS}
        reached = {(link, tuple(o)) for link, o in (forms[j] for j in near.tolist())}
        own = (tuple(config["link"]), tuple(ops))
        assert reached == edits - {own, None}


def test_the_package_is_not_imported():
    before = sys.modules.pop("nas_bench_graph", None)
    try:
        open_pool("nas_bench_graph", dataset="proteins")
        assert "nas_bench_graph" not in sys.modules
    finally:
        if before is not None:
            sys.modules["nas_bench_graph"] = before


def test_unknown_data_sets_are_one_clear_error():
    with pytest.raises(ConfigError, match="'coras': did you mean 'cora'"):
        open_pool("nas_bench_graph", dataset="coras")
    with pytest.raises(ConfigError, match="needs a data set, got dataset=None"):
        open_pool("nas_bench_graph")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({1: {"valid_perf": 0.5}}), "no table of NAS-Bench-Graph"),
        (pickle.dumps({-1: {}}), "no table of NAS-Bench-Graph"),
        (pickle.dumps({}), "no table of NAS-Bench-Graph"),
        (pickle.dumps(print), "it asks for builtins.print"),
        (b"", "no pickle of plain values"),
    ],
)
def test_damaged_packages_are_refused(tmp_path, monkeypatch, content, message):
    path = tmp_path / "cora.bench"
    path.write_bytes(content)
    monkeypatch.setattr(space, "package_file", lambda *_: path)
    with pytest.raises(DataError, match=message):
        open_pool("nas_bench_graph", dataset="cora")


def test_keys_outside_the_space_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "cora.bench"
    record = dict.fromkeys(("valid_perf", "perf", "latency", "para"), 0.5)
    path.write_bytes(pickle.dumps({99999: record}))
    monkeypatch.setattr(space, "package_file", lambda *_: path)
    with pytest.raises(DataError, match="a key is none of the space"):
        open_pool("nas_bench_graph", dataset="cora")


def test_arrays_and_numbers_of_numpy_survive_the_safe_reader():
    value = {
        "scalar": np.float64(0.1),
        "single": np.float32(0.5),
        "count": np.int64(-3),
        "array": np.arange(6, dtype=np.int32).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "plain": [1, (2.5, "x"), None, True, b"y"],
    }
    for protocol in (2, 4):
        got = tables.loads(pickle.dumps(value, protocol=protocol))
        assert list(got) == list(value)
        assert got["plain"] == value["plain"]
        for name in ("scalar", "single", "count", "array", "columns"):
            np.testing.assert_array_equal(got[name], value[name])
    with pytest.raises(pickle.UnpicklingError, match="numbers of type 'O8'"):
        tables.loads(pickle.dumps(np.array([None])))
