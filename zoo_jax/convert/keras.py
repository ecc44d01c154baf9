"""Entries of Keras layers, whose arrays lie as ours do: ``conv1/kernel``, ``bn1/gamma``, ..."""

from zoo_jax.convert.layout import IDENTITY, VECTOR
from zoo_jax.convert.table import Entry


def keras_entries(source: str, target: str, *, bias: bool = True) -> tuple[Entry, ...]:
    """Entries of a convolution or a dense layer."""
    kernel = Entry(f"{source}/kernel", f"params/{target}/kernel", IDENTITY)
    offset = Entry(f"{source}/bias", f"params/{target}/bias", VECTOR)
    return (kernel, offset) if bias else (kernel,)


def keras_norm_entries(source: str, target: str) -> tuple[Entry, ...]:
    """Entries of a batch norm."""
    return (
        Entry(f"{source}/gamma", f"params/{target}/scale", VECTOR),
        Entry(f"{source}/beta", f"params/{target}/bias", VECTOR),
        Entry(f"{source}/moving_mean", f"batch_stats/{target}/mean", VECTOR),
        Entry(f"{source}/moving_variance", f"batch_stats/{target}/var", VECTOR),
    )
