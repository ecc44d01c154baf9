r"""Runs a procedure: work without a training loop, such as compressing a trained network.

python -m experiments.run \
    --config=experiments/configs/deep_k_means/mnist5k_cnn.py:tour,stage=compress \
    --workdir=runs/compressed
"""

from collections.abc import Sequence

from absl import flags, logging

from experiments import common
from zoo_jax.core.errors import ConfigError, closest

_CONFIG = common.define_config_flag()
common.define_run_flags()


def main(argv: Sequence[str]) -> None:
    """Finds the procedure and runs it once."""
    del argv
    config = _CONFIG.value
    method = common.load_method(config)
    mesh = common.start_devices(config)
    from zoo_jax import models
    from zoo_jax.train.run import open_run
    from zoo_jax.train.writers import format_scalars

    procedures = getattr(method, "procedures", {})
    name = config.get("procedure", "")
    if name not in procedures:
        raise ConfigError(
            f"{config.task} has no procedure {name!r}: {closest(name, procedures)}"
        )
    args = flags.FLAGS
    with open_run(
        args.workdir,
        config,
        mesh,
        allow_config_change=args.allow_config_change,
        load=models.load_variables,
    ) as run:
        if run.finished:
            logging.info("%s has finished already; nothing to do", run.workdir)
            return
        run.record(finished=False)
        scalars = procedures[name](config, run)
        run.writer.result(scalars)
        run.record(finished=True)
        logging.info("%s: %s", name, format_scalars(scalars))


if __name__ == "__main__":
    common.run_main(main)
