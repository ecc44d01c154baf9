"""Networks that restore pictures, as one callable: pictures in [0, 1] in, the same out.

It pads what the network cannot take as it is, runs large pictures in tiles, and compiles one
program per padded size.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from zoo_jax import models
from zoo_jax.core.errors import ConfigError, DataError, DeviceError, closest
from zoo_jax.core.tree import named_leaves
from zoo_jax.core.types import Restoring

Padding = Literal["reflect", "edge", "reference"]
OVERLAP = 64  # pixels that two tiles share, of a network without a known reach


class Restorer:
    """Restores pictures of any size.

    Padding is at the bottom and on the right, and is cut off again. It matters: networks that
    normalise by the statistics of the picture see the padded pixels too, and convolutions see
    them near the border.

    - ``"reflect"`` mirrors the picture, ``"edge"`` repeats its border, both up to the next
      multiple that the network takes (or of `bucket`).
    - ``"reference"`` is what the released code of the method does: its size and its grey.

    With `tile`, pictures larger than a tile are cut into tiles that overlap. A network with a
    known reach gives what it gives for the whole picture: what a tile's inner border spoils is
    cut off. A network that normalises by statistics of the picture runs twice: the first pass
    takes the statistics of every tile, merges them, and the second normalises all tiles by the
    merged ones, so that they agree. This is an approximation: the statistics of deep layers were
    taken behind layers that normalised by the statistics of a tile. Results are blended
    over half of each overlap; a quarter of it is cut off at either side.

    Args:
      model: Of a name whose entry in `zoo_jax.models.MODELS` has a `restorer`.
      pad: How to pad.
      tile: Height and width of a tile; None never tiles. Memory grows with it, not with the
        picture.
      overlap: Pixels that neighbouring tiles share; None for twice the network's reach, or
        `OVERLAP`.
      batch: Pictures, or tiles, that run together.
      bucket: Pad to multiples of this, so that pictures of many sizes share programs. None
        for the least that the network needs.

    Attributes:
      channels: Of the pictures.
      minimum: Height and width that smaller pictures are padded to.
      batch: As given.

    Raises:
      ConfigError: for a model that restores nothing, or options that do not fit it.
    """

    def __init__(
        self,
        model: models.Model,
        *,
        pad: Padding = "reflect",
        tile: int | None = None,
        overlap: int | None = None,
        batch: int = 1,
        bucket: int | None = None,
    ):
        self._restoring = how = restoring_of(model)
        self.model, self.channels, self.minimum = model, how.channels, how.minimum
        if pad not in get_args(Padding):
            raise ConfigError(
                f"unknown padding {pad!r}: {closest(pad, get_args(Padding))}"
            )
        if batch < 1:
            raise ConfigError(f"batch must be at least 1, got {batch}")
        if batch > 1 and getattr(model.module, "norm_mode", None) == "batch":
            raise ConfigError(
                f"norm_mode='batch' would mix the {batch} pictures of a batch: set batch to 1,"
                " or norm_mode to 'per_image'"
            )
        if bucket is not None and (bucket < 1 or bucket % how.multiple):
            raise ConfigError(
                f"bucket must be a multiple of {how.multiple} for {model.name}, got {bucket}"
            )
        self._pad, self.batch, self._bucket = pad, batch, bucket
        if overlap is None:
            overlap = (
                OVERLAP if how.reach is None else _ceil(2 * how.reach, how.multiple)
            )
        self._tile, self._overlap = tile, overlap
        if tile is not None:
            self._check_tile()

    def __call__(
        self, images: UInt8[np.ndarray, "b h w c"] | Float[np.ndarray, "b h w c"]
    ) -> Float[np.ndarray, "b h w c"]:
        """Returns restored pictures, float32 in [0, 1].

        Args:
            images: uint8, or floats in [0, 1].

        Raises:
            ConfigError: for another shape than `channels` allow.
            DataError: if the network gives numbers that are not finite.
            DeviceError: if the memory of the device is too small.
        DeviceError: if the memory of the device is too small.
        """
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[-1] != self.channels or 0 in images.shape:
            raise ConfigError(
                f"{self.model.name} restores pictures [b, h, w, {self.channels}], got shape"
                f" {images.shape}"
            )
        if images.dtype != np.uint8:
            images = images.astype(np.float32)
        _, height, width, _ = images.shape
        padded = self._padded(images)
        if self._tile is not None and max(padded.shape[1:3]) > self._tile:
            out = np.stack([self._in_tiles(image) for image in padded])
        else:
            out = self._in_batches(padded, self.model.module, self.model.variables)
        out = out[:, :height, :width]
        if not np.isfinite(out).all():
            raise DataError(
                f"{self.model.name} gave numbers that are not finite: try dtype float32, and"
                " check the weights"
            )
        return out

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """The size that a picture runs at; pictures of one size share a program."""
        how, sides = self._restoring, []
        step = self._bucket or how.multiple
        for side in (height, width):
            if self._pad == "reference":
                side = how.reference_side(side)
            sides.append(_ceil(max(side, how.minimum), step))
        return sides[0], sides[1]

    @property
    def settings(self) -> dict[str, Any]:
        """What decides results, as JSON values; weights by a checksum."""
        sha = hashlib.sha256()
        for name, leaf in sorted(named_leaves(self.model.variables).items()):
            sha.update(name.encode() + np.asarray(leaf).tobytes())
        return {
            "model": self.model.name,
            "network": " ".join(repr(self.model.module).split()),
            "weights": sha.hexdigest(),
            "pad": self._pad,
            "tile": self._tile,
            "overlap": self._overlap,
            "bucket": self._bucket,
        }

    # --- internals --------------------------------------------------------------------------

    def _check_tile(self) -> None:
        how, tile, overlap = self._restoring, self._tile, self._overlap
        assert tile is not None
        for name, value in (("tile", tile), ("overlap", overlap)):
            if value < 0 or value % how.multiple:
                raise ConfigError(
                    f"{name} must be a multiple of {how.multiple} for {self.model.name}, got"
                    f" {value}"
                )
        least = max(how.minimum, overlap + how.multiple)
        if tile < least:
            raise ConfigError(
                f"tile must be at least {least} for {self.model.name} with an overlap of"
                f" {overlap}, got {tile}"
            )
        if how.reach is not None and overlap < 2 * how.reach:
            raise ConfigError(
                f"overlap must be at least {2 * how.reach} for {self.model.name}, whose pixels"
                f" depend on others {how.reach} away, got {overlap}"
            )

    def _padded(self, images: np.ndarray) -> np.ndarray:
        _, h, w, _ = images.shape
        height, width = self.padded_size(h, w)
        if (height, width) == (h, w):
            return images
        widths = ((0, 0), (0, height - h), (0, width - w), (0, 0))
        if self._pad != "reference":
            return np.pad(images, widths, mode=self._pad)
        # Mid-grey is no whole number of 255, so here bytes become floats.
        if images.dtype == np.uint8:
            images = images.astype(np.float32) / np.float32(255)
        fill = np.float32(self._restoring.reference_fill)
        return np.pad(images, widths, constant_values=fill)

    def _in_batches(
        self, images: np.ndarray | Sequence[np.ndarray], module: Any, variables: Any
    ) -> np.ndarray:
        """Runs pictures of one size; a short batch is filled up, not compiled anew."""
        out = []
        for first in range(0, len(images), self.batch):
            some = np.stack(images[first : first + self.batch])
            missing = self.batch - len(some)
            filled = np.concatenate([some, np.repeat(some[-1:], missing, axis=0)])
            try:
                y = np.asarray(_run(self._restoring.apply, module, variables, filled))
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                _, height, width, _ = filled.shape
                raise DeviceError(
                    f"{self.batch} x {height}x{width} pixels need more memory than the"
                    " device has: run in smaller tiles, or a smaller batch"
                ) from None
            out.append(y[: len(some)])
        return np.concatenate(out)

    def _in_tiles(self, image: np.ndarray) -> np.ndarray:
        how, tile, overlap = self._restoring, self._tile, self._overlap
        height, width, _ = image.shape
        size = min(tile, height), min(tile, width)
        module, variables = self.model.module, self.model.variables
        if how.statistics is not None:
            found = [
                jax.device_get(
                    _run(how.statistics, module, variables, _cut(image, at, size)[None])
                )
                for at in _places((height, width), size, 0)
            ]
            variables = {**variables, "batch_stats": merge_statistics(found)}
            module = how.fixed(module)
        margin = overlap // 4 if how.reach is None else how.reach
        rows, columns = (
            _weights(whole, part, overlap, margin)
            for whole, part in zip((height, width), size, strict=True)
        )
        out = np.zeros(image.shape, np.float32)
        places = _places((height, width), size, overlap)
        for first in range(0, len(places), self.batch):
            some = places[first : first + self.batch]
            tiles = [_cut(image, at, size) for at in some]
            done = self._in_batches(tiles, module, variables)
            for (top, left), y in zip(some, done, strict=True):
                weight = np.outer(rows[top], columns[left])[..., None]
                out[top : top + size[0], left : left + size[1]] += weight * y
        return out


def restoring_of(model: models.Model) -> Restoring:
    """How a model restores pictures. Raises `ConfigError` for one that does not."""
    path = models.get_entry(model.name).restorer
    if path is None:
        names = [name for name, entry in models.MODELS.items() if entry.restorer]
        raise ConfigError(
            f"{model.name} restores no pictures: choose from {', '.join(sorted(names))}"
        )
    return models.import_object(path)(model.module)


def merge_statistics(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and variance of a whole from those of parts of equal size, at every norm.

    The variance of the whole is the mean of the variances and the variance of the means.

    >>> one, two = ({"mean": np.array([m]), "var": np.array([1.0])} for m in (0.0, 4.0))
    >>> {k: v.tolist() for k, v in merge_statistics([one, two]).items()}
    {'mean': [2.0], 'var': [5.0]}
    """
    if set(parts[0]) == {"mean", "var"}:
        means, variances = (
            np.stack([part[key] for part in parts]).astype(np.float64)
            for key in ("mean", "var")
        )
        var = np.mean(variances, axis=0) + np.var(means, axis=0)
        return {
            "mean": np.mean(means, axis=0).astype(np.float32),
            "var": var.astype(np.float32),
        }
    return {key: merge_statistics([part[key] for part in parts]) for key in parts[0]}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(function, module, variables, x):
    """Applies a function of `Restoring`; bytes become floats on the device."""
    if x.dtype == jnp.uint8:
        x = x.astype(jnp.float32) / 255
    return function(module, variables, x)


