r"""DeblurGAN-v2's generator with losses that do not work against each other.

Not in a paper: the recipe of gopro_mobilenet.py, with PCGrad (arXiv 2001.06782) between the gradients
of its terms, pixels, features and two discriminators, over the whole batch. It shows that
`optim.realign` serves any task with several terms; `rule` takes any of its rules.
Reached: not run. Cost: one backward pass through the generator per term in place of one.
Needs: GoPro and $ZOO_DATA/weights/vgg19.pth, as gopro_mobilenet.py, whose options it takes.

  C=experiments/configs/deblurgan_v2/gopro_realigned.py
  python -m experiments.train --config=$C --workdir=runs/gopro_realigned
"""

from experiments.configs.deblurgan_v2 import gopro_mobilenet


def get_config(arg=None):
    # A gradient for each term of the pyramid compiles long.
    if "tiny" in (arg or "").split(","):
        arg += ",generator=plain_residual,critics=patch"
    c = gopro_mobilenet.get_config(arg)
    c.optim.generator.realign = dict(rule="pcgrad", level="batch")
    return c
