"""M1, M2, LRAP and their means: published numbers, loops, and what must always hold."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import label_ranking_average_precision_score

from zoo_jax.metrics.recognition import (
    class_macro,
    hits,
    hits_of_top,
    lrap,
    top_classes,
)

GOLDEN = pathlib.Path(__file__).parents[1] / "fixtures" / "golden" / "ug2_metrics.npz"


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN)


def draw(seed, b=40, n=12, labels=5):
    rng = np.random.default_rng(seed)
    members = rng.random((labels, n)) < 0.3
    members[:, 0] |= ~members.any(axis=1)
    members[:, 1] &= ~members.all(axis=1)
    # Few distinct values, so that there are ties.
    scores = rng.integers(0, 6, (b, n)).astype(np.float32)
    return scores, members, rng.integers(0, labels, b)


def by_loop(scores, members, labels, k):
    """The official scorer's rule, picture by picture."""
    m1, m2 = [], []
    for row, label in zip(scores, labels, strict=True):
        best = set(np.argsort(-row, kind="stable")[:k].tolist())
        right = set(np.flatnonzero(members[label]).tolist())
        found = len(best & right)
        m1.append(float(found > 0))
        m2.append(float(found > 0 and found == min(k, len(right))))
    return m1, m2


@pytest.mark.parametrize("k", [1, 2, 5])
def test_hits_agree_with_a_loop_over_sets(k):
    scores, members, labels = draw(k)
    found = hits(scores, members, labels, k=k)
    m1, m2 = by_loop(scores, members, labels, k)
    assert 0 < sum(m2) < sum(m1) < len(m1) or k == 1
    np.testing.assert_array_equal(found.m1, m1)
    np.testing.assert_array_equal(found.m2, m2)


