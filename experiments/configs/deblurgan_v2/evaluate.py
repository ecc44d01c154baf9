r"""The published generators of DeblurGAN-v2 (arXiv 1908.03826) on a test set: no training.

Paper, table 1 (GoPro, linear blur): PSNR 28.17 / "SSIM" 0.925 for MobileNet, 29.55 / 0.934 for
Inception; the SSIM is pyssim's complex-wavelet form. Others measured 28.25 dB with the MobileNet
file (Open Model Zoo), 27.66 dB with the Inception one (before its inference was mended).
Table 2 (Koehler): 26.36 / 0.820 and 26.72 / 0.836, which is multi-scale SSIM.
Reached: not run, the files could not be had.
Needs: the prepared set (experiments/prepare_data.py), any folder of pairs, or for set=koehler
the official folder $ZOO_DATA/koehler; and
$ZOO_DATA/weights/deblurgan_v2/<model>.h5 of the released code.
Cost: 39 (MobileNet) or 281 G (Inception) multiply-adds per image of 720x1280 and protocol; there
are 1,111 images and three protocols. Koehler: half an hour of scoring per restorer.

  C=experiments/configs/deblurgan_v2/evaluate.py
  python -m experiments.run --config=$C --workdir=runs/deblur_gopro
  python -m experiments.run --config=$C:model=fpn_inception --workdir=runs/deblur_gopro_inception
  python -m experiments.run --config=$C:weights=runs/gopro --workdir=runs/deblur_gopro_own
  python -m experiments.run --config=$C:set=koehler --workdir=runs/deblur_koehler
  python -m experiments.run --workdir=runs/deblur_pairs \
      --config=$C:root=deblur_pairs/gopro,blurred=*_blur.webp,sharp=*_sharp.webp
"""

import os

from zoo_jax.core.config import parse_arg
from zoo_jax.core.errors import ConfigError
from zoo_jax.train.settings import base_config

SETS = ("gopro", "dvd", "reds", "koehler")


def get_config(arg=None):
    opt = parse_arg(
        arg,
        tiny=False,
        set="gopro",  # or dvd, reds: a prepared set; or koehler: its own protocol
        light="linear",  # of GoPro; or gamma
        root="",  # a folder of pairs, in place of a prepared set
        blurred="blur",  # folder or pattern in it
        sharp="sharp",
        model="fpn_mobilenet",
        weights="",  # another file, or the workdir of a training run
        niqe="",  # a file such as BasicSR's niqe_pris_params.npz
        seed=0,
    )
    if opt.set not in SETS:
        raise ConfigError(f"set={opt.set!r}: choose from {', '.join(SETS)}")
    c = base_config(task="deblurgan_v2", seed=opt.seed, steps=1)
    c.procedure = "evaluate_pairs"
    c.model = dict(name=opt.model, norm_mode="per_image", dtype="float32")
    c.data = dict(test=pairs(opt))
    c.arms = {opt.model: dict(weights=where(opt))}
    c.evaluation = dict(
        stream="test",
        protocols=["predict", "test_metrics", "reflect"],
        pictures=3,
        zoom=256,
        niqe_model=opt.niqe,
        psnr_of_equal=100.0,
    )
    if opt.set == "koehler":
        c.procedure, c.data = "evaluate_koehler", dict()
        c.evaluation = dict(root="koehler", protocols=["predict"], partial=False)
    elif opt.tiny:
        make_tiny(c)
    return c


def pairs(opt):
    """The images, one by one: they may differ in size."""
    if opt.root:
        folders = dict(blurred=opt.blurred, sharp=opt.sharp, split_by="none")
        return dict(name="paired_folder", root=opt.root, **folders, batch_size=1)
    light = dict(light=opt.light) if opt.set == "gopro" else {}
    split = "valid" if opt.set == "reds" else "test"
    return dict(name=opt.set, split=split, **light, batch_size=1)


def where(opt):
    """A run's folder is taken as it is; a file is of the published layout."""
    folder = os.path.join(os.environ.get("ZOO_DATA", "."), "weights", "deblurgan_v2")
    path = opt.weights or os.path.join(folder, f"{opt.model}.h5")
    return path if os.path.isdir(path) else f"deblurgan_v2/{opt.model}:{path}"


def make_tiny(c):
    """A small untrained network, quick to compile, on two small pictures."""
    c.model = dict(name="plain_residual", width=4, blocks=1)
    c.data.test = dict(
        name="blurred_photos", split="test", crop=64, count=2, batch_size=1
    )
    c.arms = {"plain_residual": dict(weights="fresh")}
    c.evaluation.pictures = 2
