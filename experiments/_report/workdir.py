"""Reads what a run left in its workdir. A damaged file becomes a line in `Run.problems`."""

import dataclasses
import glob
import json
import math
import pathlib
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

CONFIG, FACTS, METRICS, PERF, RESULT = (
    "config.json",
    "run.json",
    "metrics.jsonl",
    "perf.jsonl",
    "result.json",
)
Curve = list[tuple[int, float]]  # (step, value), in the order of the file


@dataclasses.dataclass
class Run:
    """One workdir."""

    path: pathlib.Path
    config: dict[str, Any]
    facts: dict[str, Any]  # run.json; empty for the trainings inside a procedure
    curves: dict[str, Curve]  # metric name -> points
    speed: dict[str, float]  # medians over perf.jsonl
    scalars: dict[str, float]  # result.json of a procedure
    tables: list[dict[str, Any]]
    figures: list[dict[str, Any]]
    problems: list[str]  # one sentence per file that could not be read
    inner: list["Run"] = dataclasses.field(default_factory=list)

    @property
    def method(self) -> str:
        """The method's name, or ``"unknown"`` where the config does not tell."""
        return str(self.config.get("task") or "unknown")

    @property
    def status(self) -> str:
        """``finished``, ``not finished`` or ``damaged``."""
        if self.problems:
            return "damaged"
        return "finished" if self.facts.get("finished") is True else "not finished"

    @property
    def headline(self) -> dict[str, float]:
        """A procedure's numbers; else the last evaluation; else the last training numbers."""
        if self.scalars:
            return self.scalars
        last = {name: points[-1][1] for name, points in self.curves.items() if points}
        measured = {k: v for k, v in last.items() if not k.startswith("train/")}
        return measured or last


def find_runs(patterns: Iterable[str]) -> list[Run]:
    """Reads all workdirs at or below the folders that the patterns match.

    They come in the order in which they started, those without a start by path. A workdir inside another one (a training that a procedure started) is its `inner` run.

    Args:
      patterns: Folder names or globs; ``**`` crosses folders.
    """
    folders: set[pathlib.Path] = set()
    for pattern in patterns:
        for match in glob.glob(pattern, recursive=True):
            root = pathlib.Path(match)
            if root.is_dir():
                marks = [*root.rglob(CONFIG), *root.rglob(FACTS), *root.rglob(RESULT)]
                folders.update(m.parent for m in marks if "checkpoints" not in m.parts)
    top: list[Run] = []
    open_runs: list[Run] = []  # the chain of runs that the current folder lies in
    for folder in sorted(folders, key=lambda f: f.parts):
        run = read_run(folder)
        while open_runs and not folder.is_relative_to(open_runs[-1].path):
            open_runs.pop()
        (open_runs[-1].inner if open_runs else top).append(run)
        open_runs.append(run)
    return sorted(top, key=lambda run: str(run.facts.get("started", "")))


def read_run(path: pathlib.Path) -> Run:
    """Reads one workdir; never raises for what stands in its files."""
    problems: list[str] = []
    result = _read_object(path / RESULT, problems)
    scalars = result.get("scalars", {})
    run = Run(
        path=path,
        config=_read_object(path / CONFIG, problems, required=True),
        facts=_read_object(path / FACTS, problems),
        curves=_curves(_read_lines(path / METRICS, problems)),
        speed=_medians(_read_lines(path / PERF, problems)),
        scalars=_numbers(scalars if isinstance(scalars, Mapping) else {}),
        tables=_entries(result, "tables", "rows", list, problems),
        figures=_entries(result, "figures", "file", str, problems),
        problems=problems,
    )
    run.figures = [f for f in run.figures if _is_picture(path, f["file"], problems)]
    return run


def _is_picture(folder: pathlib.Path, file: str, problems: list[str]) -> bool:
    path = (folder / file).resolve()
    try:
        # A result file may come from anywhere: it must not pull other files into the page.
        inside = path.is_relative_to(folder.resolve())
        if inside and path.read_bytes().startswith(b"\x89PNG"):
            return True
    except OSError:
        pass
    problems.append(f"figure {file!r} is no PNG file in this workdir")
    return False


def _read_object(
    path: pathlib.Path, problems: list[str], *, required: bool = False
) -> dict[str, Any]:
    if not path.exists():
        if required:
            problems.append(f"{path.name} is missing")
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} cannot be read: {error}")
        return {}
    if not isinstance(value, dict):
        problems.append(f"{path.name} holds no JSON object")
        return {}
    return value


def _read_lines(path: pathlib.Path, problems: list[str]) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} cannot be read: {error}")
        return []
    records, bad = [], 0
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or not isinstance(record["step"], int):
                raise ValueError("no step")
            records.append(record)
        except (ValueError, KeyError):
            # The last line may be under way right now: a run that still writes is no damage.
            bad += number < len(lines)
    if bad:
        problems.append(f"{path.name} has {bad} unreadable lines of {len(lines)}")
    return records


def _entries(
    result: Mapping[str, Any], key: str, inner: str, kind: type, problems: list[str]
) -> list[dict[str, Any]]:
    found = result.get(key, [])
    entries = [
        {"name": "", "caption": "", **entry}
        for entry in (found if isinstance(found, list) else [found])
        if isinstance(entry, dict) and isinstance(entry.get(inner), kind)
    ]
    if not isinstance(found, list) or len(entries) != len(found):
        problems.append(f"{RESULT} has unreadable {key}")
    return entries


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    return {
        str(k): v
        for k, v in record.items()
        if isinstance(v, int | float) and not isinstance(v, bool)
    }


def _curves(records: Iterable[Mapping[str, Any]]) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    for record in records:
        for name, value in _numbers(record).items():
            if name != "step":
                curves.setdefault(name, []).append((record["step"], value))
    return curves


def _medians(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    points = _curves(records)
    finite = {k: [v for _, v in c if math.isfinite(v)] for k, c in points.items()}
    return {k: statistics.median(v) for k, v in finite.items() if v}
