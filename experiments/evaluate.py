r"""Runs a config's measurements on a trained workdir or on published weights.

python -m experiments.evaluate --config=CONFIG --checkpoint=runs/cnn --json=result.json
python -m experiments.evaluate --config=CONFIG \
    --checkpoint=deep_k_means/wide_resnet_16_4:weights.safetensors
"""

import json
from collections.abc import Sequence

from absl import flags

from experiments import common

_CONFIG = common.define_config_flag()
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "A workdir, or '<model name>:<weights file>'.", required=True
)
_BEST = flags.DEFINE_bool(
    "best", False, "The best kept step of a workdir, not the newest."
)
_JSON = flags.DEFINE_string("json", None, "Also write the numbers to this file.")


def main(argv: Sequence[str]) -> None:
    """Loads, measures, prints."""
    del argv
    config = _CONFIG.value
    method = common.load_method(config)
    from zoo_jax import models
    from zoo_jax.core.files import write_json
    from zoo_jax.train.evaluate import evaluate_variables
    from zoo_jax.train.mesh import make_mesh

    mesh = make_mesh(config.get("mesh", {}).get("devices", 0))
    task = method.make_task(config, config.steps)
    variables = models.load_variables(_CHECKPOINT.value, best=_BEST.value)
    found = evaluate_variables(task, config, variables, mesh)
    if _JSON.value:
        write_json(_JSON.value, found)
    print(json.dumps(found, indent=2, sort_keys=True))


if __name__ == "__main__":
    common.run_main(main)
