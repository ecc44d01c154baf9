"""DeblurGAN-v2 (arXiv 1908.03826): deblurring by a feature pyramid and two discriminators."""

from zoo_jax.methods.deblurgan_v2.evaluation import evaluate_pairs
from zoo_jax.methods.deblurgan_v2.koehler import evaluate_koehler
from zoo_jax.methods.deblurgan_v2.study import deblur_study
from zoo_jax.methods.deblurgan_v2.task import make_task

CONFIG_KEYS = (
    *("model", "backbone", "discriminators", "loss", "optim"),
    *("arms", "study", "evaluation"),
)
procedures = {
    "deblur_study": deblur_study,
    "evaluate_koehler": evaluate_koehler,
    "evaluate_pairs": evaluate_pairs,
}

__all__ = [
    "CONFIG_KEYS",
    "deblur_study",
    "evaluate_koehler",
    "evaluate_pairs",
    "make_task",
    "procedures",
]
