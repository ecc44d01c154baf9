r"""Realigning gradients beside TorchJD and PyTorch, and what a harmonized step costs.

  python -m experiments.benchmarks.gradient_harmonization \
      --csv=experiments/results/gradient_harmonization_benchmark.csv

Everything runs on ``--cores`` cores (one by default), ours and theirs in turn, ``--rounds`` times;
medians are shown. A first call of each, which compiles, is not timed.

- ``aggregate``: from the gradients of three losses with 1, 10 and 100 million parameters to one
  update, and from those of 64 examples with two losses each. The results are compared before
  anything is timed. TorchJD takes one matrix of all gradients; making it is not timed. "PyTorch" is
  PCGrad over a list of flat gradients, as published ports have it. The limit is one reading of all
  gradients, and one more with a writing of the update, at the rate of a copy.
- ``step``: a training step of a small VATT, one encoder for video, sound and text, with Adam:
  harmonized, at each level, beside plain. ``ratio`` is the price. The remark has the ratio of
  the memory that the compiled step needs beside its arguments, and what was aimed at.

The first part needs ``pip install "zoo-jax[torch]" "torchjd[quadprog_projector]"``; TorchJD, if it is
not installed, is left out with a note.
"""

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
    in_turn,
    on_cores,
    publish,
)
from zoo_jax.core.errors import ConfigError, ZooError, closest
from zoo_jax.optim.harmonized import Harmonizer
from zoo_jax.optim.realign import realign_gradients
from zoo_jax.task import Aux, TrainState

_ROUNDS = flags.DEFINE_integer("rounds", 5, "Measurements of each.", lower_bound=1)
_CORES = flags.DEFINE_integer("cores", 1, "Cores to run on.", lower_bound=1)
_TINY = flags.DEFINE_bool("tiny", False, "Sizes that measure nothing: for tests.")
_PARTS = flags.DEFINE_list("parts", ["aggregate", "step"], "Which parts to measure.")
_JSON = flags.DEFINE_string("json", None, "Write the rows to this file.")
_CSV = flags.DEFINE_string("csv", None, "Write the rows to this table.")

PARAMETERS = (1_000_000, 10_000_000, 100_000_000)
LAYERS = 16  # equal leaves that the parameters are spread over
EXAMPLES, PER_EXAMPLE = 64, 100_000
BATCH = 8
# (layers, width, width of the feed-forward layers, heads), side of the clips, samples of sound
NETWORKS = (
    ((4, 256, 1024, 4), 64, 4096),
    ((6, 512, 2048, 8), 64, 4096),
    ((6, 512, 2048, 8), 128, 16384),
)
LEVELS = {
    "embedding": (dict(level="embedding"), "aim 1.05"),
    "triplet, ghost": (dict(statistics="ghost"), "aim 1.35"),
    "triplet, two passes": (dict(), ""),
    "last layer, ghost": (dict(level="subset", statistics="ghost"), ""),
    "batch": (dict(level="batch"), ""),
}


def main(argv: Sequence[str]) -> None:
    """Measures, prints one table and stores it."""
    del argv
    parts = {"aggregate": _aggregate, "step": _steps}
    for name in _PARTS.value:
        if name not in parts:
            raise ConfigError(f"unknown part {name!r}: {closest(name, parts)}")
    setting = Setting(_ROUNDS.value, _CORES.value, _TINY.value)
    with on_cores(setting.cores):
        rows = [row for name in _PARTS.value for row in parts[name](setting)]
    publish(
        rows,
        json=_JSON.value,
        csv_file=_CSV.value,
        cores=setting.cores,
        rounds=setting.rounds,
    )


def _aggregate(setting: Setting) -> Iterator[Row]:
    try:
        import torch
    except ImportError:
        raise ZooError(
            'this part compares with PyTorch: pip install "zoo-jax[torch]"'
        ) from None
    torch.set_num_threads(setting.cores)
    copy_rate = _copy_rate(setting)
    for count in (1600,) if setting.tiny else PARAMETERS:
        size = count // LAYERS
        rng = np.random.default_rng(0)
        stacked = rng.standard_normal((LAYERS, 3, size), np.float32)
        for rule in ("pcgrad", "upgrad"):
            yield from _terms(rule, stacked, count, copy_rate, setting)
        del stacked
    yield from _examples(copy_rate, setting)


