"""A network of ours beside the same one in PyTorch: equal weights, compared, then timed in turn."""

import copy
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

from experiments.benchmarks.side_by_side import Row, Setting, in_turn
from zoo_jax.core.errors import ZooError


def converted(theirs: Any, name: str, module: Any) -> dict[str, Any]:
    """Our variables with their weights, by the key table of the published files."""
    from zoo_jax.convert import apply
    from zoo_jax.models import abstract_variables, model_table

    arrays = {k: v.numpy() for k, v in theirs.state_dict().items()}
    template = abstract_variables(name, module)
    where = "the network of the benchmark"
    return jax.tree.map(
        jnp.asarray, apply(model_table(name, module), arrays, template, where=where)
    )


def forward_rows(
    what: str,
    module: Any,
    variables: Mapping[str, Any],
    theirs: Any,
    x: np.ndarray,
    limit: float,
    setting: Setting,
    *,
    exported: Any = None,
    compiled: bool = True,
) -> Iterator[Row]:
    """One row per alternative.

    Args:
      what: Name of the measurement.
      module: Ours.
      variables: Its variables.
      theirs: The PyTorch network.
      x: Images [b, h, w, 3].
      limit: Seconds of its multiply-adds.
      setting: How much is measured.
      exported: What onnxruntime gets, if not `theirs`.
      compiled: Whether ``torch.compile`` is measured.

    Raises:
      ZooError: if the two give different results.
    """
    import torch

    run = jax.jit(lambda v, x: module.apply(v, x, train=False))
    given, image = jax.device_put((variables, x))
    want = np.asarray(run(given, image))
    planes = _planes(x)
    # Different orders of float32 sums in dozens of layers.
    most = 2e-3 * float(np.abs(want).max())

    def eager(network: Any = theirs) -> Any:
        with torch.inference_mode():
            return network(planes)

    difference = np.abs(_last(eager().numpy()) - want).max()
    if not difference < most:
        raise ZooError(
            f"{what}: the two networks differ by {difference:.1e}: nothing is timed"
        )
    others: dict[str, Callable[[], Any]] = {"torch, eager": eager}
    others |= _compiled(theirs, eager) if compiled and not setting.tiny else {}
    others |= _onnx(
        theirs if exported is None else exported, planes, want, most, setting
    )
    functions = {"ours": lambda _: jax.block_until_ready(run(given, image))}
    functions |= {k: (lambda _, f=f: f()) for k, f in others.items()}
    in_turn(functions, 1)  # warm
    times = in_turn(functions, setting.rounds)
    for name in others:
        yield Row(
            what=what,
            unit="s",
            ours=times["ours"][0],
            other=name,
            theirs=times[name][0],
            limit=limit,
            limit_is="multiply-adds",
            remark=f"{times['ours'][0].median / limit:.2f} of the limit",
        )


def training_row(
    what: str,
    module: Any,
    variables: Mapping[str, Any],
    theirs: Any,
    x: np.ndarray,
    truth: np.ndarray,
    limit: float,
    setting: Setting,
) -> Row:
    """A step of Adam on the squared error, beside eager PyTorch.

    Arguments as `forward_rows`; `truth` has the shape of the output, `limit` is of a forward pass.
    """
    import torch

    tx = optax.adam(1e-4)
    params, statistics = variables["params"], variables["batch_stats"]

    def step(params, statistics, moments, x, truth):
        def loss(params):
            y, new = module.apply(
                {"params": params, "batch_stats": statistics},
                x,
                train=True,
                mutable=["batch_stats"],
            )
            return jnp.mean(jnp.square(y - truth)), new["batch_stats"]

        grads, new = jax.grad(loss, has_aux=True)(params)
        updates, moments = tx.update(grads, moments, params)
        return optax.apply_updates(params, updates), new, moments

    step = jax.jit(step, donate_argnums=(0, 1, 2))
    image, wanted = jax.device_put((x, truth))
    ours_first = jax.tree.map(jnp.copy, (params, statistics))
    state = [(*ours_first, tx.init(params))]

    def ours(_: int) -> None:
        state[0] = jax.block_until_ready(step(*state[0], image, wanted))

    theirs = copy.deepcopy(theirs)  # as `state` is: others compare the two after this
    optimiser = torch.optim.Adam(theirs.parameters(), 1e-4)
    planes, wanted_planes = _planes(x), _planes(truth)

    def eager(_: int) -> None:
        optimiser.zero_grad()
        torch.mean((theirs(planes) - wanted_planes) ** 2).backward()
        optimiser.step()

    functions = {"ours": ours, "torch, eager": eager}
    in_turn(functions, 1)
    times = in_turn(functions, setting.rounds)
    return Row(
        what=what,
        unit="s",
        ours=times["ours"][0],
        other="torch, eager",
        theirs=times["torch, eager"][0],
        limit=3 * limit,
        limit_is="multiply-adds",
        remark=f"{times['ours'][0].median / (3 * limit):.2f} of the limit",
    )


def _planes(x: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def _last(y: np.ndarray) -> np.ndarray:
    """Maps with their channels last, as ours are; logits as they are."""
    return y.transpose(0, 2, 3, 1) if y.ndim == 4 else y


def _compiled(theirs: Any, eager: Callable) -> dict[str, Callable[[], Any]]:
    import torch

    network = torch.compile(theirs)
    try:
        eager(network)
    except Exception as error:  # no compiler, and whatever else it trips over
        logging.warning("torch.compile left out: %s", str(error).splitlines()[0])
        return {}
    return {"torch.compile": lambda: eager(network)}


def _onnx(
    network: Any, planes: Any, want: np.ndarray, most: float, setting: Setting
) -> dict[str, Callable[[], Any]]:
    import torch

    try:
        import onnx  # noqa: F401  what torch.onnx writes with
        import onnxruntime
    except ImportError as error:
        logging.warning("onnxruntime left out: %s is not installed", error.name)
        return {}
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the newer way needs more
        torch.onnx.export(network, (planes,), file, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setting.cores
    session = onnxruntime.InferenceSession(
        file.getvalue(), options, providers=["CPUExecutionProvider"]
    )
    feed = {session.get_inputs()[0].name: planes.numpy()}
    got = _last(session.run(None, feed)[0])
    if not np.abs(got - want).max() < most:
        logging.warning("onnxruntime left out: its result is another one")
        return {}
    return {"onnxruntime": lambda: session.run(None, feed)}
