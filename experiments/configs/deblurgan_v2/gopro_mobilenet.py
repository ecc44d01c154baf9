r"""DeblurGAN-v2 (arXiv 1908.03826) with FPN-MobileNet on GoPro; the other recipes build on it.

Paper, table 1, for the mix of mix_mobilenet.py: PSNR 28.17, "SSIM" 0.925 (complex-wavelet form)
on the linear images of the test set. For GoPro alone users report 24 to 27 dB.
Reached: not run. Cost: not measured; 200,000 steps of one crop, each 8 G multiply-adds for the
generator, 55 G for the discriminators and 50 G for VGG-19.

As published (c: released code of 2019, whose README names ragan-ls; the paper's text on epochs
is not known to us): Adam 1e-4 (c), one 256x256 crop a step (c), 200 epochs of 1,000 steps (c),
rates held for 50 epochs and then falling in a line (c), 3 epochs with a frozen backbone and then
everything with a fresh optimiser (c), content 0.5 MSE + 0.006 VGG conv3_3 (paper, c), two
discriminators by RaGAN-LS with a pool of 50 (paper, c), weighed 0.001 (c; the paper has 0.01),
augmented pairs and corrupted inputs (c), the best model by PSNR (c).
Not as published: RGB in place of BGR; all images of a batch are normalised for VGG; the last
tenth of the training pairs, other sequences, is held out, in place of a hash of frame
numbers; validation pictures are not corrupted (corrupt_valid=true does); rates fall to 1e-7
(decay=reference: with the slope of the code, to a quarter; the generator then ends 3 epochs
higher up). The code also trained with lr=0.01 for 10 epochs; its author found that bad.
Needs: GoPro (experiments/prepare_data.py); $ZOO_DATA/weights/vgg19.pth, torchvision's (without:
features=gradients, which is not the paper's loss); for backbone=imagenet
$ZOO_DATA/weights/mobilenet_v2.pth, without which the frozen phase makes no sense and is left out.

  C=experiments/configs/deblurgan_v2/gopro_mobilenet.py
  python -m experiments.train --config=$C:backbone=imagenet --workdir=runs/gopro_mobilenet
  python -m experiments.train --config=$C:generator=resnet9 --workdir=runs/gopro_resnet9
"""

import os

from zoo_jax.core.config import parse_arg
from zoo_jax.core.errors import ConfigError
from zoo_jax.train.settings import base_config

CROP, EPOCH, EPOCHS, HOLD, WARMUP = 256, 1000, 200, 50, 3  # steps, epochs
RATE, LAST_RATE = 1e-4, 1e-7
FILES = {"fpn_mobilenet": "mobilenet_v2.pth", "fpn_inception": "inceptionresnetv2.pth"}
CHOICES = {
    "backbone": ("random", "imagenet"),
    "critics": ("none", "patch", "full", "both"),
    "decay": ("strict", "reference"),
}


def get_config(arg=None, *, generator="fpn_mobilenet", data="gopro"):
    opt = parse_arg(
        arg,
        tiny=False,
        generator=generator,  # or fpn_mobilenet_dsc, resnet9, ...
        backbone="random",  # or imagenet
        critics="both",  # the discriminators: none, patch, full, both
        adversarial="ragan_ls",
        features="vgg19",  # or gradients, none
        decay="strict",  # or reference
        light="linear",  # of GoPro's blur; or gamma
        corrupt_valid=False,
        batch=1,  # more than 1 is spread over all devices
        workers=4,
        seed=0,
    )
    for key, choices in CHOICES.items():
        if opt[key] not in choices:
            raise ConfigError(f"{key}={opt[key]!r}: choose from {', '.join(choices)}")
    c = base_config(task="deblurgan_v2", seed=opt.seed, steps=EPOCHS * EPOCH)
    c.mesh.devices = 1 if opt.batch == 1 else 0
    c.model = dict(name=opt.generator, dtype="float32")
    if opt.generator != "plain_residual":  # which has no norms
        c.model.norm_mode = "per_image"
    c.backbone = ""
    c.discriminators = {
        name: dict(name=f"{name}_discriminator", norm_mode="per_image", dtype="float32")
        for name in ("patch", "full")
        if opt.critics in (name, "both")
    }
    c.loss = dict(
        content="mse",
        pixel=0.5,
        pixel_space="imagenet",
        perceptual=0.006,
        features=opt.features,
        vgg19=weights("vgg19.pth") if opt.features == "vgg19" else "",
        adversarial=opt.adversarial,
        adversarial_weight=0.001,
        pool=50,
        penalty=10.0,
        reference_compat=False,
    )
    c.optim = dict(generator=adam(opt.decay), discriminator=adam(opt.decay))
    if opt.backbone == "imagenet":
        c.backbone = weights(FILES[opt.generator])
        thaw(c, WARMUP * EPOCH)
    c.data = streams(opt, data)
    # 256x256 squares; experiments/configs/deblurgan_v2/evaluate.py measures whole pictures.
    c.eval = dict(valid=dict(stream="valid", every=EPOCH))
    c.log_every = 100
    c.checkpoint.every = EPOCH
    c.checkpoint.best_metric = "valid/psnr"
    if opt.tiny:
        make_tiny(c)
    return c


