"""Comparison of searches on tables: spaces times searchers times repeats, then curves."""

import pathlib
import zipfile
from collections.abc import Mapping

import jax
import ml_collections
import numpy as np

from zoo_jax.core.config import digest
from zoo_jax.core.errors import ConfigError, DataError, closest
from zoo_jax.core.files import atomic_write
from zoo_jax.core.rng import fold_name
from zoo_jax.methods.weaknas import figures, report
from zoo_jax.methods.weaknas.evaluation import Record
from zoo_jax.methods.weaknas.plan import Plan
from zoo_jax.methods.weaknas.searchers import make_runner
from zoo_jax.methods.weaknas.spaces import Pool, open_pool
from zoo_jax.task import RunContext

FOLDER = "searches"


def search_study(
    config: ml_collections.ConfigDict, ctx: RunContext
) -> Mapping[str, float]:
    """Runs every searcher of every study on its spaces, and compares them.

    What is finished of a pair of space and searcher stands in ``searches/`` of the workdir; the
    same command goes on from there. Run r of all searchers on a space has the same key.

    Args:
      config: With ``spaces`` (name -> arguments of `open_pool`, and ``label``, ``judge``: what
        searches are told and what judges them), ``searchers`` (name -> section for
        `make_runner`), ``studies`` (name -> `plan.Study`), ``search`` (budget, first, batch of all
        searchers that do not say otherwise; chunk: runs that are stored together), ``report``
        (see `report.Options`).
      ctx: Where to work.

    Returns:
      The mean ``<space>/<searcher>/<rule>@<queries>``, and the same with ``_std`` and ``_seeds``,
      where the rule is ``reference`` or ``honest``.

    Raises:
      ConfigError: for sections that do not fit.
    """
    plan = Plan.of(config)
    # Everything is opened and built before the first search: mistakes show at once.
    pools = {
        space: _open(plan, space) for space in dict.fromkeys(s for s, _ in plan.runs)
    }
    runners = {
        (space, searcher): make_runner(
            plan.searcher(searcher), pools[space], plan.spaces[space]["label"]
        )
        for space, searcher in plan.runs
    }
    found: dict[tuple[str, str], Record] = {}
    with ctx.progress(sum(plan.runs.values()), "searches") as bar:
        for (space, searcher), wanted in plan.runs.items():
            store = _Store(
                pathlib.Path(ctx.workdir) / FOLDER / f"{space}__{searcher}.npz",
                digest([plan.spaces[space], plan.searcher(searcher), config.seed]),
            )
            bar.update(min(store.runs, wanted))
            key = fold_name(ctx.key, space)
            while store.runs < wanted:
                numbers = range(store.runs, min(store.runs + plan.chunk, wanted))
                keys = [jax.random.fold_in(key, number) for number in numbers]
                store.add(runners[space, searcher](keys))
                bar.update(len(numbers))
            found[space, searcher] = store.record.first(wanted)
    scalars = report.write(ctx.writer, plan, pools, found)
    figures.draw(ctx.writer, plan, pools, found)
    return scalars


def _open(plan: Plan, space: str) -> Pool:
    section = dict(plan.spaces[space])
    del section["label"]
    judge = section.pop("judge")
    pool = open_pool(**section)
    if judge not in pool.labels:
        raise ConfigError(
            f"spaces.{space}.judge={judge!r}: {closest(judge, pool.labels)}"
        )
    return pool


class _Store:
    """The finished runs of one pair, in one file that is always whole."""

    def __init__(self, path: pathlib.Path, fingerprint: str):
        """Reads what is there. Runs of another config are not taken.

        Raises:
          DataError: if the file is damaged.
        """
        self._path, self._fingerprint = path, fingerprint
        self.record: Record | None = None
        if not path.exists():
            return
        try:
            with path.open("rb") as f, np.load(f, allow_pickle=False) as file:
                if str(file["fingerprint"]) == fingerprint:
                    names = ("asked", "queries", "predicted_top")
                    self.record = Record(*(file[name] for name in names))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{path} is damaged ({error}): delete it, and these searches are run again"
            ) from None

    @property
    def runs(self) -> int:
        """How many are finished."""
        return 0 if self.record is None else len(self.record.asked)

    def add(self, new: Record) -> None:
        """Appends runs and writes the file."""
        if self.record is not None:
            new = Record(
                np.concatenate([self.record.asked, new.asked]),
                new.queries,
                np.concatenate([self.record.predicted_top, new.predicted_top]),
            )
        self.record = new
        with atomic_write(self._path, "wb") as f:
            np.savez_compressed(
                f,
                asked=new.asked,
                queries=new.queries,
                predicted_top=new.predicted_top,
                fingerprint=self._fingerprint,
            )
