"""Names of leaves, keys, atomic files, the registry, and what importing costs."""

import os
import stat
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from zoo_jax.core import registry, rng, tree
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.files import atomic_write, read_json, read_json_lines, write_json


def test_leaves_have_readable_names():
    params = {"b": {"kernel": 1, "bias": 2}, "a": [3, 4]}
    assert tree.named_leaves(params) == {"a/0": 3, "a/1": 4, "b/bias": 2, "b/kernel": 1}
    named = tree.map_named(lambda name, leaf: f"{name}={leaf}", {"a": {"b": 1}})
    assert named == {"a": {"b": "a/b=1"}}
    assert tree.nest({"a/b": 1, "a/c": 2}) == {"a": {"b": 1, "c": 2}}
    for clash in ({"a": 1, "a/b": 2}, {"a/b": 2, "a": 1}):
        with pytest.raises(ValueError, match="'a"):
            tree.nest(clash)
    assert (
        tree.first_match("x/conv_1/kernel", ["*/bias", "x/conv_*/kernel"])
        == "x/conv_*/kernel"
    )
    assert tree.first_match("x", []) is None
    assert tree.count_parameters({"a": jnp.zeros((2, 3)), "b": jnp.zeros(())}) == 7


def test_keys_differ_by_step_player_and_name_and_repeat():
    key = rng.make_key(0)
    drawn = [
        jax.random.bits(k).item()
        for k in (
            rng.step_key(key, 0, 0),
            rng.step_key(key, 0, 1),
            rng.step_key(key, 1, 0),
            rng.fold_name(key, "a"),
            rng.fold_name(key, "b"),
        )
    ]
    assert len(set(drawn)) == 5
    again = jax.random.bits(rng.step_key(rng.make_key(0), jnp.asarray(1), 0)).item()
    assert again == drawn[2]


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_write(path) as f:
        f.write("first")

    def fail():
        with atomic_write(path) as f:
            f.write("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "first"
    assert os.listdir(path.parent) == ["a.txt"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    with atomic_write(path, "wb") as f:
        f.write(b"\x00")
    assert path.read_bytes() == b"\x00"


def test_json_round_trips_and_torn_lines_are_passed_over(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json") == {"b": [1, 2.5, None]}
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": 2}\n{"a"')
    assert read_json_lines(tmp_path / "a.jsonl") == [{"a": 1}, {"a": 2}]


def test_unknown_methods_get_the_closest_name():
    with pytest.raises(ConfigError, match="did you mean 'deep_k_means'"):
        registry.get("deep_kmeans")
    assert closest("zzz", ["b", "a"]) == "choose from a, b"
    assert closest("zzz", []) == "there are none"


def test_every_method_has_what_the_binaries_ask_for():
    for name in registry.list_methods():
        method = registry.get(name)
        assert hasattr(method, "make_task") or method.procedures
        assert all(isinstance(key, str) for key in method.CONFIG_KEYS)


def test_importing_the_package_imports_no_method_and_no_heavy_library():
    code = (
        "import sys, zoo_jax; zoo_jax.list_methods(); "
        "bad = [m for m in sys.modules if m.startswith(('zoo_jax.methods.', 'zoo_jax.data', "
        "'flax', 'orbax', 'tensorflow_datasets', 'grain', 'matplotlib', 'torch'))]; "
        "sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
