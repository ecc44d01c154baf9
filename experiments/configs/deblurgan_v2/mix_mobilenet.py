r"""DeblurGAN-v2 (arXiv 1908.03826) with FPN-MobileNet on the mix of the paper.

Paper, table 1: PSNR 28.17, "SSIM" 0.925 (complex-wavelet form) on the linear images of GoPro's
test set, after training on about 10,000 pairs: every second frame of GoPro and of DVD, every
tenth of Need for Speed (30 frames a second). How it blurred the last is not known; see docs/data.md for ours.
Reached: not run. Cost: not measured; 200,000 steps.
Recipe, deviations and options: gopro_mobilenet.py. Needs: GoPro, DVD and Need for Speed (experiments/prepare_data.py),
$ZOO_DATA/weights/vgg19.pth, and for backbone=imagenet $ZOO_DATA/weights/mobilenet_v2.pth.

  C=experiments/configs/deblurgan_v2/mix_mobilenet.py
  python -m experiments.train --config=$C:backbone=imagenet --workdir=runs/mix_mobilenet
"""

from experiments.configs.deblurgan_v2 import gopro_mobilenet


def get_config(arg=None):
    return gopro_mobilenet.get_config(arg, data="mix")
