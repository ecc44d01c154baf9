"""Does an enhancement help recognition? Scores of restorers before and after fixed recognisers.

Every restorer sees the same pictures and is judged by the same recognisers; what counts is its
difference to the pictures as they are.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from zoo_jax.core.errors import ConfigError, DataError, MediaError
from zoo_jax.core.types import RestoreFn
from zoo_jax.data.geometry import Resize
from zoo_jax.data.media import decode_image
from zoo_jax.data.photos import centre_crop
from zoo_jax.methods.ug2.class_map import ClassMap
from zoo_jax.methods.ug2.pictures import Labelled, match_entry, read_pair
from zoo_jax.metrics.bootstrap import cluster_bootstrap
from zoo_jax.metrics.recognition import hits, lrap

RAW = "raw"  # the pictures as they are
METRICS = ("M1", "M2", "LRAP")
ALL = "all"  # pictures of every collection
_ATOL = (
    1.0  # a restorer may leave [0, 1] by so much before it is taken for another range
)


class Recognises(Protocol):
    """What a recogniser must offer; `recognisers.Recogniser` does."""

    name: str

    def scores(
        self, images: Sequence[UInt8[np.ndarray, "h w 3"]]
    ) -> Float[np.ndarray, "b n"]:
        """RGB pictures of any sizes -> a score for every class."""


class Failure(NamedTuple):
    """A picture that takes part nowhere, since one arm could not read it."""

    key: str
    error: str


class Shown(NamedTuple):
    """One picture for the page."""

    key: str
    label: str
    images: dict[str, UInt8[np.ndarray, "h w 3"]]  # restorer -> picture
    hits: dict[str, dict[str, bool]]  # restorer -> recogniser -> M1


class Scores(NamedTuple):
    """What `score` found."""

    rows: list[
        dict[str, Any]
    ]  # restorer, recogniser, collection, metric, score, delta, ...
    pictures: list[dict[str, Any]]  # one per picture, restorer and recogniser
    failures: list[Failure]
    shown: list[Shown]


Sink = Callable[[str, Labelled, UInt8[np.ndarray, "h w 3"]], None]


def score(
    pictures: Sequence[Labelled],
    restorers: Mapping[str, RestoreFn],
    recognisers: Sequence[Recognises],
    class_map: ClassMap,
    *,
    entries: Mapping[str, Any] | None = None,
    k: int = 5,
    side: int | None = None,
    batch: int = 16,
    resamples: int = 2000,
    seed: int = 0,
    show: int = 8,
    sink: Sink | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = lambda batches: batches,
) -> Scores:
    """Scores every restorer, and every folder of enhanced pictures, with every recogniser.

    Restored pictures are rounded to 8 bits as a file would be, so a restorer has the scores of
    the folder that it writes. A picture that cannot be decoded, in the data or in an entry, is
    left out of all arms and listed, so that all rows stay comparable.

    Args:
      pictures: See `find_pictures`.
      restorers: By name; ``"raw"`` is added.
      recognisers: Fixed networks.
      class_map: For the labels of the pictures.
      entries: Name -> folder of enhanced pictures, see `match_entry`.
      k: Guesses that M1 and M2 look at.
      side: Takes the centre square of every picture, of the data and of entries, and resamples
        it to so many pixels (antialiased, bicubic) before anything else; None leaves them as
        they are. Restorers compile one program per size.
      batch: Pictures that are decoded, restored and recognised together. A restorer gets
        them together if all of a batch have one size, and else one by one.
      resamples: Of the bootstrap over videos.
      seed: Of the bootstrap.
      show: Pictures that are kept for the page, evenly spaced over the data.
      sink: Gets the restorer's name, the picture, and the restored one.
      progress: Wraps the list of batches, e.g. a bar.

    Returns:
      See `Scores`. Rows have ``score``, ``delta`` (minus that of raw, exactly 0 for a restorer
      that changes nothing), ``low`` and ``high`` (95 % of delta, drawn over videos) and ``n``.
      M1 and M2 are means over pictures. LRAP is the mean over sequences (a label in a
      video), then over labels.

    Raises:
      ConfigError: for no recogniser, or a name that is taken twice.
      DataError: for an unknown label, pairs that differ in size, a restorer that changes the size
        or gives numbers that are not finite, and if no picture is left.
    """
    entries = dict(entries or {})
    _check_names(restorers, entries, recognisers)
    if not pictures:
        raise DataError("no pictures to score")
    for picture in pictures:
        class_map.indices([picture.label], where=str(picture.path))
    files = {name: match_entry(pictures, folder) for name, folder in entries.items()}
    full = min(batch, len(pictures))
    arms = {
        name: _Arm(name, function, full)
        for name, function in {RAW: lambda x: x, **restorers}.items()
    }

    step = max(len(pictures) // max(show, 1), 1)
    chosen = {picture.key for picture in pictures[::step][:show]}
    records: list[dict[str, Any]] = []
    failures: list[Failure] = []
    shown: dict[str, Shown] = {}
    batches = [pictures[i : i + batch] for i in range(0, len(pictures), batch)]
    for some in progress(batches):
        kept, originals, enhanced = _read(some, files, failures, side)
        if not kept:
            continue
        images = {name: arm.restore(kept, originals) for name, arm in arms.items()}
        images |= enhanced
        for name, restored in images.items():
            for picture, image in zip(kept, restored, strict=True):
                if sink is not None and name in restorers:
                    sink(name, picture, image)
                if picture.key in chosen:
                    blank = Shown(picture.key, picture.label, {}, {})
                    shown.setdefault(picture.key, blank).images[name] = image
            for recogniser in recognisers:
                found = _judge(recogniser, restored, kept, class_map, k)
                for picture, values in zip(kept, found, strict=True):
                    arm = {"restorer": name, "recogniser": recogniser.name}
                    facts = picture._asdict() | {"path": str(picture.path)}
                    records.append(facts | arm | values)
                    if picture.key in chosen:
                        of_arm = shown[picture.key].hits.setdefault(name, {})
                        of_arm[recogniser.name] = values["M1"] == 1
    if not records:
        raise DataError(
            f"none of {len(pictures)} pictures can be read: {failures[0].error}"
        )
    names = [*arms, *files]
    rows = _summarise(records, names, recognisers, resamples=resamples, seed=seed)
    return Scores(rows, records, failures, list(shown.values()))


class _Arm(NamedTuple):
    """A restorer with its name."""

    name: str
    function: RestoreFn
    batch: int

    def restore(
        self, pictures: Sequence[Labelled], images: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Bytes in, bytes out."""
        if self.name == RAW:
            return list(images)
        # Either one program for full batches, or one for each size.
        together = len({image.shape for image in images}) == 1
        step = self.batch if together else 1
        out: list[np.ndarray] = []
        for first in range(0, len(images), step):
            some = np.stack(images[first : first + step])
            missing = step - len(some)
            x = np.concatenate([some, np.repeat(some[-1:], missing, axis=0)])
            x = x.astype(np.float32) / np.float32(255)
            y = np.asarray(self.function(jnp.asarray(x)))
            out += list(self._checked(y, x, pictures[first].path))[: len(some)]
        return out

    def _checked(self, y: np.ndarray, x: np.ndarray, where: Any) -> np.ndarray:
        what = f"restorer {self.name!r} on {where}"
        if y.shape != x.shape:
            raise DataError(
                f"{what}: gave shape {y.shape} for {x.shape}: a restorer keeps the size"
            )
        if not np.isfinite(y).all():
            raise DataError(f"{what}: gave numbers that are not finite")
        if y.min() < -_ATOL or y.max() > 1 + _ATOL:
            raise DataError(
                f"{what}: gave values from {y.min():g} to {y.max():g}: pictures lie in [0, 1]"
            )
        return np.rint(np.clip(y, 0, 1) * np.float32(255)).astype(np.uint8)


