r"""DeblurGAN-v2: FPN-MobileNet beside PyTorch and onnxruntime, forward and a training step.

  python -m experiments.benchmarks.deblurgan_v2 --csv=experiments/results/deblurgan_v2_benchmark.csv

One picture at a time, norms of the picture itself, as published. Everything runs on ``--cores``
cores (one by default), ours and theirs in turn, ``--rounds`` times; medians are shown. A first call of each,
which compiles, is not timed. The networks have the same weights, and their outputs are compared
before anything is timed.

- PyTorch runs eagerly and, where a C++ compiler is there, through ``torch.compile``.
- onnxruntime runs the file that PyTorch exports (``torch.onnx``, which needs the package onnx).
- The training step is that of the generator: squared error, Adam.

Limits are multiply-adds at the rate of a large matrix product; a training step has three times those
of a forward pass. Needs ``pip install "zoo-jax[torch]"``; what else is not installed is left
out, with a note.
"""

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags, logging

from experiments import common
from experiments.benchmarks.side_by_side import (
    Row,
    Setting,
    gemm_rate,
    in_turn,
    on_cores,
    show,
    store,
)
from zoo_jax.core.errors import ZooError
from zoo_jax.methods.deblurgan_v2.cost import generator_macs
from zoo_jax.models import create_model

_ROUNDS = flags.DEFINE_integer("rounds", 5, "Measurements of each.", lower_bound=1)
_CORES = flags.DEFINE_integer("cores", 1, "Cores to run on.", lower_bound=1)
_TINY = flags.DEFINE_bool("tiny", False, "Sizes that measure nothing: for tests.")
_COMPILE = flags.DEFINE_bool("compile", True, "Also measure torch.compile.")
_JSON = flags.DEFINE_string("json", None, "Write the rows to this file.")
_CSV = flags.DEFINE_string("csv", None, "Write the rows to this table.")

SIZES = ((256, 256), (736, 1280))  # the second is 720x1280 as it is padded


def main(argv: Sequence[str]) -> None:
    """Measures, prints one table and stores it."""
    del argv
    setting = Setting(_ROUNDS.value, _CORES.value, _TINY.value)
    with on_cores(setting.cores):
        rate = gemm_rate(64 if setting.tiny else 2048)
        rows = list(_rows(setting, rate))
    show(rows)
    from zoo_jax.train.mesh import make_mesh
    from zoo_jax.train.run import run_facts

    facts = run_facts(make_mesh(1))
    about = {key: facts[key] for key in ("hardware", "revision")}
    about |= {"cores": setting.cores, "rounds": setting.rounds}
    store(rows, about, json=_JSON.value, csv_file=_CSV.value)


def _rows(setting: Setting, rate: float) -> Iterator[Row]:
    try:
        import torch

        from experiments.benchmarks._torch_fpn import TorchFPN
    except ImportError:
        raise ZooError(
            'this benchmark compares with PyTorch: pip install "zoo-jax[torch]"'
        ) from None
    torch.set_num_threads(setting.cores)
    torch.manual_seed(0)
    channels = dict(pyramid=16, head=8) if setting.tiny else {}
    theirs = TorchFPN(**channels).train()
    ours = create_model("deblurgan_v2/fpn_mobilenet", **channels)
    variables = _converted(theirs, ours)
    for height, width in ((64, 64),) if setting.tiny else SIZES:
        x = np.random.default_rng(0).uniform(-1, 1, (1, height, width, 3)).astype("f4")
        macs = generator_macs(ours.module, variables, height, width)
        yield from _forward(ours.module, variables, theirs, x, macs / rate, setting)
        if height == width:
            yield _training(ours.module, variables, theirs, x, macs / rate, setting)


def _converted(theirs: Any, ours: Any) -> dict[str, Any]:
    """Our variables with their weights, by the key table of the published files."""
    from zoo_jax.convert import apply
    from zoo_jax.models import model_table

    arrays = {k: v.numpy() for k, v in theirs.state_dict().items()}
    found = apply(
        model_table(ours.name, ours.module),
        arrays,
        ours.variables,
        where="the network of the benchmark",
    )
    return jax.tree.map(jnp.asarray, found)


