r"""Deep k-Means: the regulariser, k-means and the compressed file beside what exists.

  python -m experiments.benchmarks.deep_k_means --csv=experiments/results/deep_k_means_benchmark.csv

Everything runs on ``--cores`` cores (one by default), ours and theirs in turn, ``--rounds``
times; medians are shown, and the file holds the least and the largest too. Compilation is apart: a
first call of each compiled program is not timed.

- Regulariser: a training step of Wide ResNet 16-4 at batch 32. What the regulariser does
  depends on the weights only, so its share falls in proportion to the batch: at the published
  128 it is a quarter.
- K-means: at most 30 Lloyd steps from one start, tolerance 1e-4; quality is the sum of squared
  errors (SSE) over theirs. faiss starts from random samples, the others from k-means++.
- Files: networks of made-up heavy-tailed weights, compressed ten times. Instead: ``gzip -9`` of
  the same clustered weights as a safetensors file. Limit: that file, uncompressed.

scikit-learn comes with the extra ``samples``; faiss with ``pip install faiss-cpu``. What is not
installed is left out, with a note.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import common
from experiments.benchmarks._k_means import kmeans_rows
from experiments.benchmarks._k_means_files import file_rows
from experiments.benchmarks.side_by_side import (
    Measured,
    Row,
    Setting,
    gemm_rate,
    in_turn,
    on_cores,
    publish,
)
from zoo_jax.core import rng
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.tree import named_leaves
from zoo_jax.optim.kmeans import kmeans_regularization
from zoo_jax.optim.layer_spec import make_spec

PARTS = ("regulariser", "kmeans", "files")
_PARTS = flags.DEFINE_list("parts", list(PARTS), f"Which of {', '.join(PARTS)}.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Measurements of each.", lower_bound=1)
_CORES = flags.DEFINE_integer("cores", 1, "Cores to run on.", lower_bound=1)
_TINY = flags.DEFINE_bool("tiny", False, "Sizes that measure nothing: for tests.")
_JSON = flags.DEFINE_string("json", None, "Write the rows to this file.")
_CSV = flags.DEFINE_string("csv", None, "Write the rows to this table.")

EPOCH = 1406  # steps of 45,000 images at batch 32


def main(argv: Sequence[str]) -> None:
    """Measures, prints one table and stores it."""
    del argv
    for part in _PARTS.value:
        if part not in PARTS:
            raise ConfigError(f"--parts: unknown part {part!r}: {closest(part, PARTS)}")
    setting = Setting(_ROUNDS.value, _CORES.value, _TINY.value)
    with on_cores(setting.cores):
        rate = gemm_rate(64 if setting.tiny else 1024)
        rows = []
        if "regulariser" in _PARTS.value:
            rows += regulariser_rows(setting, rate)
        if "kmeans" in _PARTS.value:
            rows += kmeans_rows(setting, rate)
        if "files" in _PARTS.value:
            rows += file_rows(setting)
    publish(
        rows,
        json=_JSON.value,
        csv_file=_CSV.value,
        cores=setting.cores,
        rounds=setting.rounds,
    )


def regulariser_rows(setting: Setting, rate: float) -> Iterator[Row]:
    """A training step with and without it, then its own update and refresh alone."""
    batch_size = 4 if setting.tiny else 32
    steps = {arm: _Step(arm, batch_size, setting.tiny) for arm in ("plain", "labels")}
    network = f"WRN-16-4, batch {batch_size}"
    times = in_turn(steps, max(5, setting.rounds))
    plain, labels = (times[arm][0] for arm in steps)
    yield Row(
        what=f"training step, {network}, labels/rows",
        unit="s",
        ours=labels,
        other="plain step",
        theirs=plain,
        # A backward pass does twice the multiply-adds of a forward pass.
        limit=3 * batch_size * steps["plain"].macs / rate,
        limit_is="multiply-adds at the rate of a matrix product",
        remark=f"+{labels.median / plain.median - 1:.1%}, without refresh",
    )
    params = steps["plain"].params
    kinds = {
        "labels/rows": ("labels", steps["labels"].layers),
        "spectral/filters": (
            "spectral",
            make_spec([{"path": "*/kernel", "num_clusters": 8, "samples": "filter"}]),
        ),
    }
    for name, (relaxation, layers) in kinds.items():
        convolutions = {
            path: leaf for path, leaf in named_leaves(params).items() if leaf.ndim == 4
        }
        update, refresh = _link(relaxation, layers, convolutions)
        share = (update.median + refresh.median / EPOCH) / plain.median
        yield Row(
            what=f"regulariser's update, {network}, {name}",
            unit="s",
            ours=update,
            other="plain step",
            theirs=plain,
            remark=f"{share:.2%} of the step with a refresh per epoch",
        )
        yield Row(
            what=f"regulariser's refresh, {network}, {name}",
            unit="s",
            ours=refresh,
            other="plain step",
            theirs=plain,
            remark="once per epoch",
        )


class _Step:
    """The compiled step of a config of Wide ResNet 16-4, on made-up images."""

    def __init__(self, arm: str, batch_size: int, tiny: bool):
        from experiments.configs.deep_k_means import cifar10_wrn
        from zoo_jax.metrics.cost import count_macs
        from zoo_jax.train.step import init_state, make_train_step

        small = ",tiny=True" if tiny else ""
        config = cifar10_wrn.get_config(f"stage=retrain,arm={arm}{small}")
        if tiny and arm != "plain":
            one = dict(path="network/conv1/kernel", num_clusters=6)
            config.optim.kmeans.layers = [one]
        task = common.load_method(config).make_task(config, config.steps)
        size = 16 if tiny else 32
        generator = np.random.default_rng(0)
        batch = {
            "image": generator.normal(size=(batch_size, size, size, 3)).astype("f4"),
            "label": generator.integers(0, 10, batch_size).astype("i4"),
        }
        self._batches = {task.players[0].stream: jax.device_put(batch)}
        init = jax.jit(lambda key: init_state(task, key, batch))
        self._state = init(rng.make_key(0))
        variables = self._state.variables(averaged=False)
        self.macs = count_macs(task.predict, variables, batch) / batch_size
        # The state itself is donated.
        self.params = jax.tree.map(jnp.copy, variables["params"]["network"])
        kmeans = config.optim.get("kmeans")
        self.layers = kmeans and make_spec(
            [
                {**entry, "path": entry["path"].removeprefix("network/")}
                for entry in kmeans.to_dict()["layers"]
            ]
        )
        self._step = jax.jit(
            functools.partial(make_train_step(task), active=(0,)), donate_argnums=0
        )
        self(0)  # compiles, and finds the first clusters

    def __call__(self, number: int) -> None:
        del number
        self._state, metrics = self._step(self._state, self._batches)
        jax.block_until_ready(metrics)


def _link(
    relaxation: str, layers: Any, params: Mapping[str, jax.Array]
) -> tuple[Measured, Measured]:
    """Seconds of an update of the regulariser, and what a refresh adds to it."""

    # The period is an argument: one program, which refreshes or does not.
    @jax.jit
    def update(updates, state, params, every):
        tx = kmeans_regularization(
            1.0, layers, refresh_every=every, relaxation=relaxation
        )
        return tx.update(updates, state, params)

    never, always = jnp.int32(1 << 30), jnp.int32(1)
    zero = jax.tree.map(jnp.zeros_like, params)
    init = kmeans_regularization(1.0, layers, refresh_every=1, relaxation=relaxation)
    _, state = jax.block_until_ready(update(zero, init.init(params), params, never))

    def run(every, state=state):
        return lambda _: jax.block_until_ready(update(zero, state, params, every))

    times = in_turn({"update": run(never), "with refresh": run(always)}, 7)
    least, whole = times["update"][0], times["with refresh"][0]
    refresh = [v - least.median for v in (whole.median, whole.least, whole.most)]
    return least, Measured(*(max(v, 0.0) for v in refresh))


if __name__ == "__main__":
    common.run_main(main)
