"""The harness: scores by a loop, exact zeros, and what a restorer must not do."""

import jax.numpy as jnp
import numpy as np
import pytest
from scoring import (
    CLASS_MAP,
    ColourRecogniser,
    brighten,
    make_folder,
    picture,
    save,
)

from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.data.media import decode_image
from zoo_jax.methods.ug2.pictures import find_pictures
from zoo_jax.methods.ug2.score import METRICS, score


@pytest.fixture
def data(tmp_path):
    return make_folder(tmp_path / "data")


def run(folder, restorers=(), recognisers=None, **options):
    return score(
        find_pictures(folder),
        dict(restorers),
        recognisers or [ColourRecogniser()],
        CLASS_MAP,
        **{"k": 2, **options},
    )


def row(scores, restorer, metric, **more):
    (found,) = (
        r
        for r in scores.rows
        if (r["restorer"], r["metric"], r["collection"])
        == (restorer, metric, more.get("collection", "all"))
        and r["recogniser"] == more.get("recogniser", "colours")
    )
    return found


def test_rates_are_those_of_a_loop_over_files(data):
    found = run(data)
    m1, m2 = [], []
    for shown in find_pictures(data):
        image = decode_image(shown.path)
        (values,) = ColourRecogniser().scores([image])
        best = set(np.argsort(-values, kind="stable")[:2].tolist())
        right = {"red": {0, 3}, "green": {1}, "blue": {2}}[shown.label]
        m1.append(bool(best & right))
        m2.append(right <= best)
    assert 0 < sum(m2) < sum(m1) < len(m1)
    assert row(found, "raw", "M1")["score"] == pytest.approx(np.mean(m1))
    assert row(found, "raw", "M2")["score"] == pytest.approx(np.mean(m2))
    assert row(found, "raw", "M1")["n"] == 18


def test_what_changes_nothing_has_a_delta_of_exactly_zero(data):
    found = run(data, {"same": lambda x: x, "almost": lambda x: x + 0.001})
    for metric in METRICS:
        for name in ("raw", "same", "almost"):  # 0.001 is lost in 8 bits
            values = row(found, name, metric)
            assert (values["delta"], values["low"], values["high"]) == (0.0, 0.0, 0.0)


def test_a_restorer_that_helps_has_an_interval_above_zero(data):
    found = run(data, {"brighten": brighten})
    values = row(found, "brighten", "M1")
    assert values["score"] == 1
    raw = row(found, "raw", "M1")["score"]
    assert values["delta"] == pytest.approx(1 - raw)
    assert 0 <= values["low"] < values["delta"] < values["high"]
    # Two of three videos gain in rank, so hardly a resample is without.
    assert row(found, "brighten", "LRAP")["low"] > 0
    harmful = run(data, {"black": jnp.zeros_like})
    assert row(harmful, "black", "LRAP")["high"] < 0


def test_a_restorer_scores_as_the_folder_that_it_writes(data, tmp_path):
    restorers = {"soft": lambda x: 0.25 + x / 3}

    def sink(name, shown, image):
        save(tmp_path / name / f"{shown.key}.png", image)

    one = run(data, restorers, sink=sink)
    other = run(data, entries={"soft": tmp_path / "soft"})
    assert one.rows == other.rows
    assert row(one, "soft", "LRAP")["delta"] != 0


def test_restored_pictures_are_rounded_to_whole_levels(data):
    seen = {"less": [], "more": []}
    restorers = {"less": lambda x: x + 0.4 / 255, "more": lambda x: x + 0.6 / 255}

    def sink(name, shown, image):
        raw = decode_image(shown.path).astype(int)
        seen[name].append(np.unique(image[raw < 255] - raw[raw < 255]).tolist())

    run(data, restorers, sink=sink)
    assert seen == {"less": [[0]] * 18, "more": [[1]] * 18}


def test_lrap_counts_every_label_and_every_sequence_alike(data):
    # One more video of one label must not weigh as much as all others together.
    for frame in range(30):
        save(data / "red" / "long" / f"{frame}.png", picture("red", frame))
    found = run(data)
    values = {}
    for r in found.pictures:
        values.setdefault(r["label"], {}).setdefault(r["video"], []).append(r["LRAP"])
    macro = np.mean(
        [np.mean([np.mean(v) for v in videos.values()]) for videos in values.values()]
    )
    assert row(found, "raw", "LRAP")["score"] == pytest.approx(macro, rel=1e-12)
    micro = np.mean([r["LRAP"] for r in found.pictures])
    assert abs(macro - micro) > 0.05


def test_batches_and_order_do_not_matter(data):
    pictures = find_pictures(data)
    expected = run(data, {"brighten": brighten}).rows
    assert run(data, {"brighten": brighten}, batch=5).rows == expected
    shuffled = [pictures[i] for i in np.random.default_rng(0).permutation(18)]
    found = score(
        shuffled, {"brighten": brighten}, [ColourRecogniser()], CLASS_MAP, k=2
    )
    for one, other in zip(found.rows, expected, strict=True):
        assert one["score"] == pytest.approx(other["score"], rel=1e-12)


def test_restorers_see_full_batches_or_single_pictures(data):
    shapes = []

    def note(x):
        shapes.append(x.shape)
        return x

    run(data, {"note": note}, batch=5)
    assert shapes == [(5, 9, 11, 3)] * 4  # 18 pictures: the last batch is filled up
    shapes.clear()
    save(data / "red" / "v00" / "wide.png", picture("red", size=(9, 13)))
    run(data, {"note": note}, batch=5)
    assert set(shapes) == {(1, 9, 11, 3), (1, 9, 13, 3), (5, 9, 11, 3)}


