"""Does harmonizing help? Arms, seeds, two budgets, controls, paired differences."""

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from zoo_jax.core.config import digest, require_keys, to_dict
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.files import read_json, write_json
from zoo_jax.core.types import Batch, Variables
from zoo_jax.data.loader import eval_batches
from zoo_jax.data.source import split_spec
from zoo_jax.methods.gradient_harmonization.conflict import (
    Conflicts,
    measure_conflicts,
    shuffled,
    summary,
)
from zoo_jax.methods.gradient_harmonization.evaluation import (
    embed_stream,
    probe,
    probe_folds,
    retrieval_report,
)
from zoo_jax.methods.gradient_harmonization.figures import (
    draw_arms,
    draw_conflicts,
    draw_detection,
)
from zoo_jax.methods.gradient_harmonization.task import make_task, step_macs
from zoo_jax.metrics.detection import auroc
from zoo_jax.metrics.paired import paired_difference
from zoo_jax.task import RunContext

_KEYS = (
    *("seeds", "baseline", "words", "test", "sounds", "conflicts", "batches"),
    *("ridge", "shown"),
)
_OF_THE_REPORT = ("seeds", "baseline", "shown")  # change no measurement
ARM_KEYS = ("harmonize", "optim", "steps", "macs_of")
RETRIEVED = ("audio_to_video", "text_to_video", "video_to_text")
FITTED, SOUNDS = "word_probe", "sound_probe"


def harmonization_study(
    config: ml_collections.ConfigDict, ctx: RunContext
) -> Mapping[str, float]:
    """Trains every arm with every seed and measures all of them in the same way.

    A seed decides the start, the order of the data and which partners are wrong, for all arms
    alike, so differences are paired by seed. What has been trained and measured is not done
    again when the study goes on.

    Args:
      config: As for `make_task`, and ``arms``: name -> what is put into the sections ``harmonize``
        and ``optim``, and ``steps``, or in their place ``macs_of``: the arm whose multiply-adds
        in a whole training this one spends, too. And ``study``: ``seeds``, ``baseline`` (an
        arm), the streams ``words`` (training clips with right partners, for the probe of their
        labels; empty for none), ``test``, ``sounds`` (whose source knows ``folds``; empty for
        none) and ``conflicts`` (the training clips as they are trained on, of which so many
        ``batches`` are looked at), ``ridge``, the strength of the probes, and ``shown``, the
        arms whose conflicts over the training are drawn.
      ctx: Where to read and write.

    Returns:
      ``"<arm>/<metric>"``, the mean over seeds, with ``..._std`` and ``..._seeds``, and
      ``..._gain`` over the baseline with ``..._gain_low`` and ``..._gain_high``, its 95 % interval
      (and the ``..._seeds`` of each).

    Raises:
      ConfigError: for sections that do not fit.
    """
    options = _options(config)
    arms = {name: to_dict(section) for name, section in config.arms.items()}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    first: dict[str, _Arm] = {}
    shapes, sources = _shapes(config, ctx), {}  # streams are read once
    with ctx.progress(len(arms) * len(options["seeds"]), "harmonization study") as bar:
        for seed in options["seeds"]:
            for arm in arms:
                run = _Arm(config, arms, arm, seed, shapes, options, ctx, sources)
                found[arm].append(run.numbers)
                if seed == options["seeds"][0]:
                    first[arm] = run
                bar.update()
    rows = summarise(found, options["baseline"])
    _publish(ctx, rows, first, options)
    out = {}
    for row in rows:
        for metric in (k for k in row if f"{k}_seeds" in row):
            name = f"{row['arm']}/{metric}"
            for end in ("", "_std", "_seeds", "_gain", "_gain_low", "_gain_high"):
                if f"{metric}{end}" in row:
                    out[f"{name}{end}"] = row[f"{metric}{end}"]
                if "_gain" in end:
                    out[f"{name}{end}_seeds"] = row[f"{metric}_seeds"]
    return out


