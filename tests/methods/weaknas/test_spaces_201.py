"""NAS-Bench-201: cells, costs, the compact table, and official files made up here."""

import bz2
import collections
import itertools
import pickle

import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.methods.weaknas.spaces import nas_bench_201 as space
from zoo_jax.methods.weaknas.spaces import open_pool

RNG = np.random.default_rng(0)
ALL = np.stack(np.unravel_index(np.arange(5**6), (5,) * 6), axis=1)
BEST = (
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|"
    "+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|"
)


def arrays(rows=40):
    arch = ALL[RNG.permutation(len(ALL))[:rows]]
    values = {
        name: RNG.uniform(10, 95, (rows, 3)).astype(np.float32)
        for name in space.LABELS.values()
    }
    return {"arch": arch, "iso_class": space.isomorphism_classes(arch), **values}


def write(path, **changes):
    table = arrays() | changes
    np.savez(path, **{k: v for k, v in table.items() if v is not None})
    return path


@pytest.fixture(scope="module")
def whole(shared):
    """The real table, if it is here."""
    path = shared("data", "nas_bench_201", "nas_bench_201.npz")
    return np.load(path), {
        name: open_pool("nas_bench_201", dataset=name, table=path)
        for name in space.DATASETS
    }


def test_printed_cells_are_read_back():
    for arch in ALL[::611]:
        np.testing.assert_array_equal(space.parse_cell(space.format_cell(arch)), arch)
    assert space.format_cell(space.parse_cell(BEST)) == BEST


@pytest.mark.parametrize(
    "text",
    [
        *("", "|none~0|", BEST[:-1], BEST + "|", BEST.replace("~1", "~2")),
        *(BEST.replace("nor_", "dil_"), BEST.replace("+", "")),
    ],
)
def test_other_texts_are_no_cells(text):
    with pytest.raises(ValueError, match="is no cell"):
        space.parse_cell(text)


def test_one_hot_rows_say_one_operation_for_each_edge():
    features = space.encode(ALL[::97])
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features.sum(1), 6)
    ops = features.reshape(-1, 6, 5).argmax(-1)
    np.testing.assert_array_equal(ops, space.encode(ALL[::97], "integer"))


def test_a_cell_has_24_neighbours_one_operation_away():
    arch = np.array([3, 0, 1, 2, 4, 3])
    near = space.one_edit(arch)
    assert len(np.unique(near, axis=0)) == 24
    np.testing.assert_array_equal((near != arch).sum(1), 1)


def test_canonical_forms_are_as_many_as_published():
    classes = space.isomorphism_classes(ALL)
    assert classes.max() + 1 == len(np.unique(classes)) == 6466


def classes_of(*cells):
    return space.isomorphism_classes(np.stack([space.parse_cell(c) for c in cells]))


def test_equal_functions_share_a_class():
    a, b, c = classes_of(
        # One convolution after another: over node 1, over node 2, over both.
        "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|",
        "|none~0|+|nor_conv_3x3~0|none~1|+|none~0|none~1|nor_conv_1x1~2|",
        "|skip_connect~0|+|none~0|nor_conv_3x3~1|+|none~0|none~1|nor_conv_1x1~2|",
    )
    assert a == b == c


def test_classes_are_as_cautious_as_the_official_ones():
    a, b = classes_of(
        # Node 2 sums two times nothing, and a convolution of it still counts.
        "|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|nor_conv_1x1~2|",
        "|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|",
    )
    assert a != b


@pytest.mark.parametrize(
    ("cell", "dataset", "mflops", "mparams"),
    [
        # Published with the benchmark; its multiply-adds include the last biases.
        (
            "|" + "+".join(["x~0|", "|x~0|x~1|", "|x~0|x~1|x~2|"]),
            "cifar10",
            220.11969,
            1.531546,
        ),
        (BEST, "cifar10", 153.27297, 1.073466),
        (
            "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|"
            "+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|",
            *("cifar10", 15.64737, 0.129306),
        ),
    ],
)
def test_costs_are_the_published_ones(cell, dataset, mflops, mparams):
    arch = space.parse_cell(cell.replace("x~", "nor_conv_3x3~"))
    costs = space.cell_costs(arch[None], dataset)
    biases = 10
    assert costs["flops"][0] + biases == pytest.approx(1e6 * mflops, rel=2e-7)
    assert costs["params"][0] == round(1e6 * mparams)


