"""The regulariser on layers of very different sizes at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.core.tree import named_leaves
from zoo_jax.optim.kmeans import LayerSpec, kmeans_regularization
from zoo_jax.optim.samples import to_matrix

LAYERS = {  # from 7 to 12,288 samples, of 1 to 75 numbers
    "point": ((1, 1, 8, 21), LayerSpec(5, "scalar")),
    "large": ((3, 3, 64, 64), LayerSpec(30, "row")),
    "long": ((5, 5, 3, 7), LayerSpec(2, "filter")),
}
STRENGTH = 0.7


@pytest.mark.filterwarnings("ignore:the spectral k-means penalty")
@pytest.mark.parametrize("relaxation", ["labels", "spectral"])
def test_layers_of_all_sizes_share_one_program_and_each_gets_its_own_pull(relaxation):
    rng = np.random.default_rng(0)
    params = {
        name: {"kernel": jnp.asarray(rng.normal(size=shape), jnp.float32)}
        for name, (shape, _) in LAYERS.items()
    }
    spec = {f"{name}/kernel": layer for name, (_, layer) in LAYERS.items()}
    tx = kmeans_regularization(
        STRENGTH, spec, refresh_every=2, relaxation=relaxation, num_iters=20
    )
    traces = []

    @jax.jit
    def step(params, state):
        traces.append(1)
        zero = jax.tree.map(jnp.zeros_like, params)
        return tx.update(zero, state, params)

    state = tx.init(params)
    for _ in range(3):
        updates, state = step(params, state)
    assert len(traces) == 1
    factors, updates = named_leaves(state.factors), named_leaves(updates)
    for name, (shape, layer) in LAYERS.items():
        key, k = f"{name}/kernel", layer.num_clusters
        assert updates[key].shape == shape
        x = np.asarray(to_matrix(params[name]["kernel"], layer.samples), np.float64)
        pull = np.asarray(to_matrix(updates[key], layer.samples))
        if relaxation == "spectral":
            u, s, vt = np.linalg.svd(x, full_matrices=False)
            expected = STRENGTH * (x - (u[:, :k] * s[:k]) @ vt[:k])
        else:
            cluster = pytest.importorskip("sklearn.cluster")
            limits = pytest.importorskip("threadpoolctl").threadpool_limits
            labels = np.asarray(factors[key])
            assert sorted(set(labels)) == list(range(k))
            means = np.stack([x[labels == i].mean(0) for i in range(k)])
            expected = STRENGTH * (x - means[labels])
            with limits(1):  # its threads are slow where others are at work
                theirs = cluster.KMeans(k, n_init=3, random_state=0).fit(x).inertia_
            assert np.sum((x - means[labels]) ** 2) < 1.1 * theirs
        np.testing.assert_allclose(pull, expected, atol=5e-5)
