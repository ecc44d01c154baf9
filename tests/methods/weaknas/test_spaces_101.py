"""NAS-Bench-101: cells, the official file (made up here), and the compact table."""

import base64
import itertools
import json

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorboardX.record_writer import RecordWriter

from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.methods.weaknas.spaces import nas_bench_101 as space
from zoo_jax.methods.weaknas.spaces import nas_bench_101_cell as cells
from zoo_jax.methods.weaknas.spaces import open_pool
from zoo_jax.methods.weaknas.spaces.nas_bench_101_cell import (
    CONV1X1,
    CONV3X3,
    INPUT,
    MAXPOOL3X3,
    OUTPUT,
    Cell,
)
from zoo_jax.methods.weaknas.spaces.tfrecord import frame, read_records


def make(edges, *inner):
    ops = np.array([INPUT, *inner, OUTPUT])
    adjacency = np.zeros((len(ops), len(ops)), int)
    for i, j in edges:
        adjacency[i, j] = 1
    return Cell(adjacency, ops)


CHAIN = make([(0, 1), (1, 2)], CONV3X3)
DIRECT = make([(0, 1)])
DIAMOND = make([(0, 1), (0, 2), (1, 3), (2, 3)], CONV1X1, MAXPOOL3X3)


def pad(cell):
    n = len(cell.ops)
    adjacency = np.zeros((7, 7), int)
    adjacency[:n, :n] = cell.adjacency
    return adjacency, np.pad(cell.ops, (0, 7 - n), constant_values=cells.ABSENT)


def test_the_chain_of_three_nodes_is_encoded_as_by_hand():
    adjacency, ops = (part[None] for part in pad(CHAIN))
    got = space.encode(adjacency, ops)[0]
    expected = [1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1] + [0] * 34
    np.testing.assert_array_equal(got, expected)


def test_pruning_keeps_what_lies_between_input_and_output():
    # 1 leads nowhere, 3 comes from nowhere.
    cell = make([(0, 1), (0, 2), (2, 4), (3, 4)], CONV1X1, CONV3X3, MAXPOOL3X3)
    pruned = cells.prune(cell)
    np.testing.assert_array_equal(pruned.adjacency, CHAIN.adjacency)
    np.testing.assert_array_equal(pruned.ops, CHAIN.ops)
    assert cells.prune(make([(0, 1)], CONV3X3)) is None


def isomorphic(a, b):
    """By trying every order of the nodes."""
    n = len(a.ops)
    return n == len(b.ops) and any(
        np.array_equal(a.ops[list(p)], b.ops)
        and np.array_equal(a.adjacency[np.ix_(p, p)], b.adjacency)
        for p in itertools.permutations(range(n))
    )


def test_the_hash_is_equal_for_isomorphic_cells_and_no_others():
    rng = np.random.default_rng(0)
    found = []
    while len(found) < 60:
        matrix = np.triu(rng.integers(0, 2, (5, 5)), 1)
        ops = np.array([INPUT, *rng.integers(1, 3, 3), OUTPUT])
        cell = cells.prune(Cell(matrix, ops))
        if cell is not None:
            found.append(cell)
    same = 0
    for a, b in itertools.combinations(found, 2):
        equal = cells.graph_hash(a) == cells.graph_hash(b)
        assert equal == isomorphic(a, b)
        same += equal
    assert same > 20


def test_hashes_are_those_of_the_official_code():
    # Computed by nasbench.lib.graph_util.hash_module, commit b942470.
    known = {
        "043721b9c7fe8c5fad811d47d83132ec": DIRECT,
        "b49ac8c578b4561d79ac7087988f1c61": CHAIN,
        "ac9bd0e2514c031187b612db767fb038": DIAMOND,
    }
    assert list(map(cells.graph_hash, known.values())) == list(known)
    with pytest.raises(ValueError, match="no path leads"):
        cells.graph_hash(make([(1, 2)], CONV3X3))


