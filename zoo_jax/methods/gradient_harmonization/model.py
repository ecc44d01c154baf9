"""The networks of VATT: one or three transformers for video, sound and words, and their heads.

`VattBackbone` maps each modality to a feature; examples do not see each other in it. `FacHeads`
bring the features to the spaces in which they are compared; their batch norms do mix examples. `Vatt`
is both. Video is [b, t, h, w, 3] in [-1, 1], sound [b, s] in [-1, 1] at 48 kHz, text word ids.

Source: arXiv 2104.11178, section 3, and its released code, which is followed where they differ.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from zoo_jax.core.config import require_keys, to_dict
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.nn.tokens import (
    RESAMPLINGS,
    PatchEmbedding,
    PositionTables,
    Resampling,
    WordTable,
    aggregator_init,
    drop_tokens,
    prepend_vector,
)
from zoo_jax.nn.transformer import ACTIVATIONS, Encoder, dense


class Size(NamedTuple):
    """An encoder: its layers, the width of a token, of the feed-forward layers, and its heads."""

    layers: int
    width: int
    hidden: int
    heads: int


SIZES = {  # arXiv 2104.11178, table 7 (appendix)
    "small": Size(6, 512, 2048, 8),
    "base": Size(12, 768, 3072, 12),
    "medium": Size(12, 1024, 4096, 16),
    "large": Size(24, 1024, 4096, 16),
}
GELU = ACTIVATIONS["gelu"]


class PatchStem(nn.Module):
    """Patches of a clip or a sound, with positions, a random subset of them, and an aggregator.

    Attributes:
      width: Of a token.
      patch: Size of a patch.
      axes: Name and length of each position table.
      projected: Whether a dense layer with GELU follows the patch embedding.
      keep_tokens: Share of the tokens that training keeps.
      resampling: Of the position tables.
      dropout_rate: Behind the positions.
      dtype: Compute dtype.
    """

    width: int
    patch: tuple[int, ...]
    axes: tuple[tuple[str, int], ...]
    projected: bool
    keep_tokens: float
    resampling: Resampling
    dropout_rate: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b *size c"], *, train: bool):
        """Returns tokens [b, 1 + n, d]; the first is the aggregator."""
        x, grid = PatchEmbedding(
            self.width, self.patch, dtype=self.dtype, name="patch"
        )(x)
        if self.projected:
            x = GELU(dense(self.width, bias=True, dtype=self.dtype, name="pre_proj")(x))
        x = PositionTables(
            self.axes, self.resampling, self.dropout_rate, self.dtype, name="positions"
        )(x, grid, train=train)
        if train and self.keep_tokens < 1:
            stream = "drop_token" if self.has_rng("drop_token") else "dropout"
            x = drop_tokens(x, self.make_rng(stream), keep=self.keep_tokens)
        return prepend_vector(
            x, self.param("agg_token", aggregator_init, (self.width,))
        )


class WordStem(nn.Module):
    """Word vectors with an aggregator in front, as tokens.

    Attributes:
      width: Of a token.
      vocabulary: Words.
      word_width: Of a word vector.
      trainable_words: Whether the word vectors are trained.
      words: Rows of the position table; None: there is none, the aggregator is a word
        vector, and the dense layer has no bias (text tower of the modality-specific models).
      resampling: Of the position table.
      dropout_rate: Behind the positions.
      dtype: Compute dtype.
    """

    width: int
    vocabulary: int
    word_width: int
    trainable_words: bool
    words: int | None
    resampling: Resampling
    dropout_rate: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, ids: Int[Array, "b n"], mask: Array | None, *, train: bool
    ) -> tuple[Float[Array, "b n+1 d"], Float[Array, "b n+1"]]:
        """Returns the tokens, and 1 for each that may be seen: the aggregator and all words."""
        table = WordTable(
            self.vocabulary,
            self.word_width,
            self.trainable_words,
            self.dtype,
            name="words",
        )
        mask = ids != 0 if mask is None else mask
        mask = jnp.pad(mask.astype(jnp.float32), ((0, 0), (1, 0)), constant_values=1)
        relative = self.words is None
        project = dense(
            self.width, bias=not relative, dtype=self.dtype, name="pre_proj"
        )
        vector = self.param(
            "agg_token",
            aggregator_init,
            (self.word_width if relative else self.width,),
        )
        x = table(ids)
        if relative:
            return GELU(project(prepend_vector(x, vector))), mask
        x = PositionTables(
            (("temporal", self.words),),
            self.resampling,
            self.dropout_rate,
            self.dtype,
            name="positions",
        )(GELU(project(x)), (ids.shape[1],), train=train)
        return prepend_vector(x, vector), mask


class LinearText(nn.Module):
    """The text model without a transformer: the largest of each feature over the words.

    Attributes:
      features: Width of the sentence feature.
      vocabulary: Words.
      word_width: Of a word vector.
      trainable_words: Whether the word vectors are trained.
      dtype: Compute dtype.

    Source: released code of arXiv 2104.11178 (``linear_lm``); padding counts as a word there.
    """

    features: int
    vocabulary: int
    word_width: int
    trainable_words: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, ids: Int[Array, "b n"]
    ) -> tuple[Float[Array, "b d"], Float[Array, "b n d"]]:
        """Returns the feature of each sentence, and those of its words."""
        table = WordTable(
            self.vocabulary,
            self.word_width,
            self.trainable_words,
            self.dtype,
            name="words",
        )
        x = dense(self.features, bias=True, dtype=self.dtype, name="project")(
            table(ids)
        )
        x = nn.relu(x)
        return x.max(1), x


class VattBackbone(nn.Module):
    """Features of video, sound and text; one encoder for all, or one for each.

    No example of a batch depends on another one. Training draws from the stream ``"dropout"``, and
    the tokens to keep from ``"drop_token"`` where it is given: one subset for all examples of
    a call.

    Attributes:
      encoder: Size of the encoder of video, and of all modalities if the other two are None.
      audio_encoder: Size of that of sound.
      text_encoder: Size of that of text.
      text_model: ``"transformer"``, or ``"linear"`` without one.
      audio_input: ``"waveform"`` or ``"spectrogram"``.
      clip: Frames, rows and columns of the clips that the position tables are for.
      patch: Of a clip.
      sound: Samples, or steps and bands, that the position tables are for.
      sound_patch: Likewise.
      words: Words of a sentence.
      vocabulary: Words that are known; id 0 is padding.
      word_width: Width of a word vector.
      trainable_words: Whether word vectors are trained.
      projection: Width of the features of a shared encoder.
      d_kv: Width of a head.
      keep_tokens: Share of the tokens of clips and waveforms that training keeps.
      dropout_rate: Everywhere in the encoders.
      resampling: Of position tables, for clips and sounds of another size.
      remat: Whether the backward pass computes layers again.
      scan: Whether layers are compiled once; see `zoo_jax.nn.transformer.Encoder`.
      dtype: Compute dtype; parameters and features are float32.
    """

    encoder: Size
    audio_encoder: Size | None
    text_encoder: Size | None
    text_model: str
    audio_input: str
    clip: tuple[int, int, int]
    patch: tuple[int, int, int]
    sound: tuple[int, ...]
    sound_patch: tuple[int, ...]
    words: int
    vocabulary: int
    word_width: int
    trainable_words: bool
    projection: int
    d_kv: int
    keep_tokens: float
    dropout_rate: float
    resampling: Resampling
    remat: bool
    scan: bool
    dtype: DTypeLike

    @property
    def shared(self) -> bool:
        """Whether all modalities share one encoder."""
        return self.audio_encoder is None

    def setup(self) -> None:
        """Makes the parts; those that are not called get no parameters."""
        spectrogram = self.audio_input == "spectrogram"
        encoders = {
            "video": self.encoder,
            "audio": self.audio_encoder or self.encoder,
            "text": self.text_encoder or self.encoder,
        }
        common = dict(dropout_rate=self.dropout_rate, dtype=self.dtype)
        tokens = dict(resampling=self.resampling, **common)

        def tables(names: Sequence[str], size: Sequence[int], patch: Sequence[int]):
            lengths = (n // p for n, p in zip(size, patch, strict=True))
            return tuple(zip(names, lengths, strict=True))

        self.video_stem = PatchStem(
            width=encoders["video"].width,
            patch=self.patch,
            axes=tables(("temporal", "vertical", "horizontal"), self.clip, self.patch),
            projected=self.shared,
            keep_tokens=self.keep_tokens,
            **tokens,
        )
        self.audio_stem = PatchStem(
            width=encoders["audio"].width,
            patch=self.sound_patch,
            axes=tables(
                ("temporal", "spectral") if spectrogram else ("temporal",),
                self.sound,
                self.sound_patch,
            ),
            projected=self.shared,
            keep_tokens=1.0 if spectrogram else self.keep_tokens,
            **tokens,
        )
        lexicon = dict(
            vocabulary=self.vocabulary,
            word_width=self.word_width,
            trainable_words=self.trainable_words,
        )
        if self.text_model == "linear":
            self.linear_text = LinearText(
                features=encoders["text"].width, dtype=self.dtype, **lexicon
            )
        else:
            self.text_stem = WordStem(
                width=encoders["text"].width,
                words=self.words if self.shared else None,
                **lexicon,
                **tokens,
            )

        def encoder(size: Size, **options: Any) -> Encoder:
            return Encoder(
                num_layers=size.layers,
                d_ff=size.hidden,
                num_heads=size.heads,
                d_kv=self.d_kv,
                remat=self.remat,
                scan=self.scan,
                **common,
                **options,
            )

        if self.shared:
            self.shared_encoder = encoder(self.encoder)
            self.post_proj = {
                name: dense(self.projection, bias=True, dtype=self.dtype, name=None)
                for name in encoders
            }
        else:
            self.video_encoder = encoder(encoders["video"])
            self.sound_encoder = encoder(encoders["audio"], use_bias=not spectrogram)
            if self.text_model == "transformer":
                self.sentence_encoder = encoder(
                    encoders["text"],
                    rms_norm=True,
                    use_bias=False,
                    scaled=False,
                    relative_buckets=32,
                    relative_distance=64,
                )

    def __call__(
        self,
        video: Float[Array, "b t h w 3"] | None = None,
        audio: Float[Array, "b *s"] | None = None,
        text: Int[Array, "*b n"] | None = None,
        text_mask: Bool[Array, "*b n"] | None = None,
        *,
        train: bool = False,
        tokens: bool = False,
    ) -> dict[str, Float[Array, "*b d"]]:
        """Features of the modalities that are given; initialisation makes all parameters.

        Args:
          video: Clips in [-1, 1]; any size of at least one patch.
          audio: Waveforms [b, s] in [-1, 1] or log-mel spectrograms [b, t, m].
          text: Word ids, 0 where there is none; one sentence per row, with any leading axes.
          text_mask: Words that may be seen; None: those whose id is not 0.
          train: Whether to drop out and to drop tokens.
          tokens: Also return the features of all tokens: ``"video_tokens"`` and so on.

        Returns:
          ``{"video": [b, d], "audio": [b, d], "text": [*b, d]}``, float32.
        """
        if self.is_initializing():
            video = jnp.zeros((1, *self.clip, 3)) if video is None else video
            audio = jnp.zeros((1, *self.sound)) if audio is None else audio
            text = jnp.zeros((1, self.words), jnp.int32) if text is None else text
        out = {}

        def finish(name: str, x: Array, axes: tuple[int, ...]) -> None:
            # Rows behind the first are projected only where they are asked for.
            x = x if tokens else x[:, :1]
            if self.shared:
                x = GELU(self.post_proj[name](x))
            x = x.astype(jnp.float32)
            out[name] = x[:, 0].reshape(*axes, -1)
            if tokens:
                out[f"{name}_tokens"] = x[:, 1:].reshape(*axes, x.shape[1] - 1, -1)

        if video is not None:
            x = self.video_stem(video.astype(self.dtype), train=train)
            encoder = self.shared_encoder if self.shared else self.video_encoder
            finish("video", encoder(x, train=train), video.shape[:1])
        if audio is not None:
            # A channel axis where there is none.
            x = audio.reshape(*audio.shape[: 1 + len(self.sound)], 1)
            x = self.audio_stem(x.astype(self.dtype), train=train)
            encoder = self.shared_encoder if self.shared else self.sound_encoder
            finish("audio", encoder(x, train=train), audio.shape[:1])
        if text is not None:
            axes, ids = text.shape[:-1], text.reshape(-1, text.shape[-1])
            if self.text_model == "linear":
                pooled, words = self.linear_text(ids)
                finish("text", jnp.concatenate([pooled[:, None], words], 1), axes)
            else:
                mask = None if text_mask is None else text_mask.reshape(ids.shape)
                x, mask = self.text_stem(ids, mask, train=train)
                encoder = self.shared_encoder if self.shared else self.sentence_encoder
                finish("text", encoder(x, mask, train=train), axes)
        return out


class ReluDenseNorm(nn.Module):
    """An optional batch norm, ReLU, a dense layer without bias, and a batch norm."""

    features: int
    pre_norm: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b d"], *, train: bool) -> Float[Array, "b e"]:
        """Applies them; training updates running statistics."""

        def norm(name: str) -> nn.BatchNorm:
            # Linen's running variance is the biased one: so is Keras' for such inputs.
            return nn.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                epsilon=1e-5,
                use_fast_variance=False,
                dtype=self.dtype,
                name=name,
            )

        x = norm("pre_bn")(x) if self.pre_norm else x
        x = dense(self.features, bias=False, dtype=self.dtype, name="dense")(nn.relu(x))
        return norm("bn")(x)


class FacHeads(nn.Module):
    """Fine to coarse: video and sound meet in one space, video and text in one built on it.

    The part up to the first space gets gradients of both comparisons. Batch statistics are those
    of the global batch.

    Attributes:
      spaces: Widths of the space of video and sound, and of that of video and text.
      dtype: Compute dtype; embeddings and statistics are float32.

    Source: arXiv 2104.11178, section 3.4; norms as in its released code.
    """

    spaces: tuple[int, int] = (512, 256)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, features: Mapping[str, Float[Array, "*b d"]], *, train: bool = False
    ) -> dict[str, Float[Array, "*b e"]]:
        """Embeddings of the features that are given, not normalised.

        Args:
          features: Those of a `VattBackbone`; other entries are passed over.
          train: Whether norms use batch statistics (and update ``batch_stats``).

        Returns:
          ``"video_audio"`` and ``"audio"`` [b, spaces[0]], ``"video_text"`` [b, spaces[1]] and
          ``"text"`` [*b, spaces[1]], float32.
        """
        fine, coarse = self.spaces
        out = {}

        def layer(width: int, bias: bool, name: str) -> nn.Dense:
            return dense(width, bias=bias, dtype=self.dtype, name=name)

        if "video" in features:
            x = layer(fine, False, "vid_to_hid")(features["video"])
            x = ReluDenseNorm(fine, True, self.dtype, name="hid_to_va")(x, train=train)
            out["video_audio"] = x
            out["video_text"] = ReluDenseNorm(
                coarse, False, self.dtype, name="va_to_vat"
            )(x, train=train)
        if "audio" in features:
            out["audio"] = layer(fine, True, "aud_to_va")(features["audio"])
        if "text" in features:
            out["text"] = layer(coarse, True, "txt_to_vat")(features["text"])
        return {name: x.astype(jnp.float32) for name, x in out.items()}


class JointHeads(nn.Module):
    """All modalities meet in one space; not the published setting.

    Attributes:
      width: Of that space.
      dtype: Compute dtype; embeddings and statistics are float32.
    """

    width: int = 512
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, features: Mapping[str, Float[Array, "*b d"]], *, train: bool = False
    ) -> dict[str, Float[Array, "*b e"]]:
        """As `FacHeads`; ``"video_audio"`` and ``"video_text"`` are the same."""
        names = {"video": "vid_to_vat", "audio": "aud_to_vat", "text": "txt_to_vat"}
        out = {
            name: ReluDenseNorm(self.width, False, self.dtype, name=names[name])(
                features[name], train=train
            ).astype(jnp.float32)
            for name in names
            if name in features
        }
        if "video" in out:
            out["video_audio"] = out["video_text"] = out.pop("video")
        return out


class Classifier(nn.Module):
    """Class scores from the feature of one modality, for fine-tuning.

    Attributes:
      num_classes: Classes.
      dropout_rate: Of the feature: 0.5 for video, 0 for sound in the released code.
      prior: A bias that starts every class at this probability; None: at zero.
      dtype: Compute dtype; logits are float32.
    """

    num_classes: int
    dropout_rate: float = 0.5
    prior: float | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, feature: Float[Array, "b d"], *, train: bool = False
    ) -> Float[Array, "b k"]:
        """Returns logits."""
        start = (
            0.0 if self.prior is None else float(np.log(self.prior / (1 - self.prior)))
        )
        x = nn.Dropout(self.dropout_rate)(feature, deterministic=not train)
        layer = nn.Dense(
            self.num_classes,
            kernel_init=nn.initializers.glorot_normal(),
            bias_init=nn.initializers.constant(start),
            dtype=self.dtype,
            name="classify",
        )
        return layer(x).astype(jnp.float32)


class Vatt(nn.Module):
    """Backbone and heads.

    Attributes:
      backbone: A `VattBackbone`; its parameters stand below ``backbone``.
      heads: `FacHeads` or `JointHeads`, below ``heads``.
      dtype: Their compute dtype.
    """

    backbone: VattBackbone
    heads: FacHeads | JointHeads
    dtype: DTypeLike = jnp.float32

    def __call__(
        self,
        video: Float[Array, "b t h w 3"] | None = None,
        audio: Float[Array, "b *s"] | None = None,
        text: Int[Array, "*b n"] | None = None,
        *,
        train: bool = False,
    ) -> dict[str, Float[Array, "*b e"]]:
        """Embeddings of the modalities that are given: what `FacHeads` returns."""
        features = self.backbone(video, audio, text, train=train)
        return self.heads(features, train=train)

    def features(
        self,
        video: Float[Array, "b t h w 3"] | None = None,
        audio: Float[Array, "b *s"] | None = None,
        text: Int[Array, "*b n"] | None = None,
        *,
        train: bool = False,
        tokens: bool = False,
    ) -> dict[str, Float[Array, "*b d"]]:
        """What the backbone returns."""
        return self.backbone(video, audio, text, train=train, tokens=tokens)


SizeLike = str | tuple[int, int, int, int]


def build_vatt(
    *,
    encoder: SizeLike = (2, 32, 64, 2),
    audio_encoder: SizeLike | None = None,
    text_encoder: SizeLike | None = None,
    text_model: Literal["transformer", "linear"] = "transformer",
    audio_input: Literal["waveform", "spectrogram"] = "waveform",
    clip: tuple[int, int, int] = (8, 32, 32),
    patch: tuple[int, int, int] = (4, 16, 16),
    sound: int | tuple[int, ...] = 4096,
    sound_patch: int | tuple[int, ...] = 128,
    words: int = 16,
    vocabulary: int = 1024,
    word_width: int = 32,
    trainable_words: bool = True,
    projection: int = 32,
    d_kv: int = 16,
    keep_tokens: float = 0.5,
    dropout_rate: float = 0.1,
    resampling: Resampling = "spline",
    head: Literal["fac", "joint"] = "fac",
    spaces: tuple[int, int] = (32, 16),
    remat: bool = False,
    scan: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Vatt:
    """Builds a VATT of any size; the defaults make a tiny one with one encoder for all.

    Args:
      encoder: ``"small"``, ``"base"``, ``"medium"``, ``"large"``, or (layers, width, width of
        the feed-forward layers, heads). Of video; with neither of the next two, of everything.
      audio_encoder: Likewise, of sound.
      text_encoder: Likewise, of text; only the width counts for ``text_model="linear"``.
      text_model: ``"linear"`` goes with three encoders.
      audio_input: ``"spectrogram"``: its encoder has no biases and no tokens are dropped.
      clip: Frames, rows and columns that the position tables are for.
      patch: Of a clip.
      sound: Samples, or (steps, bands) of a spectrogram.
      sound_patch: As many numbers.
      words: Words of a sentence.
      vocabulary: Words that are known.
      word_width: Width of a word vector.
      trainable_words: The published models keep word2vec vectors as they are.
      projection: Width of the features if there is one encoder.
      d_kv: Width of a head.
      keep_tokens: Share of the tokens that training keeps, in (0, 1].
      dropout_rate: In [0, 1).
      resampling: ``"spline"`` (released code) or ``"cubic"`` (paper).
      head: ``"fac"`` or ``"joint"``; the latter uses ``spaces[0]`` only.
      spaces: Widths of the spaces of video and sound, and of video and text.
      remat: Whether the backward pass computes layers again.
      scan: Whether layers are compiled once. Not with harmonized gradients.
      dtype: Compute dtype.

    Raises:
      ConfigError: for an unknown name or a number out of range.
    """
    sizes = {
        "encoder": _size("encoder", encoder),
        "audio_encoder": _size("audio_encoder", audio_encoder),
        "text_encoder": _size("text_encoder", text_encoder),
    }
    _require(
        (audio_encoder is None) == (text_encoder is None),
        "audio_encoder and text_encoder must be given both or not at all, got "
        f"audio_encoder={audio_encoder!r}, text_encoder={text_encoder!r}",
    )
    for key, value, choices in (
        ("text_model", text_model, ("transformer", "linear")),
        ("audio_input", audio_input, ("waveform", "spectrogram")),
        ("resampling", resampling, RESAMPLINGS),
        ("head", head, ("fac", "joint")),
    ):
        _require(
            value in choices, f"unknown {key} {value!r}: {closest(value, choices)}"
        )
    _require(
        text_model == "transformer" or text_encoder is not None,
        "text_model='linear' has no use for a shared encoder: give audio_encoder and "
        "text_encoder",
    )
    sound, sound_patch = (
        (n,) if isinstance(n, int) else tuple(n) for n in (sound, sound_patch)
    )
    axes = 2 if audio_input == "spectrogram" else 1
    for key, value, cut, count in (
        ("clip", clip, patch, 3),
        ("sound", sound, sound_patch, axes),
    ):
        fits = len(value) == len(cut) == count
        _require(
            fits and all(n >= p >= 1 for n, p in zip(value, cut, strict=True)),
            f"{key} must be {count} numbers, none below that of its patch, got "
            f"{key}={tuple(value)} and patches of {tuple(cut)}",
        )
    for key, value in dict(
        words=words,
        vocabulary=vocabulary,
        word_width=word_width,
        projection=projection,
        d_kv=d_kv,
        **{f"spaces[{i}]": n for i, n in enumerate(spaces)},
    ).items():
        _require(value >= 1, f"{key} must be at least 1, got {key}={value}")
    _require(len(spaces) == 2, f"spaces must be two numbers, got spaces={spaces}")
    _require(
        0 < keep_tokens <= 1,
        f"keep_tokens must be above 0 and at most 1, got keep_tokens={keep_tokens}",
    )
    _require(
        0 <= dropout_rate < 1,
        f"dropout_rate must be at least 0 and below 1, got dropout_rate={dropout_rate}",
    )
    backbone = VattBackbone(
        **sizes,
        text_model=text_model,
        audio_input=audio_input,
        clip=tuple(clip),
        patch=tuple(patch),
        sound=sound,
        sound_patch=sound_patch,
        words=words,
        vocabulary=vocabulary,
        word_width=word_width,
        trainable_words=trainable_words,
        projection=projection,
        d_kv=d_kv,
        keep_tokens=keep_tokens,
        dropout_rate=dropout_rate,
        resampling=resampling,
        remat=remat,
        scan=scan,
        dtype=dtype,
    )
    heads = (
        FacHeads(tuple(spaces), dtype)
        if head == "fac"
        else JointHeads(spaces[0], dtype)
    )
    return Vatt(backbone=backbone, heads=heads, dtype=dtype)


# Section 4 of arXiv 2104.11178: 32 frames of 224x224 at 10 per second with 3.2 s of sound.
_published = functools.partial(
    build_vatt,
    clip=(32, 224, 224),
    sound=153_600,
    vocabulary=2**16,
    word_width=300,
    trainable_words=False,
    projection=1024,
    d_kv=64,
    spaces=(512, 256),
)
build_vatt_medium = functools.partial(_published, encoder="medium")
build_vatt_bbs = functools.partial(
    _published, encoder="base", audio_encoder="base", text_encoder="small"
)
build_vatt_mbs = functools.partial(
    _published, encoder="medium", audio_encoder="base", text_encoder="small"
)
build_vatt_lbs = functools.partial(
    _published, encoder="large", audio_encoder="base", text_encoder="small"
)

MODELS: dict[str, Callable[..., Vatt]] = {
    "vatt": build_vatt,
    "vatt_medium": build_vatt_medium,
    "vatt_bbs": build_vatt_bbs,
    "vatt_mbs": build_vatt_mbs,
    "vatt_lbs": build_vatt_lbs,
}


def make_vatt(model: Mapping[str, Any]) -> Vatt:
    """Builds the network of a config section ``dict(name="vatt", **arguments)``.

    Raises:
      ConfigError: for an unknown name, argument or dtype, or a value that does not fit.
    """
    options = to_dict(model)
    name = options.pop("name", None)
    if name not in MODELS:
        raise ConfigError(f"unknown model.name {name!r}: {closest(name, MODELS)}")
    require_keys(options, inspect.signature(MODELS[name]).parameters, "model")
    dtype = options.get("dtype", "float32")
    if dtype not in ("float32", "bfloat16"):
        raise ConfigError(f"model.dtype must be float32 or bfloat16, got {dtype!r}")
    return MODELS[name](**options | {"dtype": jnp.dtype(dtype)})


def _size(key: str, value: SizeLike | None) -> Size | None:
    if value is None:
        return None
    if isinstance(value, str):
        _require(value in SIZES, f"unknown {key} {value!r}: {closest(value, SIZES)}")
        return SIZES[value]
    numbers = tuple(value)
    _require(
        len(numbers) == 4 and all(isinstance(n, int) and n >= 1 for n in numbers),
        f"{key} must be a name or (layers, width, hidden, heads), got {key}={value!r}",
    )
    return Size(*numbers)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)
