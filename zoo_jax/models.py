"""Networks by name: building them, and filling them with weights from any place.

`MODELS` is a plain dictionary of module paths, imported on use: importing this module
imports no method and no flax.
"""

import dataclasses
import functools
import importlib
import inspect
import pathlib
import types
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from zoo_jax.core import rng
from zoo_jax.core.errors import ConfigError, WeightsError, closest
from zoo_jax.core.files import PathLike, read_json
from zoo_jax.core.tree import named_leaves
from zoo_jax.core.types import Variables

if TYPE_CHECKING:
    import flax.linen as nn

    from zoo_jax.convert import Table

MODEL_FILE, VARIABLES_FILE = "model.json", "variables.safetensors"  # a converted folder
FORMAT = "zoo-jax-model"
# First bytes of a compressed network: artefact.MAGIC, without importing a method to look.
COMPRESSED = b"\x89ZDKM\r\n\x1a"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """How to build one network, and how its published weights are named."""

    build: str  # "module:function": keyword arguments, one of them dtype -> nn.Module
    table: (
        str | None
    )  # "module:function" -> Table; its arguments are fields of the module
    example: tuple[int, ...]  # input shape, NHWC or NTHWC, batch 1
    network: str | tuple[str, ...] = "network"
    # its name among the networks of a training checkpoint; several: those of its parts
    restorer: str | None = (
        None  # "module:function": module -> Restoring; see zoo_jax.restorer
    )
    doc: str  # one line

    @property
    def parts(self) -> dict[str, str]:
        """Networks of a training checkpoint -> where they stand in the module's collections."""
        if isinstance(self.network, str):
            return {self.network: ""}
        return {name: f"{name}/" for name in self.network}


_DEEP_K_MEANS = "zoo_jax.methods.deep_k_means"
_WEAKNAS = "zoo_jax.methods.weaknas"
_U_SAID = "zoo_jax.methods.u_said"
_UG2 = "zoo_jax.methods.ug2"
_UG2 = "zoo_jax.methods.ug2"
_DEBLURGAN = "zoo_jax.methods.deblurgan_v2"
_HARMONIZATION = "zoo_jax.methods.gradient_harmonization"