def arm_config(
    config: ml_collections.ConfigDict,
    arms: Mapping[str, Mapping[str, Any]],
    arm: str,
    seed: int,
    shapes: Batch,
) -> ml_collections.ConfigDict:
    """The config of one arm and seed: what a single training of it would be given.

    Args:
      config: Of the study.
      arms: Its arms.
      arm: The name of one.
      seed: Of the start, the order of the data, and the wrong partners.
      shapes: Of a training batch, to count multiply-adds with.

    Raises:
      ConfigError: for an arm that changes something else than it may.
    """
    section = dict(arms[arm])
    require_keys(section, ARM_KEYS, f"arms.{arm}")
    plain = to_dict(config)
    for key in ("arms", "study", "procedure"):
        plain.pop(key, None)
    for key in ("harmonize", "optim"):
        plain[key] = {**plain[key], **section.get(key, {})}
    plain["steps"] = section.get("steps", plain["steps"])
    plain["seed"] = seed
    for name in ("train", config.study.conflicts):
        plain["data"][name] = with_seed(plain["data"][name], seed)
    changed = ml_collections.ConfigDict(plain)
    other = section.get("macs_of")
    if other:
        if other not in arms or "macs_of" in arms[other] or "steps" in section:
            raise ConfigError(
                f"arms.{arm}.macs_of={other!r} must name an arm with steps of its own, in "
                "place of steps here"
            )
        spent = arm_config(config, arms, other, seed, shapes)
        ratio = step_macs(spent, shapes) / step_macs(changed, shapes)
        changed.steps = round(spent.steps * ratio)
    return changed


