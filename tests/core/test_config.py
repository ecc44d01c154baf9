"""Config arguments, comparison and identity."""

import ml_collections
import pytest

from zoo_jax.core.config import (
    differences,
    digest,
    flatten,
    parse_arg,
    require_keys,
    to_dict,
    whole_section,
)
from zoo_jax.core.errors import ConfigError


def test_arguments_take_the_type_of_their_default():
    c = parse_arg(
        "tiny,seed=3,lr=1,name=a=b,k=[1]", tiny=False, seed=0, lr=0.5, name="", k=()
    )
    assert (c.tiny, c.seed, c.lr, c.name, c.k) == (True, 3, 1.0, "a=b", (1,))
    assert isinstance(c.lr, float)
    assert parse_arg(None, tiny=False).tiny is False
    assert parse_arg("tiny=false", tiny=True).tiny is False


@pytest.mark.parametrize(
    ("arg", "match"),
    [
        ("tinny", "did you mean 'tiny'"),
        ("seed=x", "seed='x' is not of type int"),
        ("tiny=maybe", "not of type bool"),
        ("seed", "needs a value: seed=0"),
    ],
)
def test_wrong_arguments_say_how_to_mend_them(arg, match):
    with pytest.raises(ConfigError, match=match):
        parse_arg(arg, tiny=False, seed=0)


def test_differences_name_every_changed_added_and_removed_key():
    old = ml_collections.ConfigDict(dict(a=1, b=dict(c=2, d=(1, 2)), e={}))
    new = ml_collections.ConfigDict(dict(a=1, b=dict(c=3, d=[1, 2]), f=None))
    assert differences(new, old) == [
        "b.c: 2 -> 3",
        "e: {} -> absent",
        "f: absent -> None",
    ]
    assert differences(old, to_dict(old)) == []


def test_digest_follows_content_not_order():
    assert digest(dict(a=1, b=2)) == digest(dict(b=2, a=1))
    assert digest(dict(a=1, b=2)) != digest(dict(a=1, b=3))
    assert digest(dict(a=(1,))) == digest(ml_collections.ConfigDict(dict(a=[1])))


def test_configs_hold_plain_values_only():
    with pytest.raises(ConfigError, match="not <object"):
        to_dict(dict(a=object()))
    assert flatten(dict(a=dict(b=dict(c=1)))) == {"a.b.c": 1}


def test_unknown_keys_are_named_with_the_closest():
    with pytest.raises(ConfigError, match=r"optim\.learning_rat: did you mean"):
        require_keys({"learning_rat": 1}, {"learning_rate"}, "optim")


def test_a_whole_section_lacks_nothing_and_has_nothing_else():
    given = ml_collections.ConfigDict(dict(a=1, b=(2, 3)))
    assert whole_section(given, ("a", "b"), "study") == {"a": 1, "b": [2, 3]}
    with pytest.raises(ConfigError, match=r"study lacks 'c': it needs a, b, c"):
        whole_section(given, ("a", "b", "c"), "study")
    with pytest.raises(ConfigError, match=r"unknown key study\.b"):
        whole_section(given, ("a",), "study")
    with pytest.raises(ConfigError, match="study lacks 'a'"):
        whole_section(None, ("a",), "study")
