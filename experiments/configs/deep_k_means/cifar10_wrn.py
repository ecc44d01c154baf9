r"""Deep k-Means on CIFAR-10 with Wide ResNet 16-4, the network of the published code.

Paper: arXiv 1806.09228, which claims compression without loss of accuracy; its table is not
available to us. The published code names three settings 45x, 47x and 50x, by a formula that
leaves norms out (`accounting.reference_size`). Reaches: not run. Cost: a day on one GPU.

  C=experiments/configs/deep_k_means/cifar10_wrn.py
  python -m experiments.train --config=$C --workdir=runs/cifar10_wrn/pretrain
  python -m experiments.train --config=$C:stage=retrain,arm=plain --workdir=runs/cifar10_wrn/retrain_plain
  python -m experiments.train --config=$C:stage=retrain --workdir=runs/cifar10_wrn/retrain_labels
  python -m experiments.run --config=$C:stage=compress --workdir=runs/cifar10_wrn/compress

Pre-training follows the repository from which the published code took its network. Nothing
about re-training is published (length, rate, strength, period of the clusters, and how the
penalty differs from zero with rows of 3): those lines are marked "ours".
"""

from zoo_jax.core.config import parse_arg
from zoo_jax.train.settings import base_config

BATCH, EPOCH = 128, 352  # steps of 45,000 images

# (K, p) of the published settings: K centres, of which one takes the share p of the rows
# that are nearest to their mean. The first convolution has K = N: it stays as it is.
COMMON = {
    "conv1": (None, 0.0),
    "layer1_0/conv1": (90, 0.3),
    "layer1_0/conv2": (80, 0.4),
    "layer1_0/shortcut": (50, 0.5),
    "layer1_1/conv1": (30, 0.4),
    "layer1_1/conv2": (30, 0.4),
    "layer2_0/conv1": (100, 0.5),
    "layer2_0/conv2": (50, 0.5),
    "layer2_0/shortcut": (10, 0.5),
    "layer2_1/conv1": (50, 0.5),
    "layer2_1/conv2": (50, 0.5),
    "layer3_0/shortcut": (12, 0.5),
    "layer3_1/conv1": (7, 0.75),
    "layer3_1/conv2": (7, 0.9),
}
SETTINGS = {
    "x45": {"layer3_0/conv1": (30, 0.62), "layer3_0/conv2": (7, 0.9)},
    "x47": {"layer3_0/conv1": (7, 0.6), "layer3_0/conv2": (6, 0.9)},
    "x50": {"layer3_0/conv1": (7, 0.87), "layer3_0/conv2": (6, 0.9)},
}


def get_config(arg=None):
    opt = parse_arg(
        arg,
        tiny=False,
        stage="pretrain",  # or retrain, compress
        arm="labels",  # of retrain: plain, labels, spectral
        runs="runs/cifar10_wrn",  # the folder of all stages
        seed=0,
    )
    c = base_config(task="deep_k_means", seed=opt.seed, steps=1)
    # 40 and 2 epochs: ours.
    c.steps = {"pretrain": 200, "retrain": 40, "compress": 2}[opt.stage] * EPOCH
    c.init_from = f"{opt.runs}/pretrain" if opt.stage == "retrain" else ""
    c.model = dict(name="wide_resnet_16_4", dropout=0.3, dtype="float32")
    c.loss = dict(label_smoothing=0.0)
    c.optim = dict(name="sgd", lr=0.1, momentum=0.9, weight_decay=5e-4)
    c.optim.schedule = dict(name="step", boundaries=[0.3, 0.6, 0.8], factors=0.2)
    if opt.stage != "pretrain":  # ours
        c.optim.lr = 0.01 if opt.stage == "retrain" else 0.001
        c.optim.schedule = dict(name="cosine")
    if opt.stage == "retrain" and opt.arm != "plain":  # ours, but for the layers
        c.optim.kmeans = dict(
            layers=layers("x45"),
            strength=1.0,
            schedule=dict(name="exponential", start=0.01, end=1.0, steps=0.5),
            relaxation=opt.arm,
            refresh_every=EPOCH,
            seed=opt.seed,
        )
    augment = [dict(name="random_crop", pad=4), dict(name="horizontal_flip")]
    # CIFAR-10 has no validation split; the last 5,000 training images serve as one.
    c.data = dict(
        train=stream("train[:45000]", BATCH, augment),
        valid=stream("train[45000:]", 500),
        test=stream("test", 500),
    )
    c.eval = dict(valid=dict(stream="valid", every=5 * EPOCH))
    c.log_every = EPOCH // 4
    c.checkpoint.every = 5 * EPOCH
    if opt.stage == "compress":
        c.procedure, c.eval = "compress", dict()
        c.arms = {
            "pretrained": f"{opt.runs}/pretrain",
            "plain": f"{opt.runs}/retrain_plain",
            "labels": f"{opt.runs}/retrain_labels",
        }
        c.budgets = {name: layers(name) for name in SETTINGS}
        c.compress = dict(
            stream="test", norm_batches=100, reduce="mean", codebook_dtype="float32"
        )
    if opt.tiny:
        make_tiny(c)
    return c


def layers(setting):
    """One entry per convolution."""
    out = []
    for layer, (k, core) in (COMMON | SETTINGS[setting]).items():
        entry = dict(path=f"network/{layer}/kernel")
        out.append(entry if k is None else entry | dict(num_clusters=k, core=core))
    return out


def stream(split, batch, augment=()):
    normalize = dict(
        name="normalize", mean=[0.4914, 0.4822, 0.4465], std=[0.2023, 0.1994, 0.2010]
    )
    transform = [*augment, normalize]
    return dict(name="cifar10", split=split, batch_size=batch, transform=transform)


def make_tiny(c):
    """Made-up images, the thinnest network, two steps; every stage starts from scratch."""
    c.steps, c.log_every, c.init_from = 2, 1, ""
    c.model.update(depth=10, widen=1)
    every = [
        dict(path="network/conv1/kernel"),
        dict(path="network/*conv*/kernel", num_clusters=6),
    ]
    if "kmeans" in c.optim:
        c.optim.kmeans.update(layers=every, refresh_every=1)
    for split, section in c.data.items():
        c.data[split] = dict(
            name="synthetic_images",
            split=split,
            size=24,
            height=16,
            width=16,
            batch_size=8,
            transform=section.transform,
        )
    c.optim.schedule = dict(name="constant")
    if c.procedure:
        c.budgets = {"k6": every}
        c.compress.norm_batches = 2
