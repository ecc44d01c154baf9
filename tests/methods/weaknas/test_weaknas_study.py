"""A study of searches: resumable per pair, checked before it runs, and complete in its report."""

import contextlib
import json

import jax
import ml_collections
import numpy as np
import pytest
import scipy.stats

from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.core.rng import make_key
from zoo_jax.methods.weaknas import procedure
from zoo_jax.methods.weaknas.evaluation import Record, curves, summarise
from zoo_jax.methods.weaknas.plan import Plan
from zoo_jax.methods.weaknas.procedure import search_study
from zoo_jax.methods.weaknas.searchers import make_predictor
from zoo_jax.methods.weaknas.spaces import open_pool


class Context:
    """What a procedure gets, kept in memory."""

    def __init__(self, workdir, seed=0):
        self.workdir, self.key, self.writer = workdir, make_key(seed), self
        self.tables, self.figures, self.done = {}, {}, 0

    def table(self, name, rows, *, caption=""):
        json.dumps(rows)  # it will be written as JSON
        self.tables[name] = rows

    def figure(self, name, figure, *, caption=""):
        figure.savefig(self.workdir / f"{name}.png", dpi=40)
        self.figures[name] = caption

    @contextlib.contextmanager
    def progress(self, total, description):
        self.total = total
        yield self

    def update(self, n=1):
        self.done += n


def quality(**changes):
    return {
        **dict(space="a", searchers=["trees"], queries=12, runs=3, top=20),
        **changes,
    }


def make_config(**changes):
    plain = dict(
        seed=0,
        spaces=dict(
            a=dict(name="synthetic", slots=3, choices=4),
            b=dict(name="synthetic", slots=2, choices=7, seed=1, dataset=""),
        ),
        searchers=dict(
            evolution=dict(method="evolution", population=3),
            random=dict(method="random"),
            trees=dict(
                method="weak_predictor",
                predictor=dict(name="gradient_boosting", rounds=5),
                first=8,
            ),
        ),
        studies=dict(
            main=dict(spaces=["a", "b"], searchers=["random", "evolution"], runs=5),
            more=dict(
                spaces=["a"], searchers=["random", "trees"], runs=3, figure="points"
            ),
        ),
        search=dict(budget=16, first=4, batch=4, chunk=2),
        report=dict(
            queries=[8, 16],
            published=dict(a=dict(queries=16, mean=80.0, stderr=1.5, runs=12)),
            path=["a", "random"],
            quality=quality(),
        ),
    )
    for name, value in changes.items():
        section, _, key = name.rpartition("__")
        (plain[section] if section else plain)[key] = value
    return ml_collections.ConfigDict(plain)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    ctx = Context(tmp_path_factory.mktemp("study"))
    return ctx, search_study(make_config(), ctx)


def stored(ctx):
    return {
        path.name: np.load(path)
        for path in sorted((ctx.workdir / "searches").iterdir())
    }


def test_every_pair_is_run_as_often_as_some_study_wants(whole):
    ctx, _ = whole
    runs = {name: len(file["asked"]) for name, file in stored(ctx).items()}
    assert runs == {
        "a__random.npz": 5,
        "a__evolution.npz": 5,
        "a__trees.npz": 3,
        "b__random.npz": 5,
        "b__evolution.npz": 5,
    }
    assert ctx.done == ctx.total == sum(runs.values())


def test_numbers_of_the_result_are_those_of_the_stored_searches(whole):
    ctx, scalars = whole
    file = stored(ctx)["a__random.npz"]
    pool = open_pool("synthetic", slots=3, choices=4)
    names = ("asked", "queries", "predicted_top")
    drawn = curves(
        Record(*(file[n] for n in names)), pool.labels["search"], pool.labels["test"]
    )
    for rule in ("reference", "honest"):
        summary = summarise(drawn[rule])
        last = f"a/random/{rule}@16"
        assert scalars[last] == summary.mean[-1]
        assert scalars[f"{last}_std"] == summary.sd[-1]
        assert scalars[f"{last}_seeds"] == 5
    reached = {(r["space"], r["searcher"]): r for r in ctx.tables["reached"]}
    best = pool.labels["test"].argmax()
    expected = np.mean([best in run for run in file["asked"]])
    assert reached["a", "random"]["optimum_share"] == expected