MODELS: dict[str, ModelEntry] = {
    "deep_k_means/wide_resnet_16_4": ModelEntry(
        build=f"{_DEEP_K_MEANS}.model:build_wide_resnet",
        table=f"{_DEEP_K_MEANS}.convert:wide_resnet_table",
        example=(1, 32, 32, 3),
        doc="Wide ResNet 16-4 for CIFAR-10; normalised RGB -> 10 logits",
    ),
    "deep_k_means/lenet_caffe_5": ModelEntry(
        build=f"{_DEEP_K_MEANS}.model:build_lenet_caffe_5",
        table=f"{_DEEP_K_MEANS}.convert:lenet_caffe_5_table",
        example=(1, 28, 28, 1),
        doc="LeNet of Caffe; digits in [0, 1] -> 10 logits",
    ),
    "deep_k_means/digits_cnn": ModelEntry(
        build=f"{_DEEP_K_MEANS}.model:build_digits_cnn",
        table=f"{_DEEP_K_MEANS}.convert:digits_cnn_table",
        example=(1, 28, 28, 1),
        doc="small all-convolutional classifier; digits in [0, 1] -> 10 logits",
    ),
    "deep_k_means/cifar_resnet_20": ModelEntry(
        build=f"{_DEEP_K_MEANS}.model:build_cifar_resnet",
        table=f"{_DEEP_K_MEANS}.convert:cifar_resnet_table",
        example=(1, 32, 32, 3),
        doc="ResNet-20 for CIFAR-10, option A; normalised RGB -> 10 logits",
    ),
    "deep_k_means/cifar_resnet_56": ModelEntry(
        build=f"{_DEEP_K_MEANS}.model:build_cifar_resnet_56",
        table=f"{_DEEP_K_MEANS}.convert:cifar_resnet_table",
        example=(1, 32, 32, 3),
        doc="ResNet-56 for CIFAR-10, option A; normalised RGB -> 10 logits",
    ),
    "deep_k_means/googlenet": ModelEntry(
        build=f"{_DEEP_K_MEANS}.model:build_googlenet",
        table=f"{_DEEP_K_MEANS}.convert:googlenet_table",
        example=(1, 224, 224, 3),
        doc="GoogLeNet for ImageNet; normalised RGB -> 1000 logits",
    ),
    "deblurgan_v2/fpn_mobilenet": ModelEntry(
        build=f"{_DEBLURGAN}.model:build_fpn_mobilenet",
        table=f"{_DEBLURGAN}.convert:fpn_mobilenet_table",
        example=(1, 256, 256, 3),
        network="generator",
        restorer=f"{_DEBLURGAN}.restorer:generator_restoring",
        doc="pyramid on MobileNet-v2; blurred RGB in [-1, 1] -> sharp",
    ),
    "deblurgan_v2/fpn_mobilenet_dsc": ModelEntry(
        build=f"{_DEBLURGAN}.model:build_fpn_mobilenet_dsc",
        table=None,
        example=(1, 256, 256, 3),
        network="generator",
        restorer=f"{_DEBLURGAN}.restorer:generator_restoring",
        doc="the same with a depthwise-separable decoder",
    ),
    "deblurgan_v2/fpn_inception": ModelEntry(
        build=f"{_DEBLURGAN}.model:build_fpn_inception",
        table=f"{_DEBLURGAN}.convert:fpn_inception_table",
        example=(1, 256, 256, 3),
        network="generator",
        restorer=f"{_DEBLURGAN}.restorer:generator_restoring",
        doc="pyramid on Inception-ResNet-v2; blurred RGB in [-1, 1] -> sharp",
    ),
    "deblurgan_v2/fpn_inception_simple": ModelEntry(
        build=f"{_DEBLURGAN}.model:build_fpn_inception_simple",
        table=f"{_DEBLURGAN}.convert:fpn_inception_table",
        example=(1, 256, 256, 3),
        network="generator",
        restorer=f"{_DEBLURGAN}.restorer:generator_restoring",
        doc="the same without convolutions on the way down the pyramid",
    ),
    "deblurgan_v2/resnet9": ModelEntry(
        build=f"{_DEBLURGAN}.model:build_resnet9",
        table=f"{_DEBLURGAN}.convert:resnet9_table",
        example=(1, 256, 256, 3),
        network="generator",
        restorer=f"{_DEBLURGAN}.restorer:generator_restoring",
        doc="generator of the first DeblurGAN; blurred RGB in [-1, 1] -> sharp",
    ),
    "deblurgan_v2/plain_residual": ModelEntry(
        build=f"{_DEBLURGAN}.model:build_plain_residual",
        table=None,
        example=(1, 256, 256, 3),
        network="generator",
        restorer=f"{_DEBLURGAN}.restorer:generator_restoring",
        doc="plain residual network, an arm of the study; RGB in [-1, 1] -> sharp",
    ),
    "deblurgan_v2/patch_discriminator": ModelEntry(
        build=f"{_DEBLURGAN}.model:build_discriminator",
        table=f"{_DEBLURGAN}.convert:discriminator_table",
        example=(1, 256, 256, 3),
        network="patch",
        doc="RGB in [-1, 1] -> map of scores of 70x70 patches",
    ),
    "deblurgan_v2/full_discriminator": ModelEntry(
        build=f"{_DEBLURGAN}.model:build_full_discriminator",
        table=f"{_DEBLURGAN}.convert:discriminator_table",
        example=(1, 256, 256, 3),
        network="full",
        doc="RGB in [-1, 1] -> map of scores of almost the full image",
    ),
    "u_said/dncnn": ModelEntry(
        build=f"{_U_SAID}.model:build_dncnn",
        table=f"{_U_SAID}.convert:dncnn_table",
        example=(1, 48, 48, 3),
        network="denoiser",
        restorer=f"{_U_SAID}.restorer:dncnn_restoring",
        doc="blind colour denoiser; RGB in [0, 1] -> the noise in it",
    ),
    "u_said/fpn_segmentation": ModelEntry(
        build=f"{_U_SAID}.model:build_fpn_segmentation",
        table=f"{_U_SAID}.convert:fpn_segmentation_table",
        example=(1, 48, 48, 3),
        network="segmentation",
        doc="ResNet-101 pyramid; RGB in [0, 1] minus its mean -> 21 logits at 1/4",
    ),
    "u_said/multiscale_denoiser": ModelEntry(
        build=f"{_U_SAID}.model:build_multiscale_denoiser",
        table=f"{_U_SAID}.convert:multiscale_denoiser_table",
        example=(1, 44, 44, 3),
        network="denoiser",
        doc="cascaded denoiser; BGR in [0, 255] minus mean -> its restored centre",
    ),
    "ug2/arcnn": ModelEntry(
        build=f"{_UG2}.model:build_arcnn",
        table=f"{_UG2}.tables:arcnn_table",
        example=(1, 48, 48, 1),
        network="restorer",
        restorer=f"{_UG2}.restorer:arcnn_restoring",
        doc="against JPEG artefacts; luma in [0, 1] -> the same without them",
    ),
    "ug2/srcnn": ModelEntry(
        build=f"{_UG2}.model:build_srcnn",
        table=f"{_UG2}.tables:srcnn_table",
        example=(1, 48, 48, 1),
        network="restorer",
        restorer=f"{_UG2}.restorer:super_resolution_restoring",
        doc="super-resolution by three layers; enlarged luma in [0, 1] -> sharper",
    ),
    "ug2/srnet": ModelEntry(
        build=f"{_UG2}.model:build_srnet",
        table=f"{_UG2}.tables:srnet_table",
        example=(1, 48, 48, 3),
        network="restorer",
        restorer=f"{_UG2}.restorer:srnet_restoring",
        doc="restorer trained for a recogniser; RGB in [0, 1] -> RGB of its own scale",
    ),
    "ug2/vdsr": ModelEntry(
        build=f"{_UG2}.model:build_vdsr",
        table=f"{_UG2}.tables:vdsr_table",
        example=(1, 48, 48, 1),
        network="restorer",
        restorer=f"{_UG2}.restorer:super_resolution_restoring",
        doc="super-resolution by twenty layers; enlarged luma in [0, 1] -> sharper",
    ),
    "ug2/vgg16": ModelEntry(
        build=f"{_UG2}.classifiers:build_vgg16",
        table=f"{_UG2}.convert:vgg_table",
        example=(1, 224, 224, 3),
        doc="VGG-16 for ImageNet; normalised RGB -> 1000 logits",
    ),
    "ug2/vgg19": ModelEntry(
        build=f"{_UG2}.classifiers:build_vgg19",
        table=f"{_UG2}.convert:vgg_table",
        example=(1, 224, 224, 3),
        doc="VGG-19 for ImageNet; normalised RGB -> 1000 logits",
    ),
    "ug2/resnet50": ModelEntry(
        build=f"{_UG2}.classifiers:build_resnet50",
        table=f"{_UG2}.convert:resnet_table",
        example=(1, 224, 224, 3),
        doc="ResNet-50 for ImageNet; normalised RGB -> 1000 logits",
    ),
    "ug2/inception_v3": ModelEntry(
        build=f"{_UG2}.classifiers:build_inception_v3",
        table=f"{_UG2}.convert:inception_v3_table",
        example=(1, 299, 299, 3),
        doc="Inception-v3 for ImageNet; RGB in [-1, 1] -> 1000 logits",
    ),
    "ug2/efficientnet_lite0": ModelEntry(
        build=f"{_UG2}.classifiers:build_efficientnet_lite0",
        table=f"{_UG2}.convert:efficientnet_lite_table",
        example=(1, 224, 224, 3),
        doc="EfficientNet-Lite0; (RGB in [0, 255] - 127) / 128 -> 1000 logits",
    ),
    "ug2/squeezenet": ModelEntry(
        build=f"{_UG2}.classifiers:build_squeezenet",
        table=f"{_UG2}.convert:squeezenet_table",
        example=(1, 227, 227, 3),
        doc="SqueezeNet 1.0; BGR in [0, 255] minus its mean -> 1000 scores",
    ),
    "gradient_harmonization/vatt": ModelEntry(
        build=f"{_HARMONIZATION}.model:build_vatt",
        table=f"{_HARMONIZATION}.convert:vatt_table",
        example=(1, 8, 32, 32, 3),
        network=("backbone", "heads"),
        doc="VATT of any size; clips in [-1, 1], audio=, text= -> embeddings",
    ),
    "gradient_harmonization/vatt_medium": ModelEntry(
        build=f"{_HARMONIZATION}.model:build_vatt_medium",
        table=f"{_HARMONIZATION}.convert:vatt_table",
        example=(1, 32, 224, 224, 3),
        network=("backbone", "heads"),
        doc="VATT, one encoder for video, sound and text; clips in [-1, 1] -> embeddings",
    ),
    "gradient_harmonization/vatt_bbs": ModelEntry(
        build=f"{_HARMONIZATION}.model:build_vatt_bbs",
        table=f"{_HARMONIZATION}.convert:vatt_table",
        example=(1, 32, 224, 224, 3),
        network=("backbone", "heads"),
        doc="VATT, three encoders: base, base, small; clips in [-1, 1] -> embeddings",
    ),
    "gradient_harmonization/vatt_mbs": ModelEntry(
        build=f"{_HARMONIZATION}.model:build_vatt_mbs",
        table=f"{_HARMONIZATION}.convert:vatt_table",
        example=(1, 32, 224, 224, 3),
        network=("backbone", "heads"),
        doc="VATT, three encoders: medium, base, small; clips in [-1, 1] -> embeddings",
    ),
    "gradient_harmonization/vatt_lbs": ModelEntry(
        build=f"{_HARMONIZATION}.model:build_vatt_lbs",
        table=f"{_HARMONIZATION}.convert:vatt_table",
        example=(1, 32, 224, 224, 3),
        network=("backbone", "heads"),
        doc="VATT, three encoders: large, base, small; clips in [-1, 1] -> embeddings",
    ),
    "weaknas/mobilenet_v3_ofa": ModelEntry(
        build=f"{_WEAKNAS}.model:build_mobilenet_v3_ofa",
        table=f"{_WEAKNAS}.convert:mobilenet_v3_ofa_table",
        example=(1, 236, 236, 3),
        doc="sub-net of the once-for-all MobileNetV3; normalised RGB -> 1000 logits",
    ),
}


