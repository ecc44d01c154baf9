"""What each part of the method adds, at equal steps: arms, seeds, paired differences."""

import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from zoo_jax.core.config import digest, require_keys, to_dict, whole_section
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.files import read_json, write_json
from zoo_jax.core.tree import count_parameters
from zoo_jax.core.types import Batch, Variables
from zoo_jax.data.loader import eval_batches
from zoo_jax.data.source import split_spec
from zoo_jax.methods.deblurgan_v2.cost import generator_macs
from zoo_jax.methods.deblurgan_v2.figures import draw_pictures, draw_trade_off
from zoo_jax.methods.deblurgan_v2.model import make_generator
from zoo_jax.methods.deblurgan_v2.task import make_task
from zoo_jax.metrics.bootstrap import paired_interval
from zoo_jax.metrics.image import psnr, ssim_uniform
from zoo_jax.metrics.sharpness import sharpness_ratio
from zoo_jax.task import RunContext, Task

_KEYS = ("streams", "seeds", "baseline", "pictures", "zoom", "resamples")
METRICS = {"psnr": psnr, "ssim": ssim_uniform, "sharpness": sharpness_ratio}
ARM_KEYS = ("model", "loss", "optim", "discriminators", "steps", "start")
IDENTITY = "identity"  # the blurred picture itself, judged like the arms


def deblur_study(
    config: ml_collections.ConfigDict, ctx: RunContext
) -> Mapping[str, float]:
    """Trains every arm with every seed, and measures all of them on the same pictures.

    Arms differ from the config by the sections that they name; data are equal. A
    finished arm is not trained again when the study goes on. Sharpness is the gradient energy over that
    of the truth: below 1 is blurred still.

    Args:
      config: As for `make_task`, and ``arms``: name -> sections that replace those of the config
        (``model``) or add to them (``loss``, ``optim``, ``discriminators``), ``steps``, and
        ``start``: an arm without one, from whose network of the same seed this one goes on; ``study``:
        ``streams`` (data sections of sharp and blurred pictures of one size each), ``seeds``,
        ``baseline`` (the arm that all are compared with, or "identity"), ``resamples`` of the
        bootstrap, ``pictures`` (how many to draw of the first stream), ``zoom`` (side of their drawn
        centre, in pixels).
      ctx: Where to read and write.

    Returns:
      ``"<stream>/<arm>/<metric>"``, the mean over pictures and seeds, with ``..._std`` (over
      seeds) and ``..._seeds``; ``"<stream>/<arm>/gain"`` in dB over the baseline, with ``_low`` and
      ``_high``, the ends of its 95 % interval.

    Raises:
      ConfigError: for sections that do not fit.
    """
    options = _options(config)
    arms = {name: to_dict(section) for name, section in config.arms.items()}
    # Those that go on from another come after it.
    order = sorted(arms, key=lambda name: ("start" in arms[name], name))
    streams = {name: _Pictures(config, ctx, name) for name in options["streams"]}
    facts, found, shown, trained = {}, {}, {}, {}
    for stream, pictures in streams.items():
        found[stream] = {IDENTITY: pictures.measure(lambda batch: batch["image"])}
    with ctx.progress(len(arms) * len(options["seeds"]), "deblurring study") as bar:
        for arm in order:
            section = arms[arm]
            runs = []
            before = trained.get(section.get("start"), [None] * len(options["seeds"]))
            for seed, start in zip(options["seeds"], before, strict=True):
                name = f"{arm}/seed{seed}"
                runs.append(_Arm(config, section, seed, name, ctx, start))
                bar.update()
            trained[arm] = runs
            facts[arm] = runs[0].facts
            facts[arm]["seconds"] = float(np.mean([run.seconds for run in runs]))
            for stream, pictures in streams.items():
                each = [pictures.measure(run.restore) for run in runs]
                found[stream][arm] = {
                    metric: np.concatenate([one[metric] for one in each])
                    for metric in METRICS
                }
            # Pictures show the first seed, whatever it gave.
            shown[arm] = runs[0].restore
    facts[IDENTITY] = {"steps": 0, "parameters": 0, "gmacs": 0.0, "seconds": 0.0}
    rows = [
        {"stream": stream, "arm": arm, **facts[arm]}
        | _summary(values, found[stream][options["baseline"]], pictures, options)
        for stream, pictures in streams.items()
        for arm, values in found[stream].items()
    ]
    _publish(ctx, rows, next(iter(streams.values())), shown, options)
    out = {}
    for row in rows:
        name = f"{row['stream']}/{row['arm']}"
        for metric in METRICS:
            out[f"{name}/{metric}"] = row[metric]
            out[f"{name}/{metric}_seeds"] = row["seeds"]
            if row["seeds"] > 1:
                out[f"{name}/{metric}_std"] = row[f"{metric}_std"]
        for key in ("gain", "gain_low", "gain_high"):
            out[f"{name}/{key}"] = row[key]
    return out


