"""The one loop: data in, steps, measurements, checkpoints, and a clean way to stop.

What a method brings is a `Task`; nothing here knows a method. An iteration draws one batch of
each stream in use; `TrainState.step` counts the updates that were kept, so the two differ by
the batches that were skipped for not being finite.
"""

import collections
import dataclasses
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from jax.sharding import Mesh

from zoo_jax.core import rng
from zoo_jax.core.config import digest, require_keys, to_dict
from zoo_jax.core.errors import ConfigError, DivergenceError, closest
from zoo_jax.core.tree import named_leaves
from zoo_jax.core.types import Variables
from zoo_jax.data.loader import eval_batches, train_batches
from zoo_jax.data.source import open_source, split_spec
from zoo_jax.task import Task, TrainState
from zoo_jax.train.checkpoint import Checkpointer
from zoo_jax.train.diagnose import describe_nonfinite
from zoo_jax.train.evaluate import default_evaluator, make_evaluate
from zoo_jax.train.mesh import check_batch_size, put_batch, replicated
from zoo_jax.train.preempt import Interrupted, StopRequest
from zoo_jax.train.profile import Profiler, progress_bar
from zoo_jax.train.step import active_players, build_state, init_state, make_train_step
from zoo_jax.train.writers import RunWriter, SilentWriter

CHECKPOINTS = "checkpoints"
# How far the host may run ahead of the devices; also how late it learns of a skipped batch.
AHEAD = 2
# With several processes, asking for a signal is a collective: not at every step.
ASK_EVERY = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What the loop reads of a config; everything else in it is the method's."""

    steps: int
    seed: int = 0
    log_every: int = 50
    accumulate: int = 1
    max_streak: int = 10  # stop after so many batches in a row that were not finite
    tensorboard: bool = True
    init_from: str = ""  # read by the binaries, not by the loop
    task: str = ""
    procedure: str = ""
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    eval: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    mesh: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    checkpoint: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Settings":
        """Picks the loop's keys out of a config and checks the sections it knows.

        Raises:
          ConfigError: for a missing or unknown key, or a value that cannot work.
        """
        names = {f.name for f in dataclasses.fields(cls)}
        plain = to_dict(config)
        if "steps" not in plain:
            raise ConfigError("the config has no 'steps': set config.steps")
        self = cls(**{k: v for k, v in plain.items() if k in names})
        require_keys(self.mesh, {"devices"}, "mesh")
        require_keys(
            self.checkpoint,
            {"every", "keep_last", "keep_best", "best_metric", "best_mode"},
            "checkpoint",
        )
        for name, section in self.eval.items():
            require_keys(section, {"stream", "every", "averaged"}, f"eval.{name}")
        for name in ("steps", "log_every", "max_streak"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"{name}={getattr(self, name)}: it must be at least 1"
                )
        return self


LOOP_KEYS = frozenset(f.name for f in dataclasses.fields(Settings))


class Stream:
    """A training stream on the devices, one batch ahead, that knows its place in the data."""

    def __init__(self, section: Mapping[str, Any], settings: Settings, mesh: Mesh):
        """Opens the source; `restore` or `next` starts reading."""
        spec, options = split_spec(section)
        self.batch_size = options["batch_size"]
        self._batches = train_batches(
            open_source(spec),
            seed=settings.seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            **options,
        )
        self._mesh = mesh
        self._ahead: dict[str, jax.Array] | None = None
        self._state = self._batches.state()

    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of the global batch."""
        self.prefetch()
        return {
            name: jax.ShapeDtypeStruct(array.shape, array.dtype)
            for name, array in self._ahead.items()
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on where a checkpoint was."""
        self._batches.restore(state)
        self._ahead, self._state = None, self._batches.state()

    def state(self) -> dict[str, Any]:
        """The place after the last batch that `next` gave."""
        return self._state

    def prefetch(self) -> None:
        """Starts copying the next batch to the devices."""
        if self._ahead is None:
            self._ahead = put_batch(next(self._batches), self._mesh)

    def next(self) -> dict[str, jax.Array]:
        """The next global batch."""
        self.prefetch()
        batch, self._ahead = self._ahead, None
        self._state = self._batches.state()
        return batch

    def close(self) -> None:
        """Stops the workers."""
        self._batches.close()


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
            spec, options = split_spec(settings.data[stream])
            check_batch_size(options["batch_size"], mesh, f"data.{stream}")
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
        self, state: TrainState, which: list[int] | None = None
    ) -> dict[str, float]:
        """``{"<measurement>/<metric>": value}``."""
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


