r"""Does harmonizing help at small scale? Words of real sentences with wrong partners on purpose.

No experiment of the paper (arXiv 2211.02077). 1,158 windows of 8 pictures and 0.32 s of sound around spoken
words of GRID (one speaker), 282 to test on; half of the training windows get the sound or the
word of another one. One small encoder for all modalities, 25,000 times less compute than the paper's.

  arm            what it does                                        steps
  plain          sum of the two losses                               S
  batch_pcgrad   realigns the two gradients of the whole batch       S
  realign        realigns those of each triplet                      S
  curriculum     drops the triplets with the lowest cosines          S
  both           drops, then realigns                                S
  random_drop    drops as many, at random                            S
  oracle_drop    drops those that are known to be wrong              S
  plain_macs     as plain, for the multiply-adds of realign          more

Reached: the table in zoo_jax/methods/gradient_harmonization/README.md. Cost: see there. Needs $ZOO_DATA.

  C=experiments/configs/gradient_harmonization/study.py
  python -m experiments.run --config=$C --workdir=runs/gradient_harmonization/study
  python -m experiments.run --config=$C:steps=1200,arms=plain+realign --workdir=runs/gradient_harmonization/long
  python -m experiments.tour --method=gradient_harmonization
"""

from zoo_jax.core.config import parse_arg
from zoo_jax.core.errors import ConfigError
from zoo_jax.train.settings import base_config

FRAMES, SIZE, RATE = 8, 24, 16_000
BATCH, STEPS, SEEDS = 64, 300, 5
SHARE, DROP = 0.5, 0.4  # wrong partners; dropped by the gates


def get_config(arg=None):
    opt = parse_arg(
        arg, tiny=False, tour=False, seeds=SEEDS, steps=STEPS, arms="", seed=0
    )
    c = base_config(
        task="gradient_harmonization", procedure="harmonization_study", seed=opt.seed
    )
    c.steps, c.log_every, c.tensorboard = opt.steps, 20, False
    c.model = dict(
        name="vatt",
        encoder=[1, 64, 256, 4],
        audio_input="spectrogram",
        clip=[FRAMES, SIZE, SIZE],
        patch=[4, 12, 12],
        sound=[32, 40],
        sound_patch=[8, 40],
        words=1,
        vocabulary=55,  # 51 words and the four special ones
        word_width=32,
        projection=64,
        spaces=[64, 32],
        keep_tokens=1.0,  # there are few
        dropout_rate=0.0,
        dtype="float32",
    )
    c.inputs = dict(
        motion=4.0,
        spectrogram=dict(rate=RATE, frame_length=400, frame_step=160, bins=40),
    )
    c.loss = dict(video_audio=1.0, video_text=1.0)
    c.harmonize = dict(level="none", rule="pcgrad", gate=dict(), chunk=16)
    c.optim = dict(
        name="adam",
        lr=2e-3,  # chosen on 40 sentences of the training clips, without wrong partners
        eps=1e-7,
        schedule=dict(name="cosine", warmup=0.1, end=0.05),
    )
    # The gate closes over the first 30 %.
    gate = dict(quantile=DROP, schedule=dict(name="constant", warmup=0.3))
    cosine = dict(by="cosine", **gate)
    c.arms = dict(
        plain=dict(),
        batch_pcgrad=dict(harmonize=dict(level="batch")),
        realign=dict(harmonize=dict(level="triplet")),
        curriculum=dict(harmonize=dict(level="triplet", rule="none", gate=cosine)),
        both=dict(harmonize=dict(level="triplet", gate=cosine)),
        random_drop=dict(harmonize=dict(gate=dict(by="random", **gate))),
        oracle_drop=dict(harmonize=dict(gate=dict(by="oracle"))),
        plain_macs=dict(macs_of="realign"),
    )
    if opt.arms:
        names = opt.arms.split("+")
        unknown = [name for name in names if name not in c.arms]
        if unknown or "plain" not in names:
            raise ConfigError(
                f"arms={opt.arms!r}: plain and any of {', '.join(c.arms)}, joined by +"
            )
        c.arms = {name: c.arms[name] for name in names}
    words = dict(
        name="grid_words", split="train", frames=FRAMES, size=SIZE, audio_rate=RATE
    )
    words.update(context=0)
    noisy = dict(name="mispaired", source=words, share=SHARE, seed=opt.seed)
    c.data = dict(
        train=dict(**noisy, batch_size=BATCH),
        conflicts=dict(**noisy, batch_size=BATCH),
        words=dict(**words, batch_size=193),
        test=dict(**{**words, "split": "test"}, batch_size=141),
        sounds=dict(
            name="esc10",
            samples=FRAMES * RATE // 25,
            windows=4,
            audio_rate=RATE,
            batch_size=200,
        ),
    )
    c.eval = dict()
    c.checkpoint.update(every=opt.steps // 3, keep_last=4)  # conflicts over time
    c.study = dict(
        seeds=[opt.seed + i for i in range(opt.seeds)],
        baseline="plain",
        words="words",
        test="test",
        sounds="sounds",
        conflicts="conflicts",
        batches=6,
        ridge=0.01,
        shown=[arm for arm in ("plain", "realign") if arm in c.arms],
    )
    if opt.tour:
        make_tour(c)
    if opt.tiny:
        make_tiny(c)
    return c


def make_tour(c):
    """A film with its sound from an ordinary package: 32 windows, two arms, one seed."""
    c.steps, c.log_every = 60, 20
    c.checkpoint.update(every=20)
    c.arms = dict(plain=dict(), realign=dict(harmonize=dict(level="triplet")))
    film = dict(name="sample_film", frames=FRAMES, size=SIZE, audio_rate=RATE, words=8)
    noisy = dict(
        name="mispaired", source=dict(**film, split="train"), share=SHARE, seed=0
    )
    c.model.update(words=8, sound=[80, 40])  # 0.8 s of sound
    c.data = dict(
        train=dict(**noisy, batch_size=16),
        conflicts=dict(**noisy, batch_size=16),
        test=dict(**film, split="all", batch_size=15),
    )
    c.study.update(seeds=[0], words="", sounds="", batches=2)


def make_tiny(c):
    """Made-up clips, two steps, two arms."""
    c.steps, c.log_every = 2, 1
    c.model.update(
        encoder=[1, 16, 32, 2],
        d_kv=8,
        clip=[4, 16, 16],
        patch=[4, 8, 8],
        audio_input="waveform",
        sound=[512],
        sound_patch=[128],
        vocabulary=32,
        words=4,
        word_width=8,
        projection=16,
        spaces=[16, 8],
    )
    c.inputs = dict(motion=4.0)
    c.harmonize.chunk = 8
    for arm in set(c.arms) - {"plain", "both"}:  # compiling is slow
        del c.arms[arm]
    clips = dict(name="synthetic_clips", size=24)
    noisy = dict(name="mispaired", source=dict(**clips, split="train"), share=0.5)
    for name in ("train", "conflicts"):
        c.data[name] = dict(**noisy, seed=0, batch_size=8)
    c.data.words = dict(**clips, split="train", batch_size=8)
    c.data.test = dict(**clips, split="test", batch_size=8)
    del c.data["sounds"]
    c.study.update(batches=2, sounds="", seeds=[0], shown=["plain"])
