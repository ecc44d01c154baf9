"""Koehler's benchmark: 48 photographs of known camera shake, against all their sharp frames."""

import itertools
from collections.abc import Mapping
from typing import Any

import ml_collections

from zoo_jax.core.config import require_keys, to_dict
from zoo_jax.core.errors import DataError
from zoo_jax.data.folder import resolve
from zoo_jax.data.media import decode_image
from zoo_jax.methods.deblurgan_v2.evaluation import (
    IDENTITY,
    open_arms,
    require_protocols,
    scalars,
    summarise,
    write_rows,
)
from zoo_jax.metrics.koehler import (
    IMAGES,
    TRAJECTORIES,
    KoehlerScore,
    koehler_counts,
    koehler_score,
)
from zoo_jax.task import RunContext

_DEFAULTS: dict[str, Any] = {
    "root": "koehler",
    "protocols": ["predict"],
    "partial": False,
}


def evaluate_koehler(
    config: ml_collections.ConfigDict, ctx: RunContext
) -> Mapping[str, float]:
    """Scores restorers by the benchmark's own protocol, see `zoo_jax.metrics.koehler`.

    Sharp frames are read one by one; each takes 0.2 s per arm and protocol. Values of each
    picture are written to ``images.csv``. The blurred picture itself is scored as "identity".

    Args:
      config: ``model`` and ``arms`` as of `evaluate_pairs`; ``evaluation``: ``root`` (the official
        folder, with frames as PNG; a relative path is below ``$ZOO_DATA``), ``protocols`` (of
        `PROTOCOLS`), ``partial`` (score what is there of the 48 pictures).
      ctx: Where to read and write.

    Returns:
      ``"<arm>/<protocol>/psnr"`` and ``"mssim"`` (multi-scale SSIM): means over the pictures, and
      ``..._se``, their standard errors.

    Raises:
      ConfigError: for sections that do not fit.
      DataError: for absent pictures, or frames that differ in size from their picture.
      WeightsError: for weights that do not fit their network.
    """
    # Here: it brings TFDS, which takes seconds, and this package is imported for every run.
    from zoo_jax.data.builders.koehler.builder import sharp_frames

    given = to_dict(config.get("evaluation") or {})
    require_keys(given, _DEFAULTS, "evaluation")
    options = {**_DEFAULTS, **given}
    require_protocols(options["protocols"])
    root = resolve(options["root"])
    places = [
        (i, k)
        for i, k in itertools.product(IMAGES, TRAJECTORIES)
        if (root / f"Blurry{i}_{k}.png").is_file()
    ]
    wanted = len(IMAGES) * len(TRAJECTORIES)
    if not places or (len(places) < wanted and not options["partial"]):
        raise DataError(
            f"{root} has {len(places)} of {wanted} pictures Blurry<i>_<k>.png: see docs/data.md,"
            " or set evaluation.partial to score those"
        )
    arms, rows = open_arms(config, ctx), []
    with ctx.progress(len(places), "Koehler's benchmark") as bar:
        for i, k in places:
            blurred = decode_image(root / f"Blurry{i}_{k}.png")
            restored = {(IDENTITY, "none"): blurred}
            for name, arm in arms.items():
                for protocol in options["protocols"]:
                    restored[name, protocol] = arm(protocol, blurred[None])[0][0]
            best: dict[tuple[str, str], KoehlerScore] = {}
            for number, frame in sharp_frames(root, i, k):
                if frame.shape != blurred.shape or min(frame.shape[:2]) < 176:
                    raise DataError(
                        f"frame {number} of Blurry{i}_{k} has {frame.shape[:2]} pixels, the picture "
                        f"{blurred.shape[:2]}: both must have one size of 176x176 or more"
                    )
                if not koehler_counts(i, k, number):
                    continue
                for key, image in restored.items():
                    found = koehler_score(image, [frame])
                    best[key] = KoehlerScore(*map(max, best.get(key, found), found))
            if not best:
                raise DataError(f"no frame of Blurry{i}_{k} counts in {root}")
            for (name, protocol), score in best.items():
                row = {"image": f"{i}_{k}", "arm": name, "protocol": protocol}
                rows.append(row | score._asdict())
            bar.update()
    write_rows(ctx, rows)
    summary = summarise(rows)
    ctx.writer.table("koehler", summary, caption=_CAPTION.format(count=len(places)))
    return scalars(summary)


_CAPTION = (
    "{count} of 48 photographs: means with their standard errors (_se) of the best PSNR in dB and "
    "the best multi-scale SSIM over the sharp frames, both of the luma, after scaling and "
    "registration by whole pixels."
)


__all__ = ["evaluate_koehler"]
