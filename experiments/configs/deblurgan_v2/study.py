r"""DeblurGAN-v2 at small scale: what the pyramid and the discriminators add, at equal steps.

No experiment of the paper (arXiv 1908.03826), whose sets and ImageNet weights are large: FPN-MobileNet from
random weights on 64x64 crops, blurred by averaging frames in linear light. Photographs and clips of
the test stand on no other side. Content is the pixel term alone (no VGG-19 weights are needed).

  part=arms    identity, a plain residual network of equal multiply-adds, FPN-MobileNet at half
               width, then 600 more steps with content alone, with a patch discriminator, with both
  part=widths  the same network at a quarter, and at full width with dense and separable decoder
  data=packages  photographs and clips that ordinary packages carry: anyone can run it
  data=all       200 photographs of BSDS500 to train on, Kodak's 24 and two GoPro pairs to test
                 on as well; needs $ZOO_DATA, see docs/data.md

Reached: the tables in zoo_jax/methods/deblurgan_v2/README.md. Cost: 40 minutes of two cores each; the tour two minutes.

  C=experiments/configs/deblurgan_v2/study.py
  python -m experiments.run --config=$C:data=all --workdir=runs/deblurgan_v2/arms
  python -m experiments.run --config=$C:data=all,part=widths --workdir=runs/deblurgan_v2/widths
  python -m experiments.tour --method=deblurgan_v2
"""

from zoo_jax.core.config import parse_arg
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.train.settings import base_config

CROP, BATCH, STEPS, MORE = 64, 8, 2400, 600
LENGTH = [2.0, 8.0]  # of the camera's path, in pixels


def network(width, **options):
    """FPN-MobileNet with all of its channels scaled alike."""
    return dict(
        name="fpn_mobilenet",
        width=width,
        pyramid=int(128 * width),
        head=int(64 * width),
        norm_mode="per_image",
        dtype="float32",
        **options,
    )


def plain(width):
    return dict(name="plain_residual", width=width, blocks=4, dtype="float32")


def optimiser(rate):
    return dict(name="adam", lr=rate, schedule=dict(name="linear", end=0.01))


def get_config(arg=None):
    opt = parse_arg(
        arg, tiny=False, tour=False, part="arms", data="packages", seeds=3, seed=0
    )
    for key, choices in (("part", ("arms", "widths")), ("data", ("packages", "all"))):
        if opt[key] not in choices:
            raise ConfigError(
                f"unknown {key} {opt[key]!r}: {closest(opt[key], choices)}"
            )
    c = base_config(task="deblurgan_v2", procedure="deblur_study", seed=opt.seed)
    steps, more = (500, 100) if opt.tour else (STEPS, MORE)
    width = 0.25 if opt.tour else 0.5
    c.steps, c.log_every, c.tensorboard = steps + more, 100, False
    c.model, c.backbone, c.discriminators = network(width), "", dict()
    c.loss = dict(
        content="mse",
        pixel=0.5,
        pixel_space="imagenet",
        features="none",
        adversarial="ragan_ls",
        adversarial_weight=0.01,  # the paper's; the released code has 0.001
        pool=50,
    )
    c.optim = dict(generator=optimiser(2e-3), discriminator=optimiser(5e-4))

    small = dict(width=32, norm_mode="per_image", dtype="float32")
    patch = dict(name="patch_discriminator", layers=3, **small)
    full = dict(name="full_discriminator", layers=5, **small)
    later = dict(start="base", steps=more, optim=dict(generator=optimiser(5e-4)))
    if opt.part == "arms":
        c.arms = dict(
            plain=dict(model=plain(6 if opt.tour else 12)),
            base=dict(steps=steps),
            content=later,
            patch=dict(**later, discriminators=dict(patch=patch)),
            double=dict(**later, discriminators=dict(patch=patch, full=full)),
        )
    else:
        c.arms = dict(
            quarter=dict(model=network(0.25)),
            half=dict(model=network(0.5)),
            whole=dict(model=network(1.0)),
            whole_separable=dict(model=network(1.0, decoder="separable")),
        )
    c.data = sources(opt.data)
    c.eval = dict(valid=dict(stream="valid", every=c.steps // 4))
    streams = [name for name in c.data if name not in ("train", "valid")]
    c.study = dict(
        streams=streams,
        seeds=[opt.seed] if opt.tour else [opt.seed + i for i in range(opt.seeds)],
        baseline="identity",
        resamples=2000,
        pictures=3,
        zoom=96,
    )
    if opt.tour:
        for name in ("base", "double"):
            del c.arms[name]
        c.arms.content = dict()
        c.arms.patch.update(start="content")
    if opt.tiny:
        make_tiny(c)
    return c


def sources(data):
    """Sections of all streams: ``train``, ``valid``, and what is tested on."""
    to_float = [dict(name="to_float"), dict(name="to_float", key="sharp")]
    blur = dict(name="blurred_photos", length=LENGTH)
    photos = dict(**blur, crop=CROP, count=2000, in_memory=True)
    if data == "all":
        folder = dict(name="photo_folder", root="bsds500_train/train")
        photos.update(photos=folder)
    else:
        photos.update(split="train")
    clips = dict(name="blurred_sample_clips", split="train", stride=1, shrink=2)
    keys = ["image", "sharp"]
    crop = dict(name="together", keys=keys, step=dict(name="random_crop", size=CROP))
    flip = dict(name="together", keys=keys, step=dict(name="horizontal_flip"))
    out = dict(
        train=dict(
            name="joined",
            sources=[photos, clips],
            batch_size=BATCH,
            transform=[crop, flip, *to_float],
        ),
        valid=dict(
            **blur, split="valid", crop=128, count=32, batch_size=16, transform=to_float
        ),
        photos=dict(
            **blur, split="test", crop=128, count=60, batch_size=12, transform=to_float
        ),
        clip=dict(
            name="blurred_sample_clips",
            split="test",
            shrink=2,
            crop=128,
            batch_size=12,
            transform=to_float,
        ),
    )
    if data == "all":
        out |= dict(
            kodak=dict(
                **blur,
                photos=dict(name="photo_folder", root="kodak24"),
                crop=128,
                count=72,
                batch_size=12,
                transform=to_float,
            ),
            gopro=dict(
                name="paired_folder",
                root="deblur_pairs/gopro",
                blurred="*_blur.webp",
                sharp="*_sharp.webp",
                batch_size=1,
                transform=to_float,
            ),
        )
    return out


def make_tiny(c):
    """Few and small pictures, few channels, one step of each arm."""
    c.steps, c.log_every = 2, 1
    c.model.update(width=0.125, pyramid=8, head=4)
    for name in set(c.arms) - {"base", "double", "half"}:  # one or two programs
        del c.arms[name]
    for arm in c.arms.values():
        arm.steps = 1
        if "model" in arm:
            arm.model = dict(c.model)
        for critic in arm.get("discriminators", {}).values():
            critic.update(layers=1, width=4)
    for name in list(c.data):
        if name in ("clip", "kodak", "gopro"):
            del c.data[name]
    few = dict(name="blurred_photos", crop=64, count=8, batch_size=8)
    for name, split in (("train", "train"), ("valid", "valid"), ("photos", "test")):
        c.data[name] = dict(**few, split=split, transform=c.data.valid.transform)
    c.study.update(streams=["photos"], seeds=[0], resamples=10, pictures=1, zoom=32)