def test_edits_lead_to_cells_of_the_space_and_back():
    hashes = {cells.graph_hash(cell) for cell in cells.one_edit(DIAMOND)}
    assert len(hashes) > 20
    for cell in cells.one_edit(DIAMOND):
        assert cells.prune(cell) is not None
        assert len(cell.ops) <= 7
        assert not np.tril(cell.adjacency).any()
        back = {cells.graph_hash(other) for other in cells.one_edit(cell)}
        # Taking out an edge may take out more than one edit puts back.
        if len(cell.ops) >= len(DIAMOND.ops):
            assert cells.graph_hash(DIAMOND) in back


def test_cells_keep_to_nine_edges():
    full = make(
        [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (0, 6), (0, 2), (0, 3)],
        *(CONV3X3,) * 5,
    )
    assert full.adjacency.sum() == 9
    edges = {int(cell.adjacency.sum()) for cell in cells.one_edit(full)}
    assert max(edges) == 9
    assert min(edges) < 9


# The official file: records as written by another program, messages by another library.


def metrics_class():
    """The messages of the official model_metrics.proto."""
    file = descriptor_pb2.FileDescriptorProto(
        name="metrics.proto", package="made_up", syntax="proto2"
    )
    field = descriptor_pb2.FieldDescriptorProto
    inner = file.message_type.add(name="EvaluationData")
    names = ("current_epoch", "training_time", "train_accuracy")
    names += ("validation_accuracy", "test_accuracy")
    for number, name in enumerate(names, 1):
        inner.field.add(name=name, number=number, type=field.TYPE_DOUBLE, label=1)
    inner.field.add(name="checkpoint_path", number=6, type=field.TYPE_STRING, label=1)
    outer = file.message_type.add(name="ModelMetrics")
    outer.field.add(
        name="evaluation_data",
        number=1,
        type=field.TYPE_MESSAGE,
        type_name=".made_up.EvaluationData",
        label=3,
    )
    outer.field.add(
        name="trainable_parameters", number=2, type=field.TYPE_INT32, label=1
    )
    outer.field.add(name="total_time", number=3, type=field.TYPE_DOUBLE, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindMessageTypeByName("made_up.ModelMetrics")
    return message_factory.GetMessageClass(found)


METRICS = metrics_class()


def message(valid, test, seconds=1000.5, params=8_555_530, evaluations=3):
    out = METRICS(trainable_parameters=params, total_time=2000.25)
    for i in range(evaluations):
        at = out.evaluation_data.add()
        at.current_epoch, at.training_time = 54.0 * i, seconds * i / 2
        share = i / 2  # only the end counts
        at.train_accuracy = share
        at.validation_accuracy, at.test_accuracy = valid * share, test * share
        at.checkpoint_path = "model.ckpt-" + "x" * 200
    return out.SerializeToString()


def record(cell, *values, epochs=108, **options):
    text = "".join(map(str, cell.adjacency.reshape(-1).tolist()))
    ops = ",".join(space.OPS[op] for op in cell.ops)
    metrics = base64.b64encode(message(*values, **options)).decode()
    return json.dumps([cells.graph_hash(cell), epochs, text, ops, metrics]).encode()


RUNS = {  # validation, test
    "diamond": [(0.91, 0.90), (0.92, 0.91), (0.96, 0.92)],
    "chain": [(0.81, 0.80)],
}


@pytest.fixture
def official(tmp_path):
    path = tmp_path / "nasbench_only108.tfrecord"
    writer = RecordWriter(str(path))
    for valid, test in RUNS["diamond"]:
        writer.write(record(DIAMOND, valid, test))
        writer.write(record(DIAMOND, 0.3, 0.2, epochs=4))
    for valid, test in RUNS["chain"]:
        writer.write(record(CHAIN, valid, test, seconds=10.0, params=1_234))
    writer.close()
    return path


def test_frames_are_those_of_another_writer(tmp_path):
    path = tmp_path / "x.tfrecord"
    writer = RecordWriter(str(path))
    records = [b"", b"one", bytes(range(256)) * 3]
    for data in records:
        writer.write(data)
    writer.close()
    assert path.read_bytes() == b"".join(map(frame, records))
    assert list(read_records(path)) == records


def test_official_files_give_means_over_runs_after_108_epochs(official):
    pool = open_pool("nas_bench_101", table=official)
    assert len(pool) == 2
    np.testing.assert_allclose(pool.labels["search"], [93, 81], rtol=1e-6)
    np.testing.assert_allclose(pool.labels["test"], [91, 80], rtol=1e-6)
    np.testing.assert_array_equal(pool.costs["params"], [8_555_530, 1_234])
    np.testing.assert_allclose(pool.costs["seconds"], [1000.5, 10])
    assert pool.config(1) == {
        "matrix": [[0, 1, 0], [0, 0, 1], [0, 0, 0]],
        "ops": ["input", "conv3x3-bn-relu", "output"],
    }
    assert pool.describe(0) == "1:conv1x1-bn-relu(0) 2:maxpool3x3(0) output(1,2)"
    np.testing.assert_array_equal(pool.graph.adjacency[1], pad(CHAIN)[0])
    np.testing.assert_array_equal(pool.graph.ops[1].sum(-1), [1, 1, 1, 0, 0, 0, 0])


def test_the_compact_table_of_an_official_file_holds_the_same(official, tmp_path):
    path = tmp_path / "compact.npz"
    space.write_table(path, space.read_official(official))
    for label in ("mean", "one_run"):
        a, b = (
            open_pool("nas_bench_101", table=t, label=label) for t in (official, path)
        )
        np.testing.assert_array_equal(a.labels["search"], b.labels["search"])
        np.testing.assert_array_equal(a.features, b.features)
        np.testing.assert_array_equal(a.classes, b.classes)


def test_single_runs_are_drawn_by_seed(official):
    drawn = [
        open_pool("nas_bench_101", table=official, label="one_run", seed=seed).labels[
            "search"
        ]
        for seed in range(20)
    ]
    assert {round(float(d[0])) for d in drawn} == {91, 92, 96}
    assert {round(float(d[1])) for d in drawn} == {81}


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "length":
        data[2] ^= 1
    elif how == "data":
        data[40] ^= 4
    elif how == "cut":
        del data[-7:]
    elif how == "cut_head":
        del data[5:]
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("length", "no whole TFRecord file"),
        ("data", "checksum of the data of record 0 is wrong"),
        ("cut", "ends within a record"),
        ("cut_head", "no whole TFRecord file"),
    ],
)
def test_damaged_official_files_are_refused(official, how, said):
    damage(official, how)
    with pytest.raises(DataError, match=said) as error:
        open_pool("nas_bench_101", table=official)
    assert str(official) in str(error.value)


