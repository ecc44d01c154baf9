"""A network with its weights as one StableHLO file, checked before it appears."""

import hashlib
import importlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.export
import numpy as np

from zoo_jax.core.errors import ConfigError, ZooError
from zoo_jax.core.files import PathLike, atomic_write, write_json
from zoo_jax.core.tree import named_leaves
from zoo_jax.models import Model, get_entry

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def export_model(
    model: Model,
    path: PathLike,
    *,
    batch: int | None = None,
    platforms: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Writes a self-contained program that takes one array and runs the model in eval mode.

    The file is loaded again and compared with the model on random input before it appears;
    its description appears beside it as ``<path>.json``. To run it:
    ``jax.export.deserialize(bytearray(data)).call(x)``.

    Args:
      model: From `create_model`.
      path: The file to write.
      batch: Batch size; None keeps it open (a symbolic dimension ``b``).
      platforms: Of `PLATFORMS`; None means this machine's. This machine's is always among
        them, since the file is checked here.

    Returns:
      The description: shapes and dtypes of inputs and outputs, platforms, size, checksum,
      and the largest difference from the model over its largest output.

    Raises:
      ConfigError: for an unknown platform or a batch size below 1.
      ZooError: if flatbuffers is not installed, the network cannot be exported with an open
        batch size, or the program disagrees with the model.
      OSError: if the file cannot be written.
    """
    if batch is not None and batch < 1:
        raise ConfigError(f"the batch size must be at least 1, got {batch}")
    try:
        importlib.import_module("flatbuffers")  # what jax.export serialises with
    except ImportError:
        raise ZooError(
            'exporting needs the package flatbuffers: pip install "zoo-jax[export]"'
        ) from None
    platforms = _with_this_machine(platforms)
    size = get_entry(model.name).example[1:]
    if batch is None:
        shape = jax.export.symbolic_shape(", ".join(["b", *map(str, size)]))
    else:
        shape = (batch, *size)
    spec = jax.ShapeDtypeStruct(shape, np.float32)
    program = jax.jit(lambda x: model(x))  # the weights become constants of the program
    exported = _export(model.name, program, spec, platforms)
    data = bytes(exported.serialize())
    batches = (1, 3) if batch is None else (batch,)
    difference = max(_difference(model, data, (b, *size)) for b in batches)
    facts = {
        "model": model.name,
        "inputs": _describe(exported.in_avals),
        "outputs": _describe(exported.out_avals),
        "platforms": list(platforms),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "relative_difference": difference,
        "jax": jax.__version__,
        "calling_convention_version": exported.calling_convention_version,
    }
    with atomic_write(path, "wb") as f:
        f.write(data)
        # Inside the block: the program appears last, with its description beside it.
        write_json(f"{path}.json", facts)
    return facts


def _export(name: str, program: Any, spec: Any, platforms: Sequence[str]) -> Any:
    export = jax.export.export(program, platforms=platforms)
    if all(isinstance(size, int) for size in spec.shape):
        return export(spec)
    try:
        return export(spec)
    except (jax.errors.InconclusiveDimensionOperation, TypeError, ValueError) as error:
        # What code raises that computes with the batch size as with a number.
        raise ZooError(
            f"{name} cannot be exported with an open batch size, give a number:"
            f" {str(error).splitlines()[0]}"
        ) from error


def _with_this_machine(platforms: Sequence[str] | None) -> tuple[str, ...]:
    here = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    for platform in platforms or ():
        if platform not in PLATFORMS:
            raise ConfigError(
                f"unknown platform {platform!r}: choose from {', '.join(PLATFORMS)}"
            )
    return tuple(dict.fromkeys((*(platforms or ()), here)))


def _difference(model: Model, data: bytes, shape: tuple[int, ...]) -> float:
    """Largest difference of a serialised program from its model, over the largest output."""
    x = np.random.default_rng(0).random(shape, np.float32)
    want = named_leaves(model(x))
    got = named_leaves(jax.export.deserialize(bytearray(data)).call(x))
    differences = []
    for name in want:
        a, b = np.asarray(want[name], np.float64), np.asarray(got[name], np.float64)
        differences.append(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30))
    worst = float(np.max(differences))  # NaN if any is
    # Same weights, same machine: only the order of float32 sums may differ.
    if not worst <= 1e-4:
        raise ZooError(
            f"the exported program differs from {model.name} by {worst:.1e} of its largest"
            f" output at input {shape}: nothing was written"
        )
    return worst


def _describe(avals: Sequence[Any]) -> list[dict[str, Any]]:
    return [
        {
            "shape": [d if isinstance(d, int) else str(d) for d in aval.shape],
            "dtype": str(aval.dtype),
        }
        for aval in avals
    ]
