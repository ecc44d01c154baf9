"""Decoding of untrusted image files: an array, or one `MediaError` with the file and why."""

import io
import os
import pathlib
from collections.abc import Callable
from typing import Literal, TypeVar

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image, ImageOps

from zoo_jax.core.errors import ConfigError, MediaError, closest

# Below Pillow's own limit, so that ours speaks first. A 1 GB array at most.
MAX_PIXELS = 80_000_000

# What is sniffed for. Left out on purpose: formats that run other programs (EPS) and rare
# ones, whose readers are attacked most easily.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
EXTENSIONS = frozenset(
    ".bmp .gif .jpeg .jpg .pgm .png .pnm .ppm .tif .tiff .webp".split()
)

T = TypeVar("T")
_CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}


def decode_image(
    source: str | os.PathLike[str] | bytes,
    *,
    mode: Literal["RGB", "RGBA", "L"] = "RGB",
    bits: Literal[8, 16] = 8,
    max_pixels: int = MAX_PIXELS,
) -> UInt8[np.ndarray, "h w c"] | UInt16[np.ndarray, "h w c"]:
    """Decodes one image.

    The content decides the format, not the file name. The EXIF orientation is applied. Of an
    animation, the first frame is taken. Colour profiles are ignored.

    - Grey becomes RGB by repetition, RGB becomes grey by ITU-R 601-2 luma.
    - Palettes are looked up. CMYK is converted without a profile.
    - Transparent pixels are blended over white unless ``mode="RGBA"``.
    - 16-bit grey is scaled and rounded to 8 bits, not clipped. With ``bits=16`` it keeps its
      values and 8-bit images are multiplied by 257. (Pillow reads 16-bit colour as 8-bit.)

    Args:
      source: A path, or the bytes of a file.
      mode: Channels of the result: 3, 4 or 1.
      bits: 8 for uint8 in [0, 255], 16 for uint16 in [0, 65535].
      max_pixels: Larger images are refused from their header, before decoding.

    Raises:
      MediaError: if the file is absent, empty, truncated, damaged, too large or no image.
    """
    if mode not in _CHANNELS:
        raise ConfigError(f"unknown image mode {mode!r}: {closest(mode, _CHANNELS)}")
    if bits not in (8, 16):
        raise ConfigError(f"bits must be 8 or 16, got {bits!r}")
    return decode_with(
        source,
        lambda image: _convert(ImageOps.exif_transpose(image), mode, bits),
        max_pixels=max_pixels,
    )


def decode_indices(
    source: str | os.PathLike[str] | bytes, *, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "h w"]:
    """Decodes a mask of class indices: a grey image, or the indices of one with a palette.

    The palette itself is ignored, so a class is what the file says and not what it looks like.

    Raises:
      MediaError: as `decode_image`, and for an image that is neither.
    """

    def convert(image: Image.Image) -> np.ndarray:
        if image.mode not in ("L", "P"):
            raise MediaError(
                f"a mask of mode {image.mode}: class indices need a grey image or a palette"
            )
        return np.asarray(ImageOps.exif_transpose(image))

    return decode_with(source, convert, max_pixels=max_pixels)


def decode_with(
    source: str | os.PathLike[str] | bytes,
    convert: Callable[[Image.Image], T],
    *,
    max_pixels: int = MAX_PIXELS,
) -> T:
    """Opens an image file, looks at its header, and returns what `convert` makes of it.

    Raises:
      MediaError: as `decode_image`, and for whatever `convert` trips over.
    """
    name = f"<{len(source)} bytes>" if isinstance(source, bytes) else str(source)
    try:
        data = (
            source if isinstance(source, bytes) else pathlib.Path(source).read_bytes()
        )
    except OSError as e:
        raise MediaError(f"{name}: cannot be read: {e.strerror}") from None
    if not data:
        raise MediaError(f"{name}: the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width < 1 or height < 1:
                raise MediaError(f"{name}: an image of {width}x{height} pixels")
            if width * height > max_pixels:
                raise MediaError(
                    f"{name}: {width}x{height} pixels are more than the limit of "
                    f"{max_pixels:,}: shrink the image or raise max_pixels"
                )
            return convert(image)
    except MediaError:
        raise
    except Image.UnidentifiedImageError:
        raise MediaError(
            f"{name}: not an image of a known format ({', '.join(FORMATS)})"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        raise MediaError(
            f"{name}: more pixels than the limit of {max_pixels:,}: {e}"
        ) from None
    except Exception as e:
        # Readers of damaged files raise whatever their parsing trips over: struct.error,
        # SyntaxError, IndexError, ... Each of them means the same to the caller.
        raise MediaError(f"{name}: damaged {type(e).__name__}: {e}") from e


def _convert(image: Image.Image, mode: str, bits: int) -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit grey; 32-bit only if its values fit
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise MediaError(f"integers of {image.mode} beyond 16 bits")
        if bits == 8:
            wide = (wide * 255 + 32767) // 65535
        out = np.repeat(wide[..., None], min(_CHANNELS[mode], 3), axis=-1)
        if mode == "RGBA":
            opaque = np.full((*wide.shape, 1), 2**bits - 1)
            out = np.concatenate([out, opaque], axis=-1)
        return out.astype(np.uint8 if bits == 8 else np.uint16)
    if image.mode == "F":
        raise MediaError("floating-point pixels have no known range")
    transparent = "A" in image.mode or "a" in image.mode or "transparency" in image.info
    if mode == "RGBA":
        image = image.convert("RGBA")
    elif transparent:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert(mode)
    else:
        image = image.convert(mode)
    out = np.asarray(image).reshape(image.height, image.width, _CHANNELS[mode])
    return out if bits == 8 else out.astype(np.uint16) * np.uint16(257)
