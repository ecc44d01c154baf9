"""Search spaces: what can be searched, in the form that every search of this project takes."""

from zoo_jax.methods.weaknas.spaces.choices import floats, integers, when
from zoo_jax.methods.weaknas.spaces.pool import SPACES, Graph, Pool, open_pool

__all__ = ["SPACES", "Graph", "Pool", "floats", "integers", "open_pool", "when"]