class Model(NamedTuple):
    """A network and its variables; nothing else is hidden in it."""

    name: str
    module: "nn.Module"
    variables: dict[
        str, Any
    ]  # {"params": ..., "batch_stats": ...} as the module takes them

    def __call__(self, *inputs: Any, **kw: Any) -> Any:
        """Runs the network in eval mode, compiled once per shape.

        Args:
          *inputs: Arrays, NHWC or NTHWC.
          **kw: Further arguments of ``module.apply``; arrays (or trees of them) are traced,
            anything else is static. ``train=True`` leaves eval mode.

        Returns:
          What the module returns.
        """
        traced = {k: v for k, v in kw.items() if _is_arrays(v)}
        static = tuple(sorted((k, v) for k, v in kw.items() if k not in traced))
        return _infer(self.module, static, self.variables, inputs, traced)


def _is_arrays(value: Any) -> bool:
    leaves = jax.tree.leaves(value)
    return bool(leaves) and all(isinstance(x, jax.Array | np.ndarray) for x in leaves)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _infer(module, static, variables, inputs, traced):
    return module.apply(
        variables, *inputs, **({"train": False} | dict(static) | traced)
    )


def list_models() -> tuple[str, ...]:
    """Names that `create_model` takes."""
    return tuple(sorted(MODELS))