def test_ties_go_to_the_lowest_number():
    scores = jnp.array([[1.0, 2.0, 2.0, 0.0, 2.0]])
    assert top_classes(scores, k=2).tolist() == [[1, 2]]
    assert top_classes(jnp.zeros((1, 9)), k=5).tolist() == [[0, 1, 2, 3, 4]]
    expected = np.argsort(-draw(0)[0], axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(top_classes(draw(0)[0]), expected)


def test_m2_never_exceeds_m1_and_equals_it_for_one_class():
    scores, members, labels = draw(7, b=200)
    found = hits(scores, members, labels)
    assert np.all(found.m2 <= found.m1)
    single = np.eye(12, dtype=bool)[:5]
    alone = hits(scores, single, labels)
    np.testing.assert_array_equal(alone.m1, alone.m2)
    assert 0 < alone.m1.mean() < 1


def test_m1_rises_with_k_and_with_more_classes():
    scores, members, labels = draw(8, b=200)
    rates = [float(hits(scores, members, labels, k=k).m1.mean()) for k in range(1, 13)]
    assert rates == sorted(rates)
    assert rates[-1] == 1
    more = members.copy()
    more[:, 7] = True
    assert np.all(hits(scores, more, labels).m1 >= hits(scores, members, labels).m1)


def test_a_score_that_is_no_number_never_hits():
    scores, members, labels = draw(9)
    right = np.flatnonzero(members[labels[0]])[0]
    scores[0] = -np.arange(12)
    scores[0, right] = 99
    assert hits(scores, members, labels).m1[0] == 1
    scores[0, (right + 1) % 12] = np.nan
    assert hits(scores, members, labels).m1[0] == 0


def test_hits_are_traced_and_refuse_no_pictures():
    scores, members, labels = draw(3)
    compiled = jax.jit(hits)(scores, members, labels)
    np.testing.assert_array_equal(compiled.m2, hits(scores, members, labels).m2)
    with pytest.raises(ValueError, match="no pictures"):
        hits(scores[:0], members, labels[:0])
    with pytest.raises(ValueError, match=r"k must lie in 1\.\.12, got 13"):
        hits(scores, members, labels, k=13)


def test_hits_are_those_of_the_official_scorer(golden, shared, tmp_path):
    """Needs the published map, which is not ours to ship."""
    import zipfile

    from zoo_jax.methods.ug2.class_map import ClassMap

    archive = zipfile.ZipFile(shared("data", "ug2_samples", "ug2_samples.zip"))
    (name,) = (n for n in archive.namelist() if n.endswith("UG2ImageNet.txt"))
    path = tmp_path / "map.txt"
    path.write_bytes(archive.read(name))
    rows = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    order = sorted({row[0] for row in rows} | set(golden["scores/top5"].ravel()))
    known = ClassMap.read(path, order=order)
    number = {synset: i for i, synset in enumerate(order)}
    top = np.vectorize(number.get)(golden["scores/top5"])
    labels = known.indices(golden["scores/labels"].tolist())
    found = hits_of_top(jnp.asarray(top), jnp.asarray(known.members), labels)
    np.testing.assert_array_equal(found.m1, golden["scores/m1_each"])
    np.testing.assert_array_equal(found.m2, golden["scores/m2_each"])
    for value, name in zip(found, ("m1", "m2"), strict=True):
        assert np.asarray(value, np.float64).mean() == golden[f"scores/{name}"]


@pytest.mark.parametrize("case", ["lrap", "lrap_ties"])
def test_lrap_is_the_stored_value_of_scikit_learn(golden, case):
    each = lrap(golden[f"{case}/scores"], golden[f"{case}/truth"])
    # Both are float64; the order of sums differs.
    np.testing.assert_allclose(each, golden[f"{case}/each"], rtol=1e-12)
    assert each.mean() == pytest.approx(golden[f"{case}/value"], rel=1e-12)


def test_lrap_agrees_with_scikit_learn_on_ties():
    scores, members, labels = draw(11)
    truth = members[labels]
    expected = label_ranking_average_precision_score(truth, scores)
    assert lrap(scores, truth).mean() == pytest.approx(expected, rel=1e-12)


def test_lrap_of_a_perfect_ranking_is_one_and_of_one_class_its_reciprocal_rank():
    truth = np.array([[False, True, True, False]])
    assert lrap(np.array([[0.1, 0.9, 0.8, 0.2]]), truth) == [1.0]
    scores = np.array([[0.4, 0.3, 0.2, 0.1]])
    for rank in range(4):
        assert lrap(scores, np.eye(4, dtype=bool)[[rank]]) == [1 / (rank + 1)]


@pytest.mark.parametrize("fill", [True, False])
def test_lrap_refuses_labels_without_information(fill):
    with pytest.raises(ValueError, match="at least one class and without at least one"):
        lrap(np.ones((1, 3)), np.full((1, 3), fill))


def test_lrap_refuses_what_has_no_order():
    truth = np.array([[True, False]])
    with pytest.raises(ValueError, match="finite"):
        lrap(np.array([[np.nan, 1.0]]), truth)
    with pytest.raises(ValueError, match="no pictures"):
        lrap(np.ones((0, 2)), np.ones((0, 2), bool))


def test_class_macro_is_the_stored_mean_of_means(golden):
    values, labels = golden["macro/sequence_lrap"], golden["macro/sequence_class"]
    # A sum in another order than that of pandas.
    total = golden["macro/total"]
    assert class_macro(values, labels) == pytest.approx(total, rel=1e-14)
    assert class_macro(values, labels) != pytest.approx(values.mean(), rel=1e-3)
    shuffled = np.random.default_rng(0).permutation(len(values))
    assert class_macro(values[shuffled], labels[shuffled]) == pytest.approx(total)
    with pytest.raises(ValueError, match="no values"):
        class_macro(values[:0], labels[:0])


def test_the_golden_file_says_where_it_comes_from(golden):
    assert "scikit-learn" in str(json.loads(str(golden["meta"]))["reference"])
