"""The compressed file of a clustered network. Layout: docs/compressed_format.md.

Loading trusts nothing: every length, shape and count is checked against the file and
against a limit before anything of that size is allocated, and all checksums are checked
before anything is decoded.
"""

import hashlib
import json
import math
import pathlib
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from zoo_jax.core.errors import ConfigError, WeightsError
from zoo_jax.core.files import PathLike, atomic_write
from zoo_jax.core.tree import nest
from zoo_jax.methods.deep_k_means import codec
from zoo_jax.methods.deep_k_means.clustered import Clustered
from zoo_jax.optim.samples import sample_shape

MAGIC = b"\x89ZDKM\r\n\x1a"  # high bit and line ends: text-mode copies break it visibly
VERSION = 1
SECTIONS = ("manifest", "codebooks", "tables", "indices", "raw")
_HEADER = struct.Struct("<8sHH")  # magic, version, number of sections
_SECTION = struct.Struct("<QI")  # length in bytes, CRC-32
_CRC = struct.Struct("<I")  # of the header and the section table
_DIGEST = 32  # SHA-256 of everything before it, at the end
_START = _HEADER.size + len(SECTIONS) * _SECTION.size + _CRC.size

_DTYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in (
        *("float16", "float32", "float64", "bool"),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    )
} | {"bfloat16": np.dtype(jnp.bfloat16)}
_CLUSTERED_DTYPES = ("float32", "float16", "bfloat16")
_CODEBOOK_DTYPES = ("float32", "float16")
MAX_MANIFEST = 64 << 20
MAX_BYTES = 4 << 30


def save_compressed(
    path: PathLike,
    variables: Mapping[str, Any],
    clustered: Mapping[str, Clustered],
    *,
    metadata: Mapping[str, Any] | None = None,
    codebook_dtype: str = "float32",
) -> dict[str, int]:
    """Writes a network with clustered weights as one small file.

    A clustered array is stored as codebook, frequency table and entropy-coded indices, or
    plainly where that is smaller (a codebook with as many rows as there are samples).

    Args:
      path: The file. It appears when it is complete.
      variables: Nested dicts of arrays with string keys, e.g. ``{"params": ..., ...}``.
      clustered: Path in `variables` (``"params/network/conv1/kernel"``) -> its clusters.
        The array there must be exactly what the clusters give.
      metadata: JSON values to keep: model name, config digest, ...
      codebook_dtype: "float32", or "float16" if all codebooks are exact in it
        (`Clustered.rounded`).

    Returns:
      Bytes of the whole file (``"file"``) and of each part (``"header"``, ``"manifest"``,
      ``"codebooks"``, ``"tables"``, ``"indices"``, ``"raw"``).

    Raises:
      ConfigError: for another codebook dtype.
      WeightsError: if the tree holds something that the format has no place for.
      ValueError: if an array and its clusters differ.
    """
    data, sizes = pack(
        variables, clustered, metadata=metadata, codebook_dtype=codebook_dtype
    )
    with atomic_write(path, "wb") as f:
        f.write(data)
    return sizes


def pack(
    variables: Mapping[str, Any],
    clustered: Mapping[str, Clustered],
    *,
    metadata: Mapping[str, Any] | None = None,
    codebook_dtype: str = "float32",
) -> tuple[bytes, dict[str, int]]:
    """The bytes of a file, and how many each part takes; otherwise `save_compressed`."""
    check_codebook_dtype(codebook_dtype)
    parts: dict[str, list[bytes]] = {name: [] for name in SECTIONS[1:]}
    leaves = []
    left = set(clustered)
    for name, value in _walk(variables):
        if value is None:
            leaves.append({"path": name, "coding": "empty"})
            continue
        array = np.asarray(value)
        if array.dtype.name not in _DTYPES:
            raise WeightsError(
                f"{name} has dtype {array.dtype}, which the file cannot hold: "
                f"cast it to one of {', '.join(_DTYPES)}"
            )
        entry = {"path": name, "shape": list(array.shape), "dtype": array.dtype.name}
        coded = None
        if name in left:
            left.remove(name)
            coded = _code(name, array, clustered[name], codebook_dtype)
        if coded is None:
            parts["raw"].append(_bytes(array))
            leaves.append(entry | {"coding": "raw"})
        else:
            extra, pieces = coded
            leaves.append(entry | extra)
            for section, piece in pieces.items():
                parts[section].append(piece)
    if left:
        raise ValueError(f"clusters without an array in the variables: {sorted(left)}")
    manifest = {
        "leaves": leaves,
        "metadata": dict(metadata or {}),
        "codebook_dtype": codebook_dtype,
        "coder": "range/16",
    }
    text = json.dumps(manifest, separators=(",", ":"), sort_keys=True).encode()
    bodies = [zlib.compress(text, 9)] + [b"".join(parts[s]) for s in SECTIONS[1:]]
    header = _HEADER.pack(MAGIC, VERSION, len(SECTIONS))
    header += b"".join(_SECTION.pack(len(b), zlib.crc32(b)) for b in bodies)
    header += _CRC.pack(zlib.crc32(header))
    data = b"".join([header, *bodies])
    data += hashlib.sha256(data).digest()
    sizes = {name: len(body) for name, body in zip(SECTIONS, bodies, strict=True)}
    return data, {"file": len(data), "header": len(header) + _DIGEST, **sizes}


