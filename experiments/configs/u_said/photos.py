r"""U-SAID with a small denoiser on ten photographs that ordinary packages carry: the tour.

Not an experiment of the paper (arXiv 1905.08965), which trains 20 layers of 64 channels on
PASCAL VOC. A denoiser of 8 layers and 32 channels learns blind noise removal on six
photographs; then it is trained on for a while, with and without the uncertainty of a frozen, random
segmentation network. It shows the mechanism and what it costs in PSNR; it cannot show better
segmentation.
Reaches: the table in zoo_jax/methods/u_said/README.md. Cost: under two minutes on two CPU cores.

  python -m experiments.tour --method=u_said        all stages in order; or one by one:
  C=experiments/configs/u_said/photos.py
  python -m experiments.train --config=$C --workdir=runs/photos/pretrain
  python -m experiments.train --config=$C:stage=finetune,arm=plain --workdir=runs/photos/plain
  python -m experiments.train --config=$C:stage=finetune,arm=u_said --workdir=runs/photos/u_said
  python -m experiments.run --config=$C:stage=denoise --workdir=runs/photos/denoise
"""

from zoo_jax.core.config import parse_arg
from zoo_jax.train.settings import base_config

PATCH, BATCH, SIGMA = 48, 16, 25.0


def get_config(arg=None):
    opt = parse_arg(
        arg,
        tiny=False,
        tour=False,  # in the folder of the tour
        stage="pretrain",  # or finetune, denoise
        arm="u_said",  # of finetune: plain, detached, u_said, entropy
        runs="",  # the folder of all stages; by default that of the commands above
        seed=0,
    )
    runs = opt.runs or ("runs/tour/u_said" if opt.tour else "runs/photos")
    c = base_config(task="u_said", seed=opt.seed, steps=1)
    c.steps = {"pretrain": 250, "finetune": 80, "denoise": 1}[opt.stage]
    c.init_from = f"{runs}/pretrain" if opt.stage == "finetune" else ""
    c.model = dict(name="dncnn", depth=8, features=32, channels=3, dtype="float32")
    # Random and frozen. At this size the published deviation of the head, 0.01, makes an answer
    # that is the same everywhere; 0.1 keeps the sizes of its maps.
    c.segmentation = dict(
        num_classes=21,
        blocks=[1, 1, 1, 1],
        width=8,
        pyramid=32,
        smooth=16,
        head_std=0.1,
    )
    plain = opt.stage != "finetune" or opt.arm == "plain"
    c.loss = dict(
        mode="plain" if plain else "u_said",
        denoising=0.5,
        segmentation=0.5,
        uncertainty="entropy" if opt.arm == "entropy" else "focal_argmax",
        gamma=2.0,
        detach=opt.arm == "detached",
        batch_statistics=False,
    )
    c.noise = dict(sigma=[0.0, 55.0])
    c.optim = dict(
        name="adam",
        lr=1e-3 if opt.stage == "pretrain" else 3e-4,
        schedule=dict(name="cosine"),
    )
    crop = [dict(name="random_crop", size=PATCH), dict(name="horizontal_flip")]
    c.data = dict(
        train=dict(
            name="sample_photos",
            split="train",
            batch_size=BATCH,
            transform=[*crop, dict(name="to_float")],
        ),
        valid=noisy("valid", 256),
        test=noisy("test", 256),
    )
    c.eval = dict(valid=dict(stream="valid", every=100))
    c.log_every = 20
    c.arms, c.denoise = dict(), dict()
    if opt.stage == "denoise":
        c.procedure, c.eval = "denoise", dict()
        c.arms = {arm: f"{runs}/{arm}" for arm in ("pretrain", "plain", "u_said")}
        c.denoise = dict(
            stream="test",
            pictures=3,
            zoom=96,
            niqe_model="",
            judges=dict(),
            baseline="",
        )
    if opt.tiny:
        make_tiny(c)
    return c


def noisy(split, crop):
    """Centre squares, since a batch has one size; the same noise in every run."""
    photos = dict(name="sample_photos", split=split, crop=crop)
    return dict(name="noisy_images", source=photos, sigma=SIGMA, batch_size=1)


def make_tiny(c):
    """Made-up images, a few channels, two steps; every stage starts from scratch."""
    c.steps, c.log_every, c.init_from = 2, 1, ""
    c.model.depth, c.model.features = 4, 6
    c.segmentation.update(num_classes=5, width=4, pyramid=6, smooth=4)
    c.noise.sigma, c.optim.lr = [25.0, 25.0], 1e-2
    made_up = dict(name="synthetic_images", size=24, height=24, width=24, num_classes=3)
    c.data.train = dict(
        **made_up, batch_size=8, transform=[dict(name="to_float")], split="train"
    )
    for split in ("valid", "test"):
        c.data[split].source = dict(**made_up, split=split)
    c.data.valid.batch_size = 8
