"""Compositions in the place of challenge entries: reconstructions, none of them their code.

Of four entries no more is known than a name or a few words, see each function. Weights for their
networks have to be trained; none are published.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jaxtyping import Array

from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.core.types import RestoreFn
from zoo_jax.methods.ug2.enhancers import make_enhancer
from zoo_jax.methods.ug2.enhancers.ccre import BLOCKY, enhance_relevant
from zoo_jax.methods.ug2.enhancers.chain import Chain
from zoo_jax.methods.ug2.enhancers.clahe import clahe
from zoo_jax.methods.ug2.enhancers.interlace import THRESHOLD
from zoo_jax.methods.ug2.enhancers.networks import Weights, network_enhancer
from zoo_jax.methods.ug2.enhancers.tone import reinhard

MAPPINGS = {"clahe": clahe, "reinhard": reinhard}


def ccre(
    *,
    weights: Weights | None = None,
    collection: str | None = None,
    threshold: float = THRESHOLD,
    blocky: float = BLOCKY,
    field: str = "even",
    form: Literal["normal", "fast"] = "fast",
) -> RestoreFn:
    """Camera and conditions-relevant enhancement, see `ccre.enhance_relevant`.

    A reconstruction. To learn which steps were applied, call `ccre.enhance_relevant`.

    Args:
      weights: Of an AR-CNN; None repairs interlacing alone.
      collection: As there, and so are the thresholds and the field.
      threshold: In pixels.
      blocky: Of `ccre.blockiness`.
      field: Which one is kept.
      form: Of the AR-CNN.
    """
    clean = None
    if weights is not None:
        clean = network_enhancer("arcnn", weights=weights, form=form)

    def enhance(images: Array) -> Array:
        return enhance_relevant(
            images,
            collection=collection,
            arcnn=clean,
            threshold=threshold,
            blocky=blocky,
            field=field,
        ).images

    return enhance


def cascade(
    *,
    steps: Sequence[str | tuple[str, Mapping[str, Any]]] = (
        "clahe",
        "wiener",
        "bicubic_x2",
    ),
    on: Sequence[bool] | None = None,
) -> Chain:
    """Modules against one degradation each: contrast, blur, noise or artefacts, resolution.

    A reconstruction of "cascaded degradation removal modules". The default uses no network;
    with weights a user puts ``("arcnn", dict(weights=...))`` and ``("vdsr", ...)`` in.
    `chain.search_chain` finds the switches.

    Args:
      steps: Names of enhancers, or names with options.
      on: Which of them are applied; None for all.
    """
    named = [(step, {}) if isinstance(step, str) else tuple(step) for step in steps]
    return Chain(
        [(name, make_enhancer(name, **options)) for name, options in named], on=on
    )


def tone_mapped(
    *,
    mapping: Literal["clahe", "reinhard"] = "clahe",
    network: Literal["vdsr", "srnet", "none"] = "vdsr",
    weights: Weights | None = None,
    **arguments: Any,
) -> RestoreFn:
    """Tone mapping, then a small residual network.

    A reconstruction of the entry of Johns Hopkins and Noblis, of which tone mapping and deep
    restoration are remembered.

    Args:
      mapping: Local (``"clahe"``) or global (``"reinhard"``).
      network: What follows; ``"none"`` for tone mapping alone.
      weights: Of the network, trained on pictures of their own size.
      **arguments: Of its builder, e.g. ``depth=8``.

    Raises:
      ConfigError: for another mapping, or a network without weights.
    """
    if mapping not in MAPPINGS:
        raise ConfigError(f"unknown mapping {mapping!r}: {closest(mapping, MAPPINGS)}")
    steps = [(mapping, MAPPINGS[mapping])]
    if network != "none":
        follow = network_enhancer(network, weights=weights, enlarge=False, **arguments)
        steps.append((network, follow))
    return Chain(steps)


def adversarial(*, weights: Weights | None = None, **arguments: Any) -> RestoreFn:
    """SRNet, trained against a critic as well.

    A reconstruction of the entry of National Tsing Hua University, of which nothing is known.

    Args:
      weights: From a run of experiments/configs/ug2/srnet.py:arm=adversarial.
      **arguments: Of `model.build_srnet`.
    """
    return network_enhancer("srnet", weights=weights, **arguments)
