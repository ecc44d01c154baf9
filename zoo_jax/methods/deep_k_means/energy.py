r"""Energy of a clustered network on an accelerator: a model, not measurement.

The paper estimates energy by metrics of its own, whose formulas are not available to us. This
model is ours and says what it counts. Per layer, in units of one 16-bit multiply-add:

.. math:: E = c_{mac} \frac{A}{A_{ref}}
   + \sum_{level} c_{level} \frac{bits_{weights} + bits_{inputs} + bits_{outputs}}{16}

A is the number of 1-bit full adders that the products and additions of the layer take, A_ref
that of one 16-bit multiply-add. Every bit passes every memory level once: what registers can
reuse is reused, so traffic is a lower bound. Norms, activations and pooling are left out.
"""

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core
from jaxtyping import Int

from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.tree import named_leaves
from zoo_jax.methods.deep_k_means.accounting import index_entropy
from zoo_jax.methods.deep_k_means.clustered import Clustered
from zoo_jax.metrics.cost import count_macs
from zoo_jax.optim.samples import sample_shape

NOTE = "model, not measurement"
VARIANTS = ("dense", "fixed", "entropy")
LEVELS = ("dram", "buffer", "array", "register")  # from far to near


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hardware:
    """Bit widths, and relative costs of a 16-bit word at each level; a 16-bit MAC costs 1.

    The default costs are the set in common use (register 1, between processing elements 2,
    on-chip buffer 6, DRAM 200); they are nobody's measurement of one chip.

    Raises:
      ConfigError: for bits below 1, negative costs or unknown levels.
    """

    weight_bits: int = 16  # of a plain weight, a bias, and a number of a codebook
    activation_bits: int = 16
    mac: float = 1.0
    register: float = 1.0
    array: float = 2.0
    buffer: float = 6.0
    dram: float = 200.0
    weight_levels: tuple[str, ...] = LEVELS  # that weights pass
    activation_levels: tuple[str, ...] = LEVELS  # shorter if maps stay on the chip
    reference_bits: int = 16  # to which the costs above refer

    def __post_init__(self) -> None:
        for name in ("weight_bits", "activation_bits", "reference_bits"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"{name} must be 1 or more, got {getattr(self, name)}"
                )
        for name in ("mac", *LEVELS):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"cost {name} must be 0 or more, got {getattr(self, name)}"
                )
        for level in (*self.weight_levels, *self.activation_levels):
            if level not in LEVELS:
                raise ConfigError(f"unknown level {level!r}: {closest(level, LEVELS)}")

    def move(self, bits: float, level: str) -> float:
        """Energy of moving so many bits through one level."""
        return getattr(self, level) * bits / self.reference_bits

    def compute(self, products: int, additions: int, depth: int) -> float:
        r"""Energy of the arithmetic of dot products of length `depth`, by full adders.

        .. math:: A = products \cdot B_A B_W + additions \cdot
           (B_A + B_W + \lceil \log_2 D \rceil - 1)

        Source: the computational cost of "Analytical Guarantees on Numerical Precision of
        Deep Neural Networks" (ICML 2017), recalled, not checked against the paper. A_ref is
        the same for one product and one addition of reference width, without the logarithm.
        """
        a, w, r = self.activation_bits, self.weight_bits, self.reference_bits
        adder = a + w + math.ceil(math.log2(depth)) - 1
        return self.mac * (products * a * w + additions * adder) / (r * r + 2 * r - 1)


class Layer(NamedTuple):
    """Shapes of a convolution or dense layer that runs on one example."""

    name: str  # path of its kernel
    kernel: tuple[int, ...]  # [window.., in / groups, out]
    inputs: tuple[int, ...]  # [window axes.., channels]
    outputs: tuple[int, ...]  # likewise
    strides: tuple[int, ...] = ()  # per window axis; empty: all 1
    bias: int = 0  # how many biases

    @property
    def depth(self) -> int:
        """Length of its dot products."""
        return math.prod(self.kernel[:-1])

    @property
    def macs(self) -> int:
        """Multiply-adds; taps on padding count, as is usual."""
        return self.depth * math.prod(self.outputs)


class Energy(NamedTuple):
    """What one layer takes, in units of one 16-bit multiply-add. A model, not measurement."""

    products: int  # multiplications that are left after sharing
    weight_bits: float  # as they leave the far memory
    computation: float
    weight_traffic: float
    activation_traffic: float

    @property
    def total(self) -> float:
        """Computation and traffic."""
        return self.computation + self.weight_traffic + self.activation_traffic


