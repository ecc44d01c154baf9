"""U-SAID (arXiv 1905.08965): denoising that a segmentation network finds easy to read."""

from zoo_jax.methods.u_said.procedure import denoise
from zoo_jax.methods.u_said.study import judge_study
from zoo_jax.methods.u_said.task import make_task

CONFIG_KEYS = (
    *("model", "segmentation", "loss", "noise", "optim", "arms", "denoise"),
    *("networks", "study"),
)
procedures = {"denoise": denoise, "judge_study": judge_study}

__all__ = ["CONFIG_KEYS", "denoise", "judge_study", "make_task", "procedures"]