def get_entry(name: str) -> ModelEntry:
    """The registry entry of a model. Raises `ConfigError` with the closest names."""
    if name not in MODELS:
        raise ConfigError(f"unknown model {name!r}: {closest(name, MODELS)}")
    return MODELS[name]


def create_model(
    name: str,
    *,
    weights: Mapping[str, Any] | PathLike | None = None,
    seed: int = 0,
    dtype: DTypeLike = jnp.float32,
    **overrides: Any,
) -> Model:
    """Builds a network and fills it.

    Args:
      name: One of `list_models()`.
      weights: None for fresh parameters from `seed`; a mapping of the published
        checkpoint's keys to arrays, nested or not; a ``.safetensors``, ``.npz`` or torch
        file or a TensorFlow checkpoint (``.../ckpt-500000``) in the published layout; a
        folder or file that ``zoo-jax convert`` wrote; a compressed network of either kind; or
        the working directory of a training run (averaged parameters where the run kept them).
      seed: For fresh parameters.
      dtype: Compute dtype; parameters stay float32.
      **overrides: Arguments of the network's builder. A converted folder and a training run
        bring their own; what is given here wins.

    Returns:
      The model; call it on NHWC (NTHWC) arrays.

    Raises:
      ConfigError: for an unknown model or override.
      WeightsError: for weights that are damaged, unsafe or do not fit; lists every key.
      CheckpointError: for a training run without a good checkpoint.
    """
    entry = get_entry(name)
    source = None if weights is None else load_source(name, weights)
    if source is not None:
        overrides = {**source.overrides, **overrides}
    module = build_module(name, dtype=dtype, **overrides)
    if source is None:
        # Under jit: op-by-op initialisation compiles every operation on its own.
        init = jax.jit(lambda key, x: module.init(key, x, train=False))
        fresh = init(rng.make_key(seed), jnp.zeros(entry.example, jnp.float32))
        return Model(name, module, dict(fresh))
    from zoo_jax.convert import apply

    template = abstract_variables(name, module)
    table = source_table(name, module, template, source)
    variables = apply(table, source.arrays, template, where=source.where)
    # A copy: on CPU a plain conversion may share memory with the caller's arrays.
    return Model(
        name, module, jax.tree.map(lambda x: jnp.array(x, copy=True), variables)
    )


