"""Deep k-Means (arXiv 1806.09228): shrink a network by sharing rows of its kernels."""

from zoo_jax.methods.deep_k_means.procedure import compress
from zoo_jax.methods.deep_k_means.size_study import size_study
from zoo_jax.methods.deep_k_means.study import sharing_study
from zoo_jax.methods.deep_k_means.task import make_task

CONFIG_KEYS = (
    *("model", "optim", "loss", "sharing"),
    *("arms", "budgets", "fine_tune", "compress", "size_study", "study"),
)
procedures = {
    "compress": compress,
    "sharing_study": sharing_study,
    "size_study": size_study,
}

__all__ = [
    "CONFIG_KEYS",
    "compress",
    "make_task",
    "procedures",
    "sharing_study",
    "size_study",
]
