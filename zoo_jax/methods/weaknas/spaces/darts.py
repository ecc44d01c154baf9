"""The cells of DARTS, which are NASNet's with fewer operations: a normal and a reduction cell.

A cell has two inputs (the outputs of the two cells before it) and four steps. Each step adds
two of the earlier results after one operation each; the four steps are concatenated (arXiv
1806.09055, section 2.1). Nobody has trained all cells: the pool is a sample without labels, for
searches that train what they ask for.

The paper searched such a space for ImageNet, but its encoding and settings are not published
(the released README lists them as not released): the encoding here is ours.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Int

from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.methods.weaknas.spaces.pool import Pool
from zoo_jax.methods.weaknas.spaces.sampling import draw_distinct
from zoo_jax.methods.weaknas.spaces.tables import one_hot

OPS = (
    *("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3"),
    *("sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"),
)
CELLS = ("normal", "reduce")
STEPS, INPUTS = 4, 2
EDGES = sum(2 + step for step in range(STEPS))  # what a step may read, over all steps

# A network is an array [2 cells, 4 steps, 2 inputs, (operation, what it reads)]. Readable are
# 0 and 1, the inputs of the cell, and 2 + s, the step s.
Network = Int[np.ndarray, "2 4 2 2"]


class Macro(NamedTuple):
    """The network that the cells are stacked into.

    The published ones: ImageNet as in DARTS (48 channels, 14 cells) or as in the released code
    of WeakNAS (46 channels), CIFAR-10 with 36 channels and 20 cells.
    """

    stem: Literal["imagenet", "cifar"] = "imagenet"
    channels: int = 48
    cells: int = 14
    image_size: int = 224
    num_classes: int = 1000


CIFAR10 = Macro("cifar", 36, 20, 32, 10)


def _network(normal: str, reduce: str) -> Network:
    """From printed cells, see `format_cell`."""
    cells = []
    for text in (normal, reduce):
        terms = [term.partition("(") for term in text.replace("+", " ").split()]
        cells.append([(OPS.index(op), int(read[:-1])) for op, _, read in terms])
    return np.array(cells).reshape(2, STEPS, INPUTS, 2)


KNOWN: dict[str, Network] = {
    # arXiv 1806.09055: second-order search on CIFAR-10.
    "darts_v2": _network(
        "sep_conv_3x3(0)+sep_conv_3x3(1) sep_conv_3x3(0)+sep_conv_3x3(1) "
        "sep_conv_3x3(1)+skip_connect(0) skip_connect(0)+dil_conv_3x3(2)",
        "max_pool_3x3(0)+max_pool_3x3(1) skip_connect(2)+max_pool_3x3(1) "
        "max_pool_3x3(0)+skip_connect(2) skip_connect(2)+max_pool_3x3(1)",
    ),
    # arXiv 2102.10490, released code: found on ImageNet after 800 queries; 46 channels.
    "weaknas_800": _network(
        "sep_conv_5x5(1)+dil_conv_3x3(0) sep_conv_3x3(0)+sep_conv_3x3(2) "
        "skip_connect(0)+dil_conv_5x5(1) sep_conv_3x3(1)+sep_conv_5x5(3)",
        "sep_conv_5x5(0)+sep_conv_5x5(1) sep_conv_3x3(1)+sep_conv_5x5(2) "
        "sep_conv_3x3(3)+sep_conv_5x5(2) sep_conv_5x5(4)+sep_conv_3x3(4)",
    ),
}


def encode(networks: Int[np.ndarray, "m 2 4 2 2"]) -> Float32[np.ndarray, "m 196"]:
    """Features: for both cells, each readable of each step and each operation, how often.

    Usually 0 or 1; 2 where both inputs of a step are the same. The order of the inputs of
    a step does not show.
    """
    ops, reads = networks[..., 0], networks[..., 1]
    offset = np.array([sum(2 + s for s in range(step)) for step in range(STEPS)])
    edge = reads + offset[:, None]
    hot = one_hot(edge, EDGES)[..., :, None] * one_hot(ops, len(OPS))[..., None, :]
    return hot.sum(axis=(2, 3)).reshape(len(networks), -1)


def format_cell(cell: Int[np.ndarray, "4 2 2"]) -> str:
    """The printed form: for each step ``op(read)+op(read)``.

    >>> format_cell(KNOWN["darts_v2"][0])[:31]
    'sep_conv_3x3(0)+sep_conv_3x3(1)'
    """
    return " ".join(
        "+".join(f"{OPS[op]}({read})" for op, read in step) for step in cell
    )


def genotype(network: Network) -> dict[str, list]:
    """The form of the released codes: ``normal``, ``normal_concat``, ``reduce``, ``reduce_concat``."""
    out: dict[str, list] = {}
    for name, cell in zip(CELLS, network, strict=True):
        out[name] = [[OPS[op], int(read)] for op, read in cell.reshape(-1, 2)]
        out[f"{name}_concat"] = list(range(2, 2 + STEPS))
    return out


def one_edit(
    network: Network, *, repeat_inputs: bool = False
) -> Int[np.ndarray, "q 2 4 2 2"]:
    """All networks with one other operation, or one input that reads something else.

    Args:
      network: The network.
      repeat_inputs: Whether both inputs of a step may read the same.
    """
    out = []
    for at in np.ndindex(network.shape):
        step, field = at[1], at[3]
        for value in range(len(OPS) if field == 0 else 2 + step):
            other = network.copy()
            other[at] = value
            same = other[at[0], step, 0, 1] == other[at[0], step, 1, 1]
            if value != network[at] and (repeat_inputs or not same):
                out.append(other)
    return np.stack(out)


def count_costs(
    networks: Int[np.ndarray, "m 2 4 2 2"], macro: Macro | None = None
) -> tuple[Int[np.ndarray, "m"], Int[np.ndarray, "m"]]:
    """Multiply-adds (of convolutions and the linear layer) and parameters, exactly.

    Without auxiliary head, and with batch norms as in the released codes (none that learns
    behind a pooling). The parameters are those published for DARTS (3.349 and 4.719 million on
    CIFAR-10 and ImageNet); its paper names 574 million multiply-adds for the latter, of which
    we count 530 million, and does not say what it counts.

    >>> [int(cost[0]) for cost in count_costs(KNOWN["darts_v2"][None], CIFAR10)][1]
    3349342
    """
    fixed, per_op = _tables(Macro() if macro is None else macro)
    ops, reads = networks[..., 0], networks[..., 1]
    # An operation of a reduction cell halves the map if it reads an input of the cell.
    halves = (np.arange(2)[:, None, None] == 1) & (reads < 2)
    cell = np.broadcast_to(np.arange(2)[:, None, None], ops.shape)
    costs = fixed + per_op[cell, halves.astype(int), ops].sum(axis=(1, 2, 3))
    return costs[:, 0], costs[:, 1]


def _tables(macro: Macro) -> tuple[np.ndarray, np.ndarray]:
    """Costs (multiply-adds, parameters): of the fixed parts; by cell, halving, operation."""
    per_op = np.zeros((2, 2, len(OPS), 2), np.int64)
    c, size = macro.channels, macro.image_size
    if macro.stem == "imagenet":
        sides = [-(-size // 2), -(-size // 4), -(-size // 8)]
        convs = [(3, c // 2, sides[0]), (c // 2, c, sides[1]), (c, c, sides[2])]
        before, side = [c, c], sides[2]
    else:
        convs = [(3, 3 * c, size)]
        before, side = [3 * c, 3 * c], size
    fixed = sum(_conv(9 * a * b, b, s) for a, b, s in convs)
    for i in range(macro.cells):
        reduction = i in (macro.cells // 3, 2 * macro.cells // 3)
        c *= 2 if reduction else 1
        # Both inputs come to c channels and to the smaller of their maps.
        fixed = fixed + sum(_conv(inputs * c, c, side) for inputs in before)
        side = -(-side // 2) if reduction else side
        for halves in (0, 1):
            per_op[int(reduction), halves] += _op_costs(c, halves, side)
        before = [before[1], STEPS * c]
    head = before[1] * macro.num_classes
    return fixed + np.array([head, head + macro.num_classes]), per_op


def _conv(weights: int, norm: int, side: int) -> np.ndarray:
    """A convolution and the batch norm behind it (of `norm` channels)."""
    return np.array([weights * side**2, weights + 2 * norm], np.int64)


def _op_costs(c: int, halves: int, side: int) -> np.ndarray:
    """[operation, (multiply-adds, parameters)] with `c` channels and a result of `side`."""
    out = np.zeros((len(OPS), 2), np.int64)
    for i, name in enumerate(OPS):
        kind, size = name[:3], int(name[-1]) if name[-1].isdigit() else 0
        if kind in ("sep", "dil"):
            once = _conv(c * size**2 + c * c, c, side)
            out[i] = 2 * once if kind == "sep" else once
        elif kind == "ski" and halves:  # two 1x1 convolutions of half the channels
            out[i] = _conv(c * c, c, side)
    return out


def build_pool(
    *,
    size: int = 10_000,
    seed: int = 0,
    repeat_inputs: bool = False,
    min_mflops: float = 0.0,
    max_mflops: float = 600.0,
    stem: str = "imagenet",
    channels: int = 48,
    cells: int = 14,
    image_size: int = 224,
    num_classes: int = 1000,
) -> Pool:
    """Draws a pool of distinct networks within a range of multiply-adds. It has no labels.

    Args:
      size: How many.
      seed: Of the draws.
      repeat_inputs: Whether both inputs of a step may read the same, as in NASNet and in the
        network published with WeakNAS; in DARTS they differ.
      min_mflops: Least multiply-adds in millions.
      max_mflops: Most; 600 is the usual mobile setting.
      stem: ``"imagenet"`` or ``"cifar"``.
      channels: Of the first cells.
      cells: How many are stacked; two of them are reduction cells.
      image_size: Side of the images.
      num_classes: Number of logits.

    Raises:
      ConfigError: for numbers out of range, or too few networks in the range.
    """
    if stem not in ("imagenet", "cifar"):
        raise ConfigError(
            f"unknown stem {stem!r}: {closest(str(stem), ('imagenet', 'cifar'))}"
        )
    macro = Macro(stem, channels, cells, image_size, num_classes)
    for name, value in zip(Macro._fields[1:], macro[1:], strict=True):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {name}={value}")
    if channels % 2 or cells < 3:
        raise ConfigError(
            "channels must be even and cells at least 3, got "
            f"channels={channels}, cells={cells}"
        )

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        networks = _draw(rng, 8192, repeat_inputs)
        macs, _ = count_costs(networks, macro)
        inside = (macs >= 1e6 * min_mflops) & (macs <= 1e6 * max_mflops)
        return networks, encode(networks).astype(np.uint8), inside

    mend = (
        f"widen the range of {min_mflops} to {max_mflops} million multiply-adds "
        "(min_mflops, max_mflops), or lower size"
    )
    networks = draw_distinct(size, seed, draw, mend=mend)
    macs, params = count_costs(networks, macro)
    return Pool(
        name="darts",
        features=encode(networks),
        labels={},
        classes=np.arange(size, dtype=np.int32),
        costs={"flops": macs.astype(np.float32), "params": params.astype(np.float32)},
        describe=lambda i: " | ".join(
            f"{name}: {format_cell(cell)}"
            for name, cell in zip(CELLS, networks[i], strict=True)
        ),
        config=lambda i: genotype(networks[i]),
    )


def _draw(rng: np.random.Generator, count: int, repeat_inputs: bool) -> np.ndarray:
    """Uniform networks, the inputs of a step in ascending order."""
    shape = (count, len(CELLS), STEPS)
    ops = rng.integers(0, len(OPS), (*shape, INPUTS))
    readable = 2 + np.arange(STEPS)
    first = rng.integers(0, readable, shape)
    if repeat_inputs:
        second = rng.integers(0, readable, shape)
    else:
        second = (first + rng.integers(1, readable, shape)) % readable
    networks = np.stack([ops, np.stack([first, second], axis=-1)], axis=-1)
    order = np.argsort(networks[..., 1] * len(OPS) + networks[..., 0], axis=-1)
    return np.take_along_axis(networks, order[..., None], axis=-2)
