r"""The published denoisers of U-SAID (arXiv 1905.08965) on Kodak24 or CBSD68: no training.

Paper: figures shipped with its code, sigma 25, kodim24: PSNR 30.71 (plain), 30.49 (S-SAID), 30.66
(U-SAID). Measured before with these files: 30.715, 30.485, 30.598; this config gives the
same to 0.01 dB (tests/parity/test_u_said.py).
Needs: $ZOO_DATA/kodak24/*.png or $ZOO_DATA/cbsd68/*.jpg, and $ZOO_DATA/weights/u_said/ with DnCNN.pth,
SSAID.pth and USAID.pth (or .npz) of the released code.
With `judges`, DeepLab's 8-bit networks in $ZOO_DATA/weights/tflite_quant/*.tflite.
Cost: 262 G multiply-adds per Kodak image and arm; 24 images and 3 arms take 10 minutes on two
CPU cores.

  C=experiments/configs/u_said/published.py
  python -m experiments.run --config=$C --workdir=runs/u_said_kodak24
  python -m experiments.run --config=$C:set=cbsd68,sigma=15 --workdir=runs/u_said_cbsd68
"""

import os

from zoo_jax.core.config import parse_arg
from zoo_jax.core.errors import ConfigError
from zoo_jax.train.settings import base_config

SETS = ("kodak24", "cbsd68")
WEIGHTS = os.path.join(os.environ.get("ZOO_DATA", "."), "weights")
JUDGES = {
    name: dict(file=os.path.join(WEIGHTS, "tflite_quant", f"{file}.tflite"), classes=21)
    for name, file in {
        "deeplab": "deeplabv3_mnv2_pascal_quant",
        "deeplab_half": "deeplabv3_mnv2_dm05_pascal_quant",
    }.items()
}
ARMS = {"plain": "DnCNN", "s_said": "SSAID", "u_said": "USAID"}


def get_config(arg=None):
    opt = parse_arg(
        arg,
        tiny=False,
        set="kodak24",  # or cbsd68
        sigma=25.0,  # grey levels
        crop=0,  # side of the centre square; 0 takes whole images
        suffix="pth",  # of the weights; npz needs no PyTorch
        niqe="",  # a file such as BasicSR's niqe_pris_params.npz
        judges=False,  # DeepLab's two 8-bit networks look at the pictures
        seed=0,
    )
    if opt.set not in SETS:
        raise ConfigError(f"set={opt.set!r}: choose from {', '.join(SETS)}")
    c = base_config(task="u_said", seed=opt.seed, steps=1)
    c.procedure = "denoise"
    c.model = dict(name="dncnn", depth=20, features=64, channels=3, dtype="float32")
    c.segmentation = dict()
    c.loss = dict(mode="plain", denoising=1.0)
    c.noise = dict(sigma=[0.0, 55.0])
    c.optim = dict(name="adam", lr=1e-3)
    photos = dict(name=opt.set, crop=opt.crop or None)
    noisy = dict(name="noisy_images", source=photos, sigma=opt.sigma, batch_size=1)
    c.data = dict(test=noisy)
    c.arms = {
        arm: os.path.join(WEIGHTS, "u_said", f"{file}.{opt.suffix}")
        for arm, file in ARMS.items()
    }
    c.denoise = dict(
        stream="test",
        pictures=3,
        zoom=128,
        niqe_model=opt.niqe,
        judges=JUDGES if opt.judges else dict(),
        baseline="plain",
    )
    if opt.tiny:
        make_tiny(c)
    return c


def make_tiny(c):
    """Trains a small network for a step on made-up images."""
    c.procedure = ""
    c.model.depth, c.model.features = 4, 6
    made_up = dict(name="synthetic_images", size=8, height=16, width=16, num_classes=2)
    c.data.train = dict(**made_up, batch_size=8, transform=[dict(name="to_float")])
    c.data.test.source = made_up
