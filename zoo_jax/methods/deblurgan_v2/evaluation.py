"""Quality of restorers on pairs of images, under each way to pad that papers' numbers rest on."""

import csv
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Float, UInt8

from zoo_jax.core.config import require_keys, to_dict
from zoo_jax.core.errors import ConfigError, DataError, WeightsError, closest
from zoo_jax.core.files import atomic_write
from zoo_jax.core.rng import fold_name
from zoo_jax.core.tree import count_parameters, named_leaves
from zoo_jax.data.loader import eval_batches
from zoo_jax.data.source import split_spec
from zoo_jax.methods.deblurgan_v2.cost import generator_macs
from zoo_jax.methods.deblurgan_v2.figures import draw_pictures
from zoo_jax.methods.deblurgan_v2.model import make_generator
from zoo_jax.methods.deblurgan_v2.protocols import PROTOCOLS, padded_size, restore
from zoo_jax.metrics.image import SSIM_VARIANTS, luma, psnr
from zoo_jax.metrics.niqe import BLOCK, load_niqe_model, niqe
from zoo_jax.metrics.sharpness import sharpness_ratio
from zoo_jax.task import RunContext

IDENTITY, FRESH = "identity", "fresh"
_DEFAULTS: dict[str, Any] = {
    "stream": "test",
    "protocols": ["predict", "test_metrics", "reflect"],
    "pictures": 3,
    "zoom": 256,
    "niqe_model": "",
    "psnr_of_equal": 100.0,
}
_SSIM = {f"ssim_{variant}": f for variant, f in SSIM_VARIANTS.items()}
_WINDOW = 11  # of the largest SSIM


def evaluate_pairs(
    config: ml_collections.ConfigDict, ctx: RunContext
) -> Mapping[str, float]:
    """Measures restorers on pairs of images, one by one, and draws some before and after.

    Each protocol compiles once per image size; that time is not counted. Per-image values are
    written to ``images.csv``. The blurred image itself is always measured, as "identity".

    Args:
      config: ``model``: a section of `make_generator`. ``arms``: name -> dict with ``weights``
        (``<model name>:<file>``, the workdir of a training run, or ``"fresh"`` for untrained
        parameters) and, where it differs, ``model``. ``data``: name -> section of a paired
        source with a batch size of 1. ``evaluation``: ``stream`` (one of them), ``protocols``
        (of `PROTOCOLS`), ``pictures`` (how many to draw), ``zoom`` (side of their drawn centre),
        ``niqe_model`` (a file for `load_niqe_model`; empty leaves NIQE out), ``psnr_of_equal``
        (dB, in place of infinity; the reference has 100).
      ctx: Where to read and write.

    Returns:
      ``"<arm>/<protocol>/<metric>"``, means over the images, and ``..._se``, their standard errors
      where there are two or more images. Metrics: ``psnr``, ``ssim_<variant>`` for all of
      `SSIM_VARIANTS`, ``sharpness``, ``niqe`` with a model; ``gmacs`` and ``seconds`` per image
      and ``parameters``. LPIPS is not among them: its network is not part of the project.

    Raises:
      ConfigError: for sections that do not fit.
      DataError: for images that a metric cannot take.
      WeightsError: for weights that do not fit their network.
    """
    options = _options(config)
    judge = _Judge(options)
    arms = open_arms(config, ctx)
    spec, loader = split_spec(config.data[options["stream"]])
    source = ctx.load_source(spec)
    chosen = np.linspace(0, len(source) - 1, options["pictures"]).round().astype(int)
    rows, shown = [], []
    with ctx.progress(len(source), "evaluate pairs") as bar:
        for index, batch in enumerate(eval_batches(source, **loader)):
            if batch["mask"][0]:  # not a bad image that was passed over
                name = _name(source, index)
                rows += _measure(name, batch, arms, judge, options["protocols"])
                if index in chosen:
                    shown.append(batch)
            bar.update()
    if not rows:
        raise DataError(f"stream {options['stream']!r} has no image that can be read")
    write_rows(ctx, rows)
    summary = summarise(rows)
    for row in summary:
        row["parameters"] = arms[row["arm"]].parameters if row["arm"] in arms else 0
    caption = _CAPTION.format(**options, images=summary[0]["images"])
    ctx.writer.table("deblurring", summary, caption=caption)
    if shown:
        _draw(ctx, shown, arms, options)
    return scalars(summary)


