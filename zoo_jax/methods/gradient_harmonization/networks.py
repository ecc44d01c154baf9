"""How batches go through VATT: example by example in training, all at once otherwise."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from zoo_jax.core.config import require_keys, to_dict
from zoo_jax.core.errors import ConfigError
from zoo_jax.core.rng import fold_name
from zoo_jax.core.types import Batch, Key, Variables
from zoo_jax.data.clip_jitter import jitter_colours, to_signed, to_unit
from zoo_jax.data.spectrogram import log_mel, scale_to_unit
from zoo_jax.nn.taps import ModuleTower

BACKBONE, HEADS = "backbone", "heads"
MODALITIES = ("video", "audio", "text")


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What is done to one modality before the network sees it.

    Attributes:
      spectrogram: Arguments of `log_mel`, whose result is scaled to [0, 1]; None: the waveform.
      motion: Above 0, every clip is shown as its difference to its own mean picture times this,
        clipped to [-1, 1]: for small networks and a background that never moves. Not of any paper.
      colours: Whether training changes the colours of clips, see `jitter_colours`.
    """

    spectrogram: Mapping[str, Any] | None = None
    motion: float = 0.0
    colours: bool = False

    def __call__(self, name: str, x: Array, key: Key | None = None) -> Array:
        """Prepares ``video`` [*b, t, h, w, 3], ``audio`` [*b, s] or ``text``.

        Video is bytes, or floats in [-1, 1] as they are. A key means training, of one example.
        """
        if name == "video":
            if x.dtype == jnp.uint8:
                x = to_unit(x)
                if self.colours and key is not None:
                    x = jitter_colours(fold_name(key, "colours"), x)
                x = to_signed(x)
            if self.motion:
                still = jnp.mean(x, axis=-4, keepdims=True)
                x = jnp.clip(self.motion * (x - still), -1, 1)
        if name == "audio" and self.spectrogram is not None:
            x = scale_to_unit(log_mel(x, **self.spectrogram))
        return x


def make_inputs(section: Mapping[str, Any], audio_input: str) -> Inputs:
    """Reads a config section ``dict(spectrogram=..., motion=..., colours=...)``; any may be absent.

    Args:
      section: See `Inputs`.
      audio_input: That of the network, "waveform" or "spectrogram".

    Raises:
      ConfigError: for an unknown key, or arguments that `log_mel` does not have.
    """
    section = to_dict(section or {})
    require_keys(section, ("spectrogram", "motion", "colours"), "inputs")
    motion = section.get("motion", 0.0)
    if isinstance(motion, bool) or not isinstance(motion, int | float) or motion < 0:
        raise ConfigError(f"inputs.motion must be a number from 0, got {motion!r}")
    given = section.get("spectrogram") or {}
    known = set(inspect.signature(log_mel).parameters) - {"audio"}
    require_keys(given, known, "inputs.spectrogram")
    if given and audio_input != "spectrogram":
        raise ConfigError(
            "inputs.spectrogram goes with model.audio_input='spectrogram', not with waveforms"
        )
    return Inputs(
        given if audio_input == "spectrogram" else None,
        motion,
        bool(section.get("colours")),
    )


class _WithFrozen:
    """A module with the variables that are no parameters, such as frozen word vectors."""

    def __init__(self, module: Any, frozen: Mapping[str, Any]):
        self.module, self.frozen = module, dict(frozen)

    def apply(self, variables: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        return self.module.apply({**self.frozen, **variables}, *args, **kwargs)


def make_towers(
    backbone: Any,
    frozen: Mapping[str, Any],
    inputs: Inputs = Inputs(),
    modalities: tuple[str, ...] = MODALITIES,
) -> dict[str, ModuleTower]:
    """The backbone as one function per modality, of one example, in training.

    Args:
      backbone: A `VattBackbone`.
      frozen: Its variables but the parameters.
      inputs: What happens first.
      modalities: Which.

    Returns:
      Towers for `Harmonizer`. Video and sound give [d], text [l, d]. Every example drops
      tokens of its own.
    """

    def tower(name: str) -> ModuleTower:
        def call(apply, example: Batch, key: Key) -> Array:
            given = inputs(name, example[name], key)
            rngs = {k: fold_name(key, f"{name}/{k}") for k in ("dropout", "drop_token")}
            return apply(**{name: given[None]}, train=True, rngs=rngs)[name][0]

        return ModuleTower(_WithFrozen(backbone, frozen), call)

    return {name: tower(name) for name in modalities}


def embed(
    vatt: Any,
    variables: Variables,
    batch: Batch,
    inputs: Inputs = Inputs(),
) -> dict[str, Array]:
    """Features and embeddings of a batch, as in inference.

    Args:
      vatt: A `Vatt`.
      variables: Of the networks "backbone" and "heads".
      batch: ``video`` [b, t, h, w, 3], ``audio`` [b, s] and ``text`` [b, l, words], those that there
        are. The first two may have an axis of windows behind b.
      inputs: What happens first.

    Returns:
      ``video_features``, ``audio_features``, ``text_features`` of the backbone, and in the
      common spaces ``video_audio``, ``video_text`` (of video), ``audio`` and ``text``; not
      normalised. With windows [b, w, d]; of text [b, l, d].
    """
    params, state = variables["params"], variables["model_state"]
    features = {}
    for name, inner in (("video", 4), ("audio", 1), ("text", 1)):
        if name not in batch:
            continue
        x = batch[name]
        rows = inputs(name, x.reshape(-1, *x.shape[x.ndim - inner :]))
        found = vatt.backbone.apply(
            {"params": params[BACKBONE], **state.get(BACKBONE, {})}, **{name: rows}
        )[name]
        features[name] = found.reshape(*x.shape[: x.ndim - inner], -1)
    flat = {k: v.reshape(-1, v.shape[-1]) for k, v in features.items()}
    z = vatt.heads.apply(
        {"params": params[HEADS], **state.get(HEADS, {})}, flat, train=False
    )
    out = {f"{name}_features": x for name, x in features.items()}
    for name, x in z.items():
        axes = features[name.split("_")[0]].shape[:-1]
        out[name] = x.reshape(*axes, -1)
    return out


def init_networks(vatt: Any, key: Key, batch: Batch) -> Variables:
    """Fresh variables of both networks. Their shapes do not depend on the batch."""
    del batch
    backbone = dict(vatt.backbone.init(fold_name(key, BACKBONE)))
    text = jnp.zeros((1, vatt.backbone.words), jnp.int32)
    inputs = dict(
        video=jnp.zeros((1, *vatt.backbone.clip, 3)),
        audio=jnp.zeros((1, *vatt.backbone.sound)),
        text=text,
    )
    shapes = jax.eval_shape(lambda v: vatt.backbone.apply(v, **inputs), backbone)
    features = {k: jnp.zeros(s.shape, s.dtype) for k, s in shapes.items()}
    heads = dict(vatt.heads.init(fold_name(key, HEADS), features, train=False))
    params = {BACKBONE: backbone.pop("params"), HEADS: heads.pop("params")}
    return {"params": params, "model_state": {BACKBONE: backbone, HEADS: heads}}
