"""The config of a comparison of searches, read and checked."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections

from zoo_jax.core.config import require_keys, to_dict
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.methods.weaknas.searchers import Budget, read_budget


class Published(NamedTuple):
    """What another program reached under the rule ``reference``, to compare with."""

    queries: int
    mean: float
    stderr: float
    runs: int


class Quality(NamedTuple):
    """Whose predictors are judged by the order that they put architectures in."""

    space: str
    searchers: tuple[str, ...]
    queries: int  # they are fitted to so many
    runs: int
    top: int  # the size of the truly best set


class Options(NamedTuple):
    """What the report shows."""

    queries: tuple[int, ...]  # the numbers are given after so many labels
    published: dict[str, Published]  # by space; may be empty
    path: tuple[str, str] | None = None  # space and searcher whose search is drawn
    quality: Quality | None = None

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Options":
        """Reads the section ``report``."""
        section = plain.get("report") or {}
        require_keys(section, cls._fields, "report")
        if not section.get("queries"):
            raise ConfigError("report.queries is missing: e.g. [50, 100]")
        published = {}
        for space, numbers in (section.get("published") or {}).items():
            if space not in plain["spaces"]:
                raise ConfigError(
                    f"report.published: unknown space {space!r}:"
                    f" {closest(space, plain['spaces'])}"
                )
            published[space] = _fill(Published, numbers, f"report.published.{space}")
        path, quality = section.get("path"), section.get("quality")
        return cls(
            tuple(section["queries"]),
            published,
            tuple(path) if path else None,
            _fill(Quality, quality, "report.quality") if quality else None,
        )


def _fill(kind: Any, section: Mapping[str, Any], where: str) -> Any:
    """A tuple with names from a section that must have them all."""
    require_keys(section, kind._fields, where)
    if missing := [name for name in kind._fields if name not in section]:
        raise ConfigError(f"{where} lacks {', '.join(missing)}")
    return kind(**section)


class Study(NamedTuple):
    """Which searchers are compared on which spaces."""

    spaces: tuple[str, ...]
    searchers: tuple[str, ...]
    runs: int
    figure: str = "curves"  # over queries; or "points": the values at the end


class Plan(NamedTuple):
    """The config of a study, checked."""

    spaces: dict[str, dict[str, Any]]
    searchers: dict[str, dict[str, Any]]
    studies: dict[str, Study]
    budget: dict[str, int]  # of searchers that do not say otherwise
    chunk: int
    report: Options
    runs: dict[tuple[str, str], int]  # (space, searcher) -> how many

    @classmethod
    def of(cls, config: ml_collections.ConfigDict) -> "Plan":
        """Reads and checks the sections.

        Raises:
          ConfigError: naming the key.
        """
        plain = to_dict(config)
        for name in ("spaces", "searchers", "studies"):
            for key in plain.get(name) or {}:
                if not re.fullmatch(r"[\w.+-]+", key):
                    raise ConfigError(
                        f"{name}: {key!r} names files: take letters, digits and . _ + -"
                    )
            if not plain.get(name):
                raise ConfigError(f"config.{name} is empty: a study needs one at least")
        search = plain.get("search") or {}
        require_keys(search, {*Budget._fields, "chunk"}, "search")
        spaces = {
            name: {"label": "search", "judge": "test", **_without_blanks(section)}
            for name, section in plain["spaces"].items()
        }
        chunk = search.get("chunk", 10)
        if not isinstance(chunk, int) or chunk < 1:
            raise ConfigError(f"search.chunk={chunk!r}: it must be at least 1")
        options = Options.of(plain)
        studies, runs = {}, {}
        for name, section in plain["studies"].items():
            studies[name] = study = _read_study(name, section, plain)
            for pair in [(a, b) for a in study.spaces for b in study.searchers]:
                runs[pair] = max(study.runs, runs.get(pair, 0))
        if options.path and options.path not in runs:
            raise ConfigError(
                f"report.path={list(options.path)} is a space and a searcher that no study runs"
            )
        if options.quality:
            _check_quality(options.quality, runs, plain["searchers"])
        # The pairs that most depends on come first.
        runs = dict(sorted(runs.items(), key=lambda item: -item[1]))
        budget = {name: search[name] for name in Budget._fields if name in search}
        plan = cls(spaces, plain["searchers"], studies, budget, chunk, options, runs)
        recorded = {
            count
            for _, searcher in runs
            for count in read_budget(plan.searcher(searcher)).queries.tolist()
        }
        for count in options.queries:
            if count not in recorded:
                raise ConfigError(
                    f"report.queries: no searcher is recorded after {count} queries, only"
                    f" after {', '.join(map(str, sorted(recorded)))}"
                )
        return plan

    def searcher(self, name: str) -> dict[str, Any]:
        """The section of a searcher with the common budget filled in."""
        return {**self.budget, **self.searchers[name]}


def _check_quality(
    quality: Quality, runs: Mapping[tuple[str, str], int], searchers: Mapping[str, Any]
) -> None:
    for searcher in quality.searchers:
        if runs.get((quality.space, searcher), 0) < quality.runs:
            raise ConfigError(
                f"report.quality: no study runs {searcher!r} on {quality.space!r}"
                f" {quality.runs} times"
            )
        if "predictor" not in searchers[searcher]:
            raise ConfigError(f"report.quality: {searcher!r} has no predictor")


def _read_study(
    name: str, section: Mapping[str, Any], plain: Mapping[str, Any]
) -> Study:
    where = f"studies.{name}"
    require_keys(section, Study._fields, where)
    for key in ("spaces", "searchers", "runs"):
        if not section.get(key):
            raise ConfigError(f"{where}.{key} is missing or empty")
    for kind in ("spaces", "searchers"):
        for entry in section[kind]:
            if entry not in plain[kind]:
                raise ConfigError(
                    f"{where}.{kind}: unknown {entry!r}: {closest(entry, plain[kind])}"
                )
    study = Study(
        tuple(section["spaces"]),
        tuple(section["searchers"]),
        section["runs"],
        section.get("figure", "curves"),
    )
    if study.figure not in ("curves", "points"):
        raise ConfigError(
            f"{where}.figure={study.figure!r}: {closest(study.figure, ('curves', 'points'))}"
        )
    return study


def _without_blanks(section: Mapping[str, Any]) -> dict[str, Any]:
    """A blank table or data set is one that is not given."""
    return {key: value for key, value in section.items() if value not in ("", None)}
