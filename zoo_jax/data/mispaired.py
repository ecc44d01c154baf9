"""A known share of wrong partners in clips: the sound or the text of another example."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int

from zoo_jax.core.errors import ConfigError, DataError, closest
from zoo_jax.data.source import Source, open_source

Modality = Literal["audio", "text", "either", "both"]
_MODALITIES = ("audio", "text", "either", "both")
_ENTRIES = {"audio": ("audio", "audio_mask"), "text": ("text", "text_mask")}
_ROUNDS = 1000


def mispaired(
    source: Mapping[str, Any] | Source,
    *,
    share: float,
    modality: Modality = "either",
    seed: int = 0,
    differ: Literal["label", "index"] = "label",
) -> Source:
    """Gives some examples of a source the sound or the text of another example.

    Which examples, and what they get, follows from (seed, number of examples) and, with
    ``differ="label"``, from the labels; nothing else. Exactly ``round(share * n)`` examples
    are wrong. Examples gain ``wrong_audio`` and ``wrong_text`` (float32, 1 where wrong), for
    evaluation only. One that gets a text or sound that is not there (mask 0) is not wrong.
    Wrap twice for two kinds of noise.

    Args:
      source: A source of clips, or its section.
      share: Of the examples, in [0, 1].
      modality: ``"audio"`` or ``"text"`` alone is wrong; ``"either"``: the one in every
        second wrong example, the other in the rest; ``"both"`` are, of two partners.
      seed: Another one chooses other examples and partners.
      differ: ``"label"``: the partner has another label (``info["labels"]`` of the source), so
        that a wrong text never is the right one by chance. ``"index"``: any other example.

    Returns:
      A source of the same length; in memory if `source` is.

    Raises:
      ConfigError: for a value out of range, or labels that the source does not have.
      DataError: if no partner can be found.
    """
    if isinstance(source, Mapping):
        source = open_source(source)
    if modality not in _MODALITIES:
        raise ConfigError(
            f"unknown modality {modality!r}: {closest(modality, _MODALITIES)}"
        )
    if isinstance(share, bool) or not 0 <= share <= 1:
        raise ConfigError(f"share must be in [0, 1], got {share!r}")
    if differ not in ("label", "index"):
        raise ConfigError(f'differ must be "label" or "index", got {differ!r}')
    info = getattr(source, "info", {})
    labels: Sequence[int] | np.ndarray = np.arange(len(source))
    if differ == "label":
        if "labels" not in info:
            raise ConfigError(
                'mispaired: the source has no info["labels"]: set differ="index"'
            )
        labels = np.asarray(info["labels"])
    kind = _InMemory if hasattr(source, "take") else _Mispaired
    partners = _partners(labels, share, modality, seed)
    return kind(source, partners, {**info, "partners": partners})


def _partners(
    labels: np.ndarray, share: float, modality: str, seed: int
) -> dict[str, Int[np.ndarray, "n"]]:
    """Modality -> whose an example gets: its own number where it is right."""
    n = len(labels)
    order = np.argsort(_raw(seed, 0, n), kind="stable")
    chosen = order[: round(share * n)]
    parts = {
        "audio": {"audio": chosen},
        "text": {"text": chosen},
        "either": {"audio": chosen[::2], "text": chosen[1::2]},
        "both": {"audio": chosen, "text": chosen},
    }[modality]
    out = {}
    for number, (name, wrong) in enumerate(sorted(parts.items())):
        partner = np.arange(n)
        open_ = np.isin(np.arange(n), wrong)
        for turn in range(_ROUNDS):
            if not open_.any():
                break
            draw = (_raw(seed, 1 + number + 2 * turn, n) % np.uint64(n)).astype(
                np.int64
            )
            fits = open_ & (labels[draw] != labels)
            partner[fits] = draw[fits]
            open_ &= ~fits
        if open_.any():
            raise DataError(
                f"mispaired: {open_.sum()} of {n} examples find no partner of another label"
            )
        out[name] = partner
    return out


def _raw(seed: int, purpose: int, count: int) -> np.ndarray:
    # Raw numbers of a bit generator never change with the version of NumPy.
    key = np.array([seed, purpose], np.uint64)
    return np.random.Philox(key=key).random_raw(count)


class _Mispaired:
    """See `mispaired`."""

    def __init__(
        self,
        source: Source,
        partners: Mapping[str, Int[np.ndarray, "n"]],
        info: dict[str, Any],
    ):
        self._source, self._partners, self.info = source, partners, info
        if hasattr(source, "draw"):
            self.draw = lambda index, rng: self._mix(
                index, lambda i: source.draw(i, rng)
            )

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return self._mix(index, self._source.__getitem__)

    def _mix(self, index: int, read: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
        example = dict(read(index))
        for name in ("audio", "text"):
            partner = int(self._partners.get(name, {index: index})[index])
            if partner != index:
                other = read(partner)
                example.update({k: other[k] for k in _ENTRIES[name] if k in other})
            wrong = max(example.get(f"wrong_{name}", 0), partner != index)
            there = example.get(f"{name}_mask", 1)
            example[f"wrong_{name}"] = np.float32(wrong * there)
        return example


class _InMemory(_Mispaired):
    """Adds whole batches."""

    def take(self, indices: Int[np.ndarray, "b"]) -> dict[str, np.ndarray]:
        """The examples at `indices`, stacked."""
        indices = np.asarray(indices)
        batch = dict(self._source.take(indices))
        for name in ("audio", "text"):
            partners = self._partners.get(name)
            rows = indices if partners is None else partners[indices]
            changed: Bool[np.ndarray, "b"] = rows != indices
            if changed.any():
                other = self._source.take(rows)
                batch.update({k: other[k] for k in _ENTRIES[name] if k in other})
            wrong = np.maximum(batch.get(f"wrong_{name}", 0), changed)
            there = batch.get(f"{name}_mask", 1)
            batch[f"wrong_{name}"] = (wrong * there).astype(np.float32)
        return batch
