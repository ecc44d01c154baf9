"""The networks of VATT: sizes, what depends on what, and checkpoints of the released code."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo_jax
from zoo_jax import cli, convert
from zoo_jax.core.errors import ConfigError, WeightsError
from zoo_jax.core.tree import count_parameters, named_leaves
from zoo_jax.methods.gradient_harmonization.convert import END, ROOT, vatt_table
from zoo_jax.methods.gradient_harmonization.model import (
    MODELS,
    SIZES,
    Classifier,
    build_vatt,
    make_vatt,
)

NAME = "gradient_harmonization/vatt"
CHECKPOINT = pathlib.Path(__file__).parents[2] / "fixtures" / "vatt" / "ckpt-3"
TINY = dict(  # of the checkpoint
    encoder=(1, 4, 4, 1),
    d_kv=2,
    clip=(1, 2, 2),
    patch=(1, 2, 2),
    sound=4,
    sound_patch=2,
    words=2,
    vocabulary=4,
    word_width=3,
    projection=3,
    spaces=(3, 2),
)
SMALL = dict(
    encoder=(1, 6, 8, 2),
    d_kv=4,
    clip=(4, 8, 8),
    patch=(2, 4, 4),
    sound=(96,),
    sound_patch=(8,),
    words=5,
    vocabulary=20,
    word_width=3,
    projection=7,
    spaces=(6, 4),
)
THREE = dict(audio_encoder=(1, 4, 6, 1), text_encoder=(1, 8, 6, 2))


def shapes(module):
    return dict(jax.eval_shape(module.init, jax.random.key(0)))


@functools.cache
def counts(name):
    tree = shapes(MODELS[name]())["params"]
    return {k: count_parameters(v) for k, v in tree["backbone"].items()} | {
        "heads": count_parameters(tree["heads"])
    }


def layer(d, ff):
    return 4 * (d * d + d) + 2 * d * ff + ff + d + 4 * d


# Exact sizes, as the released code would have them. (parameters, of which word vectors)
EXACT = {
    "vatt_medium": 182_651_136,
    "vatt_bbs": 213_538_092,
    "vatt_mbs": 280_566_572,
    "vatt_lbs": 431_721_260,
}
WORDS = 2**16 * 300


@pytest.mark.parametrize("name", EXACT)
def test_published_networks_have_their_size(name):
    own = counts(name)
    assert sum(own.values()) == EXACT[name]
    patch, sound, positions = 4 * 16 * 16 * 3, 128, 8 + 14 + 14
    if name == "vatt_medium":
        d, size = 1024, SIZES["medium"]
        assert own["shared_encoder"] == 12 * layer(d, size.hidden) + 2 * d
        dense = d * d + d
        common = dense + 3 * d  # pre-projection, norm of the positions, aggregator
        assert own["video_stem"] == patch * d + d + positions * d + common
        assert own["audio_stem"] == sound * d + d + 1200 * d + common
        assert own["text_stem"] == WORDS + 300 * d + d + 16 * d + 3 * d
        assert own["post_proj_text"] == dense
        h = 1024
    else:
        size = SIZES[{"b": "base", "m": "medium", "l": "large"}[name[5]]]
        d = h = size.width
        assert own["video_encoder"] == size.layers * layer(d, size.hidden) + 2 * d
        assert own["video_stem"] == patch * d + d + positions * d + 3 * d
        assert own["sound_encoder"] == 12 * layer(768, 3072) + 2 * 768
        text = 6 * (4 * 512**2 + 2 * 512 * 2048 + 3 * 512) + 512 + 32 * 8
        assert own["sentence_encoder"] == text
        assert own["text_stem"] == WORDS + 300 * 512 + 300
    a, t = (1024, 1024) if name == "vatt_medium" else (768, 512)
    norms = 2 * (512 + 512 + 256)
    heads = h * 512 + 512**2 + 512 * 256 + a * 512 + 512 + t * 256 + 256
    assert own["heads"] == heads + norms


@pytest.mark.parametrize(
    ("name", "millions"), [("vatt_bbs", 87.9), ("vatt_mbs", 155.0), ("vatt_lbs", 306.1)]
)
def test_a_video_tower_that_tells_600_classes_has_the_printed_size(name, millions):
    """The paper's table counts the classifier of Kinetics-600 along."""
    own = counts(name)
    width = SIZES[{"b": "base", "m": "medium", "l": "large"}[name[5]]].width
    head = jax.eval_shape(
        Classifier(600).init, jax.random.key(0), jax.ShapeDtypeStruct((1, width), "f4")
    )
    total = own["video_stem"] + own["video_encoder"] + count_parameters(head)
    assert round(total / 1e6, 1) == millions