def test_the_published_program_is_compared_in_combined_standard_errors(whole):
    ctx, scalars = whole
    rows = {r["searcher"]: r for r in ctx.tables["published"]}
    assert set(rows) == {"random", "evolution", "trees"}
    row = rows["random"]
    mean, sd = (scalars[f"a/random/reference@16{part}"] for part in ("", "_std"))
    np.testing.assert_allclose(row["difference"], mean - 80)
    np.testing.assert_allclose(row["z"], (mean - 80) / np.hypot(sd / 5**0.5, 1.5))


def test_predictors_are_judged_by_the_order_they_put_architectures_in(whole):
    ctx, _ = whole
    (row,) = ctx.tables["quality"]
    assert (row["searcher"], row["runs"], row["queries"]) == ("trees", 3, 12)
    # Of 64 architectures all stand for the pool: the numbers can be had in another way.
    pool = open_pool("synthetic", slots=3, choices=4)
    test = pool.labels["test"]
    best = np.argsort(-test)[:20]
    predictor = make_predictor(dict(name="gradient_boosting", rounds=5))
    taus = []
    for run, asked in enumerate(stored(ctx)["a__trees.npz"]["asked"][:, :12]):
        told = pool.labels["search"][asked]
        key = jax.random.split(jax.random.key(run))[1]
        values = ((told - told.mean()) / told.std()).astype(np.float32)
        fitted = predictor.fit(key, pool.features[asked], values, np.ones(12), None)
        scores = predictor.predict(fitted, pool.features)
        taus.append(
            [
                scipy.stats.kendalltau(scores[some], test[some]).statistic
                for some in (np.arange(64), best)
            ]
        )
    np.testing.assert_allclose(
        [row["tau"], row["tau_top"]], np.mean(taus, axis=0), rtol=1e-6
    )


def test_all_figures_are_drawn(whole):
    ctx, _ = whole
    assert set(ctx.figures) == {
        *("main_reference", "main_honest", "main_optimum"),
        *("more_reference", "more_honest", "search_path"),
    }


def test_a_resumed_study_equals_an_undisturbed_one(whole, tmp_path, monkeypatch):
    undisturbed, scalars = whole
    real, calls = procedure.make_runner, []

    def dying(*args):
        run = real(*args)

        def runs(keys):
            calls.append(len(keys))
            if len(calls) == 5:
                raise KeyboardInterrupt
            return run(keys)

        return runs

    monkeypatch.setattr(procedure, "make_runner", dying)
    with pytest.raises(KeyboardInterrupt):
        search_study(make_config(), Context(tmp_path))
    assert 0 < sum(len(f["asked"]) for f in stored(Context(tmp_path)).values()) < 23
    again = Context(tmp_path)
    assert search_study(make_config(), again) == scalars
    assert again.done == again.total
    # Nothing that was finished is run again: chunks of 2, 2, 1 for five pairs, 2, 1 for trees.
    assert len(calls) == 1 + 4 * 3 + 2
    for name, file in stored(again).items():
        for key, value in stored(undisturbed)[name].items():
            np.testing.assert_array_equal(file[key], value)
    assert again.tables == undisturbed.tables


def test_searches_of_other_settings_are_not_taken(whole, tmp_path):
    ctx, scalars = Context(tmp_path), whole[1]
    changed = make_config(searchers__evolution=dict(method="evolution", population=4))
    other = search_study(changed, ctx)
    assert search_study(make_config(), ctx) == scalars
    name = "a/evolution/reference@16"
    assert other[name] != scalars[name]


