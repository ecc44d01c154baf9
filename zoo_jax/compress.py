"""Weights of any kind -> one small file, and back: ``zoo-jax compress`` and ``decompress``."""

import argparse
import contextlib
import importlib.util
import os
import pathlib
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from tqdm import tqdm

from zoo_jax import models
from zoo_jax.core import registry
from zoo_jax.core.config import to_dict
from zoo_jax.core.errors import ConfigError, WeightsError, ZooError
from zoo_jax.core.files import PathLike
from zoo_jax.core.rng import make_key
from zoo_jax.core.tree import named_leaves, nest
from zoo_jax.core.types import Variables
from zoo_jax.task import Task

# The package of the method imports much that other commands do without: see the functions.


def compress_network(
    source: PathLike, output: PathLike, **options: Any
) -> dict[str, Any]:
    """Compresses a weights file, a converted folder or a training run.

    Args:
      source: As `create_model` takes them; of any network, known here or not.
      output: The file. It appears when it is complete.
      **options: ``target_ratio``, ``target_bytes`` or ``spec``, and the further ones of
        `zoo_jax.methods.deep_k_means.compress_file.compress_arrays`.

    Returns:
      What `compress_arrays` returns; the kernels one by one, and bytes.

    Raises:
      ZooError: for a source or options that do not fit, or a budget that cannot be met.
    """
    from zoo_jax.methods.deep_k_means.compress_file import compress_arrays

    source, output = pathlib.Path(source).expanduser(), pathlib.Path(output)
    _require_other(source, output)
    found = models.load_source(None, source)
    arrays = dict(found.arrays) | {
        # Back to what the file holds: no value changes.
        key: np.asarray(found.arrays[key]).astype(jnp.bfloat16)
        for key in found.widened
    }
    metadata: dict[str, Any] = {"origin": source.resolve().name}
    if found.published:
        metadata["file"] = dict(found.metadata)
    else:
        metadata[models.FORMAT] = _facts(found)
    try:
        return compress_arrays(arrays, output, metadata=metadata, **options)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from None


