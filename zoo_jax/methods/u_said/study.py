"""Does denoising by uncertainty help a segmentation network that took no part in training?"""

import functools
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from zoo_jax.core.config import digest, require_keys, to_dict, whole_section
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.files import atomic_write
from zoo_jax.core.rng import make_key
from zoo_jax.core.types import Variables
from zoo_jax.data.source import split_spec
from zoo_jax.methods.u_said.figures import draw_segmentations
from zoo_jax.methods.u_said.judging import (
    Measured,
    Pictures,
    clean_picture,
    noisy_picture,
)
from zoo_jax.methods.u_said.model import make_segmentation
from zoo_jax.methods.u_said.segmentation import (
    SEGMENTATION,
    make_segmentation_task,
    network_of,
    segment,
)
from zoo_jax.methods.u_said.study_report import (
    compare,
    network_quality,
    publish,
    scalars,
)
from zoo_jax.methods.u_said.task import DENOISER, make_task
from zoo_jax.task import RunContext

_KEYS = ("judge", "seeds", "sigmas", "baseline", "tuned", "block", "resamples") + (
    "pictures",
)
_NETWORK_KEYS = ("segmentation", "loss", "optim", "steps", "seed", "trunk_of")
_ARM_KEYS = ("loss", "optim", "steps", "start", "network")
NOISY, CLEAN = "noisy", "clean"  # pictures that nobody denoised


def judge_study(
    config: ml_collections.ConfigDict, ctx: RunContext
) -> Mapping[str, float]:
    """Trains a judge, frozen networks, and denoisers against them; the judge then compares.

    All arms of a seed have the same start, data order, noise and number of steps. The judge
    is trained on clean pictures and never part of a loss. What has been trained or measured is
    not done again when the study goes on.

    Args:
      config: As for `make_task`, with the streams ``train`` (patches), ``frames`` (whole
        frames with masks, for the segmentation networks), ``valid`` and ``test`` (whole frames
        of one size with masks); and

        - ``networks``: name -> ``segmentation``, ``loss``, ``optim`` (see
          `make_segmentation_task`), ``steps``, ``seed``; and ``trunk_of``: another network
          whose trained trunk this one starts with, below a fresh head. 0 steps leave it at that.
        - ``arms``: name -> what differs from the config (``loss``, ``optim``, ``steps``),
          ``network`` (the frozen one), ``start`` (an arm without one, from whose denoiser of the
          same seed this one goes on).
        - ``study``: ``judge`` (a network), ``seeds``, ``sigmas`` (grey levels), ``baseline``
          (the arm that all are compared with), ``tuned`` (arms of which the one with the best
          mean IoU on ``valid`` is a second baseline), ``block`` (neighbouring pictures that the
          bootstrap keeps together), ``resamples``, ``pictures`` (how many to draw).
      ctx: Where to read and write.

    Returns:
      ``"sigma<s>/<arm>/<metric>"`` for miou, psnr and ssim (means over the seeds, with
      ``..._std`` and ``..._seeds``), ``.../gain`` over the baseline and ``.../gain_tuned`` over
      the tuned one, in points of mean IoU (0 to 100), each with ``_low`` and ``_high``, the ends of
      its 95 % interval; ``"networks/<name>/..."``, what each network does on clean test pictures.

    Raises:
      ConfigError: for sections that do not fit.
    """
    options = _options(config)
    networks: dict[str, _Network] = {}
    sections = to_dict(config.networks)
    for name in sorted(sections, key=lambda name: "trunk_of" in sections[name]):
        networks[name] = _train_network(config, name, sections[name], networks, ctx)
    judge = networks[options["judge"]]
    streams = {
        (split, sigma): _pictures(config, ctx, split, sigma, judge)
        for split in ("valid", "test")
        for sigma in options["sigmas"]
    }
    restore = jax.jit(
        lambda v, batch: _plain_task(config).predict(v, batch)["denoised"]
    )

    arms = to_dict(config.arms)
    order = sorted(arms, key=lambda name: ("start" in arms[name], name))
    found: dict[str, list[dict]] = {}
    trained: dict[str, list[Variables]] = {}
    with ctx.progress(len(arms) * len(options["seeds"]), "segmentation study") as bar:
        for arm in order:
            before = trained.get(arms[arm].get("start"), [None] * len(options["seeds"]))
            trained[arm], found[arm] = [], []
            # Only candidates for the second baseline are seen on the validation pictures.
            chosen = {
                k: s
                for k, s in streams.items()
                if k[0] == "test" or arm in options["tuned"]
            }
            for seed, start in zip(options["seeds"], before, strict=True):
                name = f"{arm}/seed{seed}"
                variables = _train_arm(
                    config, arms[arm], seed, name, networks, start, ctx
                )
                trained[arm].append(variables)
                path = pathlib.Path(ctx.workdir) / name / "measured.npz"
                measure = functools.partial(_measure_all, chosen, restore, variables)
                sign = _sign(config, arm, seed, list(chosen))
                found[arm].append(_remembered(path, sign, measure))
                bar.update()
    for name, untouched in ((NOISY, noisy_picture), (CLEAN, clean_picture)):
        tests = {k: s for k, s in streams.items() if k[0] == "test"}
        found[name] = [{k: s.measure(untouched) for k, s in tests.items()}]

    rows = compare(found, options)
    spec, loader = split_spec(config.data.test)
    clean = ctx.load_source(spec)
    quality = [
        {
            "network": name,
            "steps": network.section["steps"],
            **network_quality(
                network.module, network_of(network.variables), clean, loader
            ),
        }
        for name, network in networks.items()
    ]
    publish(ctx.writer, rows, quality, options)
    if options["pictures"]:
        sigma = options["sigmas"][len(options["sigmas"]) // 2]
        shown = {arm: functools.partial(restore, trained[arm][0]) for arm in order}
        figure = draw_segmentations(
            streams["test", sigma].batches(),
            {NOISY: noisy_picture, **shown, CLEAN: clean_picture},
            jax.jit(_seer(judge)),
            count=options["pictures"],
            num_classes=judge.module.num_classes,
        )
        ctx.writer.figure(
            "segmentations", figure, caption=_PICTURES.format(sigma=sigma)
        )
    return scalars(rows, quality)


class _Network(NamedTuple):
    """A segmentation network, trained or not, and where it came from."""

    module: Any
    variables: Variables  # of a task: params and model_state by network
    section: dict[str, Any]


def _train_network(
    config: ml_collections.ConfigDict,
    name: str,
    section: dict[str, Any],
    known: Mapping[str, _Network],
    ctx: RunContext,
) -> _Network:
    require_keys(section, _NETWORK_KEYS, f"networks.{name}")
    plain = _common(config)
    plain |= {k: section[k] for k in ("segmentation", "loss", "optim", "seed")}
    plain |= {
        "steps": max(section["steps"], 1),
        "data": {"train": plain["data"]["frames"]},
    }
    changed = ml_collections.ConfigDict(plain)
    task = make_segmentation_task(changed, changed.steps)
    size = {"image": jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)}
    variables = jax.jit(lambda key: task.init(key, size))(make_key(section["seed"]))
    if "trunk_of" in section:
        trunk = known[section["trunk_of"]].variables
        # All norms, and so all running statistics, are in the trunk.
        head = variables["params"][SEGMENTATION]
        resnet = trunk["params"][SEGMENTATION]["resnet"]
        variables = {
            "params": {SEGMENTATION: {**head, "resnet": resnet}},
            "model_state": trunk["model_state"],
        }
    if section["steps"]:
        variables = ctx.fit(f"networks/{name}", task, changed, variables)
    return _Network(make_segmentation(section["segmentation"]), variables, section)


