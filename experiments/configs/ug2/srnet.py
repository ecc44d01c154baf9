r"""SRNet, the recognition-driven restorer of the UG^2 challenge (arXiv 1901.09482), on CIFAR-10.

Not an experiment of the paper: the participant trained on crops of ImageNet with VGG-16 as the
judge, whose weights are not at hand, and neither its learning rate nor its scores are known. Here a
small network that has learned CIFAR-10 on clean pictures judges, and the pictures are degraded as
the participant's code degrades them: blur and JPEG of quality 10.
Arms: perceptual (features of the judge alone), both (and its answer; the published loss),
pixel, adversarial (a reconstruction: perceptual and a critic).
Reaches: not run at full length. Cost: not measured.

  C=experiments/configs/ug2/srnet.py
  python -m experiments.train --config=$C:stage=recogniser --workdir=runs/ug2/recogniser
  python -m experiments.train --config=$C:arm=both --workdir=runs/ug2/both
  python -m experiments.train --config=$C:arm=perceptual --workdir=runs/ug2/perceptual
"""

from zoo_jax.core.config import parse_arg
from zoo_jax.core.errors import ConfigError
from zoo_jax.train.settings import base_config

# Two levels of labels, as UG^2 has them: classes overlap as Car1 and Car2 do there.
# aeroplane 0, automobile 1, bird 2, cat 3, deer 4, dog 5, frog 6, horse 7, ship 8, truck 9
GROUPS = [[0, 2], [1, 9], [3, 5], [4, 7], [6], [0, 8]]
ARMS = {
    "pixel": dict(pixel=1.0),
    "perceptual": dict(perceptual=1.0),
    "both": {"perceptual": 1.0, "class": 1.0},
    "adversarial": dict(perceptual=1.0, adversarial=0.01),
}


def get_config(arg=None):
    opt = parse_arg(
        arg,
        tiny=False,
        stage="restorer",  # or recogniser, which comes first
        arm="both",  # of the restorer: pixel, perceptual, both, adversarial
        start="uniform",  # or dirac, the identity
        runs="runs/ug2",
        seed=0,
    )
    if opt.arm not in ARMS:
        raise ConfigError(f"arm={opt.arm!r}: choose from {', '.join(ARMS)}")
    c = base_config(task="ug2", seed=opt.seed, steps=4000)
    recogniser = dict(name="small_cnn", num_classes=10, width=32, dtype="float32")
    flip = dict(name="horizontal_flip")
    to_float = [dict(name="to_float", key=key) for key in ("image", "sharp")]
    c.recogniser, c.critic, c.loss = dict(), dict(), dict()
    if opt.stage == "recogniser":
        c.model = recogniser
        crop = dict(name="random_crop", pad=4)
        steps, valid = [crop, flip, to_float[0]], [to_float[0]]
        best = "valid/accuracy"
    else:
        c.init_from = f"{opt.runs}/recogniser"
        c.model = dict(
            name="srnet", features=64, blocks=4, start=opt.start, dtype="float32"
        )
        c.recogniser = recogniser
        c.critic = dict(width=32, layers=3) if opt.arm == "adversarial" else dict()
        terms = dict.fromkeys(("perceptual", "class", "pixel", "adversarial"), 0.0)
        c.loss = dict(
            **{**terms, **ARMS[opt.arm]},
            features="recogniser",
            vgg16="",
            own_units=False,
            groups=GROUPS,
            map="",
            label="class",
            game="lsgan",
        )
        steps = [flip, dict(name="degrade"), *to_float]
        valid, best = [dict(name="degrade"), *to_float], "valid/accuracy"
    c.optim = dict(name="adam", lr=1e-3, schedule=dict(name="cosine"))
    c.data = dict(
        train=dict(name="cifar10", split="train[:90%]", batch_size=64, transform=steps),
        valid=dict(
            name="cifar10", split="train[90%:]", batch_size=100, transform=valid
        ),
    )
    c.eval = dict(valid=dict(stream="valid", every=500))
    c.log_every = 50
    c.checkpoint.every = 500
    c.checkpoint.best_metric = best
    if opt.tiny:
        make_tiny(c)
    return c


def make_tiny(c):
    """Made-up images, a few channels, two steps; every stage starts from scratch."""
    c.steps, c.log_every, c.init_from = 2, 1, ""
    c.checkpoint.every, c.eval.valid.every = 2, 2
    c.optim.lr = 1e-2
    if c.model.name == "srnet":
        c.model.update(features=6, blocks=1)
        c.recogniser.width = 4
    else:
        c.model.width = 4
    if c.critic:
        c.critic.update(width=4, layers=1)
    made_up = dict(name="synthetic_images", size=16, height=16, width=20)
    for split, section in c.data.items():
        transform, size = section.transform, 8
        c.data[split] = dict(
            **made_up, split=split, transform=transform, batch_size=size
        )
