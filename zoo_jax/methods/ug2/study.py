"""Does a restorer help recognition, and whose? Item-response curves of arms and recognisers."""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from zoo_jax.core.config import digest, require_keys, to_dict, whole_section
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.files import atomic_write
from zoo_jax.core.types import Variables
from zoo_jax.data.loader import eval_batches
from zoo_jax.data.source import split_spec
from zoo_jax.methods.ug2.enhancers import make_enhancer
from zoo_jax.methods.ug2.frozen import Frozen, small_cnn_judge
from zoo_jax.methods.ug2.model import make_network
from zoo_jax.methods.ug2.perturb import check_levels, perturb
from zoo_jax.methods.ug2.recognisers import make_recogniser
from zoo_jax.methods.ug2.restorer import restore_matched
from zoo_jax.methods.ug2.study_report import publish, scalars, summarise
from zoo_jax.methods.ug2.task import RECOGNISER, RESTORER, make_task
from zoo_jax.metrics.image import psnr, ssim_uniform
from zoo_jax.metrics.recognition import hits
from zoo_jax.task import RunContext

_KEYS = ("stream", "pictures", "batch", "right", "k", "seeds", "judge", "contrast") + (
    "resamples",
    "shown",
)
_RECOGNISER_KEYS = ("model", "steps", "seed", "published")
_ARM_KEYS = ("enhancer", "options", "loss", "steps")
RAW = "raw"  # the spoilt pictures as they are

Scores = Callable[[UInt8[np.ndarray, "b h w 3"]], Float[np.ndarray, "b n"]]
Restore = Callable[[Float[np.ndarray, "b h w 3"]], Float[np.ndarray, "b h w 3"]]


def recognition_study(
    config: ml_collections.ConfigDict, ctx: RunContext
) -> Mapping[str, float]:
    """Spoils pictures step by step, restores them in several ways, and asks every recogniser.

    A restorer that learns from a recogniser (``study.judge``) is favoured by it, so at least one
    other recogniser takes no part in any training. What has been trained or measured is not done
    again when the study goes on.

    Args:
      config: As for `make_task`, with the streams ``train`` (degraded pairs), ``recogniser`` (clean
        pictures with labels), and the one that is measured (``image`` uint8 of one size,
        ``label``); and

        - ``recognisers``: name -> ``model`` (of `build_small_cnn`), ``steps`` and ``seed``; or
          ``published``, what `make_recogniser` takes.
        - ``arms``: name -> ``enhancer`` and its ``options``; or ``loss`` and ``steps``, for a
          restorer that is trained with every seed.
        - ``perturbations``: name (of `perturb.PERTURBATIONS`) -> levels; the first one is the
          mildest and stands for the unspoilt picture.
        - ``study``: ``stream``; ``pictures`` (how many, from the first on; 0 for all);
          ``batch``; ``right`` (label -> the classes of a recogniser that count as right); ``k``
          (guesses that count); ``seeds``; ``judge`` (the recogniser in the loss; empty where nothing is
          trained); ``contrast`` (two arms whose difference is the question, the second is
          subtracted); ``resamples``; ``shown`` (pictures to draw).

      ctx: Where to read and write.

    Returns:
      See `study_report.scalars`.

    Raises:
      ConfigError: for sections that do not fit.
    """
    options = _options(config)
    levels = {name: list(v) for name, v in to_dict(config.perturbations).items()}
    check_levels(levels)
    pictures = _Pictures(config, ctx, options)
    judges: dict[str, Variables] = {}
    recognisers: dict[str, Scores] = {}
    for name, section in to_dict(config.recognisers).items():
        recognisers[name] = _recogniser(config, ctx, name, section, judges, options)

    measure = functools.partial(_measure, pictures, levels, recognisers, options["k"])

    def kept(name: str, arm: Any, restore: Restore) -> dict[str, np.ndarray]:
        identity = {
            "arm": arm,
            "levels": levels,
            "pictures": pictures.digest,
            "recognisers": to_dict(config.recognisers),
            "k": options["k"],
        }
        path = pathlib.Path(ctx.workdir) / name / "measured.npz"
        return _once(path, identity, lambda: measure(restore))

    found = {RAW: [kept(RAW, RAW, lambda x: x)]}
    shown: dict[str, Restore] = {}
    arms = to_dict(config.arms)
    seeds = {arm: options["seeds"] if "loss" in a else [0] for arm, a in arms.items()}
    with ctx.progress(sum(map(len, seeds.values())), "recognition study") as bar:
        for arm, section in arms.items():
            found[arm] = []
            for seed in seeds[arm]:
                name = f"{arm}/seed{seed}"
                restore, identity = _arm(config, ctx, section, seed, name, judges)
                found[arm].append(kept(name, identity, restore))
                shown.setdefault(arm, restore)
                bar.update()
    rows = summarise(found, levels, pictures.groups, options, baseline=RAW)
    publish(ctx.writer, rows, found, levels, options, pictures.images, shown)
    return scalars(rows, found, levels, pictures.groups, options, baseline=RAW)


