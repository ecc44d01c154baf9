"""Which kernels are clustered, and the name of the network that holds them."""

from zoo_jax.optim.layer_spec import make_spec

__all__ = ["NETWORK", "make_spec"]

NETWORK = "network"  # the one network, and the one player that moves it
