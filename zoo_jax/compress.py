"""Weights of any kind -> one small file, and back: ``zoo-jax compress`` and ``decompress``."""

import argparse
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from zoo_jax import models
from zoo_jax.core.errors import ConfigError, WeightsError, ZooError
from zoo_jax.core.files import PathLike

# The package of the method imports much that other commands do without: see the functions.


def compress_network(
    source: PathLike, output: PathLike, **options: Any
) -> dict[str, Any]:
    """Compresses a weights file, a converted folder or a training run.

    Args:
      source: As `create_model` takes them; of any network, known here or not.
      output: The file. It appears when it is complete.
      **options: ``target_ratio``, ``target_bytes`` or ``spec``, and the further ones of
        `zoo_jax.methods.deep_k_means.compress_file.compress_arrays`.

    Returns:
      What `compress_arrays` returns; the kernels one by one, and bytes.

    Raises:
      ZooError: for a source or options that do not fit, or a budget that cannot be met.
    """
    from zoo_jax.methods.deep_k_means.compress_file import compress_arrays

    source, output = pathlib.Path(source).expanduser(), pathlib.Path(output)
    _require_other(source, output)
    found = models.load_source(None, source)
    arrays = dict(found.arrays) | {
        # Back to what the file holds: no value changes.
        key: np.asarray(found.arrays[key]).astype(jnp.bfloat16)
        for key in found.widened
    }
    metadata: dict[str, Any] = {"origin": source.resolve().name}
    if found.published:
        metadata["file"] = dict(found.metadata)
    else:
        metadata[models.FORMAT] = _facts(found)
    try:
        return compress_arrays(arrays, output, metadata=metadata, **options)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from None


def decompress_network(source: PathLike, output: PathLike) -> dict[str, Any]:
    """Writes a compressed network as a safetensors file: same keys, shapes and dtypes.

    Args:
      source: A compressed network.
      output: The file. It appears when it is complete.

    Returns:
      ``arrays`` (how many), ``bytes`` of the file and ``model``, if it says which it is.

    Raises:
      WeightsError: if the source is missing, damaged or no compressed network.
    """
    from zoo_jax.convert import write_weights
    from zoo_jax.methods.deep_k_means.compress_file import write_safetensors

    source, output = pathlib.Path(source).expanduser(), pathlib.Path(output)
    _require_other(source, output)
    if source.is_dir():
        raise WeightsError(f"{source}: is a folder; name a compressed network")
    if source.is_file() and not models.is_compressed(source):
        raise WeightsError(
            f"{source}: is no compressed network (its first bytes differ)"
        )
    found = models.load_source(None, source)
    if found.published:
        write_safetensors(output, found.arrays, found.metadata)
    else:
        write_weights(output, found.arrays, _facts(found))
    return {
        "arrays": len(found.arrays),
        "bytes": os.path.getsize(output),
        "model": found.model,
    }


def _facts(found: models.Source) -> dict[str, Any]:
    return {
        "format": models.FORMAT,
        "model": found.model,
        "overrides": found.overrides,
    }


def _require_other(source: pathlib.Path, output: pathlib.Path) -> None:
    """Refuses an output that is a folder, or the source itself."""
    if output.is_dir():
        raise ZooError(f"{output}: is a folder; give -o a file name")
    if output.exists() and source.exists() and output.samefile(source):
        raise ZooError(f"{output}: is the input itself; choose another -o")


# --- the sub-commands -----------------------------------------------------------------------


def compress_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``zoo-jax compress``."""
    parser.add_argument(
        "input",
        metavar="IN",
        help=".safetensors, .npz or torch file, a converted folder, or a training run",
    )
    parser.add_argument("-o", "--output", required=True, metavar="OUT.zdkm")
    goal = parser.add_mutually_exclusive_group(required=True)
    goal.add_argument(
        "--target-ratio",
        type=float,
        metavar="R",
        help="OUT is at least R times smaller than the arrays as a .safetensors file",
    )
    goal.add_argument(
        "--target-bytes", type=int, metavar="B", help="OUT has at most B bytes"
    )
    goal.add_argument(
        "--spec", metavar="FILE", help="JSON list of layers instead of a budget"
    )
    parser.add_argument(
        "--layout",
        default="auto",
        metavar="L",
        help="of kernels: torch (OIHW, weight), flax (HWIO, kernel) or auto: by the names",
    )
    parser.add_argument(
        "--no-dense",
        dest="dense",
        action="store_false",
        help="leave dense layers exact, as the published method does (budgets only)",
    )
    parser.add_argument(
        "--codebook-dtype",
        default="float32",
        metavar="D",
        help="float32 (default) or float16: half the codebook, centres rounded",
    )


def compress_command(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the compressed file and prints what became of each kernel."""
    from zoo_jax.methods.deep_k_means.file_kernels import read_spec

    if args.spec is not None and not args.dense:
        raise ConfigError(
            "--no-dense goes with a budget; leave dense layers out of --spec"
        )
    report = compress_network(
        args.input,
        args.output,
        target_ratio=args.target_ratio,
        target_bytes=args.target_bytes,
        spec=None if args.spec is None else read_spec(args.spec),
        layout=args.layout,
        dense=args.dense,
        codebook_dtype=args.codebook_dtype,
        progress=lambda items, text: tqdm(items, text, leave=False, disable=None),
    )
    _print_layers(report["layers"])
    how = " (told by the names)" if args.layout == "auto" else ""
    limit = f" of {report['target_bytes']:,}" if report["target_bytes"] else ""
    print(
        f"{report['layout']} layout{how}; {report['exact_bytes']:,} bytes stored exactly\n"
        f"wrote {args.output}: {report['bytes']:,} bytes{limit}, {report['ratio']:.2f} times "
        f"smaller than {report['dense_bytes']:,}; mean relative SSE "
        f"{report['relative_sse']:.2g}"
    )
    return {"input": args.input, "output": args.output, **report}


def _print_layers(layers: Sequence[Mapping[str, Any]]) -> None:
    width = max(len("kernel"), *(len(row["path"]) for row in layers))
    print(
        f"{'kernel':{width}}  {'weights':>9}  {'samples':8}  {'K':>5}  {'core':>4}  bits/weight"
        "  relative SSE"
    )
    for row in layers:
        length, k = row.get("row_length"), row["num_clusters"]
        samples = row["samples"] + (f" {length}" if length else "")
        core = f"{row['core']:g}" if row.get("core") else "-"
        print(
            f"{row['path']:{width}}  {row['weights']:>9,}  {samples:8}  {k or '-':>5}  {core:>4}"
            f"  {row['bits_per_weight']:>11.3f}  {row['relative_sse']:>12.2e}"
        )


def decompress_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``zoo-jax decompress``."""
    parser.add_argument("input", metavar="IN.zdkm", help="written by zoo-jax compress")
    parser.add_argument("-o", "--output", required=True, metavar="OUT.safetensors")


def decompress_command(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the safetensors file."""
    result = decompress_network(args.input, args.output)
    of = f" of {result['model']}" if result["model"] else ""
    print(
        f"wrote {args.output}: {result['arrays']} arrays{of}, {result['bytes']:,} bytes"
    )
    return {"input": args.input, "output": args.output, **result}
