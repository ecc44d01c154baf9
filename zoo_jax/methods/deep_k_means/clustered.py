"""Weights whose samples share the rows of a codebook: the type, and back to an array."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from zoo_jax.core.errors import ConfigError
from zoo_jax.optim.samples import from_matrix, to_matrix


class Clustered(NamedTuple):
    """A weight array as a codebook and one index per sample."""

    codebook: Float[np.ndarray, "k d"]
    labels: Int[np.ndarray, "n"]  # the row of the codebook that each sample has
    samples: str = "row"  # see zoo_jax.optim.samples.sample_shape
    row_length: int | None = None

    @classmethod
    def of(
        cls,
        array: Float[np.ndarray, "*shape"],
        samples: str = "row",
        row_length: int | None = None,
    ) -> "Clustered":
        """Finds the clusters of an array whose samples are shared already, bit for bit."""
        matrix = to_matrix(jnp.asarray(array), samples, row_length)
        matrix = np.ascontiguousarray(matrix)
        # As bytes, so that 0.0 and -0.0 stay apart and a NaN equals itself.
        rows = matrix.view(np.dtype((np.void, matrix.shape[1] * matrix.itemsize)))
        _, first, labels = np.unique(rows[:, 0], return_index=True, return_inverse=True)
        return cls(matrix[first], labels, samples, row_length)

    def restore(self, shape: Sequence[int]) -> Float[np.ndarray, "*shape"]:
        """The array of `shape`, bit for bit the rows of the codebook."""
        # numpy takes part in the same code, and compiles nothing for a new shape.
        matrix = self.codebook[self.labels]
        kernel = from_matrix(matrix, shape, self.samples, self.row_length)
        return np.ascontiguousarray(kernel)

    def compact(self) -> "Clustered":
        """Drops rows of the codebook that no sample has."""
        used, labels = np.unique(self.labels, return_inverse=True)
        return self._replace(codebook=self.codebook[used], labels=labels)

    def rounded(self, dtype: np.dtype | str) -> "Clustered":
        """The codebook after a trip through `dtype`, in its own dtype again.

        Raises:
          ConfigError: if a value is too large for `dtype`.
        """
        with np.errstate(over="ignore"):  # found below
            codebook = self.codebook.astype(dtype).astype(self.codebook.dtype)
        if not np.array_equal(np.isfinite(codebook), np.isfinite(self.codebook)):
            raise ConfigError(
                f"a weight of size {np.abs(self.codebook).max():.3g} does not fit into "
                f"{np.dtype(dtype).name}: choose codebook_dtype='float32'"
            )
        return self._replace(codebook=codebook)
