import gzip
import hashlib
import json
import math
import zlib

import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError, WeightsError
from zoo_jax.core.tree import named_leaves
from zoo_jax.methods.deep_k_means import artefact
from zoo_jax.methods.deep_k_means.accounting import (
    dense_file,
    gzip_bytes,
    index_entropy,
)
from zoo_jax.methods.deep_k_means.artefact import load_compressed, save_compressed
from zoo_jax.methods.deep_k_means.clustered import Clustered
from zoo_jax.optim.samples import sample_shape


def random_clusters(shape, samples, k, *, seed=0, row_length=None, core=0.0):
    """Clusters of a kernel of `shape`; a share `core` of the samples has the centre 0."""
    rng = np.random.default_rng(seed)
    n, d = sample_shape(shape, samples, row_length)
    labels = np.where(rng.random(n) < core, 0, rng.integers(0, k, n))
    codebook = rng.normal(size=(k, d)).astype(np.float32)
    return Clustered(codebook, labels, samples, row_length)


SHAPES = {
    "conv1/kernel": ((3, 5, 7, 11), "row", None, 6),
    "conv2/kernel": ((2, 3, 13, 4), "kernel2d", None, 9),
    "conv3/kernel": ((1, 1, 31, 17), "scalar", None, 5),
    "conv4/kernel": ((3, 3, 4, 19), "filter", None, 1),  # a single centre
    "dense/kernel": ((24, 10), "row", 8, 4),
}


@pytest.fixture
def network():
    """Variables of every kind that the format knows, and the clusters of some."""
    clustered, params = {}, {}
    for name, (shape, samples, row_length, k) in SHAPES.items():
        clusters = random_clusters(shape, samples, k, row_length=row_length)
        clustered[f"params/net/{name}"] = clusters
        layer, _ = name.split("/")
        params[layer] = {"kernel": clusters.restore(shape)}
    rng = np.random.default_rng(1)
    params["conv1"]["bias"] = rng.normal(size=11).astype(np.float32)
    params["norm"] = {
        "half": rng.normal(size=(2, 3)).astype(np.float16),
        "brain": jnp.asarray(rng.normal(size=4), jnp.bfloat16),
        "count": np.int32(7),
        "seen": np.array([True, False]),
        "nan": np.array([np.nan, -0.0, np.inf], np.float64),
    }
    return {"params": {"net": params}, "model_state": {"net": {}}}, clustered


def assert_bit_equal(tree, other):
    left, right = named_leaves(tree), named_leaves(other)
    assert list(left) == list(right)
    for name in left:
        a, b = np.asarray(left[name]), np.asarray(right[name])
        assert (a.shape, a.dtype) == (b.shape, b.dtype), name
        assert a.tobytes() == b.tobytes(), name


def test_variables_come_back_bit_for_bit(network, tmp_path):
    variables, clustered = network
    sizes = save_compressed(
        tmp_path / "a.zdkm", variables, clustered, metadata={"model": "x", "n": [1]}
    )
    loaded, metadata = load_compressed(tmp_path / "a.zdkm")
    assert_bit_equal(loaded, variables)
    assert loaded["model_state"] == {"net": {}}
    assert metadata == {"model": "x", "n": [1]}
    assert sizes["file"] == (tmp_path / "a.zdkm").stat().st_size
    assert sizes["file"] == sum(v for k, v in sizes.items() if k != "file")


def test_loaded_arrays_are_native_and_writable(network, tmp_path):
    variables, clustered = network
    save_compressed(tmp_path / "a.zdkm", variables, clustered)
    loaded, _ = load_compressed(tmp_path / "a.zdkm")
    for array in loaded["params"]["net"]["conv1"].values():
        array += 1
        assert array.dtype.isnative