def test_a_wrong_length_is_found_by_its_checksum(tmp_path):
    path = tmp_path / "x.tfrecord"
    good = frame(b"abc")
    path.write_bytes(good[:8] + bytes([good[8] ^ 1]) + good[9:])
    with pytest.raises(DataError, match="checksum of the length of record 0"):
        list(read_records(path))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"[1, 2]", "record 1 is none of NAS-Bench-101"),
        (b"\xff\xfe", "record 1 is none of NAS-Bench-101"),
        (b'["zz", 108, "0100", "input,output", ""]', "record 1 .*hexadecimal"),
        (b'["00", 108, "010", "input,output", ""]', "record 1 .*matrix '010'"),
        (b'["00", 108, "0100", "input,exit", ""]', "record 1 "),
        (b'["00", 108, "0100", "input,output", "CA=="]', "record 1 .*ends within"),
        (record(CHAIN, 0.5, 0.5, evaluations=2), "record 1 .*2 evaluations"),
    ],
)
def test_records_of_another_kind_are_refused(tmp_path, data, said):
    path = tmp_path / "x.tfrecord"
    path.write_bytes(frame(record(DIAMOND, 0.5, 0.5)) + frame(data))
    with pytest.raises(DataError, match=said):
        open_pool("nas_bench_101", table=path)


