import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.rng import make_key
from zoo_jax.methods.deep_k_means.baselines import (
    Mixture,
    attention,
    differentiable_kmeans,
    first_centres,
    first_mixture,
    mixture_loss,
    nearest,
    per_scalar_spec,
    snap,
    straight_through,
)
from zoo_jax.optim.kmeans import assign_params, check_assigned


def samples(n=23, d=3, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def numeric_gradient(f, x, step=1e-6):
    """Central differences in float64."""
    grad = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[index] += step
        down[index] -= step
        grad[index] = (f(up) - f(down)) / (2 * step)
    return grad


def test_deep_compression_gives_each_kernel_its_bits():
    rng = np.random.default_rng(0)
    params = {
        "conv": {"kernel": jnp.asarray(rng.normal(size=(3, 3, 2, 5))), "bias": 0.0},
        "fc": {"kernel": jnp.asarray(rng.normal(size=(7, 4)))},
        "tiny": {"kernel": jnp.asarray(rng.normal(size=(1, 3)))},
    }
    params["conv"]["bias"] = jnp.zeros(5)
    spec = per_scalar_spec(params, conv_bits=3, dense_bits=2)
    assigned, _ = assign_params(params, spec, make_key(0))
    counts = {"conv/kernel": 8, "fc/kernel": 4, "tiny/kernel": 3}
    assert check_assigned(assigned, spec) == counts
    np.testing.assert_array_equal(assigned["conv"]["bias"], params["conv"]["bias"])


def test_first_centres_of_scalars_are_where_their_names_say():
    x = np.concatenate([np.zeros(70), samples(30, 1)[:, 0] ** 2 + 1])[:, None]
    x = x.astype(np.float32)
    got = {
        init: np.asarray(first_centres(jnp.asarray(x), 5, init=init, key=make_key(1)))
        for init in ("linear", "density", "random", "kmeans++")
    }
    assert {c.shape for c in got.values()} == {(5, 1)}
    np.testing.assert_allclose(
        got["linear"][:, 0], np.linspace(0, x.max(), 5), rtol=1e-6
    )
    # Most of the mass is at 0: three of five equal steps of the distribution end there.
    np.testing.assert_allclose(
        got["density"][:, 0], np.quantile(x, [0, 0.25, 0.5, 0.75, 1]), rtol=1e-6
    )
    assert np.all(got["density"][:3] == 0)
    assert np.all((0 <= got["random"]) & (got["random"] <= x.max()))
    assert len(np.unique(got["random"])) == 5
    assert np.isin(got["kmeans++"], x).all()
    assert len(np.unique(got["kmeans++"])) == 5


def test_nearest_is_the_least_distance_even_far_from_the_origin():
    x, c = samples(200, 3), samples(7, 3, seed=1)
    distances = np.linalg.norm(x[:, None] - c[None], axis=-1)
    for shift in (0.0, 1000.0):  # float32 has steps of 6e-5 there
        got = nearest(jnp.asarray(x + shift, "f4"), jnp.asarray(c + shift, "f4"))
        np.testing.assert_array_equal(got, distances.argmin(1))


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_straight_through_passes_gradients_to_weights_and_centres(reduce):
    x, c, g = samples(23), samples(4, seed=1), samples(23, seed=2)
    labels = np.linalg.norm(x[:, None] - c[None], axis=-1).argmin(1)

    def loss(x, c):
        return jnp.sum(straight_through(x, c, reduce=reduce) * jnp.asarray(g, x.dtype))

    arrays = jnp.asarray(x, "f4"), jnp.asarray(c, "f4")
    np.testing.assert_array_equal(
        straight_through(*arrays, reduce=reduce), arrays[1][labels]
    )
    to_x, to_c = jax.jit(jax.grad(loss, argnums=(0, 1)))(*arrays)
    np.testing.assert_allclose(to_x, g, rtol=1e-6)
    members = [g[labels == j] for j in range(4)]
    reduction = {"sum": np.sum, "mean": np.mean}[reduce]
    expected = [reduction(m, axis=0) if len(m) else np.zeros(3) for m in members]
    np.testing.assert_allclose(to_c, expected, rtol=1e-5, atol=1e-6)


def test_straight_through_sum_is_the_derivative_with_respect_to_the_centres():
    x, c, g = samples(23), samples(4, seed=1), samples(23, seed=2)

    def loss(centres):  # numpy; labels do not change within a step of 1e-6
        labels = np.linalg.norm(x[:, None] - centres[None], axis=-1).argmin(1)
        return np.sum(np.square(centres[labels] - g))

    with jax.enable_x64(True):
        got = jax.grad(
            lambda c: jnp.sum(
                jnp.square(straight_through(jnp.asarray(x), c, reduce="sum") - g)
            )
        )(jnp.asarray(c))
    np.testing.assert_allclose(got, numeric_gradient(loss, c), rtol=1e-6, atol=1e-7)


def soft_kmeans(x, c, temperature, num_iters):
    """Differentiable k-means with loops, in numpy."""

    def belongs(c):
        a = np.zeros((len(x), len(c)))
        for i, j in np.ndindex(*a.shape):
            a[i, j] = np.exp(-np.sum((x[i] - c[j]) ** 2) / temperature)
        return a / a.sum(1, keepdims=True)

    for _ in range(num_iters):
        a = belongs(c)
        c = np.stack([a[:, j] @ x / a[:, j].sum() for j in range(len(c))])
    return belongs(c) @ c, c


def test_differentiable_kmeans_equals_loops_and_finite_differences():
    x, c, g = samples(11), samples(4, seed=1), samples(11, seed=2)
    options = dict(temperature=0.7, num_iters=3)

    def loss(x, c):
        y, last = differentiable_kmeans(x, c, **options)
        return jnp.sum(y * g) + jnp.sum(last)

    expected, centres = soft_kmeans(x, c, **options)
    with jax.enable_x64(True):
        got, last = differentiable_kmeans(jnp.asarray(x), jnp.asarray(c), **options)
        to_x, to_c = jax.grad(loss, argnums=(0, 1))(jnp.asarray(x), jnp.asarray(c))
    np.testing.assert_allclose(got, expected, rtol=1e-10)
    np.testing.assert_allclose(last, centres, rtol=1e-10)

    def numeric(x, c):
        y, last = soft_kmeans(x, c, **options)
        return np.sum(y * g) + np.sum(last)

    tolerance = dict(rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(
        to_x, numeric_gradient(lambda v: numeric(v, c), x), **tolerance
    )
    np.testing.assert_allclose(
        to_c, numeric_gradient(lambda v: numeric(x, v), c), **tolerance
    )


def test_cold_differentiable_kmeans_is_lloyds_algorithm():
    x = np.concatenate([samples(9) + 10, samples(7, seed=1) - 10]).astype(np.float32)
    start = jnp.asarray(x[[0, -1]])
    y, c = differentiable_kmeans(jnp.asarray(x), start, temperature=1e-2, num_iters=2)
    means = np.stack([x[:9].mean(0), x[9:].mean(0)])
    np.testing.assert_allclose(c, means, rtol=1e-5)
    np.testing.assert_allclose(y, means[[0] * 9 + [1] * 7], rtol=1e-5)


def test_a_centre_far_from_everything_stays_and_has_finite_gradients():
    x, c = jnp.zeros((5, 2)), jnp.array([[0.0, 0.0], [1e4, 1e4]])

    def last(c):
        return differentiable_kmeans(x, c, temperature=0.1, num_iters=2)[1]

    np.testing.assert_array_equal(last(c), c)
    assert np.isfinite(jax.jacobian(last)(c)).all()


def test_attention_rows_add_up_to_one_and_harden_when_cold():
    x, c = jnp.asarray(samples(9), "f4"), jnp.asarray(samples(4, seed=1), "f4")
    warm, cold = (attention(x, c, temperature=t) for t in (1.0, 1e-4))
    np.testing.assert_allclose(jnp.sum(warm, 1), 1, rtol=1e-6)
    np.testing.assert_allclose(cold, jax.nn.one_hot(nearest(x, c), 4), atol=1e-6)
    assert float(jnp.max(warm)) < 0.999


def some_mixture():
    return Mixture(
        jnp.array([-0.5, 0.4]), jnp.array([4.0, 3.0, 1.0]), jnp.array([0.3, -0.2])
    )


def test_mixture_loss_equals_scipys_densities():
    w = samples(40, 1)[:, 0] / 2
    means, gammas, rhos = map(np.asarray, some_mixture())
    others = np.exp(rhos) / np.exp(rhos).sum() * 0.2
    density = sum(
        share * scipy.stats.norm.pdf(w, mean, np.exp(-0.5 * gamma))
        for share, mean, gamma in zip(
            [0.8, *others], [0.0, *means], gammas, strict=True
        )
    )
    got = mixture_loss(jnp.asarray(w, "f4"), some_mixture(), zero_share=0.8)
    assert float(got) == pytest.approx(-np.log(density).sum(), rel=1e-5)
    # A Gamma density of the precisions, up to its constant.
    alpha, beta = 3.0, 0.5
    prior = scipy.stats.gamma.logpdf(np.exp(gammas), alpha, scale=1 / beta)
    constant = scipy.stats.gamma.logpdf(1.0, alpha, scale=1 / beta) + beta
    with_prior = mixture_loss(
        jnp.asarray(w, "f4"),
        some_mixture(),
        zero_share=0.8,
        precision_prior=(alpha, beta),
    )
    assert float(with_prior - got) == pytest.approx(-(prior - constant).sum(), rel=1e-4)


def test_mixture_gradients_equal_finite_differences():
    w = samples(13, 1)[:, 0] / 2
    with jax.enable_x64(True):
        mixture = jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), some_mixture())

        def loss(w, *parts):
            return mixture_loss(
                jnp.asarray(w), Mixture(*parts), precision_prior=(3.0, 0.5)
            )

        arguments = [w, *map(np.asarray, mixture)]
        got = jax.grad(loss, argnums=range(4))(*map(jnp.asarray, arguments))
        for index, gradient in enumerate(got):

            def along(v, index=index):
                return float(loss(*arguments[:index], v, *arguments[index + 1 :]))

            expected = numeric_gradient(along, arguments[index])
            np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