def trace_layers(f: Callable[..., Any], params: Any, *args: Any) -> list[Layer]:
    """Finds the layers of a network in its traced program; computes nothing.

    Args:
      f: ``f(params, *args)``, a pure function of one example (leading axis 1).
      params: Nested dicts of arrays or shapes; a layer is a product with one of its leaves.
      *args: Arrays or `jax.ShapeDtypeStruct`.

    Returns:
      In the order of execution. A kernel that is used twice appears twice.

    Raises:
      ValueError: if products do not involve a parameter directly, stand in a loop, or the
        batch is not 1: the list would not be the whole network.
    """
    names = named_leaves(params)
    closed = jax.make_jaxpr(f)(params, *args)
    known = dict(zip(closed.jaxpr.invars, names, strict=False))
    layers = list(_layers(closed.jaxpr, known, names))
    missing = count_macs(f, params, *args) - sum(layer.macs for layer in layers)
    if missing:
        raise ValueError(
            f"{missing} multiply-adds are not those of a layer on one example: list the "
            "layers by hand"
        )
    return layers


def products_left(
    layer: Layer, labels: Int[np.ndarray, "n"], samples: str, row_length: int | None
) -> int:
    """Multiplications when equal samples meet equal inputs only once.

    A kernel row that lies over a piece of an input row gives the same partial sum for every
    output channel and vertical position that holds the same centre: it is multiplied once.
    The same goes for scalars, 2-D kernels and whole filters. Taps on padding count.

    Args:
      layer: A convolution or dense layer.
      labels: Centre of each sample, in the order of `to_matrix`.
      samples: As in `sample_shape`.
      row_length: As in `sample_shape`.
    """
    n, d = sample_shape(layer.kernel, samples, row_length)
    if labels.shape != (n,):
        raise ValueError(f"{layer.name}: {labels.size} labels for {n} samples")
    window = layer.kernel[:-2]
    # Axes of the window that a sample does not span, outermost first.
    inside = {"row": 1, "kernel2d": 2, "scalar": 0, "filter": len(window)}[samples]
    left = max(len(window) - inside, 0)
    # Outputs of different groups see different inputs and share nothing.
    groups = layer.inputs[-1] // layer.kernel[-2]
    own = layer.kernel[-1] // groups
    table = labels.reshape(groups, own, -1, math.prod(window[:left]))
    table = table.transpose(0, 2, 1, 3).reshape(-1, own, *window[:left])
    strides = layer.strides or (1,) * len(window)
    axes = [
        _taps(window[axis], layer.outputs[axis], strides[axis]).items()
        for axis in range(left)
    ]
    total = 0
    for choice in itertools.product(*axes):
        part = table
        for axis, (taps, _) in enumerate(choice):
            part = part.take(taps, axis=2 + axis)
        rows = np.sort(part.reshape(len(part), -1), axis=1)
        distinct = len(rows) + int(np.count_nonzero(np.diff(rows, axis=1)))
        total += distinct * math.prod(count for _, count in choice)
    return total * d * math.prod(layer.outputs[left:-1])


def layer_energy(
    layer: Layer,
    clusters: Clustered | None = None,
    *,
    variant: str = "entropy",
    hardware: Hardware | None = None,
) -> Energy:
    """Energy of one layer on one example; a model, not measurement.

    Args:
      layer: Its shapes.
      clusters: Its codebook and labels; None for a layer that is stored plainly.
      variant: "dense": plain weights, every product made. "fixed": a codebook and indices of
        ceil(log2 K) bits, shared products made once. "entropy": the same, and indices that
        take their entropy in DRAM; a decoder behind it gives the fixed-length ones.
      hardware: Bit widths and costs; `Hardware()` by default.

    Raises:
      ConfigError: for an unknown variant.
      ValueError: if clusters and layer differ in size.
    """
    if variant not in VARIANTS:
        raise ConfigError(f"unknown variant {variant!r}: {closest(variant, VARIANTS)}")
    hardware = hardware or Hardware()
    plain = variant == "dense" or clusters is None
    weights = math.prod(layer.kernel)
    stored = dict.fromkeys(LEVELS, weights * hardware.weight_bits)
    products = layer.macs
    if not plain:
        clusters = clusters.compact()
        k, n = len(clusters.codebook), clusters.labels.size
        codebook = clusters.codebook.size * hardware.weight_bits
        stored = dict.fromkeys(LEVELS, codebook + n * math.ceil(math.log2(k)))
        if variant == "entropy":
            stored["dram"] = codebook + n * index_entropy(clusters.labels)
        products = products_left(
            layer, clusters.labels, clusters.samples, clusters.row_length
        )
    bias = layer.bias * hardware.weight_bits
    stored = {level: bits + bias for level, bits in stored.items()}
    additions = (layer.depth - 1) * math.prod(layer.outputs)
    maps = math.prod(layer.inputs) + math.prod(layer.outputs)
    return Energy(
        products,
        stored["dram"],
        hardware.compute(products, additions, layer.depth),
        sum(hardware.move(stored[level], level) for level in hardware.weight_levels),
        sum(
            hardware.move(maps * hardware.activation_bits, level)
            for level in hardware.activation_levels
        ),
    )