def finetune_network(
    source: PathLike, output: PathLike, experiment: str, **options: Any
) -> dict[str, Any]:
    """Compresses a network, and trains what its kernels share on the data of a config.

    After the assignment come new batch-norm statistics (mean over at most `NORM_BATCHES`
    training batches), training by the config's task, data, optimiser and number of steps
    where all samples of a cluster get one update, and new statistics. What is stored exactly
    is trained too. Indices stay, so that the file keeps its size.

    Args:
      source: As `create_model` takes them; of the network that the config's ``model`` names.
        Published weights are put under this project's names, and so are they in the file.
      output: The file. It appears when it is complete.
      experiment: A config file of ``get_config``, as experiments take it: ``file.py`` or
        ``file.py:argument``. It is Python, and runs.
      **options: ``target_ratio``, ``target_bytes`` or ``spec``, and the further ones of
        `zoo_jax.methods.deep_k_means.compress_file.cluster_arrays`.

    Returns:
      What `compress_network` returns, and ``finetune``: the metrics of the config's ``eval`` of
      the ``dense`` network, ``assigned``, and of the network in the file (``tuned``).

    Raises:
      ZooError: for a config without a task, data or ``eval``, weights that do not fit its
        network, or options that do not fit.
    """
    from zoo_jax.methods.deep_k_means.compress_file import cluster_arrays
    from zoo_jax.train.evaluate import Evaluations
    from zoo_jax.train.loop import CHECKPOINTS
    from zoo_jax.train.mesh import make_mesh, replicated
    from zoo_jax.train.settings import Settings

    source, output = pathlib.Path(source).expanduser(), pathlib.Path(output)
    _require_other(source, output)
    plan = _read_experiment(experiment)
    model = models.create_model(plan.model, weights=source, **plan.overrides)
    arrays = named_leaves(jax.tree.map(np.asarray, dict(model.variables)))
    facts = {"format": models.FORMAT, "model": plan.model, "overrides": plan.overrides}
    metadata = {"origin": source.resolve().name, models.FORMAT: facts}
    mesh = make_mesh(to_dict(plan.config.get("mesh") or {}).get("devices", 0))
    settings = Settings.of(plan.config)
    task = plan.make_task(plan.config, settings.steps)
    evaluations = Evaluations(task, settings, mesh)

    def measure(arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
        variables = jax.device_put(plan.variables(arrays), replicated(mesh))
        return evaluations.run(lambda averaged: variables)

    found = {"dense": measure(arrays)}
    try:
        shared = cluster_arrays(arrays, layout="flax", metadata=metadata, **options)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from None
    found["assigned"] = measure(shared.arrays())
    run = (source / CHECKPOINTS).is_dir()
    others = str(source) if run else plan.config.get("init_from") or ""
    layers = shared.layers("params/")
    trained = _train_shared(plan, shared.arrays(), layers, mesh, others)
    shared = shared.retrained(trained)
    found["tuned"] = measure(shared.arrays())
    shared.write(output)
    steps = {"config": experiment, "steps": settings.steps}
    return shared.report | {"finetune": steps | found}


NORM_BATCHES = (
    100  # that statistics are taken from: ten thousand images and more, mostly
)


class _Experiment(NamedTuple):
    """What a config says about training a network."""

    config: ml_collections.ConfigDict  # without sharing or pulling toward shared values
    make_task: Callable[..., Any]
    model: str
    overrides: dict[str, Any]  # arguments of the model's builder

    def variables(self, arrays: Mapping[str, np.ndarray]) -> Variables:
        """Variables of the task from flat ones of the model."""
        network = models.get_entry(self.model).network
        tree = dict(nest(dict(arrays)))
        return {"params": {network: tree.pop("params")}, "model_state": {network: tree}}

    def arrays(self, variables: Variables) -> dict[str, np.ndarray]:
        """The inverse of `variables`."""
        network = models.get_entry(self.model).network
        state = variables["model_state"].get(network, {})
        tree = {"params": variables["params"][network], **state}
        return named_leaves(jax.tree.map(np.asarray, tree))


def _read_experiment(experiment: str) -> _Experiment:
    path, colon, argument = experiment.partition(":")
    if not pathlib.Path(path).is_file():
        raise ConfigError(f"no config file {path!r}")
    spec = importlib.util.spec_from_file_location("finetune_config", path)
    if spec is None:
        raise ConfigError(f"{path}: is no Python file with get_config")
    module = importlib.util.module_from_spec(spec)
    try:
        with _importable(os.getcwd()):  # as under `python -m`: configs build on others
            spec.loader.exec_module(module)
            config = module.get_config(*([argument] if colon else []))
        config = ml_collections.ConfigDict(to_dict(config))
    except ZooError:
        raise
    except Exception as error:  # whatever a user's file may raise
        raise ConfigError(f"{path}: gives no config: {error!r}") from None
    method = registry.get(config.get("task") or "")
    if not hasattr(method, "make_task"):
        raise ConfigError(
            f"{experiment}: {config.task} has no training to fine-tune by"
        )
    for section in ("model", "optim", "data", "eval"):
        if not config.get(section):
            raise ConfigError(
                f"{experiment}: the config has no {section}; fine-tuning needs model, "
                "optim, data and eval"
            )
    if "train" not in config.data:
        raise ConfigError(f"{experiment}: the config has no data.train to fine-tune on")
    overrides = to_dict(config.model)
    name = f"{config.task}/{overrides.pop('name', '')}"
    models.get_entry(name)
    overrides.pop("dtype", None)
    config.optim = {k: v for k, v in config.optim.items() if k != "kmeans"}
    return _Experiment(config, method.make_task, name, overrides)


@contextlib.contextmanager
def _importable(folder: str) -> Iterator[None]:
    """Puts a folder first on the path of imports, for a while."""
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _train_shared(
    plan: _Experiment,
    arrays: Mapping[str, np.ndarray],
    layers: Sequence[Mapping[str, Any]],
    mesh: jax.sharding.Mesh,
    others: str,
) -> dict[str, np.ndarray]:
    """Trains with the common loop in a folder that is gone afterwards.

    The task's further networks, such as a frozen one, come from the run or weights `others`;
    without any, from the config's seed.
    """
    from zoo_jax.data.loader import train_batches
    from zoo_jax.data.source import open_source, split_spec
    from zoo_jax.methods.deep_k_means.norms import task_norm_estimator
    from zoo_jax.train.loop import fit
    from zoo_jax.train.preempt import Interrupted

    config = plan.config.copy_and_resolve_references()
    config.update(eval={}, tensorboard=False)
    network = models.get_entry(plan.model).network
    layers = [{**entry, "path": f"{network}/{entry['path']}"} for entry in layers]
    if layers:
        config.optim.share_updates = {"layers": layers, "reduce": "mean"}
    spec, loader = split_spec(to_dict(config.data.train))
    source = open_source(spec)
    count = min(NORM_BATCHES, -(-len(source) // loader["batch_size"]))

    def new_norms(variables: Variables) -> Variables:
        with train_batches(source, seed=config.get("seed", 0), **loader) as batches:
            some = (next(batches) for _ in range(count))
            return estimate(variables, tqdm(some, "norms", count, False, disable=None))

    task = plan.make_task(config, config.steps)
    estimate = task_norm_estimator(task, network)
    variables = new_norms(_completed(plan.variables(arrays), task, config, others))
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder) / "fine-tuning"
        workdir.mkdir()
        try:
            state = fit(task, config, workdir=workdir, mesh=mesh, variables=variables)
        except Interrupted as stop:  # it saved in the folder, but that goes
            if stop.signum == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(128 + stop.signum) from None
    # Of averaged parameters the samples of a cluster might differ in their last bit.
    return plan.arrays(new_norms(state.variables(averaged=False)))


def _completed(
    variables: Variables, task: Task, config: ml_collections.ConfigDict, others: str
) -> Variables:
    """The variables, and those of the networks of a task that they lack."""
    from zoo_jax.data.loader import train_batches
    from zoo_jax.data.source import open_source, split_spec

    spec, loader = split_spec(to_dict(config.data[task.players[0].stream]))
    with train_batches(open_source(spec), seed=0, **loader) as batches:
        batch = next(batches)
    key = jax.random.fold_in(make_key(config.get("seed", 0)), 0)  # as a run starts
    abstract = jax.eval_shape(task.init, key, batch)
    if not abstract["params"].keys() - variables["params"].keys():
        return variables
    fresh = jax.jit(task.init)(key, batch)
    loaded = models.load_variables(others) if others else variables
    return {
        kind: {
            name: {**loaded[kind], **variables[kind]}.get(name, networks)
            for name, networks in fresh[kind].items()
        }
        for kind in fresh
    }


def decompress_network(source: PathLike, output: PathLike) -> dict[str, Any]:
    """Writes a compressed network as a safetensors file: same keys, shapes and dtypes.

    Args:
      source: A compressed network.
      output: The file. It appears when it is complete.

    Returns:
      ``arrays`` (how many), ``bytes`` of the file and ``model``, if it says which it is.

    Raises:
      WeightsError: if the source is missing, damaged or no compressed network.
    """
    from zoo_jax.convert import write_weights
    from zoo_jax.methods.deep_k_means.compress_file import write_safetensors

    source, output = pathlib.Path(source).expanduser(), pathlib.Path(output)
    _require_other(source, output)
    if source.is_dir():
        raise WeightsError(f"{source}: is a folder; name a compressed network")
    if source.is_file() and not models.is_compressed(source):
        raise WeightsError(
            f"{source}: is no compressed network (its first bytes differ)"
        )
    found = models.load_source(None, source)
    if found.published:
        write_safetensors(output, found.arrays, found.metadata)
    else:
        write_weights(output, found.arrays, _facts(found))
    return {
        "arrays": len(found.arrays),
        "bytes": os.path.getsize(output),
        "model": found.model,
    }


def _facts(found: models.Source) -> dict[str, Any]:
    return {
        "format": models.FORMAT,
        "model": found.model,
        "overrides": found.overrides,
    }


def _require_other(source: pathlib.Path, output: pathlib.Path) -> None:
    """Refuses an output that is a folder, or the source itself."""
    if output.is_dir():
        raise ZooError(f"{output}: is a folder; give -o a file name")
    if output.exists() and source.exists() and output.samefile(source):
        raise ZooError(f"{output}: is the input itself; choose another -o")


# --- the sub-commands -----------------------------------------------------------------------


def compress_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``zoo-jax compress``."""
    parser.add_argument(
        "input",
        metavar="IN",
        help=".safetensors, .npz or torch file, a converted folder, or a training run",
    )
    parser.add_argument("-o", "--output", required=True, metavar="OUT.zdkm")
    goal = parser.add_mutually_exclusive_group(required=True)
    goal.add_argument(
        "--target-ratio",
        type=float,
        metavar="R",
        help="OUT is at least R times smaller than the arrays as a .safetensors file",
    )
    goal.add_argument(
        "--target-bytes", type=int, metavar="B", help="OUT has at most B bytes"
    )
    goal.add_argument(
        "--spec", metavar="FILE", help="JSON list of layers instead of a budget"
    )
    parser.add_argument(
        "--layout",
        default="auto",
        metavar="L",
        help="of kernels: torch (OIHW, weight), flax (HWIO, kernel) or auto: by the names",
    )
    parser.add_argument(
        "--no-dense",
        dest="dense",
        action="store_false",
        help="leave dense layers exact, as the published method does (budgets only)",
    )
    parser.add_argument(
        "--codebook-dtype",
        default="float32",
        metavar="D",
        help="float32 (default) or float16: half the codebook, centres rounded",
    )
    parser.add_argument(
        "--finetune",
        metavar="CONFIG",
        help="then train what kernels share, as this experiment config (.py[:argument], which "
        "is run) says; it names the network too",
    )


def compress_command(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the compressed file and prints what became of each kernel."""
    from zoo_jax.methods.deep_k_means.file_kernels import read_spec

    if args.spec is not None and not args.dense:
        raise ConfigError(
            "--no-dense goes with a budget; leave dense layers out of --spec"
        )
    options: dict[str, Any] = {
        "target_ratio": args.target_ratio,
        "target_bytes": args.target_bytes,
        "spec": None if args.spec is None else read_spec(args.spec),
        "dense": args.dense,
        "codebook_dtype": args.codebook_dtype,
        "progress": lambda items, text: tqdm(items, text, leave=False, disable=None),
    }
    if args.finetune is None:
        report = compress_network(
            args.input, args.output, layout=args.layout, **options
        )
    elif args.layout != "auto":
        raise ConfigError("--layout goes without --finetune, whose config tells it")
    else:
        report = finetune_network(args.input, args.output, args.finetune, **options)
    _print_layers(report["layers"])
    how = " (told by the names)" if args.layout == "auto" else ""
    limit = f" of {report['target_bytes']:,}" if report["target_bytes"] else ""
    print(
        f"{report['layout']} layout{how}; {report['exact_bytes']:,} bytes stored exactly\n"
        f"wrote {args.output}: {report['bytes']:,} bytes{limit}, {report['ratio']:.2f} times "
        f"smaller than {report['dense_bytes']:,}; mean relative SSE "
        f"{report['relative_sse']:.2g}"
    )
    if "finetune" in report:
        _print_metrics(report["finetune"])
    return {"input": args.input, "output": args.output, **report}


def _print_metrics(found: Mapping[str, Any]) -> None:
    width = max(map(len, found["dense"]))
    print(f"{'':{width}}  {'dense':>10}  {'assigned':>10}  {'fine-tuned':>10}")
    for name in found["dense"]:
        stages = (found[stage][name] for stage in ("dense", "assigned", "tuned"))
        print(f"{name:{width}}" + "".join(f"  {value:>10.4f}" for value in stages))


def _print_layers(layers: Sequence[Mapping[str, Any]]) -> None:
    width = max(len("kernel"), *(len(row["path"]) for row in layers))
    print(
        f"{'kernel':{width}}  {'weights':>9}  {'samples':8}  {'K':>5}  {'core':>4}  bits/weight"
        "  relative SSE"
    )
    for row in layers:
        length, k = row.get("row_length"), row["num_clusters"]
        samples = row["samples"] + (f" {length}" if length else "")
        core = f"{row['core']:g}" if row.get("core") else "-"
        print(
            f"{row['path']:{width}}  {row['weights']:>9,}  {samples:8}  {k or '-':>5}  {core:>4}"
            f"  {row['bits_per_weight']:>11.3f}  {row['relative_sse']:>12.2e}"
        )


def decompress_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``zoo-jax decompress``."""
    parser.add_argument("input", metavar="IN.zdkm", help="written by zoo-jax compress")
    parser.add_argument("-o", "--output", required=True, metavar="OUT.safetensors")


def decompress_command(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the safetensors file."""
    result = decompress_network(args.input, args.output)
    of = f" of {result['model']}" if result["model"] else ""
    print(
        f"wrote {args.output}: {result['arrays']} arrays{of}, {result['bytes']:,} bytes"
    )
    return {"input": args.input, "output": args.output, **result}