# --- what is measured -----------------------------------------------------------------------


class _Pictures:
    """Clean pictures in memory, and which classes are right for each."""

    images: UInt8[np.ndarray, "n h w 3"]
    labels: Int[np.ndarray, "n"]
    members: Bool[np.ndarray, "labels classes"]
    groups: Sequence[Any]  # pictures of one group are not independent

    def __init__(self, config, ctx: RunContext, options: Mapping[str, Any]):
        spec, loader = split_spec(config.data[options["stream"]])
        source = ctx.load_source(spec)
        images, labels = [], []
        for batch in eval_batches(source, **loader):
            keep = np.asarray(batch["mask"]) > 0
            images.append(np.asarray(batch["image"])[keep])
            labels.append(np.asarray(batch["label"])[keep])
            if 0 < options["pictures"] <= sum(map(len, images)):
                break
        count = options["pictures"] or None
        self.images = np.concatenate(images)[:count]
        self.labels = np.concatenate(labels)[:count]
        if self.images.dtype != np.uint8:
            raise ConfigError(
                f"data.{options['stream']}: pictures must stay uint8, got {self.images.dtype}:"
                " leave to_float out"
            )
        groups = getattr(source, "info", {}).get("groups")
        self.groups = list(range(len(self.images)) if groups is None else groups)
        self.groups = self.groups[: len(self.images)]
        right = options["right"]
        if self.labels.max() >= len(right):
            raise ConfigError(
                f"study.right has {len(right)} labels, but the pictures have"
                f" {self.labels.max() + 1}"
            )
        self.right = [tuple(classes) for classes in right]
        self.digest = digest(
            {"spec": to_dict(config.data[options["stream"]]), "n": len(self.images)}
        )

    def members_of(self, classes: int) -> Bool[np.ndarray, "labels classes"]:
        """For a recogniser of so many classes."""
        members = np.zeros((len(self.right), classes), bool)
        for row, own in zip(members, self.right, strict=True):
            if not own or not 0 <= min(own) <= max(own) < classes:
                raise ConfigError(
                    f"study.right: {list(own)} must name at least one of the {classes} classes"
                    " of each recogniser, the first being 0"
                )
            row[list(own)] = True
        return members


def _measure(
    pictures: _Pictures,
    levels: Mapping[str, Sequence[float]],
    recognisers: Mapping[str, Scores],
    k: int,
    restore: Restore,
) -> dict[str, np.ndarray]:
    """``"<perturbation>/<recogniser>"`` -> M1 [levels, n]; ``"<perturbation>/psnr"`` and ssim."""
    compare = jax.jit(lambda x, y: (psnr(x, y), ssim_uniform(x, y)))
    clean = pictures.images.astype(np.float32) / np.float32(255)
    out: dict[str, list[np.ndarray]] = {}
    for name, of_name in levels.items():
        for level in of_name:
            spoilt = perturb(pictures.images, name, level)
            restored = np.asarray(restore(spoilt.astype(np.float32) / np.float32(255)))
            restored = np.rint(np.clip(restored, 0, 1) * 255).astype(np.uint8)
            for metric, values in zip(
                ("psnr", "ssim"),
                compare(restored.astype(np.float32) / np.float32(255), clean),
                strict=True,
            ):
                # An untouched picture has no error, and no decibels.
                values = np.minimum(np.asarray(values), 100.0)
                out.setdefault(f"{name}/{metric}", []).append(values)
            for recogniser, scores in recognisers.items():
                answer = scores(restored)
                members = pictures.members_of(answer.shape[1])
                m1 = hits(answer, members, pictures.labels, k=k).m1
                out.setdefault(f"{name}/{recogniser}", []).append(np.asarray(m1))
    return {key: np.stack(values).astype(np.float32) for key, values in out.items()}


def _once(
    path: pathlib.Path, identity: Any, measure: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """What was measured before under the same settings, or is measured now."""
    mark = np.array(digest(identity))
    if path.exists():
        with np.load(path, allow_pickle=False) as kept:
            if "digest" in kept and str(kept["digest"]) == str(mark):
                return {key: kept[key] for key in kept.files if key != "digest"}
    values = measure()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, "wb") as file:
        np.savez_compressed(file, digest=mark, **values)
    return values


# --- what is trained ------------------------------------------------------------------------


