"""The binary that tests of whole runs start, stop, kill and starve: a toy task in the real loop.

``fault_worker.py --workdir=W --task=classifier --steps=40``. Errors and signals end it just as
they end ``experiments.train``. Every step logs a number that depends on the pixels of its batch and
their order, so that two equal logs mean equal data.
"""

import dataclasses
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import jax
import jax.numpy as jnp
import toys
from absl import flags

from experiments import common
from zoo_jax.task import Aux, Task
from zoo_jax.train.mesh import make_mesh
from zoo_jax.train.run import open_run

common.define_run_flags()
_TASK = flags.DEFINE_enum("task", "classifier", ["classifier", "adversarial"], "")
_STEPS = flags.DEFINE_integer("steps", 40, "")
_EVERY = flags.DEFINE_integer("every", 2, "")
_KEEP_LAST = flags.DEFINE_integer("keep_last", 2, "")


def with_fingerprint(task: Task) -> Task:
    """The same task, with a random projection of the batch among the metrics."""

    def watched(loss):
        def wrapped(owned, state, batch, key):
            terms, aux = loss(owned, state, batch, key)
            image = batch["image"]
            weights = jax.random.normal(jax.random.key(0), image.shape)
            seen = jnp.sum(image * weights)
            return terms, Aux(aux.model_state, {**aux.metrics, "seen": seen})

        return wrapped

    players = [dataclasses.replace(p, loss=watched(p.loss)) for p in task.players]
    return dataclasses.replace(task, players=tuple(players))


def main(argv):
    del argv
    tasks = {"classifier": toys.classifier, "adversarial": toys.adversarial}
    config = toys.toy_config(
        steps=_STEPS.value,
        log_every=1,
        eval=dict(eval=dict(stream="eval", every=10)),
        checkpoint=dict(every=_EVERY.value, keep_last=_KEEP_LAST.value),
    )
    with open_run(flags.FLAGS.workdir, config, make_mesh(1)) as run:
        if run.finished:
            return
        run.record(finished=False)
        run.train(with_fingerprint(tasks[_TASK.value]()))
        run.record(finished=True)


if __name__ == "__main__":
    common.run_main(main)
