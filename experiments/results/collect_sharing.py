r"""Puts the comparison of ways to share weights into its table, and prints it for the README.

python -m experiments.results.collect_sharing \
    --workdirs=digits=runs/sharing_study/digits,MNIST-5k=runs/sharing_study/mnist5k \
    --figures=docs/figures
"""

import csv
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from experiments import common
from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.core.files import atomic_write, read_json

VALUES = ("retrained", "assigned", "norms", "accuracy", "lost", "bytes", "ratio")
COLUMNS = (
    *("dataset", "split", "arm", "budget", "seeds"),
    *(column for value in VALUES for column in (value, f"{value}_se")),
    *("hardware", "revision"),
)

_WORKDIRS = flags.DEFINE_list("workdirs", [], "NAME=FOLDER of each data set.")
_FIGURES = flags.DEFINE_string("figures", "", "A folder to copy the figures to.")
_OUT = flags.DEFINE_string(
    "out",
    str(pathlib.Path(__file__).parent / "deep_k_means_sharing.csv"),
    "The table.",
)


def main(argv: Sequence[str]) -> None:
    """Writes the CSV, copies the figures, prints Markdown."""
    del argv
    if not _WORKDIRS.value:
        raise ConfigError("--workdirs is needed: NAME=FOLDER of each data set")
    rows = []
    for pair in _WORKDIRS.value:
        name, equals, folder = pair.partition("=")
        if not equals:
            raise ConfigError(f"--workdirs takes NAME=FOLDER, got {pair!r}")
        found = read_study(pathlib.Path(folder), name)
        rows += found
        print(markdown(found, pathlib.Path(folder)))
        if _FIGURES.value:
            short = name.lower().replace("-", "")
            picture = pathlib.Path(folder, "figures/sharing_study.png").read_bytes()
            copy = pathlib.Path(_FIGURES.value, f"deep_k_means_sharing_{short}.png")
            with atomic_write(copy, "wb") as f:
                f.write(picture)
    with atomic_write(_OUT.value) as f:
        writer = csv.DictWriter(f, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_study(workdir: pathlib.Path, dataset: str) -> list[dict[str, Any]]:
    """One row per arm and budget; first the dense networks that all arms start from.

    Raises:
      DataError: if the study has not finished.
    """
    try:
        facts = read_json(workdir / "run.json")
        result = read_json(workdir / "result.json")
        split = read_json(workdir / "config.json")["study"]["stream"]
        means = _table(result, "means")
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{workdir} is no finished study: {error}") from None
    if not facts.get("finished"):
        raise DataError(f"{workdir} has not finished: run its command again")
    about = {
        "dataset": dataset,
        "split": split,
        "hardware": facts["hardware"],
        "revision": facts["revision"],
    }
    scalars = result["scalars"]
    dense = {
        "arm": "dense",
        "seeds": means[0]["seeds"],
        "accuracy": scalars["dense/accuracy"],
        "accuracy_se": scalars["dense/accuracy_se"],
        "bytes": means[0]["dense_bytes"],
        "ratio": 1,
    }
    kept = ("arm", "budget", "seeds", *(f"{v}{s}" for v in VALUES for s in ("", "_se")))
    rows = [dense] + [{k: row[k] for k in kept} for row in means]
    return [
        {
            **about,
            **{k: f"{v:.6g}" if isinstance(v, float) else v for k, v in r.items()},
        }
        for r in rows
    ]


def markdown(rows: Sequence[Mapping[str, Any]], workdir: pathlib.Path) -> str:
    """Tables of one data set: every budget, and arms at equal bytes. Accuracies in %."""
    lines = [
        f"{rows[0]['dataset']}, {rows[0]['split']}, {rows[0]['seeds']} seeds, revision "
        f"{rows[0]['revision']}",
        "",
        "| arm | budget | dense | right after assignment | new norm statistics "
        "| from the file, centres trained | below dense | bytes | smaller by |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        stages = ("retrained", "assigned", "norms", "accuracy", "lost")
        size = f"{round(float(row['bytes'])):,} | {float(row['ratio']):.1f}"
        cells = " | ".join(_percent(row, stage) for stage in stages)
        lines.append(f"| {row['arm']} | {row.get('budget', '')} | {cells} | {size} |")
    matched = _table(read_json(workdir / "result.json"), "matched")
    ratios = [k for k in matched[0] if k.startswith("at_") and not k.endswith("_se")]
    lines += ["", "| arm | " + " | ".join(r[3:] for r in ratios) + " |"]
    lines.append("|---" * (len(ratios) + 1) + "|")
    lines += [
        f"| {row['arm']} | " + " | ".join(_percent(row, r) for r in ratios) + " |"
        for row in matched
    ]
    return "\n".join(lines) + "\n"


def _table(result: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    return next(t["rows"] for t in result["tables"] if t["name"] == name)


def _percent(row: Mapping[str, Any], name: str) -> str:
    if row.get(name) is None or float(row[name]) != float(row[name]):
        return ""
    return f"{100 * float(row[name]):.2f} ± {100 * float(row[f'{name}_se']):.2f}"


if __name__ == "__main__":
    common.run_main(main)
