r"""DeblurGAN-v2 (arXiv 1908.03826) with FPN-Inception on DVD.

No number of the paper: its table 3 (DVD) has FPN-MobileNet only.
Reached: not run. Cost: not measured; 200,000 steps.
Recipe, deviations and options: gopro_mobilenet.py. Needs: DVD (experiments/prepare_data.py),
$ZOO_DATA/weights/vgg19.pth, and for backbone=imagenet $ZOO_DATA/weights/inceptionresnetv2.pth, of the package pretrainedmodels.

  C=experiments/configs/deblurgan_v2/dvd_inception.py
  python -m experiments.train --config=$C:backbone=imagenet --workdir=runs/dvd_inception
"""

from experiments.configs.deblurgan_v2 import gopro_mobilenet


def get_config(arg=None):
    return gopro_mobilenet.get_config(arg, generator="fpn_inception", data="dvd")