def build_module(
    name: str, *, dtype: DTypeLike = jnp.float32, **overrides: Any
) -> "nn.Module":
    """The linen module of a model, without variables. Raises `ConfigError`."""
    build = import_object(get_entry(name).build)
    allowed = _arguments(build)
    for key in overrides:
        if key not in allowed:
            raise ConfigError(
                f"{name} has no argument {key!r}: {closest(key, allowed)}"
            )
    try:
        return build(dtype=jnp.dtype(dtype), **overrides)
    except TypeError as error:  # a string where a number belongs, and the like
        given = ", ".join(
            f"{k}={v!r}" for k, v in {**overrides, "dtype": dtype}.items()
        )
        raise ConfigError(f"{name} cannot be built with {given}: {error}") from error


def abstract_variables(name: str, module: "nn.Module") -> dict[str, Any]:
    """Shapes and dtypes of a module's variables; computes nothing."""
    x = jax.ShapeDtypeStruct(get_entry(name).example, jnp.float32)
    return dict(
        jax.eval_shape(
            lambda key, x: module.init(key, x, train=False), rng.make_key(0), x
        )
    )


def model_table(name: str, module: "nn.Module") -> "Table":
    """The key table of a module's published weights. Raises `WeightsError` if it has none."""
    path = get_entry(name).table
    if path is None:
        raise WeightsError(
            f"{name} has no published layout; give a folder that zoo-jax wrote"
        )
    make = import_object(path)
    fields = (p for p in inspect.signature(make).parameters if hasattr(module, p))
    return make(**{field: getattr(module, field) for field in fields})


class Source(NamedTuple):
    """Weights that have been read but not yet fitted to a network."""

    arrays: Mapping[str, Any]
    published: bool  # keys and layouts of the published file, not of this project
    overrides: dict[str, Any]  # builder arguments that came with them
    where: str  # for messages
    skipped: tuple[str, ...] = ()  # entries of the file that are no arrays
    model: str | None = None  # the network that they are of, where they say so
    metadata: Mapping[str, Any] = types.MappingProxyType({})  # of a published file
    widened: tuple[str, ...] = ()  # keys that are bfloat16 in the file


def source_table(
    name: str, module: "nn.Module", template: Mapping[str, Any], source: Source
) -> "Table":
    """The key table by which a source fits a module."""
    from zoo_jax.convert import identity_table

    return model_table(name, module) if source.published else identity_table(template)


