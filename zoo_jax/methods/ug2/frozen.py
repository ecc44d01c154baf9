"""Networks that judge while another is trained: no player owns them, so nothing moves them."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from zoo_jax.convert import (
    Entry,
    Table,
    apply,
    conv_entries,
    identity_table,
    open_weights,
)
from zoo_jax.core.config import to_dict
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.files import PathLike
from zoo_jax.core.types import Key
from zoo_jax.methods.ug2.model import make_small_cnn
from zoo_jax.methods.ug2.recognisers import NETWORKS, normalise
from zoo_jax.nn.vgg import Vgg19Features

Judge = Callable[[Mapping[str, Any], Float[Array, "b h w 3"]], Array]


class Frozen(NamedTuple):
    """A network that a loss looks through. Pictures are RGB in [0, 1], as a restorer makes them."""

    init: Callable[[Key], dict[str, Any]]  # its variables, read or drawn
    features: Judge | None = None  # (variables, pictures) -> [b i j c]
    probabilities: Judge | None = None  # (variables, pictures) -> [b n]


def make_recogniser_judge(section: Mapping[str, Any], *, own_units: bool) -> Frozen:
    """The frozen recogniser of a config section.

    Args:
      section: ``dict(name="small_cnn", **arguments)``: fresh, to be filled by ``init_from``. Or
        ``dict(name="vgg16", weights=FILE, size=224)`` and the other names of
        `recognisers.NETWORKS`; pictures are enlarged bilinearly to `size`.
      own_units: Normalise pictures as the recogniser was trained with. The released code hands
        them over in [0, 1], which its VGG-16 has never seen; that is False.

    Raises:
      ConfigError: for a section that does not fit.
    """
    options = to_dict(section)
    name = options.pop("name", None)
    if name == "small_cnn":
        return small_cnn_judge(options)
    if name not in NETWORKS:
        known = ("small_cnn", *NETWORKS)
        raise ConfigError(f"unknown recogniser.name {name!r}: {closest(name, known)}")
    weights, size = options.pop("weights", ""), options.pop("size", NETWORKS[name].size)
    if options:
        raise ConfigError(
            f"recogniser {name} takes weights and size, not {list(options)}"
        )
    if not weights:
        raise ConfigError(f"recogniser {name} needs weights: recogniser.weights=FILE")
    module = NETWORKS[name].build()

    read = functools.cache(lambda: _read(module, NETWORKS[name].table(), weights, size))

    def probabilities(variables: Mapping[str, Any], x: Array) -> Array:
        b, h, w, c = x.shape
        if (h, w) != (size, size):
            x = jax.image.resize(x, (b, size, size, c), "linear")
        x = normalise(x, name) if own_units else x
        return jax.nn.softmax(module.apply(variables, x, train=False))

    return Frozen(lambda key: read(), probabilities=probabilities)


def small_cnn_judge(options: Mapping[str, Any]) -> Frozen:
    """The small recogniser, fresh; both its answers are of use. Its units are [0, 1]."""
    module = make_small_cnn(options)

    def init(key: Key) -> dict[str, Any]:
        return dict(module.init(key, jnp.zeros((1, 8, 8, 3))))

    return Frozen(
        init,
        features=lambda variables, x: module.apply(variables, x)[1],
        probabilities=lambda variables, x: jax.nn.softmax(
            module.apply(variables, x)[0]
        ),
    )


def vgg16_judge(weights: PathLike, *, own_units: bool) -> Frozen:
    """VGG-16 behind the ReLU of conv2_2: the published features.

    Args:
      weights: A file in torchvision's layout, without batch norm; VGG-19 begins alike.
      own_units: As in `make_recogniser_judge`.
    """
    if not weights:
        raise ConfigError(
            "loss.features='vgg16' needs loss.vgg16, a file with its weights; without one choose "
            "loss.features='recogniser' or 'none'"
        )
    module = Vgg19Features("conv2_2")  # VGG-16 differs from conv3_4 on
    entries: list[Entry] = []
    places = {"conv1_1": 0, "conv1_2": 2, "conv2_1": 5, "conv2_2": 7}
    for name, number in places.items():
        entries += conv_entries(f"features.{number}", name)
    table = Table(tuple(entries), ignore=("features.[123]?.*", "classifier.*"))

    read = functools.cache(lambda: _read(module, table, weights, 32, flags={}))

    def features(variables: Mapping[str, Any], x: Array) -> Array:
        x = normalise(x, "vgg16") if own_units else x
        return jax.nn.relu(module.apply(variables, x))

    return Frozen(lambda key: read(), features=features)


def _read(
    module: Any, table: Table, weights: PathLike, size: int, *, flags: Any = None
) -> dict[str, Any]:
    flags = {"train": False} if flags is None else flags
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    key = jax.random.key(0)
    template = dict(jax.eval_shape(lambda k, x: module.init(k, x, **flags), key, x))
    file = open_weights(weights)
    table = identity_table(template) if file.ours else table
    return apply(table, file.arrays, template, where=str(weights))
