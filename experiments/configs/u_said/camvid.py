r"""Does U-SAID help a segmentation network that took no part? Road scenes of CamVid, small scale.

Not the paper's experiment (arXiv 1905.08965), which trains 20 layers on PASCAL VOC with an
ImageNet ResNet-101. Here frames have 90x120 pixels, the denoiser 8 layers of 32 channels, and
every network is trained here. A *judge* learns to segment clean frames with masks; it is in no
loss. Another network of another size and seed is what denoisers train against:

  trained      with masks, like the judge (the frozen network of s_said and u_said_trained)
  random_head  its trunk, in place of ImageNet's, below a random head that is never trained: what
               the published script runs (u_said, entropy, detached)
  label_free   the same, its head then trained to be certain, without masks: it collapses to one
               class everywhere, and with it the gradient vanishes, so no arm uses it

A plain denoiser is trained first; from it all arms go on for as many steps, with the same data
and noise. plain_low and plain_high have other learning rates.
Reached: the table in zoo_jax/methods/u_said/README.md, with less training than the defaults:
batch=4,first=250,more=80,every=3, a quarter of an hour of CPU time. Cost of the defaults: not measured.
Needs: $ZOO_DATA/camvid (or root=...) in the layout of the SegNet tutorial, see docs/data.md.

  C=experiments/configs/u_said/camvid.py
  python -m experiments.run --config=$C --workdir=runs/u_said/camvid
"""

from zoo_jax.core.config import parse_arg
from zoo_jax.train.settings import base_config

SIZE, PATCH = [90, 120], 48


def get_config(arg=None):
    opt = parse_arg(
        arg,
        tiny=False,
        root="camvid",
        seeds=3,
        first=600,  # steps of the plain denoiser that all arms start from
        more=250,  # steps of every arm
        batch=8,  # patches per step of a denoiser
        every=1,  # of the frames that are measured
        seed=0,
    )
    c = base_config(task="u_said", procedure="judge_study", seed=opt.seed)
    c.steps, c.log_every, c.tensorboard = opt.more, 50, False
    c.model = dict(name="dncnn", depth=8, features=32, channels=3, dtype="float32")
    c.segmentation = dict()  # of an arm: that of its network
    c.loss = dict(
        mode="u_said",
        denoising=0.5,
        segmentation=0.5,
        uncertainty="focal_argmax",
        gamma=2.0,
        detach=False,
        batch_statistics=False,
    )
    c.noise = dict(sigma=[0.0, 55.0])
    c.optim = dict(name="adam", lr=3e-4, schedule=dict(name="cosine"))

    supervised = dict(
        loss=dict(mode="supervised", gamma=2.0, batch_statistics=True),
        optim=dict(name="adam", lr=2e-3, schedule=dict(name="cosine", warmup=0.02)),
    )
    judge, other = network(16, 48, 24), network(12, 32, 16)
    trained = dict(segmentation=other, steps=700, seed=opt.seed + 200, **supervised)
    fresh_head = dict(
        trained,
        trunk_of="trained",
        seed=opt.seed + 300,
        steps=0,
        loss=dict(mode="label_free", gamma=2.0, batch_statistics=False),
        optim=dict(name="adam", lr=1e-3, freeze=["segmentation/resnet/*"]),
    )
    c.networks = dict(
        judge=dict(segmentation=judge, steps=1000, seed=opt.seed + 100, **supervised),
        trained=trained,
        random_head=fresh_head,
        label_free=dict(fresh_head, steps=200),
    )

    on = dict(start="pretrained")
    plain = dict(**on, loss=dict(mode="plain"))
    c.arms = dict(
        pretrained=dict(loss=dict(mode="plain"), steps=opt.first, optim=dict(lr=1e-3)),
        plain=plain,
        plain_low=dict(**plain, optim=dict(lr=1e-4)),
        plain_high=dict(**plain, optim=dict(lr=1e-3)),
        detached=dict(**on, network="random_head", loss=dict(detach=True)),
        u_said=dict(**on, network="random_head"),
        entropy=dict(**on, network="random_head", loss=dict(uncertainty="entropy")),
        u_said_trained=dict(**on, network="trained"),
        s_said=dict(**on, network="trained", loss=dict(mode="s_said")),
    )

    keys = ["image", "segmentation"]
    flip = dict(name="together", keys=keys, step=dict(name="horizontal_flip"))
    crop = dict(name="together", keys=keys, step=dict(name="random_crop", size=PATCH))
    frames = dict(name="camvid", root=opt.root, size=SIZE, in_memory=True)
    train = dict(frames, split="train")
    c.data = dict(
        train=dict(
            train, batch_size=opt.batch, transform=[crop, flip, dict(name="to_float")]
        ),
        frames=dict(train, batch_size=8, transform=[flip, dict(name="to_float")]),
        valid=dict(frames, split="valid", every=2 * opt.every, batch_size=8),
        test=dict(frames, split="test", every=opt.every, batch_size=8),
    )
    c.study = dict(
        judge="judge",
        seeds=[opt.seed + i for i in range(opt.seeds)],
        sigmas=[25.0, 35.0, 50.0],
        baseline="plain",
        tuned=["plain", "plain_low", "plain_high"],
        block=10,
        resamples=2000,
        pictures=3,
    )
    if opt.tiny:
        make_tiny(c)
    return c


def network(width, pyramid, smooth):
    """A small network of the same kind, for the 11 classes of CamVid."""
    return dict(
        num_classes=11,
        blocks=[1, 1, 1, 1],
        width=width,
        pyramid=pyramid,
        smooth=smooth,
        head_std=0.05,
    )


def make_tiny(c):
    """Made-up frames, two arms, one noise level, few channels, one step of everything."""
    c.model.depth, c.model.features = 3, 4
    for name in ("random_head", "label_free"):
        del c.networks[name]
    for section in c.networks.values():
        section.steps = 1
        section.segmentation.update(num_classes=3, width=4, pyramid=4, smooth=3)
    for name in set(c.arms) - {"pretrained", "plain", "u_said_trained"}:
        del c.arms[name]
    c.arms.pretrained.steps, c.steps, c.log_every = 1, 1, 1
    made_up = dict(name="synthetic_images", num_classes=3, masks=True, batch_size=8)
    for name in c.data:
        split = "train" if name == "frames" else name
        transform = c.data[name].get("transform", [])
        c.data[name] = dict(
            **made_up, size=8, height=48, width=52, split=split, transform=transform
        )
    c.study.update(seeds=[0], sigmas=[25.0], tuned=["plain"], resamples=10, block=3)
    c.study.pictures = 1
