"""UG^2 (arXiv 1901.09482): does restoration, put before a recogniser, help it to recognise?

Readers and metrics of the benchmark, enhancers, recognisers, and the harness that scores them.
"""

from zoo_jax.methods.ug2.study import recognition_study
from zoo_jax.methods.ug2.task import make_task

CONFIG_KEYS = (
    *("model", "recogniser", "critic", "loss", "optim"),
    *("recognisers", "arms", "perturbations", "study"),
)
procedures = {"recognition_study": recognition_study}

__all__ = ["CONFIG_KEYS", "make_task", "procedures"]
