import jax
import numpy as np
import pytest

from zoo_jax.nn.squeeze_excite import SqueezeExcite


@pytest.mark.parametrize(
    ("shape", "gate"),
    [((2, 5, 7, 6), jax.nn.sigmoid), ((2, 3, 5, 4, 6), jax.nn.hard_sigmoid)],
)
def test_gates_come_from_the_means_of_all_channels(shape, gate):
    x = np.asarray(jax.random.normal(jax.random.key(0), shape))
    layer = SqueezeExcite(4, gate=gate)
    y, variables = jax.jit(layer.init_with_output)(jax.random.key(1), x)
    p = jax.tree.map(np.asarray, variables["params"])
    means = x.mean(axis=tuple(range(1, x.ndim - 1)))
    hidden = means @ p["reduce"]["kernel"].reshape(6, 4) + p["reduce"]["bias"][None]
    logits = np.maximum(hidden, 0) @ p["expand"]["kernel"].reshape(4, 6)
    gates = np.asarray(gate(logits + p["expand"]["bias"][None]))
    gates = gates.reshape(shape[0], *(1,) * (x.ndim - 2), 6)
    np.testing.assert_allclose(y, x * gates, atol=1e-5)