def _cut(image: np.ndarray, at: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    return image[at[0] : at[0] + size[0], at[1] : at[1] + size[1]]


def _places(
    whole: tuple[int, int], size: tuple[int, int], overlap: int
) -> list[tuple[int, int]]:
    """Top left corners of the tiles of a picture."""
    rows, columns = (_starts(a, b, overlap) for a, b in zip(whole, size, strict=True))
    return [(top, left) for top in rows for left in columns]


def _starts(whole: int, part: int, overlap: int) -> list[int]:
    """Where tiles begin along one axis; the last one is moved back to end at the border.

    >>> _starts(100, 40, 10), _starts(40, 40, 10)
    ([0, 30, 60], [0])
    """
    step = part - overlap
    count = 1 + -(-max(whole - part, 0) // step)
    return [min(i * step, whole - part) for i in range(count)]


def _weights(whole: int, part: int, overlap: int, margin: int) -> dict[int, np.ndarray]:
    """Start of a tile -> weights of its rows (or columns), which add up to 1 everywhere.

    At an inner border, `margin` pixels count nothing, and the weight rises from there on over
    the rest of the overlap.
    """
    starts = _starts(whole, part, overlap)
    rise = max(overlap - 2 * margin, 1)
    inside = np.arange(part, dtype=np.float64)
    raw, total = {}, np.zeros(whole)
    for start in starts:
        weight = np.ones(part)
        if start > 0:
            weight *= np.clip((inside - margin + 0.5) / rise, 0, 1)
        if start + part < whole:
            weight *= np.clip((part - 1 - inside - margin + 0.5) / rise, 0, 1)
        raw[start] = weight
        total[start : start + part] += weight
    return {
        start: (weight / total[start : start + part]).astype(np.float32)
        for start, weight in raw.items()
    }


def _ceil(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
