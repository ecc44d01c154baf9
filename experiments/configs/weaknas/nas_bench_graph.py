r"""NAS-Bench-Graph, nine data sets: searches compared, 100 runs each; one of them is the tour.

No experiment of the paper (arXiv 2102.10490): a second space, of graph neural networks, whose
whole table lies in a package (pip install "zoo-jax[samples]").
Reached: the table in zoo_jax/methods/weaknas/README.md. Cost: about 20 minutes of one core; the tour 40 seconds.

  python -m experiments.run --config=experiments/configs/weaknas/nas_bench_graph.py \
    --workdir=runs/weaknas/nas_bench_graph
  python -m experiments.tour --method=weaknas
"""

from zoo_jax.core.config import parse_arg
from zoo_jax.train.settings import base_config

SPACES = (
    *("cora", "citeseer", "pubmed", "cs", "physics"),
    *("photo", "computers", "arxiv", "proteins"),
)
# A quarter of the width that NAS-Bench-201 is searched with: 900 runs in minutes.
SMALL = dict(name="mlp", hidden=[64, 64, 64])


def weak(predictor, **options):
    return dict(method="weak_predictor", predictor=predictor, **options)


def get_config(arg=None):
    opt = parse_arg(arg, tiny=False, tour=False, seed=0)
    c = base_config(task="weaknas", procedure="search_study", seed=opt.seed)
    spaces = ("arxiv",) if opt.tour else SPACES
    c.spaces = {name: dict(name="nas_bench_graph", dataset=name) for name in spaces}
    c.searchers = {
        "weak": weak(SMALL),
        # Ours; chosen on NAS-Bench-201 with cifar10.
        "gp_ei_ranks": weak(
            dict(name="gp", kernel="matern52"), policy="ei", normalise="ranks"
        ),
        # The strong predictor: the same fits, on uniform draws.
        "uniform": weak(SMALL, top_n="all", first=50, batch=50),
        "mutations": dict(method="mutations", predictor=dict(**SMALL, members=5)),
        "evolution": dict(method="evolution", population=20, tournament=5),
        "local_search": dict(method="local_search"),
        "random": dict(method="random"),
    }
    if opt.tour:
        del c.searchers.mutations
    c.studies = dict(
        main=dict(
            spaces=list(spaces),
            searchers=list(c.searchers),
            runs=20 if opt.tour else 100,
        )
    )
    c.search = dict(budget=100, first=10, batch=10, chunk=10)
    c.report = dict(queries=[50, 100], path=["arxiv", "weak"])
    if opt.tiny:
        make_tiny(c)
    return c


def make_tiny(c):
    """A made-up space under one name, two runs of a dozen queries, small predictors."""
    c.spaces = dict(arxiv=dict(name="synthetic"))
    for section in c.searchers.values():
        if "predictor" in section and section.predictor.name == "mlp":
            section.predictor.update(hidden=[8], max_epochs=5)
        if "first" in section:
            section.update(first=4, batch=4)
    c.search.update(budget=12, first=4, batch=4, chunk=1)
    c.studies.main.update(spaces=["arxiv"], runs=2)
    c.report.queries = [12]
