r"""Two methods in one optimiser: U-SAID's denoiser, trained on with the penalty of Deep k-Means.

Nothing but this config joins them: `optim.kmeans` is a section that every task's optimiser
takes. The denoiser of photos.py is trained on by the uncertainty of a frozen network while its
kernel rows gather around 16 values each; then it is compressed like any other network.
Reaches: the table in zoo_jax/methods/deep_k_means/README.md. Cost: two minutes on two CPU cores.

  C=experiments/configs/u_said/photos_kmeans.py
  python -m experiments.train --config=experiments/configs/u_said/photos.py --workdir=runs/photos/pretrain
  python -m experiments.train --config=$C --workdir=runs/photos/kmeans
  python -m experiments.train --config=$C:arm=none --workdir=runs/photos/no_kmeans
  for arm in kmeans no_kmeans; do
    zoo-jax compress runs/photos/$arm -o $arm.zdkm --target-ratio 16 --finetune $C:arm=none
  done

Strength and number of rows are ours; they were chosen on the photo held out for validation.
"""

from experiments.configs.u_said import photos
from zoo_jax.core.config import parse_arg


def get_config(arg=None):
    opt = parse_arg(
        arg,
        tiny=False,
        arm="kmeans",  # or none: the same without the penalty
        stream="test",  # that is measured at the end
        runs="runs/photos",  # the folder of all stages
        seed=0,
    )
    tiny = ",tiny" if opt.tiny else ""
    c = photos.get_config(f"stage=finetune,runs={opt.runs},seed={opt.seed}{tiny}")
    c.eval = dict(final=dict(stream=opt.stream, every=c.steps))
    if opt.tiny:
        c.data[opt.stream].batch_size = 8
    if opt.arm == "kmeans":
        c.optim.kmeans = dict(
            layers=[
                dict(path="denoiser/conv1/kernel"),
                dict(path="denoiser/conv*/kernel", num_clusters=6 if opt.tiny else 16),
            ],
            # Under Adam the pull is decoupled: rows lose lr * strength of their distance per
            # step, most of it over the second half.
            strength=200.0,
            schedule=dict(name="exponential", start=0.01, end=1.0, steps=0.5),
            relaxation="labels",
            refresh_every=1 if opt.tiny else 10,
            seed=opt.seed,
        )
    return c
