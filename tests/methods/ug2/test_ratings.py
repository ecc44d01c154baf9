"""Human judgements: weights by a loop, checks, and what a file must look like."""

import json
import statistics

import numpy as np
import pytest

from zoo_jax.core.errors import DataError
from zoo_jax.methods.ug2.ratings import Rating, evaluate_ratings, read_ratings


def rate(
    rater="ann", pair="p0", rating=1, ms=1000.0, left="raw", right="srnet", **more
):
    return Rating(rater, pair, left, right, rating, ms, more.get("identical", False))


def check(rater, rating, pair="c0", ms=1000.0):
    return Rating(rater, pair, "raw", "raw", rating, ms, True)


def many(seed=0, raters=5, pairs=9):
    rng = np.random.default_rng(seed)
    return [
        rate(f"r{r}", f"p{p}", int(rng.integers(-2, 3)), float(rng.integers(300, 4000)))
        for r in range(raters)
        for p in range(pairs)
    ]


def test_the_score_is_the_mean_weighted_by_reaction_time():
    ratings = many()
    top = bottom = 0.0
    for rating in ratings:
        times = [r.reaction_ms for r in ratings if r.rater == rating.rater]
        median = statistics.median(times)
        mad = statistics.median([abs(t - median) for t in times])
        weight = 1 / (1 + max(0, (rating.reaction_ms - median) / mad))
        top, bottom = top + weight * rating.rating, bottom + weight
    (found,) = evaluate_ratings(ratings).preferences
    assert (found.a, found.b) == ("raw", "srnet")
    assert found.score == pytest.approx(top / bottom, rel=1e-12)
    assert found.low < found.score < found.high
    assert (found.votes, found.raters) == (45, 5)
    plain = np.mean([r.rating for r in ratings])
    assert found.score != pytest.approx(plain, abs=1e-3)


def test_sides_do_not_matter():
    ratings = many()
    swapped = [
        r._replace(left=r.right, right=r.left, rating=-r.rating) if i % 2 else r
        for i, r in enumerate(ratings)
    ]
    assert evaluate_ratings(ratings) == evaluate_ratings(swapped)


def test_equal_times_give_equal_weights():
    ratings = [rate(pair=f"p{i}", rating=v) for i, v in enumerate((2, 2, -1, 0))]
    assert evaluate_ratings(ratings).preferences[0].score == 0.75


def test_too_fast_judgements_are_left_out_before_weights_are_made():
    ratings = many()
    fast = [rate("r0", f"f{i}", -2, 199.9) for i in range(20)]
    found = evaluate_ratings([*ratings, *fast])
    assert found.preferences == evaluate_ratings(ratings).preferences
    assert found.too_fast == 20
    at_limit = evaluate_ratings([*ratings, rate("r0", "g", -2, 200.0)])
    assert at_limit.preferences[0].votes == 46


@pytest.mark.parametrize(
    ("answers", "careless"),
    [((0, 0), False), ((0, 1), False), ((0, 1, -1), True), ((2,), True)],
)
def test_raters_who_see_differences_in_identical_pairs_are_left_out(answers, careless):
    checks = [check("r1", v, f"c{i}") for i, v in enumerate(answers)]
    found = evaluate_ratings([*many(), *checks])
    assert found.careless == (("r1",) if careless else ())
    assert found.preferences[0].raters == (4 if careless else 5)
    without = [r for r in many() if not careless or r.rater != "r1"]
    assert found.preferences == evaluate_ratings(without).preferences


def test_each_pair_of_treatments_has_its_score():
    ratings = [
        rate(pair="p", rating=2),
        rate(pair="p", left="clahe", right="srnet", rating=-1),
        rate(pair="p", left="clahe", right="raw", rating=1),
    ]
    found = evaluate_ratings(ratings).preferences
    assert [(p.a, p.b, p.score) for p in found] == [
        ("clahe", "srnet", -1),
        ("raw", "clahe", -1),
        ("raw", "srnet", 2),
    ]
    assert np.isnan(found[0].low)


def test_nothing_left_is_an_error():
    with pytest.raises(
        DataError, match=r"none of 2 ratings counts: 1 took less than 200"
    ):
        evaluate_ratings([rate(ms=20.0), check("ann", 0)])


def write(folder, entries, name="r.json"):
    path = folder / name
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return path


GOOD = rate()._asdict()


def test_files_of_several_raters_are_read_together(tmp_path):
    one = write(tmp_path, [GOOD])
    two = write(tmp_path, [GOOD | {"rater": "bob", "extra": 1}], "two.json")
    assert read_ratings([one, two]) == [rate(), rate("bob")]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("[", "is not JSON"),
        ({}, "expected a list"),
        ([], "no ratings"),
        ([3], "rating 1: lacks identical, left"),
        ([{k: v for k, v in GOOD.items() if k != "pair"}], "rating 1: lacks pair"),
        ([GOOD | {"rating": 3}], r"rating must lie in -2\.\.2, got 3"),
        ([GOOD | {"rating": 0.5}], "rating must be of type int, got 0.5"),
        ([GOOD | {"rater": ""}], "rater must be of type str"),
        ([GOOD | {"identical": 0}], "identical must be of type bool"),
        ([GOOD | {"reaction_ms": -1}], "reaction_ms is -1"),
        (
            '[{"rater":"a","pair":"p","left":"x","right":"y","rating":0,'
            '"reaction_ms":NaN,"identical":false}]',
            "reaction_ms is nan",
        ),
        ([GOOD | {"right": "raw"}], "both sides are 'raw'"),
        ([GOOD, GOOD], "rating 2: 'ann' has judged 'p0' twice, first in .*rating 1"),
    ],
)
def test_bad_files_are_one_line(tmp_path, entries, message):
    with pytest.raises(DataError, match=message) as caught:
        read_ratings([write(tmp_path, entries)])
    assert "\n" not in str(caught.value)


def test_a_file_that_is_absent_is_named(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_ratings([tmp_path / "none.json"])
