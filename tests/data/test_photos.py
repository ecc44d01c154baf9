"""Photographs one by one: which, in what order, with which mask."""

import numpy as np
import pytest
from PIL import Image

from zoo_jax.core.errors import ConfigError, DataError, MediaError
from zoo_jax.data.media import decode_image, decode_indices
from zoo_jax.data.photos import PhotoFolder, SamplePhotos, SegmentedPhotos
from zoo_jax.data.samples import photos


@pytest.fixture
def folder(tmp_path):
    """Three images of differing sizes with masks: two with a palette, one grey."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    truth = {}
    for name, (h, w) in {"b": (6, 9), "a": (8, 5), "c": (7, 7)}.items():
        image = rng.integers(0, 256, (h, w, 3), np.uint8)
        mask = rng.choice(np.array([0, 1, 11, 20, 255], np.uint8), (h, w))
        Image.fromarray(image).save(tmp_path / "images" / f"{name}.png")
        picture = Image.fromarray(mask)
        if name != "c":
            picture.putpalette(rng.integers(0, 256, 768, np.uint8).tobytes())
        picture.save(tmp_path / "masks" / f"{name}.png")
        truth[name] = image, mask
    (tmp_path / "list.txt").write_text("c\nb\n\n")
    return tmp_path, truth


def test_sample_photos_are_disjoint_colour_photographs():
    splits = {split: SamplePhotos(split) for split in ("train", "valid", "test")}
    assert [len(source) for source in splits.values()] == [6, 1, 3]
    names = [name for source in splits.values() for name in source.names]
    assert len(set(names)) == 10
    for source in splits.values():
        for i, name in enumerate(source.names):
            image = source[i]["image"]
            assert image.dtype == np.uint8
            assert (image[..., 0] != image[..., 2]).any(), f"{name} is grey"
    chelsea = decode_image(photos()["chelsea"])
    np.testing.assert_array_equal(splits["test"][0]["image"], chelsea)


def test_a_crop_is_the_centre():
    whole, cut = (SamplePhotos("test", crop=crop)[2]["image"] for crop in (None, 65))
    h, w = whole.shape[:2]
    top, left = (h - 65) // 2, (w - 65) // 2
    np.testing.assert_array_equal(cut, whole[top : top + 65, left : left + 65])


def test_a_folder_is_read_in_order_of_names_or_of_a_list(folder):
    root, truth = folder
    source = PhotoFolder(root / "images")
    assert source.info["names"] == ("a", "b", "c")
    for i, name in enumerate("abc"):
        np.testing.assert_array_equal(source[i]["image"], truth[name][0])
    listed = PhotoFolder(root / "images", names=root / "list.txt")
    assert listed.info["names"] == ("c", "b")
    np.testing.assert_array_equal(listed[1]["image"], truth["b"][0])


@pytest.mark.parametrize("void", [None, 11])
def test_masks_are_indices_whatever_their_palette(folder, void):
    root, truth = folder
    source = SegmentedPhotos(root / "images", masks=root / "masks", void=void)
    for i, name in enumerate("abc"):
        example, (image, mask) = source[i], truth[name]
        np.testing.assert_array_equal(example["image"], image)
        expected = np.where(mask == void, 255, mask) if void else mask
        np.testing.assert_array_equal(example["segmentation"], expected)
        assert example["segmentation"].dtype == np.int32


def test_image_and_mask_are_cut_alike(folder):
    root, truth = folder
    source = SegmentedPhotos(root / "images", masks=root / "masks", crop=5)
    example, (image, mask) = source[1], truth["b"]
    np.testing.assert_array_equal(example["image"], image[0:5, 2:7])
    np.testing.assert_array_equal(example["segmentation"], mask[0:5, 2:7])


def test_what_is_absent_or_does_not_fit_is_named(folder):
    root, _ = folder
    images, masks = root / "images", root / "masks"
    with pytest.raises(ConfigError, match="unknown split 'tset': did you mean 'test'"):
        SamplePhotos("tset")
    with pytest.raises(DataError, match=r"no images in .*nowhere"):
        PhotoFolder(root / "nowhere")
    with pytest.raises(MediaError, match=r"8x5 has no centre square of 6"):
        PhotoFolder(images, crop=6)[0]
    (root / "list.txt").write_text("b\nd\n")
    with pytest.raises(DataError, match=r"lists 2 images, of which 1 are not .*: d"):
        PhotoFolder(images, names=root / "list.txt")
    Image.new("L", (3, 3)).save(masks / "a.png")
    with pytest.raises(MediaError, match=r"a.png has \(8, 5\) pixels .*a.png \(3, 3\)"):
        SegmentedPhotos(images, masks=masks)[0]
    (masks / "b.png").unlink()
    with pytest.raises(
        DataError, match=r"1 of 3 masks are absent, the first is .*b.png"
    ):
        SegmentedPhotos(images, masks=masks)


def test_a_coloured_mask_is_refused(tmp_path):
    Image.new("RGB", (3, 3)).save(tmp_path / "m.png")
    with pytest.raises(MediaError, match="a mask of mode RGB"):
        decode_indices(tmp_path / "m.png")
