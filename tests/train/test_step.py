"""The step on toy tasks: what a player receives, who moves, and what is skipped."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toys

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.rng import make_key
from zoo_jax.task import Player, Task
from zoo_jax.train.mesh import make_mesh, put_batch, replicated
from zoo_jax.train.step import active_players, init_state, make_train_step


def make_batch(seed=0, size=toys.BATCH):
    return toys.ToyImages(size, seed).arrays


def fresh(task):
    return jax.jit(lambda key: init_state(task, key, make_batch()))(make_key(1))


def run(task, batches, *, accumulate=1, devices=1, state=None, streams=("train",)):
    mesh = make_mesh(devices)
    step = jax.jit(
        make_train_step(task, accumulate=accumulate),
        static_argnames="active",
        out_shardings=replicated(mesh),
    )
    if state is None:
        state = fresh(task)
    state = jax.device_put(state, replicated(mesh))
    metrics = None
    for batch in batches:
        put = {name: put_batch(batch, mesh) for name in streams}
        state, metrics = step(state, put, active=active_players(task, int(state.step)))
    return state, metrics


def close(a, b, tolerance=1e-6):
    chex.assert_trees_all_close(
        jax.device_get(a), jax.device_get(b), atol=tolerance, rtol=tolerance
    )


TASKS = {
    "classifier": lambda: toys.classifier(optax.sgd(0.1)),
    "adversarial": toys.adversarial,
    "per_term": lambda: toys.multi_term(
        "per_term", optax.chain(toys.sum_terms(), optax.sgd(0.01))
    ),
    "frozen": toys.frozen_teacher,
}


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("devices", [2, 4, 8])
def test_any_number_of_devices_gives_the_same_training(name, devices):
    batches = [make_batch(i) for i in range(3)]
    one, _ = run(TASKS[name](), batches)
    many, _ = run(TASKS[name](), batches, devices=devices)
    for field in ("params", "model_state", "ema", "step"):
        close(getattr(one, field), getattr(many, field))


def test_step_is_plain_gradient_descent_on_the_weighted_mean_of_terms():
    weights = {"near": 0.7, "far": lambda step: 1.0 + step}
    task = toys.multi_term("sum", optax.sgd(0.01), weights=weights)
    state, metrics = run(task, [make_batch(0)])
    state2, _ = run(task, [make_batch(0), make_batch(1)])

    start = fresh(task)
    w, b = (np.asarray(start.params["net"][k], np.float64) for k in ("kernel", "bias"))
    for i, far in ((0, 1.0), (1, 2.0)):
        batch = make_batch(i)
        x, label = batch["image"].reshape(toys.BATCH, -1), batch["label"]
        y = (x @ w + b)[:, 0]
        if i == 0:
            loss = 0.7 * np.mean((y - label) ** 2) + 0.3 * far * np.mean(
                (y + label) ** 2
            )
            np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
        slope = (1.4 * (y - label) + 0.6 * far * (y + label)) / toys.BATCH
        w, b = w - 0.01 * x.T @ slope[:, None], b - 0.01 * slope.sum()
        moved = (state if i == 0 else state2).params["net"]
        np.testing.assert_allclose(moved["kernel"], w, atol=1e-5)
        np.testing.assert_allclose(moved["bias"], b, atol=1e-5)


@pytest.mark.parametrize(("mode", "axes"), [("per_term", 1), ("per_example_term", 2)])
def test_summed_term_gradients_are_the_plain_gradient(mode, axes):
    weights = {"near": 0.7, "far": 2.0}
    batches = [make_batch(i) for i in range(2)]
    chain = optax.chain(toys.sum_terms(axes), optax.sgd(0.01))
    plain, _ = run(toys.multi_term("sum", optax.sgd(0.01), weights=weights), batches)
    split, _ = run(toys.multi_term(mode, chain, weights=weights), batches)
    close(plain.params, split.params, 1e-5)


def test_per_term_leaves_are_the_gradients_of_each_term_in_name_order():
    seen = {}

    def update(updates, state, params=None, *, terms, step, key, value):
        seen.update(grads=updates, terms=terms, step=step, key=key, value=value)
        return jax.tree.map(lambda g: g[0], updates), state

    tx = optax.GradientTransformationExtraArgs(lambda p: optax.EmptyState(), update)
    task = toys.multi_term("per_term", tx)
    state = init_state(task, make_key(1), make_batch())
    make_train_step(task)(state, {"train": make_batch(0)}, (0,))
    loss = task.players[0].loss
    for row, name in enumerate(["far", "near"]):
        grad = jax.grad(
            lambda p, name=name: jnp.mean(loss(p, state, make_batch(0), None)[0][name])
        )(state.params)
        close(jax.tree.map(lambda g, row=row: g[row], seen["grads"]), grad, 1e-5)
    assert set(seen["terms"]) == {"far", "near"}
    assert seen["terms"]["far"].shape == (toys.BATCH,)
    assert int(seen["step"]) == 0


def test_a_gradient_function_of_the_method_replaces_the_loops():
    def halved(loss, owned, state, batch, key):
        def objective(p):
            terms, aux = loss(p, state, batch, key)
            return 0.5 * sum(jnp.mean(t) for t in terms.values()), (terms, aux)

        grads, (terms, aux) = jax.grad(objective, has_aux=True)(owned)
        return grads, terms, aux

    half, _ = run(toys.multi_term(halved, optax.sgd(0.02)), [make_batch()])
    plain, _ = run(toys.multi_term("sum", optax.sgd(0.01)), [make_batch()])
    close(half.params, plain.params)


def test_later_players_see_what_earlier_ones_changed():
    task = toys.adversarial()
    state = init_state(task, make_key(1), make_batch())
    both = make_train_step(task)
    after, _ = both(state, {"train": make_batch(0)}, (0, 1))
    first, _ = both(state, {"train": make_batch(0)}, (0,))
    # The generator alone, against the critic that has moved.
    alone = state.replace(params={**state.params, "critic": first.params["critic"]})
    second, _ = both(alone, {"train": make_batch(0)}, (1,))
    close(after.params["generator"], second.params["generator"])
    stale, _ = both(state, {"train": make_batch(0)}, (1,))
    different = jax.tree.map(
        lambda a, b: float(jnp.max(jnp.abs(a - b))),
        after.params["generator"],
        stale.params["generator"],
    )
    assert max(jax.tree.leaves(different)) > 1e-7


def test_players_move_only_when_it_is_their_turn():
    task = toys.adversarial(every=2, start=2)
    assert [active_players(task, i) for i in range(5)] == [
        (0,),
        (0,),
        (0, 1),
        (0,),
        (0, 1),
    ]
    before = fresh(task)
    state, metrics = run(task, [make_batch(0), make_batch(1)])
    close(state.params["generator"], before.params["generator"], 0)
    assert "generator/loss" not in metrics
    state, metrics = run(task, [make_batch(i) for i in range(3)])
    assert "generator/fool" in metrics
    moved = np.abs(
        state.params["generator"]["first"]["kernel"]
        - before.params["generator"]["first"]["kernel"]
    )
    assert moved.max() > 0


def test_a_network_that_nobody_owns_does_not_move():
    before = fresh(toys.frozen_teacher())
    state, metrics = run(toys.frozen_teacher(), [make_batch(i) for i in range(4)])
    close(state.params["teacher"], before.params["teacher"], 0)
    _, first = run(toys.frozen_teacher(), [make_batch(0)])
    assert metrics["loss"] < first["loss"]


def test_each_set_of_active_players_compiles_once():
    task = toys.adversarial(every=2)
    chex.clear_trace_counter()
    step = jax.jit(
        chex.assert_max_traces(make_train_step(task), n=2), static_argnames="active"
    )
    state = fresh(task)
    for i in range(6):
        state, _ = step(state, {"train": make_batch(i)}, active=active_players(task, i))


def test_accumulated_parts_give_the_gradient_of_the_whole_batch():
    batches = [make_batch(i) for i in range(2)]
    task = toys.multi_term("sum", optax.sgd(0.01))
    whole, m1 = run(task, batches)
    parts, m4 = run(task, batches, accumulate=4)
    close(whole.params, parts.params, 1e-5)
    close(m1["loss"], m4["loss"], 1e-5)
    many, _ = run(task, batches, accumulate=2, devices=8)
    close(whole.params, many.params, 1e-5)


def test_accumulated_terms_keep_the_order_of_the_examples():
    def update(updates, state, params=None, *, terms, **extra):
        return jax.tree.map(jnp.zeros_like, updates), terms["near"]

    tx = optax.GradientTransformationExtraArgs(lambda p: jnp.zeros(toys.BATCH), update)
    whole, _ = run(toys.multi_term("sum", tx), [make_batch()])
    parts, _ = run(toys.multi_term("sum", tx), [make_batch()], accumulate=4)
    close(whole.opt_state, parts.opt_state)


def test_batch_statistics_pass_through_the_accumulated_parts():
    state, _ = run(toys.classifier(optax.sgd(0.0)), [make_batch()], accumulate=2)
    x = make_batch()["image"].reshape(toys.BATCH, -1)
    first = state.params["net"]["first"]
    y = x @ np.asarray(first["kernel"]) + np.asarray(first["bias"])
    mean = np.zeros(y.shape[-1])
    for part in (y[0::2], y[1::2]):
        mean = 0.9 * mean + 0.1 * part.mean(0)
    np.testing.assert_allclose(state.model_state["net"]["mean"], mean, atol=1e-5)


def test_accumulation_refuses_what_it_cannot_do():
    chain = optax.chain(toys.sum_terms(2), optax.sgd(0.01))
    with pytest.raises(ConfigError, match="per-example"):
        make_train_step(toys.multi_term("per_example_term", chain), accumulate=2)
    with pytest.raises(ConfigError, match="at least 1"):
        make_train_step(toys.classifier(), accumulate=0)
    with pytest.raises(ValueError, match="does not divide"):
        run(toys.frozen_teacher(), [make_batch()], accumulate=3)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_batch_that_is_not_finite_might_as_well_not_have_been_there(name, bad):
    poisoned = make_batch(7)
    poisoned["image"][3, 2, 1, 0] = bad
    with_it, metrics = run(TASKS[name](), [make_batch(0), poisoned, make_batch(1)])
    without, _ = run(TASKS[name](), [make_batch(0), make_batch(1)])
    assert int(metrics["skipped"]) == 1
    assert int(metrics["streak"]) == 0
    for field in ("step", "params", "model_state", "opt_state", "ema"):
        chex.assert_trees_all_equal(getattr(with_it, field), getattr(without, field))


def test_an_optimiser_that_hides_an_overflow_is_caught():
    # A huge gradient overflows Adam's second moment: the update is zero, the state is lost.
    batch = make_batch(0)
    huge = {**batch, "image": batch["image"] * 1e30}
    task = toys.multi_term("sum", optax.adam(1e-3))
    state, metrics = run(task, [huge])
    assert int(metrics["skipped"]) == 1
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.opt_state))


def test_a_state_that_is_infinite_by_design_does_not_stop_training():
    tx = optax.chain(
        optax.sgd(0.01), optax.contrib.reduce_on_plateau(patience=2, rtol=0, atol=0.1)
    )
    _, metrics = run(toys.multi_term("sum", tx), [make_batch(0), make_batch(1)])
    assert int(metrics["skipped"]) == 0


def test_averages_follow_the_parameters():
    task = toys.classifier(optax.sgd(0.1), ema=0.75)
    states = [run(task, [make_batch(i) for i in range(n)])[0] for n in (1, 2)]
    start = fresh(task)
    average = start.params["net"]
    for state in states:
        average = jax.tree.map(
            lambda a, p: 0.75 * a + 0.25 * p, average, state.params["net"]
        )
    close(states[-1].ema["net"], average)
    assert states[-1].variables()["params"]["net"] is states[-1].ema["net"]
    raw = states[-1].variables(averaged=False)["params"]["net"]
    assert raw is states[-1].params["net"]


def test_misspelt_terms_and_modes_are_errors():
    with pytest.raises(ValueError, match="nar"):
        run(
            toys.multi_term("sum", optax.sgd(0.1), weights={"nar": 1.0}), [make_batch()]
        )
    with pytest.raises(ValueError, match="per_therm"):
        run(toys.multi_term("per_therm", optax.sgd(0.1)), [make_batch()])


def test_players_may_not_share_a_network_or_a_name():
    player = toys.classifier().players[0]
    with pytest.raises(ValueError, match="disjoint"):
        Task(
            init=None,
            predict=None,
            metrics=None,
            players=(player, Player(name="b", owns=("net",), loss=None, tx=None)),
        )
    with pytest.raises(ValueError, match="distinct"):
        Task(
            init=None,
            predict=None,
            metrics=None,
            players=(player, Player(name="net", owns=("other",), loss=None, tx=None)),
        )