def test_weights_far_from_every_component_keep_a_finite_loss():
    cold = some_mixture()._replace(log_precisions=jnp.full(3, 12.0))
    loss, gradient = jax.value_and_grad(mixture_loss)(jnp.array([30.0, -30.0]), cold)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()


def test_descending_the_mixture_loss_gathers_weights_and_snapping_ends_it():
    rng = np.random.default_rng(0)
    w = np.concatenate([rng.normal(0, 0.02, 80), rng.normal(0.5, 0.02, 20)])
    w, mixture = jnp.asarray(w, "f4"), first_mixture(jnp.asarray(w, "f4"), 3, std=0.1)
    assert mixture.means.shape == mixture.log_mixing.shape == (2,)
    assert mixture.log_precisions.shape == (3,)
    np.testing.assert_allclose(mixture.log_precisions, -2 * np.log(0.1), rtol=1e-6)
    step = jax.jit(jax.grad(lambda w: mixture_loss(w, mixture, zero_share=0.8)))
    moved = w
    for _ in range(50):
        moved -= 1e-3 * step(moved)
    assert float(jnp.std(moved[:80])) < 0.2 * float(jnp.std(w[:80]))
    snapped = snap(moved, mixture, zero_share=0.8)
    assert set(np.unique(snapped)) <= {0.0, *np.asarray(mixture.means).tolist()}
    assert np.all(snapped[:80] == 0)
    assert np.all(snapped[80:] == mixture.means[1])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda x: first_centres(x, 2, init="median"), "unknown init 'median'"),
        (lambda x: first_centres(x, 2, init="linear"), "samples of length 3"),
        (lambda x: straight_through(x, x, reduce="avg"), "unknown reduce 'avg'"),
        (
            lambda x: differentiable_kmeans(x, x, temperature=0.0, num_iters=1),
            "got 0.0 and 1",
        ),
        (lambda x: first_mixture(x[:, 0], 1), "2 components or more, got 1"),
        (
            lambda x: mixture_loss(x[:, 0], some_mixture(), zero_share=1.0),
            r"zero_share must be in \(0, 1\), got 1.0",
        ),
        (lambda x: per_scalar_spec({}, conv_bits=0), "conv_bits must be 1 or more"),
    ],
)
def test_mistakes_are_one_clear_line(call, match):
    with pytest.raises(ConfigError, match=match):
        call(jnp.zeros((4, 3)))


def test_a_missing_key_is_named():
    with pytest.raises(ValueError, match=r"init='kmeans\+\+' needs a key"):
        first_centres(jnp.zeros((4, 1)), 2)
