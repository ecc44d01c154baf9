"""Several predictors that differ by their keys."""

import jax
import jax.numpy as jnp

from zoo_jax.core.errors import ConfigError
from zoo_jax.optim.predictors.protocol import Predictor, map_leading


def ensemble(predictor: Predictor, members: int) -> Predictor:
    """`members` copies, each with a key of its own; the prediction is their mean.

    The deviation is the population's, sqrt(mean (f_e - mean)^2). Source: arXiv 2102.10490,
    published code: five members for the expected-improvement policy.

    Raises:
      ConfigError: for fewer than 2 members.

    >>> from zoo_jax.optim.predictors.mlp import mlp_predictor
    >>> both = ensemble(mlp_predictor((4,)), 2)
    >>> x = jnp.eye(3)
    >>> params = both.init(jax.random.key(0), x)
    >>> both.predict_members(params, x).shape, both.predict(params, x).shape
    ((2, 3), (3,))
    """
    if members < 2:
        raise ConfigError(f"an ensemble has 2 members or more, got {members}")

    def init(key, inputs):
        return map_leading(
            lambda one: predictor.init(one, inputs), jax.random.split(key, members)
        )

    def fit(key, inputs, values, mask, params):
        def one(pair):
            return predictor.fit(pair[0], inputs, values, mask, pair[1])

        return map_leading(one, (jax.random.split(key, members), params))

    def predict_members(params, inputs):
        return map_leading(lambda one: predictor.predict(one, inputs), params)

    def predict_moments(params, inputs):
        each = predict_members(params, inputs)
        return jnp.mean(each, axis=0), jnp.std(each, axis=0)

    def predict(params, inputs):
        return jnp.mean(predict_members(params, inputs), axis=0)

    return Predictor(init, fit, predict, predict_moments, predict_members)