def _copy_rate(setting: Setting) -> float:
    """Bytes per second of reading one array and writing another, counted once."""
    source = np.ones(10_000 if setting.tiny else 50_000_000, np.float32)
    target = np.empty_like(source)
    times = in_turn({"copy": lambda _: np.copyto(target, source)}, 5)
    return source.nbytes / times["copy"][0].least


def _ours(tx: Any, leaves: dict[str, Any]) -> Callable[[], Any]:
    run = jax.jit(lambda grads, state: tx.update(grads, state)[0])
    grads = jax.device_put(leaves)
    like = {name: leaf.reshape(-1, leaf.shape[-1])[0] for name, leaf in leaves.items()}
    state = tx.init(like)
    return lambda: jax.block_until_ready(run(grads, state))


def _terms(
    rule: str, stacked: np.ndarray, count: int, copy_rate: float, setting: Setting
) -> Iterator[Row]:
    import torch

    leaves = {f"layer_{i:02d}": g for i, g in enumerate(stacked)}
    ours = _ours(realign_gradients(rule=rule), leaves)
    matrix = torch.from_numpy(np.concatenate(list(stacked), 1))
    others: dict[str, Callable[[], Any]] = {}
    if rule == "pcgrad":
        grads = [matrix[i] for i in range(3)]
        others["PyTorch"] = lambda: _pcgrad_loop(grads)
    others |= _torchjd(rule, matrix)
    got = np.concatenate(list(map(np.asarray, ours().values())))
    for name, other in others.items():
        # The package divides UPGrad by the number of terms, and adds a little to its matrix.
        want = other().numpy() * (3 if rule == "upgrad" else 1)
        # Three random gradients are nearly orthogonal: orders hardly matter.
        if not np.linalg.norm(got - want) < 2e-2 * np.linalg.norm(want):
            raise ZooError(
                f"{rule}: our result is not that of {name}: nothing is timed"
            )
    what = f"{rule}, 3 losses x {count:,}"
    bytes_moved = stacked.nbytes * 2 + stacked.nbytes / 3
    yield from _rows(what, ours, others, bytes_moved / 2 / copy_rate, setting)


def _examples(copy_rate: float, setting: Setting) -> Iterator[Row]:
    import torch

    examples, size = (4, 64) if setting.tiny else (EXAMPLES, PER_EXAMPLE)
    rng = np.random.default_rng(1)
    grads = rng.standard_normal((examples, 2, size), np.float32)
    ours = _ours(realign_gradients(example_axis=0), {"layer": grads})
    given = torch.from_numpy(grads)

    def loop() -> Any:
        return sum(_pcgrad_loop(list(pair)) for pair in given)

    others = {"PyTorch, a loop": loop}
    if found := _torchjd("pcgrad", given[0]):
        (name,) = found

        def package() -> Any:
            return sum(_torchjd("pcgrad", pair)[name]() for pair in given)

        others[f"{name}, a loop"] = package
    want, got = loop().numpy(), np.asarray(ours()["layer"])
    if not np.linalg.norm(got - want) < 1e-4 * np.linalg.norm(want):
        raise ZooError("per example: our result is not PyTorch's: nothing is timed")
    limit = grads.nbytes / copy_rate
    what = f"pcgrad, {examples} examples x 2 losses x {size:,}"
    yield from _rows(what, ours, others, limit, setting)


def _rows(
    what: str,
    ours: Callable[[], Any],
    others: dict[str, Callable[[], Any]],
    limit: float,
    setting: Setting,
) -> Iterator[Row]:
    # Pair by pair: a neighbour that gives much memory back makes the next one slower.
    for name, other in others.items():
        pair = {"ours": lambda _: ours(), name: lambda _, f=other: f()}
        in_turn(pair, 1)
        times = in_turn(pair, setting.rounds)
        yield Row(
            what=what,
            unit="s",
            ours=times["ours"][0],
            other=name,
            theirs=times[name][0],
            limit=limit,
            limit_is="memory",
        )


def _pcgrad_loop(grads: list[Any]) -> Any:
    """PCGrad as its ports for PyTorch do it, term by term on flat gradients."""
    total = None
    for i, own in enumerate(grads):
        changed = own.clone()
        for j, other in enumerate(grads):
            if i != j:
                inner = changed @ other
                if inner < 0:
                    changed -= inner / other.norm() ** 2 * other
        total = changed if total is None else total + changed
    return total