_CAPTION = (
    "Stream '{stream}', {images} images: means over images with their standard errors (_se). PSNR "
    "in dB over all pixels and channels of 8-bit images ({psnr_of_equal} for equal ones). SSIM by "
    "variant: scikit-image's 7x7 windows, 11x11 Gaussian windows, pyssim's complex-wavelet "
    "form on grey levels. Sharpness: gradient energy over the truth's. gmacs, seconds: per image."
)
_PICTURES = (
    "The centre {zoom}x{zoom} pixels under protocol '{protocol}': blurred, restored, sharp, with "
    "the PSNR of the whole picture in dB."
)


def _options(config: ml_collections.ConfigDict) -> dict[str, Any]:
    given = to_dict(config.get("evaluation") or {})
    require_keys(given, _DEFAULTS, "evaluation")
    options = {**_DEFAULTS, **given}
    stream = options["stream"]
    if stream not in config.data:
        raise ConfigError(
            f"evaluation.stream={stream!r} is not in config.data: "
            f"{closest(stream, config.data)}"
        )
    if config.data[stream].get("batch_size") != 1:
        raise ConfigError(
            f"data.{stream}.batch_size must be 1 here, got "
            f"{config.data[stream].get('batch_size')}: images are measured one by one"
        )
    require_protocols(options["protocols"])
    for key in ("pictures", "zoom"):
        if options[key] < (key == "zoom"):
            raise ConfigError(f"evaluation.{key} is too small, got {options[key]}")
    return options


def require_protocols(names: list[str]) -> None:
    """Raises `ConfigError` for an empty list or an unknown name."""
    if not names:
        raise ConfigError(
            f"evaluation.protocols is empty: choose from {', '.join(PROTOCOLS)}"
        )
    for name in names:
        if name not in PROTOCOLS:
            raise ConfigError(f"unknown protocol {name!r}: {closest(name, PROTOCOLS)}")


class Arm:
    """A network with its weights; programs are compiled once per protocol and image size."""

    def __init__(self, config: ml_collections.ConfigDict, ctx: RunContext, name: str):
        section = to_dict(config.arms[name])
        require_keys(section, ("weights", "model"), f"arms.{name}")
        if not section.get("weights"):
            raise ConfigError(
                f"arms.{name} has no weights: give <model name>:<file>, the workdir of a run,"
                f" or {FRESH!r}"
            )
        self.module = make_generator(section.get("model") or config.model)
        self.variables = _variables(self.module, section["weights"], ctx)
        self.parameters = count_parameters(self.variables["params"])
        self.compiled = functools.lru_cache(maxsize=64)(self._compile)
        self.macs = functools.lru_cache(maxsize=None)(self._macs)

    def _compile(self, protocol: str, shape: tuple[int, ...]) -> Callable:
        run = jax.jit(functools.partial(restore, self.module, protocol))
        image = jax.ShapeDtypeStruct(shape, jnp.uint8)
        compiled = run.lower(self.variables, image).compile()
        # The first run is slower than the others: it is not measured either.
        jax.block_until_ready(compiled(self.variables, np.zeros(shape, np.uint8)))
        return compiled

    def _macs(self, protocol: str, shape: tuple[int, ...]) -> int:
        _, h, w, _ = shape
        size = padded_size(self.module, protocol, h, w)
        return generator_macs(self.module, self.variables, *size)

    def __call__(self, protocol: str, image: np.ndarray) -> tuple[np.ndarray, float]:
        """The restored image [1, h, w, 3], and the seconds that it took."""
        run = self.compiled(protocol, image.shape)
        started = time.perf_counter()
        out = jax.block_until_ready(run(self.variables, image))
        return np.asarray(out), time.perf_counter() - started


