r"""U-SAID (arXiv 1905.08965) on PASCAL VOC 2012 segmentation images: the published recipe.

Paper: its tables are not known to us; figures shipped with its code give, for kodim24 at sigma
25, PSNR 30.71 (plain), 30.49 (s_said), 30.66 (u_said). Reached: not run.
As published: Adam 1e-3, divided by ten after epochs 10, 40, 80 of 100, batches of 64 patches of
48x48, blind noise 0..55, c = 0.5, a frozen segmentation network. An epoch is 0.1 % of all
patch positions, about 148 per image. Not as published, see the method's README: the uncertainty has
a gradient (arm=detached is the published script), running batch statistics in the frozen
network (statistics=batch), patches drawn anew each time.
Needs: $ZOO_DATA/voc2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation}. The frozen
network starts at random unless init_from names weights:
  --config.init_from=u_said/fpn_segmentation:fpn.pth
Cost: not measured; 338,600 steps of 1.5 T multiply-adds for arm=plain.

  C=experiments/configs/u_said/voc.py
  python -m experiments.train --config=$C:arm=plain --workdir=runs/voc/plain
  python -m experiments.train --config=$C --workdir=runs/voc/u_said
"""

from zoo_jax.core.config import parse_arg
from zoo_jax.core.errors import ConfigError
from zoo_jax.train.settings import base_config

BATCH, PATCH, IMAGES, PATCHES = 64, 48, 1464, 148
EPOCH = IMAGES * PATCHES // BATCH
ARMS = ("plain", "detached", "s_said", "u_said", "entropy")
FOLDER = "voc2012"


def get_config(arg=None):
    opt = parse_arg(
        arg,
        tiny=False,
        arm="u_said",  # or plain, detached, s_said, entropy
        statistics="running",  # of the frozen network; batch, as published
        classes=21,
        seed=0,
    )
    if opt.arm not in ARMS:
        raise ConfigError(f"arm={opt.arm!r}: choose from {', '.join(ARMS)}")
    c = base_config(task="u_said", seed=opt.seed, steps=100 * EPOCH)
    c.model = dict(name="dncnn", depth=20, features=64, channels=3, dtype="float32")
    c.segmentation = dict(
        num_classes=opt.classes, blocks=[3, 4, 23, 3], width=64, pyramid=256, smooth=128
    )
    c.loss = dict(
        mode=opt.arm if opt.arm in ("plain", "s_said") else "u_said",
        denoising=0.5,
        segmentation=0.5,
        uncertainty="entropy" if opt.arm == "entropy" else "focal_argmax",
        gamma=2.0,
        detach=opt.arm == "detached",
        batch_statistics=opt.statistics == "batch",
    )
    c.noise = dict(sigma=[0.0, 55.0])
    boundaries = [epoch * EPOCH for epoch in (10, 40, 80)]
    c.optim = dict(
        name="adam",
        lr=1e-3,
        schedule=dict(name="step", boundaries=boundaries, factors=0.1),
    )
    steps = [dict(name="random_crop", size=PATCH), dict(name="horizontal_flip")]
    train = photos("train")
    if opt.arm == "s_said":
        train.update(name="segmented_photos", masks=f"{FOLDER}/SegmentationClass")
        keys = ["image", "segmentation"]
        steps = [dict(name="together", keys=keys, step=step) for step in steps]
    transform = [*steps, dict(name="to_float")]
    train.update(batch_size=BATCH, workers=8, transform=transform)
    c.data = dict(train=train)
    c.data.valid = dict(
        name="noisy_images", source=photos("val"), sigma=25.0, batch_size=1
    )
    c.eval = dict(valid=dict(stream="valid", every=20 * EPOCH))
    c.log_every = 100
    c.checkpoint.every = EPOCH
    if opt.tiny:
        make_tiny(c)
    return c


def photos(names):
    return dict(
        name="photo_folder",
        root=f"{FOLDER}/JPEGImages",
        names=f"{FOLDER}/ImageSets/Segmentation/{names}.txt",
    )


def make_tiny(c):
    """Made-up images, small networks, two steps."""
    c.steps, c.log_every = 2, 1
    c.optim.schedule.boundaries = [1]
    c.model.depth, c.model.features = 4, 6
    c.segmentation.update(
        num_classes=5, blocks=[1, 1, 1, 1], width=4, pyramid=6, smooth=4
    )
    made_up = dict(name="synthetic_images", size=24, height=24, width=24, num_classes=3)
    transform = [dict(name="to_float")]
    masks = c.loss.mode == "s_said"
    c.data.train = dict(**made_up, masks=masks, batch_size=8, transform=transform)
    c.data.valid = dict(name="noisy_images", source=made_up, sigma=25.0, batch_size=8)
