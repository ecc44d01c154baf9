"""The one loop: data in, steps, measurements, checkpoints, and a clean way to stop.

What a method brings is a `Task`; nothing here knows a method. An iteration draws one batch of
each stream in use; `TrainState.step` counts the updates that were kept, so the two differ by
the batches that were skipped for not being finite.
"""

import collections
import contextlib
import datetime
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from jax.sharding import Mesh

from zoo_jax.core import rng
from zoo_jax.core.config import digest, to_dict
from zoo_jax.core.errors import ConfigError, DivergenceError
from zoo_jax.core.tree import named_leaves
from zoo_jax.core.types import Metrics, Variables
from zoo_jax.task import Task, TrainState
from zoo_jax.train.checkpoint import Checkpointer
from zoo_jax.train.diagnose import describe_nonfinite
from zoo_jax.train.evaluate import Evaluations
from zoo_jax.train.mesh import replicated
from zoo_jax.train.preempt import Interrupted, StopRequest
from zoo_jax.train.profile import Profiler, progress_bar
from zoo_jax.train.settings import Settings
from zoo_jax.train.step import active_players, build_state, init_state, make_train_step
from zoo_jax.train.streams import Stream, open_streams
from zoo_jax.train.writers import RunWriter, SilentWriter, format_scalars

CHECKPOINTS = "checkpoints"
# How far the host may run ahead of the devices; also how late it learns of a skipped batch.
AHEAD = 2
# With several processes, asking for a signal is a collective: not at every step.
ASK_EVERY = 10


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
    with contextlib.ExitStack() as stack:
        streams = open_streams(task, settings, mesh, workdir)
        for stream in streams.values():
            stack.callback(stream.close)
        evaluations = Evaluations(task, settings, mesh)
        checkpointer = stack.enter_context(_checkpointer(workdir, settings))
        state, start = _start(task, settings, streams, mesh, variables, checkpointer)
        writer: RunWriter | SilentWriter = SilentWriter()
        if jax.process_index() == 0:
            writer = RunWriter(workdir, start=start, tensorboard=settings.tensorboard)
        stack.callback(writer.close)
        profiler = Profiler(workdir, start=start + 10, count=5 if profile else 0)
        stack.callback(profiler.close)
        bar = progress_bar(settings.steps, workdir.name, initial=start)
        stack.callback(bar.close)
        stop = stack.enter_context(StopRequest())

        meta = {"config": to_dict(config), "config_digest": digest(config)}
        meta |= {"facts": dict(facts or {})}
        step = jax.jit(
            make_train_step(task, accumulate=settings.accumulate),
            static_argnames="active",
            donate_argnums=0,
            out_shardings=replicated(mesh),
        )
        save_every = settings.checkpoint["every"]
        turns = any(p.every > 1 or p.start > 0 for p in task.players)
        active = tuple(range(len(task.players)))
        unread: collections.deque[Metrics] = collections.deque()
        clock = _Clock(start)
        for iteration in range(start, settings.steps):
            if turns:
                # Whose turn it is follows the updates that were kept, so that a skipped batch
                # leaves no trace. Knowing their number costs a wait for the devices.
                active = active_players(task, int(state.step))
            used = sorted({task.players[i].stream for i in active})
            batches = {name: streams[name].next() for name in used}
            profiler.before(iteration)
            state, metrics = step(state, batches, active=active)
            profiler.after(iteration, metrics)
            done = iteration + 1
            last = done == settings.steps
            for name in used if not last else ():
                streams[name].prefetch()  # while the devices work
            unread.append(metrics)
            while len(unread) > (0 if last else AHEAD):
                # Waits for an earlier step, so the host never runs far ahead.
                if int(unread.popleft()["streak"]) >= settings.max_streak:
                    raise _divergence(task, settings, state, batches)
            bar.update()

            if done % settings.log_every == 0 or last:
                read = jax.device_get(metrics)
                found = {
                    f"train/{n}": float(v) for n, v in read.items() if n != "streak"
                }
                writer.scalars(done, found)
                rate = clock.rate(done)
                rows = sum(streams[name].batch_size for name in used)
                writer.perf(done, {"steps_per_s": rate, "examples_per_s": rate * rows})
                left = datetime.timedelta(seconds=round((settings.steps - done) / rate))
                log = "step %d of %d: %s (%.3g steps/s, %s left)"
                logging.info(
                    log, done, settings.steps, format_scalars(found), rate, left
                )
            measured: dict[str, float] = {}
            with clock.paused():
                if due := evaluations.due(done, last):
                    measured = evaluations.run(state.variables, due)
                    writer.scalars(done, measured)
                    logging.info("step %d: %s", done, format_scalars(measured))
                asked = jax.process_count() == 1 or done % ASK_EVERY == 0
                signum = stop.agreed() if asked and not last else 0
                if last or signum or (save_every and done % save_every == 0):
                    checkpointer.save(
                        done,
                        state,
                        iterator={n: s.state() for n, s in streams.items()},
                        meta=meta,
                        metrics=measured or None,
                    )
            if signum:
                checkpointer.wait()
                raise Interrupted(
                    f"stopped after {done} of {settings.steps} steps and saved in {workdir}:"
                    " the same command goes on from there",
                    signum,
                )
        checkpointer.wait()
        return state


class _Clock:
    """Steps per second since the last question, without the time spent on other things."""

    def __init__(self, step: int):
        self._step, self._since = step, time.perf_counter()

    def rate(self, step: int) -> float:
        now = time.perf_counter()
        rate = (step - self._step) / max(now - self._since, 1e-9)
        self._step, self._since = step, now
        return rate

    @contextlib.contextmanager
    def paused(self):
        before = time.perf_counter()
        yield
        self._since += time.perf_counter() - before


def _checkpointer(workdir: pathlib.Path, settings: Settings) -> Checkpointer:
    section = settings.checkpoint
    return Checkpointer(
        workdir / CHECKPOINTS,
        keep_last=section["keep_last"],
        keep_best=section["keep_best"],
        best_metric=section["best_metric"] or None,
        best_mode=section["best_mode"],
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


def _divergence(
    task: Task,
    settings: Settings,
    state: TrainState,
    batches: Mapping[str, Mapping[str, Any]],
) -> DivergenceError:
    found = describe_nonfinite(task, state, batches)
    return DivergenceError(
        f"{settings.max_streak} batches in a row gave no finite update: {found}; lower the"
        " learning rate, clip gradients, or look at the data"
    )
