"""Pictures that are to be written again: with transparency, depth, profile and EXIF data."""

import os
import pathlib
import struct
import zlib
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image

from zoo_jax.core.errors import ConfigError, MediaError
from zoo_jax.core.files import atomic_write
from zoo_jax.data.media import MAX_PIXELS, decode_with

# Suffix -> Pillow's format and how to save in it. GIF is not among them: its palette would
# undo what was restored.
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".bmp": ("BMP", {}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".pgm": ("PPM", {}),
    ".png": ("PNG", {}),
    ".pnm": ("PPM", {}),
    ".ppm": ("PPM", {}),
    ".tif": ("TIFF", {"compression": "tiff_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_deflate"}),
    ".webp": ("WEBP", {"quality": 95}),
}
_TRANSPARENT = ("PNG", "TIFF", "WEBP", "BMP")
_DEEP = {"PNG": ("png", "be"), "TIFF": ("tiff", "le")}  # FFmpeg's codec and byte order
_DEEP_MODES = {"gray16": 1, "ya16": 2, "rgb48": 3, "rgba64": 4}  # channels
_BYTE_ORDER = {"le": "<u2", "be": ">u2"}
_ORIENTATION = 0x0112


class Picture(NamedTuple):
    """One decoded picture, upright, and what its file says beside the pixels."""

    pixels: UInt8[np.ndarray, "h w c"] | UInt16[np.ndarray, "h w c"]  # c: 1 grey, 3 RGB
    alpha: np.ndarray | None = None  # [h w 1], of the same dtype
    exif: bytes | None = None  # without orientation
    icc: bytes | None = None  # colour profile, if it is of these channels
    notes: tuple[str, ...] = ()  # what could not be kept, in words


def read_picture(
    path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS
) -> Picture:
    """Decodes one picture as `decode_image` does, but keeps what it is made of.

    Grey stays grey, 16 bits stay 16 bits, and transparency is a channel of its own. Palettes
    are looked up.

    Raises:
      MediaError: as `decode_image`, and for a file with several pictures.
    """
    path = pathlib.Path(path)
    return decode_with(path, lambda image: _split(image, path), max_pixels=max_pixels)


def write_picture(path: str | os.PathLike[str], picture: Picture) -> tuple[str, ...]:
    """Writes a picture, whole or not at all; the suffix decides the format: see `FORMATS`.

    JPEG and WebP are of quality 95.

    Returns:
      What the format cannot hold, in words.

    Raises:
      ConfigError: for an unknown suffix, or transparency in a format without.
      OSError: if the file cannot be written.
    """
    path = pathlib.Path(path)
    require_format(path, transparent=picture.alpha is not None)
    form, options = FORMATS[path.suffix.lower()]
    notes = []
    pixels = picture.pixels
    if picture.alpha is not None:
        pixels = np.concatenate([pixels, picture.alpha], axis=-1)
    if pixels.dtype == np.uint16 and form not in _DEEP:
        notes.append(f"{path.suffix} files hold 8 bits: rounded")
        pixels = ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    extra = {"exif": picture.exif, "icc_profile": picture.icc}
    if form in ("BMP", "PPM"):
        lost = [name for name, value in extra.items() if value]
        notes += [f"{path.suffix} files hold no {name}: left out" for name in lost]
        extra = {}
    extra = {name: value for name, value in extra.items() if value}
    if pixels.dtype == np.uint16 and pixels.shape[-1] > 1:
        data, more = _encode_deep(pixels, form, extra)
        notes += more
        with atomic_write(path, "wb") as file:
            file.write(data)
    else:
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        with atomic_write(path, "wb") as file:
            image.save(file, format=form, **options, **extra)
    return tuple(notes)


def require_format(path: str | os.PathLike[str], *, transparent: bool) -> None:
    """Raises `ConfigError` if no picture, or none with transparency, can be written so."""
    suffix = pathlib.Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ConfigError(
            f"{path}: pictures are written as {', '.join(sorted(FORMATS))}, not {suffix!r}"
        )
    if transparent and FORMATS[suffix][0] not in _TRANSPARENT:
        raise ConfigError(
            f"{path}: {suffix} files hold no transparency, which the picture has: write a"
            " .png"
        )