def load_source(name: str | None, weights: Mapping[str, Any] | PathLike) -> Source:
    """Reads weights of any kind for model `name`, or of any model for None.

    Errors as `create_model`.
    """
    if isinstance(weights, Mapping):
        from zoo_jax.convert import unnest

        return Source(dict(unnest(weights)), True, {}, "the given mapping")
    path = pathlib.Path(weights).expanduser()
    if not path.exists() and not _is_tf_checkpoint(path):
        raise WeightsError(f"{path}: there is no such weights file or folder")
    for recognises, load in _KINDS:
        if recognises(path):
            return load(name, path)
    raise WeightsError(
        f"{path}: holds neither {MODEL_FILE} (a converted model) nor checkpoints (a training"
        " run)"
    )


def _load_file(name: str | None, path: pathlib.Path) -> Source:
    from zoo_jax.convert import open_weights

    file = open_weights(path)
    if not file.ours:
        return Source(
            file.arrays,
            True,
            {},
            str(path),
            file.skipped,
            metadata=file.metadata,
            widened=file.widened,
        )
    overrides = _own(name, path, file.metadata)
    return Source(
        file.arrays, False, overrides, str(path), model=file.metadata["model"]
    )


def _load_converted(name: str | None, path: pathlib.Path) -> Source:
    from zoo_jax.convert import open_weights

    try:
        facts = read_json(path / MODEL_FILE)
    except ValueError as error:
        raise WeightsError(f"{path / MODEL_FILE}: is damaged: {error}") from None
    overrides = _own(name, path, facts)
    arrays = open_weights(path / VARIABLES_FILE).arrays
    return Source(arrays, False, overrides, str(path), model=facts["model"])


def _load_compressed(name: str | None, path: pathlib.Path) -> Source:
    """A file of ``zoo-jax compress``, or of the compression of a training run."""
    from zoo_jax.methods.deep_k_means.compress_file import expand

    arrays, metadata = expand(path)
    if FORMAT in metadata:
        facts = metadata[FORMAT]
        overrides = _own(name, path, facts)
        return Source(arrays, False, overrides, str(path), model=facts["model"])
    section = metadata.get("model")
    if "method" not in metadata or not isinstance(section, dict):
        file = metadata.get("file", {})
        if not isinstance(file, dict) or not all(
            isinstance(value, str) for value in file.values()
        ):
            raise WeightsError(f"{path}: holds metadata that are no strings")
        return Source(arrays, True, {}, str(path), metadata=file)
    section = dict(section)
    trained = f"{metadata['method']}/{section.pop('name', '')}"
    if name is not None and trained in MODELS and trained != name:
        raise WeightsError(f"{path}: holds {trained!r}, not {name!r}")
    arrays = _from_networks(get_entry(trained if name is None else name), arrays)
    return Source(arrays, False, _plain(section), str(path), model=trained)


def _own(name: str | None, path: pathlib.Path, facts: Any) -> dict[str, Any]:
    """Checks what this project wrote beside weights; returns the builder's arguments."""
    facts = facts if isinstance(facts, Mapping) else {}
    known = {"format": str, "model": str, "overrides": dict}
    typed = all(isinstance(facts.get(key), kind) for key, kind in known.items())
    if not typed or facts["format"] != FORMAT:
        raise WeightsError(f"{path}: was not written by zoo-jax convert")
    if name not in (None, facts["model"]):
        raise WeightsError(f"{path}: holds {facts['model']!r}, not {name!r}")
    return _plain(facts["overrides"])


def _load_run(name: str | None, path: pathlib.Path) -> Source:
    """A working directory of `experiments.train`, or the checkpoint folder in it."""
    from zoo_jax.train.run import CONFIG, workdir_variables

    config = next(
        (p / CONFIG for p in (path, path.parent) if (p / CONFIG).is_file()), None
    )
    if name is None and config is None:
        raise WeightsError(f"{path}: has no {CONFIG}, which says what network it is of")
    trained, overrides = (name, {}) if config is None else _run_facts(name, config)
    variables = workdir_variables(path)
    entry, params = get_entry(trained if name is None else name), variables["params"]
    for network in entry.parts:
        if network not in params:
            raise WeightsError(
                f"{path}: the run has no network {network!r}: {closest(network, params)}"
            )
    arrays = _from_networks(entry, named_leaves(variables))
    return Source(arrays, False, overrides, str(path), model=trained)


