"""Sources of pairs made from sharp photographs and sharp video."""

import fractions

import av
import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError, DataError, MediaError
from zoo_jax.data import blurred, motion_blur
from zoo_jax.data.loader import train_batches
from zoo_jax.data.source import ArraySource, open_source


def photos_of(*images):
    source = ArraySource({"image": np.stack(images)})
    source.info = {"names": tuple(f"p{i}" for i in range(len(images)))}
    return source


def noise(h, w, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def psnr(example):
    error = example["image"].astype(float) - example["sharp"]
    return 10 * np.log10(255**2 / np.square(error).mean())


@pytest.fixture(scope="module")
def samples():
    return {
        split: blurred.BlurredPhotos(split, crop=64, count=60, seed=3)
        for split in ("train", "valid", "test")
    }


def test_packaged_photographs_give_blur_of_20_to_30_db(samples):
    for source in samples.values():
        values = [psnr(source[i]) for i in range(60)]
        assert 20 < np.median(values) < 30


def test_no_photograph_serves_two_splits(samples):
    groups = [set(source.info["groups"]) for source in samples.values()]
    assert [len(g) for g in groups] == [5, 1, 3]
    assert len(set.union(*groups)) == 9
    motorcycles = {"motorcycle_left", "motorcycle_right"}  # one scene
    assert motorcycles <= groups[0]


def test_sharp_pictures_are_cut_from_the_photograph_that_groups_name():
    images = [noise(70, 90, seed) for seed in range(3)]
    source = blurred.BlurredPhotos(photos=photos_of(*images), crop=40, count=7)
    assert source.info["groups"] == tuple(f"p{i % 3}" for i in range(7))
    for i in range(7):
        sharp = source[i]["sharp"]
        windows = np.lib.stride_tricks.sliding_window_view(
            images[i % 3], (40, 40, 3)
        )  # noise: the window is found in one place only
        same = (windows[..., 0, 0, :] == sharp[0, 0]).all(axis=(-1, -2))
        assert same.any()
        places = [(y, x) for y, x in np.argwhere(same)[:, :2]]
        assert any(
            (images[i % 3][y : y + 40, x : x + 40] == sharp).all() for y, x in places
        )


def test_an_example_follows_from_seed_photograph_and_number_alone(samples):
    other = blurred.BlurredPhotos("test", crop=64, count=5, seed=3, in_memory=True)
    for i in (4, 0, 2):
        for key in ("image", "sharp"):
            np.testing.assert_array_equal(other[i][key], samples["test"][i][key])
    changed = blurred.BlurredPhotos("test", crop=64, count=5, seed=4)
    assert any((changed[0][key] != other[0][key]).any() for key in ("image", "sharp"))


def test_no_path_of_the_test_split_is_trained_on(monkeypatch):
    paths = {}
    for split in ("train", "test"):
        found = paths[split] = []
        draw = motion_blur.camera_path

        def keep(*args, draw=draw, found=found, **kwargs):
            found.append(draw(*args, **kwargs))
            return found[-1]

        with monkeypatch.context() as m:
            m.setattr(motion_blur, "camera_path", keep)
            blurred.BlurredPhotos(split, crop=32, count=20, in_memory=True)
    seen = {p.tobytes() for p in paths["train"]}
    assert len(seen) == 20
    assert not seen & {p.tobytes() for p in paths["test"]}


def test_places_with_structure_are_preferred():
    half = noise(80, 200)
    half[:, 60:] = 128
    chosen = [
        blurred.BlurredPhotos(photos=photos_of(half), crop=32, count=40, places=places)
        for places in (1, 6)
    ]
    one, six = ([s[i]["sharp"].std() for i in range(40)] for s in chosen)
    assert np.mean(six) > 1.5 * np.mean(one)


@pytest.mark.parametrize("in_memory", [False, True])
def test_pairs_run_through_the_loader(in_memory):
    source = open_source(
        {
            "name": "blurred_photos",
            "split": "valid",
            "crop": 32,
            "count": 5,
            "in_memory": in_memory,
        }
    )
    with train_batches(source, batch_size=4, seed=0) as batches:
        batch = next(batches)
    assert set(batch) == {"image", "sharp"}
    assert batch["image"].shape == batch["sharp"].shape == (4, 32, 32, 3)
    assert batch["image"].dtype == np.uint8


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "either split"),
        ({"split": "test", "photos": {"name": "photo_folder"}}, "either split"),
        ({"split": "tset"}, "did you mean 'test'"),
        ({"split": "test", "crop": 0}, "must be positive"),
        ({"split": "test", "frames": (1, 7)}, r"frames must be a range .* from 2 up"),
        ({"split": "test", "length": (5, 4)}, r"length must be a range .*\(5, 4\)"),
        ({"split": "test", "gamma": 9}, "gamma must be"),
    ],
)
def test_wrong_arguments_are_named(arguments, match):
    with pytest.raises(ConfigError, match=match):
        blurred.BlurredPhotos(**arguments)