def test_smaller_images_and_more_classes_change_the_costs():
    costs = {d: space.cell_costs(ALL[-1:], d) for d in space.DATASETS}
    ten, hundred, small = (costs[d]["params"][0] for d in space.DATASETS)
    assert (hundred - ten, small - ten) == (90 * 65, 110 * 65)
    macs = [costs[d]["flops"][0] for d in space.DATASETS]
    assert macs[2] - 64 * 120 == (macs[0] - 64 * 10) / 4


def paths(graph, item):
    """Operations along every way from input to output, from the matrix alone."""
    matrix, labels = graph.adjacency[item], graph.ops[item].argmax(-1)

    def walk(node):
        if node == len(matrix) - 1:
            return [()]
        after = np.flatnonzero(matrix[node])
        return [(labels[n], *rest) for n in after for rest in walk(n)]

    return sorted(walk(0))


def test_graphs_have_the_paths_of_their_cells():
    graph = space.cell_graph(ALL[::311])
    np.testing.assert_array_equal(graph.ops.sum(-1), 1)
    for item, arch in enumerate(ALL[::311].tolist()):
        edges = dict(zip(space.EDGES, arch, strict=True))
        ways = [(0, 3), (0, 1, 3), (0, 2, 3), (0, 1, 2, 3)]
        expected = []
        for way in ways:
            ops = [edges[pair] for pair in itertools.pairwise(way)]
            if 0 not in ops:  # none
                expected.append((*(op + 1 for op in ops), 6))
        assert paths(graph, item) == sorted(expected)


def test_the_table_gives_labels_of_its_data_set(tmp_path):
    table = arrays()
    table["search200"][3, 1] = np.nan
    path = tmp_path / "table.npz"
    space.write_table(path, table)
    pool = open_pool("nas_bench_201", dataset="cifar100", table=path)
    assert (pool.name, len(pool)) == ("nas_bench_201/cifar100", 40)
    for label, name in space.LABELS.items():
        np.testing.assert_array_equal(pool.labels[label], table[name][:, 1])
    assert pool.describe(7) == space.format_cell(table["arch"][7])
    assert pool.config(7) == pool.describe(7)
    np.testing.assert_array_equal(pool.classes, table["iso_class"])
    np.testing.assert_array_equal(pool.features, space.encode(table["arch"]))


def test_neighbours_are_those_in_the_table(tmp_path):
    arch = np.concatenate([ALL[:1], space.one_edit(ALL[0])[[5, 17]], ALL[-4:]])
    table = {k: v[:1].repeat(7, 0) for k, v in arrays().items()} | {"arch": arch}
    path = write(tmp_path / "t.npz", **table)
    pool = open_pool("nas_bench_201", dataset="cifar10", table=path)
    assert sorted(pool.neighbours(0)) == [1, 2]


