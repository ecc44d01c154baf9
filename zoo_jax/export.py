"""A network with its weights as one file for other programs, checked before it appears."""

import hashlib
import importlib
import importlib.metadata
import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.export
import numpy as np

from zoo_jax.core.errors import ConfigError, ZooError, closest
from zoo_jax.core.files import PathLike, atomic_write, write_json
from zoo_jax.core.forms import Choice, forms
from zoo_jax.core.tree import named_leaves
from zoo_jax.models import Model, get_entry

Format = Literal["stablehlo", "onnx"]
FORMATS: tuple[Format, ...] = ("stablehlo", "onnx")
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

# Largest difference from the model over its largest output. The same compiler on the same machine
# only sums in another order; another runtime also computes variances and roots differently,
# which normalisation by the image's own statistics amplifies.
_TOLERANCE = {"stablehlo": 1e-4, "onnx": 1e-3}


def export_model(
    model: Model,
    path: PathLike,
    *,
    format: Format | None = None,
    batch: int | None = None,
    size: tuple[int, int] | None = None,
    platforms: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Writes a self-contained program that takes one array and runs the model in eval mode.

    The file is loaded again and compared with the model on random input before it appears;
    its description appears beside it as ``<path>.json``. To run a StableHLO file:
    ``jax.export.deserialize(bytearray(data)).call(x)``; an ONNX file runs in any ONNX runtime.

    Args:
      model: From `create_model`.
      path: The file to write.
      format: Of `FORMATS`; None means by the suffix: ONNX for ``.onnx``, else StableHLO.
      batch: Batch size; None keeps it open (a symbolic dimension ``b``).
      size: Height and width. None keeps them open in StableHLO for networks that say what sizes
        they take (`multiple` and `minimum` of the module): dimensions ``32*h`` and ``32*w``
        where the multiple is 32. Other networks, and ONNX, get the size that
        `zoo_jax.list_models` names.
      platforms: Of `PLATFORMS`, for StableHLO; None means this machine's. This machine's is
        always among them, since the file is checked here.

    Returns:
      The description: shapes and dtypes of inputs and outputs, format, size, checksum, and
      the largest difference from the model over its largest output.

    Raises:
      ConfigError: for an unknown format or platform, a number below 1, or a size that the network
        cannot take.
      ZooError: if a package is missing, the network cannot be exported with what is to be kept
        open, or the program disagrees with the model.
      OSError: if the file cannot be written.
    """
    if format is None:
        format = "onnx" if pathlib.Path(path).suffix.lower() == ".onnx" else "stablehlo"
    if format not in FORMATS:
        raise ConfigError(f"unknown format {format!r}: {closest(format, FORMATS)}")
    for name, numbers in (("batch size", (batch,)), ("size", size or ())):
        for number in numbers:
            if number is not None and number < 1:
                raise ConfigError(f"the {name} must be at least 1, got {number}")
    if format == "onnx" and platforms is not None:
        raise ConfigError("platforms are for StableHLO: an ONNX file has none")
    shape = _shape(model, batch, size, open_sizes=format == "stablehlo")
    write = _to_onnx if format == "onnx" else _to_stablehlo
    program = write(model, shape.symbolic, platforms)
    difference = max(
        _difference(model, program.run, x, _TOLERANCE[format]) for x in shape.trials
    )
    facts = {
        "model": model.name,
        "format": format,
        **program.facts,
        "bytes": len(program.data),
        "sha256": hashlib.sha256(program.data).hexdigest(),
        "relative_difference": difference,
        "jax": jax.__version__,
    }
    with atomic_write(path, "wb") as f:
        f.write(program.data)
        # Inside the block: the program appears last, with its description beside it.
        write_json(f"{path}.json", facts)
    return facts


class _Program(NamedTuple):
    data: bytes
    run: Callable[[np.ndarray], Any]  # the program out of `data`
    facts: dict[str, Any]


class _Shape(NamedTuple):
    symbolic: tuple[Any, ...]  # of the input: numbers and symbolic dimensions
    trials: list[tuple[int, ...]]  # shapes to compare at


def _shape(
    model: Model, batch: int | None, size: tuple[int, int] | None, *, open_sizes: bool
) -> _Shape:
    example = get_entry(model.name).example[1:]
    multiple = getattr(model.module, "multiple", None)
    if size is not None:
        if len(example) != 3:
            raise ConfigError(f"{model.name} takes no images: leave out the size")
        example = (*size, example[-1])
    texts, limits, others = [*map(str, example)], [], [example]
    if size is None and open_sizes and multiple is not None:
        least = -(-model.module.minimum // multiple)
        factor = "" if multiple == 1 else f"{multiple}*"
        texts[:2] = [f"{factor}h", f"{factor}w"]
        limits = [f"h >= {least}", f"w >= {least}"]
        # The least height, and a width that differs from it.
        others = [(least * multiple, (least + 1) * multiple, example[-1])]
    texts.insert(0, "b" if batch is None else str(batch))
    symbolic = jax.export.symbolic_shape(", ".join(texts), constraints=limits)
    batches = (1, 3) if batch is None else (batch,)
    return _Shape(symbolic, [(b, *other) for b in batches for other in others])


def _apply(model: Model) -> Callable[[Any], Any]:
    """The model in eval mode as a new function, since compiled ones keep their forms.

    Its weights become constants of the program.
    """
    return lambda x: model.module.apply(model.variables, x, train=False)


def _to_stablehlo(
    model: Model, shape: tuple[Any, ...], platforms: Sequence[str] | None
) -> _Program:
    _require("export", "flatbuffers")  # what jax.export serialises with
    platforms = _with_this_machine(platforms)
    choice: Choice = "lowered"
    if len(platforms) == 1:
        choice = "cpu" if platforms == ("cpu",) else "native"
    export = jax.export.export(jax.jit(_apply(model)), platforms=platforms)
    with forms(choice):
        exported = _traced(
            model, shape, lambda: export(jax.ShapeDtypeStruct(shape, np.float32))
        )
    data = bytes(exported.serialize())
    facts = {
        "inputs": _describe(exported.in_avals),
        "outputs": _describe(exported.out_avals),
        "platforms": list(platforms),
        "calling_convention_version": exported.calling_convention_version,
    }
    return _Program(data, jax.export.deserialize(bytearray(data)).call, facts)


def _to_onnx(model: Model, shape: tuple[Any, ...], platforms: None) -> _Program:
    del platforms
    jax2onnx, onnxruntime = _require("onnx", "jax2onnx", "onnxruntime")
    sizes = tuple(d if isinstance(d, int) else str(d) for d in shape)
    leaves = jax.eval_shape(
        _apply(model), jax.ShapeDtypeStruct(tuple(map(_one, shape)), np.float32)
    )
    names = [name.replace("/", "_") or "output" for name in named_leaves(leaves)]

    def convert() -> Any:
        with (
            forms(
                "portable"
            ),  # few nodes, which every runtime has its own fast form of
            warnings.catch_warnings(),
            jax.numpy_rank_promotion("allow"),
        ):
            # jax2onnx uses deprecated names, and adds biases of fewer axes.
            warnings.simplefilter("ignore", DeprecationWarning)
            return jax2onnx.to_onnx(
                _apply(model),
                [sizes],
                model_name=model.name,
                input_names=["input"],
                output_names=names,
            )

    proto = _traced(model, shape, convert)
    used = {name for node in proto.graph.node for name in node.input} | set(names)
    kept = [value for value in proto.graph.initializer if value.name in used]
    del proto.graph.value_info[:]  # shapes of inner values; some are wrong
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    data = proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(
            data, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its own kinds, which have no common base to name
        raise ZooError(
            f"onnxruntime refuses the ONNX program of {model.name}, nothing was written; "
            f"export StableHLO instead: {str(error).splitlines()[0]}"
        ) from error

    def run(x: np.ndarray) -> Any:
        values = session.run(names, {"input": x})
        return jax.tree.unflatten(jax.tree.structure(leaves), values)

    facts = {
        "inputs": [{"name": "input", "shape": list(sizes), "dtype": "float32"}],
        "outputs": [
            {"name": o.name, "shape": o.shape, "dtype": "float32"}
            for o in session.get_outputs()
        ],
        "opset": proto.opset_import[0].version,
        "jax2onnx": importlib.metadata.version("jax2onnx"),
    }
    return _Program(data, run, facts)


def _one(dimension: Any) -> int:
    return dimension if isinstance(dimension, int) else 1


def _require(extra: str, *packages: str) -> list[Any]:
    try:
        return [importlib.import_module(package) for package in packages]
    except ImportError as error:
        raise ZooError(
            f"exporting needs the package {error.name or packages[0]}:"
            f' pip install "zoo-jax[{extra}]"'
        ) from None


def _traced(model: Model, shape: tuple[Any, ...], export: Callable[[], Any]) -> Any:
    """Runs an export; explains what it cannot keep open."""
    fixed = [d if isinstance(d, int) else 1 for d in shape]
    kept = [d for d in shape if not isinstance(d, int)]
    try:
        return export()
    except ConfigError:  # the network says itself what it cannot take
        raise
    except NotImplementedError as error:  # by jax2onnx
        raise ZooError(
            f"{model.name} holds what ONNX export does not know:"
            f" {str(error).splitlines()[0]}"
        ) from error
    except (jax.errors.InconclusiveDimensionOperation, TypeError, ValueError) as error:
        # What code raises that computes with a size as with a number.
        if not kept:
            raise
        what = "batch size" if fixed[1:] == list(shape[1:]) else "batch and image size"
        raise ZooError(
            f"{model.name} cannot be exported with an open {what}, give a number:"
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


def _difference(
    model: Model,
    run: Callable[[np.ndarray], Any],
    shape: tuple[int, ...],
    tolerance: float,
) -> float:
    """Largest difference of a program from its model, over the largest output."""
    x = np.random.default_rng(0).random(shape, np.float32)
    want, got = named_leaves(model(x)), named_leaves(run(x))
    differences = []
    for name in want:
        a, b = np.asarray(want[name], np.float64), np.asarray(got[name], np.float64)
        differences.append(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30))
    worst = float(np.max(differences))  # NaN if any is
    if not worst <= tolerance:
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