def _from_networks(entry: ModelEntry, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves of a training checkpoint under the names that the module has for them."""
    out = {}
    for key, leaf in leaves.items():
        kind, _, key = key.partition("/")
        network, _, key = key.partition("/")
        if network not in entry.parts or kind not in ("params", "model_state"):
            continue
        if kind == "model_state":
            kind, _, key = key.partition("/")
        out[f"{kind}/{entry.parts[network]}{key}"] = leaf
    return out


def _run_facts(name: str | None, path: pathlib.Path) -> tuple[str, dict[str, Any]]:
    """The network, and the arguments of its builder, out of the config of a run."""
    try:
        config = read_json(path)
        section = dict(config["model"])
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: is no config of a run: {error!r}") from None
    trained = f"{config.get('task')}/{section.pop('name', '')}"
    if name is not None and trained in MODELS and trained != name:
        raise WeightsError(f"{path}: is of a run of {trained!r}, not {name!r}")
    return trained, _plain(section)


def is_compressed(path: pathlib.Path) -> bool:
    """Whether a file starts as compressed networks do."""
    if not path.is_file():
        return False
    with path.open("rb") as f:
        return f.read(len(COMPRESSED)) == COMPRESSED


def _is_tf_checkpoint(path: pathlib.Path) -> bool:
    """Whether this is what the names of a TensorFlow checkpoint's files begin with."""
    return not path.exists() and path.with_name(f"{path.name}.index").is_file()


def _is_run(path: pathlib.Path) -> bool:
    """A folder with numbered steps, or with the folder that holds them."""
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    return folder.is_dir() and any(p.name.isdigit() for p in folder.iterdir())


# Asked in this order; a further kind of weights is one more line.
_KINDS: tuple[
    tuple[Callable[[pathlib.Path], bool], Callable[[str | None, pathlib.Path], Source]],
    ...,
] = (
    (is_compressed, _load_compressed),
    (pathlib.Path.is_file, _load_file),
    (_is_tf_checkpoint, _load_file),
    (lambda path: (path / MODEL_FILE).is_file(), _load_converted),
    (_is_run, _load_run),
)


def _plain(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """JSON lists as the tuples that builders take; the compute dtype is the caller's choice."""
    return {
        k: tuple(v) if isinstance(v, list) else v
        for k, v in overrides.items()
        if k != "dtype"
    }


def import_object(path: str) -> Callable:
    """The function of a registry entry, from ``"module:function"``."""
    module, _, function = path.partition(":")
    return getattr(importlib.import_module(module), function)


def _arguments(function: Callable) -> Iterable[str]:
    return [p for p in inspect.signature(function).parameters if p != "dtype"]


def load_variables(where: str, *, best: bool = False) -> Variables:
    """Reads trained or published networks under the names that a task gives them.

    Args:
      where: A workdir, or ``<model name>:<weights file>`` for published weights, e.g.
        ``deep_k_means/wide_resnet_16_4:wrn.safetensors``.
      best: The best kept step of a workdir instead of the newest.

    Returns:
      ``{"params": {network: ...}, "model_state": {network: ...}}``.

    Raises:
      ZooError: for weights that do not fit, or a workdir without a good checkpoint.
    """
    from zoo_jax.train.run import workdir_variables

    name, colon, weights = where.partition(":")
    if colon and name in MODELS:
        variables = create_model(name, weights=weights).variables
        return to_networks(get_entry(name), variables)
    return workdir_variables(where, best=best)


def to_networks(entry: ModelEntry, variables: Mapping[str, Any]) -> Variables:
    """Variables of a model's module under the names that a task gives its networks."""

    def part(tree: Mapping[str, Any], place: str) -> Any:
        return tree.get(place.rstrip("/"), {}) if place else tree

    out: dict[str, Any] = {"params": {}, "model_state": {}}
    for network, place in entry.parts.items():
        trees = {kind: part(tree, place) for kind, tree in variables.items()}
        out["params"][network] = trees.pop("params")
        out["model_state"][network] = {k: tree for k, tree in trees.items() if tree}
    return out
