"""Entropy coding of cluster indices with a range coder and an integer frequency table.

The table is what makes decoding exact on every machine: its entries are integers that add
up to a power of two, so every float operation by which the coder's library turns them into
its fixed-point model is exact.
"""

import constriction
import numpy as np
from jaxtyping import Int, UInt16, UInt32

from zoo_jax.core.errors import WeightsError

TOTAL = 1 << 16  # frequencies add up to this
MAX_SYMBOLS = 1 << 15  # above it, a table of this precision describes nothing well


def frequency_table(counts: Int[np.ndarray, "k"]) -> UInt16[np.ndarray, "k"]:
    """Rounds counts to positive integers that add up to `TOTAL`.

    Args:
      counts: How often each symbol occurs, all positive; 2 to `MAX_SYMBOLS` symbols.

    Returns:
      The table, each entry at least 1 and (with two symbols or more) below `TOTAL`.
    """
    counts = np.asarray(counts, np.int64)
    if not 2 <= counts.size <= MAX_SYMBOLS or counts.min() < 1:
        raise ValueError(
            f"need 2 to {MAX_SYMBOLS} positive counts, got {counts.size} with minimum "
            f"{counts.min(initial=0)}"
        )
    # One each, the rest in proportion, what rounding leaves to the largest remainders.
    spare = TOTAL - counts.size
    share, remainder = np.divmod(counts * spare, counts.sum())
    left = spare - int(share.sum())
    share[np.argsort(-remainder, kind="stable")[:left]] += 1
    return (share + 1).astype(np.uint16)


def encode(
    symbols: Int[np.ndarray, "n"], table: UInt16[np.ndarray, "k"]
) -> UInt32[np.ndarray, "words"]:
    """Codes symbols 0..k-1 into 32-bit words, within a word or two of the entropy."""
    encoder = constriction.stream.queue.RangeEncoder()
    encoder.encode(np.ascontiguousarray(symbols, np.int32), _model(table))
    return encoder.get_compressed()


def decode(
    words: UInt32[np.ndarray, "words"], table: UInt16[np.ndarray, "k"], count: int
) -> Int[np.ndarray, "n"]:
    """Decodes `count` symbols.

    Raises:
      WeightsError: if the table is not one, or the words do not hold exactly that many.
    """
    if table.size < 2 or table.min() < 1 or int(table.sum(dtype=np.int64)) != TOTAL:
        raise WeightsError(
            f"frequency table of {table.size} symbols adds up to "
            f"{int(table.sum(dtype=np.int64))} instead of {TOTAL}: the file is damaged"
        )
    decoder = constriction.stream.queue.RangeDecoder(
        np.ascontiguousarray(words, np.uint32)
    )
    try:
        symbols = decoder.decode(_model(table), count)
    except AssertionError as error:  # the library's word for impossible data
        raise WeightsError(f"index stream cannot be decoded: {error}") from None
    if not decoder.maybe_exhausted():
        raise WeightsError(
            f"index stream of {words.size} words holds more than {count} symbols: the "
            "file is damaged"
        )
    return symbols


def _model(table: UInt16[np.ndarray, "k"]) -> constriction.stream.model.Categorical:
    # perfect=False is a cumulative sum, a product with a power of two and a truncation.
    return constriction.stream.model.Categorical(
        table.astype(np.float64), perfect=False
    )
