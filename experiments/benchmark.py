r"""Measures a config: size, cost of one step, and what the loop adds to it.

  python -m experiments.benchmark --config=CONFIG --steps=60 --json=benchmark.json

Prints, and appends to ``--csv`` if given, one row: parameters, multiply-adds of a forward pass,
compilation time (short when the compilation cache has it), seconds of the bare jitted step on a batch that is already on the device,
seconds of a step inside the loop (data, logging and bookkeeping included), their ratio, and
peak memory. The two are timed in turn, several rounds in one process; medians are reported.
"""

import csv
import os
import pathlib
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence

from absl import flags, logging

from experiments import common

_CONFIG = common.define_config_flag()
_STEPS = flags.DEFINE_integer("steps", 60, "Timed steps per round.", lower_bound=2)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 5, "Rounds of bare step and loop.", lower_bound=1
)
_JSON = flags.DEFINE_string("json", None, "Write the row to this file.")
_CSV = flags.DEFINE_string("csv", None, "Append the row to this file.")
WARM_UP = 3


def main(argv: Sequence[str]) -> None:
    """Times the step alone and in the loop."""
    del argv
    config = _CONFIG.value
    method = common.load_method(config)
    import jax

    from zoo_jax.core.files import write_json
    from zoo_jax.core.tree import count_parameters
    from zoo_jax.metrics.cost import count_macs
    from zoo_jax.train.mesh import make_mesh
    from zoo_jax.train.run import run_facts

    mesh = make_mesh(config.get("mesh", {}).get("devices", 0))
    task = method.make_task(config, config.steps)
    bare = _Bare(task, config, mesh)
    rates: dict[str, list[float]] = {"bare": [], "loop": []}
    for number in range(_ROUNDS.value):
        rates["bare"].append(bare.steps_per_s(_STEPS.value))
        rates["loop"].append(_loop_steps_per_s(task, config, mesh))
        logging.info("round %d: %s", number + 1, {k: v[-1] for k, v in rates.items()})
    ratio = statistics.median(
        loop / step for loop, step in zip(rates["loop"], rates["bare"], strict=True)
    )
    variables = bare.state.variables(averaged=False)
    batch_size = config.data.train.batch_size
    facts = run_facts(mesh)
    row = {
        "config": common.config_name(),
        "params_m": count_parameters(variables["params"]) / 1e6,
        "gmacs": count_macs(task.predict, variables, bare.batch) / batch_size / 1e9,
        "compile_s": bare.compile_s,
        "step_s": 1 / statistics.median(rates["bare"]),
        "loop_step_s": 1 / statistics.median(rates["loop"]),
        "loop_share_of_bare": ratio,
        "examples_per_s": batch_size * statistics.median(rates["loop"]),
        "peak_memory_mb": _peak_memory_mb(jax.devices()[0]),
        "hardware": facts["hardware"],
        "revision": facts["revision"],
    }
    for name, value in row.items():
        print(
            f"{name:20s} {value:.5g}"
            if isinstance(value, float)
            else f"{name:20s} {value}"
        )
    if _JSON.value:
        write_json(_JSON.value, row)
    if _CSV.value:
        _append(pathlib.Path(_CSV.value), row)


class _Bare:
    """The jitted step alone, on one batch that stays on the device."""

    def __init__(self, task, config, mesh):
        import jax

        from zoo_jax.core import rng
        from zoo_jax.train.mesh import replicated
        from zoo_jax.train.settings import Settings
        from zoo_jax.train.step import init_state, make_train_step
        from zoo_jax.train.streams import open_streams

        settings = Settings.of(config)
        with tempfile.TemporaryDirectory() as folder:
            streams = open_streams(task, settings, mesh, pathlib.Path(folder))
            self.batches = {name: stream.next() for name, stream in streams.items()}
            for stream in streams.values():
                stream.close()
        self.batch = self.batches[task.players[0].stream]
        self.state = jax.jit(
            lambda key: init_state(task, key, self.batch),
            out_shardings=replicated(mesh),
        )(rng.make_key(settings.seed))
        self._active = tuple(range(len(task.players)))
        step = jax.jit(
            make_train_step(task, accumulate=settings.accumulate),
            static_argnames="active",
            donate_argnums=0,
            out_shardings=replicated(mesh),
        )
        before = time.perf_counter()
        self._step = step.lower(self.state, self.batches, active=self._active).compile()
        self.compile_s = time.perf_counter() - before
        for _ in range(WARM_UP):
            self.state, _ = self._step(self.state, self.batches)

    def steps_per_s(self, count: int) -> float:
        """Rate over `count` steps."""
        import jax

        jax.block_until_ready(self.state.step)
        before = time.perf_counter()
        for _ in range(count):
            self.state, metrics = self._step(self.state, self.batches)
        jax.block_until_ready(metrics)
        return count / (time.perf_counter() - before)


def _loop_steps_per_s(task, config, mesh) -> float:
    """Rate of the loop's last window; compilation and start-up lie in the first."""
    from zoo_jax.core.files import read_json_lines
    from zoo_jax.train.loop import fit

    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.steps = 2 * _STEPS.value
        config.log_every = _STEPS.value
        config.eval, config.checkpoint = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        fit(task, config, workdir=pathlib.Path(folder), mesh=mesh)
        return read_json_lines(pathlib.Path(folder) / "perf.jsonl")[-1]["steps_per_s"]


def _peak_memory_mb(device) -> float:
    """Of the device if it tells, else of the process."""
    stats = device.memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**20
    unit = 1 if os.uname().sysname == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _append(path: pathlib.Path, row: dict) -> None:
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, fieldnames=list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    common.run_main(main)
