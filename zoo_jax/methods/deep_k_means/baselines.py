"""Other ways to share weights, to compare with: pure functions, one section each.

Deep Compression clusters scalars after training; clustering with a straight-through gradient
and differentiable k-means cluster while training; soft weight-sharing learns a mixture that
weights gather around. Samples are rows of a matrix [n, d], as `LayerSpec.matrix` gives them.
"""

import functools
import math
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.tree import named_leaves
from zoo_jax.core.types import Key, Params
from zoo_jax.optim import lloyd
from zoo_jax.optim.layer_spec import LayerSpec

Init = Literal["kmeans++", "linear", "density", "random"]
Reduce = Literal["sum", "mean"]


# --- clustering of single weights -----------------------------------------------------


def per_scalar_spec(
    params: Params, *, conv_bits: int = 8, dense_bits: int = 5
) -> dict[str, LayerSpec]:
    """Every kernel clustered weight by weight, into two to the power of so many centres.

    For `assign_params` and `share_cluster_updates`; together they are the second stage of
    Deep Compression without its pruning.

    Args:
      params: Nested dicts of arrays or shapes; kernels are the leaves named ``kernel``.
      conv_bits: Bits per index of a convolution.
      dense_bits: Bits per index of a dense layer.

    Raises:
      ConfigError: for bits below 1.

    Source: arXiv 1510.00149, section 3; 8 and 5 bits are those of its AlexNet.

    >>> shape = jax.ShapeDtypeStruct
    >>> per_scalar_spec({"fc": {"kernel": shape((3, 4), jnp.float32)}}, dense_bits=2)
    {'fc/kernel': LayerSpec(num_clusters=4, samples='scalar', core=0.0, row_length=None)}
    """
    for name, bits in (("conv_bits", conv_bits), ("dense_bits", dense_bits)):
        if bits < 1:
            raise ConfigError(f"{name} must be 1 or more, got {bits}")
    return {
        name: LayerSpec(
            min(
                2 ** (conv_bits if len(leaf.shape) > 2 else dense_bits),
                math.prod(leaf.shape),
            ),
            "scalar",
        )
        for name, leaf in named_leaves(params).items()
        if name.split("/")[-1] == "kernel"
    }


def first_centres(
    samples: Float[Array, "n d"],
    num_clusters: int,
    *,
    init: Init = "kmeans++",
    key: Key | None = None,
) -> Float[Array, "k d"]:
    """Centres before any training.

    Args:
      samples: Any real values.
      num_clusters: k, at most n.
      init: ``"kmeans++"``: samples drawn far from each other (see `lloyd.seeds`). For scalars
        only: ``"linear"``: equal steps from the least to the greatest; ``"random"``: uniform
        between them; ``"density"``: equal steps of the distribution function.
      key: For ``"kmeans++"`` and ``"random"``.

    Raises:
      ConfigError: for an unknown `init`, or one that needs scalars and gets vectors.
      ValueError: if a key is missing.

    Source: the four of TensorFlow Model Optimization. Its density-based one interpolates a
    histogram; ours takes the samples themselves.

    >>> first_centres(jnp.array([[1.0], [7.0], [4.5]]), 3, init="linear")[:, 0].tolist()
    [1.0, 4.0, 7.0]
    """
    if init not in get_args(Init):
        raise ConfigError(f"unknown init {init!r}: {closest(init, get_args(Init))}")
    if init in ("kmeans++", "random") and key is None:
        raise ValueError(f"init={init!r} needs a key")
    if init == "kmeans++":
        return lloyd.seeds(samples, num_clusters, key)
    if samples.shape[1] != 1:
        raise ConfigError(
            f"init={init!r} is for scalars, got samples of length {samples.shape[1]}: use "
            "init='kmeans++' or samples='scalar'"
        )
    low, high = jnp.min(samples), jnp.max(samples)
    steps = jnp.linspace(0, 1, num_clusters, dtype=samples.dtype)
    if init == "linear":
        centres = low + steps * (high - low)
    elif init == "random":
        u = jax.random.uniform(key, (num_clusters,), samples.dtype)
        centres = low + u * (high - low)
    else:
        centres = jnp.quantile(samples[:, 0], steps)
    return centres[:, None]


def nearest(
    samples: Float[Array, "n d"], centres: Float[Array, "k d"]
) -> Int[Array, "n"]:
    """Index of the nearest centre; of equally near ones the first.

    >>> nearest(jnp.array([[0.4], [0.6]]), jnp.array([[1.0], [0.0]])).tolist()
    [1, 0]
    """
    # Distances come as differences of squares: centred samples keep their digits.
    mean = jnp.mean(samples, axis=0)[None]
    x = samples - mean
    return lloyd.vectors(x, jnp.ones(len(x), x.dtype)).nearest(centres - mean)


# --- clustering with a straight-through gradient --------------------------------------