def _recogniser(
    config: ml_collections.ConfigDict,
    ctx: RunContext,
    name: str,
    section: Mapping[str, Any],
    judges: dict[str, Variables],
    options: Mapping[str, Any],
) -> Scores:
    require_keys(section, _RECOGNISER_KEYS, f"recognisers.{name}")
    if "published" in section:
        judge = make_recogniser(section["published"], batch=options["batch"])
        return lambda images: judge.scores(list(images))
    plain = _training(config, section["steps"], section["seed"], config.data.recogniser)
    plain.model = ml_collections.ConfigDict(dict(name="small_cnn", **section["model"]))
    variables = ctx.fit(f"recognisers/{name}", make_task(plain, plain.steps), plain)
    own = _network(variables, RECOGNISER)
    judges[name] = own
    judge = small_cnn_judge(section["model"])
    answer = jax.jit(judge.probabilities)
    return _batched(lambda x: answer(own, x.astype(jnp.float32) / 255), options)


def _arm(
    config: ml_collections.ConfigDict,
    ctx: RunContext,
    section: Mapping[str, Any],
    seed: int,
    name: str,
    judges: Mapping[str, Variables],
) -> tuple[Restore, Any]:
    """The restorer, and what tells it from another one."""
    require_keys(section, _ARM_KEYS, f"arms.{name}")
    options = to_dict(config.study)
    if "enhancer" in section:
        enhance = make_enhancer(section["enhancer"], **section.get("options", {}))
        return _batched(jax.jit(enhance), options), section
    plain = _training(config, section["steps"], seed, config.data.train)
    plain.loss = ml_collections.ConfigDict({**to_dict(config.loss), **section["loss"]})
    judge = options["judge"]
    frozen = small_cnn_judge(to_dict(config.recognisers)[judge]["model"])
    frozen = Frozen(
        init=lambda key: dict(judges[judge]),
        features=frozen.features,
        probabilities=frozen.probabilities,
    )
    task = make_task(plain, plain.steps, recogniser=frozen)
    module = make_network(plain.model)
    own = _network(ctx.fit(name, task, plain), RESTORER)
    restore = jax.jit(lambda x: restore_matched(module, own, x))
    return _batched(restore, options), to_dict(plain)


def _training(
    config: ml_collections.ConfigDict, steps: int, seed: int, train: Any
) -> ml_collections.ConfigDict:
    """The config of one training: what the study is about is left out."""
    plain = to_dict(config)
    for key in ("arms", "recognisers", "perturbations", "study", "procedure"):
        plain.pop(key, None)
    plain |= {"data": {"train": to_dict(train)}, "eval": {}, "recogniser": {}}
    return ml_collections.ConfigDict(plain | {"steps": steps, "seed": seed})


def _network(variables: Variables, name: str) -> dict[str, Any]:
    state = variables["model_state"].get(name, {})
    return {"params": variables["params"][name], **state}


def _batched(function: Callable[[Any], Any], options: Mapping[str, Any]) -> Any:
    """Applies a function to parts of one size, so that it compiles once."""
    size = options["batch"]

    def apply(images: np.ndarray) -> np.ndarray:
        out = []
        for first in range(0, len(images), size):
            some = images[first : first + size]
            missing = size - len(some)
            filled = np.concatenate([some, np.repeat(some[-1:], missing, axis=0)])
            out.append(np.asarray(function(filled))[: len(some)])
        return np.concatenate(out)

    return apply


def _options(config: ml_collections.ConfigDict) -> dict[str, Any]:
    options = whole_section(config.get("study"), _KEYS, "study")
    arms, recognisers = to_dict(config.arms), to_dict(config.recognisers)
    if not arms or not recognisers or RAW in arms:
        raise ConfigError(f"the study needs recognisers, and arms, none called {RAW!r}")
    for arm, section in arms.items():
        if ("enhancer" in section) == ("loss" in section):
            raise ConfigError(f"arms.{arm} needs either an enhancer or a loss")
        if "enhancer" in section:  # what does not fit shows before anything is trained
            make_enhancer(section["enhancer"], **section.get("options", {}))
    if any("loss" in section for section in arms.values()):
        judge = options["judge"]
        if judge not in recognisers or "published" in recognisers[judge]:
            names = [n for n, s in recognisers.items() if "published" not in s]
            raise ConfigError(
                f"study.judge={judge!r} must be a recogniser that is trained here:"
                f" {closest(judge, names)}"
            )
    for arm in options["contrast"]:
        if arm not in (RAW, *arms):
            raise ConfigError(f"study.contrast: {arm!r}: {closest(arm, arms)}")
    if len(options["contrast"]) not in (0, 2):
        raise ConfigError("study.contrast takes two arms, or none")
    if options["stream"] not in config.data:
        raise ConfigError(
            f"study.stream={options['stream']!r}: {closest(options['stream'], config.data)}"
        )
    if options["batch"] < 1 or options["resamples"] < 1 or not options["seeds"]:
        raise ConfigError("study needs seeds, and batch and resamples of at least 1")
    return options
