"""Official annotations, in small: what each layout becomes as a manifest."""

import json
import struct

import pytest

from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.data.builders.clips import MANIFESTS
from zoo_jax.data.builders.clips.captions import read_subtitles
from zoo_jax.data.builders.clips.make import make_manifest
from zoo_jax.data.clip_manifest import read_manifest


def write(folder, files):
    """Name -> text; media have no content, since none is opened."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def made(name, folder, **options):
    report = make_manifest(name, source_dir=folder, **options)
    lines = [json.loads(line) for line in report.path.read_text().splitlines()]
    assert len(lines) == report.lines
    assert read_manifest(report.path)  # it is one
    return report, lines


def test_ucf101_has_its_three_splits(tmp_path):
    files = {
        "ucfTrainTestlist/classInd.txt": "1 Archery\n2 Bowling\n",
        "ucfTrainTestlist/trainlist02.txt": "Archery/v_Archery_g01_c01.avi 1\n"
        "Bowling/v_Bowling_g01_c01.avi 2\n",
        "ucfTrainTestlist/testlist02.txt": "Bowling/v_Bowling_g02_c01.avi\n",
        "UCF-101/Archery/v_Archery_g01_c01.avi": "",
        "UCF-101/Bowling/v_Bowling_g01_c01.avi": "",
        "UCF-101/Bowling/v_Bowling_g02_c01.avi": "",
    }
    write(tmp_path, files)
    report, lines = made("ucf101/2", tmp_path, counts={"train": 2, "test": 1})
    assert report.path == tmp_path / "ucf101-2.jsonl"
    assert lines[2] == {
        "video": "UCF-101/Bowling/v_Bowling_g02_c01.avi",
        "label": "Bowling",
        "split": "test",
    }
    with pytest.raises(
        DataError, match=r"documented are \{'train': 9586, 'test': 3734\}"
    ):
        make_manifest("ucf101/2", source_dir=tmp_path)
    (tmp_path / "UCF-101/Bowling/v_Bowling_g01_c01.avi").unlink()
    with pytest.raises(
        DataError, match=r"1 of 3 files of ucf101/2 are missing: Bowling/v_"
    ):
        make_manifest("ucf101/2", source_dir=tmp_path, counts={})
    with pytest.raises(DataError, match=r"has no trainlist01\.txt"):
        make_manifest("ucf101/1", source_dir=tmp_path)


def test_hmdb51_leaves_out_what_is_in_neither_part(tmp_path):
    files = {
        "splits/cartwheel_test_split1.txt": "a.avi 1 \nb.avi 2 \nc.avi 0 \n",
        "splits/catch_test_split1.txt": "a.avi 2 \n",
        "cartwheel/a.avi": "",
        "cartwheel/b.avi": "",
        "cartwheel/c.avi": "",
        "catch/a.avi": "",
    }
    write(tmp_path, files)
    _, lines = made("hmdb51/1", tmp_path, counts={"train": 1, "test": 2})
    # Two files have one name: the folder tells them apart.
    assert [(x["video"], x["split"]) for x in lines] == [
        ("cartwheel/a.avi", "train"),
        ("cartwheel/b.avi", "test"),
        ("catch/a.avi", "test"),
    ]
    with pytest.raises(
        DataError, match=r"documented are \{'train': 3570, 'test': 1530\}"
    ):
        make_manifest("hmdb51/1", source_dir=tmp_path)


def test_kinetics_takes_cut_clips_and_whole_videos(tmp_path):
    rows = [f"class {i},id{i:09d},{i}.0,{i + 10}.0,train" for i in range(400)]
    head = "label,youtube_id,time_start,time_end,split"
    files = {
        "train.csv": "\n".join([head, *rows]),
        "val.csv": f"{head}\nclass 1,xid000000xx,5,15,validate\n",
        "train/class 0/id000000000_000000_000010.mp4": "",
        "all/id000000007.mp4": "",
        "val/xid000000xx_000005_000015.mkv": "",
    }
    write(tmp_path, files)
    report, lines = made("kinetics/400", tmp_path)
    assert report.rows == {"train": 400, "val": 1}
    assert len(report.missing) == 398
    assert [x.get("start") for x in lines] == [None, 7.0, None]
    assert lines[1]["end"] == 17.0
    assert lines[2]["split"] == "val"
    with pytest.raises(DataError, match="has 400 classes, not the 600"):
        make_manifest("kinetics/600", source_dir=tmp_path)


def test_esc50_has_five_folds_of_400(tmp_path):
    head = "filename,fold,target,category,esc10,src_file,take"
    rows = [
        f"{f}-{i}-A.wav,{f},{i % 50},kind{i % 50:02d},False,{i},A"
        for f in range(1, 6)
        for i in range(400)
    ]
    write(tmp_path, {"meta/esc50.csv": "\n".join([head, *rows])})
    write(tmp_path, {f"audio/{row.split(',')[0]}": "" for row in rows})
    report, lines = made("esc50", tmp_path)
    assert report.rows == {str(f): 400 for f in range(1, 6)}
    assert lines[0] == {
        "audio": "audio/1-0-A.wav",
        "label": "kind00",
        "fold": 1,
        "split": "1",
    }
    (tmp_path / "meta/esc50.csv").write_text("\n".join([head, *rows[1:]]))
    with pytest.raises(DataError, match=r"'1': 399"):
        make_manifest("esc50", source_dir=tmp_path)


def test_audioset_has_several_labels_per_segment(tmp_path):
    classes = [f'{i},/m/{i:03d},"Kind {i}"' for i in range(527)]
    segments = (
        "# Segments csv created\n# num_ytids=2\n# YTID, start_seconds, end_seconds, labels\n"
        '--abcdefghi, 30.000, 40.000, "/m/000,/m/526"\n'
        'bcdefghijkl, 0.000, 9.500, "/m/001"\n'
    )
    files = {
        "class_labels_indices.csv": "\n".join(["index,mid,display_name", *classes]),
        "balanced_train_segments.csv": segments,
        "wav/--abcdefghi.m4a": "",
        "wav/bcdefghijkl_0.mp4": "",
    }
    write(tmp_path, files)
    _report, lines = made("audioset", tmp_path, counts={"balanced_train": 2})
    assert lines[0] == {
        "video": "wav/--abcdefghi.m4a",
        "id": "--abcdefghi",
        "label": ["Kind 0", "Kind 526"],
        "split": "balanced_train",
        "start": 30.0,
        "end": 40.0,
    }
    assert "start" not in lines[1]  # it was cut out already
    with pytest.raises(DataError, match=r"documented are \{'balanced_train': 22160\}"):
        make_manifest("audioset", source_dir=tmp_path)
    write(tmp_path, {"eval_segments.csv": "what is this\n"})
    with pytest.raises(DataError, match=r"eval_segments\.csv:1: .* is not a segment"):
        make_manifest("audioset", source_dir=tmp_path, counts={})


@pytest.mark.parametrize("form", ["json", "tables"])
def test_howto100m_has_all_captions_of_a_video_in_a_line(tmp_path, form):
    if form == "json":
        captions = {
            "aaa": {
                "start": [0.5, 3, 9],
                "end": [2, 5, 9],
                "text": ["mix it", "", "x"],
            },
            "bbb": {"start": [1], "end": [2], "text": ["fry"]},
        }
        write(tmp_path, {"caption.json": json.dumps(captions)})
    else:
        rows = {"aaa": "0,0.5,2,mix it\n1,3,5,\n2,9,9,x\n", "bbb": "0,1,2,fry\n"}
        for name, text in rows.items():
            write(tmp_path, {f"captions/{name}.csv": f",start,end,text\n{text}"})
    write(tmp_path, {"videos/aaa.webm": "", "videos/other.mp4": ""})
    report, lines = made("howto100m", tmp_path)
    # Captions without words or length are left out.
    assert lines == [
        {
            "video": "videos/aaa.webm",
            "id": "aaa",
            "captions": [{"start": 0.5, "end": 2.0, "text": "mix it"}],
        }
    ]
    assert report.missing == ("bbb",)


def test_youcook2_steps_have_their_neighbours(tmp_path):
    steps = [
        {"segment": [10 * i, 10 * i + 8], "id": i, "sentence": f"step {i}"}
        for i in range(4)
    ]
    database = {
        "vid": {"subset": "training", "recipe_type": "101", "annotations": steps},
        "gone": {
            "subset": "validation",
            "recipe_type": "102",
            "annotations": steps[:1],
        },
    }
    text = json.dumps({"database": database})
    write(tmp_path, {"youcookii_annotations_trainval.json": text, "v/vid.mp4": ""})
    _report, lines = made("youcook2", tmp_path, counts={"train": 4, "val": 1})
    assert lines[1] == {
        "video": "v/vid.mp4",
        "id": "vid/1",
        "start": 10.0,
        "end": 18.0,
        "text": "step 1",
        "context": ["step 0", "step 2", "step 3"],
        "split": "train",
    }
    with pytest.raises(DataError, match="'val': 3492"):
        make_manifest("youcook2", source_dir=tmp_path)


def test_msrvtt_has_a_line_per_sentence_and_counts_videos(tmp_path):
    videos = [
        {"video_id": f"video{i}", "split": split, "category": 1}
        for i, split in enumerate(("train", "train", "validate"))
    ]
    sentences = [
        {"sen_id": 10 * i + k, "video_id": f"video{i}", "caption": f"thing {i} {k}"}
        for i in range(3)
        for k in range(2)
    ]
    text = json.dumps({"videos": videos, "sentences": sentences})
    write(tmp_path, {"train_val_videodatainfo.json": text})
    write(tmp_path, {f"TrainValVideo/video{i}.mp4": "" for i in range(3)})
    report, lines = made("msrvtt", tmp_path, counts={"train": 2, "val": 1})
    assert report.lines == 6
    assert lines[5]["text"] == "thing 2 1"
    assert lines[5]["split"] == "val"
    with pytest.raises(
        DataError, match=r"documented are \{'train': 6513, 'val': 497\}"
    ):
        make_manifest("msrvtt", source_dir=tmp_path)
    rows = "key,vid_key,video_id,sentence\nret0,msr1,video1,a cat plays\n"
    write(tmp_path, {"MSRVTT_JSFUSION_test.csv": rows})
    report, lines = made("msrvtt/1k", tmp_path, counts={"test": 1})
    assert lines[0]["text"] == "a cat plays"


def varint(n):
    out = b""
    while n >= 128:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(name, labels, packed):
    numbers = b"".join(map(varint, labels))
    if packed:
        numbers = field(1, numbers)
    else:
        numbers = b"".join(b"\x08" + varint(n) for n in labels)
    entries = {
        b"id": field(1, field(1, name)),
        b"labels": field(3, numbers),
        b"mean_rgb": field(2, field(1, struct.pack("<2f", 0.5, -1))),
    }
    features = b"".join(field(1, field(1, k) + field(2, v)) for k, v in entries.items())
    data = field(1, features)
    return struct.pack("<Q", len(data)) + b"crc!" + data + b"crc!"


@pytest.mark.parametrize("packed", [True, False])
def test_youtube8m_is_read_out_of_its_records(tmp_path, packed):
    write(
        tmp_path,
        {
            "vocabulary.csv": "Index,TrainVideoCount,Name\n3,10,Game\n300,5,Guitar\n",
            "ids.csv": "aB01,dQw4w9WgXcQ\n",
            "videos/dQw4w9WgXcQ.mp4": "",
        },
    )
    records = example(b"aB01", [3, 300], packed) + example(b"zz99", [3], packed)
    (tmp_path / "train00.tfrecord").write_bytes(records)
    report, lines = made("youtube8m", tmp_path)
    assert lines == [
        {
            "video": "videos/dQw4w9WgXcQ.mp4",
            "id": "aB01",
            "label": ["Game", "Guitar"],
            "split": "train",
        }
    ]
    assert report.missing == ("zz99 (not in ids.csv)",)
    (tmp_path / "train00.tfrecord").write_bytes(records[:-9])
    with pytest.raises(DataError, match="a record is cut off"):
        make_manifest("youtube8m", source_dir=tmp_path)
    broken = struct.pack("<Q", 3) + b"crc!" + b"\xff\xff\xff" + b"crc!"
    (tmp_path / "train00.tfrecord").write_bytes(broken)
    with pytest.raises(DataError, match=r"no tf\.train\.Example"):
        make_manifest("youtube8m", source_dir=tmp_path)


def test_a_folder_of_captioned_videos(tmp_path):
    srt = "1\n00:00:01,500 --> 00:00:03,000\n<i>Add</i>\nthe salt\n\n2\n00:00:04,000 --> 00:00:04,000\nnothing\n"
    vtt = "WEBVTT\n\nintro\n00:02.5 --> 01:00:03.250 align:start\nStir.\n"
    files = {
        "a.mp4": "",
        "a.srt": srt,
        "deep/b.webm": "",
        "deep/b.vtt": vtt,
        "c.mkv": "",
        "c.txt": "A  cat\nplays.\n",
        "d.mov": "",
        "notes.md": "",
    }
    write(tmp_path, files)
    _report, lines = made("captioned_folder", tmp_path)
    assert {
        x["video"]: {k: v for k, v in x.items() if k != "video"} for x in lines
    } == {
        "a.mp4": {"captions": [{"start": 1.5, "end": 3.0, "text": "Add the salt"}]},
        "c.mkv": {"text": "A cat plays."},
        "d.mov": {},
        "deep/b.webm": {"captions": [{"start": 2.5, "end": 3603.25, "text": "Stir."}]},
    }
    (tmp_path / "a.srt").write_text("Add the salt\n")
    with pytest.raises(DataError, match=r"a\.srt: has no caption with times"):
        make_manifest("captioned_folder", source_dir=tmp_path)
    assert read_subtitles(tmp_path / "deep/b.vtt")[0]["text"] == "Stir."


def test_what_is_wrong_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"'ucf101': choose ucf101/1 or ucf101/2 or"):
        make_manifest("ucf101", source_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"'howto': did you mean 'howto100m'"):
        make_manifest("howto", source_dir=tmp_path)
    with pytest.raises(DataError, match="no folder"):
        make_manifest("esc50", source_dir=tmp_path / "no")
    for name in MANIFESTS:
        with pytest.raises(DataError) as caught:
            make_manifest(name, source_dir=tmp_path)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
