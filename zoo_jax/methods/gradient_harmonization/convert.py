"""The key table of VATT: TensorFlow 2 checkpoints of the released code -> our networks.

Names follow the attributes of the released code's objects, down to ``/.ATTRIBUTES/VARIABLE_VALUE``.
That the published files (``ckpt-500000`` of ``ut_fac_medium``, ``tx_fac_bbs``, ``_mbs`` and ``_lbs``)
hold these names is read off that code, which restores from them; the files could not be had.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from zoo_jax.convert import IDENTITY, VECTOR, Entry, Layout, Table

ROOT = "model/layer_with_weights-0/"
END = "/.ATTRIBUTES/VARIABLE_VALUE"
_BASE = f"{ROOT}_base_layer/"
_HEADS = f"{ROOT}_head_layer/_bridge_heads/0/"

# Other names of the same variables: an object may be reached by more than one attribute.
_RENAMES = (
    (r"^model/layer(_with_weights)?-\d+/", ROOT),
    (r"/agg_token/video/", "/vid_agg_embedding/"),
    (r"/agg_token/audio/", "/aud_agg_embedding/"),
    (r"/agg_token/text/", "/txt_agg_embedding/"),
    (r"/agg_token_embd/", "/agg_embedding/"),
)
_IGNORE = (
    "*/.OPTIMIZER_SLOT/*",
    "optimizer/*",
    "save_counter/*",
    "_CHECKPOINTABLE_OBJECT_GRAPH",
)


def vatt_table(backbone: Any, heads: Any) -> Table:
    """The layout of the released checkpoints.

    Args:
      backbone: The `VattBackbone` of the network.
      heads: Its `FacHeads` or `JointHeads`.
    """
    towers = _shared(backbone) if backbone.shared else _separate(backbone)
    bridge = _fac() if hasattr(heads, "spaces") else _joint()
    entries = tuple(
        Entry(f"{source}{END}", target, layout)
        for source, target, layout in (*towers, *bridge)
    )
    return Table(entries, ignore=_IGNORE, strip=(), prepare=rename)


def rename(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Brings other names of the same variables to those of the table."""
    out: dict[str, Any] = {}
    for name, array in arrays.items():
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        # Two names that become one are told apart again: the table then has no place for one.
        out[name if name not in out else f"{name} (twice)"] = array
    return out


def patch_kernel(patch: Sequence[int], channels: int) -> Layout:
    """A convolution's kernel (*patch, I, O) as that of a dense layer on flattened patches."""
    size = math.prod(patch) * channels

    def to_ours(array: np.ndarray) -> np.ndarray:
        if array.shape[:-1] != (*patch, channels):
            raise ValueError(
                f"its first axes are {array.shape[:-1]}; needed is {(*patch, channels)}"
            )
        return array.reshape(size, -1)

    def to_published(array: np.ndarray) -> np.ndarray:
        if array.ndim != 2 or len(array) != size:
            raise ValueError(
                f"a kernel for patches of {size} numbers, not {array.shape}"
            )
        return array.reshape(*patch, channels, -1)

    return Layout(f"patch_kernel({tuple(patch)}, {channels})", to_ours, to_published)


# What follows yields (source without its end, target, layout).
_Rows = Iterator[tuple[str, str, Layout]]


def _shared(backbone: Any) -> _Rows:
    root, ours = f"{_BASE}unified_backbone/unified_transformer/", "params/backbone/"
    for name, letters, patch, channels in (
        ("video", "vid", backbone.patch, 3),
        ("audio", "aud", backbone.sound_patch, 1),
        ("text", "txt", None, None),
    ):
        stem = f"{ours}{name}_stem"
        if patch is None:
            yield (
                f"{root}raw_to_embeddings/text/embeddings",
                f"{stem}/words/table/embedding",
                IDENTITY,
            )
        else:
            yield from _patches(
                f"{root}raw_to_embeddings/{name}", stem, patch, channels
            )
        yield from _dense(f"{root}pre_proj/{name}", f"{stem}/pre_proj")
        axes = _AXES["text"] if patch is None else _AXES[len(patch)]
        yield from _positions(f"{root}pos_embedding_lookup/{name}", stem, axes)
        yield f"{root}{letters}_agg_embedding", f"{stem}/agg_token", VECTOR
        yield from _dense(f"{root}post_proj/{name}", f"{ours}post_proj_{name}")
    layers = backbone.encoder.layers
    yield from _encoder(f"{root}tx", f"{ours}shared_encoder", layers)


def _separate(backbone: Any) -> _Rows:
    ours = "params/backbone/"
    spectrogram = backbone.audio_input == "spectrogram"
    audio = "spectrum_to_patch" if spectrogram else "wave_to_patch"
    for name, kernel, patch, channels, encoder, layers, bias in (
        (
            *("video", "voxel_to_patch", backbone.patch, 3),
            *("video_encoder", backbone.encoder.layers, True),
        ),
        (
            *("audio", audio, backbone.sound_patch, 1),
            *("sound_encoder", backbone.audio_encoder.layers, not spectrogram),
        ),
    ):
        root, stem = f"{_BASE}{name[:3]}_backbone/_base/", f"{ours}{name}_stem"
        yield from _patches(f"{root}{kernel}", stem, patch, channels)
        yield from _positions(f"{root}pos_embedding_lookup", stem, _AXES[len(patch)])
        yield f"{root}agg_embedding", f"{stem}/agg_token", VECTOR
        yield from _encoder(f"{root}tx", f"{ours}{encoder}", layers, bias)
    yield from _text(backbone)


