"""zoo-jax compress and decompress: what they print, write, refuse, and load as models."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import zoo_jax
from zoo_jax import cli, convert, models
from zoo_jax.core.files import write_json
from zoo_jax.core.tree import named_leaves
from zoo_jax.methods.deep_k_means import artefact
from zoo_jax.methods.deep_k_means.compress_file import compress_arrays, expand

NAME = "deep_k_means/digits_cnn"
SMALL = dict(widths=(4, 24), strides=(2, 2), num_classes=4)
PUBLISHED_SET = [f"{key}={value}" for key, value in SMALL.items()]
IMAGES = np.random.default_rng(0).uniform(size=(3, 28, 28, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return zoo_jax.create_model(NAME, seed=3, **SMALL)


@pytest.fixture
def arrays(model):
    """The network in its published layout."""
    return convert.invert(models.model_table(NAME, model.module), model.variables)


@pytest.fixture
def here(tmp_path, monkeypatch, arrays):
    """A folder with the network as w.npz."""
    monkeypatch.chdir(tmp_path)
    np.savez("w.npz", **arrays)
    return tmp_path


@pytest.fixture
def run(capsys, here):
    def call(*argv):
        code = cli.main([str(a) for a in argv])
        return code, *capsys.readouterr()

    return call


def same_bits(a, b):
    return (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())


def test_compress_prints_a_table_and_writes_a_file_of_that_size(run, here):
    code, out, err = run(
        *("compress", "w.npz", "-o", "w.zdkm", "--target-ratio", 3, "--json", "r.json")
    )
    assert (code, err) == (0, "")
    report = json.loads((here / "r.json").read_text())
    size = (here / "w.zdkm").stat().st_size
    assert report["bytes"] == size <= report["target_bytes"]
    assert report["ratio"] >= 3
    assert (report["input"], report["output"]) == ("w.npz", "w.zdkm")
    assert "torch layout (told by the names)" in out
    assert f"wrote w.zdkm: {size:,} bytes of {report['target_bytes']:,}" in out
    lines = {line.split()[0]: line.split() for line in out.splitlines()}
    assert [row["path"] for row in report["layers"]] == [
        "conv1.weight",
        "conv2.weight",
        "linear.weight",
    ]
    for row in report["layers"]:
        cells = lines[row["path"]]
        assert cells[1] == f"{row['weights']:,}"
        assert cells[2] == row["samples"]
        assert f"{row['bits_per_weight']:.3f}" in cells
        assert f"{row['relative_sse']:.2e}" in cells


def test_the_same_call_writes_the_same_bytes(run, here):
    for name in "ab":
        run("compress", "w.npz", "-o", name, "--target-bytes", 3000)
    assert (here / "a").read_bytes() == (here / "b").read_bytes()


@pytest.mark.parametrize("kind", ["npz", "safetensors", "pth"])
def test_decompress_gives_keys_shapes_and_dtypes_back(run, here, arrays, kind):
    arrays = arrays | {
        "brain.weight": np.ones((8, 16), ml_dtypes.bfloat16),
        "half.bias": np.arange(5, dtype=np.float16),
        "steps": np.array(7, np.int64),
    }
    if kind == "npz":
        del arrays["brain.weight"]
        np.savez("in.npz", **arrays)
    elif kind == "safetensors":
        data = safetensors.numpy.save(arrays, metadata={"format": "pt"})
        (here / "in.safetensors").write_bytes(data)
    else:
        torch = pytest.importorskip("torch")
        tensors = {
            k: torch.tensor(v.astype(np.float32)).bfloat16()
            if v.dtype == ml_dtypes.bfloat16
            else torch.tensor(v)
            for k, v in arrays.items()
        }
        torch.save({"state_dict": tensors, "epoch": 3}, "in.pth")
    assert run("compress", f"in.{kind}", "-o", "a", "--target-ratio", 3)[0] == 0
    code, out, err = run("decompress", "a", "-o", "back.safetensors", "--json", "d")
    assert (code, err) == (0, "")
    assert f"wrote back.safetensors: {len(arrays)} arrays" in out
    with safetensors.safe_open("back.safetensors", framework="np") as f:
        back = {key: f.get_tensor(key) for key in f.keys()}
        assert f.metadata() == ({"format": "pt"} if kind == "safetensors" else None)
    expected, _ = expand("a")
    assert sorted(back) == sorted(arrays)
    for key, array in arrays.items():
        assert (back[key].shape, back[key].dtype) == (array.shape, array.dtype)
        assert same_bits(back[key], expected[key])
        if not key.startswith(("conv", "linear.weight")):
            assert same_bits(back[key], array)
    assert (back["conv2.weight"] != arrays["conv2.weight"]).any()


def test_a_spec_decides_layer_by_layer(run, here):
    write_json("s.json", [{"path": "conv2.weight", "num_clusters": 7}])
    code, _, _ = run("compress", "w.npz", "-o", "a", "--spec", "s.json", "--json", "r")
    assert code == 0
    (row,) = json.loads((here / "r").read_text())["layers"]
    assert (row["samples"], row["num_clusters"]) == ("row", 7)
    rows = expand("a")[0]["conv2.weight"].reshape(-1, 3)
    assert len(np.unique(rows, axis=0)) == 7


# --- as models ------------------------------------------------------------------------


def logits(weights, **overrides):
    return np.asarray(zoo_jax.create_model(NAME, weights=weights, **overrides)(IMAGES))


def test_a_compressed_published_file_is_a_model(run, here):
    run("compress", "w.npz", "-o", "w.zdkm", "--target-ratio", 3)
    run("decompress", "w.zdkm", "-o", "back.safetensors")
    got = logits("w.zdkm", **SMALL)
    np.testing.assert_array_equal(got, logits("back.safetensors", **SMALL))
    assert not np.array_equal(got, logits("w.npz", **SMALL))
    assert sorted(p.name for p in here.iterdir()) == [
        "back.safetensors",
        "w.npz",
        "w.zdkm",
    ]


def write_run(model):
    from zoo_jax.train.checkpoint import Checkpointer

    variables = dict(model.variables)
    params = {"network": variables.pop("params")}
    state = {
        "step": np.int32(20),
        "params": params,
        "model_state": {"network": variables},
    }
    with Checkpointer("run/checkpoints") as checkpointer:
        checkpointer.save(20, state, iterator={}, meta={})
    section = {"name": "digits_cnn", **SMALL}
    write_json("run/config.json", {"task": "deep_k_means", "model": section})


@pytest.mark.parametrize("kind", ["converted", "run"])
def test_our_own_weights_come_back_as_our_own(run, model, kind):
    if kind == "run":
        write_run(model)
    else:
        setting = [a for pair in PUBLISHED_SET for a in ("--set", pair)]
        code, _, _ = run("convert", "--model", NAME, *setting, "w.npz", "-o", kind)
        assert code == 0
    code, out, _ = run("compress", kind, "-o", "a", "--target-ratio", 3)
    assert code == 0
    assert "params/conv2/kernel" in out
    assert "flax layout" in out
    _, out, _ = run("decompress", "a", "-o", "b.safetensors")
    assert f"arrays of {NAME}," in out
    # Builder arguments come with the file.
    got = logits("a")
    np.testing.assert_array_equal(got, logits("b.safetensors"))
    back = zoo_jax.create_model(NAME, weights="b.safetensors").variables
    for key, leaf in named_leaves(dict(model.variables)).items():
        same = same_bits(np.asarray(named_leaves(back)[key]), np.asarray(leaf))
        if not key.endswith("kernel"):
            assert same, key
    assert (
        back["params"]["conv2"]["kernel"]
        != model.variables["params"]["conv2"]["kernel"]
    ).any()
    # What is compressed may be compressed again.
    assert run("compress", "a", "-o", "c", "--target-ratio", 4)[0] == 0
    assert logits("c").shape == got.shape


def test_the_file_of_a_training_procedure_is_a_model(here, model):
    variables = dict(model.variables)
    params = variables.pop("params")
    metadata = {
        "method": "deep_k_means",
        "model": {"name": "digits_cnn", **SMALL},
    }
    tree = {"params": {"network": params}, "model_state": {"network": variables}}
    artefact.save_compressed("p.zdkm", tree, {}, metadata=metadata)
    np.testing.assert_array_equal(logits("p.zdkm"), model(IMAGES))
    other = "deep_k_means/lenet_caffe_5"
    with pytest.raises(zoo_jax.core.errors.WeightsError, match="digits_cnn"):
        zoo_jax.create_model(other, weights="p.zdkm")


def test_the_first_bytes_are_those_of_the_format():
    assert models.COMPRESSED == artefact.MAGIC


@pytest.mark.torch
def test_a_published_network_shrinks_ten_times(run, here, shared):
    pytest.importorskip("torch")
    source = shared("weights", "cifar10_resnet", "resnet20-12fca82f.th")
    code, _, _ = run(
        *("compress", source, "-o", "r.zdkm", "--target-ratio", 10, "--json", "r.json")
    )
    assert code == 0
    size = (here / "r.zdkm").stat().st_size
    assert 10 * size <= source.stat().st_size
    arrays = convert.read_weights(source)
    dense = here / "dense.safetensors"
    dense.write_bytes(safetensors.numpy.save(arrays))
    assert 10 * size <= dense.stat().st_size <= 10.5 * size
    back, _ = expand("r.zdkm")
    assert sorted(back) == sorted(arrays)
    report = json.loads((here / "r.json").read_text())
    errors = []
    for row in report["layers"]:
        old, new = (a[row["path"]].astype(np.float64) for a in (arrays, back))
        errors.append(np.square(new - old).sum() / np.square(old).sum())
        assert row["relative_sse"] == pytest.approx(errors[-1], rel=1e-6)
    assert all(same_bits(back[n], arrays[n]) for n in arrays if arrays[n].ndim < 2)
    # As many scalars everywhere, in no fewer bytes, lose more.
    uniform = compress_arrays(
        arrays,
        here / "u.zdkm",
        spec=[
            {"path": "*.weight", "num_clusters": 10, "samples": "scalar"}
            if kind == "kernel"
            else {"path": kind}
            for kind in ("*bn*", "kernel")
        ],
    )
    assert uniform["bytes"] > 0.95 * size
    assert np.mean(errors) < 0.75 * uniform["relative_sse"]


def test_a_file_without_convolutions_is_compressed_by_its_dense_layers(run, here):
    weight = np.random.default_rng(1).normal(size=(30, 40)).astype(np.float32)
    np.savez("d.npz", **{"linear.weight": weight})
    assert run("compress", "d.npz", "-o", "d.zdkm", "--target-ratio", 4)[0] == 0
    assert expand("d.zdkm")[0]["linear.weight"].shape == (30, 40)


def test_integers_and_half_precision_survive_beside_kernels(run, here, arrays):
    given = {k: v.astype(np.float16) for k, v in arrays.items()} | {
        "q.weight": np.arange(-300, 300, dtype=np.int16).reshape(20, 30),
        "mask.weight": np.eye(9, dtype=bool),
    }
    np.savez("h.npz", **given)
    code, out, _ = run("compress", "h.npz", "-o", "h.zdkm", "--target-ratio", 2)
    assert code == 0
    assert "q.weight" not in out
    back, _ = expand("h.zdkm")
    for key, array in given.items():
        assert (back[key].dtype, back[key].shape) == (array.dtype, array.shape)
        if not key.startswith(("conv", "linear.weight")):
            assert same_bits(back[key], array)


# --- mistakes -------------------------------------------------------------------------


@pytest.fixture
def broken(here, arrays):
    """Files that cannot be used."""
    np.savez("nan.npz", **arrays | {"conv1.weight": arrays["conv1.weight"] * np.nan})
    np.savez("integers.npz", **{"a.weight": np.arange(6).reshape(2, 3)})
    (here / "folder").mkdir()
    (here / "text").write_text("hello")
    (here / "s.json").write_text("[{")
    write_json("dict.json", {"path": "x"})
    write_json("large.json", [{"path": "conv1.weight", "num_clusters": 10**6}])
    compress_arrays(arrays, "good.zdkm", target_ratio=3)
    good = (here / "good.zdkm").read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    (here / "flipped.zdkm").write_bytes(flipped)
    (here / "cut.zdkm").write_bytes(good[:-9])
    (here / "newer.zdkm").write_bytes(good[:8] + b"\x09" + good[9:])
    flipped = bytearray(good)
    flipped[len(artefact.MAGIC) + 6] ^= 1  # in the table of sections
    (here / "header.zdkm").write_bytes(flipped)
    (here / "head.zdkm").write_bytes(good[:40])
    (here / "long.zdkm").write_bytes(good + b"!")
    (here / "empty.zdkm").write_bytes(b"")
    half = {k: v.astype(np.float16) for k, v in arrays.items()}
    np.savez("half_nan.npz", **half | {"conv2.weight": half["conv2.weight"] * np.nan})
    np.savez("bias_nan.npz", **arrays | {"linear.bias": np.full(4, np.nan, "f4")})
    np.savez("inf.npz", **arrays | {"conv1.weight": arrays["conv1.weight"] + np.inf})
    np.savez("large.npz", **arrays | {"conv2.weight": arrays["conv2.weight"] * 1e7})
    np.savez("double.npz", **{"a.weight": np.ones((4, 5))})
    np.savez("dense.npz", **{"linear.weight": arrays["linear.weight"]})
    np.savez("norms.npz", **{"bn1.weight": np.ones(9, "f4")})
    np.savez("mixed.npz", **arrays | {"q.weight": np.ones((20, 30), np.int8)})
    (here / "short.npz").write_bytes((here / "w.npz").read_bytes()[:-30])
    scalars = {"path": "linear.weight", "samples": "scalar"}
    write_json("more.json", [scalars | {"num_clusters": 97}])  # 4 x 24 weights
    write_json("core.json", [scalars | {"num_clusters": 40, "core": 0.75}])
    write_json("half_k.json", [scalars | {"num_clusters": 2.5}])
    write_json("integer.json", [{"path": "q.weight", "num_clusters": 3}])
    write_json("unknown.json", [{"path": "conv3.weight", "num_clusters": 3}])
    tree = {"a": arrays["conv1.weight"]}
    for name, metadata in {
        "facts": {models.FORMAT: {"model": 3}},
        "file": {"file": {"a": 3}},
        "files": {"file": ["a"]},
        "odd": {"method": "deep_k_means", "model": {"name": "digit_cnn"}},
    }.items():
        artefact.save_compressed(f"{name}.zdkm", tree, {}, metadata=metadata)


RATIO = ["--target-ratio", "3"]
MISTAKES = [
    (["compress", "w.npz", "-o", "o"], "one of the arguments --target-ratio"),
    (
        ["compress", "w.npz", "-o", "o", *RATIO, "--target-bytes", "9"],
        "not allowed with",
    ),
    (["compress", "w.npz", "-o", "o", *RATIO, "--spec", "large.json"], "not allowed"),
    (["compress", "w.npz", *RATIO], "-o/--output"),
    (["compress", "w.npz", "-o", "o", "--target-ratio", "ten"], "'ten'"),
    (["compress", "w.npz", "-o", "o", "--target-ratio", "-2"], "above 0, got -2"),
    (["compress", "w.npz", "-o", "o", "--target-ratio", "500"], "cannot be reached"),
    (["compress", "w.npz", "-o", "w.npz", *RATIO], "is the input itself"),
    (["compress", "w.npz", "-o", "folder", *RATIO], "folder: is a folder"),
    (["compress", "w.npz", "-o", "text/o", *RATIO], "text"),
    (["compress", "none.npz", "-o", "o", *RATIO], "none.npz: there is no such"),
    (["compress", "folder", "-o", "o", *RATIO], "folder: holds neither"),
    (["compress", "text", "-o", "o", *RATIO], "text: is not a weights file"),
    (["compress", "nan.npz", "-o", "o", *RATIO], "nan.npz: conv1.weight holds NaN"),
    (["compress", "integers.npz", "-o", "o", *RATIO], "integers.npz: holds no kernels"),
    (["compress", "w.npz", "-o", "o", *RATIO, "--layout", "x"], "unknown layout 'x'"),
    (["compress", "w.npz", "-o", "o", *RATIO, "--codebook-dtype", "x"], "got 'x'"),
    (["compress", "w.npz", "-o", "o", "--spec", "s.json"], "s.json: is no JSON file"),
    (["compress", "w.npz", "-o", "o", "--spec", "no.json"], "no.json: No such file"),
    (["compress", "w.npz", "-o", "o", "--spec", "dict.json"], "must hold a list"),
    (["compress", "w.npz", "-o", "o", "--spec", "large.json"], "num_clusters=1000000"),
    (["compress", "w.npz", "-o", "o", "--spec", "s.json", "--no-dense"], "--no-dense"),
    (["compress", "w.npz", "-o", "o", "--spec", "more.json"], "at most 96 clusters"),
    (["compress", "w.npz", "-o", "o", "--spec", "core.json"], "at most 25 clusters"),
    (["compress", "w.npz", "-o", "o", "--spec", "half_k.json"], "whole number"),
    (["compress", "w.npz", "-o", "o", "--spec", "unknown.json"], "'conv1.weight'"),
    (["compress", "mixed.npz", "-o", "o", "--spec", "integer.json"], "is no kernel"),
    (["compress", "w.npz", "-o", "o", "--target-bytes", "9"], "the smallest has"),
    (["compress", "w.npz", "-o", "o", "--target-bytes", "0"], "1 byte or more"),
    (["compress", "w.npz", "-o", "o", "--target-ratio", "nan"], "above 0, got nan"),
    (["compress", "half_nan.npz", "-o", "o", *RATIO], "conv2.weight holds NaN"),
    (["compress", "bias_nan.npz", "-o", "o", *RATIO], "linear.bias holds NaN"),
    (["compress", "inf.npz", "-o", "o", *RATIO], "conv1.weight holds values that are"),
    (
        ["compress", "large.npz", "-o", "o", *RATIO, "--codebook-dtype", "float16"],
        "does not fit into float16: choose codebook_dtype='float32'",
    ),
    (["compress", "double.npz", "-o", "o", *RATIO], "double.npz: holds no kernels"),
    (["compress", "norms.npz", "-o", "o", *RATIO], "norms.npz: holds no kernels"),
    (["compress", "dense.npz", "-o", "o", *RATIO, "--no-dense"], "no convolution ke"),
    (["compress", "short.npz", "-o", "o", *RATIO], "short.npz: is no intact .npz"),
    (["compress", "flipped.zdkm", "-o", "o", *RATIO], "flipped.zdkm: damaged section"),
    (["compress", "cut.zdkm", "-o", "o", *RATIO], "cut.zdkm: truncated"),
    (["compress", "newer.zdkm", "-o", "o", *RATIO], "newer.zdkm: format version 9"),
    (["compress", "empty.zdkm", "-o", "o", *RATIO], "empty.zdkm: is not a weights"),
    (["decompress", "header.zdkm", "-o", "o"], "header.zdkm: damaged header"),
    (["decompress", "head.zdkm", "-o", "o"], "head.zdkm: truncated: 40 bytes"),
    (["decompress", "long.zdkm", "-o", "o"], "long.zdkm: truncated or extended"),
    (["decompress", "empty.zdkm", "-o", "o"], "empty.zdkm: is no compressed network"),
    (["decompress", "good.zdkm", "-o", "good.zdkm"], "is the input itself"),
    (["decompress", "good.zdkm", "-o", "folder"], "folder: is a folder"),
    (["decompress", "folder", "-o", "o"], "folder: is a folder"),
    (["decompress", "none.zdkm", "-o", "o"], "none.zdkm: there is no such"),
    (["decompress", "w.npz", "-o", "o"], "w.npz: is no compressed network"),
    (["decompress", "flipped.zdkm", "-o", "o"], "flipped.zdkm: damaged section"),
    (["decompress", "cut.zdkm", "-o", "o"], "cut.zdkm: truncated"),
    (["decompress", "newer.zdkm", "-o", "o"], "newer.zdkm: format version 9"),
    (["decompress", "facts.zdkm", "-o", "o"], "facts.zdkm: was not written by zoo-jax"),
    (["decompress", "file.zdkm", "-o", "o"], "file.zdkm: holds metadata that are no"),
    (["decompress", "files.zdkm", "-o", "o"], "files.zdkm: holds metadata that are no"),
    (["decompress", "odd.zdkm", "-o", "o"], "did you mean 'deep_k_means/digits_cnn'"),
]


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize(("argv", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(run, here, argv, message):
    before = {p.name: p.stat().st_mtime_ns for p in here.iterdir()}
    code, _, err = run(*argv)
    assert code == 2
    assert err.startswith("zoo-jax: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert {p.name: p.stat().st_mtime_ns for p in here.iterdir()} == before