def test_another_seed_gives_other_searches(whole, tmp_path):
    other = search_study(make_config(seed=1), Context(tmp_path, seed=1))
    assert other != whole[1]


def test_a_damaged_store_is_named(tmp_path):
    folder = tmp_path / "searches"
    folder.mkdir()
    (folder / "a__random.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(DataError, match=r"a__random.npz is damaged .* delete it"):
        search_study(make_config(), Context(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(studies__main={}), "studies.main.spaces is missing or empty"),
        (
            dict(studies__main=dict(spaces=["c"], searchers=["random"], runs=1)),
            "studies.main.spaces: unknown 'c': choose from a, b",
        ),
        (
            dict(studies__main=dict(spaces=["a"], searchers=["randm"], runs=1)),
            "studies.main.searchers: unknown 'randm': did you mean 'random'?",
        ),
        (
            dict(studies__main=dict(space=["a"])),
            "unknown key studies.main.space: did you mean 'spaces'?",
        ),
        (
            dict(
                studies__main=dict(
                    spaces=["a"], searchers=["random"], runs=1, figure="bars"
                )
            ),
            "studies.main.figure='bars'",
        ),
        (dict(spaces={}), "config.spaces is empty"),
        (dict(searchers={"a/b": {}}), "searchers: 'a/b' names files"),
        (dict(search__batches=3), "unknown key search.batches: did you mean 'batch'?"),
        (dict(search__chunk=0), "search.chunk=0"),
        (dict(report__queries=[]), "report.queries is missing"),
        (dict(report__queries=[5]), "report.queries: no searcher is recorded after 5"),
        (
            dict(report__path=["b", "trees"]),
            "report.path=['b', 'trees'] is a space and",
        ),
        (dict(report__published=dict(c={})), "report.published: unknown space 'c'"),
        (
            dict(report__published=dict(a=dict(mean=1.0))),
            "report.published.a lacks queries, stderr, runs",
        ),
        (
            dict(report__quality=dict(space="a", searchers=["trees"])),
            "report.quality lacks queries, runs, top",
        ),
        (
            dict(report__quality=quality(runs=4)),
            "report.quality: no study runs 'trees' on 'a' 4 times",
        ),
        (
            dict(report__quality=quality(searchers=["random"])),
            "report.quality: 'random' has no predictor",
        ),
    ],
)
def test_a_mistake_in_the_config_is_one_clear_line(changes, message):
    with pytest.raises(ConfigError) as error:
        Plan.of(make_config(**changes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_mistakes_show_before_anything_is_searched(tmp_path):
    config = make_config(searchers__evolution=dict(method="evolution", populaton=3))
    with pytest.raises(ConfigError, match="did you mean 'population'"):
        search_study(config, Context(tmp_path))
    assert not (tmp_path / "searches").exists()
    config = make_config(spaces__b=dict(name="synthetic", judge="tset"))
    with pytest.raises(
        ConfigError, match=r"spaces\.b\.judge='tset': did you mean 'test'"
    ):
        search_study(config, Context(tmp_path))
    assert not (tmp_path / "searches").exists()


def test_the_key_of_a_run_depends_on_its_space_and_number_alone(monkeypatch, tmp_path):
    seen = {}
    real = procedure.make_runner

    def spying(section, pool, label):
        run = real(section, pool, label)

        def runs(keys):
            name = (len(pool), section["method"])
            seen.setdefault(name, []).extend(
                jax.random.key_data(k).tolist() for k in keys
            )
            return run(keys)

        return runs

    monkeypatch.setattr(procedure, "make_runner", spying)
    search_study(make_config(), Context(tmp_path))
    assert seen[64, "random"] == seen[64, "evolution"]
    assert seen[64, "weak_predictor"] == seen[64, "random"][:3]
    assert not {*map(tuple, seen[64, "random"])} & {*map(tuple, seen[49, "random"])}
