"""U-SAID (arXiv 1905.08965): denoising that a segmentation network finds easy to read."""

from zoo_jax.methods.u_said.procedure import denoise
from zoo_jax.methods.u_said.task import make_task

CONFIG_KEYS = ("model", "segmentation", "loss", "noise", "optim", "arms", "denoise")
procedures = {"denoise": denoise}

__all__ = ["CONFIG_KEYS", "denoise", "make_task", "procedures"]
