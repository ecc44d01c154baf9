"""The tour: one short experiment per method on real sample data, then the report.

  python -m experiments.tour                        # all methods
  python -m experiments.tour --method=deep_k_means

Runs the same binaries as a full experiment, in order, and stops at the first that fails.
Ctrl-C saves and stops; the same command goes on from there.
"""

import dataclasses
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from absl import flags

from experiments import common
from zoo_jax.core.errors import ConfigError, closest

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORKDIRS, REPORT = "runs/tour", "report/index.html"


@dataclasses.dataclass(frozen=True)
class Step:
    """One command: ``python -m experiments.<binary> --config=... --workdir=... <flags>``."""

    what: str  # in a reader's words
    binary: str  # "train" or "run"
    config: str  # below experiments/configs, with its argument
    workdir: str  # below runs/tour
    flags: tuple[str, ...] = ()

    @property
    def arguments(self) -> list[str]:
        """What follows ``python``."""
        return [
            "-m",
            f"experiments.{self.binary}",
            f"--config=experiments/configs/{self.config}",
            f"--workdir={WORKDIRS}/{self.workdir}",
            *self.flags,
        ]


TOUR: dict[str, tuple[Step, ...]] = {
    "deep_k_means": (
        Step(
            "train a small network on 4,000 digits",
            "train",
            "deep_k_means/mnist5k_cnn.py:tour,stage=pretrain",
            "deep_k_means/pretrain",
        ),
        Step(
            "re-train it without a penalty",
            "train",
            "deep_k_means/mnist5k_cnn.py:tour,stage=retrain,arm=plain",
            "deep_k_means/retrain_plain",
        ),
        Step(
            "re-train it with the k-means penalty",
            "train",
            "deep_k_means/mnist5k_cnn.py:tour,stage=retrain,arm=labels",
            "deep_k_means/retrain_labels",
        ),
        Step(
            "cluster, fine-tune, write compressed files, compare",
            "run",
            "deep_k_means/mnist5k_cnn.py:tour,stage=compress",
            "deep_k_means/compress",
        ),
    ),
    "weaknas": (
        Step(
            "compare six searches on 26,206 trained graph networks, 20 runs each",
            "run",
            "weaknas/nas_bench_graph.py:tour",
            "weaknas/nas_bench_graph",
        ),
    ),
    "deblurgan_v2": (
        Step(
            "train three small deblurrers on five photographs, compare on others",
            "run",
            "deblurgan_v2/study.py:tour",
            "deblurgan_v2/study",
        ),
    ),
    "gradient_harmonization": (
        Step(
            "pre-train on a film with its sound, plainly and with realigned gradients",
            "run",
            "gradient_harmonization/study.py:tour",
            "gradient_harmonization/film",
        ),
    ),
    "ug2": (
        Step(
            "train two recognisers of digits and restorers for one of them, ask both",
            "run",
            "ug2/cifar.py:tour",
            "ug2/digits",
        ),
    ),
    "u_said": (
        Step(
            "train a small denoiser on six photographs",
            "train",
            "u_said/photos.py:tour",
            "u_said/pretrain",
        ),
        Step(
            "train it on, plainly",
            "train",
            "u_said/photos.py:tour,stage=finetune,arm=plain",
            "u_said/plain",
        ),
        Step(
            "train it on with the uncertainty of a frozen network",
            "train",
            "u_said/photos.py:tour,stage=finetune,arm=u_said",
            "u_said/u_said",
        ),
        Step(
            "denoise three other photographs, compare",
            "run",
            "u_said/photos.py:tour,stage=denoise",
            "u_said/denoise",
        ),
    ),
}

_METHOD = flags.DEFINE_string("method", "all", "A method's name, or 'all'.")


def main(argv: Sequence[str]) -> int:
    """Runs the steps of the chosen methods, then the report."""
    del argv
    if _METHOD.value not in ("all", *TOUR):
        raise ConfigError(
            f"no tour of {_METHOD.value!r}: {closest(_METHOD.value, ('all', *TOUR))}"
        )
    names = sorted(TOUR) if _METHOD.value == "all" else [_METHOD.value]
    steps = [(name, step) for name in names for step in TOUR[name]]
    for count, (name, step) in enumerate(steps, start=1):
        print(f"[{count}/{len(steps)}] {name}: {step.what}", flush=True)
        if code := _call(step.arguments):
            return code
    report = [f"--workdirs={WORKDIRS}/*", f"--out={REPORT}"]
    return _call(["-m", "experiments.report", *report])


def _call(arguments: Sequence[str]) -> int:
    """Runs ``python <arguments>``; hands signals on once and waits for a clean stop."""
    print("  $ " + shlex.join(["python", *arguments]), flush=True)
    started = time.monotonic()
    # In a session of its own the child hears of Ctrl-C from here alone: once, not twice.
    child = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, start_new_session=True
    )
    handlers = {
        number: signal.signal(number, lambda n, _: child.send_signal(n))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        code = child.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if code == 0:
        print(f"  done in {time.monotonic() - started:.0f} s", flush=True)
        return 0
    print(
        f"tour: stopped with exit code {code}: the same command goes on",
        file=sys.stderr,
    )
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    common.run_main(main)
