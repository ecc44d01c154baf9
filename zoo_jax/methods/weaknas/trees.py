"""Predictors of trees, by scikit-learn, for searches on the host.

They have the form of `zoo_jax.optim.predictors.Predictor` but are no JAX functions: use them with
`PredictorSearch`. The published program fits XGBoost with 1,000 rounds of depth 20 and learning
rate 0.3, and a forest of 1,000 trees of depth 10. Here boosting is scikit-learn's, which needs
no further library, with fewer and shallower trees: on a hundred or two one-hot rows, 1,000
rounds of depth 20 only repeat the training labels, which 100 rounds do as well.
"""

import importlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.types import Key
from zoo_jax.optim.predictors import Predictor


def require_sklearn(module: str, what: str) -> Any:
    """Imports a module of scikit-learn on use.

    Raises:
      ConfigError: if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise ConfigError(
            f"{what} needs scikit-learn, which is not installed:"
            " pip install 'zoo-jax[samples]', or choose another predictor"
        ) from None


def gradient_boosting(
    *, rounds: int = 100, depth: int = 5, learning_rate: float = 0.1
) -> Predictor:
    """Boosted regression trees with squared error (`GradientBoostingRegressor`).

    Args:
      rounds: Trees in the sum.
      depth: Of each.
      learning_rate: What each counts.

    Returns:
      A predictor for the host.

    Raises:
      ConfigError: if scikit-learn is not installed.
    """
    ensemble = require_sklearn("sklearn.ensemble", "predictor 'gradient_boosting'")

    def make(seed: int) -> Any:
        return ensemble.GradientBoostingRegressor(
            n_estimators=rounds,
            max_depth=depth,
            learning_rate=learning_rate,
            random_state=seed,
        )

    return _predictor(make)


def random_forest(*, trees: int = 100, depth: int = 10) -> Predictor:
    """A forest of regression trees (`RandomForestRegressor`); its trees are the members.

    Args:
      trees: How many.
      depth: At most.

    Returns:
      A predictor for the host.

    Raises:
      ConfigError: if scikit-learn is not installed.
    """
    ensemble = require_sklearn("sklearn.ensemble", "predictor 'random_forest'")

    def make(seed: int) -> Any:
        return ensemble.RandomForestRegressor(
            n_estimators=trees, max_depth=depth, random_state=seed
        )

    def members(model: Any, inputs: Any) -> Float[np.ndarray, "e m"]:
        inputs = np.asarray(inputs, np.float32)
        return np.stack([tree.predict(inputs) for tree in model.estimators_])

    def moments(model: Any, inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        each = members(model, inputs)
        return each.mean(0), each.std(0)

    return _predictor(make)._replace(predict_moments=moments, predict_members=members)


def _predictor(make: Callable[[int], Any]) -> Predictor:
    """A regressor of scikit-learn in this project's form; it is drawn from the key."""

    def init(key: Key, inputs: Float[Array, "b d"]) -> None:
        del key, inputs  # a tree begins with nothing

    def fit(key: Key, inputs: Any, values: Any, mask: Any, params: None) -> Any:
        del params
        kept = np.asarray(mask) > 0
        seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
        if not kept.any():  # every training failed so far: predict that all are alike
            return make(seed).fit(np.zeros_like(inputs[:1]), np.zeros(1))
        return make(seed).fit(np.asarray(inputs)[kept], np.asarray(values)[kept])

    def predict(model: Any, inputs: Any) -> Float[np.ndarray, "m"]:
        return model.predict(np.asarray(inputs, np.float32))

    return Predictor(init, fit, predict)
