"""Log-mel spectrograms, on the device."""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zoo_jax.core.errors import ConfigError


def log_mel(
    audio: Float[Array, "*b s"],
    *,
    rate: int = 48_000,
    frame_length: int = 2048,
    frame_step: int = 1024,
    bins: int = 80,
    low: float = 80.0,
    high: float = 7600.0,
    scale: float = 10_000.0,
) -> Float[Array, "*b t bins"]:
    r"""The logarithm of a mel-scaled magnitude spectrogram.

    .. math:: y_{tm} = \log\Big(1 + scale \sum_f W_{fm} \big|\sum_n w_n\,x_{t\,step + n}\,
        e^{-2\pi i f n / length}\big|\Big)

    with a periodic Hann window :math:`w` and the triangles :math:`W` of `mel_weights`. The
    end is filled up with zeros, so that :math:`\lceil s / step \rceil` frames result: 150 of
    80 bins for 3.2 s at 48 kHz.

    Args:
      audio: In [-1, 1].
      rate: Samples per second.
      frame_length: Samples of a frame; also of its Fourier transform.
      frame_step: Samples from one frame to the next.
      bins: Mel bands.
      low: Hz where the first band starts.
      high: Hz where the last band ends.
      scale: Before the logarithm.

    Raises:
      ConfigError: for bands that the rate cannot hold, or sizes that are not positive.

    Source: the released code of arXiv 2104.11178, with its step of 21.3 ms.
    """
    if min(frame_length, frame_step) < 1:
        raise ConfigError(
            f"frame_length and frame_step must be positive, got {frame_length}, {frame_step}"
        )
    weights = mel_weights(bins, frame_length, rate, low, high)
    frames = -(-audio.shape[-1] // frame_step)
    missing = (frames - 1) * frame_step + frame_length - audio.shape[-1]
    pad = [(0, 0)] * (audio.ndim - 1) + [(0, max(missing, 0))]
    starts = frame_step * np.arange(frames)
    parts = jnp.pad(audio, pad)[..., starts[:, None] + np.arange(frame_length)]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(frame_length) / frame_length)
    window = jnp.broadcast_to(window.astype(np.float32), parts.shape)
    magnitude = jnp.abs(jnp.fft.rfft(parts * window))
    return jnp.log1p(scale * (magnitude @ weights))


@functools.lru_cache(maxsize=8)
def mel_weights(
    bins: int, frame_length: int, rate: int, low: float, high: float
) -> Float[np.ndarray, "f bins"]:
    """Triangles that are even on the mel scale 1127 ln(1 + Hz / 700), of height 1.

    Band `m` rises from edge `m` to edge `m + 1` and falls to edge `m + 2`, straight in mel.
    The constant part (0 Hz) is in no band. As `tf.signal.linear_to_mel_weight_matrix`.

    Raises:
      ConfigError: unless 0 <= low < high <= rate / 2 and there is a band.
    """
    if not 0 <= low < high <= rate / 2 or bins < 1:
        raise ConfigError(
            f"mel bands need 0 <= low < high <= rate / 2 and bins >= 1, got low={low}, "
            f"high={high}, rate={rate}, bins={bins}"
        )
    hertz = np.linspace(0, rate / 2, frame_length // 2 + 1)
    mel = 1127 * np.log1p(hertz / 700)[:, None]
    edges = np.linspace(
        1127 * np.log1p(low / 700), 1127 * np.log1p(high / 700), bins + 2
    )
    rise = (mel - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - mel) / (edges[2:] - edges[1:-1])
    weights = np.maximum(0, np.minimum(rise, fall))
    weights[0] = 0
    return weights.astype(np.float32)


def scale_to_unit(spectrogram: Float[Array, "*b t bins"]) -> Float[Array, "*b t bins"]:
    """Each spectrogram to [0, 1] by its own least and largest value; a constant one to 0.

    >>> scale_to_unit(jnp.array([[1.0, 3.0], [2.0, 1.0]])).tolist()
    [[0.0, 1.0], [0.5, 0.0]]
    """
    least = spectrogram.min(axis=(-2, -1), keepdims=True)
    spread = spectrogram.max(axis=(-2, -1), keepdims=True) - least
    return (spectrogram - least) / jnp.where(spread == 0, 1, spread)
