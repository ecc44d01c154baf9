"""The space of the once-for-all MobileNetV3: five stages of two to four blocks each.

Every block has a kernel of 3, 5 or 7 and an expansion of 3, 4 or 6. The released search used
the supernet ``ofa_mbv3_d234_e346_k357_w1.2`` (arXiv 1908.09791) and a pool of 10,000 sub-nets
of 550 to 600 million multiply-adds at 236x236 pixels.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int

from zoo_jax.core.errors import DataError
from zoo_jax.core.files import PathLike
from zoo_jax.methods.weaknas.spaces.pool import Pool
from zoo_jax.methods.weaknas.spaces.sampling import draw_distinct
from zoo_jax.methods.weaknas.spaces.tables import load_npz, locate

KERNELS, EXPANSIONS, DEPTHS = (3, 5, 7), (3, 4, 6), (2, 3, 4)
STAGES, SLOTS = 5, 4  # blocks that a stage has room for
WIDTH, IMAGE_SIZE = 1.2, 236
_STRIDES = (2, 2, 2, 1, 2)
_SQUEEZE = (False, True, False, True, True)
_BASE = (16, 16, 24, 40, 80, 112, 160, 960, 1280)  # at width 1


class SubNet(NamedTuple):
    """One architecture; slots beyond the depth of their stage are not used."""

    kernels: tuple[int, ...]  # 20
    expansions: tuple[int, ...]  # 20
    depths: tuple[int, ...]  # 5


# The networks that the released search found after 800 and 1000 queries.
WINNERS: dict[str, SubNet] = {
    "800": SubNet(
        (3, 5, 5, 5, 7, 5, 7, 3, 3, 7, 5, 7, 3, 3, 5, 5, 7, 5, 3, 5),
        (4, 6, 4, 4, 4, 3, 4, 6, 4, 6, 6, 3, 6, 6, 6, 3, 6, 6, 4, 3),
        (2, 4, 4, 4, 4),
    ),
    "1000": SubNet(
        (5, 3, 3, 3, 5, 5, 5, 3, 7, 5, 7, 5, 3, 5, 5, 3, 7, 5, 3, 5),
        (3, 3, 4, 3, 4, 6, 4, 4, 4, 6, 6, 6, 6, 6, 6, 4, 6, 6, 6, 3),
        (4, 3, 3, 3, 4),
    ),
}


@dataclasses.dataclass(frozen=True)
class Widths:
    """Channels of the network: stem, first block, five stages, and the two last layers."""

    stem: int
    first: int
    stages: tuple[int, ...]
    expand: int
    mix: int

    @classmethod
    def of(cls, multiplier: float) -> "Widths":
        """At a width multiplier, each rounded to a multiple of 8."""
        stem, first, *stages, expand, mix = (divisible(multiplier * c) for c in _BASE)
        return cls(stem, first, tuple(stages), expand, mix)


def divisible(channels: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `channels`, at least 90 % of it.

    >>> [divisible(c) for c in (19.2, 48, 134.4, 204)]
    [24, 48, 136, 208]
    """
    out = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return out + divisor if out < 0.9 * channels else out


class Block(NamedTuple):
    """One block of a stage, as the network builds it."""

    inputs: int
    features: int
    hidden: int
    kernel: int
    stride: int
    squeeze: int  # channels of the squeeze-and-excitation, 0 for none
    stage: int