@functools.partial(jax.jit, static_argnames="module")
def features(module, params, given):
    return module.backbone.apply({"params": params}, **given)


def inputs(b=3, *, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "video": rng.normal(size=(b, 4, 8, 8, 3)).astype("f4"),
        "audio": rng.normal(size=(b, 96)).astype("f4"),
        "text": rng.integers(0, 20, (b, 2, 5)).astype("i4"),
    }


def small(**options):
    """A small network, with made-up parameters: to draw them would take a compilation."""
    module = build_vatt(**SMALL | options)
    rng = np.random.default_rng(0)
    return module, jax.tree.map(
        lambda x: rng.normal(0, 0.3, x.shape).astype(x.dtype),
        shapes(module)["params"]["backbone"],
    )


def test_examples_do_not_see_each_other_and_modalities_stand_alone():
    module, params = small(**THREE)
    given = inputs()
    out = features(module, params, given)
    assert {k: v.shape for k, v in out.items()} == {
        "video": (3, 6),
        "audio": (3, 4),
        "text": (3, 2, 8),
    }
    other = {k: np.concatenate([x[:1], x[::-1][:2]]) for k, x in given.items()}
    for name, value in features(module, params, other).items():
        np.testing.assert_allclose(value, out[name][np.array([0, 2, 1])], atol=1e-5)
    alone = features(module, params, {"text": given["text"]})
    assert set(alone) == {"text"}
    np.testing.assert_allclose(alone["text"], out["text"], atol=1e-5)


def test_keys_of_examples_give_them_the_same_numbers_in_any_batch():
    """What harmonized gradients rest on: one key for each example, in both passes."""
    module, params = small()
    given, keys = inputs(), jax.random.split(jax.random.key(5), 3)
    given = {"audio": given["audio"]}

    def one(example, key):
        example = {k: x[None] for k, x in example.items()}
        rngs = {"dropout": key}
        return module.backbone.apply(
            {"params": params}, **example, train=True, rngs=rngs
        )

    each = jax.jit(jax.vmap(one))
    order = np.array([2, 0, 1])
    whole, moved = (
        each(given, keys),
        each(*jax.tree.map(lambda x: x[order], (given, keys))),
    )
    other = each(given, keys[order])
    for name in whole:
        np.testing.assert_allclose(moved[name], whole[name][order], atol=1e-5)
        assert np.abs(other[name] - whole[name]).max() > 1e-3


def test_clips_and_sounds_of_other_sizes_are_taken():
    module, params = small()
    given = {
        "video": jnp.zeros((1, 6, 12, 17, 3)),
        "audio": jnp.zeros((1, 200, 1)),
        "text": jnp.ones((2, 3, 9), jnp.int32),
    }
    out = jax.eval_shape(
        lambda params: module.backbone.apply({"params": params}, **given, tokens=True),
        params,
    )
    assert {k: v.shape for k, v in out.items()} == {
        "video": (1, 7),
        "video_tokens": (1, 3 * 3 * 4, 7),
        "audio": (1, 7),
        "audio_tokens": (1, 25, 7),
        "text": (2, 3, 7),
        "text_tokens": (2, 3, 9, 7),
    }


@pytest.mark.parametrize(
    "options",
    [
        dict(head="joint"),
        THREE | dict(text_model="linear"),
        THREE | dict(audio_input="spectrogram", sound=(32, 10), sound_patch=(16, 5)),
        dict(remat=True, scan=True),
    ],
    ids=("joint", "linear", "spectrogram", "scan"),
)
def test_variants_run_and_go_through_their_key_table(options):
    module = build_vatt(**SMALL | options)
    template = shapes(module)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: rng.uniform(0.5, 1, x.shape).astype(x.dtype), template
    )
    table = vatt_table(module.backbone, module.heads)
    published = convert.invert(table, variables)
    assert all(k.startswith(ROOT) and k.endswith(END) for k in published)
    back = convert.apply(table, published, template)
    jax.tree.map(np.testing.assert_array_equal, back, variables)
    given = inputs()
    if "sound" in options:
        given["audio"] = given["audio"][:, :64].reshape(3, 32, 2).repeat(5, 2)
    z = jax.eval_shape(lambda v, given: module.apply(v, **given), variables, given)
    assert set(z) == {"video_audio", "video_text", "audio", "text"}
    assert z["text"].shape[:2] == (3, 2)
    biased = "spectrogram" not in options.values()
    names = named_leaves(template)
    assert biased == any("sound_encoder/layer_0/mha/q/bias" in k for k in names) or (
        "audio_encoder" not in options
    )


