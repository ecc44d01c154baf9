r"""Deep k-Means on the 8x8 digits of scikit-learn (1,201 train): the smallest real run.

Not an experiment of the paper (arXiv 1806.09228). Two convolutions of 3x3 are clustered.
Reaches: not published; use it to try things. Cost: some seconds on two CPU cores per stage.

  C=experiments/configs/deep_k_means/digits_cnn.py
  python -m experiments.train --config=$C --workdir=runs/digits_cnn/pretrain
  python -m experiments.train --config=$C:stage=retrain,arm=plain --workdir=runs/digits_cnn/retrain_plain
  python -m experiments.train --config=$C:stage=retrain --workdir=runs/digits_cnn/retrain_labels
  python -m experiments.run --config=$C:stage=compress --workdir=runs/digits_cnn/compress
"""

from zoo_jax.core.config import parse_arg
from zoo_jax.train.settings import base_config

BATCH, EPOCH = 100, 12  # steps


def get_config(arg=None):
    opt = parse_arg(
        arg,
        tiny=False,
        stage="pretrain",  # or retrain, compress
        arm="labels",  # of retrain: plain, labels, spectral
        runs="runs/digits_cnn",  # the folder of all stages
        seed=0,
    )
    c = base_config(task="deep_k_means", seed=opt.seed, steps=1)
    c.steps = {"pretrain": 25, "retrain": 16, "compress": 5}[opt.stage] * EPOCH
    c.init_from = f"{opt.runs}/pretrain" if opt.stage == "retrain" else ""
    c.model = dict(
        name="digits_cnn", widths=[16, 32, 64], strides=[1, 2, 2], dtype="float32"
    )
    c.loss = dict(label_smoothing=0.0)
    c.optim = dict(
        name="sgd",
        lr=0.1 if opt.stage == "pretrain" else 0.05,
        momentum=0.9,
        weight_decay=5e-4 if opt.stage == "pretrain" else 0.0,
        schedule=dict(name="cosine"),
    )
    if opt.stage == "retrain" and opt.arm != "plain":
        c.optim.kmeans = dict(
            layers=layers(4),
            strength=0.5,
            schedule=dict(name="exponential", start=0.01, end=1.0, steps=0.5),
            relaxation=opt.arm,
            refresh_every=EPOCH,
            seed=opt.seed,
        )
    c.data = dict(
        train=stream("train", BATCH),
        valid=stream("valid", 300),
        test=stream("test", 300),
    )
    c.eval = dict(valid=dict(stream="valid", every=5 * EPOCH))
    c.log_every = EPOCH
    c.checkpoint.every = 5 * EPOCH
    if opt.stage == "compress":
        c.procedure, c.eval = "compress", dict()
        c.arms = {
            "pretrained": f"{opt.runs}/pretrain",
            "plain": f"{opt.runs}/retrain_plain",
            "labels": f"{opt.runs}/retrain_labels",
        }
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


def stream(split, batch):
    image = [dict(name="to_float")]
    return dict(name="digits", split=split, batch_size=batch, transform=image)


def make_tiny(c):
    """Made-up images, a few channels, two steps; every stage starts from scratch."""
    c.steps, c.log_every, c.init_from = 2, 1, ""
    c.model.widths = [4, 6, 8]
    if "kmeans" in c.optim:
        c.optim.kmeans.refresh_every = 1
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
    if c.procedure:
        c.budgets = {"k3": layers(3), "k6": layers(6)}
        c.compress.norm_batches = 3