def test_saving_is_deterministic(network, tmp_path):
    for name in "ab":
        save_compressed(tmp_path / name, *network)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_half_precision_codebooks_restore_the_rounded_weights(tmp_path):
    shape = (3, 3, 8, 9)
    clusters = random_clusters(shape, "row", 20)
    variables = {"kernel": clusters.restore(shape)}
    with pytest.raises(ValueError, match="not what its clusters give in float16"):
        save_compressed(
            tmp_path / "a", variables, {"kernel": clusters}, codebook_dtype="float16"
        )
    rounded = clusters.rounded(np.float16)
    variables = {"kernel": rounded.restore(shape)}
    half = save_compressed(
        tmp_path / "a", variables, {"kernel": rounded}, codebook_dtype="float16"
    )
    full = save_compressed(tmp_path / "b", variables, {"kernel": rounded})
    assert half["codebooks"] * 2 == full["codebooks"]
    assert_bit_equal(load_compressed(tmp_path / "a")[0], variables)


def test_indices_are_within_5_percent_of_the_entropy_and_beat_gzip(tmp_path):
    # Three layers of the published setting, with its core of equal rows.
    variables, clustered, bits = {}, {}, 0.0
    for index, (shape, k, core) in enumerate(
        [
            ((3, 3, 64, 64), 30, 0.4),
            ((3, 3, 128, 128), 50, 0.5),
            ((1, 1, 64, 128), 10, 0.5),
        ]
    ):
        samples = "row" if shape[0] == 3 else "scalar"
        clusters = random_clusters(shape, samples, k, seed=index, core=core)
        name = f"conv{index}"
        variables[name], clustered[name] = clusters.restore(shape), clusters
        bits += clusters.labels.size * index_entropy(clusters.labels)
    sizes = save_compressed(tmp_path / "a", variables, clustered)
    assert bits / 8 - 12 <= sizes["indices"] <= 1.05 * bits / 8
    zipped = gzip_bytes(dense_file(variables))
    assert zipped == len(gzip.compress(dense_file(variables), 9, mtime=0))
    assert sizes["file"] < 0.6 * zipped


def test_a_codebook_as_large_as_the_kernel_is_stored_plainly(tmp_path):
    shape = (3, 3, 3, 16)
    rng = np.random.default_rng(0)
    codebook = rng.normal(size=(144, 3)).astype(np.float32)
    clusters = Clustered(codebook, np.arange(144), "row")
    variables = {"kernel": clusters.restore(shape)}
    sizes = save_compressed(tmp_path / "a", variables, {"kernel": clusters})
    assert sizes["raw"] == 4 * math.prod(shape)
    assert sizes["codebooks"] == sizes["indices"] == 0
    assert_bit_equal(load_compressed(tmp_path / "a")[0], variables)