def test_the_largest_word_feature_is_that_of_the_sentence():
    module, params = small(**THREE, text_model="linear")
    ids = inputs()["text"]
    own = params["linear_text"]
    words = own["words"]["table"]["embedding"][ids]
    x = np.maximum(words @ own["project"]["kernel"] + own["project"]["bias"], 0)
    out = features(module, params, {"text": ids})
    np.testing.assert_allclose(out["text"], x.max(-2), atol=1e-6)


# --- checkpoints ----------------------------------------------------------------------------


@functools.cache
def stored():
    """The arrays that the checkpoint was written from; see make_vatt_checkpoint.py."""
    module = build_vatt(**TINY)
    rng = np.random.default_rng(0)
    return module, jax.tree.map(
        lambda x: rng.normal(size=x.shape).astype("f4"), shapes(module)
    )


def test_a_checkpoint_that_tensorflow_wrote_becomes_the_network(tmp_path, capsys):
    module, variables = stored()
    for path in (CHECKPOINT, f"{CHECKPOINT}.index"):
        got = zoo_jax.create_model(NAME, weights=path, **TINY)
        assert got.module == module
        jax.tree.map(np.testing.assert_array_equal, got.variables, variables)
    options = [
        f"--set={k}={','.join(map(str, np.atleast_1d(v)))}" for k, v in TINY.items()
    ]
    argv = ["convert", "--model", NAME, *options, str(CHECKPOINT)]
    assert cli.main([*argv, "-o", str(tmp_path / "out")]) == 0
    assert f"{len(named_leaves(variables))} matched" in capsys.readouterr().out
    again = zoo_jax.create_model(NAME, weights=tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, again.variables, variables)


def test_other_names_of_a_variable_are_known_and_nothing_is_passed_over():
    module, variables = stored()
    table = vatt_table(module.backbone, module.heads)
    published = convert.invert(table, variables)
    base = f"{ROOT}_base_layer/unified_backbone/unified_transformer/"
    other = {
        k.replace("vid_agg_embedding", "agg_token/video").replace(
            ROOT, "model/layer-3/"
        ): v
        for k, v in published.items()
    }
    other[f"optimizer/iter{END}"] = np.asarray(3)
    got = zoo_jax.create_model(NAME, weights=other, **TINY)
    jax.tree.map(np.testing.assert_array_equal, got.variables, variables)
    other["model/layer-3/_head_layer/more"] = np.zeros(1)
    del other[f"model/layer-3{base.removeprefix(ROOT[:-1])}tx/layers/0/mha/q/bias{END}"]
    with pytest.raises(WeightsError) as error:
        zoo_jax.create_model(NAME, weights=other, **TINY)
    for part in (
        "place for: model/layer_with_weights-0/_head_layer/more",
        f"missing: {base}tx/layers/0/mha/q/bias{END}",
    ):
        assert part in str(error.value)
    twice = published | {f"{base}agg_token/video{END}": np.zeros(4)}
    with pytest.raises(WeightsError, match=r"vid_agg_embedding.*twice"):
        zoo_jax.create_model(NAME, weights=twice, **TINY)


# --- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(encoder="medum"), "unknown encoder 'medum': did you mean 'medium'"),
        (dict(encoder=(2, 32, 64)), "must be a name or"),
        (dict(encoder=(2, 32, 64, 0)), "must be a name or"),
        (dict(audio_encoder="base"), "both or not at all"),
        (dict(text_model="linear"), "has no use for a shared encoder"),
        (dict(head="fak"), "unknown head 'fak'"),
        (dict(clip=(2, 32, 32)), r"clip=\(2, 32, 32\) and patches of \(4, 16, 16\)"),
        (dict(audio_input="spectrogram"), "sound must be 2 numbers"),
        (dict(keep_tokens=0), "keep_tokens must be above 0"),
        (dict(dropout_rate=1.0), "dropout_rate must be at least 0 and below 1"),
        (dict(words=0), "words must be at least 1, got words=0"),
        (dict(spaces=(3,)), "spaces must be two numbers"),
        (dict(name="vat"), "unknown model.name 'vat': did you mean 'vatt'"),
        (dict(width=3), "width"),
        (dict(dtype="float16"), "model.dtype must be float32 or bfloat16"),
    ],
)
def test_configs_that_cannot_be_built_say_why(options, message):
    with pytest.raises(ConfigError, match=message):
        make_vatt({"name": "vatt"} | options)


def test_a_prior_starts_every_class_there():
    module = Classifier(4, prior=0.25)
    variables = module.init(jax.random.key(0), jnp.zeros((1, 3)))
    logits = module.apply(variables, jnp.zeros((2, 3)))
    np.testing.assert_allclose(jax.nn.sigmoid(logits), 0.25, rtol=1e-6)
