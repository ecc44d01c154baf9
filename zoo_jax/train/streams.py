"""Training data on the devices, with a place in the data that a checkpoint can keep."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.data.loader import train_batches
from zoo_jax.data.source import open_source, split_spec
from zoo_jax.task import Task
from zoo_jax.train.mesh import check_batch_size, put_batch
from zoo_jax.train.settings import Settings


class Stream:
    """A training stream on the devices, one batch ahead, that knows its place in the data."""

    def __init__(
        self, name: str, settings: Settings, mesh: Mesh, workdir: pathlib.Path
    ):
        """Opens the source; `restore` or `next` starts reading."""
        spec, options = loader_options(name, settings, mesh)
        self.batch_size = options["batch_size"]
        process = jax.process_index()
        self._batches = train_batches(
            open_source(spec),
            seed=settings.seed,
            process_index=process,
            process_count=jax.process_count(),
            report=workdir / f"bad_examples_{name}_{process}.jsonl",
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


def open_streams(
    task: Task, settings: Settings, mesh: Mesh, workdir: pathlib.Path
) -> dict[str, Stream]:
    """Opens the stream of every player.

    Raises:
      ConfigError: if a player reads a stream that the config does not have.
    """
    streams: dict[str, Stream] = {}
    for player in task.players:
        if player.stream not in settings.data:
            raise ConfigError(
                f"player {player.name!r} reads the stream {player.stream!r}, which is not in"
                f" config.data: {closest(player.stream, settings.data)}"
            )
        if player.stream not in streams:
            streams[player.stream] = Stream(player.stream, settings, mesh, workdir)
    return streams


def loader_options(
    name: str, settings: Settings, mesh: Mesh
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits a data section into source and loader arguments, and checks its batch size."""
    spec, options = split_spec(settings.data[name])
    if "batch_size" not in options:
        raise ConfigError(f"data.{name} has no batch_size")
    check_batch_size(options["batch_size"], mesh, f"data.{name}")
    return spec, options
