r"""How small published CIFAR-10 ResNets can be stored: accuracy against bytes.

Weights: akamaster/pytorch_resnet_cifar10 (91.73 and 93.39 % on the original test images).
Data: JPEG copies of CIFAR-10, $ZOO_DATA/cifar10_jpeg/{train,test}/<class>/*.jpg, 10,000
images each. On these copies the published networks reach 81.03 and 83.20 %, and fine-tuning
adapts them to JPEG: what compression costs is therefore counted from the dense network after
as many steps of the same fine-tuning.
Cost: about half an hour (depth 20) and an hour (depth 56) on two CPU cores. All numbers below
are ours. Rates and steps were chosen on `on=valid`, images 900 to 999 of each class of the
training part, which the fine-tuning never sees (the published networks were trained on their
originals).

  C=experiments/configs/deep_k_means/cifar10_published.py
  python -m experiments.run --workdir=runs/published_20 \
    --config=$C:depth=20,weights=weights/resnet20-12fca82f.th
  python -m experiments.run --workdir=runs/published_56 \
    --config=$C:depth=56,weights=weights/resnet56-4bfd9763.th
"""

from zoo_jax.core.config import parse_arg
from zoo_jax.train.settings import base_config

BATCH = 100
RATIOS = [4, 6, 8, 10, 12, 16, 20, 30, 40]


def get_config(arg=None):
    opt = parse_arg(
        arg,
        tiny=False,
        depth=20,  # or 56
        weights="weights/resnet20-12fca82f.th",
        on="test",  # or valid, to choose rates
        lr=0.001,
        steps=90,  # one pass over the 9,000 training images
        seed=0,  # of nothing here: size_study.seeds are those of the fine-tuning
    )
    c = base_config(task="deep_k_means", seed=opt.seed, steps=opt.steps)
    c.procedure = "size_study"
    c.model = dict(name=f"cifar_resnet_{opt.depth}", depth=opt.depth, dtype="float32")
    c.loss = dict(label_smoothing=0.0)
    c.optim = dict(name="adam", lr=opt.lr, schedule=dict(name="cosine"))
    augment = [dict(name="random_crop", pad=4), dict(name="horizontal_flip")]
    c.data = dict(
        train=stream("train", BATCH, [0, 900], augment),
        valid=stream("train", BATCH, [900, 1000]),
        test=stream("test", BATCH, [0, 1000]),
    )
    c.log_every = 10
    c.tensorboard = False
    c.size_study = dict(
        source=f"deep_k_means/cifar_resnet_{opt.depth}:{opt.weights}",
        stream=opt.on,
        # What is out of reach of a way is left out of the table.
        ratios=dict(budget=RATIOS, scalar=[4, 6, 8, 10, 16], linear=[4, 6, 8, 10, 16]),
        fine_tune={
            20: dict(budget=[6, 10, 16, 30], scalar=[10], linear=[10]),
            56: dict(budget=[10, 16, 6, 30]),
        }[opt.depth],
        seeds=[0, 1, 2],
        reduce="mean",
        norm_batches=20,
    )
    if opt.tiny:
        make_tiny(c)
    return c


def stream(split, batch, per_class, augment=()):
    normalize = dict(
        name="normalize", mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]
    )
    return dict(
        name="image_folder",
        root=f"cifar10_jpeg/{split}",
        per_class=per_class,
        batch_size=batch,
        transform=[*augment, normalize],
    )


def make_tiny(c):
    """Made-up images, the shallowest network, two steps from scratch."""
    c.steps, c.log_every = 2, 1
    c.model.depth = 8
    for split, section in c.data.items():
        c.data[split] = dict(
            name="synthetic_images",
            split="train" if split == "train" else "test",
            size=24,
            height=16,
            width=16,
            batch_size=8,
            transform=section.transform,
        )
    c.size_study.update(
        source="",
        ratios=dict(budget=[4, 12], scalar=[6], linear=[200]),
        fine_tune=dict(budget=[6], scalar=[6], linear=[6]),
        seeds=[0, 1],
        norm_batches=2,
    )