def test_unused_centres_are_not_stored(tmp_path):
    shape = (3, 3, 8, 16)
    clusters = random_clusters(shape, "row", 8)
    clusters = clusters._replace(labels=clusters.labels // 2 * 2)
    variables = {"kernel": clusters.restore(shape)}
    sizes = save_compressed(tmp_path / "a", variables, {"kernel": clusters})
    assert sizes["codebooks"] == 4 * 3 * 4
    assert_bit_equal(load_compressed(tmp_path / "a")[0], variables)


@pytest.mark.parametrize(
    ("variables", "match"),
    [
        ({"a/b": np.zeros(2, np.float32)}, "without '/'"),
        ({"a": np.zeros(2, np.complex64)}, "complex64"),
        ({"a": np.array(["x"])}, "cannot hold"),
        ({"a": [np.zeros(2, np.float32), None]}, "a is a list"),
        ({"a": None}, "a is a NoneType"),
    ],
)
def test_trees_without_a_place_in_the_format_are_refused(variables, match, tmp_path):
    with pytest.raises(WeightsError, match=match):
        save_compressed(tmp_path / "a", variables, {})
    assert not (tmp_path / "a").exists()


def test_clusters_that_do_not_give_the_array_are_refused(network, tmp_path):
    variables, clustered = network
    variables["params"]["net"]["conv1"]["kernel"] += 1
    with pytest.raises(ValueError, match="conv1/kernel is not what its clusters give"):
        save_compressed(tmp_path / "a", variables, clustered)
    with pytest.raises(ValueError, match="without an array"):
        save_compressed(tmp_path / "a", {}, clustered)
    with pytest.raises(ConfigError, match="float8"):
        save_compressed(tmp_path / "a", {}, {}, codebook_dtype="float8")


# --- damaged and hostile files --------------------------------------------------------


@pytest.fixture
def stored(network, tmp_path):
    save_compressed(tmp_path / "good.zdkm", *network)
    return tmp_path / "good.zdkm"


def regions(data):
    """Name -> first and last byte, of all that a file consists of."""
    lengths = {"magic": 8, "version": 2, "count": 2}
    lengths |= {f"entry of {name}": 12 for name in artefact.SECTIONS}
    lengths |= {"checksum": 4}
    lengths |= {name: len(body) for name, body in artefact._sections(data).items()}
    lengths |= {"digest": 32}
    ends = np.cumsum(list(lengths.values())).tolist()
    assert ends[-1] == len(data)
    starts = [0, *ends[:-1]]
    return dict(zip(lengths, zip(starts, ends, strict=True), strict=True))


def test_five_hundred_flipped_bits_in_every_region_are_noticed(stored, tmp_path):
    good = stored.read_bytes()
    rng = np.random.default_rng(0)
    flipped = 0
    for name, (start, end) in regions(good).items():
        bits = np.arange(8 * start, 8 * end)
        assert bits.size, name
        for bit in rng.permutation(bits)[:40]:
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << (bit % 8)
            (tmp_path / "bad").write_bytes(bad)
            with pytest.raises(WeightsError):
                load_compressed(tmp_path / "bad")
            flipped += 1
    assert flipped >= 500


def test_every_truncation_is_noticed(stored, tmp_path):
    good = stored.read_bytes()
    for length in [0, 1, 8, 40, 75, len(good) // 2, len(good) - 32, len(good) - 1]:
        (tmp_path / "bad").write_bytes(good[:length])
        with pytest.raises(WeightsError):
            load_compressed(tmp_path / "bad")
    (tmp_path / "bad").write_bytes(good + b"x")
    with pytest.raises(WeightsError, match="extended"):
        load_compressed(tmp_path / "bad")


def test_messages_are_one_line_and_name_the_file(stored, tmp_path):
    cases = {
        "foreign": b"PK\x03\x04" + bytes(100),
        "damaged": stored.read_bytes()[:-40] + bytes(40),
        "short": stored.read_bytes()[:30],
    }
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(WeightsError) as error:
            load_compressed(tmp_path / name)
        assert str(error.value).startswith(str(tmp_path / name))
        assert "\n" not in str(error.value)
    with pytest.raises(WeightsError, match="absent: No such file"):
        load_compressed(tmp_path / "absent")


def forge(good: bytes, edit) -> bytes:
    """The file with its manifest edited and all checksums made good again."""
    bodies = artefact._sections(good)
    manifest = json.loads(zlib.decompress(bodies["manifest"]))
    edited = edit(manifest)
    text = json.dumps(manifest if edited is None else edited).encode()
    return sign([zlib.compress(text), *list(bodies.values())[1:]])


def sign(parts) -> bytes:
    head = artefact._HEADER.pack(artefact.MAGIC, artefact.VERSION, len(parts))
    head += b"".join(artefact._SECTION.pack(len(p), zlib.crc32(p)) for p in parts)
    head += artefact._CRC.pack(zlib.crc32(head))
    data = head + b"".join(bytes(p) for p in parts)
    return data + hashlib.sha256(data).digest()


def leaf(manifest, name):
    return next(e for e in manifest["leaves"] if e["path"].endswith(name))


HOSTILE = {
    "huge kernel": lambda m: leaf(m, "conv4/kernel").update(shape=[3, 3, 4, 1 << 39]),
    "huge raw": lambda m: leaf(m, "bias").update(shape=[1 << 39, 1 << 39]),
    "one number less": lambda m: leaf(m, "bias").update(shape=[10]),
    "infinite": lambda m: leaf(m, "bias").update(shape=[10**30]),
    "negative": lambda m: leaf(m, "bias").update(shape=[-11]),
    "float shape": lambda m: leaf(m, "bias").update(shape=[11.0]),
    "boolean shape": lambda m: leaf(m, "bias").update(shape=[True, 11]),
    "many axes": lambda m: leaf(m, "bias").update(shape=[1] * 1000 + [11]),
    "no shape": lambda m: leaf(m, "bias").pop("shape"),
    "object dtype": lambda m: leaf(m, "bias").update(dtype="object"),
    "list dtype": lambda m: leaf(m, "bias").update(dtype=["float32"]),
    "coding": lambda m: leaf(m, "bias").update(coding="pickle"),
    "samples": lambda m: leaf(m, "conv1/kernel").update(samples="column"),
    "list samples": lambda m: leaf(m, "conv1/kernel").update(samples=[]),
    "row length": lambda m: leaf(m, "dense/kernel").update(row_length="8"),
    "float row length": lambda m: leaf(m, "dense/kernel").update(row_length=8.0),
    "zero row length": lambda m: leaf(m, "dense/kernel").update(row_length=0),
    "empty kernel": lambda m: leaf(m, "conv1/kernel").update(shape=[3, 0, 7, 11]),
    "flat kernel": lambda m: leaf(m, "conv1/kernel").update(shape=[77]),
    "int kernel": lambda m: leaf(m, "conv1/kernel").update(dtype="int32"),
    "no clusters": lambda m: leaf(m, "conv1/kernel").update(k=0),
    "many clusters": lambda m: leaf(m, "conv1/kernel").update(k=10**6),
    "words": lambda m: leaf(m, "conv1/kernel").update(words=-1),
    "more words": lambda m: leaf(m, "conv1/kernel").update(words=10**9),
    "words of one": lambda m: leaf(m, "conv4/kernel").update(words=3),
    "fewer outputs": lambda m: leaf(m, "conv1/kernel").update(shape=[3, 5, 7, 3]),
    "path twice": lambda m: m["leaves"].append(dict(m["leaves"][0])),
    "path below": lambda m: m["leaves"].append(
        {"path": "params/net/conv1/bias/x", "coding": "empty"}
    ),
    "no path": lambda m: m["leaves"].append({"coding": "empty"}),
    "odd path": lambda m: m["leaves"].append({"path": "a//b", "coding": "empty"}),
    "entry": lambda m: m["leaves"].append(3),
    "coder": lambda m: m.update(coder="range/24"),
    "codebook": lambda m: m.update(codebook_dtype="float64"),
    "no metadata": lambda m: m.pop("metadata"),
    "leaves": lambda m: m.update(leaves={}),
    "list": lambda m: [m],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_manifests_are_refused(name, stored, tmp_path):
    (tmp_path / "bad").write_bytes(forge(stored.read_bytes(), HOSTILE[name]))
    with pytest.raises(WeightsError) as error:
        load_compressed(tmp_path / "bad")
    assert len(str(error.value)) < 400 + len(str(tmp_path))


def test_a_forged_but_unchanged_file_still_loads(stored, network, tmp_path):
    # The forger itself must be right, or the test above proves nothing.
    (tmp_path / "same").write_bytes(forge(stored.read_bytes(), lambda m: None))
    assert_bit_equal(load_compressed(tmp_path / "same")[0], network[0])


def test_limits_hold_before_anything_is_allocated(stored, tmp_path):
    with pytest.raises(WeightsError, match="max_bytes=100"):
        load_compressed(stored, max_bytes=100)
    limit = stored.stat().st_size
    with pytest.raises(WeightsError, match="the network would take"):
        load_compressed(stored, max_bytes=limit)


def test_a_manifest_that_inflates_without_end_is_refused(stored, tmp_path, monkeypatch):
    monkeypatch.setattr(artefact, "MAX_MANIFEST", 1000)
    with pytest.raises(WeightsError, match="longer than 1000"):
        load_compressed(stored)


def test_index_streams_of_noise_are_refused_or_decoded_in_range(stored, tmp_path):
    bodies = artefact._sections(stored.read_bytes())
    rng = np.random.default_rng(0)
    for _ in range(20):
        noise = rng.bytes(len(bodies["indices"]))
        parts = {**bodies, "indices": noise}
        (tmp_path / "bad").write_bytes(sign(list(parts.values())))
        try:
            loaded, _ = load_compressed(tmp_path / "bad")
        except WeightsError:
            continue
        assert loaded["params"]["net"]["conv1"]["kernel"].shape == (3, 5, 7, 11)
