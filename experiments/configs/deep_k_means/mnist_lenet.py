r"""Deep k-Means on MNIST with LeNet-Caffe-5 (the paper's small network, arXiv 1806.09228).

The paper's row for it is not available to us, and the published code has no LeNet: every
number below is ours. Its convolutions hold 6 % of its weights, so the dense layers are
clustered too, by rows of 5 inputs, which the paper does not do.
Reaches: not run. Cost: minutes on one GPU.

  C=experiments/configs/deep_k_means/mnist_lenet.py
  python -m experiments.train --config=$C --workdir=runs/mnist_lenet/pretrain
  python -m experiments.train --config=$C:stage=retrain,arm=plain --workdir=runs/mnist_lenet/retrain_plain
  python -m experiments.train --config=$C:stage=retrain --workdir=runs/mnist_lenet/retrain_labels
  python -m experiments.run --config=$C:stage=compress --workdir=runs/mnist_lenet/compress
"""

from zoo_jax.core.config import parse_arg
from zoo_jax.train.settings import base_config

BATCH, EPOCH = 100, 600  # steps


def get_config(arg=None):
    opt = parse_arg(
        arg,
        tiny=False,
        stage="pretrain",  # or retrain, compress
        arm="labels",  # of retrain: plain, labels, spectral
        runs="runs/mnist_lenet",  # the folder of all stages
        seed=0,
    )
    c = base_config(task="deep_k_means", seed=opt.seed, steps=1)
    c.steps = {"pretrain": 20, "retrain": 20, "compress": 3}[opt.stage] * EPOCH
    c.init_from = f"{opt.runs}/pretrain" if opt.stage == "retrain" else ""
    c.model = dict(name="lenet_caffe_5", dtype="float32")
    c.loss = dict(label_smoothing=0.0)
    c.optim = dict(
        name="sgd",
        lr={"pretrain": 0.05, "retrain": 0.01, "compress": 0.002}[opt.stage],
        momentum=0.9,
        weight_decay=5e-4 if opt.stage == "pretrain" else 0.0,
        schedule=dict(name="cosine"),
    )
    if opt.stage == "retrain" and opt.arm != "plain":
        c.optim.kmeans = dict(
            layers=layers(16),
            strength=1.0,
            schedule=dict(name="exponential", start=0.01, end=1.0, steps=0.5),
            relaxation=opt.arm,
            refresh_every=EPOCH,
            seed=opt.seed,
        )
    # MNIST has no validation split; the last 10,000 training digits serve as one.
    c.data = dict(
        train=stream("train[:50000]", BATCH),
        valid=stream("train[50000:]", 1000),
        test=stream("test", 1000),
    )
    c.eval = dict(valid=dict(stream="valid", every=EPOCH))
    c.log_every = EPOCH // 6
    c.checkpoint.every = EPOCH
    if opt.stage == "compress":
        c.procedure, c.eval = "compress", dict()
        c.arms = {
            "pretrained": f"{opt.runs}/pretrain",
            "plain": f"{opt.runs}/retrain_plain",
            "labels": f"{opt.runs}/retrain_labels",
        }
        c.budgets = {f"k{k:02d}": layers(k) for k in (8, 16, 32)}
        c.compress = dict(
            stream="test", norm_batches=1, reduce="mean", codebook_dtype="float16"
        )
    if opt.tiny:
        make_tiny(c)
    return c


def layers(k):
    """All weights but the last layer: rows of 5, those of the windows where there are any."""
    return [
        dict(path="network/conv*/kernel", num_clusters=k),
        dict(path="network/ip1/kernel", num_clusters=k, row_length=5),
    ]


def stream(split, batch):
    image = [dict(name="to_float")]
    return dict(name="mnist", split=split, batch_size=batch, transform=image)


def make_tiny(c):
    """Made-up images and two steps; every stage starts from scratch."""
    c.steps, c.log_every, c.init_from = 2, 1, ""
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
        c.budgets = {"k3": layers(3), "k6": layers(6)}
