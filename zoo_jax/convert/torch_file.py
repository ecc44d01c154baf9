"""Reads PyTorch files; the only module that imports PyTorch, and only when called.

Two fences: the names that a file's pickle asks for are compared with a short list before
PyTorch sees it, and PyTorch reads with ``weights_only=True``, never without.
"""

import pathlib
import pickletools
import zipfile
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from zoo_jax.convert.nesting import unnest
from zoo_jax.convert.read import require_expansion
from zoo_jax.core.errors import WeightsError

# What tensors, parameters and plain containers are pickled with.
_ALLOWED = frozenset(
    {
        "_codecs encode",
        "collections OrderedDict",
        "collections Counter",  # milestones of learning-rate schedules
        "collections defaultdict",  # state of optimisers
        "__builtin__ dict",
        "__builtin__ set",
        "builtins dict",
        "builtins set",
        "torch Size",
        "torch Tensor",
        "torch device",
        "torch._utils _rebuild_parameter",
        "torch._utils _rebuild_tensor",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_tensor_v3",
        "torch.nn.parameter Parameter",
        "torch.storage UntypedStorage",
    }
    | {
        f"torch {kind}Storage"
        for kind in "Double Float Half BFloat16 Long Int Short Char Byte Bool".split()
    }
    | {
        f"torch {kind}"
        for kind in "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool"
        " uint16 uint32 uint64".split()
    }
)
# A pickle can ask for a hundred bytes of memory per byte; tensors are described in about 200.
MAX_PICKLE = 2 * 2**20  # bytes of one pickle, numbers of the tensors not counted
_LEGACY_PICKLES = 5  # magic number, protocol, system, objects, storage keys
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def read(
    path: pathlib.Path,
) -> tuple[dict[str, np.ndarray], tuple[str, ...], tuple[str, ...]]:
    """Reads the weights of a torch file of the zip or of the older format.

    Nested dictionaries are joined with dots. Entries that are neither tensors nor
    dictionaries (epoch numbers, settings) are left out and named.

    Returns:
      ``({key: array}, names of what was left out, keys that are bfloat16 in the file)``.

    Raises:
      WeightsError: if the file is damaged or unsafe, holds no weights, or PyTorch is absent.
    """
    _require_harmless(path)
    try:
        import torch
    except ImportError:
        raise WeightsError(
            f'{path}: is a torch file; to read it: pip install "zoo-jax[torch]", or store'
            " its state_dict as .safetensors or .npz"
        ) from None
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # a damaged file makes torch raise almost anything
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise WeightsError(
            f"{path}: PyTorch cannot read it safely: {reason}; fetch it again, or store its"
            " state_dict alone"
        ) from None
    tensors, skipped = {}, []
    for key, value in unnest(content):
        if isinstance(value, torch.Tensor):
            tensors[key] = value
        else:
            skipped.append(key)
    if not tensors:
        inside = (
            ", ".join(map(str, list(content)[:20]))
            if isinstance(content, Mapping)
            else type(content).__name__
        )
        raise WeightsError(f"{path}: holds no tensors that could be weights: {inside}")
    for key, tensor in tensors.items():
        _require_plain(path, key, tensor)
    # A tensor of stride 0 repeats one number: few bytes in the file, many in memory.
    require_expansion(path, sum(t.numel() * t.element_size() for t in tensors.values()))
    widened = tuple(k for k, t in tensors.items() if t.dtype == torch.bfloat16)
    return {k: _to_numpy(torch, t) for k, t in tensors.items()}, tuple(skipped), widened


def _require_plain(path: pathlib.Path, key: str, tensor: Any) -> None:
    kind = str(tensor.dtype).removeprefix("torch.")
    if (
        str(tensor.layout) != "torch.strided"
        or tensor.device.type != "cpu"
        or tensor.is_quantized
        or tensor.is_complex()
        or kind.startswith(("float8", "float4"))
    ):
        raise WeightsError(
            f"{path}: {key} is a {tensor.layout} tensor of {kind} on {tensor.device}:"
            " only dense real tensors are read"
        )


def _to_numpy(torch: Any, tensor: Any) -> np.ndarray:
    if (
        tensor.dtype == torch.bfloat16
    ):  # numpy has none; float32 holds every value of it
        tensor = tensor.float()
    # The strides of the file are kept by PyTorch and resolved here.
    return np.asarray(tensor.detach().resolve_conj().resolve_neg().numpy(), order="C")


def _require_harmless(path: pathlib.Path) -> None:
    """Refuses a file whose pickle names anything that weights do not need.

    Reads opcodes only: nothing in the file is executed. It makes the refusal independent
    of the PyTorch version, names the culprit, and keeps out calls that PyTorch allows but
    that only serve to fill memory, such as ``bytearray(10**11)``.
    """
    try:
        with path.open("rb") as f:  # as torch does; a zip may also be glued to a pickle
            zipped = f.read(4) == b"PK\x03\x04"
        if zipped:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
                if any(n.endswith("/constants.pkl") for n in names):
                    raise WeightsError(
                        f"{path}: is a TorchScript archive, which holds code; store the"
                        " state_dict of the model instead"
                    )
                if any(m.compress_type for m in archive.infolist()):
                    raise WeightsError(
                        f"{path}: a torch file is not compressed: refused"
                    )
                for name in names:
                    if name.endswith("/data.pkl"):
                        with archive.open(name) as f:
                            _scan(path, f)
            return
        with path.open("rb") as f:
            for index in range(_LEGACY_PICKLES):
                first = _scan(path, f)
                if index == 0 and first != _LEGACY_MAGIC:
                    raise WeightsError(
                        f"{path}: is a Python pickle and no torch file: refused, since it"
                        " could run code; store the arrays with numpy.savez"
                    )
    except (ValueError, zipfile.BadZipFile) as error:  # the former is of pickletools
        raise WeightsError(
            f"{path}: is no intact torch file: {error}; fetch it again"
        ) from None


def _scan(path: pathlib.Path, f: IO[bytes]) -> Any:
    """Walks one pickle; returns the argument of its second opcode (the first is PROTO)."""
    second, start = None, f.tell()
    for index, (opcode, argument, position) in enumerate(pickletools.genops(f)):
        if (position or 0) - start > MAX_PICKLE:
            raise WeightsError(
                f"{path}: describes its content in more than {MAX_PICKLE:,} bytes: refused;"
                " store its state_dict alone"
            )
        if index == 1:
            second = argument
        named = opcode.name in ("GLOBAL", "INST")
        if named and argument not in _ALLOWED:
            culprit = argument.replace(" ", ".")
        elif opcode.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            culprit = f"an object by opcode {opcode.name}"
        else:
            continue
        raise WeightsError(
            f"{path}: asks for {culprit}, which weights do not need and which could run"
            " code: refused; store its state_dict alone"
        )
    return second