def test_a_photograph_that_is_too_small_is_named():
    source = blurred.BlurredPhotos(photos=photos_of(noise(50, 60)), crop=48, count=1)
    with pytest.raises(MediaError, match="photograph p0 of 50x60: a crop of 48 and"):
        source[0]


def write_video(path, frames):
    """Without loss, so that frames come back as they were."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=fractions.Fraction(25))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "rgb24"
        stream.options = {"qp": "0"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())


def pan(count, seed, base):
    """A camera that passes over dim noise, two pixels a frame."""
    wide = base + noise(24, 32 + 2 * count, seed) // 6
    return [wide[:, 2 * k : 2 * k + 32] for k in range(count)]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """a: 9 moving frames, a cut, 8 moving and 6 still ones. b: 7 moving ones."""
    folder = tmp_path_factory.mktemp("clips")
    second = pan(8, 1, 180)
    films = {"a": pan(9, 0, 20) + second + [second[-1]] * 6, "b": pan(7, 2, 90)}
    for name, frames in films.items():
        write_video(folder / f"{name}.mp4", frames)
    (folder / "notes.txt").write_text("no video")
    return folder, films


@pytest.mark.parametrize("in_memory", [True, False])
def test_windows_are_means_around_their_middle_and_shun_cuts_and_stills(
    clips, in_memory
):
    folder, films = clips
    source = blurred.BlurredVideo(folder, window=3, stride=2, in_memory=in_memory)
    places = [("a", start) for start in (0, 2, 4, 6, 10, 12, 14)]
    places += [("b", start) for start in (0, 2, 4)]
    assert source.info["groups"] == tuple(name for name, _ in places)
    assert len(source) == len(places)
    for i, (name, start) in enumerate(places):
        frames = films[name][start : start + 3]
        np.testing.assert_array_equal(source[i]["sharp"], frames[1])
        expected = motion_blur.mean_frame(frames, gamma=2.2)
        np.testing.assert_array_equal(source[i]["image"], expected)


def test_frames_are_shrunk_and_cut_before_the_mean(clips):
    folder, films = clips
    source = blurred.BlurredVideo(
        folder / "b.mp4", window=5, stride=1, gamma=1, shrink=2, crop=10
    )
    assert len(source) == 3
    small = np.stack(films["b"]).reshape(7, 12, 2, 16, 2, 3).mean(axis=(2, 4))
    small = small[:, 1:11, 3:13]
    assert np.abs(source[1]["sharp"] - small[3]).max() <= 0.5
    expected = small[1:6].mean(axis=0)
    assert np.abs(source[1]["image"] - expected).max() <= 1.0  # rounded twice


def test_a_folder_is_split_by_clip(clips, tmp_path):
    _, films = clips
    for k in range(12):
        write_video(tmp_path / f"{k}.mp4", films["b"][:3])
    train, valid = (
        set(blurred.BlurredVideo(tmp_path, split=split, window=3).info["groups"])
        for split in ("train", "valid")
    )
    assert not train & valid
    assert train | valid == {str(k) for k in range(12)}


def test_sample_clips_hold_whole_windows_of_one_clip():
    source = open_source(
        {"name": "blurred_sample_clips", "split": "valid", "window": 9, "crop": 96}
    )
    assert set(source.info["groups"]) == {"carphone_pristine"}
    assert len(source) == 120 // 9
    assert all(18 < psnr(source[i]) < 45 for i in range(len(source)))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"window": 4}, "window must be odd and 3 or more.*window=4"),
        ({"stride": 0}, "stride=0"),
        ({"shrink": 0}, "shrink=0"),
        ({"interpolate": 0}, "interpolate must be 1 or more, got 0"),
        ({"split": "train"}, "is one video: only a folder has split='train'"),
    ],
)
def test_wrong_arguments_of_a_video_are_named(clips, arguments, match):
    with pytest.raises(ConfigError, match=match):
        blurred.BlurredVideo(clips[0] / "b.mp4", **arguments)


def test_what_has_no_window_is_named(clips, tmp_path):
    with pytest.raises(DataError, match=r"b\.mp4: no window of 9 moving frames"):
        blurred.BlurredVideo(clips[0] / "b.mp4", window=9)
    with pytest.raises(DataError, match=r"no videos in .*expected files of \.mkv"):
        blurred.BlurredVideo(tmp_path)
    (tmp_path / "x.mp4").write_bytes(b"damaged" * 100)
    with pytest.raises(MediaError, match=r"x\.mp4: not a video"):
        blurred.BlurredVideo(tmp_path)


def test_a_clip_that_shrank_since_it_was_opened_is_a_bad_example(clips, tmp_path):
    _, films = clips
    write_video(tmp_path / "c.mp4", films["b"])
    source = blurred.BlurredVideo(tmp_path, window=3, in_memory=False)
    write_video(tmp_path / "c.mp4", films["b"][:4])
    with pytest.raises(MediaError, match=r"c\.mp4: 1 of the 3 frames from 3 on"):
        source[1]
