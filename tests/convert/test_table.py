"""Key tables: every key and every leaf is accounted for, and all of it in one line."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax import convert
from zoo_jax.convert import Entry, Table
from zoo_jax.core.errors import WeightsError
from zoo_jax.core.tree import named_leaves


def toy_table(**kw):
    entries = [*convert.conv_entries("stem", "stem", bias=False)]
    for i in range(2):
        entries += convert.batch_norm_entries(f"block.{i}.bn", f"block_{i}/norm")
        entries += convert.conv_entries(f"block.{i}.conv", f"block_{i}/conv")
    entries += convert.linear_entries("head", "head")
    return Table(tuple(entries), **kw)


def toy_arrays():
    """Published arrays of distinct shapes and values."""
    rng = np.random.default_rng(0)
    shapes = {"stem.weight": (4, 3, 2, 5)}
    for i in range(2):
        shapes |= {
            f"block.{i}.bn.{n}": (4 + i,)
            for n in ("weight", "bias", "running_mean", "running_var")
        }
        shapes |= {
            f"block.{i}.conv.weight": (5 + i, 4 + i, 1, 3),
            f"block.{i}.conv.bias": (5 + i,),
        }
    shapes |= {"head.weight": (7, 6), "head.bias": (7,)}
    return {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}


def toy_template():
    def norm(c):
        return {"scale": jnp.zeros(c), "bias": jnp.zeros(c)}

    params = {
        "stem": {"kernel": jnp.zeros((2, 5, 3, 4))},
        "head": {"kernel": jnp.zeros((6, 7)), "bias": jnp.zeros(7)},
    }
    stats = {}
    for i in range(2):
        conv = {"kernel": jnp.zeros((1, 3, 4 + i, 5 + i)), "bias": jnp.zeros(5 + i)}
        params[f"block_{i}"] = {"conv": conv, "norm": norm(4 + i)}
        stats[f"block_{i}"] = {
            "norm": {"mean": jnp.zeros(4 + i), "var": jnp.zeros(4 + i)}
        }
    tree = {"params": params, "batch_stats": stats}
    return jax.eval_shape(lambda: tree)


def error_of(table, arrays, template):
    with pytest.raises(WeightsError) as error:
        convert.apply(table, arrays, template, where="w.npz")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_each_array_lands_on_its_leaf_in_our_layout():
    arrays = toy_arrays()
    got = convert.apply(toy_table(), arrays, toy_template())
    params, stats = got["params"], got["batch_stats"]
    pairs = [
        (params["stem"]["kernel"], arrays["stem.weight"].transpose(2, 3, 1, 0)),
        (params["block_1"]["conv"]["bias"], arrays["block.1.conv.bias"]),
        (params["block_1"]["norm"]["scale"], arrays["block.1.bn.weight"]),
        (params["block_1"]["norm"]["bias"], arrays["block.1.bn.bias"]),
        (stats["block_0"]["norm"]["mean"], arrays["block.0.bn.running_mean"]),
        (stats["block_0"]["norm"]["var"], arrays["block.0.bn.running_var"]),
        (params["head"]["kernel"], arrays["head.weight"].T),
    ]
    for ours, theirs in pairs:
        np.testing.assert_array_equal(ours, theirs)
    assert jax.tree.structure(got) == jax.tree.structure(toy_template())


def test_invert_undoes_apply():
    arrays = toy_arrays()
    back = convert.invert(
        toy_table(), convert.apply(toy_table(), arrays, toy_template())
    )
    assert list(back) == list(arrays)
    for key, array in arrays.items():
        np.testing.assert_array_equal(back[key], array)
        assert back[key].flags.c_contiguous


def test_prefixes_and_ignored_keys_make_no_difference():
    arrays = toy_arrays()
    noisy = {f"module.{k}": v for k, v in arrays.items()}
    noisy["module.block.0.bn.num_batches_tracked"] = np.asarray(7)
    want = convert.apply(toy_table(), arrays, toy_template())
    jax.tree.map(
        np.testing.assert_array_equal,
        convert.apply(toy_table(), noisy, toy_template()),
        want,
    )
    found = convert.match(toy_table(), noisy, toy_template())
    assert found.ignored == ("module.block.0.bn.num_batches_tracked",)
    assert ("module.head.bias", "params/head/bias") in found.matched


def test_two_keys_that_differ_in_the_prefix_alone_are_refused():
    arrays = toy_arrays() | {"module.head.bias": np.zeros(7)}
    assert "'head.bias' and 'module.head.bias'" in error_of(
        toy_table(), arrays, toy_template()
    )


def test_one_error_lists_everything_that_does_not_fit():
    arrays = toy_arrays()
    del arrays["head.bias"], arrays["block.1.conv.weight"]
    arrays |= {"extra.weight": np.zeros(3), "extra.bias": np.zeros(3)}
    arrays["stem.weight"] = np.zeros((4, 3, 5, 2), np.float32)
    arrays["head.weight"] = np.zeros((7, 6, 1))
    arrays["block.0.bn.weight"] = np.asarray([1, 2, np.nan, 4], np.float32)
    arrays["block.0.bn.bias"] = np.zeros(4, complex)
    arrays["block.0.bn.running_var"] = np.full(4, 1e300)  # beyond float32
    template = toy_template()
    template["params"]["block_0"]["gate"] = jax.ShapeDtypeStruct((2,), jnp.float32)
    del template["params"]["block_1"]["norm"]["bias"]
    text = error_of(toy_table(), arrays, template)
    for part in (
        "w.npz: does not fit",
        "2 keys that the network has no place for: extra.weight, extra.bias",
        "2 keys that are missing: block.1.conv.weight, head.bias",
        "5 arrays that do not fit",
        "stem.weight -> params/stem/kernel (has shape (4, 3, 5, 2), which becomes"
        " (5, 2, 3, 4); needed is (2, 5, 3, 4))",
        "head.weight -> params/head/kernel (layout linear takes 2 axes, not 3)",
        "block.0.bn.weight -> params/block_0/norm/scale (holds values that are not finite)",
        "block.0.bn.bias -> params/block_0/norm/bias (holds complex128, not real numbers)",
        "block.0.bn.running_var -> batch_stats/block_0/norm/var (holds values that",
        "1 leaves of the network that the key table does not fill: params/block_0/gate",
        "1 targets of the key table that the network lacks: params/block_1/norm/bias",
    ):
        assert part in text


def test_a_long_list_is_cut_but_counted():
    arrays = toy_arrays() | {f"extra.{i}": np.zeros(1) for i in range(50)}
    text = error_of(toy_table(), arrays, toy_template())
    assert "50 keys that the network has no place for: extra.0, " in text
    assert "extra.19 and 30 more" in text
    assert "extra.20" not in text


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, "bfloat16", ">f4"])
def test_leaves_have_the_dtype_of_the_network(dtype):
    arrays = {k: np.round(v).astype(jnp.dtype(dtype)) for k, v in toy_arrays().items()}
    got = named_leaves(convert.apply(toy_table(), arrays, toy_template()))
    assert {str(leaf.dtype) for leaf in got.values()} == {"float32"}
    assert all(leaf.dtype.isnative for leaf in got.values())
    np.testing.assert_array_equal(
        got["params/head/bias"], np.round(arrays["head.bias"])
    )


def test_numbers_with_a_fraction_do_not_become_integers():
    table = Table((Entry("n", "params/n", convert.VECTOR),))
    template = {"params": {"n": jax.ShapeDtypeStruct((2,), jnp.int32)}}
    assert "holds float64; needed is int32" in error_of(
        table, {"n": np.ones(2)}, template
    )


def test_an_optional_key_that_is_absent_leaves_the_templates_value():
    table = Table((Entry("a", "params/a", convert.VECTOR, optional=True),))
    real = {"params": {"a": np.asarray([3.0, 4.0], np.float32)}}
    np.testing.assert_array_equal(convert.apply(table, {}, real)["params"]["a"], [3, 4])
    assert convert.match(table, {}, real).kept == ("params/a",)
    given = {"a": np.asarray([1.0, 2.0])}
    np.testing.assert_array_equal(
        convert.apply(table, given, real)["params"]["a"], [1, 2]
    )
    abstract = jax.eval_shape(lambda: real)  # has no value that could stay
    assert "1 keys that are missing: a" in error_of(table, {}, abstract)
    assert convert.match(table, {}, {"params": {}}).problems() == ""


def test_invert_names_leaves_on_both_sides():
    variables = convert.apply(toy_table(), toy_arrays(), toy_template())
    del variables["params"]["head"]["bias"]
    variables["params"]["extra"] = np.zeros(3)
    variables["params"]["stem"]["kernel"] = np.zeros(3)
    with pytest.raises(WeightsError) as error:
        convert.invert(toy_table(), variables)
    for part in (
        "1 leaves that the key table does not name: params/extra",
        "1 leaves that are missing: params/head/bias",
        "params/stem/kernel (layout conv_2d takes 4 axes, not 1)",
    ):
        assert part in str(error.value)


def test_the_identity_table_takes_our_own_names():
    variables = convert.apply(toy_table(), toy_arrays(), toy_template())
    table = convert.identity_table(toy_template())
    flat = convert.invert(table, variables)
    assert flat.keys() == named_leaves(variables).keys()
    jax.tree.map(
        np.testing.assert_array_equal,
        convert.apply(table, flat, toy_template()),
        variables,
    )


@pytest.mark.parametrize("kind", ["source", "target"])
def test_a_table_names_each_key_and_each_leaf_once(kind):
    one = Entry("a", "params/a", convert.VECTOR)
    other = {
        "source": one._replace(target="params/b"),
        "target": one._replace(source="b"),
    }
    with pytest.raises(
        ValueError, match=f"more than one entry of the table has {kind}"
    ):
        Table((one, other[kind]))


def copied_table():
    table = toy_table()
    pairs = (("shared.", "block.1."), ("shared_too.0.", "block.0.conv."))
    return dataclasses.replace(table, copies=pairs)


def with_copies():
    arrays = toy_arrays()
    pairs = {"shared.": "block.1.", "shared_too.0.": "block.0.conv."}
    copies = {
        f"module.{copy}{k.removeprefix(of)}": v.copy()
        for copy, of in pairs.items()
        for k, v in arrays.items()
        if k.startswith(of)
    }
    assert len(copies) > 3
    return arrays | copies, copies


def test_copies_are_named_and_make_no_difference():
    arrays, copies = with_copies()
    found = convert.match(copied_table(), arrays, toy_template())
    assert found.problems() == ""
    assert set(found.copies) == set(copies)
    want = convert.apply(toy_table(), toy_arrays(), toy_template())
    got = convert.apply(copied_table(), arrays, toy_template())
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_a_copy_stands_in_for_an_absent_original():
    arrays, _ = with_copies()
    kept = {k: v for k, v in arrays.items() if not k.startswith("block.1.")}
    assert len(kept) < len(arrays)
    got = convert.apply(copied_table(), kept, toy_template())
    want = convert.apply(toy_table(), toy_arrays(), toy_template())
    jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize("change", [lambda x: -x, lambda x: x[:1], np.float64])
def test_a_copy_that_differs_in_any_way_is_refused(change):
    arrays, _ = with_copies()
    key = "module.shared.conv.bias"
    arrays[key] = change(arrays[key] + 1)
    text = error_of(copied_table(), arrays, toy_template())
    assert (
        f"1 arrays that do not fit: {key} (is not the copy of block.1.conv.bias" in text
    )


def test_a_copy_of_nothing_is_a_key_without_a_place():
    arrays = toy_arrays() | {"shared.unknown": np.zeros(3)}
    text = error_of(copied_table(), arrays, toy_template())
    assert "1 keys that the network has no place for: shared.unknown" in text