def weights(file):
    return os.path.join(os.environ.get("ZOO_DATA", "."), "weights", file)


def adam(decay):
    line = dict(name="linear", hold=HOLD * EPOCH, end=LAST_RATE / RATE)
    if decay == "reference":
        line.update(name="linear_by_run", run=EPOCHS * EPOCH, every=EPOCH)
    return dict(name="adam", lr=RATE, schedule=line)


def thaw(c, at):
    c.optim.generator.thaw = dict(layers=["generator/backbone/*"], at=at)


def streams(opt, data):
    light = dict(light=opt.light)
    if data == "mix":
        train, valid = (
            dict(
                name="joined",
                sources=[
                    dict(name="gopro", split=f"train{part}", every=2, **light),
                    dict(name="dvd", split=f"train{part}", every=2),
                    dict(name="nfs", split=f"train{part}"),  # made every 10th at 30 fps
                ],
            )
            for part in ("[:90%]", "[90%:]")
        )
    else:
        light = light if data == "gopro" else {}
        train, valid = (
            dict(name=data, split=f"train{part}", **light)
            for part in ("[:90%]", "[90%:]")
        )
    to_float = [dict(name="to_float", key=key) for key in ("image", "sharp")]
    corrupt = [dict(name="corrupt")]
    augment = [dict(name="pair_augment", size=CROP), *corrupt, *to_float]
    pair = dict(keys=["image", "sharp"], step=dict(name="center_crop", size=CROP))
    centre = [dict(name="together", **pair)] + corrupt * opt.corrupt_valid + to_float
    loader = dict(batch_size=opt.batch, workers=opt.workers)
    return dict(
        train=dict(**train, transform=augment, **loader),
        valid=dict(**valid, transform=centre, **loader),
    )


def make_tiny(c):
    """Blurred photographs that packages carry, small networks, two steps; all devices."""
    side = 128 if c.model.name.startswith("fpn_inception") else 64
    size = dict(pyramid=8, head=4)
    extra = {"fpn_mobilenet": dict(width=0.1), "fpn_inception": dict(blocks=[0, 0])}
    if c.model.name not in extra:
        size, extra = {}, {c.model.name: dict(width=4, blocks=1)}
    c.model.update(**size, **extra[c.model.name])
    for name, section in c.discriminators.items():
        section.update(width=4, layers={"patch": 1, "full": 2}[name])
    c.loss.update(pool=10)
    if c.loss.features == "vgg19":
        c.loss.update(features="gradients", perceptual=0.1, vgg19="")
    c.backbone, c.mesh.devices = "", 0
    c.steps, c.log_every, c.checkpoint.every, c.eval.valid.every = 2, 1, 2, 2
    for section in c.optim.values():
        section.lr = 1e-3
        section.schedule = dict(name="linear")
    if c.model.name.startswith("fpn"):
        thaw(c, 1)
    for split in ("train", "valid"):
        section = c.data[split]
        made_up = dict(name="blurred_photos", split=split, crop=side, count=8)
        if section.name == "joined":
            made_up = dict(name="joined", sources=[{**made_up, "count": 4}] * 2)
        transform = section.transform
        transform[0] = dict(name="pair_augment", size=side, probability=0.5)
        if split == "valid":
            transform = transform[1:]
        c.data[split] = dict(**made_up, transform=transform, batch_size=8)
