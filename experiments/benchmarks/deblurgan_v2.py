r"""DeblurGAN-v2: FPN-MobileNet beside PyTorch and onnxruntime, forward and a training step.

  python -m experiments.benchmarks.deblurgan_v2 --csv=experiments/results/deblurgan_v2_benchmark.csv

One picture at a time, norms of the picture itself, as published. Everything runs on ``--cores``
cores (one by default), ours and theirs in turn, ``--rounds`` times; medians are shown. A first call of each,
which compiles, is not timed. The networks have the same weights, and their outputs are compared
before anything is timed.

- PyTorch runs eagerly and, where a C++ compiler is there, through ``torch.compile``.
- onnxruntime runs the file that PyTorch exports (``torch.onnx``, which needs the package onnx).
- The training step is that of the generator: squared error, Adam.

Limits are multiply-adds at the rate of a large matrix product; a training step has three times those
of a forward pass. Needs ``pip install "zoo-jax[torch]"``; what else is not installed is left
out, with a note.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from absl import flags

from experiments import common
from experiments.benchmarks.beside_torch import converted, forward_rows, training_row
from experiments.benchmarks.side_by_side import (
    Row,
    Setting,
    gemm_rate,
    on_cores,
    publish,
)
from zoo_jax.core.errors import ZooError
from zoo_jax.methods.deblurgan_v2.cost import generator_macs
from zoo_jax.models import create_model

_ROUNDS = flags.DEFINE_integer("rounds", 5, "Measurements of each.", lower_bound=1)
_CORES = flags.DEFINE_integer("cores", 1, "Cores to run on.", lower_bound=1)
_TINY = flags.DEFINE_bool("tiny", False, "Sizes that measure nothing: for tests.")
_COMPILE = flags.DEFINE_bool("compile", True, "Also measure torch.compile.")
_JSON = flags.DEFINE_string("json", None, "Write the rows to this file.")
_CSV = flags.DEFINE_string("csv", None, "Write the rows to this table.")

SIZES = ((256, 256), (736, 1280))  # the second is 720x1280 as it is padded


def main(argv: Sequence[str]) -> None:
    """Measures, prints one table and stores it."""
    del argv
    setting = Setting(_ROUNDS.value, _CORES.value, _TINY.value)
    with on_cores(setting.cores):
        rate = gemm_rate(64 if setting.tiny else 2048)
        rows = list(_rows(setting, rate))
    publish(
        rows,
        json=_JSON.value,
        csv_file=_CSV.value,
        cores=setting.cores,
        rounds=setting.rounds,
    )


def _rows(setting: Setting, rate: float) -> Iterator[Row]:
    try:
        import torch

        from experiments.benchmarks._torch_fpn import TorchFPN, of_one_picture
    except ImportError:
        raise ZooError(
            'this benchmark compares with PyTorch: pip install "zoo-jax[torch]"'
        ) from None
    torch.set_num_threads(setting.cores)
    torch.manual_seed(0)
    channels = dict(pyramid=16, head=8) if setting.tiny else {}
    theirs = TorchFPN(**channels).train()
    ours = create_model("deblurgan_v2/fpn_mobilenet", **channels)
    variables = converted(theirs, ours.name, ours.module)
    for height, width in ((64, 64),) if setting.tiny else SIZES:
        x = np.random.default_rng(0).uniform(-1, 1, (1, height, width, 3)).astype("f4")
        limit = generator_macs(ours.module, variables, height, width) / rate
        size = f"{height}x{width}"
        yield from forward_rows(
            f"forward, {size}",
            ours.module,
            variables,
            theirs,
            x,
            limit,
            setting,
            exported=of_one_picture(theirs),
            compiled=_COMPILE.value,
        )
        if height == width:
            yield training_row(
                f"training step, {size}",
                ours.module,
                variables,
                theirs,
                x,
                0.9 * x,
                limit,
                setting,
            )


if __name__ == "__main__":
    common.run_main(main)
