r"""Fine-tuning VATT on the labels of videos: the recipe of arXiv 2104.11178 for Kinetics.

Rows there: Kinetics-400 top-1, VATT-Medium 81.1, VATT-MA-Medium 79.9, from scratch 26.4.
Reached: not run at this size.

From the paper and the released code: 32 pictures of 320x320, SGD with momentum 0.9, 0.005 after a
warm-up of 2,500 steps, cosine to 0 over 100,000 steps of 64 clips, label smoothing 0.1, all tokens
kept, the backbone's gradient clipped to 0.75; 4 windows x 3 crops in the test. Pictures are taken at 12.5 a
second: stride 2 at 25.

  C=experiments/configs/gradient_harmonization/finetune.py
  python -m experiments.train --config=$C:manifest=kinetics400.jsonl,classes=400,init=runs/mine --workdir=runs/kinetics

The manifest has lines with ``video``, ``label`` and ``split`` ("train", "test"); init is a run of pretrain.py, or
gradient_harmonization/vatt_medium:FILE.
"""

from experiments.configs.gradient_harmonization import pretrain
from zoo_jax.core.config import parse_arg
from zoo_jax.train.settings import base_config

SIZE, WINDOWS = 320, 4


def get_config(arg=None):
    opt = parse_arg(
        arg,
        tiny=False,
        manifest="kinetics400.jsonl",
        classes=400,
        init="",  # where the backbone comes from
        size="medium",
        batch=64,
        steps=100_000,
        workers=8,
        seed=0,
    )
    c = base_config(task="gradient_harmonization", seed=opt.seed, steps=opt.steps)
    c.objective, c.init_from, c.log_every = "classify", opt.init, 100
    c.checkpoint.update(every=min(5_000, opt.steps), keep_last=2)
    c.model = {**pretrain.network(opt.size), "keep_tokens": 1.0}
    c.inputs = dict(colours=True)
    c.classify = dict(
        modality="video",
        num_classes=opt.classes,
        dropout_rate=0.5,
        label_smoothing=0.1,
        windows=WINDOWS,
    )
    warmup = 2_500 if opt.steps > 5_000 else 0.025
    sgd = dict(
        name="sgd",
        lr=0.005,
        momentum=0.9,
        schedule=dict(name="cosine", warmup=warmup, end=0.0),
    )
    c.optim = dict(backbone=dict(**sgd, clip=0.75), classifier=sgd)
    clips = dict(
        name="clips",
        manifest=opt.manifest,
        modalities=["video"],
        frames=pretrain.FRAMES,
        frame_rate=12.5,
        short_side=SIZE,
        workers=opt.workers,
        on_error="skip",
        max_skipped=0.05,
    )
    c.data = dict(
        train=dict(
            **clips,
            split="train",
            place="random",
            batch_size=opt.batch,
            transform=[
                dict(name="clip_resized_crop", size=SIZE),
                dict(name="clip_flip"),
            ],
        ),
        test=dict(
            **clips,
            split="test",
            windows=WINDOWS,
            batch_size=8,
            transform=[dict(name="clip_views", size=SIZE)],
        ),
    )
    c.eval = dict(views=dict(stream="test", every=10_000))
    if opt.tiny:
        make_tiny(c)
    return c


def make_tiny(c):
    """Made-up clips of eight classes, two steps."""
    c.steps, c.log_every, c.init_from = 2, 1, ""
    c.checkpoint.update(every=0)
    tiny = pretrain.get_config("tiny")
    c.model = {**tiny.model, "keep_tokens": 1.0}
    c.inputs.colours = False
    c.classify.update(num_classes=8, windows=2)
    c.optim = dict(
        backbone=dict(name="sgd", lr=0.005, clip=0.75),
        classifier=dict(name="sgd", lr=0.1),
    )
    clips = dict(name="synthetic_clips", size=16, batch_size=8)
    c.data = dict(train=dict(**clips, split="train"), test=dict(**clips, split="test"))
    c.eval = dict(views=dict(stream="test", every=2))
