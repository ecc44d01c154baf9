"""Reports on conflict, and the tables of the study."""

import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.methods.gradient_harmonization.conflict import (
    Conflicts,
    conflict_evaluator,
    cosines,
    measure_conflicts,
    shuffled,
    summary,
)
from zoo_jax.methods.gradient_harmonization.figures import (
    draw_arms,
    draw_conflicts,
    draw_detection,
)
from zoo_jax.methods.gradient_harmonization.finetune import view_accuracy
from zoo_jax.methods.gradient_harmonization.study import arm_config, summarise
from zoo_jax.optim.harmonized import Harmonizer
from zoo_jax.task import Aux


def make_harmonizer(state, **changes):
    """Two terms that pull the features of example i along a_i and t_i."""

    def heads(rest, features, state, batch, key):
        del rest, state, key
        h = features["x"]
        terms = {
            "a": jnp.sum(h * batch["a"], axis=1),
            "t": jnp.sum(h * batch["t"], axis=1),
        }
        return terms, Aux({}, {})

    # The tower is the parameter itself, so that gradients are a_i / b and t_i / b.
    tower = {"x": lambda params, example, key: params["w"] + 0 * example["a"]}
    return Harmonizer(**({"towers": tower, "heads": heads} | changes))


VARIABLES = {"params": {"backbone": {"w": jnp.ones(3)}}, "model_state": {}}


def make_batch(seed, size=6):
    rng = np.random.default_rng(seed)
    a, t = rng.standard_normal((2, size, 3)).astype(np.float32)
    t[0] = 0  # a clip without text
    wrong = (np.arange(size) % 3 == 1).astype(np.float32)
    return {"a": a, "t": t, "wrong_text": wrong, "mask": np.ones(size, np.float32)}


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_cosines_of_triplets_and_of_whole_batches_are_those_of_their_gradients():
    batches = [make_batch(0), make_batch(1), {**make_batch(2)}]
    batches[2]["mask"] = np.array([1, 1, 1, 1, 1, 0], np.float32)  # filled up
    evaluator = conflict_evaluator(make_harmonizer, ("backbone",))
    found = measure_conflicts(lambda b: evaluator.step(VARIABLES, b), batches)
    expected = [
        cosine(a, t)
        for b in batches[:2]
        for a, t in zip(b["a"][1:], b["t"][1:], strict=True)
    ]
    np.testing.assert_allclose(found.cosine, expected, atol=1e-5)
    whole = [cosine(b["a"].sum(0), b["t"].sum(0)) for b in batches[:2]]
    np.testing.assert_allclose(found.batch_cosine, whole, atol=1e-5)
    assert found.wrong.tolist() == 2 * [True, False, False, True, False]

    numbers = summary(found)
    assert numbers["conflict"] == np.mean(np.array(expected) < 0)
    assert numbers["cosine_batch"] == pytest.approx(np.mean(whole), abs=1e-5)


def test_the_evaluator_of_training_reports_the_same_numbers():
    batch = make_batch(3)
    evaluator = conflict_evaluator(make_harmonizer, ("backbone",))
    ratios, arrays = evaluator.step(VARIABLES, batch)
    sums = {k: (float(r.total), float(r.count)) for k, r in ratios.items()}
    arrays = {k: np.asarray(v) for k, v in arrays.items()}
    got = evaluator.finish(sums, arrays)
    found = measure_conflicts(lambda b: evaluator.step(VARIABLES, b), [batch])
    for name, value in summary(found).items():
        assert got[name] == pytest.approx(value, abs=1e-6), name


def test_a_cosine_is_unknown_where_a_gradient_is_zero():
    gram = jnp.array([[[1.0, 0.0], [0.0, 0.0]], [[4.0, -1.0], [-1.0, 1.0]]])
    got = np.asarray(cosines(gram))
    assert np.isnan(got[0])
    assert got[1] == -0.5


def test_low_cosines_find_wrong_partners_and_shuffled_flags_are_not_found():
    rng = np.random.default_rng(0)
    wrong = rng.random(400) < 0.5
    found = Conflicts(rng.standard_normal(400) - 1.5 * wrong, wrong, np.zeros(1))
    assert summary(found)["auroc"] > 0.8
    control = shuffled(wrong)
    assert control.sum() == wrong.sum()
    mixed = found._replace(wrong=control)
    assert abs(summary(mixed)["auroc"] - 0.5) < 0.08


def test_rows_hold_means_and_paired_differences():
    found = {
        "plain": [{"x": 1.0}, {"x": 3.0}, {"x": 2.0}],
        "new": [{"x": 2.0}, {"x": 4.0}, {"x": 3.5}],
    }
    plain, new = summarise(found, "plain")
    assert (plain["x"], plain["x_seeds"], plain["x_gain"]) == (2.0, 3, 0.0)
    assert new["x_gain"] == pytest.approx(3.5 / 3)
    assert new["x_gain_low"] < new["x_gain"] < new["x_gain_high"]
    assert new["x_std"] == pytest.approx(np.std([2, 4, 3.5], ddof=1))


