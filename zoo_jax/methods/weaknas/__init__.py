"""WeakNAS (arXiv 2102.10490): search by predictors that need to be good near the top only."""

from zoo_jax.methods.weaknas.procedure import search_study
from zoo_jax.methods.weaknas.spaces import Pool, open_pool

CONFIG_KEYS = ("spaces", "searchers", "studies", "search", "report")
procedures = {"search_study": search_study}

__all__ = ["CONFIG_KEYS", "Pool", "open_pool", "procedures", "search_study"]