def with_seed(section: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """A data section whose wrong partners are those of a seed."""
    section = dict(section)
    if section.get("name") == "mispaired":
        section["seed"] = seed
    if isinstance(section.get("source"), Mapping):
        section["source"] = with_seed(section["source"], seed)
    return section


def _shapes(config: ml_collections.ConfigDict, ctx: RunContext) -> Batch:
    """Shapes of a training batch."""
    spec, loader = split_spec(config.data["train"])
    example = ctx.load_source(spec)[0]
    return {
        name: jax.ShapeDtypeStruct(
            (loader["batch_size"], *np.shape(value)), np.asarray(value).dtype
        )
        for name, value in example.items()
    }


class _Arm:
    """One training of one arm and what was measured of it."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        arms: Mapping[str, Mapping[str, Any]],
        arm: str,
        seed: int,
        shapes: Batch,
        options: Mapping[str, Any],
        ctx: RunContext,
        sources: dict[str, Any],
    ):
        self.config = arm_config(config, arms, arm, seed, shapes)
        self.macs = step_macs(self.config, shapes)
        self.options, self.ctx, self.sources = options, ctx, sources
        self.folder = f"{arm}/seed{seed}"
        self.task = make_task(self.config, self.config.steps)
        variables = ctx.fit(self.folder, self.task, self.config)
        path = pathlib.Path(ctx.workdir) / self.folder / "measured.json"
        measured = {k: options[k] for k in _KEYS if k not in _OF_THE_REPORT}
        facts = digest({"config": to_dict(self.config), "study": measured})
        known = read_json(path) if path.exists() else {}
        if known.get("digest") != facts:
            known = {"digest": facts, "numbers": self._measure(variables)}
            write_json(path, known)
        self.numbers: dict[str, float] = known["numbers"]

    def open(self, stream: str) -> tuple[Any, Any]:
        """A stream's source and its batches."""
        spec, loader = split_spec(self.config.data[stream])
        loader.pop("shuffle", None)
        name = digest(spec)
        if name not in self.sources:
            self.sources[name] = self.ctx.load_source(spec)
        return self.sources[name], eval_batches(self.sources[name], **loader)

    def kept_steps(self) -> list[int]:
        """The steps whose checkpoints were kept."""
        folder = pathlib.Path(self.ctx.workdir) / self.folder / "checkpoints"
        return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal())

    def variables_at(self, step: int) -> Variables:
        """The networks of a kept step."""
        folder = pathlib.Path(self.ctx.workdir) / self.folder / "checkpoints"
        return self.ctx.load_variables(str(folder / str(step)))

    def conflicts(self, variables: Variables) -> Conflicts:
        step = jax.jit(self.task.evaluators["conflicts"].step)
        return measure_conflicts(
            lambda batch: step(variables, batch),
            itertools.islice(
                self.open(self.options["conflicts"])[1], self.options["batches"]
            ),
        )

    def _measure(self, variables: Variables) -> dict[str, float]:
        predict = jax.jit(self.task.predict)
        options = self.options

        def embedded(stream: str) -> dict[str, np.ndarray]:
            return embed_stream(lambda b: predict(variables, b), self.open(stream)[1])

        test = embedded(options["test"])
        report = retrieval_report(test)
        out = {
            f"{name}_{metric}": report[f"{name}/{metric}"]
            for name in RETRIEVED
            for metric in ("recall_at_1", "recall_at_5", "median_rank")
        }
        strength = {"strength": options["ridge"]}
        if options["words"]:
            words = embedded(options["words"])
            given = [(x["video_features"], x["label"]) for x in (words, test)]
            out[FITTED] = probe("ridge", *given, **strength)
        if options["sounds"]:
            out[SOUNDS] = self._probe_sounds(embedded(options["sounds"]), strength)
        found = self.conflicts(variables)
        out |= summary(found)
        out["auroc_shuffled"] = auroc(-found.cosine, shuffled(found.wrong))
        out["gmacs"] = self.macs * self.config.steps / 1e9
        out["steps"] = self.config.steps
        return out

    def _probe_sounds(
        self, found: Mapping[str, np.ndarray], strength: Mapping[str, float]
    ) -> float:
        """Mean accuracy over folds; the windows of a recording follow each other."""
        section = self.config.data[self.options["sounds"]]
        windows = section.get("windows", 1)
        source = self.open(self.options["sounds"])[0]
        features = found["audio_features"]
        features = features.reshape(-1, windows, features.shape[-1])
        folds = np.asarray(source.info["folds"])[::windows]
        labels = found["label"][::windows]
        return float(np.mean(probe_folds("ridge", features, labels, folds, **strength)))


def summarise(
    found: Mapping[str, Sequence[Mapping[str, float]]], baseline: str
) -> list[dict[str, Any]]:
    """One row per arm: means over seeds, and differences to the baseline, paired by seed."""
    rows = []
    for arm, runs in found.items():
        row: dict[str, Any] = {"arm": arm}
        for metric in runs[0]:
            values = np.array([run[metric] for run in runs], np.float64)
            others = np.array([run[metric] for run in found[baseline]], np.float64)
            row[metric], row[f"{metric}_seeds"] = float(values.mean()), len(values)
            if len(values) > 1:
                row[f"{metric}_std"] = float(values.std(ddof=1))
            gain = paired_difference(values, others)
            row[f"{metric}_gain"] = gain.mean
            row[f"{metric}_gain_low"] = gain.low
            row[f"{metric}_gain_high"] = gain.high
        rows.append(row)
    return rows


def _levels(row: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, str]:
    """A line of the first table of the report."""
    line = {"arm": row["arm"], "seeds": str(row[f"{metrics[0]}_seeds"])}
    for metric in metrics:
        cell = f"{row[metric]:.3g}"
        if f"{metric}_std" in row:
            cell += f" ± {row[f'{metric}_std']:.2g}"
        line[metric.replace("_", " ")] = cell
    return line


