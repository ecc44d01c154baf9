"""Schedules against closed forms and optax."""

import jax
import ml_collections
import numpy as np
import optax
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.optim.schedules import build_schedule


def values(section, steps, total_steps=100, value=2.0):
    schedule = build_schedule(value, section, total_steps=total_steps)
    return np.array([float(schedule(step)) for step in steps])


@pytest.mark.parametrize("section", [None, {}, dict(name="constant")])
def test_no_schedule_is_constant(section):
    np.testing.assert_array_equal(values(section, [0, 50, 1000]), 2.0)


@pytest.mark.parametrize("name", ["constant", "cosine", "linear"])
def test_warmup_rises_in_equal_steps_and_is_never_zero(name):
    got = values(dict(name=name, warmup=4), [0, 1, 2, 3, 4])
    np.testing.assert_allclose(got, [0.5, 1.0, 1.5, 2.0, 2.0], rtol=1e-6)


def test_cosine_equals_optax():
    steps = np.arange(120)
    expected = optax.cosine_decay_schedule(2.0, 100, alpha=0.1)(steps)
    np.testing.assert_allclose(
        values(dict(name="cosine", end=0.1), steps), expected, rtol=1e-5
    )


def test_cosine_after_warmup_spans_the_rest():
    got = values(dict(name="cosine", warmup=0.2), [19, 20, 60, 100])
    np.testing.assert_allclose(got, [2, 2, 1, 0], atol=1e-6)


def test_linear_holds_then_falls():
    got = values(dict(name="linear", hold=0.5, end=0.1), [0, 49, 50, 75, 100, 200])
    np.testing.assert_allclose(got, [2, 2, 2, 1.1, 0.2, 0.2], rtol=1e-6)


def test_both_linear_decays_of_deblurgan_v2_at_their_epochs():
    """200 epochs of 10 steps, 50 held, from 1e-4 to 1e-7."""
    base, low, epochs, held, each = 1e-4, 1e-7, 200, 50, 10
    common = dict(hold=held * each, end=low / base)
    expected = {
        "linear": lambda e: base - (base - low) * max(e - held, 0) / (epochs - held),
        "linear_by_run": lambda e: base - (base - low) / epochs * max(e - held, 0),
    }
    at = [0, 49, 50, 199]
    for name, rate in expected.items():
        extra = dict(every=each) if name == "linear_by_run" else {}
        section = dict(name=name, **common, **extra)
        got = values(section, [e * each for e in at], epochs * each, base)
        np.testing.assert_allclose(got, [rate(e) for e in at], rtol=1e-5)
        if extra:  # one value for all steps of an epoch
            last = values(section, [e * each + 9 for e in at], epochs * each, base)
            np.testing.assert_array_equal(last, got)
    np.testing.assert_allclose(got[-1], 0.2557e-4, rtol=1e-3)  # not 1e-7
    shares = dict(name="linear", hold=0.25, end=1e-3)
    np.testing.assert_allclose(values(shares, [2000], 2000, base), low, rtol=1e-4)


def test_the_slope_may_be_that_of_a_longer_run():
    section = dict(name="linear_by_run", hold=10, run=400)
    np.testing.assert_allclose(values(section, [10, 50, 90]), [2, 1.8, 1.6], rtol=1e-6)


def test_poly_is_the_power_of_what_is_left_in_stairs():
    # As `poly_lr_scheduler` of many segmentation codes: base * (1 - i / total) ** power.
    at = [0, 9, 10, 57, 90, 99]
    got = values(dict(name="poly", power=0.9, every=10), at)
    expected = [2 * (1 - i // 10 * 10 / 100) ** 0.9 for i in at]
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    smooth = values(dict(name="poly", power=2), [25, 50, 100])
    np.testing.assert_allclose(smooth, [2 * 0.75**2, 2 * 0.25, 0], rtol=1e-5)
    with pytest.raises(ConfigError, match="'poly' needs power > 0 and every of 1 or"):
        build_schedule(1.0, dict(name="poly", power=0), total_steps=10)


def test_steps_multiply_at_their_boundaries():
    section = dict(name="step", boundaries=[0.3, 60], factors=[0.2, 0.5])
    got = values(section, [0, 29, 30, 59, 60, 99])
    np.testing.assert_allclose(got, [2, 2, 0.4, 0.4, 0.2, 0.2], rtol=1e-6)
    got = values(dict(name="step", boundaries=[30, 60], factors=0.1), [30, 60])
    np.testing.assert_allclose(got, [0.2, 0.02], rtol=1e-6)


def test_exponential_has_equal_ratios_between_its_ends():
    section = dict(name="exponential", start=1e-3, end=1.0, steps=0.5)
    got = values(section, [0, 10, 20, 50, 90])
    np.testing.assert_allclose(got[[0, 3, 4]], [2e-3, 2, 2], rtol=1e-5)
    np.testing.assert_allclose(got[1] / got[0], got[2] / got[1], rtol=1e-5)


def test_schedules_run_under_jit_and_read_config_dicts():
    section = ml_collections.ConfigDict(dict(name="cosine", warmup=5))
    schedule = build_schedule(1.0, section, total_steps=50)
    np.testing.assert_allclose(jax.jit(schedule)(30), schedule(30), rtol=1e-6)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (dict(name="cosin"), "did you mean 'cosine'"),
        (dict(name="cosine", warmpu=3), r"schedule\.warmpu: did you mean 'warmup'"),
        (dict(name="cosine", warmup=100), "warmup of 100 steps does not fit into 100"),
        (dict(name="cosine", warmup=1.5), r"got 1\.5"),
        (dict(name="cosine", warmup=-1), "got -1"),
        (dict(name="cosine", warmup="3"), "must be a number, got '3'"),
        (dict(name="linear", hold=1.0), "hold of 100 steps leaves none of 100"),
        (dict(name="step"), "needs boundaries"),
        (dict(name="step", boundaries=[60, 30]), "must rise"),
        (dict(name="step", boundaries=[30, 60], factors=[1]), "1 entries for 2"),
        (dict(name="exponential", start=0), "needs start > 0"),
        ("cosine", "dict.name"),
    ],
)
def test_sections_that_do_not_fit_raise(section, message):
    with pytest.raises(ConfigError, match=message):
        build_schedule(1.0, section, total_steps=100)


def test_values_and_lengths_that_do_not_fit_raise():
    with pytest.raises(ConfigError, match="finite, got nan"):
        build_schedule(float("nan"), None, total_steps=10)
    with pytest.raises(ConfigError, match=r"total_steps.*got 0"):
        build_schedule(1.0, None, total_steps=0)
