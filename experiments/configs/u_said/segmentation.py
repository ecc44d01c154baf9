r"""The segmentation network of U-SAID (arXiv 1905.08965): its two training stages.

Paper: whether it trains this network, and how well, is not known to us. Reached: on VOC not run;
small networks on CamVid are part of camvid.py.
As in the released code: SGD 1e-3 with momentum 0.9 and weight decay 2e-5, poly schedule of power
0.9 changed every 10 steps, 10,000 steps, each of two images one after the other, flips.

  stage=supervised  FPN/train.py: images of 300x300, focal loss against true masks
  stage=label_free  FPN/B3_train.py: images of 500x500, focal loss against its own answers, the
                    ResNet frozen. One class everywhere is optimal: watch usage_entropy.

Not as published: void pixels count nowhere (there they are background); the ResNet is frozen from
the first step (there it moves once); statistics=running is what batches do without (there each
image is normalised by itself, even in a frozen ResNet).
Needs: $ZOO_DATA/voc2012, or $ZOO_DATA/camvid for data=camvid; ImageNet weights of the ResNet come
with a checkpoint of the whole network, --config.init_from=u_said/fpn_segmentation:fpn.pth.
Cost: not measured.

  C=experiments/configs/u_said/segmentation.py
  python -m experiments.train --config=$C --workdir=runs/voc/segmentation
  python -m experiments.train --config=$C:stage=label_free --workdir=runs/voc/label_free
"""

from zoo_jax.core.config import parse_arg
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.train.settings import base_config

STAGES, SETS = {"supervised": 300, "label_free": 500}, {"voc2012": 21, "camvid": 11}


def get_config(arg=None):
    opt = parse_arg(
        arg,
        tiny=False,
        stage="supervised",  # or label_free
        data="voc2012",  # or camvid
        statistics="batch",  # as published; running
        seed=0,
    )
    for key, choices in (
        ("stage", STAGES),
        ("data", SETS),
        ("statistics", ("batch", "running")),
    ):
        if opt[key] not in choices:
            raise ConfigError(
                f"unknown {key} {opt[key]!r}: {closest(opt[key], choices)}"
            )
    c = base_config(task="u_said", seed=opt.seed, steps=10_000, accumulate=2)
    c.segmentation = dict(
        num_classes=SETS[opt.data],
        blocks=[3, 4, 23, 3],
        width=64,
        pyramid=256,
        smooth=128,
    )
    c.loss = dict(mode=opt.stage, gamma=2.0, batch_statistics=opt.statistics == "batch")
    c.optim = dict(
        name="sgd",
        lr=1e-3,
        momentum=0.9,
        weight_decay=2e-5,
        schedule=dict(name="poly", power=0.9, every=10),
        freeze=["segmentation/resnet/*"] if opt.stage == "label_free" else [],
    )
    frames = dict(name=opt.data, size=STAGES[opt.stage])
    flip = dict(
        name="together",
        keys=["image", "segmentation"],
        step=dict(name="horizontal_flip"),
    )
    to_float = dict(name="to_float")
    c.data = dict(
        # Two per step, one after the other: `accumulate`.
        train=dict(
            frames, split="train", batch_size=2, workers=2, transform=[flip, to_float]
        ),
        valid=dict(frames, split="valid", batch_size=4, transform=[to_float]),
    )
    c.eval = dict(valid=dict(stream="valid", every=5000))
    c.checkpoint.every = 1000
    if opt.tiny:
        make_tiny(c)
    return c


def make_tiny(c):
    """Made-up images with masks, a small network, two steps."""
    c.steps, c.log_every, c.accumulate = 2, 1, 1
    c.optim.lr, c.optim.schedule.every = 1e-2, 1
    c.segmentation.update(
        num_classes=3, blocks=[1, 1, 1, 1], width=4, pyramid=4, smooth=3, head_std=0.1
    )
    made_up = dict(name="synthetic_images", num_classes=3, masks=True, size=16)
    for split in ("train", "valid"):
        transform = c.data[split].transform
        c.data[split] = dict(
            **made_up,
            height=24,
            width=24,
            split=split,
            batch_size=8,
            transform=transform,
        )