def _split(image: Image.Image, path: pathlib.Path) -> Picture:
    count = getattr(image, "n_frames", 1)
    if count > 1:
        raise MediaError(f"{path}: holds {count} pictures: take it apart first")
    deep = _is_deep(image)  # before getexif, which loads a PNG
    icc, exif = image.info.get("icc_profile"), image.getexif()
    orientation = exif.pop(_ORIENTATION, 1)
    kept, notes = exif.tobytes() if len(exif) else None, []
    if deep:
        parts = _decode_deep(path, image.format)
    else:
        if image.mode == "CMYK":
            notes.append("CMYK became RGB, without its profile")
        parts = _parts(image, path)
    parts = _oriented(parts, orientation)
    channels = parts.shape[-1]
    colours = channels - (channels in (2, 4))
    pixels = parts[..., :colours]
    alpha = parts[..., colours:] if channels > colours else None
    space = {1: b"GRAY", 3: b"RGB "}[colours]
    if icc and icc[16:20] != space:
        icc = None
        notes.append("a colour profile of other channels was left out")
    return Picture(pixels, alpha, kept, icc, tuple(notes))


def _parts(image: Image.Image, path: pathlib.Path) -> np.ndarray:
    """Channels of an image: 1 grey, 2 with transparency, 3 RGB, or 4."""
    if image.mode.startswith("I"):  # 16-bit grey; 32-bit only if its values fit
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise MediaError(f"{path}: integers of {image.mode} beyond 16 bits")
        return wide.astype(np.uint16)[..., None]
    if image.mode == "F":
        raise MediaError(f"{path}: floating-point pixels have no known range")
    transparent = "A" in image.mode or "a" in image.mode or "transparency" in image.info
    grey = image.mode in ("1", "L", "LA", "La")
    mode = ("LA" if transparent else "L") if grey else "RGBA" if transparent else "RGB"
    out = np.asarray(image.convert(mode))
    return out[..., None] if out.ndim == 2 else out


# --- 16-bit colour, which Pillow reads as 8-bit and does not write: FFmpeg does both ----------


def _is_deep(image: Image.Image) -> bool:
    raw = str(image.tile[0][3]) if image.tile else ""
    return ";16" in raw and not image.mode.startswith("I") and image.format in _DEEP


def _decode_deep(path: pathlib.Path, form: str) -> UInt16[np.ndarray, "h w c"]:
    context = av.CodecContext.create(_DEEP[form][0], "r")
    try:
        frames = context.decode(av.Packet(path.read_bytes())) or context.decode(None)
    except av.FFmpegError as error:
        raise MediaError(f"{path}: damaged 16-bit picture: {error.strerror}") from None
    if not frames:
        raise MediaError(f"{path}: damaged 16-bit picture: no pixels in it")
    frame = frames[0]
    name, order = frame.format.name[:-2], frame.format.name[-2:]
    if name not in _DEEP_MODES:
        raise MediaError(f"{path}: 16-bit pixels of the kind {frame.format.name}")
    channels = _DEEP_MODES[name]
    rows = np.frombuffer(frame.planes[0], np.uint8).reshape(frame.height, -1)
    wide = rows[:, : frame.width * channels * 2].copy().view(_BYTE_ORDER[order])
    return wide.astype(np.uint16).reshape(frame.height, frame.width, channels)


def _encode_deep(
    pixels: UInt16[np.ndarray, "h w c"], form: str, extra: Mapping[str, bytes]
) -> tuple[bytes, list[str]]:
    """The bytes of a file, and what is not in it, in words."""
    codec, order = _DEEP[form]
    if form == "TIFF" and pixels.shape[-1] == 2:  # which few programs open
        pixels = pixels[..., [0, 0, 0, 1]]
    height, width, channels = pixels.shape
    mode = next(name for name, count in _DEEP_MODES.items() if count == channels)
    frame = av.VideoFrame(width, height, mode + order)
    plane = frame.planes[0]
    rows = np.zeros((height, plane.line_size), np.uint8)
    wide = pixels.astype(_BYTE_ORDER[order]).reshape(height, -1).view(np.uint8)
    rows[:, : wide.shape[1]] = wide
    plane.update(rows.tobytes())
    context = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt = width, height, mode + order
    context.time_base = Fraction(1, 25)
    packets = [*context.encode(frame), *context.encode(None)]
    data = b"".join(bytes(packet) for packet in packets)
    if form != "PNG":
        return data, [f"16-bit {form} is written without {name}" for name in extra]
    chunks = b""
    if "icc_profile" in extra:
        chunks += _chunk(b"iCCP", b"ICC\0\0" + zlib.compress(extra["icc_profile"]))
    if "exif" in extra:
        chunks += _chunk(b"eXIf", extra["exif"].removeprefix(b"Exif\0\0"))
    header = 8 + 25  # signature, IHDR; what is added comes before the pixels
    return data[:header] + chunks + data[header:], []


def _chunk(kind: bytes, data: bytes) -> bytes:
    """One piece of a PNG file."""
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def _oriented(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Applies an EXIF orientation."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
