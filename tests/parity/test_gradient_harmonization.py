"""The towers and heads of VATT against outputs of the released code.

The golden files hold outputs only: weights and inputs follow from ``rule.py``. All weights go
through the key table of the published checkpoints.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden

from zoo_jax.convert import apply, invert
from zoo_jax.core.tree import nest
from zoo_jax.methods.gradient_harmonization.convert import (
    END,
    ROOT,
    patch_kernel,
    vatt_table,
)
from zoo_jax.methods.gradient_harmonization.model import PatchStem, build_vatt
from zoo_jax.nn.transformer import Encoder, relative_bucket

BASE = f"{ROOT}_base_layer/"
PLACES = {  # in the golden files -> in a checkpoint
    "unified_transformer": f"{BASE}unified_backbone/unified_transformer",
    "video_vit": f"{BASE}vid_backbone/_base",
    "text_module": f"{BASE}txt_backbone",
    "fac_head": f"{ROOT}_head_layer/_bridge_heads/0",
}


@pytest.fixture(autouse=True)
def _true_float32():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def towers():
    return Golden("vatt_towers.npz", channels_last=True)


def published(file, *parts):
    """The weights of some parts of a golden file, as a checkpoint names them."""
    return {
        f"{PLACES[part]}/{name}{END}": array
        for key, array in file.weights.items()
        for part, _, name in [key.partition("/")]
        if part in parts
    }


def sizes(c, **options):
    """Arguments of the builder for the configuration of a golden file."""
    encoder = (c["layers"], c["d"], c["ff"], c["heads"])
    common = dict(encoder=encoder, d_kv=c["kv"], vocabulary=c["V"], word_width=c["E"])
    return common | options


def shapes(module):
    return dict(jax.eval_shape(module.init, jax.random.key(0)))


def unified(file):
    c = file.meta["config"]
    module = build_vatt(
        **sizes(c),
        clip=(c["T"], c["H"], c["W"]),
        patch=(c["tp"], c["sp"], c["sp"]),
        sound=(c["A"],),
        sound_patch=(c["ap"],),
        words=c["L"],
        projection=c["post"],
        spaces=(c["dv"], c["dt"]),
    )
    table = vatt_table(module.backbone, module.heads)
    weights = published(file, "unified_transformer", "fac_head")
    return module, table, apply(table, weights, shapes(module))


def test_one_encoder_for_all_agrees_in_features_and_gradients(towers):
    module, _, variables = unified(towers)
    params = variables["params"]["backbone"]
    modalities = ("video", "audio", "text")
    inputs = {
        "video": towers.inputs["video"],
        "audio": towers.inputs["audio"],
        "text": jnp.asarray(towers.stored["in/text_ids"]),
    }
    inputs["text_mask"] = jnp.asarray(towers.stored["in/text_mask"])
    kernel = params["shared_encoder"]["layer_0"]["mha"]["v"]["kernel"]

    def energy(kernel, given):
        changed = jax.tree.map(lambda x: x, params)
        changed["shared_encoder"]["layer_0"]["mha"]["v"]["kernel"] = kernel
        features = module.backbone.apply({"params": changed}, **given, tokens=True)
        return sum(
            jnp.sum(features[m] ** 2) for m in given if m in modalities
        ), features

    features, grads = {}, {}
    for m in modalities:
        given = {k: x for k, x in inputs.items() if k.startswith(m)}
        grads[m], own = jax.jit(jax.grad(energy, has_aux=True))(kernel, given)
        features |= own
    want = {f"grad/{m}/layer0_v_kernel": grads[m] for m in modalities}
    for m in modalities:
        want[f"unified/{m}/features_pooled"] = features[m]
        want[f"unified/{m}/features"] = features[f"{m}_tokens"]
    grid = towers.meta["outputs"]["unified/video/features"]["shape"]
    want["unified/video/features"] = want["unified/video/features"].reshape(grid)
    towers.compare(want, of=want)


def test_a_tower_for_video_alone_agrees(towers):
    c = towers.meta["config"]
    module = build_vatt(
        **sizes(c, encoder=(2, c["d"], c["ff"], c["heads"])),
        audio_encoder=(1, 4, 4, 1),
        text_encoder=(1, 4, 4, 1),
        clip=(c["T"], c["H"], c["W"]),
        patch=(c["tp"], c["sp"], c["sp"]),
    )
    table, template = vatt_table(module.backbone, module.heads), shapes(module)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), template)
    # The file names the aggregator by its other attribute.
    own = {
        k.replace("agg_token_embd", "agg_embedding"): v
        for k, v in published(towers, "video_vit").items()
    }
    everything = invert(table, zeros)
    assert set(own) == {k for k in everything if "/vid_backbone/" in k}
    params = apply(table, everything | own, template)["params"]["backbone"]
    features, state = jax.jit(
        lambda params, x: module.backbone.apply(
            {"params": params}, x, tokens=True, mutable=["intermediates"]
        )
    )(params, towers.inputs["video"])
    attention = state["intermediates"]["video_encoder"]["layer_0"]["mha"]["weights"][0]
    outputs = {
        "video_vit/aggregated": features["video"],
        "video_vit/predictions": features["video_tokens"],
        "video_vit/attention_0": attention,
    }
    towers.compare(outputs, of=outputs)


def test_norms_after_the_shortcuts_agree(towers):
    c = towers.meta["config"]
    weights = {
        name: array
        for key, array in towers.weights.items()
        for part, _, name in [key.partition("/")]
        if part == "video_vit_post_norm"
    }
    patch = (c["tp"], c["sp"], c["sp"])
    names = {
        "voxel_to_patch": "patch/project",
        "pos_embedding_lookup/layernorm": "positions/norm",
        "agg_token_embd": "agg_token",
        "tx/layers/0/layer_norm": "layer_0/attention_norm",
        "tx/layers/0/feed_forward/layer_norm": "layer_0/mlp_norm",
        "tx/layers/0/feed_forward": "layer_0",
        "tx/layers/0": "layer_0",
        "gamma": "scale",
        "beta": "bias",
    }
    axes = ("temporal", "vertical", "horizontal")
    leaves = {}
    for name, array in weights.items():
        name = re.sub(r"pos_.*/(\w+)_position_embeddings/.*", r"positions/\1", name)
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        leaves[name] = array
    kernel = "patch/project/kernel"
    leaves[kernel] = patch_kernel(patch, 3).to_ours(leaves[kernel])
    params = nest(leaves)
    encoder = Encoder(
        num_layers=1,
        d_ff=c["ff"],
        num_heads=c["heads"],
        d_kv=c["kv"],
        pre_norm=False,
        use_bias=False,
        activation="relu",
    )
    stem = PatchStem(
        width=c["d"],
        patch=patch,
        axes=tuple((axis, len(params["positions"][axis])) for axis in axes),
        projected=False,
        keep_tokens=0.5,
        resampling="spline",
        dropout_rate=0.1,
        dtype=jnp.float32,
    )
    layer = params.pop("layer_0")
    x = stem.apply({"params": params}, towers.inputs["video"], train=False)
    x = encoder.apply({"params": {"layer_0": layer}}, x)
    outputs = {
        "video_vit_post_norm/aggregated": x[:, 0],
        "video_vit_post_norm/predictions": x[:, 1:],
    }
    towers.compare(outputs, of=outputs)


def test_heads_agree_in_both_modes_and_in_their_running_statistics(towers):
    module, table, variables = unified(towers)
    features = {m: towers.inputs[f"h_{m}"] for m in ("video", "audio", "text")}
    own = {kind: tree["heads"] for kind, tree in variables.items()}
    evaluated = module.heads.apply(own, features)
    trained, after = module.heads.apply(
        own, features, train=True, mutable=["batch_stats"]
    )
    names = {
        "video_audio": "video_toaud",
        "video_text": "video_totxt",
        "audio": "audio_tovid",
        "text": "text_tovid",
    }
    outputs = {
        f"fac_{mode}/{names[name]}": value
        for mode, z in (("eval", evaluated), ("train", trained))
        for name, value in z.items()
    }
    running = invert(
        table, {**variables, "batch_stats": {"heads": after["batch_stats"]}}
    )
    for layer in ("hid_to_va/pre_bn", "hid_to_va/bn", "va_to_vat/bn"):
        for name in ("moving_mean", "moving_variance"):
            key = f"{PLACES['fac_head']}/{layer}/{name}{END}"
            outputs[f"fac_updated/{layer}/{name}"] = running[key]
    towers.compare(outputs, of=outputs)


def test_all_outputs_of_the_towers_are_compared(towers):
    prefixes = ("unified/", "grad/", "video_vit/", "video_vit_post_norm/", "fac_")
    assert all(name.startswith(prefixes) for name in towers.meta["outputs"])
    assert len(towers.meta["outputs"]) == 6 + 3 + 3 + 2 + 8 + 6


def test_the_text_tower_agrees():
    file = Golden("vatt_text_t5.npz", channels_last=True)
    c = file.meta["config"]
    module = build_vatt(
        **sizes(c, encoder=(1, 4, 4, 1)),
        audio_encoder=(1, 4, 4, 1),
        text_encoder=(c["layers"], c["d"], c["ff"], c["heads"]),
        words=c["L"],
    )
    table, template = vatt_table(module.backbone, module.heads), shapes(module)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), template)
    everything = invert(table, zeros)
    own = {
        k.replace("agg_token_embd", "agg_embedding"): v
        for k, v in published(file, "text_module").items()
    }
    assert set(own) == {k for k in everything if "/txt_backbone/" in k}
    params = apply(table, everything | own, template)["params"]["backbone"]
    ids = jnp.asarray(file.stored["in/text_ids"])
    features, state = jax.jit(
        lambda params, ids: module.backbone.apply(
            {"params": params}, text=ids, tokens=True, mutable=["intermediates"]
        )
    )(params, ids)
    layers = state["intermediates"]["sentence_encoder"]
    offsets = np.arange(c["L"] + 1)[None] - np.arange(c["L"] + 1)[:, None]
    buckets = relative_bucket(offsets, buckets=c["buckets"], distance=c["distance"])
    file.compare(
        {
            "sentence_embeddings": features["text"],
            "word_embeddings": features["text_tokens"],
            "attention_0": layers["layer_0"]["mha"]["weights"][0],
            "attention_last": layers[f"layer_{c['layers'] - 1}"]["mha"]["weights"][0],
            "bucket_row0": buckets[0],
            "bucket_last_row": buckets[-1],
        }
    )
