"""Sources of clips: made up, GRID's words, and the ones with wrong partners."""

import shutil
import zipfile

import av
import numpy as np
import pytest
from clips import frame_image, write_clip

from zoo_jax.core.errors import ConfigError, DataError, MediaError
from zoo_jax.data.grid_words import SLOTS, grid_words
from zoo_jax.data.loader import train_batches
from zoo_jax.data.mispaired import mispaired
from zoo_jax.data.source import ArraySource, open_source
from zoo_jax.data.words import Vocabulary

WORDS = ("bin", "blue", "at", "f", "four", "please")
TIMES = (0.0, 10.25, 20.0, 31.5, 40.0, 61.0, 75.0)  # ends of words, in frames


def table(path, rows):
    columns = ["clip", "split", "text"]
    for slot in SLOTS:
        columns += [slot, f"{slot}_start_frame", f"{slot}_end_frame"]
    lines = ["\t".join(columns)]
    for clip, split, words in rows:
        cells = [clip, split, " ".join(words)]
        for i, word in enumerate(words):
            cells += [word, f"{TIMES[i]:.3f}", f"{TIMES[i + 1]:.3f}"]
        lines.append("\t".join(cells))
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    (folder / "clips").mkdir()
    write_clip(folder / "clips" / "a.mp4", times=range(75), size=(48, 48), sound="aac")
    shutil.copy(folder / "clips" / "a.mp4", folder / "clips" / "b.mp4")
    other = ("lay", *WORDS[1:])
    table(folder / "clips.tsv", [("a", "train", WORDS), ("b", "test", other)])
    return folder


