"""``zoo-jax search``: the weak predictor search, on a table or on trainings of the user's own."""

import argparse
import contextlib
import math
import pathlib
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from zoo_jax.core.config import parse_pairs
from zoo_jax.core.errors import ConfigError, DataError, closest
from zoo_jax.core.files import write_json

# The package of the method imports much that other commands do without: see the functions.

# What a preset says where the command line says nothing.
PRESETS: dict[str, dict[str, Any]] = {
    # arXiv 2102.10490, with layers of 200 in place of 1,000
    "paper": {"predictor": "mlp", "policy": "uniform"},
    "best": {"predictor": "gp", "policy": "ei"},
}
# Rule of `zoo_jax.methods.weaknas.evaluation.RULES` -> column of the result.
COLUMNS = {"reference": "best_test", "honest": "honest", "predicted": "predicted"}


def search_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``zoo-jax search``."""
    space = parser.add_argument_group("what is searched")
    space.add_argument(
        "--space",
        required=True,
        metavar="S",
        help="nas_bench_201, nas_bench_101, nas_bench_graph, ... or a Python file",
    )
    space.add_argument("--dataset", metavar="D", help="where a space has several")
    space.add_argument("--table", metavar="FILE", help="measurements of the space")
    space.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a further argument of the space, e.g. size=2000; may be repeated",
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--budget", type=int, required=True, metavar="B", help="architectures to try"
    )
    how.add_argument(
        "--first", type=int, default=10, metavar="N", help="random ones (default: 10)"
    )
    how.add_argument(
        "--batch", type=int, default=10, metavar="K", help="at once later (default: 10)"
    )
    how.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    how.add_argument(
        "--preset",
        choices=list(PRESETS),
        help="paper: mlp, uniform (default for a table); best: gp, ei (default for a command)",
    )
    how.add_argument(
        "--predictor", metavar="P", help="mlp, gp, gcn, random_forest, ..."
    )
    how.add_argument(
        "--members", type=int, metavar="E", help="an ensemble of so many predictors"
    )
    how.add_argument(
        "--policy", metavar="P", help="uniform, greedy, ei, ucb or thompson"
    )
    how.add_argument(
        "--top",
        type=int,
        metavar="N",
        help="uniform draws from the N predicted best (default: 100, or a tenth of the space)",
    )
    table = parser.add_argument_group("against a table")
    table.add_argument(
        "--repeats", type=int, metavar="R", help="searches to average (default: 1)"
    )
    table.add_argument(
        "--label", metavar="L", help="what searches are told (default: search)"
    )
    table.add_argument(
        "--judge", metavar="L", help="what they are judged by (default: test)"
    )
    table.add_argument("--figure", metavar="PNG", help="also draw the curves")
    trial = parser.add_argument_group("with a command of yours")
    trial.add_argument(
        "--command",
        metavar="C",
        help="trains one architecture and prints its value last; {config} is the path of its"
        " JSON file, {json} the JSON itself, {trial} and {slot} are numbers",
    )
    trial.add_argument("-o", "--output", metavar="DIR", help="folder of the search")
    trial.add_argument(
        "--parallel", type=int, metavar="N", help="trials at a time (default: 1)"
    )
    trial.add_argument(
        "--timeout", type=float, metavar="S", help="seconds after which a trial failed"
    )
    trial.add_argument(
        "--retries", type=int, metavar="N", help="for a failed trial (default: 0)"
    )
    trial.add_argument(
        "--minimize", action="store_const", const=True, help="lower values are better"
    )
    trial.add_argument(
        "--shell", action="store_const", const=True, help="run it by /bin/sh"
    )


_TABLE_ONLY = ("repeats", "label", "judge", "figure")
_COMMAND_ONLY = ("output", "parallel", "timeout", "retries", "minimize", "shell")


def search_command(args: argparse.Namespace) -> dict[str, Any]:
    """Searches, and prints how it went."""
    wrong, mode = (
        (_COMMAND_ONLY, "--command")
        if args.command is None
        else (_TABLE_ONLY, "a table, not with --command")
    )
    for name in wrong:
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name} goes with {mode}")
    return _search_table(args) if args.command is None else _search_trials(args)


def _open_pool(args: argparse.Namespace) -> Any:
    from zoo_jax.methods.weaknas.spaces import open_pool

    options = parse_pairs(args.set)
    for name in ("table", "dataset"):
        if name in options:
            raise ConfigError(f"--set {name}=...: use --{name}")
    return open_pool(args.space, table=args.table, dataset=args.dataset, **options)


def _predictor_section(args: argparse.Namespace, preset: str) -> dict[str, Any]:
    section = {"name": args.predictor or PRESETS[args.preset or preset]["predictor"]}
    return section if args.members is None else section | {"members": args.members}


def _policy(args: argparse.Namespace, preset: str) -> str:
    return args.policy or PRESETS[args.preset or preset]["policy"]


def _top(args: argparse.Namespace, pool: Any) -> int:
    # The paper's 100 of 15,625 would be all of a small space, and the draws blind.
    if args.top is None:
        return max(args.batch, min(100, len(pool) // 10))
    return args.top


# --- on a table -----------------------------------------------------------------------------


def _search_table(args: argparse.Namespace) -> dict[str, Any]:
    from zoo_jax.methods.weaknas.evaluation import Record, curves, summarise
    from zoo_jax.methods.weaknas.on_table import draw_curves, format_curves, recommend
    from zoo_jax.methods.weaknas.searchers import TREES, make_runner

    repeats = _at_least_one("repeats", args.repeats)
    pool = _open_pool(args)
    names = args.label or "search", args.judge or "test"
    label, judge = (
        _measurements(pool, flag, name)
        for flag, name in zip(("label", "judge"), names, strict=True)
    )
    searcher = {
        "predictor": _predictor_section(args, "paper"),
        "top_n": _top(args, pool),
    }
    policy = _policy(args, "paper")
    if searcher["predictor"]["name"] not in TREES:
        searcher["policy"] = policy
    elif policy != "uniform":
        raise ConfigError(f"--policy {policy} does not go with trees: choose mlp or gp")
    size = {"budget": args.budget, "first": args.first, "batch": args.batch}
    run = make_runner({"method": "weak_predictor", **searcher, **size}, pool, names[0])
    key = jax.random.key(args.seed)
    # An accelerator takes all searches at once; a CPU one by one, and then it can say so.
    chunk = 1 if jax.default_backend() == "cpu" else repeats
    parts = []
    with tqdm(total=repeats, desc="searches", leave=False, disable=None) as bar:
        for start in range(0, repeats, chunk):
            numbers = range(start, start + chunk)
            parts.append(run([jax.random.fold_in(key, n) for n in numbers]))
            bar.update(chunk)
    record = Record(
        np.concatenate([part.asked for part in parts]),
        parts[0].queries,
        np.concatenate([part.predicted_top for part in parts]),
    )
    drawn = curves(record, label, judge)
    summaries = {COLUMNS[rule]: summarise(drawn[rule]) for rule in COLUMNS}
    for line in format_curves(record.queries, summaries):
        print(line)
    found = recommend(pool, record, label, judge)
    for what, one in found.items():
        print(
            f"{what.replace('_', ' ')} of the first search: {one['architecture']}"
            f" (number {one['index']}, {names[0]} {one['label']}, {names[1]} {one['judge']})"
        )
    if args.figure:
        title = f"{pool.name}, {repeats} searches"
        draw_curves(args.figure, title, record.queries, summaries)
        print(f"wrote {args.figure}")
    result = {"space": pool.name, "size": len(pool), "seed": args.seed}
    result |= {"repeats": repeats, **size, **searcher}
    result |= {"label": names[0], "judge": names[1]}
    result["queries"] = record.queries.tolist()
    for column, summary in summaries.items():
        for part in ("mean", "stderr"):
            values = getattr(summary, part).tolist()
            result[f"{column}_{part}"] = [
                v if math.isfinite(v) else None for v in values
            ]
    return result | {"first_search": found}


def _measurements(pool: Any, flag: str, name: str) -> np.ndarray:
    if not pool.labels:
        raise ConfigError(
            f"{pool.name} has no measurements: give --table FILE, or have each architecture"
            " trained by --command"
        )
    if name not in pool.labels:
        raise ConfigError(
            f"--{flag}: {pool.name} has no {name!r}: {closest(name, pool.labels)}"
        )
    values = pool.labels[name]
    known = int(np.isfinite(values).sum())
    if not known:
        raise DataError(f"all {len(pool)} values of {name!r} of {pool.name} are NaN")
    if known < len(pool):
        print(
            f"# {len(pool) - known} of {len(pool)} have no {name!r}: they count as failed"
        )
    return values


# --- with a command -------------------------------------------------------------------------


def _search_trials(args: argparse.Namespace) -> dict[str, Any]:
    from zoo_jax.methods.weaknas.board import Board
    from zoo_jax.methods.weaknas.command import Command
    from zoo_jax.methods.weaknas.trials import (
        JOURNAL,
        Journal,
        TrialSearch,
        check_settings,
        checksum,
    )
    from zoo_jax.train.workdir import lock_workdir

    # The accelerator is for the trainings: a small predictor needs none.
    jax.config.update("jax_platforms", "cpu")
    if args.output is None:
        raise ConfigError("--command needs -o DIR, the folder of the search")
    parallel = _at_least_one("parallel", args.parallel)
    retries = args.retries or 0
    if retries < 0:
        raise ConfigError(f"--retries must be at least 0, got {retries}")
    command = Command(args.command, shell=bool(args.shell), timeout=args.timeout)
    pool = _open_pool(args)
    predictor, policy = _predictor_section(args, "best"), _policy(args, "best")
    settings = {
        "space": f"{pool.name}, {len(pool)} architectures, checksum {checksum(pool)}",
        **{name: getattr(args, name) for name in ("seed", "budget", "first", "batch")},
        **{"predictor": predictor, "policy": policy, "top": _top(args, pool)},
        "minimize": bool(args.minimize),
    }
    searcher = _make_searcher(args, pool, predictor, policy)
    folder = pathlib.Path(args.output)
    _require_search(folder)
    if args.batch % parallel:
        print(
            f"# --batch {args.batch} is no multiple of --parallel {parallel}: a part of"
            " these places is idle at the end of every round"
        )
    with lock_workdir(folder) as folder:
        check_settings(folder, settings)
        search = TrialSearch(
            pool=pool,
            command=command,
            folder=folder,
            **{name: getattr(args, name) for name in ("budget", "first", "batch")},
            parallel=parallel,
            retries=retries,
            minimize=bool(args.minimize),
        )
        with Journal(folder / JOURNAL) as journal, Board(search, journal) as board:
            try:
                with _termination_as_interrupt():
                    search.run(searcher, journal, board)
            except KeyboardInterrupt:
                board.close()
                print(
                    f"# stopped: {board.summary()}; the same command goes on from there"
                )
                raise
            return _conclude(args, search, journal, searcher, settings)


def _make_searcher(
    args: argparse.Namespace, pool: Any, predictor: Mapping[str, Any], policy: str
) -> Any:
    from zoo_jax.methods.weaknas.ask_tell import AskTell
    from zoo_jax.methods.weaknas.searchers import TREES, make_predictor
    from zoo_jax.optim.weak_predictor import weak_predictor_search

    inputs = pool.features
    if predictor["name"] in TREES:
        raise ConfigError(
            f"--predictor {predictor['name']} is for tables: choose gp or mlp here"
        )
    if predictor["name"] == "gcn":
        if pool.graph is None:
            raise ConfigError(
                f"--predictor gcn needs graphs, which {pool.name} has not"
            )
        inputs = pool.graph.adjacency, pool.graph.ops
    search = weak_predictor_search(
        inputs,
        make_predictor(predictor),
        budget=args.budget,
        first=args.first,
        batch=args.batch,
        top_n=_top(args, pool),
        policy=policy,
        classes=pool.classes,
    )
    return AskTell(search, args.seed)


def _require_search(folder: pathlib.Path) -> None:
    """Refuses a folder with other things in it, before anything is written there."""
    from zoo_jax.methods.weaknas.trials import SETTINGS

    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: is a file; choose another -o")
    if folder.is_dir() and not (folder / SETTINGS).is_file():
        if any(not path.name.startswith(".") for path in folder.iterdir()):
            raise ConfigError(
                f"{folder}: is not empty and no search; choose another -o"
            )


@contextlib.contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """A batch system's SIGTERM, or the end of the terminal, stops a search as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGTERM, signal.SIGHUP)
    before = {signum: signal.getsignal(signum) for signum in signals}
    for signum, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup
            signal.signal(signum, signal.default_int_handler)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _conclude(
    args: argparse.Namespace,
    search: Any,
    journal: Any,
    searcher: Any,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Prints and returns what the search has found."""
    from zoo_jax.methods.weaknas.trials import JOURNAL

    def facts(trial: Any) -> dict[str, Any]:
        return {
            "trial": trial.number,
            "index": trial.index,
            "state": trial.state,
            "value": trial.value,
            "reason": trial.reason,
            "architecture": search.pool.describe(trial.index),
            "config": search.pool.config(trial.index),
        }

    best = facts(search.best(journal))
    write_json(search.folder / "best.json", best)
    failed = sum(trial.state == "failed" for trial in journal.trials)
    print(
        f"best of {len(journal.trials)} trials: {best['value']:.6g}, trial {best['trial']}:"
        f" {best['architecture']}"
    )
    if failed:
        print(f"{failed} failed: see {args.output}/{JOURNAL}")
    result = {**settings, "failed": failed, "best": best}
    top = searcher.predicted_top()
    result["predicted_best"] = {
        "index": top,
        "tried": any(trial.index == top for trial in journal.trials),
        "architecture": search.pool.describe(top),
        "config": search.pool.config(top),
    }
    if not result["predicted_best"]["tried"]:
        print(f"predicted best, not tried: {result['predicted_best']['architecture']}")
    print(f"wrote {args.output}/best.json; a larger --budget goes on")
    return result | {"trials": [facts(trial) for trial in journal.trials]}


def _at_least_one(name: str, value: int | None) -> int:
    value = 1 if value is None else value
    if value < 1:
        raise ConfigError(f"--{name} must be at least 1, got {value}")
    return value
