"""Exact means over a data stream, on any number of devices."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from zoo_jax.core.types import Batch, Variables
from zoo_jax.task import Evaluator, Task
from zoo_jax.train.mesh import put_batch, replicated


def default_evaluator(task: Task) -> Evaluator:
    """`Task.metrics` of `Task.predict`."""

    def step(variables: Variables, batch: Batch):
        return task.metrics(task.predict(variables, batch), batch), {}

    return Evaluator(step=step)


def make_evaluate(
    evaluator: Evaluator, mesh: Mesh
) -> Callable[[Variables, Iterable[Mapping[str, Any]]], dict[str, float]]:
    """Compiles an evaluator.

    Args:
      evaluator: Its `step` sees batches with a ``"mask"`` that is 0 for padded examples.
      mesh: Batches are split over it.

    Returns:
      ``evaluate(variables, batches) -> numbers``. Sums are kept in float64 on the host, so the
      result does not depend on the batch size beyond the rounding inside one batch.
    """

    def measure(variables: Variables, batch: Batch):
        return *evaluator.step(variables, batch), batch["mask"]

    # Replicated results: every process sees the examples of all.
    measure = jax.jit(measure, out_shardings=replicated(mesh))

    def evaluate(
        variables: Variables, batches: Iterable[Mapping[str, Any]]
    ) -> dict[str, float]:
        sums: dict[str, tuple[float, float]] = {}
        gathered: dict[str, list[np.ndarray]] = {}
        for batch in batches:
            result = measure(variables, put_batch(batch, mesh))
            found, outputs, mask = jax.device_get(result)
            for name, ratio in found.items():
                total, count = sums.get(name, (0.0, 0.0))
                sums[name] = (total + float(ratio.total), count + float(ratio.count))
            for name, values in outputs.items():
                gathered.setdefault(name, []).append(values[mask > 0])
        collected = {name: np.concatenate(parts) for name, parts in gathered.items()}
        finished = evaluator.finish(sums, collected)
        return {name: float(value) for name, value in finished.items()}

    return evaluate
