"""Torch files: hostile ones are refused without torch, honest ones are read right."""

import builtins
import collections
import os
import pickle
import sys
import zipfile

import numpy as np
import pytest
from test_read import Marker, refuse, zip_file

from zoo_jax.convert import open_weights, read_weights
from zoo_jax.convert.torch_file import _LEGACY_MAGIC
from zoo_jax.core.errors import WeightsError

with_torch = pytest.mark.torch
formats = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(path, content, zipped):
    """A file that torch would open, with an arbitrary pickle inside."""
    if zipped:
        return zip_file(path, [("archive/data.pkl", pickle.dumps(content, 2))])
    parts = (_LEGACY_MAGIC, 1001, {"little_endian": True}, content, [])
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in parts))
    return path


@formats
@pytest.mark.parametrize("suffix", ["pth", "tar", "h5", "npz"])
def test_a_pickle_that_calls_something_is_refused_and_not_run(tmp_path, zipped, suffix):
    content = {"state_dict": Marker(tmp_path / "ran")}
    path = hostile(tmp_path / f"w.{suffix}", content, zipped)
    refuse(path, r"asks for posix.mkdir|asks for nt.mkdir")
    assert not (tmp_path / "ran").exists()


@formats
@pytest.mark.parametrize(
    ("content", "culprit"),
    [
        (Call(bytearray, 10**11), "bytearray"),  # torch allows it: a memory bomb
        (Call(eval, "1"), "eval"),
        (Call(getattr, "x", "upper"), "getattr"),
        (Call(os.system, "true"), "system"),
        (collections.UserDict(a=1), "UserDict"),
        ([collections.OrderedDict(a=Call(builtins.open, "x"))], "open"),
    ],
)
def test_the_culprit_of_a_hostile_pickle_is_named(tmp_path, zipped, content, culprit):
    refuse(hostile(tmp_path / "w.pt", content, zipped), culprit)


@formats
def test_a_pickle_that_only_fills_memory_is_refused(tmp_path, zipped):
    content = [f"{i:09000}" for i in range(300)]
    path = hostile(tmp_path / "w.pt", content, zipped)
    refuse(path, "describes its content in more than 2,097,152 bytes")


def test_a_zip_glued_to_a_pickle_hides_nothing(tmp_path):
    path = hostile(tmp_path / "w.pt", Marker(tmp_path / "ran"), False)
    good = hostile(tmp_path / "good.pt", {"a": 1}, True)
    path.write_bytes(path.read_bytes() + good.read_bytes())
    assert zipfile.is_zipfile(path)
    refuse(path, "mkdir")


def test_names_put_together_on_the_stack_are_refused(tmp_path):
    path = tmp_path / "w.pt"
    zip_file(path, [("w/data.pkl", pickle.dumps(Call(os.getpid), 4))])
    refuse(path, "STACK_GLOBAL")


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_plain_pickle_is_no_torch_file(tmp_path, protocol):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"a": [1.0, 2.0]}, protocol))
    refuse(tmp_path / "w.pkl", "is a Python pickle and no torch file")


def test_a_packed_torch_file_is_refused(tmp_path):
    members = [("w/data.pkl", pickle.dumps({}, 2)), ("w/data/0", bytes(10**7))]
    path = zip_file(tmp_path / "w.pt", members, zipfile.ZIP_DEFLATED)
    refuse(path, "not compressed")


def test_an_archive_with_code_is_refused(tmp_path):
    members = [("w/data.pkl", pickle.dumps({}, 2)), ("w/constants.pkl", b"")]
    refuse(zip_file(tmp_path / "w.pt", members), "TorchScript")


def test_a_cut_pickle_is_refused(tmp_path):
    path = hostile(tmp_path / "w.pt", {"a": list(range(99))}, False)
    path.write_bytes(path.read_bytes()[:150])
    refuse(path, "no intact torch file")


def test_without_torch_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = hostile(tmp_path / "w.pt", {"a": 1}, True)
    with pytest.raises(WeightsError, match=r'pip install "zoo-jax\[torch\]"'):
        read_weights(path)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def save(torch, content, path, zipped):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@with_torch
@formats
def test_views_of_any_stride_come_back_in_order(torch, tmp_path, zipped):
    base = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    tensors = {
        "plain": base,
        "permuted": base.permute(3, 0, 2, 1),
        "channels_last": base.to(memory_format=torch.channels_last),
        "sliced": base[:, 1:, ::2, 1],
        "tied": base,
        "repeated": torch.ones(1, 3).expand(4, 3),
        "scalar": torch.tensor(7),
    }
    got = read_weights(save(torch, tensors, tmp_path / "w.pth", zipped))
    assert list(got) == list(tensors)
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(got[key], tensor.numpy())
        assert got[key].flags.c_contiguous
        assert got[key].shape == tuple(tensor.shape)


@with_torch
@formats
def test_dtypes_are_kept_and_bfloat16_is_widened(torch, tmp_path, zipped):
    kinds = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split()
    tensors = {k: torch.tensor([0, 1, 1], dtype=getattr(torch, k)) for k in kinds}
    got = read_weights(save(torch, tensors, tmp_path / "w.pth", zipped))
    assert {k: str(v.dtype) for k, v in got.items()} == {
        k: "float32" if k == "bfloat16" else k for k in kinds
    }
    for array in got.values():
        np.testing.assert_array_equal(array, [0, 1, 1])


