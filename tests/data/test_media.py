import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from zoo_jax.core.errors import MediaError
from zoo_jax.data.media import decode_image

H, W = 5, 7


def encode(image, form="PNG", **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)


def png_header(width, height, mode=2):
    """A PNG whose header promises any size, with a little data."""

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = struct.pack(">IIBBBBB", width, height, 8, mode, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_formats_give_the_pixels_back(pixels, form):
    out = decode_image(encode(Image.fromarray(pixels), form))
    np.testing.assert_array_equal(out, pixels)
    assert out.dtype == np.uint8


def test_grey_is_repeated_or_kept(pixels):
    data = encode(Image.fromarray(pixels[..., 0]))
    np.testing.assert_array_equal(decode_image(data, mode="L"), pixels[..., :1])
    expected = np.repeat(pixels[..., :1], 3, -1)
    np.testing.assert_array_equal(decode_image(data), expected)


def test_palette_is_looked_up(pixels):
    image = Image.fromarray(pixels).quantize(256)
    expected = np.array(image.getpalette()).reshape(-1, 3)[np.asarray(image)]
    np.testing.assert_array_equal(decode_image(encode(image)), expected)


def test_transparency_is_blended_over_white_or_kept(pixels):
    alpha = np.full((H, W, 1), 255, np.uint8)
    alpha[0], alpha[1] = 0, 51
    rgba = np.concatenate([pixels, alpha], -1)
    data = encode(Image.fromarray(rgba))
    np.testing.assert_array_equal(decode_image(data, mode="RGBA"), rgba)
    share = alpha / 255.0
    expected = pixels * share + 255 * (1 - share)
    np.testing.assert_allclose(decode_image(data), expected, atol=1)
    assert (decode_image(data)[0] == 255).all()


def test_16_bit_grey_is_scaled_and_not_clipped():
    values = np.array([[0, 128, 257, 32896, 65535]], np.uint16)
    data = encode(Image.fromarray(values))
    expected = np.rint(values / 257).astype(np.uint8)
    np.testing.assert_array_equal(decode_image(data, mode="L")[..., 0], expected)
    kept = decode_image(data, mode="RGB", bits=16)
    assert kept.dtype == np.uint16
    np.testing.assert_array_equal(kept, np.repeat(values[..., None], 3, -1))
    opaque = decode_image(data, mode="RGBA", bits=16)[..., 3]
    assert (opaque == 65535).all()


def test_8_bit_images_fill_the_16_bit_range(pixels):
    out = decode_image(encode(Image.fromarray(pixels)), bits=16)
    np.testing.assert_array_equal(out, pixels.astype(np.uint16) * 257)


def test_cmyk_becomes_rgb():
    image = Image.new("CMYK", (W, H), (0, 255, 255, 0))
    out = decode_image(encode(image, "JPEG", quality=100))
    assert out.shape == (H, W, 3)
    np.testing.assert_allclose(out, np.broadcast_to([255, 0, 0], out.shape), atol=3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(pixels, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels),
    }[orientation]
    data = encode(Image.fromarray(pixels), exif=exif)
    np.testing.assert_array_equal(decode_image(data), turned)


def test_the_content_decides_and_not_the_name(tmp_path, pixels):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(Image.fromarray(pixels), "PNG"))
    np.testing.assert_array_equal(decode_image(path), pixels)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_truncated_files_are_refused(form):
    noise = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), form)
    for keep in (1, 10, len(data) // 4, len(data) // 2):
        with pytest.raises(MediaError):
            decode_image(data[:keep])


@pytest.mark.parametrize("size", [(30_000, 30_000), (2**31 - 1, 1), (9_000, 9_000)])
@pytest.mark.filterwarnings("error")
def test_a_header_bomb_is_refused_before_decoding(tmp_path, size, monkeypatch):
    def decode(self):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(*size))
    with pytest.raises(MediaError, match=r"bomb\.png: .*limit of 80,000,000"):
        decode_image(path)


def test_the_pixel_limit_is_the_callers(pixels):
    data = encode(Image.fromarray(pixels))
    with pytest.raises(MediaError, match="7x5 pixels are more than the limit of 34"):
        decode_image(data, max_pixels=34)
    assert decode_image(data, max_pixels=35).shape == (H, W, 3)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "empty"),
        (b"hello, this is text", "not an image"),
        (png_header(0, 0), "damaged|0x0|not an image"),
        (png_header(9, 9), "damaged"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    ],
)
def test_what_is_no_image_is_refused_with_its_name(tmp_path, data, match):
    path = tmp_path / "x.png"
    path.write_bytes(data)
    with pytest.raises(MediaError, match=rf"x\.png: .*({match})"):
        decode_image(path)


def test_absent_files_and_folders_are_named(tmp_path):
    with pytest.raises(MediaError, match=r"none\.png: cannot be read: No such"):
        decode_image(tmp_path / "none.png")
    with pytest.raises(MediaError, match="Is a directory"):
        decode_image(tmp_path)


def test_float_pixels_are_refused():
    data = encode(Image.fromarray(np.ones((H, W), np.float32)), "TIFF")
    with pytest.raises(MediaError, match="no known range"):
        decode_image(data)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
@pytest.mark.filterwarnings("ignore")
def test_random_damage_gives_an_image_or_a_media_error(form):
    rng = np.random.default_rng(2)
    noise = rng.integers(0, 256, (12, 17, 3), dtype=np.uint8)
    good = encode(Image.fromarray(noise), form)
    refused = 0
    for _ in range(60):
        data = bytearray(good)
        for position in rng.integers(0, len(data), 4):
            data[position] = rng.integers(256)
        try:
            out = decode_image(bytes(data))
            assert out.dtype == np.uint8
            assert out.ndim == 3
        except MediaError:
            refused += 1
    assert refused > 0
