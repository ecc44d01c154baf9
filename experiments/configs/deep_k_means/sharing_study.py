r"""Ways to share weights from the same trained networks, over five seeds, at equal bytes.

Not an experiment of the paper (arXiv 1806.09228). No re-training, plain re-training, the
spectral penalty on filters, the penalty of labels on rows, straight-through clustering as in
TensorFlow Model Optimization, soft weight-sharing (arXiv 1702.04008): equal epochs, then the same
steps to a file. Reaches: the section on the study in zoo_jax/methods/deep_k_means/README.md.

  C=experiments/configs/deep_k_means/sharing_study.py
  python -m experiments.run --config=$C:data=digits --workdir=runs/sharing_study/digits
  python -m experiments.run --config=$C:data=mnist5k --workdir=runs/sharing_study/mnist5k

Networks: all-convolutional as in the tour, but with most weights in a wide last layer that few
positions pass through: a quarter of a million weights at a third of the tour's multiply-adds, so that five
seeds fit into minutes, and what is stored plainly (norms) is a small share of the file.
Rates, strengths and K per layer were chosen with the seeds 100 and 101 on the split "valid":

  python -m experiments.run --config=$C:data=mnist5k,stream=valid,seeds=2,first_seed=100 --workdir=...
"""

from zoo_jax.core.config import parse_arg
from zoo_jax.train.settings import base_config

TRAIN = {"digits": 1204, "mnist5k": 4000}


def get_config(arg=None):
    opt = parse_arg(
        arg,
        data="digits",  # or mnist5k
        tiny=False,
        stream="test",  # what accuracies are measured on
        seeds=5,
        first_seed=0,
        only="",  # one arm
    )
    mnist = opt.data == "mnist5k"
    batch = 100
    epoch = TRAIN[opt.data] // batch
    c = base_config(task="deep_k_means", procedure="sharing_study", steps=1)
    c.steps = 15 * epoch if mnist else 40 * epoch
    c.model = dict(
        name="digits_cnn",
        widths=[16, 32, 96, 256] if mnist else [16, 64, 256],
        strides=[2, 2, 2, 2] if mnist else [1, 2, 2],
        convolution="matmul",
        dtype="float32",
    )
    c.loss = dict(label_smoothing=0.0)
    c.optim = sgd(0.1, weight_decay=5e-4)
    c.data = {s: stream(opt.data, s, batch) for s in ("train", "valid", "test")}
    c.log_every = epoch
    c.study = dict(
        seeds=list(range(opt.first_seed, opt.first_seed + opt.seeds)),
        at_once=1,  # of the seeds; more pay on an accelerator
        stream=opt.stream,
        shift=2 if mnist else 0,
        retrain_steps=10 * epoch if mnist else 16 * epoch,
        centre_steps=5 * epoch,
        centre_optim=sgd(0.05),
        reduce="mean",
        norm_batches=epoch,
        codebook_dtype="float16",
        ratios=[21, 25, 30, 34],
    )
    c.budgets = {f"k{k:02d}": rows(k) for k in (4, 8, 12, 16)}
    rising = dict(name="exponential", start=0.01, end=1.0, steps=0.5)
    lr = 0.1 if mnist else 0.05
    c.arms = dict(
        none=dict(),
        plain=dict(optim=sgd(lr)),
        # What soft weight-sharing gives, single weights of which many are one, without it.
        plain_scalars=dict(
            optim=sgd(lr),
            budgets={f"p{p}": scalars(4, core=p / 100) for p in (75, 85, 90, 95)},
        ),
        spectral=dict(
            optim=sgd(
                lr,
                kmeans=dict(
                    relaxation="spectral",
                    # K < number and length of the filters, or the penalty is zero.
                    layers=filters(mnist),
                    strength=0.05,
                    schedule=rising,
                    refresh_every=epoch // 2,
                ),
            ),
        ),
        labels=dict(
            optim=sgd(
                lr,
                kmeans=dict(
                    relaxation="labels",
                    strength=0.5,
                    schedule=rising,
                    refresh_every=epoch // 2,
                ),
            ),
        ),
        straight_through=dict(
            optim=sgd(0.05),
            sharing=dict(
                name="straight_through",
                init="kmeans++",
                reduce="mean",
                optim=dict(centres=dict(name="sgd", lr=0.05, momentum=0.9)),
            ),
        ),
        soft=dict(
            optim=dict(name="adam", lr=1e-3),
            sharing=dict(
                name="soft",
                tau=0.003,
                data_size=TRAIN[opt.data],
                zero_share=0.0,  # of each budget
                std=0.05,
                precision_prior=None,
                optim=dict(
                    means=dict(name="adam", lr=1e-4),
                    log_precisions=dict(name="adam", lr=3e-3),
                    log_mixing=dict(name="adam", lr=3e-3),
                ),
            ),
            # One mixture of single weights: the share that is drawn to zero decides about
            # bytes.
            budgets={
                f"z{share}": dict(
                    layers=scalars(16), sharing=dict(zero_share=share / 100)
                )
                for share in (10, 30, 50, 75)
            },
        ),
    )
    if opt.only:
        c.arms = {opt.only: c.arms[opt.only].to_dict()}
    if opt.tiny:
        make_tiny(c)
    return c


def rows(k):
    """Rows of the convolutions but the first; single weights of the last layer."""
    return [
        dict(path="network/conv1/kernel"),
        dict(path="network/linear/kernel", num_clusters=16, samples="scalar"),
        dict(path="network/conv*/kernel", num_clusters=k),
    ]


def scalars(k, core=0.0):
    """Single weights of the same layers."""
    single = dict(num_clusters=k, samples="scalar", core=core)
    return [
        dict(path="network/conv1/kernel"),
        dict(path="network/*/kernel", **single),
    ]


def filters(mnist):
    """A quarter as many shared directions as filters."""
    widths = (32, 96, 256) if mnist else (64, 256)
    return [
        dict(path=f"network/conv{i}/kernel", num_clusters=w // 4, samples="filter")
        for i, w in enumerate(widths, 2)
    ]


def sgd(lr, weight_decay=0.0, **sections):
    return dict(
        name="sgd",
        lr=lr,
        momentum=0.9,
        weight_decay=weight_decay,
        schedule=dict(name="cosine"),
        **sections,
    )


def stream(data, split, batch):
    name = {"digits": "digits", "mnist5k": "mnist_5k"}[data]
    image = [dict(name="to_float")]
    return dict(name=name, split=split, batch_size=batch, transform=image)


def make_tiny(c):
    """Made-up images, a few channels, two steps of everything, two budgets."""
    c.steps, c.log_every = 2, 1
    c.model.widths, c.model.strides = [4, 8, 12], [1, 2, 2]
    c.study.update(
        seeds=[0, 1],
        shift=1,
        retrain_steps=2,
        centre_steps=2,
        norm_batches=2,
        ratios=[3],
    )
    c.budgets = {"k3": rows(3), "k6": rows(6)}
    for arm in c.arms.values():
        if arm.get("optim", {}).get("kmeans"):
            arm.optim.kmeans.refresh_every = 1
    if "spectral" in c.arms:
        c.arms.spectral.optim.kmeans.layers = [
            dict(path="network/conv2/kernel", num_clusters=2, samples="filter")
        ]
    if "soft" in c.arms:
        c.arms.soft.budgets = {
            f"z{share}": dict(layers=scalars(5), sharing=dict(zero_share=share / 100))
            for share in (50, 90)
        }
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
