"""Sets of photographs in their published layouts, made small."""

import numpy as np
import pytest
from PIL import Image

from zoo_jax.core.errors import ConfigError, DataError, MediaError
from zoo_jax.data.photos import SegmentedPhotos
from zoo_jax.data.source import open_source


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def camvid(tmp_path):
    """Three test frames of 6x8 with indices 0 to 11."""
    rng = np.random.default_rng(0)
    truth = []
    for name in ("0001TP_1", "0001TP_2", "Seq05VD_1"):
        image = rng.integers(0, 256, (6, 8, 3), np.uint8)
        mask = rng.integers(0, 12, (6, 8)).astype(np.uint8)
        write(tmp_path / "test" / f"{name}.png", image)
        write(tmp_path / "testannot" / f"{name}.png", mask)
        truth.append((image, mask))
    return tmp_path, truth


def test_camvid_has_eleven_classes_and_void_is_none(camvid):
    root, truth = camvid
    source = open_source(dict(name="camvid", split="test", root=str(root)))
    assert len(source) == 3
    assert source.info["num_classes"] == len(source.info["classes"]) == 11
    for i, (image, mask) in enumerate(truth):
        np.testing.assert_array_equal(source[i]["image"], image)
        expected = np.where(mask == 11, 255, mask)
        np.testing.assert_array_equal(source[i]["segmentation"], expected)


def test_pairs_are_resized_alike_and_masks_stay_indices(camvid):
    root, truth = camvid
    arguments = dict(split="test", root=str(root), size=[3, 4], every=2)
    source = open_source(dict(name="camvid", **arguments))
    whole = open_source(dict(name="camvid", in_memory=True, **arguments))
    assert len(source) == len(whole) == 2
    for i, (image, mask) in enumerate((truth[0], truth[2])):
        example = source[i]
        # The centre of a new pixel is the corner of four old ones: the one below and to the right.
        nearest = mask[1::2, 1::2]
        expected = np.where(nearest == 11, 255, nearest)
        np.testing.assert_array_equal(example["segmentation"], expected)
        small = Image.fromarray(image).resize((4, 3), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(example["image"], np.asarray(small))
        for name, value in example.items():
            np.testing.assert_array_equal(whole[i][name], value)


def test_an_unknown_index_is_named(camvid):
    root, _ = camvid
    write(root / "testannot" / "0001TP_2.png", np.full((6, 8), 37, np.uint8))
    source = open_source(dict(name="camvid", split="test", root=str(root)))
    source[0]
    with pytest.raises(
        MediaError,
        match=r"0001TP_2.png has the index 37: classes are 0 to 10, void is 11",
    ):
        source[1]


def test_voc_reads_its_lists_and_palettes_as_indices(tmp_path):
    rng = np.random.default_rng(1)
    for name in ("a", "b"):
        write(tmp_path / "JPEGImages" / f"{name}.jpg", np.zeros((5, 7, 3), np.uint8))
        mask = Image.fromarray(rng.choice(np.array([0, 20, 255], np.uint8), (5, 7)))
        mask.putpalette(rng.integers(0, 256, 768, np.uint8).tobytes())
        (tmp_path / "SegmentationClass").mkdir(exist_ok=True)
        mask.save(tmp_path / "SegmentationClass" / f"{name}.png")
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("b\n")
    (lists / "val.txt").write_text("a\nb\n")
    for split, names in (("train", ("b",)), ("valid", ("a", "b"))):
        source = open_source(dict(name="voc2012", split=split, root=str(tmp_path)))
        assert source.info["names"] == names
        assert set(np.unique(source[0]["segmentation"])) <= {0, 20, 255}
    with pytest.raises(ConfigError, match="unknown split 'test'"):
        open_source(dict(name="voc2012", split="test", root=str(tmp_path)))


@pytest.mark.parametrize(("name", "count"), [("kodak24", 24), ("cbsd68", 68)])
def test_a_benchmark_set_is_whole_or_refused(name, count, tmp_path):
    for i in range(count - 1):
        write(tmp_path / f"{i:02}.png", np.full((4, 6, 3), i, np.uint8))
    spec = dict(name=name, root=str(tmp_path), crop=4)
    with pytest.raises(DataError, match=f"has {count - 1} images where the set has"):
        open_source(spec)
    write(tmp_path / "99.png", np.full((6, 4, 3), 99, np.uint8))
    source = open_source(spec)
    assert len(source) == count
    assert source[count - 1]["image"].shape == (4, 4, 3)


def test_bsds_has_three_splits(tmp_path):
    for folder, level in (("train", 1), ("val", 2), ("test", 3)):
        write(tmp_path / folder / "1.jpg", np.full((8, 8, 3), level, np.uint8))
    for split, level in (("train", 1), ("valid", 2), ("test", 3)):
        source = open_source(dict(name="bsds500", split=split, root=str(tmp_path)))
        assert (source[0]["image"] == level).all()


def test_arguments_out_of_range_are_refused(camvid):
    root, _ = camvid
    folders = dict(masks=root / "testannot")
    with pytest.raises(ConfigError, match="num_classes must be 2 or more, got 1"):
        SegmentedPhotos(root / "test", num_classes=1, **folders)
    with pytest.raises(ConfigError, match=r"size must be \[height, width\] from 1"):
        SegmentedPhotos(root / "test", size=[4, 4, 3], **folders)
    with pytest.raises(ConfigError, match="every must be a whole number from 1 on"):
        SegmentedPhotos(root / "test", every=0, **folders)
