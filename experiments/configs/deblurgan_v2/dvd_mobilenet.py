r"""DeblurGAN-v2 (arXiv 1908.03826) with FPN-MobileNet on DVD.

Paper, table 3: PSNR 28.54, "SSIM" 0.929 on the ten test videos, single frames; which data it was
trained on is not known to us.
Reached: not run. Cost: not measured; 200,000 steps.
Recipe, deviations and options: gopro_mobilenet.py. Needs: DVD (experiments/prepare_data.py),
$ZOO_DATA/weights/vgg19.pth, and for backbone=imagenet $ZOO_DATA/weights/mobilenet_v2.pth.

  C=experiments/configs/deblurgan_v2/dvd_mobilenet.py
  python -m experiments.train --config=$C:backbone=imagenet --workdir=runs/dvd_mobilenet
"""

from experiments.configs.deblurgan_v2 import gopro_mobilenet


def get_config(arg=None):
    return gopro_mobilenet.get_config(arg, data="dvd")
