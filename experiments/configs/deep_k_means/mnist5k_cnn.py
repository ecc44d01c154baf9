r"""Deep k-Means on 5,000 real MNIST digits with a small all-convolutional network: the tour.

Not an experiment of the paper (arXiv 1806.09228), whose tables are not available to us; it
shows the method's claim at a size that two CPU cores train in a minute: re-training with the
k-means penalty makes the assignment of rows to K shared rows nearly free.

  for s in stage=pretrain stage=retrain,arm=plain stage=retrain,arm=labels; do ... done
  python -m experiments.tour --method=deep_k_means        runs all stages in order

Reaches: see the table in zoo_jax/methods/deep_k_means/README.md. Cost: about two minutes.
"""

from zoo_jax.core.config import parse_arg
from zoo_jax.train.settings import base_config

IMAGES, BATCH = 4000, 100
EPOCH = IMAGES // BATCH


def get_config(arg=None):
    opt = parse_arg(
        arg,
        tiny=False,
        tour=False,
        stage="pretrain",  # or retrain, compress
        arm="labels",  # of retrain: plain, labels, spectral
        runs="",  # the folder of all stages; by default that of the commands above
        seed=0,
    )
    runs = opt.runs or ("runs/tour/deep_k_means" if opt.tour else "runs/mnist5k_cnn")
    c = base_config(task="deep_k_means", seed=opt.seed, steps=1)
    c.steps = {"pretrain": 12, "retrain": 10, "compress": 3}[opt.stage] * EPOCH
    c.init_from = f"{runs}/pretrain" if opt.stage == "retrain" else ""
    c.model = dict(name="digits_cnn", widths=[24, 48, 96, 128], strides=[2, 2, 1, 2])
    c.loss = dict(label_smoothing=0.0)
    c.optim = dict(
        name="sgd",
        lr={"pretrain": 0.1, "retrain": 0.02, "compress": 0.005}[opt.stage],
        momentum=0.9,
        weight_decay=5e-4 if opt.stage == "pretrain" else 0.0,
        schedule=dict(name="cosine"),
    )
    c.regularization = dict()
    if opt.stage == "retrain" and opt.arm != "plain":
        c.regularization = dict(
            layers=layers(8),
            # Pull per step: about lr * strength / (1 - momentum).
            strength=2.0,
            schedule=dict(name="exponential", start=0.01, end=1.0, steps=0.8),
            relaxation=opt.arm,
            refresh_every=EPOCH // 2,
        )
    image, shift = [dict(name="to_float")], [dict(name="random_crop", pad=2)]
    c.data = dict(
        train=dict(
            name="mnist_5k", split="train", batch_size=BATCH, transform=shift + image
        ),
        valid=dict(name="mnist_5k", split="valid", batch_size=500, transform=image),
        test=dict(name="mnist_5k", split="test", batch_size=500, transform=image),
    )
    c.eval = dict(valid=dict(stream="valid", every=2 * EPOCH))
    c.log_every = EPOCH
    c.checkpoint.every = 5 * EPOCH
    if opt.stage == "compress":
        c.procedure = "compress"
        c.eval = dict()
        c.arms = dict(
            pretrained=f"{runs}/pretrain",
            plain=f"{runs}/retrain_plain",
            labels=f"{runs}/retrain_labels",
        )
        c.budgets = {f"k{k}": layers(k) for k in (4, 8, 16)}
        c.compress = dict(
            stream="test", norm_batches=EPOCH, reduce="mean", codebook_dtype="float16"
        )
    return c


def layers(k):
    """All convolutions but the first, which is small and close to the image."""
    return [dict(path="conv1/kernel"), dict(path="conv*/kernel", num_clusters=k)]
