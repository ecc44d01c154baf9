"""Experiment configs: parsing their argument, comparing them, and keeping them as JSON."""

import ast
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from zoo_jax.core.errors import ConfigError, closest


def parse_arg(arg: str | None, **defaults: Any) -> ml_collections.ConfigDict:
    """Reads the part after the colon of ``--config=file.py:tiny,seed=3``.

    Args:
      arg: Comma-separated ``name`` (a boolean switch) or ``name=value``; values have no commas.
      **defaults: Every name that is understood, with its default. A value is converted to
        the type of its default.

    Returns:
      The defaults with the given values put in.

    Raises:
      ConfigError: for an unknown name or a value of another type.
    """
    out = ml_collections.ConfigDict(defaults)
    for part in filter(None, (p.strip() for p in (arg or "").split(","))):
        name, equals, text = part.partition("=")
        if name not in defaults:
            raise ConfigError(
                f"unknown config argument {name!r}: {closest(name, defaults)}"
            )
        default = defaults[name]
        if not equals:
            if not isinstance(default, bool):
                raise ConfigError(
                    f"config argument {name!r} needs a value: {name}={default!r}"
                )
            out[name] = True
            continue
        out[name] = _convert(name, text, default)
    return out


def parse_pairs(pairs: Sequence[str], *, flag: str = "--set") -> dict[str, Any]:
    """Reads what a command line says in pairs: ``["depth=22"]`` -> ``{"depth": 22}``.

    What is no Python literal stays a string.

    Args:
      pairs: ``KEY=VALUE`` each.
      flag: For the message.

    Raises:
      ConfigError: for one without a key or an equals sign.
    """
    out = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(
                f"{flag} takes KEY=VALUE, e.g. num_classes=100, not {pair!r}"
            )
        try:
            out[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            out[key] = text
    return out


def _convert(name: str, text: str, default: Any) -> Any:
    try:
        if isinstance(default, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if isinstance(default, str):
            return text
        if isinstance(default, int | float):
            return type(default)(text)
        return ast.literal_eval(text)
    except (KeyError, ValueError, SyntaxError):
        kind = type(default).__name__
        raise ConfigError(
            f"config argument {name}={text!r} is not of type {kind}, e.g. {name}={default!r}"
        ) from None


def to_dict(config: Any) -> Any:
    """Plain dictionaries, lists and scalars, ready for JSON."""
    if isinstance(config, ml_collections.ConfigDict | ml_collections.FrozenConfigDict):
        config = config.to_dict()
    if isinstance(config, Mapping):
        return {str(k): to_dict(v) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return [to_dict(v) for v in config]
    if config is None or isinstance(config, bool | int | float | str):
        return config
    raise ConfigError(f"configs hold numbers, strings, lists and dicts, not {config!r}")


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """``{"optim.lr": 0.1, ...}``; an empty section stays as one entry."""
    config = to_dict(config)
    out: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            out.update(flatten(value, name + "."))
        else:
            out[name] = value
    return out


def differences(new: Any, old: Any) -> list[str]:
    """One line per key that differs: ``optim.lr: 0.1 -> 0.2`` (old -> new)."""
    a, b = flatten(old), flatten(new)
    return [
        f"{k}: {a[k]!r} -> {b[k]!r}"
        if k in a and k in b
        else f"{k}: absent -> {b[k]!r}"
        if k in b
        else f"{k}: {a[k]!r} -> absent"
        for k in sorted(a.keys() | b.keys())
        if k not in a or k not in b or a[k] != b[k]
    ]


def digest(config: Any) -> str:
    """SHA-256 of the config's canonical JSON."""
    text = json.dumps(to_dict(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def require_keys(section: Mapping[str, Any], allowed, where: str) -> None:
    """Raises `ConfigError` for the first key of `section` that is not in `allowed`."""
    for key in section:
        if key not in allowed:
            raise ConfigError(f"unknown key {where}.{key}: {closest(key, allowed)}")


def whole_section(
    section: Mapping[str, Any] | None, keys: Sequence[str], where: str
) -> dict[str, Any]:
    """A section that has every one of `keys` and no other, as a plain dict.

    Raises:
      ConfigError: for the first key that is unknown or absent.

    >>> whole_section({"zoom": 96}, ["zoom"], "study")
    {'zoom': 96}
    """
    plain = to_dict(section or {})
    require_keys(plain, keys, where)
    for key in keys:
        if key not in plain:
            raise ConfigError(f"{where} lacks {key!r}: it needs {', '.join(keys)}")
    return plain
