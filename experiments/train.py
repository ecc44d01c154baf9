r"""Trains what a config describes; resumes if the workdir has a checkpoint.

  python -m experiments.train \
    --config=experiments/configs/deep_k_means/mnist5k_cnn.py:tour --workdir=runs/cnn

Ctrl-C and SIGTERM save and stop; the same command goes on. A second Ctrl-C stops at once.
"""

from collections.abc import Sequence

from absl import flags, logging

from experiments import common

_CONFIG = common.define_config_flag()
common.define_run_flags()
_PROFILE = flags.DEFINE_bool(
    "profile", False, "Trace steps 11 to 15 into WORKDIR/profile for TensorBoard."
)


def main(argv: Sequence[str]) -> None:
    """Builds the task and runs the loop."""
    del argv
    config = _CONFIG.value
    method = common.load_method(config)
    mesh = common.start_devices(config)
    from zoo_jax import models
    from zoo_jax.train.run import open_run

    if not hasattr(method, "make_task"):
        raise common.ConfigError(
            f"{config.task} has no training loop: use python -m experiments.run"
        )
    args = flags.FLAGS
    with open_run(
        args.workdir, config, mesh, allow_config_change=args.allow_config_change
    ) as run:
        if run.finished:
            logging.info("%s has finished already; nothing to do", run.workdir)
            return
        run.record(finished=False)
        task = method.make_task(config, config.steps)
        start = config.get("init_from", "")
        variables = models.load_variables(start) if start else None
        run.train(task, variables, profile=_PROFILE.value)
        run.record(finished=True)


if __name__ == "__main__":
    common.run_main(main)