def fit(
    task: Task,
    config: Mapping[str, Any],
    *,
    workdir: pathlib.Path,
    mesh: Mesh,
    variables: Variables | None = None,
    facts: Mapping[str, Any] | None = None,
    profile: bool = False,
) -> TrainState:
    """Trains a task to the end, from its newest good checkpoint if the workdir has one.

    Args:
      task: What to train.
      config: See `Settings`.
      workdir: An existing folder that this run owns.
      mesh: From `make_mesh`.
      variables: Where a fresh run starts; networks that it lacks are initialised.
      facts: Kept in every checkpoint (revision, versions).
      profile: Traces five steps, after compilation, into ``workdir/profile``.

    Returns:
      The state after the last iteration.

    Raises:
      ConfigError, DataError, DeviceError, CheckpointError: see their messages.
      DivergenceError: after `max_streak` batches in a row that were not finite.
      Interrupted: after a signal, with a checkpoint of the current iteration.
    """
    settings = Settings.of(config)
    streams = _open_streams(task, settings, mesh)
    primary = jax.process_index() == 0
    writer: RunWriter | SilentWriter | None = None
    profiler = Profiler(workdir, start=10, count=5 if profile else 0)
    try:
        evaluations = Evaluations(task, settings, mesh)
        with _checkpointer(workdir, settings) as checkpointer, StopRequest() as stop:
            state, start = _start(
                task, settings, streams, mesh, variables, checkpointer
            )
            writer = (
                RunWriter(workdir, start=start, tensorboard=settings.tensorboard)
                if primary
                else SilentWriter()
            )
            meta = {"config": to_dict(config), "config_digest": digest(config)}
            meta |= {"facts": dict(facts or {})}
            step = jax.jit(
                make_train_step(task, accumulate=settings.accumulate),
                static_argnames="active",
                donate_argnums=0,
                out_shardings=replicated(mesh),
            )

            def save(iteration: int, metrics: Mapping[str, float] | None) -> None:
                checkpointer.save(
                    iteration,
                    state,
                    iterator={name: stream.state() for name, stream in streams.items()},
                    meta=meta,
                    metrics=metrics,
                )

            always = all(p.every == 1 and p.start == 0 for p in task.players)
            everyone = tuple(range(len(task.players)))
            pending: collections.deque = collections.deque()
            clock, since = time.perf_counter(), start
            bar = progress_bar(settings.steps, workdir.name, initial=start)
            for iteration in range(start, settings.steps):
                # Whose turn it is follows the updates that were kept. Knowing their number
                # costs a wait for the devices, so it is asked for only where it matters.
                active = everyone if always else active_players(task, int(state.step))
                used = {task.players[i].stream for i in active}
                batches = {name: streams[name].next() for name in used}
                profiler.before(iteration)
                state, metrics = step(state, batches, active=active)
                profiler.after(iteration, metrics)
                for name in used if iteration + 1 < settings.steps else ():
                    streams[name].prefetch()
                pending.append(metrics)
                if len(pending) > AHEAD:
                    _check(pending.popleft(), settings, task, state, batches)
                bar.update()

                done = iteration + 1
                last = done == settings.steps
                if done % settings.log_every == 0 or last:
                    found = {
                        f"train/{n}": float(v)
                        for n, v in jax.device_get(metrics).items()
                    }
                    rate = (done - since) / (time.perf_counter() - clock)
                    writer.scalars(done, found)
                    rows = sum(streams[name].batch_size for name in used)
                    writer.perf(
                        done, {"steps_per_s": rate, "examples_per_s": rate * rows}
                    )
                    bar.set_postfix_str(f"loss {_loss(found):.4g}")
                paused = time.perf_counter()
                measured = None
                if due := evaluations.due(done, last):
                    measured = evaluations.run(state.variables, due)
                    writer.scalars(done, measured)
                every = settings.checkpoint.get("every", 0)
                if last or (every and done % every == 0):
                    save(done, measured)
                if done % settings.log_every == 0:
                    clock, since = time.perf_counter(), done
                else:
                    clock += time.perf_counter() - paused
                asked = jax.process_count() == 1 or done % ASK_EVERY == 0
                if not last and asked and (signum := stop.agreed()):
                    if checkpointer.latest_step() != done:
                        save(done, None)
                    checkpointer.wait()
                    raise Interrupted(
                        f"stopped after {done} of {settings.steps} steps, saved in {workdir}:"
                        " the same command goes on from there",
                        signum,
                    )
            while pending:
                _check(pending.popleft(), settings, task, state, batches)
            bar.close()
            checkpointer.wait()
            return state
    finally:
        profiler.close()
        for stream in streams.values():
            stream.close()
        if writer is not None:
            writer.close()