@with_torch
@formats
@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": {"state_dict": s}, "best": 0.5},
        lambda s: {"params": {"wrong": 1}, "params_ema": s},
    ],
)
def test_the_state_of_a_training_checkpoint_is_found(torch, tmp_path, zipped, wrap):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    tx = torch.optim.Adam(net.parameters())
    net(torch.zeros(1, 3, 8, 8)).sum().backward()
    tx.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(tx, [1, 2])
    content = wrap(net.state_dict())
    if "epoch" in content:
        content |= {"optimizer": tx.state_dict(), "schedule": schedule.state_dict()}
    got = open_weights(save(torch, content, tmp_path / "w.pth.tar", zipped))
    assert got.skipped == ()
    assert list(got.arrays) == list(net.state_dict())
    for key, tensor in net.state_dict().items():
        np.testing.assert_array_equal(got.arrays[key], tensor.numpy())


@with_torch
def test_parameters_nested_parts_and_other_entries(torch, tmp_path):
    inner = {"weight": torch.nn.Parameter(torch.ones(2)), "steps": 3, "name": "x"}
    content = {"encoder": inner, "decoder": {"weight": torch.zeros(3)}, "none": None}
    got = open_weights(save(torch, content, tmp_path / "w.pt", True))
    assert list(got.arrays) == ["encoder.weight", "decoder.weight"]
    assert got.skipped == ("encoder.steps", "encoder.name", "none")


@with_torch
def test_a_file_without_tensors_says_what_it_holds(torch, tmp_path):
    path = save(torch, {"epoch": 3, "lr": 0.1}, tmp_path / "w.pt", True)
    refuse(path, "holds no tensors that could be weights: epoch, lr")


@with_torch
@formats
def test_a_tensor_that_repeats_one_number_is_no_memory_bomb(torch, tmp_path, zipped):
    bomb = {"a": torch.zeros(1).expand(2**40)}
    refuse(save(torch, bomb, tmp_path / "w.pt", zipped), "more than 100 times its size")


@with_torch
@pytest.mark.parametrize("kind", ["sparse", "complex", "meta"])
def test_tensors_that_are_not_dense_and_real_are_refused(torch, tmp_path, kind):
    tensor = {
        "sparse": lambda: torch.eye(3).to_sparse(),
        "complex": lambda: torch.zeros(3, dtype=torch.complex64),
        "meta": lambda: torch.zeros(3, device="meta"),
    }[kind]()
    refuse(save(torch, {"a": tensor}, tmp_path / "w.pt", True), "refused|only dense")


@with_torch
@formats
@pytest.mark.parametrize("keep", [0.3, 0.8, 0.99])
def test_a_truncated_torch_file_is_refused(torch, tmp_path, zipped, keep):
    path = save(torch, {"a": torch.arange(999.0)}, tmp_path / "w.pt", zipped)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    refuse(path, "no intact|cannot read it safely|overlap")


@with_torch
def test_a_storage_that_lies_about_its_size_is_refused(torch, tmp_path):
    path = save(torch, {"a": torch.arange(1000.0)}, tmp_path / "w.pt", False)
    data = path.read_bytes()
    lie = data.replace(b"M\xe8\x03", b"M\xff\xff", 1)  # BININT2 1000 -> 65535
    assert lie != data
    path.write_bytes(lie)
    refuse(path, "cannot read it safely")


@with_torch
def test_published_resnet_has_its_keys_and_shapes(torch, shared):
    got = open_weights(shared("weights", "cifar10_resnet", "resnet20-12fca82f.th"))
    blocks = [f"module.layer{g}.{b}" for g in (1, 2, 3) for b in (0, 1, 2)]
    norm = ("weight", "bias", "running_mean", "running_var")
    keys = {"module.conv1.weight", "module.linear.weight", "module.linear.bias"}
    keys |= {f"module.bn1.{n}" for n in norm}
    keys |= {f"{b}.conv{i}.weight" for b in blocks for i in (1, 2)}
    keys |= {f"{b}.bn{i}.{n}" for b in blocks for i in (1, 2) for n in norm}
    assert set(got.arrays) == keys
    assert got.arrays["module.conv1.weight"].shape == (16, 3, 3, 3)
    assert got.arrays["module.layer2.0.conv1.weight"].shape == (32, 16, 3, 3)
    assert got.arrays["module.linear.weight"].shape == (10, 64)
    assert all(a.dtype == np.float32 for a in got.arrays.values())
    assert got.skipped == ()


@with_torch
@pytest.mark.parametrize("name", ["DnCNN", "SSAID", "USAID"])
def test_published_torch_and_numpy_files_are_equal(torch, shared, name):
    ours = read_weights(shared("weights", "u_said", f"{name}.pth"))
    theirs = read_weights(shared("weights", "u_said", f"{name}.npz"))
    assert set(ours) == set(theirs)
    for key in theirs:
        np.testing.assert_array_equal(ours[key], theirs[key])
