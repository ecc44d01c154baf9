"""Pairs on disk: which file belongs to which, what is named when one is missing."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from zoo_jax.core.errors import ConfigError, DataError, MediaError
from zoo_jax.data.loader import eval_batches, train_batches
from zoo_jax.data.pairs import JoinedSources, PairedFolder, choose_by_hash
from zoo_jax.data.source import ArraySource, open_source


def picture(path, seed, size=(6, 9)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path, lossless=True)
    return pixels


@pytest.fixture
def folder(tmp_path):
    """Two sequences with equal file names, one image of another format."""
    truth = []
    for i, name in enumerate(["b/000002", "a/000010", "a/000002"]):
        suffix = ".webp" if i == 1 else ".png"
        image = picture(tmp_path / "blur" / f"{name}.png", 2 * i)
        sharp = picture(tmp_path / "sharp" / f"{name}{suffix}", 2 * i + 1)
        truth.append((name, image, sharp))
    (tmp_path / "blur" / "notes.txt").write_text("not an image")
    picture(tmp_path / "blur" / "a" / ".hidden.png", 9)
    return tmp_path, sorted(truth, key=lambda row: row[0])


def check(source, truth):
    assert len(source) == len(truth)
    for i, (_, image, sharp) in enumerate(truth):
        np.testing.assert_array_equal(source[i]["image"], image)
        np.testing.assert_array_equal(source[i]["sharp"], sharp)


def test_equal_names_are_pairs_in_the_order_of_the_names(folder):
    root, truth = folder
    source = open_source({"name": "paired_folder", "root": str(root)})
    check(source, truth)
    assert source.info["groups"] == ("a", "a", "b")


def test_patterns_tell_files_of_one_folder_apart(tmp_path):
    truth = []
    for i, name in enumerate(["flower", "istanbul"]):
        image = picture(tmp_path / "gopro" / f"{name}_blur.webp", 2 * i)
        sharp = picture(tmp_path / "gopro" / f"{name}_sharp.webp", 2 * i + 1)
        truth.append((name, image, sharp))
    picture(tmp_path / "gopro" / "other.webp", 9)
    source = PairedFolder(
        tmp_path, blurred="gopro/*_blur.webp", sharp="gopro/*_sharp.webp"
    )
    check(source, truth)


def test_several_blurred_images_may_share_a_sharp_one(tmp_path):
    sharp = {i: picture(tmp_path / "gt" / f"im{i}.png", i) for i in (1, 2)}
    picture(tmp_path / "gt" / "kernel1.png", 7)
    truth = []
    for i in (1, 2):
        for k in (1, 2, 3):
            path = tmp_path / f"im{i}_kernel{k}_img.png"
            truth.append((path.stem, picture(path, 10 * i + k), sharp[i]))
    source = PairedFolder(tmp_path, blurred="im*_kernel*_img.png", sharp="gt/im*.png")
    check(source, truth)


def test_the_packed_pairs_of_gopro_and_levin_are_read(shared, tmp_path):
    with zipfile.ZipFile(shared("data", "deblur_pairs", "deblur_pairs.zip")) as z:
        z.extractall(tmp_path)
    gopro = PairedFolder(
        tmp_path / "gopro", blurred="*_blur.webp", sharp="*_sharp.webp"
    )
    psnr = [
        10 * np.log10(255**2 / np.square(e["image"].astype(float) - e["sharp"]).mean())
        for e in gopro
    ]
    np.testing.assert_allclose(psnr, [24.26, 24.07], atol=0.005)  # of its README
    levin = PairedFolder(
        tmp_path / "levin", blurred="im*_kernel*_img.png", sharp="gt/im*.png"
    )
    assert len(levin) == 32
    assert levin.pairs[8].sharp.name == "im2.png"
    assert levin[8]["image"].shape == levin[8]["sharp"].shape == (255, 255, 3)
    response = PairedFolder(
        tmp_path / "gopro_response", blurred="blur_gamma", sharp="blur_lin"
    )
    assert len(response) == 7


def test_the_split_is_the_published_hash_of_both_names():
    # $ printf 000013.png000013.png_ | sha1sum: 3b04...38c1, 97 modulo 100
    buckets = {"000001.png": 76, "000013.png": 97, "000030.png": 90, "000024.png": 89}
    names = [*buckets, "000013.png"]
    chosen = {
        split: choose_by_hash(names, split, names=lambda n: (n, n), where="x")
        for split in ("train", "valid")
    }
    assert chosen["train"] == ["000001.png", "000024.png"]
    assert chosen["valid"] == ["000013.png", "000030.png", "000013.png"]


def test_splits_part_the_pairs_after_every_nth_is_taken(tmp_path):
    for i in range(60):
        for k, kind in enumerate(("blur", "sharp")):
            picture(tmp_path / kind / f"{i:06d}.png", 2 * i + k, size=(1, 1))
    every = [p.name for p in PairedFolder(tmp_path, every=3, split_by="none").pairs]
    assert every == [f"{i:06d}" for i in range(0, 60, 3)]
    parts = [
        [p.name for p in PairedFolder(tmp_path, every=3, split=split).pairs]
        for split in ("train", "valid")
    ]
    assert sorted(parts[0] + parts[1]) == every
    assert "000030" in parts[1]


def test_missing_partners_are_listed_on_both_sides(folder):
    root, _ = folder
    (root / "sharp" / "a" / "000002.png").unlink()
    picture(root / "sharp" / "b" / "000003.png", 5)
    with pytest.raises(DataError) as caught:
        PairedFolder(root)
    message = str(caught.value)
    assert "1 of 3 images of 'blur' have no partner in 'sharp', and 1 of 3" in message
    assert "blur/a/000002.png" in message
    assert "sharp/b/000003.png" in message
    assert "\n" not in message


def test_names_that_differ_only_in_their_format_are_refused(folder):
    root, _ = folder
    picture(root / "sharp" / "a" / "000002.bmp", 5)
    with pytest.raises(DataError, match=r"000002\.bmp and .*000002\.png have one name"):
        PairedFolder(root)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"sharp": "shrap"}, DataError, r"no folder .*shrap"),
        ({"blurred": "*_x.png", "sharp": "*.png"}, DataError, r"no images in .*\*_x"),
        ({"split": "tset"}, ConfigError, r"unknown split 'tset': choose from"),
        ({"split": "trian"}, ConfigError, r"did you mean 'train'"),
        ({"split_by": "hsah"}, ConfigError, r"did you mean 'hash'"),
        (
            {"split_by": "none", "split": "train"},
            ConfigError,
            r"leave split='train' out",
        ),
        ({"every": 0}, ConfigError, r"every must be a whole number from 1 on, got 0"),
        ({"blurred": "*.png"}, ConfigError, r"both be folders or both patterns"),
        ({"blurred": "*.png", "sharp": "*/*.png"}, ConfigError, r"no more stars"),
        ({"split": "valid"}, DataError, r"none of 3 names falls into split 'valid'"),
    ],
)
def test_wrong_arguments_are_named(folder, arguments, error, match):
    with pytest.raises(error, match=match):
        PairedFolder(folder[0], **arguments)


def test_an_empty_folder_is_named(tmp_path):
    (tmp_path / "blur").mkdir()
    with pytest.raises(
        DataError, match=r"no images in .*blur: expected files of \.bmp"
    ):
        PairedFolder(tmp_path)


@pytest.fixture
def damaged(tmp_path):
    """Six pairs: one blurred file is cut off, one sharp file is larger than its partner."""
    for i in range(6):
        picture(tmp_path / "blur" / f"{i}.png", 2 * i)
        picture(tmp_path / "sharp" / f"{i}.png", 2 * i + 1)
    path = tmp_path / "blur" / "1.png"
    path.write_bytes(path.read_bytes()[:70])
    picture(tmp_path / "sharp" / "4.png", 8, size=(7, 9))
    return tmp_path


def test_bad_pairs_end_a_run_in_one_line(damaged):
    source = PairedFolder(damaged)
    with pytest.raises(MediaError, match=r"1\.png"):
        source[1]
    with pytest.raises(MediaError, match=r"4\.png has 6x9 pixels and .*4\.png 7x9"):
        source[4]


def test_bad_pairs_are_skipped_and_counted_up_to_the_limit(damaged, tmp_path):
    source, report = PairedFolder(damaged), tmp_path / "report.jsonl"
    batches = eval_batches(
        source, batch_size=3, on_error="skip", max_skipped=0.4, report=report
    )
    masks = np.concatenate([batch["mask"] for batch in batches])
    np.testing.assert_array_equal(masks, [1, 0, 1, 1, 0, 1])
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert sorted(line["index"] for line in lines) == [1, 4]
    with (
        pytest.raises(
            DataError, match="2 of 6 examples cannot be read, more than the 1"
        ),
        train_batches(
            source, batch_size=6, seed=0, on_error="skip", max_skipped=0.2
        ) as stream,
    ):
        next(stream)


def test_joined_sources_follow_one_another(folder):
    root, truth = folder
    section = {"name": "paired_folder", "root": str(root)}
    source = open_source(
        {"name": "joined", "sources": [section, {**section, "every": 2}, section]}
    )
    check(source, truth + truth[::2] + truth)
    assert source.info["lengths"] == (3, 2, 3)
    with pytest.raises(IndexError):
        source[8]
    with pytest.raises(ConfigError, match="at least one source"):
        JoinedSources([])


def test_an_empty_source_between_others_is_passed_over():
    parts = [ArraySource({"x": np.arange(n) + 10 * n}) for n in (2, 0, 1)]
    assert [int(e["x"]) for e in JoinedSources(parts)] == [20, 21, 10]
