r"""U-SAID and UG^2: networks beside PyTorch and onnxruntime, image measures beside libraries.

  python -m experiments.benchmarks.recognition --csv=experiments/results/recognition_benchmark.csv

- ``networks``: forward passes of VGG-16, ResNet-50, Inception-v3, the denoiser DnCNN and the
  segmentation network, and a training step of DnCNN (squared error, Adam), one picture at a
  time. The networks have the same weights and their outputs are compared before anything is
  timed. PyTorch runs eagerly and, where a C++ compiler is there, through ``torch.compile``;
  onnxruntime runs the file that PyTorch exports (``torch.onnx``, which needs the package onnx).
- ``images``: CLAHE beside OpenCV (the same algorithm) and scikit-image (another one of that name);
  NIQE alone, for want of another implementation in the packages of this project.

Everything runs on ``--cores`` cores (one by default), ours and theirs in turn, ``--rounds`` times;
medians are shown. A first call of each, which compiles, is not timed. Limits are multiply-adds
at the rate of a large matrix product; a training step has three times those of a forward pass.
Needs ``pip install "zoo-jax[torch]"``; what else is not installed is left out, with a note.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags, logging

from experiments import common
from experiments.benchmarks.beside_torch import converted, forward_rows, training_row
from experiments.benchmarks.side_by_side import (
    Row,
    Setting,
    gemm_rate,
    in_turn,
    on_cores,
    publish,
)
from zoo_jax.core.errors import ConfigError, ZooError, closest
from zoo_jax.metrics.cost import count_macs
from zoo_jax.models import build_module

PARTS = ("networks", "images")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Measurements of each.", lower_bound=1)
_CORES = flags.DEFINE_integer("cores", 1, "Cores to run on.", lower_bound=1)
_TINY = flags.DEFINE_bool("tiny", False, "Sizes that measure nothing: for tests.")
_COMPILE = flags.DEFINE_bool("compile", True, "Also measure torch.compile.")
_PARTS = flags.DEFINE_list("parts", list(PARTS), "What to measure.")
_JSON = flags.DEFINE_string("json", None, "Write the rows to this file.")
_CSV = flags.DEFINE_string("csv", None, "Write the rows to this table.")


def main(argv: Sequence[str]) -> None:
    """Measures, prints one table and stores it."""
    del argv
    for part in _PARTS.value:
        if part not in PARTS:
            raise ConfigError(f"unknown part {part!r}: {closest(part, PARTS)}")
    setting = Setting(_ROUNDS.value, _CORES.value, _TINY.value)
    with on_cores(setting.cores):
        rows: list[Row] = []
        if "networks" in _PARTS.value:
            rows += _networks(setting, gemm_rate(64 if setting.tiny else 2048))
        if "images" in _PARTS.value:
            rows += [*_clahe(setting), _niqe(setting)]
    publish(
        rows,
        json=_JSON.value,
        csv_file=_CSV.value,
        cores=setting.cores,
        rounds=setting.rounds,
    )


def _networks(setting: Setting, rate: float) -> Iterator[Row]:
    try:
        import torch

        from experiments.benchmarks import _torch_networks as theirs
    except ImportError:
        raise ZooError(
            'the networks are compared with PyTorch: pip install "zoo-jax[torch]"'
        ) from None
    torch.set_num_threads(setting.cores)
    torch.manual_seed(0)
    tiny, blocks = setting.tiny, (1, 1, 1, 1)
    # name, arguments of ours, theirs, height and width
    vgg = dict(width=2, hidden=16) if tiny else {}
    resnet = dict(blocks=blocks, width=4) if tiny else {}
    fpn = dict(pyramid=8, smooth=8) if tiny else {}
    dncnn = dict(depth=4, features=8) if tiny else {}
    counts = (2, 2, 3, 3, 3)
    share = 16 if tiny else 1
    cases: list[tuple[str, dict[str, Any], Callable[[], Any], tuple[int, int]]] = [
        ("ug2/vgg16", vgg, lambda: theirs.VGG(counts, **vgg), (224, 224)),
        ("ug2/resnet50", resnet, lambda: theirs.ResNet(**resnet), (224, 224)),
        (
            "ug2/inception_v3",
            dict(width=1 / share),
            lambda: theirs.InceptionV3(share),
            (299, 299),
        ),
        (
            "u_said/fpn_segmentation",
            resnet | fpn,
            lambda: theirs.FPNSegmentation(**resnet, **fpn),
            (512, 768),
        ),
        ("u_said/dncnn", dncnn, lambda: theirs.DnCNN(**dncnn), (512, 768)),
    ]
    for name, options, make, (height, width) in cases:
        if tiny and height == 512:
            height, width = 64, 96
        module, network = build_module(name, **options), make().eval()
        variables = converted(network, name, module)
        # The only draw: a denoiser's residual needs no photograph.
        x = np.random.default_rng(0).uniform(0, 1, (1, height, width, 3)).astype("f4")
        limit = count_macs(lambda v, x, m=module: m.apply(v, x), variables, x) / rate
        label = name.partition("/")[2]
        yield from forward_rows(
            f"{label}, forward, {height}x{width}",
            module,
            variables,
            network,
            x,
            limit,
            setting,
            compiled=_COMPILE.value,
        )
        if name == "u_said/dncnn":
            patch = np.ascontiguousarray(x[:, : min(height, 256), : min(width, 256)])
            limit *= patch.size / x.size
            yield training_row(
                f"{label}, training step, {patch.shape[1]}x{patch.shape[2]}",
                module,
                variables,
                network.train(),
                patch,
                0.1 * patch,
                limit,
                setting,
            )


def _clahe(setting: Setting) -> Iterator[Row]:
    from zoo_jax.methods.ug2.enhancers.clahe import clahe_levels

    size = (64, 96) if setting.tiny else (512, 768)
    levels = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    run = jax.jit(lambda x: clahe_levels(x, clip_limit=2.0))
    given = jax.device_put(levels[None].astype(np.int32))
    functions = {"ours": lambda _: jax.block_until_ready(run(given))}
    remarks = {}
    try:
        import cv2

        cv2.setNumThreads(setting.cores)
        make = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8))
        equal = np.mean(make.apply(levels) == np.asarray(run(given))[0])
        functions["OpenCV"] = lambda _: make.apply(levels)
        remarks["OpenCV"] = f"equal on {100 * equal:.1f} % of the pixels"
    except ImportError:
        logging.warning("OpenCV left out: cv2 is not installed")
    try:
        from skimage import exposure

        tile = (size[0] // 8, size[1] // 8)
        functions["scikit-image"] = lambda _: exposure.equalize_adapthist(
            levels, kernel_size=tile, clip_limit=2 / 256
        )
        remarks["scikit-image"] = "another algorithm"
    except ImportError:
        logging.warning("scikit-image left out: it is not installed")
    in_turn(functions, 1)  # warm
    times = in_turn(functions, setting.rounds)
    what = f"CLAHE, {size[0]}x{size[1]}"
    if not remarks:
        yield Row(what=what, unit="s", ours=times["ours"][0])
    for name, remark in remarks.items():
        yield Row(
            what=what,
            unit="s",
            ours=times["ours"][0],
            other=name,
            theirs=times[name][0],
            remark=remark,
        )


def _niqe(setting: Setting) -> Row:
    from zoo_jax.metrics.niqe import NiqeModel, niqe

    height, width = (96, 192) if setting.tiny else (512, 768)
    rng = np.random.default_rng(0)
    image = np.round(255 * rng.random((height, width)))
    model = NiqeModel(np.zeros(36), np.eye(36))  # the time does not depend on it
    functions = {"ours": lambda _: niqe(image, model)}
    in_turn(functions, 1)
    times = in_turn(functions, setting.rounds)
    return Row(what=f"NIQE, {height}x{width}", unit="s", ours=times["ours"][0])


if __name__ == "__main__":
    common.run_main(main)