def _check_names(
    restorers: Iterable[str], entries: Iterable[str], recognisers: Sequence[Recognises]
) -> None:
    if not recognisers:
        raise ConfigError("no recogniser: name at least one")
    judges = [recogniser.name for recogniser in recognisers]
    for names in ([RAW, *restorers, *entries], judges):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(
                f"{twice[0]!r} is named twice: give each arm its own name"
            )


def _read(
    pictures: Sequence[Labelled],
    files: Mapping[str, Mapping[str, Any]],
    failures: list[Failure],
    side: int | None,
) -> tuple[list[Labelled], list[np.ndarray], dict[str, list[np.ndarray]]]:
    """Decodes what can be decoded in every arm."""
    kept, originals = [], []
    enhanced: dict[str, list[np.ndarray]] = {name: [] for name in files}
    for picture in pictures:
        try:
            image = decode_image(picture.path)
            others = {
                name: read_pair(picture.path, found[picture.key], image.shape)
                for name, found in files.items()
            }
        except MediaError as error:
            failures.append(Failure(picture.key, str(error)))
            continue
        kept.append(picture)
        originals.append(_square(image, side, picture))
        for name, other in others.items():
            enhanced[name].append(_square(other, side, picture))
    return kept, originals, enhanced


def _square(image: np.ndarray, side: int | None, picture: Labelled) -> np.ndarray:
    if side is None:
        return image
    image = centre_crop(image, min(image.shape[:2]), str(picture.path))
    return Resize(side, method="bicubic")({"image": image}, None)["image"]