def open_arms(config: ml_collections.ConfigDict, ctx: RunContext) -> dict[str, Arm]:
    """The networks of ``config.arms``. Raises `ConfigError` or `WeightsError`."""
    if IDENTITY in config.arms:
        raise ConfigError(f"arms.{IDENTITY} is measured anyway: give it another name")
    return {name: Arm(config, ctx, name) for name in config.arms}


def _variables(module: Any, weights: str, ctx: RunContext) -> dict[str, Any]:
    size = padded_size(module, "reflect", 1, 1)

    def init(key: Array) -> Any:
        return module.init(key, jnp.zeros((1, *size, 3)), train=False)

    key = fold_name(ctx.key, FRESH)
    if weights == FRESH:
        return dict(jax.jit(init)(key))
    loaded = ctx.load_variables(weights)
    if "generator" not in loaded["params"]:
        raise WeightsError(
            f"{weights}: holds no generator but {', '.join(sorted(loaded['params']))}"
        )
    state = loaded["model_state"].get("generator", {})
    variables = {"params": loaded["params"]["generator"], **state}
    needed = {k: v.shape for k, v in named_leaves(jax.eval_shape(init, key)).items()}
    found = {k: np.shape(v) for k, v in named_leaves(variables).items()}
    wrong = sorted(k for k in needed if found.get(k) != needed[k])
    if wrong:
        raise WeightsError(
            f"{weights}: does not fit the model section: {len(wrong)} of {len(needed)} arrays "
            f"are absent or of another shape, the first is {wrong[0]}"
        )
    return variables