def sound(path, rate):
    """Mono sound of a file, resampled in one go: 48 kHz to a third of it."""
    with av.open(str(path)) as file:
        both = np.concatenate([f.to_ndarray() for f in file.decode(audio=0)], axis=1)
    from scipy.signal import resample_poly

    return resample_poly(both.mean(axis=0).astype(np.float64), 1, 48_000 // rate)


def test_windows_lie_around_words_with_sound_in_step(grid):
    source = grid_words("train", root=grid, frames=8, size=24, audio_rate=16_000)
    batch = source.take(np.arange(6))
    assert batch["video"].shape == (6, 8, 24, 24, 3)
    assert batch["audio"].shape == (6, 5120)
    whole = sound(grid / "clips" / "a.mp4", 16_000)
    # By hand: middle of the word minus four frames, to the nearest frame, within the clip.
    firsts = [1, 11, 22, 32, 47, 64]
    for row, first in enumerate(firsts):
        for k in range(8):
            there = frame_image(first + k, 48, 48).reshape(24, 2, 24, 2, 3).mean((1, 3))
            assert np.abs(batch["video"][row, k] - there).mean() < 6
        expected = whole[first * 640 : first * 640 + 5120]
        # Both resample without aliasing, with filters of unlike width.
        np.testing.assert_allclose(batch["audio"][row], expected, atol=2e-2)


def test_text_is_the_word_and_its_nearest_neighbours(grid):
    source = grid_words("train", root=grid, size=16, words=2, context=2)
    assert source.info["groups"] == ("a",) * 6
    words = Vocabulary(source.info["vocabulary"])
    texts = [[words.decode(s) for s in row] for row in source.arrays["text"]]
    assert texts[0] == ["bin", "blue", "at"]
    assert texts[2] == ["at", "blue", "f"]
    assert texts[5] == ["please", "four", "f"]
    assert source.arrays["text"].shape == (6, 3, 2)
    assert (source.arrays["text"][..., 1] == 0).all()
    classes = source.info["classes"]
    assert [classes[i] for i in source.arrays["label"]] == list(WORDS)
    test = grid_words("test", root=grid, size=16, slots=("command",))
    assert test.info["vocabulary"] == source.info["vocabulary"]
    assert [test.info["classes"][i] for i in test.arrays["label"]] == ["lay"]


def test_grid_says_what_is_wrong(grid, tmp_path):
    with pytest.raises(
        ConfigError, match=r"unknown split 'tain': did you mean 'train'"
    ):
        grid_words("tain", root=grid)
    with pytest.raises(
        ConfigError, match=r"unknown slot 'colour': did you mean 'color'"
    ):
        grid_words("train", root=grid, slots=("colour",))
    with pytest.raises(ConfigError, match=r"context in 0\.\.5"):
        grid_words("train", root=grid, context=6)
    with pytest.raises(DataError, match=r"clips\.tsv: cannot be read .* clips/ in one"):
        grid_words("train", root=tmp_path)
    (tmp_path / "clips.tsv").write_text("clip\tspeaker\na\tp0\n")
    with pytest.raises(DataError, match="has no column 'adverb'"):
        grid_words("train", root=tmp_path)
    (tmp_path / "clips").mkdir()
    write_clip(tmp_path / "clips" / "a.mp4", times=range(9), size=(48, 48), sound="aac")
    table(tmp_path / "clips.tsv", [("a", "train", WORDS)])
    with pytest.raises(MediaError, match=r"a\.mp4: has pictures of the shape \(9, "):
        grid_words("train", root=tmp_path)


def test_real_sentences_have_the_published_counts(shared, tmp_path):
    archive = shared("data", "grid_av", "grid_av.zip")
    with zipfile.ZipFile(archive) as file:
        lines = file.read("clips.tsv").decode().splitlines()
        (tmp_path / "clips.tsv").write_text("\n".join([lines[0], *lines[1:3]]) + "\n")
        for line in lines[1:3]:
            file.extract(f"clips/{line.split()[0]}.mp4", tmp_path)
    splits = [line.split("\t")[1] for line in lines[1:]]
    assert (splits.count("train"), splits.count("test")) == (193, 47)
    source = grid_words("test", root=tmp_path)
    assert len(source) == 6 * sum(line.split("\t")[1] == "test" for line in lines[1:3])
    loud = np.sqrt(np.mean(np.square(source.arrays["audio"]), axis=1))
    assert loud.min() > 1e-3  # there is speech in every window


def test_made_up_clips_follow_from_their_index():
    section = {
        "name": "synthetic_clips",
        "size": 9,
        "num_classes": 3,
        "without_text": 4,
    }
    source, again = open_source(section), open_source(section)
    for i in (0, 5, 8):
        for name, value in source[i].items():
            np.testing.assert_array_equal(value, again[i][name])
    clip = source[5]
    assert clip["video"].shape == (4, 16, 16, 3)
    assert clip["video"].dtype == np.uint8
    assert clip["audio"].shape == (512,)
    assert np.abs(clip["audio"]).max() <= 1
    assert clip["text"].shape == (2, 4)
    assert (clip["text"][:, 0] == 4 + clip["label"]).all()
    assert [int(source[i]["text_mask"]) for i in range(9)] == [
        0,
        1,
        1,
        1,
        0,
        1,
        1,
        1,
        0,
    ]
    assert not source[4]["text"].any()
    # The tone alone tells the classes apart.
    peaks = [np.abs(np.fft.rfft(source[i]["audio"])).argmax() for i in range(9)]
    assert all(peaks[i] == peaks[i % 3] for i in range(9))
    assert len(set(peaks)) == 3
    with pytest.raises(ConfigError, match=r"4 \+ num_classes = 12 or more, got 11"):
        open_source({"name": "synthetic_clips", "vocabulary": 11})
    assert not np.array_equal(
        open_source({**section, "split": "test"})[1]["video"], source[1]["video"]
    )


N = 101


def numbered(labels=None):
    labels = np.arange(N) % 7 if labels is None else labels
    return ArraySource(
        {
            "video": np.arange(N),
            "audio": np.arange(N) + 1000.0,
            "text": np.arange(N) + 2000,
            "text_mask": np.ones(N, np.float32),
            "label": labels,
        },
        labels=labels,
    )


@pytest.mark.parametrize("modality", ["audio", "text", "either", "both"])
def test_a_known_share_of_partners_is_wrong(modality):
    source = mispaired(numbered(), share=0.4, modality=modality, seed=3)
    batch = source.take(np.arange(N))
    np.testing.assert_array_equal(batch["video"], np.arange(N))
    labels = np.arange(N) % 7
    wrong = {}
    for name, shift in (("audio", 1000), ("text", 2000)):
        partner = (batch[name] - shift).astype(int)
        wrong[name] = partner != np.arange(N)
        np.testing.assert_array_equal(wrong[name], batch[f"wrong_{name}"])
        assert (labels[partner[wrong[name]]] != labels[wrong[name]]).all()
        assert len(set(partner)) > 0.7 * N  # partners differ from each other
    counts = int(wrong["audio"].sum()), int(wrong["text"].sum())
    expected = {"audio": (40, 0), "text": (0, 40), "either": (20, 20), "both": (40, 40)}
    assert counts == expected[modality]
    if modality == "either":
        assert not (wrong["audio"] & wrong["text"]).any()
    if modality == "both":
        assert (wrong["audio"] == wrong["text"]).all()
        assert (batch["audio"] - 1000 != batch["text"] - 2000)[
            wrong["text"]
        ].mean() > 0.8
    # One by one they are the same; so is a source of the same seed.
    for i in (0, 17, 100):
        for name, value in source[i].items():
            assert value == batch[name][i]
    again = mispaired(numbered(), share=0.4, modality=modality, seed=3)
    other = mispaired(numbered(), share=0.4, modality=modality, seed=4)
    name = "text" if modality == "text" else "audio"
    np.testing.assert_array_equal(again.take(np.arange(N))[name], batch[name])
    assert (other.take(np.arange(N))[name] != batch[name]).any()


def test_two_kinds_of_noise_add_up():
    once = mispaired(numbered(), share=0.5, modality="audio", seed=1)
    twice = mispaired(once, share=0.2, modality="text", seed=2)
    batch = twice.take(np.arange(N))
    assert (batch["wrong_audio"].sum(), batch["wrong_text"].sum()) == (50, 20)
    np.testing.assert_array_equal(
        batch["wrong_audio"] > 0, batch["audio"] != np.arange(N) + 1000
    )


@pytest.mark.parametrize("share", [0, 1])
def test_none_or_all_can_be_wrong(share):
    batch = mispaired(numbered(), share=share, modality="audio").take(np.arange(N))
    assert batch["wrong_audio"].sum() == share * N


class Drawn:
    """Examples of which the loader draws a part."""

    def __init__(self):
        self.info = {"labels": np.arange(6)}

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return {"video": index, "audio": index + 0.5, "text": index}

    def draw(self, index, rng):
        return {"video": index, "audio": index + rng.random(), "text": index}


def test_parts_are_drawn_of_partners_too():
    source = mispaired(Drawn(), share=0.5, modality="audio")
    partner = source.info["partners"]["audio"]
    with train_batches(source, batch_size=12, seed=0) as batches:
        batch = next(batches)
    np.testing.assert_array_equal(np.floor(batch["audio"]), partner[batch["video"]])
    assert len(set(batch["audio"])) == 12  # each time another part
    assert batch["wrong_audio"].sum() == 6
    assert source[0]["audio"] == partner[0] + 0.5


def test_a_text_that_is_not_there_is_not_wrong():
    section = {"name": "synthetic_clips", "size": 24, "without_text": 3}
    source = open_source(
        {"name": "mispaired", "source": section, "share": 1.0, "modality": "text"}
    )
    clips = [source[i] for i in range(24)]
    assert all(clip["wrong_text"] == clip["text_mask"] for clip in clips)
    assert 0 < sum(clip["text_mask"] for clip in clips) < 24


def test_mispairing_says_what_is_wrong():
    with pytest.raises(ConfigError, match=r"unknown modality 'sound': choose from"):
        mispaired(numbered(), share=0.1, modality="sound")
    with pytest.raises(ConfigError, match=r"share must be in \[0, 1\], got 10"):
        mispaired(numbered(), share=10)
    plain = ArraySource({"audio": np.zeros(3)})
    with pytest.raises(ConfigError, match=r'no info\["labels"\]: set differ="index"'):
        mispaired(plain, share=0.1)
    assert len(mispaired(plain, share=0.5, differ="index")) == 3
    with pytest.raises(DataError, match="find no partner of another label"):
        mispaired(numbered(np.zeros(N, int)), share=0.1)


@pytest.mark.parametrize("workers", [1])
def test_workers_do_not_change_mispaired_batches(workers):
    section = {"name": "synthetic_clips", "size": 10, "num_classes": 5, "samples": 64}
    source = open_source({"name": "mispaired", "source": section, "share": 0.5})
    kwargs = {"batch_size": 4, "seed": 1}
    with (
        train_batches(source, **kwargs) as one,
        train_batches(source, workers=workers, **kwargs) as other,
    ):
        for _ in range(4):
            a, b = next(one), next(other)
            assert set(a) == set(b) >= {"wrong_audio", "wrong_text", "video"}
            for name in a:
                np.testing.assert_array_equal(a[name], b[name])
