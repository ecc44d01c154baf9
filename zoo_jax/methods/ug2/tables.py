"""Key tables: published weights -> the enhancing networks."""

from zoo_jax.convert import (
    CONV_TRANSPOSE_2D,
    VECTOR,
    Entry,
    Table,
    batch_norm_entries,
    conv_entries,
)


def srnet_table(blocks: int = 4) -> Table:
    """The layout of the released code: ``conv1``, ``bn1``, ``res_block1.conv1``, ..."""
    pairs = [("conv1", "bn1")]
    for i in range(1, blocks + 1):
        pairs += [(f"res_block{i}.conv{j}", f"res_block{i}.bn{j}") for j in (1, 2)]
    pairs += [("conv3.conv", "conv3.bn"), ("conv4", "bn4")]
    entries: list[Entry] = []
    for convolution, norm in pairs:
        entries += conv_entries(convolution, convolution.replace(".", "/"), bias=False)
        entries += batch_norm_entries(norm, norm.replace(".", "/"))
    return Table(tuple(entries))


def srcnn_table() -> Table:
    """The layout of the PyTorch port: ``conv1.weight`` to ``conv3.bias``."""
    entries = (conv_entries(f"conv{i}", f"conv{i}") for i in (1, 2, 3))
    return Table(tuple(e for group in entries for e in group))


def vdsr_table(depth: int = 20) -> Table:
    """The layout of the PyTorch port: ``input``, ``residual_layer.0.conv``, ..., ``output``."""
    entries = [*conv_entries("input", "input", bias=False)]
    for i in range(depth - 2):
        published = f"residual_layer.{i}.conv"
        entries += conv_entries(published, f"residual{i}", bias=False)
    return Table((*entries, *conv_entries("output", "output", bias=False)))


def arcnn_table(form: str = "normal") -> Table:
    """The layout of the PyTorch port: ``base.0.weight``, slopes ``base.1.weight``, ``last``."""
    entries: list[Entry] = []
    for i in range({"normal": 3, "fast": 4}[form]):
        entries += conv_entries(f"base.{2 * i}", f"conv{i + 1}")
        slope = Entry(f"base.{2 * i + 1}.weight", f"params/slope{i + 1}", VECTOR)
        entries.append(slope)
    if form == "fast":
        last = conv_entries("last", "last", layout=CONV_TRANSPOSE_2D)
    else:
        last = conv_entries("last", "last")
    return Table((*entries, *last))