def _train_arm(
    config: ml_collections.ConfigDict,
    section: dict[str, Any],
    seed: int,
    name: str,
    networks: Mapping[str, _Network],
    start: Variables | None,
    ctx: RunContext,
) -> Variables:
    changed = arm_config(config, section, seed)
    task = make_task(changed, changed.steps)
    given: dict[str, Any] = {"params": {}, "model_state": {}}
    parts = [(DENOISER, start)]
    if "network" in section:
        parts.append((SEGMENTATION, networks[section["network"]].variables))
    for network, variables in parts:
        if variables is not None:
            given["params"][network] = variables["params"][network]
            given["model_state"][network] = variables["model_state"][network]
    found = ctx.fit(name, task, changed, given if given["params"] else None)
    return {kind: {DENOISER: networks[DENOISER]} for kind, networks in found.items()}


def arm_config(
    config: ml_collections.ConfigDict, section: Mapping[str, Any], seed: int
) -> ml_collections.ConfigDict:
    """The config of one arm and seed: what a single training of it would be given."""
    plain = _common(config)
    for key in ("loss", "optim"):
        plain[key] = {**plain[key], **section.get(key, {})}
    plain["steps"] = section.get("steps", plain["steps"])
    if "network" in section:
        networks = to_dict(config.networks)
        plain["segmentation"] = networks[section["network"]]["segmentation"]
    plain["data"] = {"train": plain["data"]["train"]}
    return ml_collections.ConfigDict(plain | {"seed": seed})


def _common(config: ml_collections.ConfigDict) -> dict[str, Any]:
    plain = to_dict(config)
    for key in ("arms", "networks", "study", "procedure"):
        plain.pop(key, None)
    return plain | {"eval": {}}


def _plain_task(config: ml_collections.ConfigDict) -> Any:
    return make_task(arm_config(config, {"loss": {"mode": "plain"}}, 0), 1)