def study_config(root):
    import importlib.util

    path = root / "experiments/configs/gradient_harmonization/study.py"
    spec = importlib.util.spec_from_file_location("study_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config("tiny")


def test_arms_differ_by_what_they_name_and_share_seeds_and_wrong_partners(root):
    config = study_config(root)
    arms = {name: section.to_dict() for name, section in config.arms.items()}
    plain, both = (arm_config(config, arms, arm, 7, {}) for arm in ("plain", "both"))
    assert plain.seed == both.seed == 7
    assert plain.data.train.seed == both.data.train.seed == 7
    assert plain.data.conflicts.seed == 7
    assert both.harmonize.level == "triplet"
    same = both.copy_and_resolve_references()
    same.harmonize = plain.harmonize
    assert same.to_dict() == plain.to_dict()


def test_an_arm_of_equal_multiply_adds_gets_more_steps(root):
    config = study_config(root)
    config.steps = 100
    arms = {"both": config.arms.both.to_dict(), "longer": {"macs_of": "both"}}
    from zoo_jax.methods.gradient_harmonization.study import _shapes

    class Context:
        def load_source(self, spec):
            from zoo_jax.data.source import open_source

            return open_source(spec)

    shapes = _shapes(config, Context())
    from zoo_jax.methods.gradient_harmonization.task import step_macs

    longer = arm_config(config, arms, "longer", 0, shapes)
    both = arm_config(config, arms, "both", 0, shapes)
    assert both.steps == 100
    spent = longer.steps * step_macs(longer, shapes)
    assert spent == pytest.approx(100 * step_macs(both, shapes), rel=0.01)
    assert longer.steps > 120
    for bad in ({"macs_of": "absent"}, {"macs_of": "both", "steps": 3}):
        with pytest.raises(ConfigError, match=r"arms\.longer\.macs_of"):
            arm_config(config, {**arms, "longer": bad}, "longer", 0, shapes)
    with pytest.raises(ConfigError, match=r"arms\.odd\.model"):
        arm_config(config, {"odd": {"model": {}}}, "odd", 0, shapes)


def test_views_of_a_clip_are_averaged_before_the_decision():
    p = np.array([[0.6, 0.4], [0.1, 0.9], [0.5, 0.5], [0.8, 0.2]])
    label = np.array([1, 1, 1, 1])
    assert view_accuracy(np.log(p), label, 2) == {"top1": 0.5}
    assert view_accuracy(np.log(p), label, 1) == {"top1": 0.25}
    assert view_accuracy(np.zeros((2, 6)), np.array([5, 0]), 1) == {
        "top1": 0.5,
        "top5": 0.5,
    }
    with pytest.raises(ConfigError, match="does not divide 4"):
        view_accuracy(np.log(p), label, 3)


def test_figures_draw_every_panel_and_arm():
    rng = np.random.default_rng(0)
    wrong = rng.random(50) < 0.5
    report = {"step": 3, "cosine": rng.uniform(-1, 1, 50), "wrong": wrong}
    report["batch_cosine"] = rng.uniform(-1, 1, 4)
    assert len(draw_conflicts([report, {**report, "wrong": ~wrong & wrong}]).axes) == 2
    figure = draw_detection(report["cosine"], wrong, shuffled(wrong))
    assert "area" in figure.axes[0].get_legend().get_texts()[0].get_text()
    rows = [
        {"arm": arm, "m_gain": 0.1, "m_gain_low": 0.0, "m_gain_high": 0.2}
        for arm in ("plain", "a", "b")
    ]
    figure = draw_arms(rows, ["m"], baseline="plain")
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["a", "b"]


def test_a_section_of_the_study_that_does_not_fit_is_named():
    from zoo_jax.methods.gradient_harmonization.study import _options

    section = dict(
        seeds=[0],
        baseline="a",
        words="w",
        test="w",
        sounds="",
        conflicts="w",
        batches=1,
        ridge=1.0,
        shown=[],
    )
    config = ml_collections.ConfigDict(
        {"study": section, "data": {"w": {}}, "arms": {"a": {}}}
    )
    assert _options(config)["test"] == "w"
    for change, match in (
        (dict(test="x"), "study.test='x'"),
        (dict(baseline="x"), "names the arm 'x'"),
        (dict(seeds=[]), "seeds is empty"),
    ):
        config.study = {**section, **change}
        with pytest.raises(ConfigError, match=match):
            _options(config)
