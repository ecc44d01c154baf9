r"""Puts the means over seeds of finished procedures into a method's table of results.

  python -m experiments.results.collect \
    --config=experiments/configs/deep_k_means/mnist5k_cnn.py:tour --dataset='MNIST-5k' \
    --split=test --status=small-scale \
    --workdirs=runs/seed0/compress,runs/seed1/compress,runs/seed2/compress \
    --metrics='*/accuracy,*/ratio'
  python -m experiments.results.render

A procedure that goes over seeds itself gives one workdir: then ``<metric>_std`` and
``<metric>_seeds`` of its numbers are the spread and the count, and make no rows of their own.
Rows of the same config, split and metric are replaced; all others stay.
"""

import csv
import fnmatch
import pathlib
import statistics
from collections.abc import Sequence

from absl import flags

from experiments import common
from experiments.results.render import COLUMNS, STATUS
from zoo_jax.core.errors import DataError, closest
from zoo_jax.core.files import atomic_write, read_json

_CONFIG = flags.DEFINE_string(
    "config", None, "The config as it was given, with its argument.", required=True
)
_WORKDIRS = flags.DEFINE_list("workdirs", None, "One per seed.", required=True)
_METRICS = flags.DEFINE_list("metrics", ["*"], "Patterns of names in result.json.")
_DATASET = flags.DEFINE_string("dataset", "", "Name of the data.")
_SPLIT = flags.DEFINE_string("split", "", "What the numbers were measured on.")
_STATUS = flags.DEFINE_enum("status", "small-scale", STATUS, "How they came about.")
_OUT = flags.DEFINE_string(
    "out", None, "The CSV; by default that of the config's method."
)


def main(argv: Sequence[str]) -> None:
    """Reads result.json of every workdir, writes one row per metric."""
    del argv
    root = pathlib.Path(__file__).parent
    method = pathlib.Path(_CONFIG.value.partition(":")[0]).parent.name
    out = pathlib.Path(_OUT.value) if _OUT.value else root / f"{method}.csv"
    config = _CONFIG.value.removeprefix("experiments/configs/")
    rows = []
    if out.exists():
        with out.open(newline="", encoding="utf-8") as f:
            rows = list(csv.DictReader(f))
    new = [
        {"config": config, **row}
        for row in summarise([pathlib.Path(w) for w in _WORKDIRS.value], _METRICS.value)
    ]
    keys = ("config", "split", "metric")
    written = {tuple(row[k] for k in keys) for row in new}
    kept = [row for row in rows if tuple(row[k] for k in keys) not in written]
    with atomic_write(out) as f:
        writer = csv.DictWriter(f, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept + new)
    print(f"{out}: {len(new)} rows of {len(_WORKDIRS.value)} runs")


def summarise(workdirs: list[pathlib.Path], patterns: list[str]) -> list[dict]:
    """One row per metric: mean and standard deviation (n - 1) over the workdirs.

    Of a single workdir they are what its ``<metric>_std`` and ``<metric>_seeds`` say, if it
    has them.

    Raises:
      DataError: if a workdir has not finished, runs repeat a seed, or nothing matches.
    """
    results, facts, seeds = [], [], []
    for workdir in workdirs:
        try:
            facts.append(read_json(workdir / "run.json"))
            results.append(read_json(workdir / "result.json")["scalars"])
            seeds.append(read_json(workdir / "config.json")["seed"])
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{workdir} is no finished procedure: {error}") from None
        if not facts[-1].get("finished"):
            raise DataError(f"{workdir} has not finished: run its command again")
    if len(set(seeds)) != len(seeds):
        raise DataError(f"the workdirs have the seeds {seeds}: each may count once")
    own = {f"{name}_{kind}" for name in results[0] for kind in ("std", "seeds")}
    names = [
        n
        for n in results[0]
        if any(fnmatch.fnmatchcase(n, p) for p in patterns) and n not in own
    ]
    if not names:
        raise DataError(f"no metric matches {patterns}: {closest('', results[0])}")
    rows = []
    for name in names:
        values = [r[name] for r in results]
        count, std = len(values), None
        if count > 1:
            std = statistics.stdev(values)
        elif f"{name}_seeds" in results[0]:
            count, std = int(results[0][f"{name}_seeds"]), results[0].get(f"{name}_std")
        rows.append(
            {
                "dataset": _DATASET.value,
                "split": _SPLIT.value,
                "metric": name,
                "our_value": f"{statistics.mean(values):.4g}",
                "our_std": "" if std is None else f"{std:.2g}",
                "seeds": count,
                "status": _STATUS.value,
                "hardware": facts[0]["hardware"],
                "revision": "/".join(sorted({f["revision"] for f in facts})),
            }
        )
    return rows


if __name__ == "__main__":
    common.run_main(main)
