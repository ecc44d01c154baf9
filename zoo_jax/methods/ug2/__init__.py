"""UG^2 (arXiv 1901.09482): does restoration, put before a recogniser, help it to recognise?

Readers and metrics of the benchmark, enhancers, recognisers, and the harness that scores them.
"""

from zoo_jax.methods.ug2.task import make_task

CONFIG_KEYS = (
    *("model", "recogniser", "critic", "loss", "degrade", "optim"),
    *("arms", "study"),
)
procedures: dict = {}

__all__ = ["CONFIG_KEYS", "make_task", "procedures"]
