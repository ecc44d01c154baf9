"""Devices and hosts: one mesh with one axis, ``("data",)``.

Parameters are replicated, batches are split over the axis. Because arrays are global,
anything that looks at the whole batch (batch normalisation, contrastive negatives) sees
the batch of all devices.
"""

import os
from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from zoo_jax.core.errors import DeviceError

AXIS = "data"


def initialize_distributed(
    mode: Literal["none", "auto", "explicit"] = "none",
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the other processes of this run. Must come before the first use of a device.

    Args:
      mode: ``"none"`` for one process; ``"auto"`` reads SLURM, GKE, Cloud TPU or Open MPI from
        the environment; ``"explicit"`` takes the three arguments below, each falling back to
        ``ZOO_COORDINATOR``, ``ZOO_NUM_PROCESSES`` and ``ZOO_PROCESS_ID``.
      coordinator: ``host:port`` of process 0.
      num_processes: How many processes take part.
      process_id: This one's number, from 0.

    Raises:
      DeviceError: if something is missing or the coordinator cannot be reached.
    """
    if mode == "none":
        return
    if mode == "auto":
        _initialize()
        return
    if mode != "explicit":
        raise DeviceError(f"--distributed={mode!r} is not one of none, auto, explicit")
    given = {
        "coordinator": coordinator or os.environ.get("ZOO_COORDINATOR"),
        "num_processes": _integer("num_processes", num_processes),
        "process_id": _integer("process_id", process_id),
    }
    missing = [name for name, value in given.items() if value is None]
    if missing:
        flags = ", ".join(f"--{name} or ZOO_{name.upper()}" for name in missing)
        raise DeviceError(f"--distributed=explicit also needs {flags}")
    _initialize(
        coordinator_address=given["coordinator"],
        num_processes=given["num_processes"],
        process_id=given["process_id"],
    )


def _integer(name: str, value: int | None) -> int | None:
    text = os.environ.get(f"ZOO_{name.upper()}")
    if value is not None or text is None:
        return value
    try:
        return int(text)
    except ValueError:
        raise DeviceError(f"ZOO_{name.upper()}={text!r} is not a number") from None


def _initialize(**arguments: Any) -> None:
    try:
        jax.distributed.initialize(**arguments)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DeviceError(f"cannot join the other processes: {reason}") from error


def make_mesh(devices: int = 0) -> Mesh:
    """The mesh of this run.

    Args:
      devices: How many devices to use; 0 means all. With several processes all are used.

    Raises:
      DeviceError: if there are fewer devices, or if several processes ask for a part.
    """
    available = jax.device_count()
    wanted = devices or available
    kind = jax.default_backend()
    if wanted < 0 or wanted > available:
        hint = "; on a CPU, JAX_NUM_CPU_DEVICES makes more" if kind == "cpu" else ""
        raise DeviceError(
            f"mesh.devices={devices}, but there are {available} {kind} devices: set it to"
            f" at most {available}, or to 0 for all{hint}"
        )
    if jax.process_count() > 1 and wanted != available:
        raise DeviceError(
            f"mesh.devices={devices} leaves out devices of other processes: set it to 0"
        )
    # Auto axes: Explicit ones, the default of jax.make_mesh, break the gradients of common
    # gathers, e.g. optax's integer-label cross-entropy on jax 0.12.
    return Mesh(
        np.asarray(jax.devices()[:wanted]), (AXIS,), axis_types=(AxisType.Auto,)
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of parameters: a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The sharding of batches: the leading axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def check_batch_size(batch_size: int, mesh: Mesh, where: str) -> None:
    """Raises `DeviceError` if a global batch does not divide among the devices."""
    if batch_size % mesh.size:
        lower = batch_size - batch_size % mesh.size
        near = f"{lower} or {lower + mesh.size}" if lower else f"{mesh.size}"
        raise DeviceError(
            f"{where}.batch_size={batch_size} does not divide among {mesh.size} devices:"
            f" use {near}, or change mesh.devices"
        )


def put_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes global arrays of this process's rows of a batch."""
    sharding = split(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, np.asarray(value))
        for name, value in batch.items()
    }
