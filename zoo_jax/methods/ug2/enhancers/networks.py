"""Enhancers that are networks: published or trained weights -> a function of pictures."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from zoo_jax.convert import Table, apply, identity_table, open_weights
from zoo_jax.core.errors import ConfigError, WeightsError
from zoo_jax.core.files import PathLike
from zoo_jax.core.types import RestoreFn
from zoo_jax.methods.ug2 import tables
from zoo_jax.methods.ug2.model import make_network
from zoo_jax.methods.ug2.restorer import (
    restore_enlarged,
    restore_matched,
    restore_plain,
)

Weights = PathLike | Mapping[str, Any]

_TABLES: dict[str, Callable[[Any], Table]] = {
    "arcnn": lambda module: tables.arcnn_table(module.form),
    "srcnn": lambda module: tables.srcnn_table(),
    "srnet": lambda module: tables.srnet_table(module.blocks),
    "vdsr": lambda module: tables.vdsr_table(module.depth),
}
_RESTORE = {
    "arcnn": restore_plain,
    "srcnn": restore_enlarged,
    "srnet": restore_matched,
    "vdsr": restore_enlarged,
}


def network_enhancer(
    network: str,
    *,
    weights: Weights | None = None,
    enlarge: bool | None = None,
    **arguments: Any,
) -> RestoreFn:
    """Builds a network, fills it, and returns it as a function of pictures.

    Args:
      network: One of `model.NETWORKS`.
      weights: A file with the keys of the published layout, or one that this project wrote, or
        variables ``{"params": ..., "batch_stats": ...}``.
      enlarge: Whether the network sees the picture at twice its size, as super-resolution does;
        None for what it is made for: SRCNN and VDSR do. SRNet never does.
      **arguments: Of the network's builder.

    Raises:
      ConfigError: without weights, or for an argument that the network does not have.
      WeightsError: for a file that is absent, damaged, or does not fit.
    """
    if weights is None:
        raise ConfigError(
            f"{network} is a network and needs weights: weights=FILE, a .pth, .npz or "
            f".safetensors file; train one by experiments/configs/ug2/srnet.py"
        )
    module = make_network({"name": network, **arguments}, where=network)
    variables = load_network(network, module, weights)
    restore = _RESTORE[network]
    if enlarge is not None and network != "srnet":
        restore = restore_enlarged if enlarge else restore_plain
    return functools.partial(restore, module, variables)


srcnn = functools.partial(network_enhancer, "srcnn")
vdsr = functools.partial(network_enhancer, "vdsr")
arcnn = functools.partial(network_enhancer, "arcnn")
srnet = functools.partial(network_enhancer, "srnet")


def load_network(network: str, module: Any, weights: Weights) -> dict[str, Any]:
    """The variables of a network; see `network_enhancer` for arguments and errors."""
    x = jax.ShapeDtypeStruct((1, 16, 16, getattr(module, "channels", 3)), jnp.float32)
    template = dict(jax.eval_shape(module.init, jax.random.key(0), x))
    if isinstance(weights, Mapping):
        shapes, given = (jax.tree.map(jnp.shape, dict(v)) for v in (template, weights))
        if shapes != given:
            raise WeightsError(f"the given variables do not fit {network}")
        return dict(weights)
    file = open_weights(weights)
    table = identity_table(template) if file.ours else _TABLES[network](module)
    return apply(table, file.arrays, template, where=str(weights))
