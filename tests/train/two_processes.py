"""One of several processes of a toy run: ``two_processes.py WORKDIR`` (ids by environment)."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import optax
import toys

from zoo_jax.train.loop import fit
from zoo_jax.train.mesh import initialize_distributed, make_mesh
from zoo_jax.train.run import open_run

if __name__ == "__main__":
    initialize_distributed("explicit")
    config = toys.toy_config(log_every=1, steps=4)
    with open_run(sys.argv[1], config, make_mesh()) as run:
        state = run.train(toys.classifier(optax.sgd(0.1)))
        run.record(finished=True)
        # A second call finds the checkpoint that both wrote.
        again = fit(
            toys.classifier(optax.sgd(0.1)),
            config,
            workdir=run.workdir,
            mesh=run.mesh,
        )
        assert int(again.step) == int(state.step) == 4
