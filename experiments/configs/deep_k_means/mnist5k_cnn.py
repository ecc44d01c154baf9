r"""Deep k-Means on 5,000 real MNIST digits with a small all-convolutional network: the tour.

Not an experiment of the paper (arXiv 1806.09228), whose tables are not available to us; it
shows the method at a size that two CPU cores train in a minute: after re-training with the
k-means penalty, sharing 4 rows per kernel costs little; without it, nearly everything.
Reaches: the table in zoo_jax/methods/deep_k_means/README.md. Cost: about two minutes.

  python -m experiments.tour --method=deep_k_means        all stages in order; or one by one:
  C=experiments/configs/deep_k_means/mnist5k_cnn.py
  python -m experiments.train --config=$C --workdir=runs/mnist5k_cnn/pretrain
  python -m experiments.train --config=$C:stage=retrain,arm=plain --workdir=runs/mnist5k_cnn/retrain_plain
  python -m experiments.train --config=$C:stage=retrain --workdir=runs/mnist5k_cnn/retrain_labels
  python -m experiments.run --config=$C:stage=compress --workdir=runs/mnist5k_cnn/compress

Everything here is ours; strengths and rates were chosen on the split "valid" with two seeds.
"""

from zoo_jax.core.config import parse_arg
from zoo_jax.train.settings import base_config

IMAGES, BATCH = 4000, 100
EPOCH = IMAGES // BATCH


def get_config(arg=None):
    opt = parse_arg(
        arg,
        tiny=False,
        tour=False,  # in the folder of the tour, without the arm "pretrained"
        stage="pretrain",  # or retrain, compress
        arm="labels",  # of retrain: plain, labels, spectral
        runs="",  # the folder of all stages; by default that of the commands above
        seed=0,
    )
    runs = opt.runs or ("runs/tour/deep_k_means" if opt.tour else "runs/mnist5k_cnn")
    c = base_config(task="deep_k_means", seed=opt.seed, steps=1)
    c.steps = {"pretrain": 12, "retrain": 10, "compress": 2}[opt.stage] * EPOCH
    c.init_from = f"{runs}/pretrain" if opt.stage == "retrain" else ""
    c.model = dict(
        name="digits_cnn",
        widths=[24, 48, 96, 128],
        strides=[2, 2, 1, 2],
        dtype="float32",
    )
    c.loss = dict(label_smoothing=0.0)
    c.optim = dict(
        name="sgd",
        lr=0.1,
        momentum=0.9,
        weight_decay=5e-4 if opt.stage == "pretrain" else 0.0,
        schedule=dict(name="cosine"),
    )
    if opt.stage == "retrain" and opt.arm != "plain":
        c.optim.kmeans = dict(
            layers=layers(4),
            # Rows move by about lr * strength / (1 - momentum) of their distance per step:
            # they meet half-way through, while the rate is still high enough to adapt.
            strength=0.5,
            schedule=dict(name="exponential", start=0.01, end=1.0, steps=0.5),
            relaxation=opt.arm,
            refresh_every=EPOCH // 2,
            seed=opt.seed,
        )
    shift = [dict(name="random_crop", pad=2)]
    c.data = dict(
        train=stream("train", BATCH, shift),
        valid=stream("valid", 500),
        test=stream("test", 500),
    )
    c.eval = dict(valid=dict(stream="valid", every=2 * EPOCH))
    c.log_every = EPOCH
    c.checkpoint.every = 5 * EPOCH
    if opt.stage == "compress":
        c.procedure, c.eval = "compress", dict()
        c.arms = {
            "plain": f"{runs}/retrain_plain",
            "labels": f"{runs}/retrain_labels",
        }
        if not opt.tour:
            c.arms.pretrained = f"{runs}/pretrain"
        c.budgets = {f"k{k:02d}": layers(k) for k in (4, 8, 16)}
        c.compress = dict(
            stream="test", norm_batches=EPOCH, reduce="mean", codebook_dtype="float16"
        )
    if opt.tiny:
        make_tiny(c)
    return c


def layers(k):
    """All convolutions but the first, which is small and close to the image."""
    return [
        dict(path="network/conv1/kernel"),
        dict(path="network/conv*/kernel", num_clusters=k),
    ]


def stream(split, batch, augment=()):
    transform = [*augment, dict(name="to_float")]
    return dict(name="mnist_5k", split=split, batch_size=batch, transform=transform)


def make_tiny(c):
    """Made-up images, a few channels, two steps; every stage starts from scratch."""
    c.steps, c.log_every, c.init_from = 2, 1, ""
    c.model.widths = [4, 5, 6, 8]
    if "kmeans" in c.optim:
        c.optim.kmeans.refresh_every = 1
    for split, section in c.data.items():
        c.data[split] = dict(
            name="synthetic_images",
            split=split,
            size=24,
            height=28,
            width=28,
            channels=1,
            batch_size=8,
            transform=section.transform,
        )
    if c.procedure:
        c.budgets = {"k3": layers(3)}
        c.compress.norm_batches = 2
