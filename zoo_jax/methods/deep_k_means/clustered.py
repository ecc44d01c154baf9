"""Weights whose samples share the rows of a codebook: the type, and back to an array."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from zoo_jax.optim.samples import from_matrix


class Clustered(NamedTuple):
    """A weight array as a codebook and one index per sample."""

    codebook: Float[np.ndarray, "k d"]
    labels: Int[np.ndarray, "n"]  # the row of the codebook that each sample has
    samples: str = "row"  # see zoo_jax.optim.samples.sample_shape
    row_length: int | None = None

    def restore(self, shape: Sequence[int]) -> Float[np.ndarray, "*shape"]:
        """The array of `shape`, bit for bit the rows of the codebook."""
        matrix = jnp.asarray(self.codebook[self.labels])
        return np.array(from_matrix(matrix, shape, self.samples, self.row_length))

    def compact(self) -> "Clustered":
        """Drops rows of the codebook that no sample has."""
        used, labels = np.unique(self.labels, return_inverse=True)
        return self._replace(codebook=self.codebook[used], labels=labels)

    def rounded(self, dtype: np.dtype | str) -> "Clustered":
        """The codebook after a trip through `dtype`, in its own dtype again."""
        return self._replace(
            codebook=self.codebook.astype(dtype).astype(self.codebook.dtype)
        )
