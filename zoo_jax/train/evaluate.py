"""Exact means over a data stream, on any number of devices."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.types import Batch, Variables
from zoo_jax.data.loader import eval_batches
from zoo_jax.data.source import open_source
from zoo_jax.task import Evaluator, Task
from zoo_jax.train.mesh import put_batch, replicated
from zoo_jax.train.settings import Settings
from zoo_jax.train.streams import loader_options


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


class Evaluations:
    """The measurements that a config asks for, compiled once each."""

    def __init__(self, task: Task, settings: Settings, mesh: Mesh):
        """Opens the evaluation sources.

        Raises:
          ConfigError: if a measurement names a stream that is not there.
        """
        self._plan = []
        for name, section in settings.eval.items():
            stream = section.get("stream", name)
            if stream not in settings.data:
                raise ConfigError(
                    f"eval.{name}.stream={stream!r} is not in config.data:"
                    f" {closest(stream, settings.data)}"
                )
            spec, options = loader_options(stream, settings, mesh)
            options.pop("shuffle", None)
            evaluator = task.evaluators.get(name) or default_evaluator(task)
            self._plan.append(
                (
                    name,
                    section,
                    open_source(spec),
                    options,
                    make_evaluate(evaluator, mesh),
                )
            )

    def due(self, iteration: int, last: bool) -> list[int]:
        """Indices of the measurements to make after `iteration` iterations."""
        return [
            i
            for i, (_, section, *_) in enumerate(self._plan)
            if last or (section.get("every", 0) and iteration % section["every"] == 0)
        ]

    def run(
        self, variables: Callable[..., Variables], which: list[int] | None = None
    ) -> dict[str, float]:
        """``{"<measurement>/<metric>": value}``; `variables` is `TrainState.variables`."""
        out = {}
        for i in range(len(self._plan)) if which is None else which:
            name, section, source, options, evaluate = self._plan[i]
            batches = eval_batches(
                source,
                process_index=jax.process_index(),
                process_count=jax.process_count(),
                **options,
            )
            found = evaluate(variables(averaged=section.get("averaged", True)), batches)
            out |= {f"{name}/{metric}": value for metric, value in found.items()}
        return out


def evaluate_variables(
    task: Task, config: Mapping[str, Any], variables: Variables, mesh: Mesh
) -> dict[str, float]:
    """All measurements of a config on given variables: ``{"<measurement>/<metric>": value}``."""
    evaluations = Evaluations(task, Settings.of(config), mesh)
    put = jax.device_put(dict(variables), replicated(mesh))
    return evaluations.run(lambda averaged: put)
