"""Contrastive losses: against the released equations, loops in numpy, and invariants."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import FOLDER
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from zoo_jax.losses.contrastive import mil_nce, nce

STORED = np.load(FOLDER / "vatt_losses.npz")
CASES = json.loads(str(STORED["meta"]))["cases"]
FORMS = ("asymmetric", "symmetric")
every_form = pytest.mark.parametrize("form", FORMS)


@pytest.fixture(autouse=True)
def _true_float32():
    with jax.default_matmul_precision("highest"):
        yield


@functools.partial(jax.jit, static_argnames=("form", "replicas", "temperature"))
def loss_and_grads(video, text, mask, **options):
    def loss(video, text):
        values = mil_nce(video, text, mask, **options)
        return values.mean(), values

    (_, values), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(video, text)
    return values, grads


def draw(b=4, texts=3, d=5, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (b, d), (b, texts, d)
    return tuple(rng.normal(size=shape).astype("f4") for shape in shapes)


def golden(case):
    video, other = STORED[f"{case}/video"], STORED[f"{case}/other"]
    mask = f"{case}/mask"
    mask = STORED[mask] if mask in STORED.files else np.ones(len(video), "f4")
    return video, other.reshape(len(video), -1, other.shape[1]), mask


def by_loops(video, text, mask, form, temperature):
    """The value of each pair in float64, one similarity at a time."""
    video, text = np.asarray(video, np.float64), np.asarray(text, np.float64)
    b, candidates, _ = text.shape

    def s(i, j, k):
        lengths = np.linalg.norm(video[i]) * np.linalg.norm(text[j, k])
        return video[i] @ text[j, k] / lengths / temperature

    out = np.zeros(b)
    for i in np.flatnonzero(mask):
        row = [s(i, j, k) for j in range(b) if mask[j] for k in range(candidates)]
        column = [s(j, i, k) for j in range(b) for k in range(candidates)]
        positive = math.log(sum(math.exp(s(i, i, k)) for k in range(candidates)))
        if form == "asymmetric":
            value = math.log(sum(map(math.exp, row + column))) - positive
        else:
            value = sum(
                math.log(sum(map(math.exp, x))) - positive for x in (row, column)
            )
        out[i] = value * b / np.sum(mask)
    return out


@every_form
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_those_of_the_released_code(case, form):
    video, text, mask = golden(case)
    values, grads = loss_and_grads(video, text, mask, form=form)
    want = float(STORED[f"{case}/{form}"])
    # Rounding of the similarities, not of the loss, where a symmetric loss is almost zero.
    small = form == "symmetric" and want < 0.1
    tolerance = dict(abs=3e-6) if small else dict(rel=1e-5)
    assert float(values.mean()) == pytest.approx(want, **tolerance)
    for name, grad in zip(("video", "other"), grads, strict=True):
        expected = STORED[f"{case}/{form}_grad_{name}"].reshape(grad.shape)
        np.testing.assert_allclose(grad, expected, atol=1e-5, err_msg=name)


def test_values_are_scaled_by_the_mask_of_their_replica_if_asked_for():
    video, text, mask = golden("replicas")
    each, _ = loss_and_grads(video, text, mask, replicas=2)
    whole, _ = loss_and_grads(video, text, mask)
    want = STORED["replicas/asymmetric_each"]
    np.testing.assert_allclose(each.reshape(2, -1).mean(1), want, rtol=1e-5)
    assert float(whole.mean()) == pytest.approx(STORED["replicas/one_device"], rel=1e-5)
    assert abs(float(each.mean() - whole.mean())) > 0.01


def test_the_weighted_total_is_the_mean_of_the_released_code():
    audio, _ = loss_and_grads(*golden("nce"))
    text, _ = loss_and_grads(*golden("mil_masked"))
    for name, weight in (("1_1", 1.0), ("vt_0.5", 0.5), ("vt_0", 0.0)):
        key = f"total/weights_{name}"
        total = float((weight * text.mean() + audio.mean()) / (weight + 1))
        assert total == pytest.approx(float(STORED[key]), rel=1e-5)


@every_form
@pytest.mark.parametrize("mask", [[1, 1, 1, 1], [0, 1, 1, 0], [0, 0, 1, 0]])
def test_each_value_is_that_of_a_loop(form, mask):
    video, text = draw()
    got, _ = loss_and_grads(
        video, text, np.array(mask, "f4"), temperature=0.5, form=form
    )
    want = by_loops(video, text, mask, form, 0.5)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert np.count_nonzero(got) == sum(mask)


def test_one_candidate_is_a_pair():
    video, text = draw(texts=1)
    mask = np.array([1, 0, 1, 1], "f4")

    @jax.jit
    def both(video, text, mask):
        options = dict(form="symmetric", temperature=0.3)
        pair = nce(video, text[:, 0], mask, **options), nce(video, text[:, 0])
        ones = jnp.ones(4, bool)
        return pair, (mil_nce(video, text, mask, **options), mil_nce(video, text, ones))

    for one, other in zip(*both(video, text, mask), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_well_separated_pairs_reach_the_floor_of_each_form():
    video, text = 100 * np.eye(4, dtype="f4"), 100 * np.eye(4, dtype="f4")[:, None]
    for form, floor in (("asymmetric", math.log(2)), ("symmetric", 0)):
        values, _ = loss_and_grads(video, text, np.ones(4, "f4"), form=form)
        np.testing.assert_allclose(values, floor, atol=1e-5)
    one, grads = loss_and_grads(*draw(b=1, texts=1), np.ones(1, "f4"))
    assert float(one[0]) == pytest.approx(math.log(2))
    assert all(np.abs(grad).max() < 1e-5 for grad in grads)


@every_form
def test_without_text_everything_is_exactly_zero(form):
    video, text = draw()
    text[1:] = 0
    values, grads = loss_and_grads(video, text, np.zeros(4, "f4"), form=form)
    for x in (values, *grads):
        np.testing.assert_array_equal(x, np.zeros_like(x))


@every_form
def test_masked_texts_get_no_gradient_and_change_nothing(form):
    video, text = draw()
    mask = np.array([1, 0, 1, 1], "f4")
    other = text.copy()
    other[1] = draw(seed=1)[1][1]
    values, grads = loss_and_grads(video, text, mask, form=form)
    again, _ = loss_and_grads(video, other, mask, form=form)
    np.testing.assert_allclose(values, again, rtol=1e-6)
    np.testing.assert_array_equal(grads[1][1], np.zeros_like(text[1]))
    assert (
        np.abs(grads[0][1]).max() > 0
    )  # its clip is still a negative of the other texts


def test_zero_embeddings_are_finite_and_get_no_gradient():
    video, text = draw()
    video[0] = text[2, 1] = 0
    values, grads = loss_and_grads(video, text, np.ones(4, "f4"))
    assert np.isfinite(values).all()
    assert all(np.isfinite(grad).all() for grad in grads)
    assert not np.any(grads[0][0])
    assert not np.any(grads[1][2, 1])
    halves = (jnp.asarray(x, jnp.bfloat16) for x in (video, text))
    low, _ = loss_and_grads(*halves, np.ones(4, "f4"))
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, values, rtol=0.1)


def test_lengths_do_not_matter_and_order_permutes_values():
    video, text = draw()
    mask = np.array([1, 1, 0, 1], "f4")
    order = np.array([2, 0, 3, 1])
    values, _ = loss_and_grads(video, text, mask)
    longer, _ = loss_and_grads(1e3 * video, 1e-3 * text, mask)
    permuted, _ = loss_and_grads(video[order], text[order], mask[order])
    np.testing.assert_allclose(longer, values, rtol=1e-5)
    np.testing.assert_allclose(permuted, values[order], rtol=1e-5)


@pytest.mark.parametrize(("form", "replicas"), [("asymmetric", 1), ("symmetric", 4)])
def test_devices_see_the_negatives_of_all(form, replicas):
    """Over a mapped axis, and with sharded arrays under jit, as on one device."""
    video, text = draw(b=8)
    mask = np.array([1, 0, 1, 1, 1, 1, 0, 1], "f4")
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,), devices=jax.devices()[:4])
    spec = PartitionSpec("data")
    options = dict(form=form, replicas=replicas)
    mapped = jax.shard_map(
        functools.partial(mil_nce, axis_name="data", **options),
        mesh=mesh,
        in_specs=spec,
        out_specs=spec,
    )

    def loss(video, text):
        values = mapped(video, text, mask)
        return values.mean(), values

    (_, values), grads = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(
        video, text
    )
    want = loss_and_grads(video, text, mask, **options)
    sharding = NamedSharding(mesh, spec)
    shards = (jax.device_put(x, sharding) for x in (video, text, mask))
    for got in ((values, grads), loss_and_grads(*shards, **options)):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            got,
            want,
        )


def test_sizes_that_do_not_fit_are_named():
    video, text = draw()
    with pytest.raises(ValueError, match=r"\(4, 5\) clips .* \(3, 3, 5\) texts"):
        mil_nce(video, text[:3])
    with pytest.raises(ValueError, match="4 pairs do not make 3 equal replicas"):
        mil_nce(video, text, replicas=3)
