r"""Gathers workdirs into one static page, and prints the summary.

  python -m experiments.report --workdirs='runs/tour/*' --out=report/index.html

The page needs nothing beside it: no network, no script. A damaged file in a workdir is
named in its section; the rest is shown.
"""

from collections.abc import Sequence

from absl import flags

from experiments import common

_WORKDIRS = flags.DEFINE_multi_string(
    "workdirs",
    ["runs/tour/*"],
    "Folders or globs (** crosses folders); workdirs below them count. May be repeated.",
)
_OUT = flags.DEFINE_string("out", "report/index.html", "The page to write.")


def main(argv: Sequence[str]) -> None:
    """Reads, writes the page, prints."""
    del argv
    from experiments._report import page, text, workdir
    from zoo_jax.core.errors import DataError
    from zoo_jax.core.files import atomic_write

    runs = workdir.find_runs(_WORKDIRS.value)
    if not runs:
        raise DataError(
            f"no workdir at or below {', '.join(_WORKDIRS.value)}: train first, or name"
            " another folder with --workdirs"
        )
    with atomic_write(_OUT.value) as f:
        f.write(page.render(runs))
    print(text.aligned(text.SUMMARY, [text.summary_row(run) for run in runs]))
    for run in runs:
        for table in run.tables:
            print(f"\n{run.method}/{run.path.name}: {table['name']}")
            print(text.table(table["rows"]))
    for run in runs:
        for problem in run.problems:
            print(f"note: {run.path}: {problem}")
    print(f"report: {_OUT.value}")


if __name__ == "__main__":
    common.run_main(main)
