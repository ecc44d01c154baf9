"""Processes that tests of checkpoints start, limit and kill: ``checkpoint_worker.py MODE FOLDER``."""

import pathlib
import resource
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from zoo_jax.core.errors import CheckpointError
from zoo_jax.train.checkpoint import Checkpointer, read_checkpoint
from zoo_jax.train.mesh import initialize_distributed, make_mesh
from zoo_jax.train.workdir import lock_workdir


def state_of(step: int, size: int = 30_000) -> dict[str, jax.Array]:
    """What a run holds after `step` steps: a test can tell whether it is whole."""
    noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), step), (size,))
    return {"step": jnp.int32(step), "noise": noise}


def save_forever(folder: str) -> None:
    with lock_workdir(folder), Checkpointer(folder) as checkpointer:
        for step in range(1, 10**6):
            checkpointer.save(step, state_of(step), iterator={}, meta={})
            if step == 2:  # the first one is on the disk
                print("ready", flush=True)


def fill_the_disk(folder: str) -> None:
    """A limit on the size of files stands in for a full disk: it binds root as well."""
    with Checkpointer(folder) as checkpointer:
        checkpointer.save(1, state_of(1), iterator={}, meta={})
        checkpointer.wait()
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, before[1]))
        checkpointer.save(2, state_of(2), iterator={}, meta={})
        for _ in range(2):  # reported once
            try:
                checkpointer.wait()
                print("quiet")
            except CheckpointError as error:
                print(error)
        print(checkpointer.steps(), read_checkpoint(folder).step)
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        checkpointer.save(3, state_of(3), iterator={}, meta={})
    print(read_checkpoint(folder).step, checkpointer.steps())


def hold(folder: str) -> None:
    with lock_workdir(folder):
        print("ready", flush=True)
        sys.stdin.read()


def several(folder: str) -> None:
    """One of two processes: a sharded and a replicated leaf, a bad newest step, a foreign template."""
    initialize_distributed("explicit")
    mesh = make_mesh()
    spread = NamedSharding(mesh, PartitionSpec("data"))
    everywhere = NamedSharding(mesh, PartitionSpec())

    def state(step):
        rows = np.arange(24, dtype=np.float32).reshape(8, 3) + step
        return {
            "key": jax.jit(jax.random.key, out_shardings=everywhere)(step),
            "rows": jax.make_array_from_callback((8, 3), spread, lambda i: rows[i]),
            "step": jax.make_array_from_callback(
                (), everywhere, lambda i: np.int32(step)
            ),
        }

    with Checkpointer(folder) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, state(step), iterator={}, meta={})
        checkpointer.wait()
        if jax.process_index() == 0:
            (pathlib.Path(folder) / "2/manifest.json").unlink()
        template = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
            state(0),
        )
        restored = checkpointer.restore(template)
        assert restored.step == 1
        shards = [s["rows"].addressable_shards for s in (restored.state, state(1))]
        for shard, want in zip(*shards, strict=True):
            assert shard.index == want.index
            np.testing.assert_array_equal(shard.data, want.data)
        assert int(restored.state["step"].addressable_data(0)) == 1
        try:
            checkpointer.restore({"other": template["rows"]})
        except CheckpointError as error:
            print(error)
        # Only the first process sees that the disk is full; both must hear of it.
        if jax.process_index() == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, -1))
        checkpointer.save(3, state(3), iterator={}, meta={})
        try:
            checkpointer.wait()
        except CheckpointError as error:
            print(error)


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])