def straight_through(
    samples: Float[Array, "n d"], centres: Float[Array, "k d"], *, reduce: Reduce
) -> Float[Array, "n d"]:
    r"""Replaces each sample by its nearest centre, and lets gradients through.

    .. math:: y_i = c_{l_i}, \quad l_i = \arg\min_j \lVert x_i - c_j \rVert; \qquad
       \frac{\partial}{\partial x_i} := g_i, \quad
       \frac{\partial}{\partial c_j} := \sum_{l_i = j} g_i

    where g is the gradient with respect to y. So both learn: the samples as if they were not
    clustered (a sample may change its cluster), and the centres.

    Args:
      samples: x.
      centres: c.
      reduce: ``"sum"`` is the gradient above; ``"mean"`` divides it by the size of the
        cluster.

    Raises:
      ConfigError: for another `reduce`.

    Source: clustering in TensorFlow Model Optimization (there ``SUM`` and ``AVG``, scalars
    only; vectors are our extension).

    >>> x, c = jnp.array([[0.1], [0.2], [0.9]]), jnp.array([[0.0], [1.0]])
    >>> straight_through(x, c, reduce="sum")[:, 0].tolist()
    [0.0, 0.0, 1.0]
    >>> f = lambda x, c: jnp.sum(straight_through(x, c, reduce="sum"))
    >>> [g[:, 0].tolist() for g in jax.grad(f, argnums=(0, 1))(x, c)]
    [[1.0, 1.0, 1.0], [2.0, 1.0]]
    """
    if reduce not in get_args(Reduce):
        hint = closest(reduce, get_args(Reduce))
        raise ConfigError(f"unknown reduce {reduce!r}: {hint}")
    return _straight_through(reduce, samples, centres)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _straight_through(reduce, samples, centres):
    return centres[nearest(samples, centres)]


def _straight_through_forward(reduce, samples, centres):
    labels = nearest(samples, centres)
    return centres[labels], (labels, centres)


def _straight_through_backward(reduce, kept, gradient):
    labels, centres = kept
    reduction = lloyd.cluster_sums if reduce == "sum" else lloyd.centroids
    return gradient, reduction(gradient, labels, len(centres))


_straight_through.defvjp(_straight_through_forward, _straight_through_backward)


# --- differentiable k-means -----------------------------------------------------------


def attention(
    samples: Float[Array, "n d"], centres: Float[Array, "k d"], *, temperature: float
) -> Float[Array, "n k"]:
    r"""How much each sample belongs to each centre; rows add up to 1.

    .. math:: a_{ij} = \operatorname{softmax}_j(-\lVert x_i - c_j \rVert^2 / \tau)

    >>> a = attention(jnp.array([[0.0]]), jnp.array([[0.0], [1.0]]), temperature=1.0)
    >>> [round(float(v), 4) for v in a[0]]
    [0.7311, 0.2689]
    """
    pairs = samples[:, None] - centres[None]  # n k d
    return jax.nn.softmax(-jnp.sum(jnp.square(pairs), axis=-1) / temperature, axis=1)


def differentiable_kmeans(
    samples: Float[Array, "n d"],
    centres: Float[Array, "k d"],
    *,
    temperature: float,
    num_iters: int,
) -> tuple[Float[Array, "n d"], Float[Array, "k d"]]:
    r"""Soft k-means whose gradient passes through all of its iterations.

    .. math:: c_j \leftarrow \frac{\sum_i a_{ij} x_i}{\sum_i a_{ij}}, \qquad y = A c

    Keeps [n, k] numbers per iteration for the backward pass.

    Args:
      samples: x.
      centres: Where to start: the result of the previous training step.
      temperature: τ; towards 0 the assignment becomes hard.
      num_iters: Iterations.

    Returns:
      y, and the centres after the iterations.

    Raises:
      ConfigError: for a temperature or a number of iterations that is not positive.

    Source: DKM, arXiv 2108.12659, section 3. Deviations: the squared distance in place of the
    distance, which has no gradient at a centre; a fixed number of iterations in place of a
    test of convergence.

    >>> x = jnp.array([[0.0], [0.2], [1.0]])
    >>> y, c = differentiable_kmeans(
    ...     x, jnp.array([[0.0], [1.0]]), temperature=1e-3, num_iters=3)
    >>> [round(float(v), 3) for v in y[:, 0]]
    [0.1, 0.1, 1.0]
    """
    if temperature <= 0 or num_iters < 1:
        raise ConfigError(
            "differentiable k-means needs temperature > 0 and num_iters of 1 or more, got "
            f"{temperature} and {num_iters}"
        )

    def step(centres, _):
        a = attention(samples, centres, temperature=temperature)
        mass = jnp.sum(a, axis=0)[:, None]
        mean = jnp.matmul(a.T, samples, precision="highest")
        # A centre that no sample sees stays; the inner where keeps its gradient finite.
        seen = mass > jnp.finfo(samples.dtype).tiny
        return jnp.where(seen, mean / jnp.where(seen, mass, 1), centres), None

    centres, _ = lax.scan(step, centres, None, length=num_iters)
    a = attention(samples, centres, temperature=temperature)
    return jnp.matmul(a, centres, precision="highest"), centres


