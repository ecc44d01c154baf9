r"""DeblurGAN-v2 (arXiv 1908.03826) with FPN-Inception on GoPro.

Paper, table 1, for the mix of mix_inception.py: PSNR 29.55, "SSIM" 0.934 (complex-wavelet form).
For GoPro alone users report 26.6 to 27.0 dB.
Reached: not run. Cost: not measured; 200,000 steps.
Recipe, deviations and options: gopro_mobilenet.py. Needs: GoPro (experiments/prepare_data.py),
$ZOO_DATA/weights/vgg19.pth, and for backbone=imagenet $ZOO_DATA/weights/inceptionresnetv2.pth, of the package pretrainedmodels.

  C=experiments/configs/deblurgan_v2/gopro_inception.py
  python -m experiments.train --config=$C:backbone=imagenet --workdir=runs/gopro_inception
"""

from experiments.configs.deblurgan_v2 import gopro_mobilenet


def get_config(arg=None):
    return gopro_mobilenet.get_config(arg, generator="fpn_inception")
