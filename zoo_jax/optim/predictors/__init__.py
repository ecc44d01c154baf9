"""Regressors from features of architectures to their accuracy: pure functions, fixed shapes."""

from zoo_jax.optim.predictors.ensemble import ensemble
from zoo_jax.optim.predictors.gcn import gcn_predictor
from zoo_jax.optim.predictors.gp import gp_predictor
from zoo_jax.optim.predictors.mlp import mlp_predictor
from zoo_jax.optim.predictors.protocol import Predictor

__all__ = ["Predictor", "ensemble", "gcn_predictor", "gp_predictor", "mlp_predictor"]
