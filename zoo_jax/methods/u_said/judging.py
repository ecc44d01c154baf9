"""What a segmentation network makes of denoised pictures, and how sure a difference is."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from zoo_jax.core.files import PathLike
from zoo_jax.core.types import Batch
from zoo_jax.data.geometry import Resize
from zoo_jax.data.loader import eval_batches
from zoo_jax.metrics.image import psnr, ssim_uniform
from zoo_jax.metrics.segmentation import (
    confusion_matrix,
    mean_iou,
    pixel_accuracy,
)
from zoo_jax.nn.tflite import TfliteNetwork

# Picture by picture: [n], and the confused classes [n, k, k].
Measured = dict[str, np.ndarray]
IMAGE_METRICS = {"psnr": psnr, "ssim": ssim_uniform}


class Pictures:
    """A stream of noisy pictures with true masks, and a judge who segments what was restored.

    Args:
      source: Examples with ``image``, ``noisy`` and ``segmentation``, all of one size.
      loader: Keyword arguments of `eval_batches`.
      judge: Pictures [b, h, w, 3] in [0, 1] -> classes [b, h, w].
      num_classes: Of the judge.
    """

    def __init__(
        self,
        source: Any,
        loader: Mapping[str, Any],
        judge: Callable[[Float[Array, "b h w 3"]], Int[Array, "b h w"]],
        *,
        num_classes: int,
    ):
        self._source, self._loader = source, loader

        def compare(image: Array, batch: Batch) -> dict[str, Array]:
            values = {m: f(image, batch["image"]) for m, f in IMAGE_METRICS.items()}
            confused = confusion_matrix(
                judge(image), batch["segmentation"], num_classes=num_classes
            )
            return values | {"confused": confused}

        self._compare = jax.jit(compare)

    def batches(self) -> Any:
        """The stream from its start."""
        return eval_batches(self._source, **self._loader)

    def measure(self, restore: Callable[[Batch], Float[Array, "b h w 3"]]) -> Measured:
        """Restores and judges every picture.

        Returns:
          ``psnr`` and ``ssim`` [n]; ``confused`` [n, k, k], see `confusion_matrix`.
        """
        parts = []
        for batch in self.batches():
            found = jax.device_get(self._compare(restore(batch), batch))
            parts.append({m: v[batch["mask"] > 0] for m, v in found.items()})
        return {m: np.concatenate([p[m] for p in parts]) for m in parts[0]}


class FileJudge:
    """A segmentation network in a TFLite file, which takes part in no training.

    A picture is stored in 8 bits, resized bicubically with its aspect kept until it fits into the
    input, and padded with grey below and to the right, as the makers of DeepLab do.

    Args:
      path: A ``.tflite`` file that returns the class of every pixel of its input.

    Raises:
      WeightsError: as `TfliteNetwork`.
    """

    def __init__(self, path: PathLike):
        self._network = TfliteNetwork(path)

    def __call__(self, image: Float[np.ndarray, "h w 3"]) -> Int[np.ndarray, "i j"]:
        """Classes of a picture in [0, 1], at the size that it has within the input."""
        stored = np.round(255 * np.clip(np.asarray(image), 0, 1)).astype(np.uint8)
        room = np.array(self._network.size)
        scale = (room / stored.shape[:2]).min()
        size = np.maximum(np.floor(scale * np.array(stored.shape[:2]) + 1e-6), 1)
        h, w = size.astype(int).tolist()
        resized = Resize((h, w), method="bicubic")({"image": stored}, None)["image"]
        padded = np.full((*self._network.size, 3), 127, np.uint8)
        padded[:h, :w] = resized
        return self._network(padded[None])[0, :h, :w].astype(np.int32)


class Agreement:
    """Whether judges see in denoised pictures what they see in the clean ones.

    Args:
      judges: Name -> picture in [0, 1] to the classes in it, such as a `FileJudge`.
      classes: Name -> how many classes that judge has.
    """

    def __init__(
        self,
        judges: Mapping[str, Callable[[Float[np.ndarray, "h w 3"]], np.ndarray]],
        classes: Mapping[str, int],
    ):
        self._judges, self._classes = dict(judges), dict(classes)
        self._confused: dict[tuple[str, str], list[np.ndarray]] = {}

    def add(self, versions: Mapping[str, Float[np.ndarray, "h w 3"]]) -> None:
        """Takes one picture: ``clean``, and other versions of it in [0, 1]."""
        for name, judge in self._judges.items():
            seen = {k: judge(image)[None] for k, image in versions.items()}
            for version in set(seen) - {"clean"}:
                counts = confusion_matrix(
                    seen[version], seen["clean"], num_classes=self._classes[name]
                )
                parts = self._confused.setdefault((name, version), [])
                parts.append(np.asarray(counts[0]))

    def rows(self, *, baseline: str, resamples: int = 2000) -> list[dict[str, Any]]:
        """One row per judge and version, over all pictures so far.

        Args:
          baseline: The version that the others are compared with; empty for none.
          resamples: Draws of the bootstrap over pictures.

        Returns:
          ``judge``, ``arm``, ``agreement`` and ``miou`` in points (0 to 100) and, with a baseline,
          ``gain`` in points of mean IoU with ``gain_low`` and ``gain_high``.
        """
        out = []
        for (judge, version), parts in sorted(self._confused.items()):
            confused = np.stack(parts)[None]  # one seed
            row = {
                "judge": judge,
                "arm": version,
                "agreement": 100 * float(pixel_accuracy(confused.sum((0, 1)))),
                "miou": 100 * float(set_miou(confused)[0]),
            }
            if baseline:
                other = np.stack(self._confused[judge, baseline])[None]
                row["gain"] = row["miou"] - 100 * float(set_miou(other)[0])
                ends = paired_interval(confused, other, block=1, resamples=resamples)
                row["gain_low"], row["gain_high"] = (100 * end for end in ends)
            out.append(row)
        return out


def noisy_picture(batch: Batch) -> Array:
    """The picture as it came, clipped to what can be stored."""
    return jnp.clip(batch["noisy"], 0, 1)


def clean_picture(batch: Batch) -> Array:
    """The picture without noise: as far as a denoiser could come."""
    return batch["image"]


def set_miou(confused: Float[np.ndarray, "s n k k"]) -> Float[np.ndarray, "s"]:
    """Mean IoU of each seed over the whole set."""
    return mean_iou(np.asarray(confused, np.float64).sum(axis=1))


def paired_interval(
    confused: Float[np.ndarray, "s n k k"],
    baseline: Float[np.ndarray, "s n k k"],
    *,
    block: int,
    resamples: int,
    coverage: float = 0.95,
) -> tuple[float, float]:
    """Interval of the difference of two mean IoUs on the same pictures, by the bootstrap.

    Seeds, and blocks of neighbouring pictures, are drawn anew with replacement, the same for both
    sides: a seed fixes start and order of data, so it is a pair as a picture is. Every draw
    adds up its confusion matrices before it divides. Blocks keep frames of one film, which
    resemble each other, from passing for many. With three seeds it is still too short:
    the percentile bootstrap over three of anything is.

    Args:
      confused: Of the arm: seeds, pictures, classes.
      baseline: Of the other; with one seed, that one is compared with each.
      block: Pictures per block.
      resamples: How many draws.
      coverage: Share of draws between the two ends.

    Returns:
      The lower and the upper end.
    """
    rng = np.random.RandomState(0)
    seeds, pictures = confused.shape[:2]
    blocks = np.arange(pictures) // block
    count = int(blocks[-1]) + 1
    drawn = rng.randint(count, size=(resamples, count))
    # How often each picture takes part in each draw.
    times = np.stack([np.bincount(row, minlength=count)[blocks] for row in drawn])
    differences = _drawn_miou(confused, times) - _drawn_miou(baseline, times)  # r s
    chosen = rng.randint(seeds, size=(resamples, seeds))
    means = np.take_along_axis(differences, chosen, axis=1).mean(axis=1)
    tail = 100 * (1 - coverage) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def _drawn_miou(confused: np.ndarray, times: np.ndarray) -> np.ndarray:
    flat = confused.astype(np.float64).reshape(*confused.shape[:2], -1)  # s n (k k)
    totals = np.einsum("rn,snm->rsm", times.astype(np.float64), flat, optimize=True)
    return mean_iou(totals.reshape(*totals.shape[:2], *confused.shape[2:]))
