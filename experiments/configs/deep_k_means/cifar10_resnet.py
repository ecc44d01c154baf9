r"""Deep k-Means on published CIFAR-10 ResNets, with JPEG copies of the images.

The abstract of arXiv 1806.09228 names ResNets; which ones, and with what result, is not
available to us. Weights: akamaster/pytorch_resnet_cifar10 (91.73 and 93.39 % on the original
test images). Data: $ZOO_DATA/cifar10_jpeg/{train,test}/<class>/*.jpg, 10,000 images each; on
these copies (quality 75, halved colour) the published networks reach 81.03 % (ResNet-20) and
83.20 % (ResNet-56), so the first stage goes on training them on such images.
Reaches: not run beyond that. Cost: minutes on one GPU. All numbers below are ours; nothing is
chosen on the test images, and there is no validation split.

  C=experiments/configs/deep_k_means/cifar10_resnet.py; R=runs/cifar10_resnet
  W=weights/resnet20-12fca82f.th
  python -m experiments.evaluate --config=$C --checkpoint=deep_k_means/cifar_resnet_20:$W
  python -m experiments.train --config=$C:weights=$W --workdir=$R/pretrain
  python -m experiments.train --config=$C:stage=retrain,arm=plain --workdir=$R/retrain_plain
  python -m experiments.train --config=$C:stage=retrain --workdir=$R/retrain_labels
  python -m experiments.run --config=$C:stage=compress --workdir=$R/compress
"""

from zoo_jax.core.config import parse_arg
from zoo_jax.train.settings import base_config

BATCH, EPOCH = 100, 100  # steps of 10,000 images


def get_config(arg=None):
    opt = parse_arg(
        arg,
        tiny=False,
        stage="pretrain",  # or retrain, compress
        arm="labels",  # of retrain: plain, labels
        depth=20,  # or 56
        weights="weights/resnet20-12fca82f.th",  # where the first stage starts
        runs="runs/cifar10_resnet",  # the folder of all stages
        seed=0,
    )
    model = f"cifar_resnet_{opt.depth}"
    c = base_config(task="deep_k_means", seed=opt.seed, steps=1)
    c.steps = {"pretrain": 20, "retrain": 20, "compress": 2}[opt.stage] * EPOCH
    c.init_from = {
        "pretrain": f"deep_k_means/{model}:{opt.weights}",
        "retrain": f"{opt.runs}/pretrain",
        "compress": "",
    }[opt.stage]
    c.model = dict(name=model, depth=opt.depth, dtype="float32")
    c.loss = dict(label_smoothing=0.0)
    c.optim = dict(
        name="sgd",
        lr={"pretrain": 0.02, "retrain": 0.01, "compress": 0.001}[opt.stage],
        momentum=0.9,
        weight_decay=1e-4,
        schedule=dict(name="cosine"),
    )
    if opt.stage == "retrain" and opt.arm != "plain":
        c.optim.kmeans = dict(
            layers=layers(16),
            strength=1.0,
            schedule=dict(name="exponential", start=0.01, end=1.0, steps=0.8),
            relaxation=opt.arm,
            refresh_every=EPOCH,
            seed=opt.seed,
        )
    augment = [dict(name="random_crop", pad=4), dict(name="horizontal_flip")]
    c.data = dict(
        train=stream("train", BATCH, augment),
        test=stream("test", 500),
    )
    c.eval = dict(test=dict(stream="test", every=c.steps))
    c.log_every = EPOCH
    c.checkpoint.every = 5 * EPOCH
    if opt.stage == "compress":
        c.procedure, c.eval = "compress", dict()
        c.arms = {
            "pretrained": f"{opt.runs}/pretrain",
            "plain": f"{opt.runs}/retrain_plain",
            "labels": f"{opt.runs}/retrain_labels",
        }
        c.budgets = {f"k{k}": layers(k) for k in (8, 16, 32)}
        c.compress = dict(
            stream="test", norm_batches=EPOCH, reduce="mean", codebook_dtype="float16"
        )
    if opt.tiny:
        make_tiny(c)
    return c


def layers(k):
    """All convolutions but the first."""
    return [
        dict(path="network/conv1/kernel"),
        dict(path="network/*conv*/kernel", num_clusters=k),
    ]


def stream(split, batch, augment=()):
    normalize = dict(
        name="normalize", mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]
    )
    transform = [*augment, normalize]
    root = f"cifar10_jpeg/{split}"
    return dict(name="image_folder", root=root, batch_size=batch, transform=transform)


def make_tiny(c):
    """Made-up images, the shallowest network, two steps; every stage starts from scratch."""
    c.steps, c.log_every, c.init_from = 2, 1, ""
    c.model.depth = 8
    if c.eval:
        c.eval.test.every = 2
    if "kmeans" in c.optim:
        c.optim.kmeans.update(layers=layers(6), refresh_every=1)
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
    if c.procedure:
        c.budgets = {"k6": layers(6)}
        c.compress.norm_batches = 2
