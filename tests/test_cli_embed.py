"""`zoo-jax embed` and `zoo-jax search-clips`: files in, embeddings and rankings out."""

import json

import clips as made
import numpy as np
import pytest

from zoo_jax import embed, models
from zoo_jax.cli import main
from zoo_jax.core.errors import WeightsError
from zoo_jax.data.words import Vocabulary
from zoo_jax.embed import Embedder, Entry, read_embeddings, write_embeddings
from zoo_jax.search_clips import rank

NAME = "gradient_harmonization/vatt"
TINY = dict(
    encoder=(1, 8, 16, 1),
    d_kv=8,
    clip=(2, 16, 16),
    patch=(2, 8, 8),
    sound=(256,),
    sound_patch=(64,),
    words=3,
    vocabulary=16,
    word_width=4,
    projection=8,
    spaces=(8, 4),
)


@pytest.fixture(scope="module")
def model():
    return models.create_model(NAME, **TINY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two videos, one of them silent; a sound; a damaged video; and something else."""
    folder = tmp_path_factory.mktemp("media")
    made.write_clip(folder / "a.mp4", sound="aac")
    (folder / "sub").mkdir()
    made.write_clip(folder / "sub" / "b.mp4", size=(32, 48))
    made.write_sound(
        folder / "c.wav", 0.3 * np.random.default_rng(0).uniform(-1, 1, (1, 9600))
    )
    (folder / "d.mp4").write_bytes(b"no video")
    (folder / "notes.pdf").write_text("nothing")
    return folder


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "words.txt"
    Vocabulary.build(["a dog barks", "a cat"]).write(path)
    return path


@pytest.fixture
def run(model, monkeypatch, capsys):
    """Runs a command line with the model in the place of the weights."""
    monkeypatch.setattr(embed.models, "create_model", lambda *args, **kw: model)

    def run(*arguments):
        code = main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def common(words=None):
    out = ["--model", NAME, "--weights", "w", "--windows", "2"]
    return out + (["--vocabulary", words] if words else [])


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_folder_becomes_one_file_and_goes_on_where_it_was(
    run, folder, words, tmp_path, suffix
):
    out, report = tmp_path / f"out{suffix}", tmp_path / "report.json"
    command = ["embed", *common(words), folder, "--text", "a dog", "-o", out]
    code, printed, _ = run(*command, "--json", report)
    assert code == 1  # d.mp4
    assert "embedded 4, kept 0, failed 1" in printed
    result = json.loads(report.read_text())
    assert result["counts"] == {
        "video_audio": 2,
        "video_text": 2,
        "audio": 2,
        "text": 1,
    }
    assert len(result["failed"]) == 1
    assert "d.mp4" in result["failed"][0]
    entries = read_embeddings(out)
    assert set(entries[str(folder / "a.mp4")].vectors) == {
        "video_audio",
        "video_text",
        "audio",
    }
    assert set(entries[str(folder / "sub" / "b.mp4")].vectors) == {
        "video_audio",
        "video_text",
    }
    assert set(entries[str(folder / "c.wav")].vectors) == {"audio"}
    before = {n: e.vectors for n, e in entries.items()}
    code, printed, _ = run(*command)
    assert "embedded 0, kept 4, failed 1" in printed
    after = {n: e.vectors for n, e in read_embeddings(out).items()}
    for name, vectors in before.items():
        for space, vector in vectors.items():
            np.testing.assert_array_equal(vector, after[name][space])
    code, _, err = run(*command, "--windows", "3")
    assert code == 2
    assert "was made with another windows" in err


@pytest.mark.slow  # compiles long
def test_windows_are_embedded_one_by_one_and_averaged(model, folder):
    both = Embedder(model, windows=2).file(folder / "a.mp4")
    one = Embedder(model, windows=1).file(folder / "a.mp4")
    assert not np.allclose(both["video_text"], one["video_text"])
    module = model.module
    reading = Embedder(model, windows=2)._reading
    from zoo_jax.data.clip_augment import ClipCenterCrop
    from zoo_jax.data.clips import Clips

    source = Clips(
        [{"video": str(folder / "a.mp4")}], modalities=("video", "audio"), **reading
    )
    found = []
    for window in (source[0], source[1]):
        video = ClipCenterCrop(16, 16)(window, None)["video"][None] / 127.5 - 1
        z = module.apply(
            model.variables,
            video.astype(np.float32),
            window["audio"][None],
            train=False,
        )
        found.append(np.asarray(z["video_text"][0]))
    np.testing.assert_allclose(both["video_text"], np.mean(found, axis=0), atol=1e-5)


def test_search_ranks_the_videos_by_cosine_and_keeps_their_embeddings(
    run, folder, words, model, tmp_path
):
    index, report = tmp_path / "index.npz", tmp_path / "found.json"
    command = ["search-clips", *common(words), folder, "--index", index]
    code, printed, _ = run(*command, "--text", "a dog barks", "--json", report)
    assert code == 1  # d.mp4
    ranking = json.loads(report.read_text())["ranking"]
    query = Embedder(model, Vocabulary.read(words)).sentence("a dog barks")["text"]
    entries = read_embeddings(index)
    for row in ranking:
        z = entries[row["clip"]].vectors["video_text"]
        cosine = z @ query / np.linalg.norm(z) / np.linalg.norm(query)
        assert row["cosine"] == pytest.approx(cosine, abs=1e-5)
    assert [row["rank"] for row in ranking] == [1, 2]
    assert ranking[0]["cosine"] >= ranking[1]["cosine"]
    assert printed.splitlines()[-2].split()[0] == "1"
    code, _, _ = run(*command, "--sound", folder / "c.wav", "--json", report)
    assert json.loads(report.read_text())["space"] == "video_audio"


def test_equal_clips_share_the_worse_rank():
    same = np.ones(3, np.float32)
    entries = [Entry(n, "", {"video_text": same * k}) for n, k in (("b", 1), ("a", 2))]
    entries.append(Entry("c", "", {"video_text": -same}))
    got = [(row["rank"], row["clip"]) for row in rank(entries, "video_text", same)]
    assert got == [(2, "a"), (2, "b"), (3, "c")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embed", "FOLDER", "-o", "x.csv"], "must end in .safetensors or .npz"),
        (["embed", "-o", "x.npz"], "nothing to embed"),
        (["embed", "absent.mp4", "-o", "x.npz"], "no such file"),
        (["embed", "FOLDER/notes.pdf", "-o", "x.npz"], "neither a video"),
        (["search-clips", "absent", "--text", "dog"], "is no folder"),
        (["search-clips", "FOLDER", "--text", "dog"], "give --vocabulary"),
        (["search-clips", "FOLDER", "--sound", "absent.wav"], "no such file"),
    ],
)
def test_mistakes_are_one_line(run, folder, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command, *rest = [a.replace("FOLDER", str(folder)) for a in arguments]
    code, _, err = run(command, *common(), *rest)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_sentence_of_unknown_words_fails_alone(run, words, tmp_path):
    out = tmp_path / "out.npz"
    code, printed, _ = run(
        "embed", *common(words), "--text", "dog", "--text", "zebra", "-o", out
    )
    assert code == 1
    assert "embedded 1, kept 0, failed 1" in printed


def test_another_file_is_no_file_of_embeddings(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.ones(2))
    with pytest.raises(WeightsError, match="no file of embeddings"):
        read_embeddings(path)
    write_embeddings(path, [], {})
    assert read_embeddings(path, {}) == {}
