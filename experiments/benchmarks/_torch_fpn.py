"""FPN-MobileNet of DeblurGAN-v2 in PyTorch: what a user would run instead. See `deblurgan_v2`.

Keys of the state are those of the published files without duplicates and unused blocks.
"""

import copy
from collections.abc import Sequence

import torch
from torch import nn

GROUPS = (
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 2, 2)),
)
TAPS = (1, 3, 6, 10, 15)


class Block(nn.Module):
    """An inverted residual."""

    def __init__(self, before: int, after: int, stride: int, expansion: int):
        super().__init__()
        wide, self.residual = before * expansion, stride == 1 and before == after
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [nn.Conv2d(before, wide, 1, bias=False), nn.BatchNorm2d(wide)]
            layers += [nn.ReLU6(inplace=True)]
        depthwise = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False)
        layers += [depthwise, nn.BatchNorm2d(wide), nn.ReLU6(inplace=True)]
        layers += [nn.Conv2d(wide, after, 1, bias=False), nn.BatchNorm2d(after)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies the block."""
        return x + self.conv(x) if self.residual else self.conv(x)


def _norm(channels: int) -> nn.Module:
    return nn.InstanceNorm2d(channels, track_running_stats=True)


def _enlarged(x: torch.Tensor, factor: int) -> torch.Tensor:
    # Sizes as numbers: with a factor, an exported file would not know its shapes.
    size = tuple(int(side) * factor for side in x.shape[2:])
    return nn.functional.interpolate(x, size=size)


class Head(nn.Module):
    """Two convolutions."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.block0 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.block1 = nn.Conv2d(after, after, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies both."""
        return torch.relu(self.block1(torch.relu(self.block0(x))))


class Pyramid(nn.Module):
    """Backbone, laterals and top-down convolutions."""

    def __init__(self, width: int):
        super().__init__()
        stem = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6(True)
        )
        layers, channels = [stem], 32
        for expansion, after, repeats, stride in GROUPS:
            for i in range(repeats):
                layers.append(Block(channels, after, stride if not i else 1, expansion))
                channels = after
        outputs = [16, 24, 32, 64, 160]
        self.features = nn.Sequential(*layers)
        for i, before in enumerate(outputs):
            after = width // 2 if i == 0 else width
            setattr(self, f"lateral{i}", nn.Conv2d(before, after, 1, bias=False))
        for i in (1, 2, 3):
            conv = nn.Conv2d(width, width, 3, padding=1)
            setattr(self, f"td{i}", nn.Sequential(conv, _norm(width), nn.ReLU(True)))

    def forward(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        """The maps from the finest to the coarsest."""
        laterals = []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in TAPS:
                laterals.append(getattr(self, f"lateral{len(laterals)}")(x))
        maps = [laterals[4]]
        for td, lateral in (
            (self.td1, laterals[3]),
            (self.td2, laterals[2]),
            (self.td3, laterals[1]),
        ):
            maps.append(td(lateral + _enlarged(maps[-1], 2)))
        return laterals[0], *maps[::-1]


class TorchFPN(nn.Module):
    """The generator."""

    def __init__(self, pyramid: int = 128, head: int = 64):
        super().__init__()
        self.fpn = Pyramid(pyramid)
        for i in (1, 2, 3, 4):
            setattr(self, f"head{i}", Head(pyramid, head))
        smooth = nn.Conv2d(4 * head, head, 3, padding=1)
        self.smooth = nn.Sequential(smooth, _norm(head), nn.ReLU(True))
        smooth2 = nn.Conv2d(head, head // 2, 3, padding=1)
        self.smooth2 = nn.Sequential(smooth2, _norm(head // 2), nn.ReLU(True))
        self.final = nn.Conv2d(head // 2, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Restores images [b, 3, h, w] in [-1, 1]."""
        first, *maps = self.fpn(x)
        heads = [getattr(self, f"head{i}")(m) for i, m in enumerate(maps, start=1)]
        wide = [_enlarged(h, 2**i) if i else h for i, h in enumerate(heads)]
        y = self.smooth(torch.cat(wide[::-1], 1))
        y = self.smooth2(_enlarged(y, 2) + first)
        y = self.final(_enlarged(y, 2))
        return torch.clamp(x + torch.tanh(y), -1, 1)


def of_one_picture(network: TorchFPN) -> nn.Module:
    """The same function of a batch of one, without running statistics.

    A batch norm then is an instance norm, which an exported file can hold.
    """
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d | nn.InstanceNorm2d):
                norm = nn.InstanceNorm2d(child.num_features, affine=child.affine)
                norm.load_state_dict(
                    {
                        k: v
                        for k, v in child.state_dict().items()
                        if k in ("weight", "bias")
                    }
                )
                setattr(module, name, norm)
    return network.eval()