def _torchjd(rule: str, matrix: Any) -> dict[str, Callable[[], Any]]:
    try:
        from torchjd import aggregation

        found = {"pcgrad": aggregation.PCGrad, "upgrad": aggregation.UPGrad}[rule]()
    except ImportError as error:  # of the package, or of the solver that UPGrad needs
        logging.warning("TorchJD left out: %s", str(error).splitlines()[0])
        return {}
    return {"TorchJD": lambda: found(matrix)}


def _steps(setting: Setting) -> Iterator[Row]:
    networks = (((1, 16, 32, 1), 32, 512),) if setting.tiny else NETWORKS
    for encoder, side, samples in networks:
        yield from _step(encoder, side, samples, setting)


def _step(encoder, side: int, samples: int, setting: Setting) -> Iterator[Row]:
    from zoo_jax.methods.gradient_harmonization.model import build_vatt
    from zoo_jax.methods.gradient_harmonization.networks import (
        init_networks,
        make_towers,
    )

    layers, width, _, heads = encoder
    vatt = build_vatt(
        encoder=encoder,
        clip=(8, side, side),
        sound=(samples,),
        projection=width,
        d_kv=width // heads,
        keep_tokens=1.0,
        dropout_rate=0.0,  # random numbers would take longer to compile than all the rest
        words=16,
    )
    rng = np.random.default_rng(0)
    batch = {
        "video": rng.uniform(-1, 1, (BATCH, 8, side, side, 3)).astype(np.float32),
        "audio": rng.uniform(-1, 1, (BATCH, samples)).astype(np.float32),
        "text": rng.integers(1, 1000, (BATCH, 1, 16)),
    }
    variables = init_networks(vatt, jax.random.key(0), batch)
    owned = {"backbone": variables["params"]["backbone"]}
    towers = make_towers(vatt.backbone, variables["model_state"]["backbone"])
    tx = optax.adam(1e-4)
    key = jax.random.key(1)

    def make(harmonize: bool, **options: Any) -> Any:
        h = Harmonizer(towers=towers, heads=_heads, **options)

        def step(owned, moments, batch):
            state = _state(owned)
            if harmonize:
                grads = h.gradient(h.loss, owned, state, batch, key)[0]
            else:
                grads = jax.grad(
                    lambda p: sum(
                        jnp.mean(t) for t in h.loss(p, state, batch, key)[0].values()
                    )
                )(owned)
            updates, moments = tx.update(grads, moments, owned)
            return optax.apply_updates(owned, updates), moments

        jitted = jax.jit(step, donate_argnums=(0, 1))
        return jitted.lower(owned, tx.init(owned), batch).compile()

    last = (f"shared_encoder/layer_{layers - 1}/*",)
    programs = {"plain": make(False)}
    logging.info("compiling %d harmonized steps, %d layers each", len(LEVELS), layers)
    for name, (options, _) in LEVELS.items():
        subset = dict(subset=last) if options.get("level") == "subset" else {}
        programs[name] = make(True, **options, **subset)
    given = jax.device_put(batch)

    def runner(program: Any) -> Callable[[int], None]:
        start = jax.tree.map(jnp.copy, owned)
        states = [(start, tx.init(start))]

        def run(_: int) -> None:
            states[0] = jax.block_until_ready(program(*states[0], given))

        return run

    functions = {name: runner(program) for name, program in programs.items()}
    in_turn(functions, 1)
    times = in_turn(functions, setting.rounds)
    memory = {n: p.memory_analysis().temp_size_in_bytes for n, p in programs.items()}
    tokens = 2 * (side // 16) ** 2 + samples // 128 + 16 + 3
    for name, (_, aim) in LEVELS.items():
        remark = f"memory {memory[name] / memory['plain']:.2f}"
        yield Row(
            what=f"step, {layers} layers of {width}, {tokens} tokens, {name}",
            unit="s",
            ours=times[name][0],
            other="plain step",
            theirs=times["plain"][0],
            remark=f"{remark}; {aim}" if aim else remark,
        )


def _heads(owned, features, state, batch, key):
    from zoo_jax.losses.contrastive import nce

    del owned, state, batch, key
    video, audio, text = features["video"], features["audio"], features["text"][:, 0]
    return {"audio": nce(video, audio), "text": nce(video, text)}, Aux({}, {})


def _state(owned: dict[str, Any]) -> TrainState:
    zero = jnp.int32(0)
    return TrainState(
        step=zero,
        params=owned,
        model_state={},
        opt_state={},
        ema={},
        key=jax.random.key(0),
        skipped=zero,
        streak=zero,
    )


if __name__ == "__main__":
    common.run_main(main)
