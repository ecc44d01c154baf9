"""Where a predictor is right: over the whole pool, or near the top, where a search needs it."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from zoo_jax.methods.weaknas.evaluation import (
    Record,
    kendall_tau,
    summarise,
    tau_in_top,
)
from zoo_jax.methods.weaknas.plan import Plan
from zoo_jax.methods.weaknas.searchers import make_predictor
from zoo_jax.methods.weaknas.spaces import Pool
from zoo_jax.optim.predictors import Predictor

SAMPLE = 1000  # architectures that stand for the whole pool: tau is quadratic


def quality(
    plan: Plan, pools: Mapping[str, Pool], found: Mapping[tuple[str, str], Record]
) -> Iterator[dict[str, Any]]:
    """Refits predictors to what searches had asked, and ranks with them.

    Args:
      plan: With ``report.quality``.
      pools: By the name of the space.
      found: The searches.

    Yields:
      One row per searcher: Kendall's tau over a sample of the pool, and inside the best.
    """
    options = plan.report.quality
    if options is None:
        return
    space = options.space
    pool, section = pools[space], plan.spaces[space]
    label, test = (pool.labels[section[name]] for name in ("label", "judge"))
    for searcher in options.searchers:
        predictor = make_predictor(plan.searchers[searcher]["predictor"])
        record = found[space, searcher].first(options.runs)
        taus = [
            _taus(predictor, pool.features, asked, label, test, options.top, number)
            for number, asked in enumerate(record.asked[:, : options.queries])
        ]
        summary = summarise(np.array(taus))
        yield {
            "space": space,
            "searcher": searcher,
            "queries": options.queries,
            "runs": len(taus),
            "tau": float(summary.mean[0]),
            "tau_stderr": float(summary.stderr[0]),
            "tau_top": float(summary.mean[1]),
            "tau_top_stderr": float(summary.stderr[1]),
        }


def _taus(
    predictor: Predictor,
    features: Float[np.ndarray, "m d"],
    asked: Int[np.ndarray, "q"],
    label: Float[np.ndarray, "m"],
    test: Float[np.ndarray, "m"],
    top: int,
    seed: int,
) -> tuple[float, float]:
    told = label[asked]
    kept = ~np.isnan(told)
    spread = told[kept].std() or 1.0
    values = np.where(kept, (told - told[kept].mean()) / spread, 0).astype(np.float32)
    start, fit = jax.random.split(jax.random.key(seed))
    params = predictor.init(start, features[asked])
    params = predictor.fit(
        fit, features[asked], values, kept.astype(np.float32), params
    )
    scores = np.asarray(predictor.predict(params, features))
    measured = np.flatnonzero(~np.isnan(test))
    rng = np.random.default_rng(seed)
    some = rng.choice(measured, min(SAMPLE, len(measured)), replace=False)
    return kendall_tau(scores[some], test[some]), tau_in_top(scores, test, top)