def _nchw(x: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def _forward(
    module: Any,
    variables: Any,
    theirs: Any,
    x: np.ndarray,
    limit: float,
    setting: Setting,
) -> Iterator[Row]:
    import torch

    run = jax.jit(lambda v, x: module.apply(v, x, train=False))
    given, image = jax.device_put((variables, x))
    want = np.asarray(run(given, image))
    image_of_theirs = _nchw(x)

    def eager(network: Any = theirs) -> Any:
        with torch.inference_mode():
            return network(image_of_theirs)

    got = eager().numpy().transpose(0, 2, 3, 1)
    # Different orders of float32 sums behind sixty norms.
    if not np.abs(got - want).max() < 2e-3:
        raise ZooError(
            f"the two networks differ by {np.abs(got - want).max():.1e}: nothing is timed"
        )
    others: dict[str, Callable[[], Any]] = {"torch, eager": eager}
    others |= _compiled(theirs, eager) if _COMPILE.value and not setting.tiny else {}
    others |= _onnx(theirs, image_of_theirs, want, setting)
    functions = {"ours": lambda _: jax.block_until_ready(run(given, image))}
    functions |= {k: (lambda _, f=f: f()) for k, f in others.items()}
    in_turn(functions, 1)  # warm
    times = in_turn(functions, setting.rounds)
    for name in others:
        yield Row(
            what=f"forward, {x.shape[1]}x{x.shape[2]}",
            unit="s",
            ours=times["ours"][0],
            other=name,
            theirs=times[name][0],
            limit=limit,
            limit_is="multiply-adds",
            remark=f"{times['ours'][0].median / limit:.2f} of the limit",
        )


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
    theirs: Any, x: Any, want: np.ndarray, setting: Setting
) -> dict[str, Callable[[], Any]]:
    import torch

    from experiments.benchmarks._torch_fpn import of_one_picture

    try:
        import onnx  # noqa: F401  what torch.onnx writes with
        import onnxruntime
    except ImportError as error:
        logging.warning("onnxruntime left out: %s is not installed", error.name)
        return {}
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the newer way needs more
        torch.onnx.export(of_one_picture(theirs), (x,), file, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setting.cores
    session = onnxruntime.InferenceSession(
        file.getvalue(), options, providers=["CPUExecutionProvider"]
    )
    feed = {session.get_inputs()[0].name: x.numpy()}
    got = session.run(None, feed)[0].transpose(0, 2, 3, 1)
    if not np.abs(got - want).max() < 2e-3:
        logging.warning("onnxruntime left out: its result is another one")
        return {}
    return {"onnxruntime": lambda: session.run(None, feed)}


def _training(
    module: Any,
    variables: Any,
    theirs: Any,
    x: np.ndarray,
    limit: float,
    setting: Setting,
) -> Row:
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
    image, truth = jax.device_put((x, 0.9 * x))
    copy = jax.tree.map(jnp.copy, (params, statistics))
    state = [(*copy, tx.init(params))]

    def ours(_: int) -> None:
        state[0] = jax.block_until_ready(step(*state[0], image, truth))

    optimiser = torch.optim.Adam(theirs.parameters(), 1e-4)
    image_of_theirs, truth_of_theirs = _nchw(x), _nchw(0.9 * x)

    def eager(_: int) -> None:
        optimiser.zero_grad()
        torch.mean((theirs(image_of_theirs) - truth_of_theirs) ** 2).backward()
        optimiser.step()

    functions = {"ours": ours, "torch, eager": eager}
    in_turn(functions, 1)
    times = in_turn(functions, setting.rounds)
    return Row(
        what=f"training step, {x.shape[1]}x{x.shape[2]}",
        unit="s",
        ours=times["ours"][0],
        other="torch, eager",
        theirs=times["torch, eager"][0],
        limit=3 * limit,
        limit_is="multiply-adds",
    )


if __name__ == "__main__":
    common.run_main(main)
