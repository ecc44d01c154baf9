"""What every enhancer keeps: shape, dtype, range, purity; and what make_enhancer refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo_jax
from zoo_jax.convert import invert
from zoo_jax.convert.read import write_weights
from zoo_jax.core.errors import ConfigError, WeightsError
from zoo_jax.methods.ug2.enhancers import list_enhancers, make_enhancer
from zoo_jax.methods.ug2.model import make_network
from zoo_jax.methods.ug2.tables import srnet_table
from zoo_jax.restorer import Restorer

# The network behind a name, in a small form.
SMALL = {
    "srcnn": ("srcnn", {}),
    "vdsr": ("vdsr", dict(depth=3, features=4)),
    "arcnn": ("arcnn", dict(form="fast")),
    "srnet": ("srnet", dict(features=4, blocks=1)),
    "adversarial": ("srnet", dict(features=4, blocks=1)),
    "tone_mapped": ("vdsr", dict(depth=3, features=4)),
    "ccre": ("arcnn", {}),
}


def draw(network, arguments, seed=0):
    """Variables of a network, of the size that fresh ones have, biases and statistics as well."""
    module = make_network({"name": network, **arguments})
    x = jnp.zeros((1, 8, 8, getattr(module, "channels", 3)))
    template = jax.eval_shape(module.init, jax.random.key(0), x)
    rng = np.random.default_rng(seed)

    def leaf(x):
        fan_in = max(int(np.prod(x.shape[:-1])), 1)
        return np.float32(rng.normal(size=x.shape) / fan_in**0.5) ** 2 * 0.5 + 0.01

    return jax.tree.map(leaf, dict(template))


def build(name):
    if name not in SMALL:
        return make_enhancer(name)
    network, arguments = SMALL[name]
    options = {} if name == "ccre" else dict(arguments)
    if name == "ccre":
        options, arguments = dict(form="fast", blocky=0.0), dict(form="fast")
    return make_enhancer(name, weights=draw(network, arguments), **options)


@pytest.fixture(scope="module")
def pictures():
    """One rough, one smooth with extremes; odd and unequal sides."""
    rng = np.random.default_rng(0)
    rough = rng.random((13, 18, 3), np.float32)
    y, x = np.mgrid[:13, :18] / np.float32(13)
    smooth = np.stack([x / x.max(), y / y.max(), 0.5 + 0 * x], -1)
    return jnp.asarray(np.stack([rough, smooth]), jnp.float32)


@pytest.mark.parametrize("name", list_enhancers())
def test_pictures_stay_pictures_under_jit_and_one_by_one_under_vmap(name, pictures):
    enhance = build(name)

    @jax.jit
    def both(x):
        return enhance(x), jax.vmap(lambda one: enhance(one[None])[0])(x)

    whole, single = both(pictures)
    assert whole.shape == pictures.shape
    assert whole.dtype == jnp.float32
    assert np.isfinite(whole).all()
    assert float(whole.min()) >= 0
    assert float(whole.max()) <= 1
    # No picture depends on its neighbours in the batch. Where grey levels are rounded, sums in
    # another order may tip a tie: one level, which a filter behind it may double.
    np.testing.assert_allclose(whole, single, atol=1e-5 if "x2" in name else 2.1 / 255)
    for size in ((1, 1), (2, 9), (3, 3), (8, 16)):
        x = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
        assert jax.eval_shape(enhance, x).shape == x.shape


def test_weights_come_from_a_file_in_the_published_layout(tmp_path, pictures):
    arguments = dict(features=4, blocks=1)
    variables = draw("srnet", arguments)
    path = tmp_path / "srnet.npz"
    np.savez(path, **invert(srnet_table(1), variables))
    from_file = make_enhancer("srnet", weights=path, **arguments)
    given = make_enhancer("srnet", weights=variables, **arguments)
    np.testing.assert_array_equal(
        jax.jit(from_file)(pictures), jax.jit(given)(pictures)
    )
    arrays = invert(srnet_table(1), variables)
    del arrays["conv4.weight"]
    arrays["extra"] = np.zeros(2, np.float32)
    np.savez(path, **arrays)
    with pytest.raises(
        WeightsError, match=r"extra.*conv4\.weight|conv4\.weight.*extra"
    ):
        make_enhancer("srnet", weights=path, **arguments)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("clae", {}, "unknown enhancer 'clae': did you mean 'clahe'"),
        ("clahe", dict(cliplimit=3), "clahe has no option 'cliplimit'"),
        ("clahe", dict(tiles="a"), "clahe cannot be used with tiles='a'"),
        ("wiener", dict(sigma=-1), "sigma must be above 0, got -1"),
        ("wiener", dict(kernel=[[1, 2]]), "square, of an odd size"),
        ("blind_deconvolution", dict(size=4), "size must be odd"),
        ("ccre", dict(collection="air"), "unknown collection 'air'"),
        ("deinterlace", dict(field="top"), "field must be 'even' or 'odd', got 'top'"),
        ("srnet", {}, "srnet is a network and needs weights"),
        ("tone_mapped", {}, "vdsr is a network and needs weights"),
        ("tone_mapped", dict(mapping="log", network="none"), "unknown mapping 'log'"),
        ("cascade", dict(steps=("clahe", "clahe")), "distinct names"),
        ("cascade", dict(on=(True,)), "3 steps has 1 switches"),
        ("vdsr", dict(weights={}, depth=1), "depth must be 2 or more"),
        (
            "vdsr",
            dict(weights={}, dept=3),
            "unknown key vdsr.dept: did you mean 'depth'",
        ),
    ],
)
def test_bad_input_is_one_clear_line(name, options, message):
    with pytest.raises(ConfigError, match=message) as error:
        make_enhancer(name, **options)
    assert "\n" not in str(error.value)


def test_absent_and_foreign_weights_are_named(tmp_path):
    with pytest.raises(WeightsError, match="no such weights file"):
        make_enhancer("vdsr", weights=tmp_path / "none.pth")
    write_weights(tmp_path / "w.safetensors", {"params/x": np.zeros(2, np.float32)}, {})
    with pytest.raises(WeightsError, match="does not fit the network"):
        make_enhancer("srcnn", weights=tmp_path / "w.safetensors")


def test_tiles_of_an_arcnn_do_not_show():
    model = zoo_jax.create_model("ug2/arcnn")
    variables = draw("arcnn", {})
    model = model._replace(variables=jax.tree.map(jnp.asarray, variables))
    picture = np.random.default_rng(0).random((1, 45, 41, 3), np.float32)
    whole = Restorer(model)(picture)
    assert np.abs(whole - picture).max() > 0.01  # it does something here
    tiles = Restorer(model, tile=32)(picture)
    np.testing.assert_allclose(tiles, whole, atol=1e-5)
