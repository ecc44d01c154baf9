r"""WeakNAS: fits of the weak predictor and whole searches beside scikit-learn.

  python -m experiments.benchmarks.weaknas --csv=experiments/results/weaknas_benchmark.csv

The space is made up, of the size of NAS-Bench-201 (15,625 cells, 30 one-hot features); times do not
depend on what the labels mean. Everything runs on ``--cores`` cores (two by default), ours and theirs in turn,
``--rounds`` times; a first call of each compiled program is not timed.

- Fit: the paper's network on 90 labels, at most 100 epochs, the early stop of scikit-learn's
  ``MLPRegressor``, which is what the published program calls.
- Ranking: predictions of the whole space.
- Search: 100 queries, first 10, then 10 at a time; the mean of ``--searches`` in one program. Instead:
  the loop of the published program, nine fits and rankings by scikit-learn, once a round.

Limits are multiply-adds at the rate of a large matrix product; a fit's are those of the epochs that it ran.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import common
from experiments.benchmarks.side_by_side import (
    Measured,
    Row,
    Setting,
    gemm_rate,
    in_turn,
    on_cores,
    publish,
)
from zoo_jax.core.rng import make_key
from zoo_jax.methods.weaknas.spaces import open_pool
from zoo_jax.optim.predictors import mlp_predictor
from zoo_jax.optim.predictors.mlp import apply_mlp
from zoo_jax.optim.predictors.training import TrainingOptions, train
from zoo_jax.optim.weak_predictor import run_searches, weak_predictor_search

_WIDTHS = flags.DEFINE_multi_integer("width", [200, 1000], "Of the four layers.")
_SEARCHES = flags.DEFINE_integer("searches", 10, "In one program.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Measurements of each.", lower_bound=1)
_CORES = flags.DEFINE_integer("cores", 2, "Cores to run on.", lower_bound=1)
_TINY = flags.DEFINE_bool("tiny", False, "Sizes that measure nothing: for tests.")
_JSON = flags.DEFINE_string("json", None, "Write the rows to this file.")
_CSV = flags.DEFINE_string("csv", None, "Write the rows to this table.")

FIRST = BATCH = 10


def main(argv: Sequence[str]) -> None:
    """Measures, prints one table and stores it."""
    del argv
    setting = Setting(_ROUNDS.value, _CORES.value, _TINY.value)
    widths = [8] if setting.tiny else _WIDTHS.value
    with on_cores(setting.cores):
        rate = gemm_rate(64 if setting.tiny else 2048)
        rows = [row for w in widths for row in width_rows(w, setting, rate)]
    publish(
        rows,
        json=_JSON.value,
        csv_file=_CSV.value,
        cores=setting.cores,
        rounds=setting.rounds,
    )


def width_rows(width: int, setting: Setting, rate: float) -> Iterator[Row]:
    """A fit, a ranking and a search with four layers of `width`."""
    slots, budget = (3, 40) if setting.tiny else (6, 100)
    pool = open_pool("synthetic", slots=slots, choices=5)
    features, labels = pool.features, pool.labels["search"]
    name, count = f"4x{width}", budget - BATCH
    widths = (features.shape[1], *(width,) * 4, 1)
    macs = sum(a * b for a, b in itertools.pairwise(widths))
    told = np.random.default_rng(0).permutation(len(pool))[:count]
    x, y = features[told], labels[told]
    y = (y - y.mean()) / y.std()
    predictor = mlp_predictor((width,) * 4)

    fit = jax.jit(
        lambda key, x, y, params: train(
            apply_mlp, key, x, y, np.ones(count, "f4"), params, TrainingOptions()
        )
    )
    start = jax.jit(predictor.init)(make_key(0), x)
    epochs = int(fit(make_key(1), x, y, start).epochs)  # and compiles
    ours = {"ours": lambda _: jax.block_until_ready(fit(make_key(1), x, y, start))}
    theirs = {"theirs": lambda number: _regressor(width, number).fit(x, y)}
    times = in_turn(ours | theirs, setting.rounds)
    their_epochs = times["theirs"][1][0].n_iter_
    yield Row(
        what=f"fit, {name}, {count} labels",
        unit="s",
        ours=times["ours"][0],
        other="scikit-learn",
        theirs=times["theirs"][0],
        # A backward pass does twice the multiply-adds of a forward pass.
        limit=3 * macs * count * epochs / rate,
        limit_is="multiply-adds",
        remark=f"{epochs} epochs, theirs {their_epochs}",
    )

    rank = jax.jit(predictor.predict)
    jax.block_until_ready(rank(start, features))
    model = times["theirs"][1][0]
    times = in_turn(
        {
            "ours": lambda _: jax.block_until_ready(rank(start, features)),
            "theirs": lambda _: model.predict(features),
        },
        setting.rounds,
    )
    yield Row(
        what=f"ranking, {name}, {len(pool):,} cells",
        unit="s",
        ours=times["ours"][0],
        other="scikit-learn",
        theirs=times["theirs"][0],
        limit=macs * len(pool) / rate,
        limit_is="multiply-adds",
    )

    searches = 2 if setting.tiny else _SEARCHES.value
    options = dict(first=FIRST, batch=BATCH, top_n=min(100, len(pool) // 2))
    search = weak_predictor_search(features, predictor, budget=budget, **options)
    keys = jax.random.split(make_key(0), searches)
    run = functools.partial(run_searches, search, labels)
    jax.block_until_ready(run(keys).asked)
    times = in_turn(
        {
            "ours": lambda _: jax.block_until_ready(run(keys).asked),
            "theirs": lambda number: _published(
                width, number, features, labels, budget
            ),
        },
        setting.rounds,
    )
    mean = Measured.of([v / searches for v in _values(times["ours"][0])])
    yield Row(
        what=f"search, {name}, {budget} queries",
        unit="s",
        ours=mean,
        other="scikit-learn's loop",
        theirs=times["theirs"][0],
        remark=f"100 of ours: {100 * mean.median:.3g} s",
    )


def _values(measured: Measured) -> tuple[float, float, float]:
    return measured.least, measured.median, measured.most


def _regressor(width: int, seed: int) -> Any:
    from sklearn.neural_network import MLPRegressor

    return MLPRegressor(
        hidden_layer_sizes=(width,) * 4, max_iter=100, random_state=seed
    )


def _published(
    width: int, seed: int, features: np.ndarray, labels: np.ndarray, budget: int
) -> np.ndarray:
    """Fit, rank the space, ask for ten drawn from the hundred best: until the budget is spent."""
    import warnings

    rng = np.random.default_rng(seed)
    asked = rng.permutation(len(labels))[:FIRST]
    while len(asked) < budget:
        model = _regressor(width, seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that 100 epochs did not converge
            model.fit(features[asked], labels[asked])
        order = np.argsort(-model.predict(features))
        fresh = order[~np.isin(order, asked)][:100]
        asked = np.concatenate([asked, rng.permutation(fresh)[:BATCH]])
    return asked


if __name__ == "__main__":
    common.run_main(main)