def _gains(row: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, str]:
    """A line of the second: without an interval where there is one seed."""
    line = {"arm": row["arm"]}
    for metric in metrics:
        gain, low, high = (row[f"{metric}_gain{end}"] for end in ("", "_low", "_high"))
        known = np.isfinite(low) and np.isfinite(high)
        interval = f" [{low:+.2f}, {high:+.2f}]" if known else ""
        line[metric.replace("_", " ")] = f"{gain:+.2f}{interval}"
    return line


def _publish(
    ctx: RunContext,
    rows: Sequence[Mapping[str, Any]],
    first: Mapping[str, _Arm],
    options: Mapping[str, Any],
) -> None:
    shown = [k for k in (*DRAWN, *BESIDE) if k in rows[0]]
    ctx.writer.table(
        "harmonization", [_levels(row, shown) for row in rows], caption=_TABLE
    )
    shown = [k for k in DRAWN if k in rows[0]]
    gains = [_gains(row, shown) for row in rows if row["arm"] != options["baseline"]]
    ctx.writer.table("gains", gains, caption=_GAINS.format(**options))
    figure = draw_arms(rows, shown, baseline=options["baseline"])
    ctx.writer.figure("arms", figure, caption=_ARMS.format(**options))
    for name in options["shown"]:
        arm = first[name]
        reports = []
        for step in arm.kept_steps():
            found = arm.conflicts(arm.variables_at(step))
            reports.append({"step": step, **found._asdict()})
        figure = draw_conflicts(reports)
        ctx.writer.figure(f"conflicts_{name}", figure, caption=_CONFLICTS)
        last = reports[-1]
        figure = draw_detection(last["cosine"], last["wrong"], shuffled(last["wrong"]))
        ctx.writer.figure(f"detection_{name}", figure, caption=_DETECTION)


DRAWN = (
    "audio_to_video_recall_at_5",
    "text_to_video_recall_at_5",
    "video_to_text_recall_at_5",
    FITTED,
    SOUNDS,
    "auroc",
)
BESIDE = ("conflict", "conflict_batch", "auroc_shuffled", "gmacs")
_TABLE = (
    "Means over seeds with their standard deviation. Recall at 5 of zero-shot retrieval on the test clips; a "
    "word is found by any of its clips. Word probe: accuracy of a ridge probe of the video feature for "
    "the words, fitted on training clips; sound probe: likewise of the sound feature, mean over folds. "
    "Conflict: share of training triplets (and of whole batches) whose two gradients are at an obtuse angle. Auroc: low "
    "cosine as a detector of a wrong partner, also with shuffled flags. gmacs: multiply-adds of "
    "the training in 10^9. All numbers are in the list above."
)
_GAINS = "Differences to {baseline}, paired by seed, with Student's 95 % interval over the seeds."
_ARMS = (
    "Differences to {baseline}, paired by seed; bars are 95 % intervals over the seeds."
)
_CONFLICTS = (
    "Cosines between the gradients of the two losses over the training, of triplets (histograms) and of "
    "whole batches (lines); first seed."
)
_DETECTION = "Low cosine as a detector of a wrong partner, at the end; first seed."


def _options(config: ml_collections.ConfigDict) -> dict[str, Any]:
    section = to_dict(config.get("study") or {})
    require_keys(section, _KEYS, "study")
    for key in _KEYS:
        if key not in section:
            raise ConfigError(f"study lacks {key!r}: it needs {', '.join(_KEYS)}")
    for key in ("words", "test", "sounds", "conflicts"):
        name = section[key]
        optional = key in ("words", "sounds")
        if name not in config.data and not (optional and not name):
            raise ConfigError(
                f"study.{key}={name!r} is not in config.data: {closest(name, config.data)}"
            )
    arms = config.get("arms") or {}
    for name in (section["baseline"], *section["shown"]):
        if name not in arms:
            raise ConfigError(f"study names the arm {name!r}: {closest(name, arms)}")
    if not section["seeds"]:
        raise ConfigError("study.seeds is empty: give at least one")
    return section
