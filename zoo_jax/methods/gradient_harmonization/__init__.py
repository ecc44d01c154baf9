"""Gradient harmonization (arXiv 2211.02077): VATT pre-training whose losses stop fighting."""

from zoo_jax.methods.gradient_harmonization.study import harmonization_study
from zoo_jax.methods.gradient_harmonization.task import make_task

CONFIG_KEYS = (
    *("objective", "model", "inputs", "loss", "harmonize", "optim", "classify"),
    *("arms", "study"),
)
procedures = {"harmonization_study": harmonization_study}

__all__ = ["CONFIG_KEYS", "harmonization_study", "make_task", "procedures"]