class _Judge:
    """All metrics of one image against its truth."""

    def __init__(self, options: Mapping[str, Any]):
        path = options["niqe_model"]
        self._niqe = load_niqe_model(path) if path else None
        self._equal = options["psnr_of_equal"]
        self._fast = jax.jit(_fast_metrics)

    def __call__(
        self, name: str, image: np.ndarray, sharp: np.ndarray
    ) -> dict[str, float]:
        """Metric -> value, for 8-bit images [1, h, w, 3]."""
        h, w = sharp.shape[1:3]
        if min(h, w) < _WINDOW:
            raise DataError(
                f"image {name} has {h}x{w} pixels: SSIM needs {_WINDOW}x{_WINDOW} or more"
            )
        if self._niqe is not None and (h // BLOCK) * (w // BLOCK) < 2:
            raise DataError(
                f"image {name} has {h}x{w} pixels: NIQE needs two blocks of {BLOCK}x"
                f"{BLOCK}; leave evaluation.niqe_model empty"
            )
        values = {k: float(v[0]) for k, v in self._fast(image, sharp).items()}
        if np.array_equal(image, sharp):
            values["psnr"] = float(self._equal)
        cw = _SSIM["ssim_cw"]
        values["ssim_cw"] = float(cw(_unit(image), _unit(sharp))[0])
        if self._niqe is not None:
            grey = np.round(255 * np.asarray(luma(_unit(image)))[0, ..., 0])
            values["niqe"] = niqe(grey, self._niqe)
        return values


def _fast_metrics(
    image: UInt8[Array, "1 h w 3"], sharp: UInt8[Array, "1 h w 3"]
) -> dict[str, Float[Array, "1"]]:
    image, sharp = _unit(image), _unit(sharp)
    out = {"psnr": psnr(image, sharp)}
    for key, f in _SSIM.items():
        if key != "ssim_cw":  # runs on the host
            out[key] = f(image, sharp)
    return out | {"sharpness": sharpness_ratio(image, sharp)}


def _unit(image: Any) -> Array:
    return jnp.asarray(image, jnp.float32) / 255


def _name(source: Any, index: int) -> str:
    """What a source calls an example: its file, its frame, or its group and number."""
    if hasattr(source, "place"):
        sequence, number = source.place(index)
        return f"{sequence}/{number}"
    pairs = getattr(source, "pairs", None)
    if pairs is not None:
        return str(pairs[index].name)
    groups = getattr(source, "info", {}).get("groups")
    return str(index) if groups is None else f"{groups[index]}/{index}"


def _measure(
    name: str,
    batch: Mapping[str, np.ndarray],
    arms: Mapping[str, Arm],
    judge: _Judge,
    protocols: list[str],
) -> Iterator[dict[str, Any]]:
    """Rows of one image: the input, and each arm under each protocol."""
    for key in ("image", "sharp"):
        if key not in batch or batch[key].dtype != np.uint8:
            raise DataError(
                f"evaluate_pairs takes uint8 {key!r}, got "
                f"{batch[key].dtype if key in batch else sorted(batch)}: leave to_float out"
            )
    image, sharp = batch["image"], batch["sharp"]
    free = {"gmacs": 0.0, "seconds": 0.0}
    row = {"image": name, "arm": IDENTITY, "protocol": "none"}
    yield row | judge(name, image, sharp) | free
    for arm, network in arms.items():
        for protocol in protocols:
            restored, seconds = network(protocol, image)
            cost = {"gmacs": network.macs(protocol, image.shape) / 1e9}
            row = {"image": name, "arm": arm, "protocol": protocol}
            yield row | judge(name, restored, sharp) | cost | {"seconds": seconds}


def write_rows(ctx: RunContext, rows: list[dict[str, Any]]) -> None:
    """Writes the values of each image into the workdir."""
    with atomic_write(ctx.workdir / "images.csv") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means and standard errors over the images, for each arm and protocol."""
    kinds = list(dict.fromkeys((row["arm"], row["protocol"]) for row in rows))
    metrics = [k for k in rows[0] if k not in ("image", "arm", "protocol")]
    out = []
    for arm, protocol in kinds:
        mine = [r for r in rows if (r["arm"], r["protocol"]) == (arm, protocol)]
        line: dict[str, Any] = {"arm": arm, "protocol": protocol, "images": len(mine)}
        for metric in metrics:
            values = np.array([row[metric] for row in mine])
            line[metric] = float(values.mean())
            if metric not in ("gmacs", "seconds"):
                few = len(values) < 2
                error = np.nan if few else values.std(ddof=1) / len(values) ** 0.5
                line[f"{metric}_se"] = float(error)
        out.append(line)
    return out


def scalars(summary: list[dict[str, Any]]) -> dict[str, float]:
    """The numbers of a summary as ``"<arm>/<protocol>/<name>"``."""
    return {
        f"{row['arm']}/{row['protocol']}/{key}": value
        for row in summary
        for key, value in row.items()
        if isinstance(value, int | float) and not np.isnan(value)
    }


def _draw(
    ctx: RunContext,
    shown: list[Mapping[str, np.ndarray]],
    arms: Mapping[str, Arm],
    options: Mapping[str, Any],
) -> None:
    protocol = options["protocols"][0]

    def restorer(arm: Arm) -> Callable:
        def run(batch: Mapping[str, Any]) -> np.ndarray:
            image = np.round(255 * np.asarray(batch["image"])).astype(np.uint8)
            return arm(protocol, image)[0] / np.float32(255)

        return run

    unit = [
        {
            **{key: batch[key] / np.float32(255) for key in ("image", "sharp")},
            "mask": batch["mask"],
        }
        for batch in shown
    ]
    figure = draw_pictures(
        unit,
        {name: restorer(arm) for name, arm in arms.items()},
        count=len(unit),
        zoom=options["zoom"],
    )
    caption = _PICTURES.format(zoom=options["zoom"], protocol=protocol)
    ctx.writer.figure("pictures", figure, caption=caption)