def _text(backbone: Any) -> _Rows:
    root = f"{_BASE}txt_backbone/"
    if backbone.text_model == "linear":
        ours = "params/backbone/linear_text"
        yield (
            f"{root}base_lm/conv1d/kernel",
            f"{ours}/project/kernel",
            patch_kernel((1,), backbone.word_width),
        )
        yield f"{root}base_lm/conv1d/bias", f"{ours}/project/bias", VECTOR
        yield f"{root}embedding/embeddings", f"{ours}/words/table/embedding", IDENTITY
        return
    stem, ours = "params/backbone/text_stem", "params/backbone/sentence_encoder"
    yield f"{root}embedding/embeddings", f"{stem}/words/table/embedding", IDENTITY
    yield f"{root}agg_embedding", f"{stem}/agg_token", VECTOR
    yield from _dense(f"{root}pre_proj", f"{stem}/pre_proj", bias=False)
    for i in range(backbone.text_encoder.layers):
        source, target = f"{root}base_lm/layers/{i}", f"{ours}/layer_{i}"
        attention = f"{source}/self_attention"
        for letter in "qkvo":
            yield from _dense(
                f"{attention}/attention/{letter}", f"{target}/mha/{letter}", bias=False
            )
        yield f"{attention}/layer_norm/weight", f"{target}/attention_norm/scale", VECTOR
        yield from _feed_forward(source, target, bias=False)
    yield (
        f"{root}base_lm/layers/0/self_attention/attention/relative_attention_bias/embeddings",
        f"{ours}/relative_bias/table",
        IDENTITY,
    )
    yield f"{root}base_lm/final_layer_norm/weight", f"{ours}/final_norm/scale", VECTOR


def _encoder(source: str, target: str, layers: int, bias: bool = True) -> _Rows:
    for i in range(layers):
        theirs, ours = f"{source}/layers/{i}", f"{target}/layer_{i}"
        yield from _norm(f"{theirs}/layer_norm", f"{ours}/attention_norm")
        for letter in "qkvo":
            yield from _dense(
                f"{theirs}/mha/{letter}", f"{ours}/mha/{letter}", bias=bias
            )
        yield from _feed_forward(theirs, ours, bias=bias)
    yield from _norm(f"{source}/final_layer_norm", f"{target}/final_norm")


def _feed_forward(source: str, target: str, *, bias: bool) -> _Rows:
    yield from _norm(f"{source}/feed_forward/layer_norm", f"{target}/mlp_norm")
    for name in ("wi", "wo"):
        yield from _dense(
            f"{source}/feed_forward/mlp/{name}", f"{target}/mlp/{name}", bias=bias
        )


# By the axes of a patch: names of position tables, theirs and ours.
_AXES: dict[int | str, dict[str, str]] = {
    1: {"temporal": "temporal"},
    2: {"temporal": "temporal", "spectoral": "spectral"},  # sic
    3: {axis: axis for axis in ("temporal", "vertical", "horizontal")},
    "text": {"temporal": "temporal"},
}


def _positions(source: str, stem: str, axes: Mapping[str, str]) -> _Rows:
    for theirs, ours in axes.items():
        yield (
            f"{source}/{theirs}_position_embeddings/embeddings",
            f"{stem}/positions/{ours}",
            IDENTITY,
        )
    yield from _norm(f"{source}/layernorm", f"{stem}/positions/norm")


def _patches(source: str, stem: str, patch: Sequence[int], channels: int) -> _Rows:
    target = f"{stem}/patch/project"
    yield f"{source}/kernel", f"{target}/kernel", patch_kernel(patch, channels)
    yield f"{source}/bias", f"{target}/bias", VECTOR


def _dense(source: str, target: str, *, bias: bool = True) -> _Rows:
    yield f"{source}/kernel", f"{target}/kernel", IDENTITY
    if bias:
        yield f"{source}/bias", f"{target}/bias", VECTOR


def _norm(source: str, target: str) -> _Rows:
    yield f"{source}/gamma", f"{target}/scale", VECTOR
    yield f"{source}/beta", f"{target}/bias", VECTOR


def _fac() -> _Rows:
    yield from _dense(f"{_HEADS}vid_to_hid", "params/heads/vid_to_hid", bias=False)
    yield from _batch_norm("hid_to_va/pre_bn")
    for name in ("hid_to_va", "va_to_vat"):
        yield from _dense_norm(name)
    for name in ("aud_to_va", "txt_to_vat"):
        yield from _dense(f"{_HEADS}{name}", f"params/heads/{name}")


def _joint() -> _Rows:
    for name in ("vid_to_vat", "aud_to_vat", "txt_to_vat"):
        yield from _dense_norm(name)


def _dense_norm(name: str) -> _Rows:
    dense = f"{name}/dense"
    yield from _dense(f"{_HEADS}{dense}", f"params/heads/{dense}", bias=False)
    yield from _batch_norm(f"{name}/bn")


def _batch_norm(name: str) -> _Rows:
    yield from _norm(f"{_HEADS}{name}", f"params/heads/{name}")
    yield f"{_HEADS}{name}/moving_mean", f"batch_stats/heads/{name}/mean", VECTOR
    yield f"{_HEADS}{name}/moving_variance", f"batch_stats/heads/{name}/var", VECTOR
