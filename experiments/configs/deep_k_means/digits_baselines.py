r"""Other ways to share weights, on the 8x8 digits of scikit-learn: to compare with.

Not an experiment of the paper (arXiv 1806.09228). Straight-through clustering as in
TensorFlow Model Optimization, soft weight-sharing (arXiv 1702.04008), and differentiable
k-means (arXiv 2108.12659), each from the pre-trained network of digits_cnn.py, with the layers
and K of its budget k8 (soft: one mixture of 16). The first and the last train as long as the
re-training there; the rates of soft weight-sharing are small, and after a twentieth of its 500
epochs snapping weights to the mixture still leaves chance.
Reaches on the validation split with seed 0, one run each: 97.31, 97.31 and 96.63 % in this
order, from 97.98 %. Cost: under a minute on two CPU cores each.

  D=experiments/configs/deep_k_means/digits_cnn.py
  C=experiments/configs/deep_k_means/digits_baselines.py
  python -m experiments.train --config=$D --workdir=runs/digits_cnn/pretrain
  python -m experiments.train --config=$C --workdir=runs/digits_cnn/straight_through
  python -m experiments.train --config=$C:way=soft --workdir=runs/digits_cnn/soft
  python -m experiments.train --config=$C:way=differentiable --workdir=runs/digits_cnn/differentiable

Evaluations measure the hard-assigned network.
"""

from zoo_jax.core.config import parse_arg
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.train.settings import base_config

IMAGES, BATCH, EPOCH = 1201, 100, 12  # steps


def get_config(arg=None):
    opt = parse_arg(
        arg,
        tiny=False,
        way="straight_through",  # or soft, differentiable
        runs="runs/digits_cnn",  # where the pre-trained network is
        seed=0,
    )
    epochs = 500 if opt.way == "soft" else 16
    c = base_config(task="deep_k_means", seed=opt.seed, steps=epochs * EPOCH)
    c.init_from = f"{opt.runs}/pretrain"
    c.model = dict(
        name="digits_cnn", widths=[16, 32, 64], strides=[1, 2, 2], dtype="float32"
    )
    c.loss = dict(label_smoothing=0.0)
    c.optim = dict(name="sgd", lr=0.05, momentum=0.9, weight_decay=0.0)
    c.optim.schedule = dict(name="cosine")
    rows = [
        dict(path="network/conv1/kernel"),
        dict(path="network/conv*/kernel", num_clusters=8),
    ]
    mixing = dict(name="adam", lr=3e-3)
    sharing = {
        "straight_through": dict(
            layers=rows,
            init="kmeans++",
            reduce="sum",
            optim=dict(centres=dict(name="sgd", lr=0.005, momentum=0.9)),
        ),
        "soft": dict(  # numbers of the authors' tutorial
            layers=[
                dict(path="network/conv1/kernel"),
                dict(path="network/conv*/kernel", num_clusters=16, samples="scalar"),
            ],
            tau=0.003,
            data_size=IMAGES,
            zero_share=0.99,
            std=0.25,
            precision_prior=None,
            optim=dict(
                means=dict(name="adam", lr=1e-4),
                log_precisions=mixing,
                log_mixing=mixing,
            ),
        ),
        "differentiable": dict(
            layers=rows, init="kmeans++", temperature=0.005, num_iters=5
        ),
    }
    if opt.way not in sharing:
        raise ConfigError(f"unknown way {opt.way!r}: {closest(opt.way, sharing)}")
    c.sharing = dict(name=opt.way, **sharing[opt.way])
    if opt.way == "soft":
        c.optim = dict(name="adam", lr=5e-4)
    image = [dict(name="to_float")]
    c.data = dict(
        train=dict(name="digits", split="train", batch_size=BATCH, transform=image),
        valid=dict(name="digits", split="valid", batch_size=300, transform=image),
    )
    c.eval = dict(valid=dict(stream="valid", every=c.steps // 4))
    c.log_every = c.steps // 16
    c.checkpoint.every = c.steps // 2
    if opt.tiny:
        make_tiny(c)
    return c


def make_tiny(c):
    """Made-up images, a few channels, two steps from scratch."""
    c.steps, c.log_every, c.init_from = 2, 1, ""
    c.eval.valid.every = 2
    c.model.widths = [4, 6, 8]
    for split, section in c.data.items():
        c.data[split] = dict(
            name="synthetic_images",
            split=split,
            size=24,
            height=8,
            width=8,
            channels=1,
            batch_size=8,
            transform=section.transform,
        )