def blocks(net: SubNet, widths: Widths) -> list[Block]:
    """The blocks of a sub-net, in order, without the first one of fixed form."""
    out, inputs = [], widths.first
    for stage, features in enumerate(widths.stages):
        for slot in range(net.depths[stage]):
            at = SLOTS * stage + slot
            hidden = inputs * net.expansions[at]
            squeeze = divisible(hidden // 4) if _SQUEEZE[stage] else 0
            stride = _STRIDES[stage] if slot == 0 else 1
            kernel = net.kernels[at]
            out.append(Block(inputs, features, hidden, kernel, stride, squeeze, stage))
            inputs = features
    return out


class _Cost(NamedTuple):
    macs: int
    params: int

    def __add__(self, other):
        return _Cost(self.macs + other.macs, self.params + other.params)


def _block_cost(block: Block, side: int) -> tuple[_Cost, int]:
    """What a block costs on a map of `side` pixels, and the side behind it."""
    out = -(-side // block.stride)
    expand = block.inputs * block.hidden if block.hidden != block.inputs else 0
    depthwise, project = block.hidden * block.kernel**2, block.hidden * block.features
    squeeze = 2 * block.hidden * block.squeeze
    macs = expand * side**2 + (depthwise + project) * out**2 + squeeze
    norms = 2 * ((2 if expand else 1) * block.hidden + block.features)
    biases = block.squeeze + block.hidden if squeeze else 0
    return _Cost(macs, expand + depthwise + project + squeeze + norms + biases), out


def _fixed_cost(
    widths: Widths, image_size: int, num_classes: int
) -> tuple[_Cost, list[int]]:
    """Everything but the stages, and the sides of the maps that the stages get and give."""
    side = -(-image_size // 2)
    stem = _Cost(27 * widths.stem * side**2, 29 * widths.stem)
    first, _ = _block_cost(
        Block(widths.stem, widths.first, widths.stem, 3, 1, 0, -1), side
    )
    sides = [side]
    for stride in _STRIDES:
        sides.append(-(-sides[-1] // stride))
    expand = widths.stages[-1] * widths.expand
    mix, head = widths.expand * widths.mix, widths.mix * num_classes
    tail = _Cost(
        expand * sides[-1] ** 2 + mix + head,
        expand + 2 * widths.expand + mix + head + num_classes,
    )
    return stem + first + tail, sides


def count_costs(
    kernels: Int[np.ndarray, "m 20"],
    expansions: Int[np.ndarray, "m 20"],
    depths: Int[np.ndarray, "m 5"],
    *,
    image_size: int = IMAGE_SIZE,
    width: float = WIDTH,
    num_classes: int = 1000,
) -> tuple[Int[np.ndarray, "m"], Int[np.ndarray, "m"]]:
    """Multiply-adds (of convolutions and linear layers) and parameters of sub-nets, exactly.

    >>> net = [np.array([x]) for x in WINNERS["800"]]
    >>> [int(cost[0]) for cost in count_costs(*net)]
    [593163960, 8577088]
    """
    widths = Widths.of(width)
    fixed, sides = _fixed_cost(widths, image_size, num_classes)
    macs = np.full(len(depths), fixed.macs, np.int64)
    params = np.full(len(depths), fixed.params, np.int64)
    inputs = widths.first
    for stage, features in enumerate(widths.stages):
        for slot in range(SLOTS):
            at = SLOTS * stage + slot
            first = slot == 0
            source, side = (
                (inputs, sides[stage]) if first else (features, sides[stage + 1])
            )
            used = slot < depths[:, stage]
            for kernel in KERNELS:
                for expansion in EXPANSIONS:
                    hidden = source * expansion
                    squeeze = divisible(hidden // 4) if _SQUEEZE[stage] else 0
                    stride = _STRIDES[stage] if first else 1
                    block = Block(
                        source, features, hidden, kernel, stride, squeeze, stage
                    )
                    cost, _ = _block_cost(block, side)
                    here = used & (kernels[:, at] == kernel)
                    here &= expansions[:, at] == expansion
                    macs += cost.macs * here
                    params += cost.params * here
        inputs = features
    return macs, params


def used_slots(depths: Int[np.ndarray, "m 5"]) -> np.ndarray:
    """Which of the 20 slots a sub-net uses, bool [m, 20]."""
    return (np.arange(SLOTS) < depths[:, :, None]).reshape(len(depths), -1)


def encode(
    kernels: Int[np.ndarray, "m 20"],
    expansions: Int[np.ndarray, "m 20"],
    depths: Int[np.ndarray, "m 5"],
    *,
    mask_inactive: bool = True,
) -> Float32[np.ndarray, "m 45"]:
    """Features of sub-nets: 20 kernels, 20 expansions, 5 depths, as they are.

    Args:
      kernels: Of all slots.
      expansions: Of all slots.
      depths: Of the stages.
      mask_inactive: Puts 0 for slots beyond the depth. The released code leaves what was
        drawn for them, which is noise to a predictor.

    Source: arXiv 2102.10490, released notebook of the ImageNet search.
    """
    if mask_inactive:
        used = used_slots(depths)
        kernels, expansions = kernels * used, expansions * used
    return np.concatenate([kernels, expansions, depths], axis=1).astype(np.float32)


def sample(
    size: int, *, seed: int = 0, min_mflops: float, max_mflops: float, **costs: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws distinct sub-nets whose multiply-adds lie in a range.

    Uniform over kernels, expansions and depths, what is out of the range or computes the
    same as an earlier one drawn again.

    Args:
      size: How many.
      seed: Of the draws; fewer of the same seed are the beginning of more.
      min_mflops: Least multiply-adds in millions.
      max_mflops: Most.
      **costs: As `count_costs`: image_size, width.

    Returns:
      Kernels [size, 20], expansions [size, 20], depths [size, 5].

    Raises:
      ConfigError: if the range holds too few.
    """
    slots = STAGES * SLOTS

    def split(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return rows[:, :slots], rows[:, slots : 2 * slots], rows[:, 2 * slots :]

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        index = split(rng.integers(0, 3, (8192, 2 * slots + STAGES)))
        choices = (KERNELS, EXPANSIONS, DEPTHS)
        nets = [np.array(c)[i] for c, i in zip(choices, index, strict=True)]
        macs, _ = count_costs(*nets, **costs)
        inside = (macs >= 1e6 * min_mflops) & (macs <= 1e6 * max_mflops)
        return np.concatenate(nets, axis=1), encode(*nets).astype(np.uint8), inside

    mend = (
        f"widen the range of {min_mflops} to {max_mflops} million multiply-adds "
        "(min_mflops, max_mflops), or lower size"
    )
    return split(draw_distinct(size, seed, draw, mend=mend))


def build_pool(
    *,
    table: PathLike | None = None,
    size: int = 10_000,
    seed: int = 0,
    min_mflops: float = 550.0,
    max_mflops: float = 600.0,
    image_size: int = IMAGE_SIZE,
    mask_inactive: bool = True,
) -> Pool:
    """Opens a pool of sub-nets, drawn or from a table.

    Args:
      table: A ``.npz`` with ``kernels`` [m, 20], ``expansions`` [m, 20], ``depths`` [m, 5], and
        the measurements that there are: ``search`` and ``test``, accuracies in per cent [m].
        None draws sub-nets, which have no labels.
      size: How many to draw.
      seed: Of the draws.
      min_mflops: Least multiply-adds of a drawn sub-net, in millions.
      max_mflops: Most.
      image_size: Side of the images for which multiply-adds count.
      mask_inactive: As in `encode`.

    Raises:
      ConfigError: for a size below 1, or too few sub-nets in the range.
      DataError: for a table that is missing or malformed.
    """
    labels: Mapping[str, np.ndarray] = {}
    if table is not None:
        nets, labels = _read_table(table)
    else:
        nets = sample(
            size,
            seed=seed,
            min_mflops=min_mflops,
            max_mflops=max_mflops,
            image_size=image_size,
        )
    macs, params = count_costs(*nets, image_size=image_size)
    used = used_slots(nets[2])
    form = encode(*nets).astype(np.uint8)
    classes = np.unique(form, axis=0, return_inverse=True)[1]

    def describe(i: int) -> str:
        slots = [
            f"k{k}e{e}" if u else ""
            for k, e, u in zip(nets[0][i], nets[1][i], used[i], strict=True)
        ]
        stages = [
            " ".join(filter(None, slots[s : s + SLOTS])) for s in range(0, 20, SLOTS)
        ]
        return " | ".join(stages)

    return Pool(
        name="ofa_mobilenet_v3",
        features=encode(*nets, mask_inactive=mask_inactive),
        labels=labels,
        classes=classes.reshape(-1).astype(np.int32),
        costs={"flops": macs.astype(np.float32), "params": params.astype(np.float32)},
        describe=describe,
        config=lambda i: {
            name: part[i].tolist()
            for name, part in zip(SubNet._fields, nets, strict=True)
        },
    )


def _read_table(
    table: PathLike,
) -> tuple[tuple[np.ndarray, ...], dict[str, np.ndarray]]:
    path = locate(table, "", "it is a file of your own, see build_pool")
    shapes = {"kernels": (None, 20), "expansions": (None, 20), "depths": (None, STAGES)}
    arrays = load_npz(path, shapes, {"search": (None,), "test": (None,)})
    for name, allowed in zip(shapes, (KERNELS, EXPANSIONS, DEPTHS), strict=True):
        wrong = arrays[name][~np.isin(arrays[name], allowed)]
        if len(wrong):
            raise DataError(
                f"{path}: array {name!r} holds {wrong[0]}, not one of {allowed}"
            )
    labels = {
        k: arrays[k].astype(np.float32) for k in ("search", "test") if k in arrays
    }
    return tuple(arrays[name].astype(np.int64) for name in shapes), labels