def test_files_without_108_epochs_are_refused(tmp_path):
    path = tmp_path / "x.tfrecord"
    path.write_bytes(frame(record(DIAMOND, 0.5, 0.5, epochs=36)))
    with pytest.raises(DataError, match="no results of 108 epochs"):
        open_pool("nas_bench_101", table=path)


def compact(path, *members, **changes):
    padded = [pad(cell) for cell in members or (DIAMOND, CHAIN, DIRECT)]
    table = {
        "adjacency": np.stack([matrix for matrix, _ in padded]),
        "ops": np.stack([ops for _, ops in padded]),
        "val108": np.linspace(80, 94, len(padded)),
    } | changes
    np.savez(path, **{k: v for k, v in table.items() if v is not None})
    return path


def test_neighbours_are_the_edits_that_are_in_the_table(tmp_path):
    other = make([(0, 1), (1, 2)], CONV1X1)
    dangling = make([(0, 1), (0, 2), (2, 3)], CONV1X1, CONV3X3)  # CHAIN once pruned
    path = compact(tmp_path / "t.npz", DIAMOND, CHAIN, DIRECT, other, dangling)
    pool = open_pool("nas_bench_101", table=path)
    assert pool.classes[1] == pool.classes[4]
    assert len(set(pool.classes.tolist())) == 4
    near = [pool.neighbours(i).tolist() for i in range(5)]
    # An operation apart, or a node less or more; never the own class. A node cannot be put
    # into the only edge of DIRECT by one edit: its edge stays.
    assert near == [[3], [3], [], [0, 1, 4], [3]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ops": None}, "lacks the array 'ops'"),
        ({"ops": np.zeros((3, 6), int)}, r"'ops' has shape \(3, 6\)"),
        ({"op_names": np.array(["input", "conv5x5"])}, "'conv5x5': "),
        ({"ops": np.full((3, 7), 5)}, "'ops' holds 5"),
        ({"adjacency": np.ones((3, 7, 7), int)}, "not strictly upper triangular"),
        ({"adjacency": np.zeros((3, 7, 7), int)}, "row 0: no path leads"),
        ({"val108": np.zeros(2)}, r"'val108' has shape \(2,\)"),
        ({"test108": np.zeros((3, 2))}, r"'test108' has shape \(3, 2\)"),
        ({"hash": np.zeros((3, 8), np.uint8)}, r"'hash' has shape \(3, 8\)"),
    ],
)
def test_malformed_tables_are_one_clear_error(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        open_pool("nas_bench_101", table=compact(tmp_path / "t.npz", **changes))


def test_unknown_options_are_one_clear_error(tmp_path):
    path = compact(tmp_path / "t.npz")
    with pytest.raises(ConfigError, match="'mid': did you mean 'mid_0'"):
        open_pool("nas_bench_101", table=path, encoding="mid")
    with pytest.raises(ConfigError, match="mean or one_run, got 'min'"):
        open_pool("nas_bench_101", table=path, label="min")
    with pytest.raises(DataError, match="'val108_runs' of single runs"):
        open_pool("nas_bench_101", table=path, label="one_run")
    with pytest.raises(DataError, match="neither a compact table"):
        open_pool("nas_bench_101", table=path.rename(tmp_path / "t.pkl"))


def test_the_real_cells_group_by_their_accuracy(shared):
    """Isomorphic cells were trained once: few values per class."""
    path = shared("data", "nas_bench_101", "nas_bench_101_subset500.npz")
    pool = open_pool("nas_bench_101", table=path)
    assert (len(pool), int(pool.features.sum())) == (500, 8002)
    values: dict[int, set] = {}
    for group, value in zip(pool.classes, pool.labels["search"], strict=True):
        values.setdefault(int(group), set()).add(float(value))
    assert len(values) == 292
    # Each of three runs at most, though one class alone has dozens of cells.
    assert max(map(len, values.values())) <= 3
    assert np.bincount(pool.classes).max() > 20