def test_operations_may_come_in_another_order(tmp_path):
    table = arrays()
    order = np.array([2, 0, 4, 1, 3])  # position in the file -> our index
    names = np.array(space.OPS)[order]
    shuffled = np.argsort(order)[table["arch"]]
    path = write(tmp_path / "t.npz", **table | {"arch": shuffled, "op_names": names})
    pool = open_pool("nas_bench_201", dataset="cifar10", table=path)
    np.testing.assert_array_equal(pool.features, space.encode(table["arch"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": None}, r"lacks the array 'arch'; it has iso_class, search200"),
        (
            {"arch": np.zeros((40, 5), int)},
            r"'arch' has shape \(40, 5\), not \('m', 6\)",
        ),
        ({"arch": np.full((40, 6), 5)}, "other values than 0 to 4"),
        ({"arch": np.zeros((40, 6), int)}, r"holds \|none~0\|.* twice"),
        ({"search200": np.zeros((39, 3))}, r"'search200' has shape \(39, 3\)"),
        ({"val12": np.zeros((40, 2))}, r"'val12' has shape \(40, 2\)"),
        ({"test200": np.full((40, 3), "x")}, "holds <U1, no numbers"),
        ({"test200": np.full((40, 3), None)}, "is no table in npz form"),
        ({"op_names": np.array(["none"])}, "op_names are none, not none, skip_connect"),
    ],
)
def test_malformed_tables_are_one_clear_error(tmp_path, changes, message):
    path = write(tmp_path / "t.npz", **changes)
    with pytest.raises(DataError, match=message) as error:
        open_pool("nas_bench_201", dataset="cifar10", table=path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_and_missing_tables_say_how_to_get_one(tmp_path, monkeypatch):
    path = write(tmp_path / "t.npz")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match="is no table in npz form"):
        open_pool("nas_bench_201", dataset="cifar10", table=path)
    with pytest.raises(DataError, match=r"no table .*none.npz: .*NATS-Bench"):
        open_pool("nas_bench_201", dataset="cifar10", table=tmp_path / "none.npz")
    monkeypatch.delenv("ZOO_DATA", raising=False)
    with pytest.raises(DataError, match=r"give table=FILE .*, or let .* ZOO_DATA"):
        open_pool("nas_bench_201", dataset="cifar10")
    pth = tmp_path / "NAS-Bench-201-v1_1-096897.pth"
    pth.write_bytes(b"PK")
    with pytest.raises(DataError, match="neither a compact table"):
        open_pool("nas_bench_201", dataset="cifar10", table=pth)


def test_the_table_is_found_in_the_folder_of_data_sets(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    (tmp_path / space.TABLE).parent.mkdir()
    write(tmp_path / space.TABLE)
    for none in (None, ""):  # a config has "" for None
        assert len(open_pool("nas_bench_201", dataset="cifar10", table=none)) == 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs a data set, got dataset=None: choose from cifar10"),
        ({"dataset": "cifar-100"}, "'cifar-100': did you mean 'cifar100'"),
        ({"dataset": "cifar10", "encoding": "path"}, "one_hot or integer, got 'path'"),
        ({"dataset": "cifar10", "label": "best"}, "mean or one_run, got 'best'"),
    ],
)
def test_unknown_names_are_one_clear_error(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        open_pool("nas_bench_201", table=write(tmp_path / "t.npz"), **options)


# The official folder: one pickle per cell, of dictionaries as the official classes write them.


def result(accuracy, names, epochs):
    """One training run."""
    key = f"@{epochs - 1}"
    return {
        "name": "infer.tiny",
        "net_state_dict": None,
        "train_acc1es": collections.OrderedDict({0: 12.5, epochs - 1: 99.0}),
        "eval_names": list(names),
        # The last epoch counts, not the best.
        "eval_acc1es": {n + key: np.float64(accuracy + i) for i, n in enumerate(names)}
        | {f"{n}@0": 99.9 for n in names},
        "params": 1.0,
        "latency": [0.01],
    }


def record(base):
    """One cell: 200 epochs with one to three runs, 12 epochs with one."""
    both = ("x-valid", "x-test")
    runs = {
        ("cifar10-valid", 777): result(base, ("x-valid", "ori-test"), 200),
        ("cifar10-valid", 888): result(base + 3, ("x-valid", "ori-test"), 200),
        ("cifar10", 777): result(base + 10, ("ori-test",), 200),
        ("cifar100", 777): result(base + 20, both, 200),
        ("cifar100", 888): result(base + 22, both, 200),
        ("cifar100", 999): result(base + 27, both, 200),
        ("ImageNet16-120", 777): result(base + 30, both, 200),
    }
    short = {("cifar100", 777): result(base - 5, both, 12)}
    return {
        epochs: {"arch_index": 0, "all_results": results, "dataset_seed": {}}
        for epochs, results in (("200", runs), ("12", short))
    }


def dump(path, value):
    path.write_bytes(bz2.compress(pickle.dumps(value, protocol=4)))


@pytest.fixture
def official(tmp_path):
    folder = tmp_path / "NATS-tss-v1_0-3ffb9-simple"
    folder.mkdir()
    cells = [space.format_cell(arch) for arch in ALL[[40, 3, 777, 12000]]]
    dump(folder / "meta.pickle.pbz2", {"meta_archs": cells, "evaluated_indexes": {0}})
    for number, base in ((0, 40.0), (1, 41.0), (3, 43.0)):  # 2 has not been trained
        dump(folder / f"{number:06d}.pickle.pbz2", record(base))
    return folder


def test_official_files_give_means_over_runs_of_the_last_epoch(official):
    pools = {
        d: open_pool("nas_bench_201", dataset=d, table=official) for d in space.DATASETS
    }
    base = np.array([40.0, 41.0, 43.0])
    labels = {d: pool.labels for d, pool in pools.items()}
    np.testing.assert_allclose(labels["cifar10"]["search"], base + 1.5)
    np.testing.assert_allclose(labels["cifar10"]["test"], base + 10)
    np.testing.assert_allclose(labels["cifar100"]["search"], base + 23, rtol=1e-6)
    np.testing.assert_allclose(labels["cifar100"]["test"], base + 24, rtol=1e-6)
    np.testing.assert_allclose(labels["cifar100"]["val12"], base - 5)
    np.testing.assert_allclose(labels["imagenet16_120"]["test"], base + 31)
    assert np.isnan(labels["cifar10"]["val12"]).all()
    assert pools["cifar10"].describe(2) == space.format_cell(ALL[12000])


def test_the_compact_table_of_official_files_holds_the_same(official, tmp_path):
    path = tmp_path / "compact.npz"
    space.write_table(path, space.read_nats_bench(official))
    for label in ("mean", "one_run"):
        a, b = (
            open_pool("nas_bench_201", dataset="cifar100", table=t, label=label, seed=3)
            for t in (official, path)
        )
        np.testing.assert_array_equal(a.labels["search"], b.labels["search"])


def test_single_runs_are_drawn_by_seed(official):
    drawn = {
        tuple(
            open_pool(
                "nas_bench_201", dataset=d, table=official, label="one_run", seed=s
            ).labels["search"]
            - np.array([40, 41, 43])
        )
        for d in ("cifar100",)
        for s in range(20)
    }
    assert {value for row in drawn for value in row} == {20, 22, 27}
    assert len(drawn) > 5


def test_single_runs_need_a_table_that_has_them(tmp_path):
    with pytest.raises(DataError, match=r"'search200_runs' of single runs: .*mean"):
        open_pool(
            "nas_bench_201",
            dataset="cifar10",
            table=write(tmp_path / "t.npz"),
            label="one_run",
        )


class Hostile:
    def __reduce__(self):
        return (print, ("code was run",))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("000000", pickle.dumps(Hostile()), "it asks for builtins.print"),
        (
            "000001",
            pickle.dumps({"200": {"all_results": 3}}),
            "no record of NATS-Bench",
        ),
        ("000001", pickle.dumps([1]), "it holds a list"),
        ("000001", b"garbage", "is no pickle of plain values"),
        ("meta", pickle.dumps({}), "has no list of cells 'meta_archs'"),
        ("meta", pickle.dumps({"meta_archs": ["|x~0|"]}), "is no cell"),
    ],
)
def test_hostile_and_damaged_official_files_are_refused(
    official, capfd, name, content, message
):
    (official / f"{name}.pickle.pbz2").write_bytes(bz2.compress(content))
    with pytest.raises(DataError, match=message) as error:
        open_pool("nas_bench_201", dataset="cifar10", table=official)
    assert name in str(error.value)
    assert "code was run" not in capfd.readouterr().out


