"""Pictures keep depth, transparency, profile and EXIF data when they are written again."""

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from zoo_jax.core.errors import ConfigError, MediaError
from zoo_jax.data.picture import FORMATS, Picture, read_picture, write_picture

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LOSSLESS = (".png", ".tif", ".bmp", ".ppm")
SHAPE = (5, 7)


def pixels(channels, dtype=np.uint8, seed=0):
    top = np.iinfo(dtype).max + 1
    rng = np.random.default_rng(seed)
    return rng.integers(0, top, (*SHAPE, channels)).astype(dtype)


def parts(picture):
    return [a for a in (picture.pixels, picture.alpha) if a is not None]


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_files_give_the_pixels_back(tmp_path, suffix, channels):
    picture = Picture(pixels(channels))
    assert write_picture(tmp_path / f"a{suffix}", picture) == ()
    back = read_picture(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(back.pixels, picture.pixels)
    assert back.alpha is None
    assert back.notes == ()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_depth_and_transparency_come_back(
    tmp_path, suffix, channels, transparent, dtype
):
    alpha = pixels(1, dtype, seed=1) if transparent else None
    picture = Picture(pixels(channels, dtype), alpha)
    write_picture(tmp_path / f"a{suffix}", picture)
    back = read_picture(tmp_path / f"a{suffix}")
    for got, expected in zip(parts(back), parts(picture), strict=True):
        assert got.dtype == dtype
        if (suffix, channels, len(parts(back)), dtype) == (".tif", 1, 2, np.uint16):
            expected = np.broadcast_to(expected, got.shape)  # becomes RGB
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_files_are_close(tmp_path, suffix):
    ramp = np.linspace(0, 255, 24 * 16 * 3).reshape(24, 16, 3).astype(np.uint8)
    write_picture(tmp_path / f"a{suffix}", Picture(ramp))
    back = read_picture(tmp_path / f"a{suffix}").pixels.astype(int)
    assert np.abs(back - ramp).mean() < 4
    if suffix != ".webp":
        with Image.open(tmp_path / f"a{suffix}") as image:
            assert image.format == "JPEG"
            assert image.layer[0][1:3] == (1, 1)  # full chroma
            assert image.quantization[0][0] == 2  # quality 95


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("deep", [False, True])
def test_orientation_is_applied_and_reset_and_the_rest_of_exif_kept(
    tmp_path, orientation, deep
):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "a camera"
    path = tmp_path / "a.png"
    stored = pixels(3, np.uint16 if deep else np.uint8)
    write_picture(path, Picture(stored, exif=exif.tobytes()))
    back = read_picture(path)
    # Pillow is the judge of what upright means.
    eight = Image.fromarray((stored >> 8 if deep else stored).astype(np.uint8))
    eight.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(eight))
    got = (back.pixels >> 8).astype(np.uint8) if deep else back.pixels
    np.testing.assert_array_equal(got, upright)
    write_picture(tmp_path / "b.png", back)
    with Image.open(tmp_path / "b.png") as image:
        found = image.getexif()
        assert 0x0112 not in found
        assert found[0x010F] == "a camera"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_a_colour_profile_is_kept(tmp_path, suffix):
    write_picture(tmp_path / f"a{suffix}", Picture(pixels(3), icc=SRGB))
    assert read_picture(tmp_path / f"a{suffix}").icc == SRGB


def test_a_profile_of_16_bit_png_is_kept(tmp_path):
    write_picture(tmp_path / "a.png", Picture(pixels(3, np.uint16), icc=SRGB))
    with Image.open(tmp_path / "a.png") as image:
        assert image.info["icc_profile"] == SRGB
    assert read_picture(tmp_path / "a.png").icc == SRGB


def test_what_a_format_cannot_hold_is_said(tmp_path):
    deep = Picture(pixels(3, np.uint16), icc=SRGB)
    assert "8 bits" in write_picture(tmp_path / "a.jpg", deep)[0]
    assert write_picture(tmp_path / "a.bmp", Picture(pixels(3), icc=SRGB))
    assert "without icc_profile" in write_picture(tmp_path / "a.tif", deep)[0]
    got = read_picture(tmp_path / "a.jpg").pixels
    assert got.dtype == np.uint8


def test_palettes_cmyk_and_foreign_profiles(tmp_path):
    rgba = Image.fromarray(np.concatenate([pixels(3), pixels(1)], -1))
    rgba.convert("P").save(tmp_path / "p.png")
    assert read_picture(tmp_path / "p.png").pixels.shape == (*SHAPE, 3)
    Image.fromarray(pixels(4), "RGBA").quantize(8).save(tmp_path / "t.png")
    assert read_picture(tmp_path / "t.png").alpha is not None
    cmyk = Image.fromarray(pixels(3)).convert("CMYK")
    cmyk.save(tmp_path / "c.jpg", icc_profile=SRGB[:16] + b"CMYK" + SRGB[20:])
    found = read_picture(tmp_path / "c.jpg")
    assert found.icc is None
    assert len(found.notes) == 2
    Image.fromarray(pixels(1)[..., 0]).convert("1").save(tmp_path / "b.png")
    assert set(np.unique(read_picture(tmp_path / "b.png").pixels)) <= {0, 255}


def test_files_that_cannot_be_written_again_are_refused(tmp_path):
    frames = [Image.fromarray(pixels(3, seed=i)) for i in range(3)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(MediaError, match="holds 3 pictures"):
        read_picture(tmp_path / "a.tif")
    Image.fromarray(np.ones(SHAPE, np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(MediaError, match="floating-point"):
        read_picture(tmp_path / "f.tif")
    Image.fromarray(np.full(SHAPE, 70000, np.int32)).save(tmp_path / "i.tif")
    with pytest.raises(MediaError, match="beyond 16 bits"):
        read_picture(tmp_path / "i.tif")
    with pytest.raises(ConfigError, match=r"not '\.gif'"):
        write_picture(tmp_path / "a.gif", Picture(pixels(3)))
    with pytest.raises(ConfigError, match="hold no transparency"):
        write_picture(tmp_path / "a.jpg", Picture(pixels(3), pixels(1)))
    assert not (tmp_path / "a.jpg").exists()
    assert ".gif" not in FORMATS


def test_truncated_16_bit_pictures_are_a_media_error_or_a_picture(tmp_path):
    path = tmp_path / "a.png"
    write_picture(path, Picture(pixels(3, np.uint16)))
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        try:
            picture = read_picture(path)
        except MediaError as error:
            said = str(error)
        else:
            said = f"{path}"
            assert picture.pixels.shape == (*SHAPE, 3)
        assert str(path) in said
        assert "\n" not in said


def test_an_error_while_writing_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Image.Image, "save", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_picture(tmp_path / "a.png", Picture(pixels(3)))
    assert list(tmp_path.iterdir()) == []