def energy_table(
    layers: Sequence[Layer],
    clustered: Mapping[str, Clustered],
    *,
    hardware: Hardware | None = None,
) -> list[dict[str, Any]]:
    """One row per layer and variant, and the sums: for `Writer.table`, with `NOTE`.

    Args:
      layers: From `trace_layers`, or by hand.
      clustered: Path of a kernel -> its clusters; other layers are plain.
      hardware: Bit widths and costs.

    Returns:
      Rows ``layer, variant, macs, products, weight_bits, computation, weight_traffic,
      activation_traffic, total, note``; the layer of the sums is "all".

    Raises:
      ConfigError: if `clustered` names a layer that is not there.
    """
    names = [layer.name for layer in layers]
    for name in clustered:
        if name not in names:
            raise ConfigError(f"no layer {name!r}: {closest(name, names)}")
    rows = []
    for variant in VARIANTS:
        found = [
            layer_energy(
                layer, clustered.get(layer.name), variant=variant, hardware=hardware
            )
            for layer in layers
        ]
        macs = [layer.macs for layer in layers]
        total = Energy(*map(sum, zip(*found, strict=True)))
        for name, count, energy in zip(
            [*names, "all"], [*macs, sum(macs)], [*found, total], strict=True
        ):
            row = {"layer": name, "variant": variant, "macs": count}
            row |= energy._asdict() | {"total": energy.total, "note": NOTE}
            rows.append(row)
    return rows


def _taps(size: int, outputs: int, stride: int) -> dict[tuple[int, ...], int]:
    """Which taps of one window axis meet at an input position, and at how many positions."""
    at = collections.defaultdict(list)
    for tap in range(size):
        for output in range(outputs):
            at[output * stride + tap].append(tap)
    return collections.Counter(map(tuple, at.values()))


_SAME_LEAF = ("convert_element_type", "copy", "copy_p")


def _layers(
    jaxpr: core.Jaxpr, known: dict[Any, str], leaves: Mapping[str, Any]
) -> Iterator[Layer]:
    """Walks a program; `known` maps its variables to the parameters that they hold."""
    for eqn in jaxpr.eqns:
        held = [known.get(v) if isinstance(v, core.Var) else None for v in eqn.invars]
        primitive = eqn.primitive.name
        if primitive in _SAME_LEAF and held[0]:
            known[eqn.outvars[0]] = held[0]
        elif primitive == "conv_general_dilated" and held[1]:
            yield from _convolution(eqn, held[1], leaves)
        elif primitive == "dot_general" and held[1]:
            yield from _dense(eqn, held[1], leaves)
        elif primitive not in ("scan", "while", "cond"):
            for inner in _programs(eqn.params.values()):
                if len(inner.invars) == len(held):
                    names = zip(inner.invars, held, strict=True)
                    inside = {v: name for v, name in names if name}
                    yield from _layers(inner, inside, leaves)


def _programs(values: Iterable[Any]) -> Iterator[core.Jaxpr]:
    for value in values:
        if isinstance(value, core.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, core.Jaxpr):
            yield value


def _bias(name: str, leaves: Mapping[str, Any]) -> int:
    sibling = f"{name.rpartition('/')[0]}/bias".lstrip("/")
    return math.prod(leaves[sibling].shape) if sibling in leaves else 0


def _convolution(
    eqn: core.JaxprEqn, name: str, leaves: Mapping[str, Any]
) -> Iterator[Layer]:
    dims = eqn.params["dimension_numbers"]
    x, out = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    kernel = eqn.invars[1].aval.shape
    plain = all(f == 1 for f in eqn.params["rhs_dilation"] + eqn.params["lhs_dilation"])
    if x[dims.lhs_spec[0]] == 1 and plain:
        o, i, *window = dims.rhs_spec
        yield Layer(
            name,
            tuple(kernel[axis] for axis in (*window, i, o)),
            tuple(x[axis] for axis in (*dims.lhs_spec[2:], dims.lhs_spec[1])),
            tuple(out[axis] for axis in (*dims.out_spec[2:], dims.out_spec[1])),
            tuple(eqn.params["window_strides"]),
            _bias(name, leaves),
        )


def _dense(eqn: core.JaxprEqn, name: str, leaves: Mapping[str, Any]) -> Iterator[Layer]:
    (_, contracted), (_, batched) = eqn.params["dimension_numbers"]
    x, kernel = (v.aval.shape for v in eqn.invars)
    if tuple(contracted) == (0,) and not batched and len(x) == len(kernel) == 2:
        if x[0] == 1:
            yield Layer(name, kernel, x[1:], kernel[1:], (), _bias(name, leaves))