def load_compressed(
    path: PathLike, *, max_bytes: int = MAX_BYTES
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads what `save_compressed` wrote, straight into nested dicts of numpy arrays.

    Args:
      path: The file.
      max_bytes: Refuse a file, or a network, larger than this.

    Returns:
      (variables, metadata). Clustered arrays are bit for bit what was saved.

    Raises:
      WeightsError: if the file is missing, foreign, damaged, or too large.
    """
    path = pathlib.Path(path)
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise WeightsError(
                f"{path} has {size} bytes, more than max_bytes={max_bytes}: raise the "
                "limit if you trust the file"
            )
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"cannot read the compressed network {path}: {error.strerror}"
        ) from None
    try:
        return unpack(data, max_bytes=max_bytes)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None


def unpack(
    data: bytes, *, max_bytes: int = MAX_BYTES
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads the bytes of a file; otherwise `load_compressed`."""
    bodies = _sections(data)
    manifest = _manifest(bodies["manifest"])
    return _decode(manifest, bodies, max_bytes), manifest["metadata"]


def check_codebook_dtype(name: str) -> None:
    """Raises `ConfigError` if the format has no such codebooks."""
    if name not in _CODEBOOK_DTYPES:
        raise ConfigError(
            f"codebook_dtype must be one of {', '.join(_CODEBOOK_DTYPES)}, got {name!r}"
        )


# --- writing --------------------------------------------------------------------------


def _walk(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (path, leaf) in sorted order; (path, None) for an empty dict."""
    if not isinstance(tree, Mapping):
        if not hasattr(tree, "dtype"):
            raise WeightsError(
                f"{prefix or 'the root'} is a {type(tree).__name__}: the file holds "
                "nested dicts of arrays"
            )
        yield prefix, tree
        return
    if not tree and prefix:
        yield prefix, None
    for key in sorted(tree):
        if not isinstance(key, str) or not key or "/" in key:
            raise WeightsError(
                f"key {key!r} below {prefix or 'the root'!r}: keys must be non-empty "
                "strings without '/'"
            )
        yield from _walk(tree[key], f"{prefix}/{key}" if prefix else key)


def _bytes(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array, _DTYPES[array.dtype.name]).tobytes()


def _code(
    name: str, array: np.ndarray, clusters: Clustered, codebook_dtype: str
) -> tuple[dict[str, Any], dict[str, bytes]] | None:
    """Manifest entry and section pieces of a clustered array; None if plain is smaller."""
    clusters = clusters.compact()
    n, d = sample_shape(array.shape, clusters.samples, clusters.row_length)
    k = len(clusters.codebook)
    if clusters.labels.shape != (n,) or clusters.codebook.shape != (k, d):
        raise ValueError(
            f"{name}: {n} samples of length {d}, but {clusters.labels.size} labels into "
            f"a codebook {clusters.codebook.shape}"
        )
    if array.dtype.name not in _CLUSTERED_DTYPES:
        raise WeightsError(
            f"{name} has dtype {array.dtype}: clustered arrays must be one of "
            f"{', '.join(_CLUSTERED_DTYPES)}"
        )
    restored = clusters.rounded(codebook_dtype).restore(array.shape)
    if restored.astype(array.dtype).tobytes() != array.tobytes():
        raise ValueError(f"{name} is not what its clusters give in {codebook_dtype}")
    if k > codec.MAX_SYMBOLS:
        return None
    pieces = {"codebooks": _bytes(clusters.codebook.astype(codebook_dtype))}
    words = 0
    if k > 1:  # a single centre needs no index
        table = codec.frequency_table(np.bincount(clusters.labels, minlength=k))
        stream = codec.encode(clusters.labels, table)
        words = stream.size
        pieces |= {"tables": _bytes(table), "indices": _bytes(stream)}
    if sum(map(len, pieces.values())) >= array.nbytes:
        return None
    entry = {"coding": "clusters", "samples": clusters.samples, "k": k, "words": words}
    if clusters.row_length is not None:
        entry["row_length"] = clusters.row_length
    return entry, pieces


# --- reading --------------------------------------------------------------------------


def _sections(data: bytes) -> dict[str, memoryview]:
    """Cuts the file after checking every length and checksum."""
    if not data.startswith(MAGIC):
        raise WeightsError("not a compressed network (its first bytes differ)")
    if len(data) < _START + _DIGEST:
        raise WeightsError(f"truncated: {len(data)} bytes do not hold the header")
    _, version, count = _HEADER.unpack_from(data)
    if version > VERSION:
        raise WeightsError(
            f"format version {version}, and this program reads up to {VERSION}: update "
            "zoo_jax if a newer one wrote it, else get the file again"
        )
    if version != VERSION or count != len(SECTIONS):
        raise WeightsError(
            f"damaged header: format version {version} with {count} sections"
        )
    (crc,) = _CRC.unpack_from(data, _START - _CRC.size)
    if crc != zlib.crc32(data[: _START - _CRC.size]):
        raise WeightsError("damaged header (checksum differs): get the file again")
    table = [
        _SECTION.unpack_from(data, _HEADER.size + i * _SECTION.size)
        for i in range(count)
    ]
    expected = _START + sum(length for length, _ in table) + _DIGEST
    if len(data) != expected:
        raise WeightsError(
            f"truncated or extended: {len(data)} bytes instead of {expected}"
        )
    view, start, bodies = memoryview(data), _START, {}
    for name, (length, crc) in zip(SECTIONS, table, strict=True):
        bodies[name] = view[start : start + length]
        start += length
        if zlib.crc32(bodies[name]) != crc:
            raise WeightsError(
                f"damaged section {name!r} (checksum differs): get the file again"
            )
    if hashlib.sha256(view[:start]).digest() != view[start:]:
        raise WeightsError("damaged (SHA-256 differs): get the file again")
    return bodies


def _manifest(body: memoryview) -> dict[str, Any]:
    inflate = zlib.decompressobj()
    try:
        text = inflate.decompress(body, MAX_MANIFEST)
        if not inflate.eof:
            raise WeightsError(f"manifest longer than {MAX_MANIFEST} bytes, or cut off")
        manifest = json.loads(text)
    except (zlib.error, ValueError, RecursionError) as error:
        raise WeightsError(f"manifest cannot be read: {error}") from None
    known = {"leaves": list, "metadata": dict, "codebook_dtype": str, "coder": str}
    for key, kind in known.items():
        if not isinstance(manifest, dict) or not isinstance(manifest.get(key), kind):
            raise WeightsError(f"manifest lacks {key!r} or has another type there")
    if manifest["coder"] != "range/16":
        raise WeightsError(f"unknown coder {manifest['coder']!r}")
    if manifest["codebook_dtype"] not in _CODEBOOK_DTYPES:
        raise WeightsError(f"unknown codebook dtype {manifest['codebook_dtype']!r}")
    return manifest


class _Leaf(NamedTuple):
    """One checked entry of the manifest, and how many bytes of each section it takes."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    samples: tuple[str, int | None] | None  # None: stored plainly
    n: int
    d: int
    k: int
    takes: dict[str, int]


def _decode(
    manifest: Mapping[str, Any], bodies: Mapping[str, memoryview], max_bytes: int
) -> dict[str, Any]:
    codebook_dtype = _DTYPES[manifest["codebook_dtype"]]
    flat: dict[str, Any] = {}
    checked: list[_Leaf] = []
    for entry in manifest["leaves"]:
        name = entry.get("path") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not all(name.split("/")) or name in flat:
            raise WeightsError(f"manifest entry with the path {name!r}")
        flat[name] = {}
        if entry.get("coding") != "empty":
            checked.append(_check(name, entry, codebook_dtype))
    total = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in checked)
    if total > max_bytes:
        raise WeightsError(
            f"the network would take {total} bytes, more than max_bytes={max_bytes}: "
            "raise the limit if you trust the file"
        )
    for section in SECTIONS[1:]:
        taken = sum(leaf.takes.get(section, 0) for leaf in checked)
        if taken != len(bodies[section]):
            raise WeightsError(
                f"section {section!r} has {len(bodies[section])} bytes, the manifest "
                f"speaks of {taken}"
            )
    place = dict.fromkeys(SECTIONS, 0)
    for leaf in checked:
        pieces = {}
        for section, length in leaf.takes.items():
            pieces[section] = bodies[section][place[section] :][:length]
            place[section] += length
        flat[leaf.path] = _array(leaf, pieces, codebook_dtype)
    try:
        return nest(flat)
    except ValueError as error:
        raise WeightsError(f"manifest paths clash: {error}") from None


def _check(name: str, entry: Mapping[str, Any], codebook_dtype: np.dtype) -> _Leaf:
    shape = entry.get("shape")
    if not isinstance(shape, list) or len(shape) > 16 or not all(map(_is_count, shape)):
        raise WeightsError(f"{name} has the impossible shape {str(shape)[:80]}")
    shape, dtype = tuple(shape), _DTYPES.get(str(entry.get("dtype")))
    if dtype is None:
        raise WeightsError(f"{name} has the unknown dtype {entry.get('dtype')!r}")
    if entry.get("coding") == "raw":
        takes = {"raw": math.prod(shape) * dtype.itemsize}
        return _Leaf(name, shape, dtype, None, 0, 0, 0, takes)
    if entry.get("coding") != "clusters":
        raise WeightsError(f"{name} has the unknown coding {entry.get('coding')!r}")
    samples = (entry.get("samples"), entry.get("row_length"))
    k, words = entry.get("k"), entry.get("words")
    if dtype.name not in _CLUSTERED_DTYPES or 0 in shape:
        raise WeightsError(f"{name}: nothing to cluster in {dtype.name}{list(shape)}")
    if not (samples[1] is None or _is_count(samples[1])):
        raise WeightsError(f"{name} has the row length {samples[1]!r}")
    try:
        n, d = sample_shape(shape, *samples)
    except ConfigError as error:
        raise WeightsError(f"{name}: {error}") from None
    if not (_is_count(k) and 1 <= k <= min(n, codec.MAX_SYMBOLS)):
        raise WeightsError(f"{name} has {k!r} clusters of {n} samples")
    if not _is_count(words) or (words and k == 1):
        raise WeightsError(f"{name} has {words!r} words of indices")
    takes = {"codebooks": k * d * codebook_dtype.itemsize, "indices": 4 * words}
    takes["tables"] = 2 * k if k > 1 else 0
    return _Leaf(name, shape, dtype, samples, n, d, k, takes)


def _is_count(value: Any) -> bool:
    # At most 2^40: products of 16 of them stay exact Python integers, and cheap ones.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40


def _array(
    leaf: _Leaf, pieces: Mapping[str, memoryview], codebook_dtype: np.dtype
) -> np.ndarray:
    native = leaf.dtype.newbyteorder("=")
    if leaf.samples is None:
        stored = np.frombuffer(pieces["raw"], leaf.dtype)
        return stored.astype(native).reshape(leaf.shape)
    codebook = np.frombuffer(pieces["codebooks"], codebook_dtype)
    codebook = codebook.astype(native).reshape(leaf.k, leaf.d)
    if leaf.k == 1:
        labels = np.zeros(leaf.n, np.int32)
    else:
        table = np.frombuffer(pieces["tables"], "<u2").astype(np.uint16)
        words = np.frombuffer(pieces["indices"], "<u4").astype(np.uint32)
        labels = codec.decode(words, table, leaf.n)
    return Clustered(codebook, labels, *leaf.samples).restore(leaf.shape)