def test_a_side_makes_squares_of_all_before_anything_else(data, tmp_path):
    save(data / "red" / "v00" / "wide.png", picture("red", size=(9, 30)))
    shapes = []

    def note(x):
        shapes.append(x.shape[1:])
        return x

    found = run(data, {"note": note}, side=8)
    assert set(shapes) == {(8, 8, 3)}
    assert {image.shape for s in found.shown for image in s.images.values()} == {
        (8, 8, 3)
    }


def test_collections_have_rows_of_their_own(tmp_path):
    save(tmp_path / "red_AV00001_0_1.png", picture("red"))
    save(tmp_path / "red_AV00001_0_2.png", picture("red", dim=0.4))
    save(tmp_path / "blue_x_60_na_cloudy_gopro_0_1.png", picture("blue", dim=0.4))
    found = run(tmp_path)
    assert row(found, "raw", "M1", collection="air")["n"] == 2
    assert row(found, "raw", "M1", collection="ground")["n"] == 1
    assert row(found, "raw", "M1")["n"] == 3
    assert np.isnan(row(found, "raw", "M1", collection="air")["low"])


def test_several_recognisers_judge_the_same_pictures(data):
    found = run(data, recognisers=[ColourRecogniser(), ColourRecogniser("twin")])
    one, other = (row(found, "raw", "M1", recogniser=n) for n in ("colours", "twin"))
    assert one["score"] == other["score"]


@pytest.mark.parametrize(
    ("restore", "message"),
    [
        (lambda x: x[:, 1:], r"restorer 'bad' on .*png: gave shape .*keeps the size"),
        (lambda x: x[..., 0], "keeps the size"),
        (lambda x: jnp.log(x - 1), "restorer 'bad' on .* not finite"),
        (lambda x: x * 255, r"gave values from .* pictures lie in \[0, 1\]"),
    ],
)
def test_bad_restorers_are_named_in_one_line(data, restore, message):
    with pytest.raises(DataError, match=message) as caught:
        run(data, {"bad": restore})
    assert "\n" not in str(caught.value)


def test_bad_recognisers_are_named(data):
    class Bad(ColourRecogniser):
        def scores(self, images):
            return super().scores(images)[:, :5]

    with pytest.raises(DataError, match=r"recogniser 'bad': gave scores of shape"):
        run(data, recognisers=[Bad("bad")])
    Bad.scores = lambda self, images: np.full((len(images), 6), np.nan)
    with pytest.raises(DataError, match=r"recogniser 'bad': .* not finite"):
        run(data, recognisers=[Bad("bad")])


def test_names_are_taken_once(data):
    with pytest.raises(ConfigError, match="'raw' is named twice"):
        run(data, {"raw": lambda x: x})
    with pytest.raises(ConfigError, match="'e' is named twice"):
        run(data, {"e": lambda x: x}, entries={"e": data})
    with pytest.raises(ConfigError, match="'colours' is named twice"):
        run(data, recognisers=[ColourRecogniser(), ColourRecogniser()])
    with pytest.raises(ConfigError, match="no recogniser"):
        score(find_pictures(data), {}, [], CLASS_MAP)
    with pytest.raises(DataError, match="no pictures to score"):
        score([], {}, [ColourRecogniser()], CLASS_MAP)


def test_a_label_that_is_not_in_the_map_is_named_before_anything_runs(data):
    save(data / "gren" / "x.png", picture("red"))
    calls = []
    with pytest.raises(DataError, match=r"x\.png: 'gren' is no label .*'green'"):
        run(data, {"note": calls.append})
    assert not calls


def test_a_broken_picture_is_left_out_everywhere_and_listed(data, tmp_path):
    entry = make_folder(tmp_path / "entry", dims=(1, 1, 1))
    (entry / "red" / "v00" / "1.png").write_bytes(b"broken")
    (data / "blue" / "v20" / "0.png").write_bytes(b"")
    found = run(data, {"brighten": brighten}, entries={"bright": entry})
    assert [failure.key for failure in found.failures] == ["blue/v20/0", "red/v00/1"]
    assert "the file is empty" in found.failures[0].error
    assert {r["n"] for r in found.rows} == {16}


def test_pairs_of_two_sizes_end_the_run(data, tmp_path):
    entry = make_folder(tmp_path / "entry")
    save(entry / "red" / "v00" / "1.png", picture("red", size=(8, 11)))
    with pytest.raises(DataError, match=r"has 11x8 pixels .* 11x9: both must have one"):
        run(data, entries={"e": entry})


def test_nothing_readable_is_an_error(tmp_path):
    (tmp_path / "red").mkdir()
    (tmp_path / "red" / "x.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"none of 1 pictures can be read: .*x\.png"):
        run(tmp_path)


def test_shown_pictures_are_evenly_spaced_and_marked(data):
    found = run(data, {"brighten": brighten}, show=3)
    assert [s.key for s in found.shown] == [p.key for p in find_pictures(data)[::6]]
    for shown in found.shown:
        assert set(shown.images) == {"raw", "brighten"}
        assert shown.hits["brighten"] == {"colours": True}
    assert run(data, show=0).shown == []