class _Arm:
    """One trained generator."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        section: Mapping[str, Any],
        seed: int,
        name: str,
        ctx: RunContext,
        start: "_Arm | None",
    ):
        changed = arm_config(config, section, seed)
        task = make_task(changed, changed.steps)
        started = time.monotonic()
        self.variables = ctx.fit(name, task, changed, start and start.variables)
        # The time of training, not of finding it done: kept beside the run.
        path = pathlib.Path(ctx.workdir) / name / "trained.json"
        known = read_json(path) if path.exists() else {}
        if known.get("digest") != digest(changed):
            known = {"digest": digest(changed), "seconds": time.monotonic() - started}
            write_json(path, known)
        # Of all that this network has been through.
        self.seconds = known["seconds"] + (start.seconds if start else 0)
        self.steps = changed.steps + (start.steps if start else 0)
        self.facts = {"steps": self.steps, **_facts(changed, self.variables)}
        self.restore = _restore(task, self.variables)


def arm_config(
    config: ml_collections.ConfigDict, section: Mapping[str, Any], seed: int
) -> ml_collections.ConfigDict:
    """The config of one arm and seed: what a single training of it would be given.

    Raises:
      ConfigError: for an arm that changes anything but the network, the losses or the optimisers.
    """
    section = to_dict(section)
    require_keys(section, ARM_KEYS, "arms.<name>")
    section.pop("start", None)
    plain = to_dict(config)
    for key in ("arms", "study", "procedure"):
        plain.pop(key, None)
    for key, value in section.items():
        whole = key in ("model", "steps")
        plain[key] = value if whole else {**plain[key], **value}
    plain["data"] = {k: v for k, v in plain["data"].items() if _used(k, plain)}
    return ml_collections.ConfigDict(plain | {"seed": seed})


def _used(stream: str, plain: Mapping[str, Any]) -> bool:
    measured = {section.get("stream", name) for name, section in plain["eval"].items()}
    return stream == "train" or stream in measured


def _restore(task: Task, variables: Variables) -> Any:
    predict = jax.jit(task.predict)
    return lambda batch: predict(variables, batch)["restored"]


def _facts(
    config: ml_collections.ConfigDict, variables: Variables
) -> dict[str, float | int]:
    module = make_generator(config.model)
    given = {
        "params": variables["params"]["generator"],
        **variables["model_state"].get("generator", {}),
    }
    macs = generator_macs(module, given, 256, 256)
    return {"parameters": count_parameters(given["params"]), "gmacs": macs / 1e9}


class _Pictures:
    """A stream that is measured: its batches, and which picture belongs to which scene."""

    def __init__(self, config: ml_collections.ConfigDict, ctx: RunContext, name: str):
        spec, loader = split_spec(config.data[name])
        self._source, self._loader = ctx.load_source(spec), loader
        groups = getattr(self._source, "info", {}).get("groups")
        # Without a word on scenes every picture is its own.
        self.groups = np.asarray(
            range(len(self._source)) if groups is None else groups, dtype=object
        )
        self._judge = jax.jit(
            lambda restored, sharp: {m: f(restored, sharp) for m, f in METRICS.items()}
        )

    def batches(self) -> Any:
        return eval_batches(self._source, **self._loader)

    def measure(self, restore: Any) -> dict[str, np.ndarray]:
        """Metric -> values [1, n]."""
        parts = []
        for batch in self.batches():
            values = jax.device_get(
                self._judge(restore(_inputs(batch)), batch["sharp"])
            )
            keep = np.asarray(batch["mask"]) > 0
            parts.append({m: np.asarray(v)[keep] for m, v in values.items()})
        return {m: np.concatenate([p[m] for p in parts])[None] for m in METRICS}


def _inputs(batch: Batch) -> Batch:
    return {"image": batch["image"]}  # nothing that a restorer would not have


def _summary(
    values: Mapping[str, np.ndarray],
    baseline: Mapping[str, np.ndarray],
    pictures: _Pictures,
    options: Mapping[str, Any],
) -> dict[str, float]:
    row: dict[str, float] = {
        "seeds": len(values["psnr"]),
        "pictures": len(pictures.groups),
    }
    for metric in METRICS:
        means = values[metric].mean(axis=1)
        row[metric] = float(means.mean())
        row[f"{metric}_std"] = float(means.std(ddof=1)) if len(means) > 1 else 0.0
    row["gain"] = row["psnr"] - float(baseline["psnr"].mean())
    row["gain_low"], row["gain_high"] = paired_interval(
        values["psnr"],
        baseline["psnr"],
        pictures.groups,
        resamples=options["resamples"],
    )
    return row


def _publish(
    ctx: RunContext,
    rows: Sequence[Mapping[str, Any]],
    pictures: _Pictures,
    shown: Mapping[str, Any],
    options: Mapping[str, Any],
) -> None:
    ctx.writer.table("deblurring", list(rows), caption=_TABLE.format(**options))
    ctx.writer.figure("psnr_against_macs", draw_trade_off(rows), caption=_TRADE_OFF)
    if options["pictures"]:
        figure = draw_pictures(
            pictures.batches(),
            shown,
            count=options["pictures"],
            zoom=options["zoom"],
        )
        ctx.writer.figure("pictures", figure, caption=_PICTURES.format(**options))


_TABLE = (
    "Means over pictures and seeds: PSNR in dB, SSIM with uniform 7x7 windows, sharpness (gradient "
    "energy over that of the truth), each with the deviation over seeds; gain in dB over "
    "{baseline} with its 95 % interval, paired by picture and resampled over seeds, scenes and "
    "pictures; multiply-adds of one 256x256 picture; seconds of one training."
)
_TRADE_OFF = "PSNR against multiply-adds of a 256x256 picture; bars are the deviation over seeds."
_PICTURES = (
    "The centre {zoom}x{zoom} pixels: blurred, restored by each arm (first seed), sharp, with the PSNR of "
    "the whole picture in dB. Pictures are spread evenly over the stream, not chosen."
)


def _options(config: ml_collections.ConfigDict) -> dict[str, Any]:
    section = whole_section(config.get("study"), _KEYS, "study")
    for name in section["streams"]:
        if name not in config.data:
            raise ConfigError(
                f"study.streams has {name!r}: {closest(name, config.data)} of config.data"
            )
    if not config.get("arms") or IDENTITY in config.arms:
        raise ConfigError(
            f"config.arms needs at least one arm, none called {IDENTITY!r}"
        )
    firsts = [arm for arm, changes in config.arms.items() if "start" not in changes]
    for arm, changes in config.arms.items():
        if changes.get("start", firsts and firsts[0]) not in firsts:
            raise ConfigError(
                f"arms.{arm}.start={changes.start!r} must be an arm that starts afresh: "
                f"{', '.join(firsts)}"
            )
    if section["baseline"] not in (IDENTITY, *config.arms):
        raise ConfigError(
            f"study.baseline={section['baseline']!r}: "
            f"{closest(section['baseline'], (IDENTITY, *config.arms))}"
        )
    if not section["streams"] or not section["seeds"] or section["resamples"] < 1:
        raise ConfigError("study needs streams, seeds and resamples of at least 1")
    return section