def _pictures(
    config: ml_collections.ConfigDict,
    ctx: RunContext,
    split: str,
    sigma: float,
    judge: _Network,
) -> Pictures:
    spec, loader = split_spec(config.data[split])
    source = ctx.load_source({"name": "noisy_images", "source": spec, "sigma": sigma})
    return Pictures(source, loader, _seer(judge), num_classes=judge.module.num_classes)


def _seer(network: _Network) -> Any:
    return functools.partial(segment, network.module, network_of(network.variables))


def _measure_all(streams, restore, variables) -> dict[tuple, Measured]:
    return {
        k: s.measure(functools.partial(restore, variables)) for k, s in streams.items()
    }


def _sign(config: ml_collections.ConfigDict, arm: str, seed: int, streams: list) -> str:
    """Of all that a measurement depends on: other arms may come and go."""
    arms = to_dict(config.arms)
    start = arms.get(arms[arm].get("start"), {})
    trained = [
        to_dict(arm_config(config, section, seed)) for section in (start, arms[arm])
    ]
    return digest(
        {"trained": trained, "streams": [list(map(str, key)) for key in streams]}
        | {key: to_dict(config[key]) for key in ("networks", "data")}
        | {"judge": config.study.judge}
    )


def _read_measured(path: pathlib.Path, sign: str) -> dict[tuple, Measured] | None:
    """None where there is nothing, nothing readable, or what another config measured."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            arrays = {key: kept[key] for key in kept.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    if str(arrays.pop("config", "")) != sign:
        return None
    out: dict[tuple, Measured] = {}
    for key, values in arrays.items():
        split, sigma, metric = key.split("/")
        out.setdefault((split, float(sigma)), {})[metric] = values
    return out


def _remembered(path: pathlib.Path, sign: str, measure) -> dict[tuple, Measured]:
    """What `measure` finds; read from `path` where an earlier process kept it."""
    kept = _read_measured(path, sign)
    if kept is not None:
        return kept
    found = measure()
    flat = {f"{k[0]}/{k[1]}/{m}": v for k, ms in found.items() for m, v in ms.items()}
    with atomic_write(path, "wb") as f:
        np.savez_compressed(f, config=sign, **flat)
    return found


_PICTURES = (
    "At sigma {sigma}: pictures and what the judge sees in them, noisy, denoised by each arm "
    "(first seed), clean; then the true classes. Pictures are spread evenly, not chosen."
)


def _options(config: ml_collections.ConfigDict) -> dict[str, Any]:
    section = whole_section(config.get("study"), _KEYS, "study")
    networks, arms = (
        to_dict(config.get("networks") or {}),
        to_dict(config.get("arms") or {}),
    )
    for name, network in networks.items():
        trunk = networks.get(network.get("trunk_of"), {})
        if "trunk_of" in network and (not trunk or "trunk_of" in trunk):
            wholes = [n for n, other in networks.items() if "trunk_of" not in other]
            raise ConfigError(
                f"networks.{name}.trunk_of={network['trunk_of']!r} must be a network with a "
                f"trunk of its own: {closest(network['trunk_of'], wholes)}"
            )
    for stream in ("train", "frames", "valid", "test"):
        if stream not in config.data:
            raise ConfigError(f"config.data has no {stream!r}: the study reads it")
    if section["judge"] not in networks:
        raise ConfigError(
            f"study.judge={section['judge']!r} is no network: {closest(section['judge'], networks)}"
        )
    for name in (section["baseline"], *section["tuned"]):
        if name not in arms:
            raise ConfigError(f"study names the arm {name!r}: {closest(name, arms)}")
    firsts = [name for name, arm in arms.items() if "start" not in arm]
    for name, arm in arms.items():
        require_keys(arm, _ARM_KEYS, f"arms.{name}")
        if arm.get("start", firsts and firsts[0]) not in firsts:
            raise ConfigError(
                f"arms.{name}.start={arm['start']!r} must be an arm that starts afresh: "
                f"{', '.join(firsts)}"
            )
        mode = {**to_dict(config.loss), **arm.get("loss", {})}["mode"]
        if (mode != "plain") != ("network" in arm):
            raise ConfigError(
                f"arms.{name}: a network goes with every loss.mode but 'plain', got mode "
                f"{mode!r} and network {arm.get('network')!r}"
            )
        if arm.get("network", section["judge"]) not in networks:
            raise ConfigError(
                f"arms.{name}.network={arm['network']!r}: {closest(arm['network'], networks)}"
            )
        if arm.get("network") == section["judge"]:
            raise ConfigError(
                f"arms.{name} trains against {section['judge']!r}, which is the judge: it must "
                "take no part in training"
            )
    lists = ("seeds", "sigmas", "tuned")
    if (
        not all(section[k] for k in lists)
        or min(section["block"], section["resamples"]) < 1
    ):
        raise ConfigError(
            "study needs seeds, sigmas, tuned, and block and resamples of at least 1"
        )
    return section
