"""What the networks of DeblurGAN-v2 promise; published outputs are in tests/parity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.tree import count_parameters, named_leaves
from zoo_jax.methods.deblurgan_v2 import model as networks
from zoo_jax.methods.deblurgan_v2.cost import generator_macs
from zoo_jax.nn.mobilenet_v2 import InvertedResidual

COUNTS = {
    "fpn_mobilenet": 2_106_627,
    "fpn_mobilenet_dsc": 2_392_323 - 1_206_080,  # less the blocks that are never run
    "fpn_inception": 35_840_099,
    "fpn_inception_simple": 34_069_859,
    "resnet9": 11_378_179,
    "patch_discriminator": 2_764_737,
    "full_discriminator": 11_154_369,
}
# At 256x256.
GIGA_MACS = {
    "fpn_mobilenet": "2.709",
    "fpn_inception": "17.518",
    "fpn_inception_simple": "14.347",
    "resnet9": "49.55",
    "plain_residual": "2.53",
    "patch_discriminator": "3.61",
    "full_discriminator": "2.54",
}
BUILDERS = networks.GENERATORS | networks.DISCRIMINATORS

SMALL = {
    "fpn_mobilenet": dict(width=0.25, pyramid=16, head=8),
    "fpn_mobilenet_dsc": dict(width=0.25, pyramid=16, head=8),
    "fpn_inception": dict(blocks=(0, 0), pyramid=16, head=8),
    "resnet9": dict(width=6, blocks=1),
    "plain_residual": dict(width=6, blocks=1),
}
SIDES = {"fpn_inception": (128, 160)}  # others (64, 96)


def abstract(module, height=128, width=160, batch=1):
    x = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.float32)
    return jax.eval_shape(
        lambda key, x: module.init_with_output(key, x, train=False),
        jax.random.key(0),
        x,
    )


@functools.cache
def small(name):
    """A small network of a kind, its variables with noise in them, and two images."""
    module = BUILDERS[name](**SMALL[name])
    _, template = abstract(module, 128, 128)
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        noise = rng.normal(size=leaf.shape)
        if path[-1].key in ("scale", "var"):
            return jnp.asarray(1 + 0.2 * np.tanh(noise), jnp.float32)
        size = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 25
        return jnp.asarray(noise / size**0.5, jnp.float32)

    variables = jax.tree_util.tree_map_with_path(fill, template)
    x = rng.uniform(-1, 1, (2, *SIDES.get(name, (64, 96)), 3)).astype(np.float32)
    return module, variables, x


@functools.partial(jax.jit, static_argnums=0)
def evaluate(module, variables, x):
    return module.apply(variables, x, train=False)


@functools.partial(jax.jit, static_argnums=0)
def train(module, variables, x):
    return module.apply(variables, x, train=True, mutable=["batch_stats"])


@pytest.mark.parametrize("name", COUNTS)
def test_networks_have_the_published_number_of_parameters(name):
    _, variables = abstract(BUILDERS[name]())
    assert count_parameters(variables["params"]) == COUNTS[name]
    if name.startswith("fpn"):
        assert set(variables["params"]) == {"backbone", "decoder"}


@pytest.mark.parametrize("name", GIGA_MACS)
def test_networks_take_the_published_number_of_multiply_adds(name):
    module = BUILDERS[name]()
    _, variables = abstract(module)
    macs = generator_macs(module, variables, 256, 256)
    digits = len(GIGA_MACS[name].partition(".")[2])
    assert round(macs / 1e9, digits) == float(GIGA_MACS[name])


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(128, 160), (256, 256), (288, 320)])
def test_the_restored_image_is_as_large_as_the_blurred_one(name, size):
    y, _ = abstract(BUILDERS[name](**SMALL[name]), *size, batch=2)
    assert y.shape == (2, *size, 3)
    assert y.dtype == jnp.float32


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("fpn_mobilenet", (1, 720, 1280, 3), "multiples of 32, got 720x1280"),
        ("fpn_mobilenet", (1, 32, 64, 3), "at least 64x64 pixels, got 32x64"),
        ("fpn_inception", (1, 128, 96, 3), "at least 128x128 pixels, got 128x96"),
        ("resnet9", (1, 18, 16, 3), "multiples of 4, got 18x16"),
        ("resnet9", (1, 4, 16, 3), "at least 8x8 pixels, got 4x16"),
        ("plain_residual", (1, 9, 9, 1), r"\[b, h, w, 3\], got shape \(1, 9, 9, 1\)"),
        ("patch_discriminator", (9, 9, 3), r"\[b, h, w, 3\], got shape \(9, 9, 3\)"),
    ],
)
def test_images_of_illegal_sizes_are_refused_in_one_line(name, shape, message):
    module = BUILDERS[name]()
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    with pytest.raises(ConfigError, match=message) as error:
        jax.eval_shape(
            lambda key, x: module.init(key, x, train=False), jax.random.key(0), x
        )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", sorted({*SMALL} - {"fpn_mobilenet_dsc"}))
def test_a_last_layer_of_zeros_changes_no_bit(name):
    module, variables, x = small(name)
    params = variables["params"]
    holder = params["decoder"] if "decoder" in params else params
    zeroed = holder | {"final": jax.tree.map(jnp.zeros_like, holder["final"])}
    params = params | {"decoder": zeroed} if "decoder" in params else zeroed
    y = evaluate(module, variables | {"params": params}, x)
    np.testing.assert_array_equal(y, x)
    changed = evaluate(module, variables, x)
    assert np.abs(changed).max() <= 1
    assert np.abs(changed - x).mean() > 0.05


@pytest.mark.parametrize("name", ["fpn_mobilenet", "resnet9"])
def test_by_image_a_batch_is_its_images_one_by_one(name):
    module, variables, x = small(name)
    both = evaluate(module, variables, x)
    one_by_one = np.concatenate(
        [evaluate(module, variables, x[i : i + 1]) for i in (0, 1)]
    )
    # Batches are convolved in another order; dozens of norms in a row magnify that.
    np.testing.assert_allclose(both, one_by_one, atol=2e-4)


def test_by_batch_the_other_images_matter():
    module, variables, x = small("fpn_mobilenet")
    by_batch = evaluate(module.clone(norm_mode="batch"), variables, x)
    assert np.abs(by_batch - evaluate(module, variables, x)).max() > 0.01


def test_evaluation_by_running_statistics_trains_by_the_batch_and_moves_them():
    module, variables, x = small("fpn_mobilenet")
    y, state = train(module.clone(norm_mode="running"), variables, x)
    by_batch = evaluate(module.clone(norm_mode="batch"), variables, x)
    np.testing.assert_allclose(y, by_batch, atol=2e-4)
    before = named_leaves(variables["batch_stats"])
    after = named_leaves(state["batch_stats"])
    assert before.keys() == after.keys()
    assert all(np.abs(after[k] - before[k]).min() > 0 for k in before)


def test_frozen_statistics_of_an_image_give_its_own_restoration():
    module, variables, x = small("fpn_mobilenet")
    statistics = jax.jit(functools.partial(networks.image_statistics, module))(
        variables, x[:1]
    )
    before = variables["batch_stats"]
    assert jax.tree.structure(statistics) == jax.tree.structure(before)
    frozen = module.clone(norm_mode="running")
    y = evaluate(frozen, variables | {"batch_stats": statistics}, x[:1])
    # Two programs whose sums differ in their order, behind sixty norms.
    np.testing.assert_allclose(y, evaluate(module, variables, x[:1]), atol=1e-3)
    other = evaluate(frozen, variables, x[:1])
    assert np.abs(other - y).max() > 0.05


def test_statistics_are_of_one_image_and_of_none_without_norms():
    module, variables, x = small("fpn_mobilenet")
    with pytest.raises(ConfigError, match="one image, got a batch of 2"):
        networks.image_statistics(module, variables, x)
    module, variables, x = small("plain_residual")
    assert networks.image_statistics(module, variables, x[:1]) == {}


def test_a_separable_convolution_is_the_dense_one_of_its_product():
    layer = networks.SeparableConv(7, False, jnp.float32)
    x = jax.random.normal(jax.random.key(1), (2, 6, 9, 5))
    variables = layer.init(jax.random.key(0), x)
    assert set(named_leaves(variables)) == {
        "params/depthwise/kernel",
        "params/pointwise/kernel",
    }
    deep = variables["params"]["depthwise"]["kernel"][:, :, 0, :, None]
    kernel = deep * variables["params"]["pointwise"]["kernel"]
    dense = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(layer.apply(variables, x), dense, atol=1e-5)


def test_fresh_heads_draw_by_the_inputs_of_an_output():
    head = networks.Head(24, "dense", jnp.float32)
    x = jnp.zeros((1, 4, 4, 40))
    params = jax.jit(head.init)(jax.random.key(0), x)["params"]
    assert set(named_leaves(params)) == {"conv0/kernel", "conv1/kernel"}
    for leaf in jax.tree.leaves(params):
        bound = np.prod(leaf.shape[:-1]) ** -0.5
        assert 0.99 * bound < np.abs(leaf).max() <= bound
        assert leaf.std() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_fresh_mobilenets_draw_by_the_outputs():
    block = InvertedResidual(48, 6, 1, "per_image", jnp.float32)
    x = jnp.zeros((1, 4, 4, 48))
    params = jax.jit(lambda key: block.init(key, x, train=False))(jax.random.key(0))
    kernels = {k: v for k, v in named_leaves(params["params"]).items() if v.ndim == 4}
    assert len(kernels) == 3
    for path, leaf in kernels.items():
        outputs = np.prod(leaf.shape[:2]) * leaf.shape[-1]
        # Normal, from at least 2,592 draws.
        assert leaf.std() == pytest.approx((2 / outputs) ** 0.5, rel=0.06), path
        assert np.abs(leaf).max() > 2.5 * leaf.std(), path


def test_dropout_draws_in_training_alone():
    module, variables, x = small("resnet9")
    apply = jax.jit(
        lambda seed: module.apply(
            variables,
            x,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(seed)},
        )[0]
    )
    assert np.abs(apply(0) - apply(1)).max() > 0.01
    np.testing.assert_array_equal(apply(0), apply(0))
    evaluate(module, variables, x)  # needs no key


@pytest.mark.parametrize(
    ("name", "side"), [("patch_discriminator", 35), ("full_discriminator", 11)]
)
def test_discriminators_score_patches(name, side):
    scores, _ = abstract(BUILDERS[name](), 256, 256, batch=2)
    assert scores.shape == (2, side, side, 1)
    scores, _ = abstract(BUILDERS[name](dtype=jnp.bfloat16), 256, 256)
    assert scores.dtype == jnp.float32


def test_half_precision_computes_close_to_single():
    module, variables, x = small("resnet9")
    half = evaluate(module.clone(dtype=jnp.bfloat16), variables, x)
    assert half.dtype == jnp.float32
    assert np.abs(half - evaluate(module, variables, x)).mean() < 0.03


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "fpn_mobilnet"}, "model.name 'fpn_mobilnet': did you mean 'fpn_mob"),
        ({}, "unknown model.name None: choose from fpn_inception"),
        ({"name": "resnet9", "block": 3}, "model.block: did you mean 'blocks'"),
        ({"name": "resnet9", "dtype": "float16"}, "float32 or bfloat16, got 'float16'"),
        ({"name": "resnet9", "norm_mode": "image"}, "norm_mode 'image': did you mean"),
        ({"name": "resnet9", "dropout": 1.0}, r"in \[0, 1\), got dropout=1.0"),
        ({"name": "resnet9", "blocks": 0}, "at least 1, got blocks=0"),
        ({"name": "fpn_mobilenet", "width": 0}, "above 0, got width=0"),
        ({"name": "fpn_mobilenet", "decoder": "full"}, "unknown decoder 'full'"),
        ({"name": "fpn_mobilenet", "head": 32}, "got pyramid=128, head=32"),
        ({"name": "fpn_inception", "blocks": [1]}, r"two numbers .* blocks=\(1,\)"),
    ],
)
def test_a_config_that_fits_no_network_is_refused(section, message):
    with pytest.raises(ConfigError, match=message):
        networks.make_generator(section)


def test_configs_build_what_they_name():
    section = {"name": "fpn_inception", "blocks": [1, 2], "dtype": "bfloat16"}
    module = networks.make_generator(section)
    assert module == networks.build_fpn_inception(
        blocks=(1, 2), dtype=jnp.dtype("bfloat16")
    )
    patch = networks.make_discriminator({"name": "patch_discriminator", "width": 8})
    assert patch == networks.build_discriminator(width=8, dtype=jnp.dtype("float32"))
    with pytest.raises(ConfigError, match=r"discriminators\.name 'patch'"):
        networks.make_discriminator({"name": "patch"})
