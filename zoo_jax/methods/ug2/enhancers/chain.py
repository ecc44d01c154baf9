"""Enhancers one after another, and the search for those that help.

The cascade is a reconstruction of the entry "cascaded degradation removal modules" of the UG^2
challenge, whose contents are not known: independent modules in a fixed order, each switched on
or off by what a validation set says.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxtyping import Array, Float

from zoo_jax.core.errors import ConfigError
from zoo_jax.core.types import RestoreFn

MOST = 10  # steps of an exhaustive search: 1,024 chains


def identity(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """The pictures themselves."""
    return images


class Chain:
    """Named enhancers in order; one enhancer itself.

    Args:
      steps: (name, function) pairs. None at all is the identity.
      on: Which of them are applied; None for all.

    Raises:
      ConfigError: for two steps of one name, or another number of switches.

    >>> half = lambda x: x / 2
    >>> Chain([("half", half), ("again", half)], on=(True, False))(1.0)
    0.5
    """

    def __init__(
        self,
        steps: Sequence[tuple[str, RestoreFn]] = (),
        *,
        on: Sequence[bool] | None = None,
    ):
        names = [name for name, _ in steps]
        if len(set(names)) < len(names):
            raise ConfigError(f"a chain needs steps of distinct names, got {names}")
        on = (True,) * len(names) if on is None else tuple(bool(x) for x in on)
        if len(on) != len(names):
            raise ConfigError(f"a chain of {len(names)} steps has {len(on)} switches")
        self.steps, self.on = tuple(steps), on

    @property
    def applied(self) -> tuple[str, ...]:
        """Names of the steps that are on."""
        return tuple(name for (name, _), on in self._switched() if on)

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """Applies the steps that are on."""
        for (_, enhance), on in self._switched():
            images = enhance(images) if on else images
        return images

    def _switched(self):
        return zip(self.steps, self.on, strict=True)


class Search(NamedTuple):
    """What a search found: the best chain, and the score of every one."""

    best: Chain
    scores: dict[tuple[bool, ...], float]  # switches -> score


def search_chain(chain: Chain, score: Callable[[Chain], float]) -> Search:
    """Tries every choice of the steps of a chain, 2^m of them, in the order given.

    Args:
      chain: Its own switches do not matter.
      score: The higher, the better, e.g. the share of pictures that are recognised. It is
        called once per choice.

    Returns:
      Of equal scores the chain with fewest steps wins, then the one whose steps come later.

    Raises:
      ConfigError: for more than `MOST` steps, or a score that is not a number.
    """
    m = len(chain.steps)
    if m > MOST:
        raise ConfigError(f"a search over {m} steps tries 2^{m} chains; at most {MOST}")
    scores = {}
    for on in sorted(
        itertools.product((False, True), repeat=m), key=lambda x: (sum(x), x)
    ):
        tried = Chain(chain.steps, on=on)
        value = float(score(tried))
        if value != value:
            names = ", ".join(tried.applied) or "none"
            raise ConfigError(
                f"the score of the chain of steps {names} is not a number"
            )
        scores[on] = value
    best = max(scores, key=lambda on: scores[on])  # the first of equal ones
    return Search(Chain(chain.steps, on=best), scores)
