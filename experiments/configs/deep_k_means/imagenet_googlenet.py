r"""Deep k-Means on ImageNet with GoogLeNet, the large network that the abstract names.

Paper: arXiv 1806.09228; its table, its K and its training are not available to us, so every
number below is ours. Weights: torchvision's googlenet-1378be20.pth (69.778 % by its own
evaluation; its auxiliary heads are left out). Data: $ZOO_DATA/imagenet/{train,val}/<class>/*;
evaluated as torchvision does: shorter side to 256 pixels, the 224x224 in the middle.
Reaches: not run. Cost: not known; days on one GPU.

  C=experiments/configs/deep_k_means/imagenet_googlenet.py; R=runs/imagenet_googlenet
  W=weights/googlenet-1378be20.pth
  python -m experiments.evaluate --config=$C --checkpoint=deep_k_means/googlenet:$W
  python -m experiments.train --config=$C:arm=plain,weights=$W --workdir=$R/retrain_plain
  python -m experiments.train --config=$C:weights=$W --workdir=$R/retrain_labels
  python -m experiments.run --config=$C:stage=compress --workdir=$R/compress

There is no stage of pre-training: both arms of re-training start from the published weights.
"""

from zoo_jax.core.config import parse_arg
from zoo_jax.train.settings import base_config

BATCH, EPOCH = 256, 5004  # steps of 1,281,167 images


def get_config(arg=None):
    opt = parse_arg(
        arg,
        tiny=False,
        stage="retrain",  # or compress
        arm="labels",  # of retrain: plain, labels
        weights="weights/googlenet-1378be20.pth",  # where re-training starts
        runs="runs/imagenet_googlenet",  # the folder of all stages
        seed=0,
    )
    c = base_config(task="deep_k_means", seed=opt.seed, steps=1)
    c.steps = {"retrain": 10, "compress": 1}[opt.stage] * EPOCH
    c.init_from = f"deep_k_means/googlenet:{opt.weights}"
    c.model = dict(name="googlenet", num_blocks=9, dropout=0.2, dtype="bfloat16")
    c.loss = dict(label_smoothing=0.0)
    c.optim = dict(
        name="sgd",
        lr={"retrain": 0.005, "compress": 0.0005}[opt.stage],
        momentum=0.9,
        weight_decay=1e-4,
        schedule=dict(name="cosine"),
    )
    if opt.stage == "retrain" and opt.arm != "plain":
        c.optim.kmeans = dict(
            layers=layers(64),
            strength=1.0,
            schedule=dict(name="exponential", start=0.01, end=1.0, steps=0.8),
            relaxation=opt.arm,
            refresh_every=EPOCH // 4,
            seed=opt.seed,
        )
    augment = [
        dict(name="random_resized_crop", size=224),
        dict(name="horizontal_flip"),
    ]
    middle = [
        dict(name="resize", size=256, keep_aspect=True),
        dict(name="center_crop", size=224),
    ]
    c.data = dict(
        train=stream("train", BATCH, augment),
        valid=stream("val", 250, middle),
    )
    c.data.train.workers = 16
    c.eval = dict(valid=dict(stream="valid", every=c.steps))
    c.log_every = 100
    c.checkpoint.every = EPOCH
    if opt.stage == "compress":
        c.procedure, c.eval, c.init_from = "compress", dict(), ""
        c.arms = {
            "plain": f"{opt.runs}/retrain_plain",
            "labels": f"{opt.runs}/retrain_labels",
        }
        c.budgets = {f"k{k}": layers(k) for k in (16, 64, 256)}
        c.compress = dict(
            stream="valid", norm_batches=200, reduce="mean", codebook_dtype="float16"
        )
    if opt.tiny:
        make_tiny(c)
    return c


def layers(k):
    """All convolutions but the first; the rows of a 1x1 convolution are single weights."""
    return [
        dict(path="network/conv1/*"),
        dict(path="network/*conv/kernel", num_clusters=k),
    ]


def stream(split, batch, before):
    normalize = dict(
        name="normalize", mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]
    )
    return dict(
        name="image_folder",
        root=f"imagenet/{split}",
        batch_size=batch,
        transform=[*before, normalize],
    )


def make_tiny(c):
    """Made-up images of 32 pixels, one block, two steps; starts from scratch."""
    c.steps, c.log_every, c.init_from = 2, 1, ""
    c.model.update(num_classes=10, num_blocks=1, dtype="float32")
    if c.eval:
        c.eval.valid.every = 2
    if "kmeans" in c.optim:
        c.optim.kmeans.update(layers=layers(6), refresh_every=1)
    for split, section in c.data.items():
        c.data[split] = dict(
            name="synthetic_images",
            split=split,
            size=16,
            height=32,
            width=32,
            batch_size=8,
            transform=section.transform[-1:],
        )
    if c.procedure:
        c.budgets = {"k6": layers(6)}
        c.compress.norm_batches = 2
