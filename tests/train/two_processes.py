"""One of several processes of a toy run: ``two_processes.py WORKDIR STEPS`` (ids by environment)."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import optax
import toys

from zoo_jax.train.mesh import initialize_distributed, make_mesh
from zoo_jax.train.preempt import Interrupted
from zoo_jax.train.run import open_run

if __name__ == "__main__":
    initialize_distributed("explicit")
    workdir, steps = sys.argv[1], int(sys.argv[2])
    config = toys.toy_config(log_every=1, steps=steps, eval={}, checkpoint={})
    with open_run(workdir, config, make_mesh()) as run:
        try:
            state = run.train(toys.classifier(optax.sgd(0.1)))
        except Interrupted as stop:
            sys.exit(128 + stop.signum)
        run.record(finished=True)
        # A second call finds the checkpoint that both wrote.
        again = run.train(toys.classifier(optax.sgd(0.1)))
        assert int(again.step) == int(state.step) == steps