# --- soft weight-sharing --------------------------------------------------------------


class Mixture(NamedTuple):
    """Gaussians that weights are drawn from; the first has mean 0 and a fixed share."""

    means: Float[Array, "j"]  # of the others
    log_precisions: Float[Array, "k"]  # of all, k = j + 1; precision = 1 / variance
    log_mixing: Float[Array, "j"]  # of the others, up to a constant


def first_mixture(
    weights: Float[Array, "n"], num_components: int, *, std: float = 0.25
) -> Mixture:
    """Means at equal steps from the least to the greatest weight, all else equal.

    Args:
      weights: Of a trained network.
      num_components: k, with the one at 0.
      std: Deviation of every component.

    Raises:
      ConfigError: for fewer than 2 components.

    Source: the authors' tutorial on arXiv 1702.04008 (16 components, 0.25).

    >>> first_mixture(jnp.array([-1.0, 0.5, 1.0]), 4).means.tolist()
    [-1.0, 0.0, 1.0]
    """
    if num_components < 2:
        raise ConfigError(f"a mixture needs 2 components or more, got {num_components}")
    others = num_components - 1
    steps = jnp.linspace(0, 1, others)
    low, high = jnp.min(weights), jnp.max(weights)
    return Mixture(
        low + steps * (high - low),
        jnp.full(num_components, -2 * math.log(std)),
        jnp.zeros(others),
    )


def _log_joint(weights, mixture, zero_share):
    """Log of share times density of each component: n k."""
    zero = jnp.zeros(1, mixture.means.dtype)
    means = jnp.concatenate([zero, mixture.means])
    log_share = jnp.concatenate(
        [
            zero + math.log(zero_share),
            jax.nn.log_softmax(mixture.log_mixing) + math.log1p(-zero_share),
        ]
    )
    gamma = mixture.log_precisions
    constant = log_share + 0.5 * gamma - 0.5 * math.log(2 * math.pi)
    distance = jnp.square(weights[:, None] - means[None])
    return constant[None] - 0.5 * jnp.exp(gamma)[None] * distance


def mixture_loss(
    weights: Float[Array, "n"],
    mixture: Mixture,
    *,
    zero_share: float = 0.99,
    precision_prior: tuple[float, float] | None = None,
) -> Float[Array, ""]:
    r"""Negative log-density of all weights under a mixture.

    .. math:: -\sum_i \log \sum_k \pi_k\, \mathcal{N}(w_i \mid \mu_k, e^{-\gamma_k})
       \;\; [\, - \sum_k (\alpha - 1) \gamma_k - \beta e^{\gamma_k} \,], \quad \mu_0 = 0

    Added to the mean cross-entropy with the factor τ / N (N training examples), it pulls
    weights onto the means, and with π_0 near 1 most of them onto 0.

    Args:
      weights: w, of all layers together.
      mixture: μ, γ and the logits of π of the components other than 0.
      zero_share: π_0, in (0, 1).
      precision_prior: (α, β) of a Gamma density on every precision, which keeps components
        from collapsing onto single weights; None for none.

    Raises:
      ConfigError: if `zero_share` is out of range.

    Source: arXiv 1702.04008; π_0 of its tutorial, which takes τ = 0.003 and the rates 5e-4
    for weights, 1e-4 for means, 3e-3 for precisions and mixing.

    >>> one = Mixture(jnp.zeros(1), jnp.zeros(2), jnp.zeros(1))      # N(0, 1) twice
    >>> round(float(mixture_loss(jnp.array([0.0, 1.0]), one)), 4)    # log 2π + 1 / 2
    2.3379
    """
    if not 0 < zero_share < 1:
        raise ConfigError(f"zero_share must be in (0, 1), got {zero_share}")
    joint = _log_joint(weights, mixture, zero_share)
    loss = -jnp.sum(jax.nn.logsumexp(joint, axis=1))
    if precision_prior is not None:
        alpha, beta = precision_prior
        gamma = mixture.log_precisions
        loss -= jnp.sum((alpha - 1) * gamma - beta * jnp.exp(gamma))
    return loss


def snap(
    weights: Float[Array, "n"], mixture: Mixture, *, zero_share: float = 0.99
) -> Float[Array, "n"]:
    """Replaces each weight by the mean of the component that it most probably belongs to.

    Source: arXiv 1702.04008, which also merges components that lie close together before
    this; we do not.

    >>> two = Mixture(jnp.array([1.0]), jnp.full(2, 6.0), jnp.zeros(1))
    >>> snap(jnp.array([0.1, 0.9]), two).tolist()
    [0.0, 1.0]
    """
    likely = jnp.argmax(_log_joint(weights, mixture, zero_share), axis=1)
    means = jnp.concatenate([jnp.zeros(1, mixture.means.dtype), mixture.means])
    return means[likely]