def _judge(
    recogniser: Recognises,
    images: Sequence[np.ndarray],
    pictures: Sequence[Labelled],
    class_map: ClassMap,
    k: int,
) -> Iterator[dict[str, float]]:
    """Values of every metric for each picture."""
    found = np.asarray(recogniser.scores(images))
    expected = (len(images), class_map.members.shape[1])
    if found.shape != expected:
        raise DataError(
            f"recogniser {recogniser.name!r}: gave scores of shape {found.shape}, not"
            f" {expected} as the class map needs"
        )
    if not np.isfinite(found).all():
        raise DataError(
            f"recogniser {recogniser.name!r}: gave scores that are not finite"
        )
    labels = class_map.indices([picture.label for picture in pictures])
    m1, m2 = map(np.asarray, hits(found, class_map.members, labels, k=k))
    ranking = lrap(found, class_map.members[labels])
    for values in zip(m1, m2, ranking, strict=True):
        yield dict(zip(METRICS, map(float, values), strict=True))


def _summarise(
    records: Sequence[Mapping[str, Any]],
    restorers: Sequence[str],
    recognisers: Sequence[Recognises],
    *,
    resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """One row per collection, recogniser, metric and restorer."""
    collections = sorted({record["collection"] for record in records} - {""})
    if len(collections) < 2:
        collections = []
    rows = []
    for collection in (ALL, *collections):
        for recogniser in recognisers:
            arms = {
                name: [
                    record
                    for record in records
                    if record["restorer"] == name
                    and record["recogniser"] == recogniser.name
                    and collection in (ALL, record["collection"])
                ]
                for name in restorers
            }
            raw = arms[RAW]  # of the same pictures in the same order as every other arm
            videos = np.array([record["video"] for record in raw])
            for metric in METRICS:
                weights = _sequence_weights(raw) if metric == "LRAP" else None
                base = np.array([record[metric] for record in raw])
                for name, own in arms.items():
                    values = np.array([record[metric] for record in own])
                    delta, low, high = cluster_bootstrap(
                        values - base,
                        videos,
                        weights=weights,
                        resamples=resamples,
                        seed=seed,
                    )
                    rows.append(
                        {
                            "collection": collection,
                            "restorer": name,
                            "recogniser": recogniser.name,
                            "metric": metric,
                            "score": float(np.average(values, weights=weights)),
                            "delta": delta,
                            "low": low,
                            "high": high,
                            "n": len(values),
                        }
                    )
    return rows


def _sequence_weights(records: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Weights of pictures: every label counts the same, and of a label every sequence."""
    labels = np.array([record["label"] for record in records])
    sequences = np.array([f"{r['label']}\0{r['video']}" for r in records])
    _, of_sequence, sizes = np.unique(
        sequences, return_inverse=True, return_counts=True
    )
    first = np.unique(of_sequence, return_index=True)[1]
    _, of_label, counts = np.unique(
        labels[first], return_inverse=True, return_counts=True
    )
    per_sequence = 1.0 / (len(counts) * counts[of_label] * sizes)
    return per_sequence[of_sequence]
