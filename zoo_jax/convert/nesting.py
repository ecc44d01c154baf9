"""Checkpoints of nested dictionaries -> flat keys."""

from collections.abc import Iterator, Mapping
from typing import Any

# A training checkpoint holds its weights under one of these. The first that is there and is
# a dictionary is taken, again and again, until none is left.
CONTAINERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "g_ema",
    "params_ema",
    "params",
)


def unnest(content: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of the weights in a checkpoint, under keys that are joined with dots.

    >>> dict(unnest({"epoch": 3, "model": {"conv": {"weight": 1, "bias": 2}}}))
    {'conv.weight': 1, 'conv.bias': 2}
    """
    while isinstance(content, Mapping):
        inner = (content.get(key) for key in CONTAINERS)
        found = next((value for value in inner if isinstance(value, Mapping)), None)
        if found is None:
            break
        content = found
    # Each dictionary once: a pickle may hold itself.
    stack, seen = [("", content)], set()
    while stack:
        prefix, value = stack.pop()
        if not isinstance(value, Mapping):
            yield prefix, value
        elif id(value) not in seen:
            seen.add(id(value))
            dot = f"{prefix}." if prefix else ""
            stack += [(f"{dot}{k}", v) for k, v in reversed(value.items())]