def test_truncated_and_absent_official_files_are_refused(official):
    path = official / "000001.pickle.pbz2"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"000001.*is no pickle of plain values"):
        space.read_nats_bench(official)
    for file in official.glob("0*"):
        file.unlink()
    with pytest.raises(DataError, match="holds no file of a cell"):
        space.read_nats_bench(official)
    (official / "meta.pickle.pbz2").unlink()
    with pytest.raises(DataError, match=r"no file .*meta.pickle.pbz2"):
        space.read_nats_bench(official)


def test_published_optima_are_in_the_real_table(whole):
    stored, pools = whole
    best = {"cifar10": (6111, 94.37), "cifar100": (9930, 73.51)}
    best["imagenet16_120"] = (857, 47.31)
    for name, (row, value) in best.items():
        pool = pools[name]
        assert int(pool.labels["test"].argmax()) == row
        assert pool.labels["test"].max() == pytest.approx(value, abs=0.005)
    assert pools["cifar10"].describe(6111) == BEST
    assert len(pools["cifar10"]) == 15625
    # Numbered otherwise, the classes of the table are ours.
    ours = space.isomorphism_classes(stored["arch"])
    pairs = set(zip(stored["iso_class"].tolist(), ours.tolist(), strict=True))
    assert len(pairs) == 6466


def test_every_cell_of_the_real_table_has_24_neighbours(whole):
    pool = whole[1]["cifar10"]
    for i in range(0, len(pool), 911):
        near = pool.neighbours(i)
        assert len(set(near.tolist())) == 24
        difference = np.abs(pool.features[near] - pool.features[i]).sum(1)
        np.testing.assert_array_equal(difference, 2)
        assert all(i in pool.neighbours(j) for j in near[:3])