def _open_streams(task: Task, settings: Settings, mesh: Mesh) -> dict[str, Stream]:
    streams: dict[str, Stream] = {}
    for player in task.players:
        if player.stream not in settings.data:
            raise ConfigError(
                f"player {player.name!r} reads the stream {player.stream!r}, which is not in"
                f" config.data: {closest(player.stream, settings.data)}"
            )
        if player.stream not in streams:
            section = settings.data[player.stream]
            streams[player.stream] = Stream(section, settings, mesh)
            check_batch_size(
                streams[player.stream].batch_size, mesh, f"data.{player.stream}"
            )
    return streams


def _checkpointer(workdir: pathlib.Path, settings: Settings) -> Checkpointer:
    section = settings.checkpoint
    return Checkpointer(
        workdir / CHECKPOINTS,
        keep_last=section.get("keep_last", 2),
        keep_best=section.get("keep_best", 1),
        best_metric=section.get("best_metric") or None,
        best_mode=section.get("best_mode", "max"),
    )


def _start(
    task: Task,
    settings: Settings,
    streams: Mapping[str, Stream],
    mesh: Mesh,
    variables: Variables | None,
    checkpointer: Checkpointer,
) -> tuple[TrainState, int]:
    """The state to go on from, and how many iterations it has behind it."""
    spec = streams[task.players[0].stream].spec()
    key = rng.make_key(settings.seed)

    def fresh(key: jax.Array) -> TrainState:
        zeros = {name: jnp.zeros(s.shape, s.dtype) for name, s in spec.items()}
        return init_state(task, key, zeros)

    sharding = replicated(mesh)
    template = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding),
        jax.eval_shape(fresh, key),
    )
    restored = checkpointer.restore(template)
    if restored is not None:
        for name, stream in streams.items():
            stream.restore(restored.iterator[name])
        logging.info("going on after step %d", restored.step)
        return restored.state, restored.step
    state = jax.jit(fresh, out_shardings=sharding)(key)
    if variables is not None:
        given = _merge(variables, state.variables(averaged=False))
        build = jax.jit(lambda v, k: build_state(task, v, k), out_shardings=sharding)
        state = build(given, key)
    return state, 0


def _merge(given: Variables, fresh: Variables) -> Variables:
    """The given networks, and fresh ones where there is none; shapes must agree."""
    known = set(given["params"]) & set(fresh["params"])
    if not known:
        raise ConfigError(
            f"init_from has the networks {sorted(given['params'])}, but this task trains"
            f" {sorted(fresh['params'])}"
        )
    out = {kind: dict(networks) for kind, networks in fresh.items()}
    for kind in ("params", "model_state"):
        for name in known & set(given.get(kind, {})):
            old, new = out[kind][name], given[kind][name]
            shapes = [
                {n: leaf.shape for n, leaf in named_leaves(tree).items()}
                for tree in (old, new)
            ]
            wrong = sorted(
                n
                for n in shapes[0].keys() | shapes[1].keys()
                if shapes[0].get(n) != shapes[1].get(n)
            )
            if wrong:
                first = wrong[0]
                raise ConfigError(
                    f"init_from does not fit network {name!r}: {len(wrong)} leaves differ,"
                    f" e.g. {first}: {shapes[1].get(first)} given,"
                    f" {shapes[0].get(first)} needed"
                )
            out[kind][name] = jax.tree.map(
                lambda a, b: jnp.asarray(b, a.dtype), old, new
            )
    return out


def _check(
    metrics: Mapping[str, jax.Array],
    settings: Settings,
    task: Task,
    state: TrainState,
    batches: Mapping[str, Any],
) -> None:
    """Waits for an earlier step; stops the run if too many in a row were skipped."""
    if int(metrics["streak"]) < settings.max_streak:
        return
    found = describe_nonfinite(task, state, batches)
    raise DivergenceError(
        f"{settings.max_streak} batches in a row gave no finite update: {found}; lower the"
        " learning rate, clip gradients, or look at the data"
    )


def _loss(metrics: Mapping[str, float]) -> float:
    return sum(v for n, v in metrics.items() if n.split("/")[-1] == "loss")


def evaluate_variables(
    task: Task, config: Mapping[str, Any], variables: Variables, mesh: Mesh
) -> dict[str, float]:
    """All measurements of a config on given variables: ``{"<measurement>/<metric>": value}``."""
    evaluations = Evaluations(task, Settings.of(config), mesh)
    put = jax.device_put(dict(variables), replicated(mesh))
    return evaluations.run(lambda averaged: put)
