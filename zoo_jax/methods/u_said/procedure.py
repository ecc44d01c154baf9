"""Comparison of denoisers on the same noisy pictures: numbers, and pictures side by side."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from zoo_jax.convert import apply, read_weights
from zoo_jax.core.config import whole_section
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.rng import make_key
from zoo_jax.core.types import Variables
from zoo_jax.data.loader import eval_batches
from zoo_jax.data.source import split_spec
from zoo_jax.methods.u_said.convert import dncnn_table
from zoo_jax.methods.u_said.figures import side_by_side
from zoo_jax.methods.u_said.judging import Agreement, FileJudge
from zoo_jax.methods.u_said.task import DENOISER, make_task
from zoo_jax.metrics.image import luma
from zoo_jax.metrics.niqe import load_niqe_model, niqe
from zoo_jax.task import RunContext, Task

_KEYS = ("stream", "pictures", "zoom", "niqe_model", "judges", "baseline")
_JUDGE_KEYS = ("file", "classes")


def denoise(config: ml_collections.ConfigDict, ctx: RunContext) -> Mapping[str, float]:
    """Measures every arm on one stream and draws noisy, denoised and clean pictures.

    Args:
      config: As for `make_task`, and ``arms``: name -> workdir of a training run, or a file
        in the published layout (``.pth``, ``.npz``); and ``denoise``: ``stream`` (a data section
        with a batch size of 1), ``pictures`` (how many to draw), ``zoom`` (side of the drawn
        centre in pixels), ``niqe_model`` (a file for `load_niqe_model`; empty leaves NIQE out),
        ``judges`` (name -> ``file``, a TFLite segmentation network, and its number of ``classes``),
        ``baseline`` (the arm whose agreement the others are compared with; empty for none).
      ctx: Where to read and write.

    Returns:
      ``"<arm>/psnr"``, ``"<arm>/ssim"`` and, with a model, ``"<arm>/niqe"``: means over the images;
      the same for ``noisy``, and ``clean/niqe``. For each judge ``"<arm>/<judge>_agreement"``, the
      share of pixels that it sees as in the clean picture, and ``"<arm>/<judge>_miou"``, the
      mean IoU with what it sees there, both in points (0 to 100) over the whole stream;
      ``.._gain``, ``.._gain_low`` and ``.._gain_high``: mean IoU over the baseline's, with the
      ends of the 95 % interval (paired bootstrap over images).

    Raises:
      ConfigError: for sections that do not fit.
    """
    options = _options(config)
    model = load_niqe_model(options["niqe_model"]) if options["niqe_model"] else None
    task = make_task(config, config.steps)
    spec, loader = split_spec(config.data[options["stream"]])
    source = ctx.load_source(spec)
    batches = eval_batches(source, **loader)
    arms = {name: _load(config, task, ctx, at) for name, at in config.arms.items()}
    run = jax.jit(lambda variables, batch: _measure(task, variables, batch))

    agreement = Agreement(
        {name: FileJudge(judge["file"]) for name, judge in options["judges"].items()},
        {name: judge["classes"] for name, judge in options["judges"].items()},
    )
    names = getattr(source, "info", {}).get("names", range(len(source)))
    rows, pictures = [], []
    with ctx.progress(len(source), "denoise") as bar:
        for name, batch in zip(names, batches, strict=True):
            pair = {"noisy": batch["noisy"], "clean": batch["image"]}
            shown = {"noisy": batch["noisy"].clip(0, 1)}
            row = {"noisy": _judge(task, batch, batch["noisy"], model)}
            for arm, variables in arms.items():
                shown[arm] = np.asarray(run(variables, batch))
                row[arm] = _judge(task, batch, shown[arm], model)
            if model is not None:
                row["clean"] = {"niqe": _naturalness(pair["clean"], model)}
            shown["clean"] = pair["clean"]
            agreement.add({k: np.asarray(v[0]) for k, v in shown.items()})
            rows.append({"image": str(name), "values": row})
            if len(pictures) < options["pictures"]:
                pictures.append((str(name), {k: v[0] for k, v in shown.items()}, row))
            bar.update()
    means = _means(rows)
    table = [
        {"image": "mean" if row is means else row["image"], "arm": arm, **values}
        for row in (means, *rows)
        for arm, values in row["values"].items()
    ]
    ctx.writer.table("denoising", table, caption=_CAPTION.format(**options))
    judged = agreement.rows(baseline=options["baseline"])
    if judged:
        ctx.writer.table("agreement", judged, caption=_AGREEMENT.format(**options))
    if pictures:
        figure = side_by_side(pictures, zoom=options["zoom"])
        ctx.writer.figure("pictures", figure, caption=_PICTURES.format(**options))
    out = {
        f"{arm}/{metric}": value
        for arm, values in means["values"].items()
        for metric, value in values.items()
    }
    for row in judged:
        name = f"{row['arm']}/{row['judge']}"
        out |= {f"{name}_{k}": v for k, v in row.items() if k not in ("arm", "judge")}
    return out


_CAPTION = (
    "Stream '{stream}': PSNR in dB over all pixels and channels of an image, SSIM with 7x7 windows "
    "(scikit-image's default, mean over channels), NIQE of the rounded luma where a model was "
    "given (lower is better). 'mean' is the mean of the values of the images."
)
_AGREEMENT = (
    "What segmentation networks that took part in no training see in the denoised pictures, against "
    "what they see in the clean ones: share of equal pixels and mean IoU over the classes that are "
    "in either, in points, over the whole stream. Gain: mean IoU over that of {baseline}, with the "
    "95 % interval of the paired bootstrap over pictures."
)
_PICTURES = (
    "The centre {zoom}x{zoom} pixels: noisy, denoised by each arm, clean, with the PSNR of the "
    "whole picture in dB. All arms see the same noise."
)


def _options(config: ml_collections.ConfigDict) -> dict[str, Any]:
    section = whole_section(config.get("denoise"), _KEYS, "denoise")
    if section["stream"] not in config.data:
        raise ConfigError(
            f"denoise.stream={section['stream']!r} is not in config.data: "
            f"{closest(section['stream'], config.data)}"
        )
    if not config.get("arms"):
        raise ConfigError("config.arms is empty: name at least one denoiser")
    for name, judge in section["judges"].items():
        whole_section(judge, _JUDGE_KEYS, f"denoise.judges.{name}")
    if section["baseline"] and section["baseline"] not in config.arms:
        raise ConfigError(
            f"denoise.baseline={section['baseline']!r} is no arm: "
            f"{closest(section['baseline'], config.arms)}"
        )
    batch_size = config.data[section["stream"]].get("batch_size")
    if batch_size != 1:
        raise ConfigError(
            f"data.{section['stream']}.batch_size must be 1 here, got {batch_size}: pictures "
            "differ in size"
        )
    return section


def _load(
    config: ml_collections.ConfigDict, task: Task, ctx: RunContext, where: str
) -> Variables:
    if not pathlib.Path(where).is_file():
        return ctx.load_variables(where)
    if config.model.name != "dncnn":
        raise ConfigError(
            f"{where}: published files are read for model.name='dncnn', got "
            f"{config.model.name!r}"
        )
    image = {"image": jax.ShapeDtypeStruct((1, 16, 16, 3), np.float32)}
    template = jax.eval_shape(lambda key: task.init(key, image), make_key(0))
    arrays = read_weights(where)
    variables = apply(
        dncnn_table(config.model.depth),
        arrays,
        {"params": template["params"][DENOISER], **template["model_state"][DENOISER]},
        where=where,
    )
    params = variables.pop("params")
    return {"params": {DENOISER: params}, "model_state": {DENOISER: variables}}


def _measure(task: Task, variables: Variables, batch: Any) -> jax.Array:
    return task.predict(variables, batch)["denoised"]


def _judge(task: Task, batch: Any, image: Any, model: Any) -> dict[str, float]:
    found = task.metrics({"denoised": image}, {"image": batch["image"]})
    values = {name: float(r.total) / float(r.count) for name, r in found.items()}
    if model is not None:
        values["niqe"] = _naturalness(image, model)
    return values


def _naturalness(image: Any, model: Any) -> float:
    """NIQE of the picture as it would be stored: 8 bits, then the rounded luma."""
    stored = np.round(255 * np.clip(np.asarray(image[0]), 0, 1)) / 255
    return niqe(np.round(255 * np.asarray(luma(stored))[..., 0]), model)


def _means(rows: list[dict[str, Any]]) -> dict[str, Any]:
    first = rows[0]["values"]
    return {
        "values": {
            arm: {
                metric: float(np.mean([row["values"][arm][metric] for row in rows]))
                for metric in values
            }
            for arm, values in first.items()
        }
    }
