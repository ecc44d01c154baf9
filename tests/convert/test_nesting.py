import pytest

from zoo_jax.convert import unnest


@pytest.mark.parametrize(
    "content",
    [
        {"a.b": 1, "a.c": 2},
        {"a": {"b": 1, "c": 2}},
        {"epoch": 7, "model": {"a.b": 1, "a": {"c": 2}}},
        {"optimizer": {"x": 3}, "state_dict": {"model": {"a.b": 1, "a.c": 2}}},
    ],
)
def test_weights_are_found_under_flat_keys(content):
    assert dict(unnest(content)) == {"a.b": 1, "a.c": 2}


def test_an_array_named_as_a_container_is_a_weight():
    assert dict(unnest({"model": 1, "b": {"params": 2}})) == {"model": 1, "b.params": 2}


def test_a_dictionary_that_holds_itself_ends():
    content = {"a": 1}
    content["b"] = content
    assert dict(unnest(content)) == {"a": 1}
