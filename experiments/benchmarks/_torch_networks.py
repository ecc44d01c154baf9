"""Networks of `recognition` in PyTorch: what a user would run instead.

Keys of the states are those of the published files.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

RESNET_50, RESNET_101 = (3, 4, 6, 3), (3, 4, 23, 3)


class VGG(nn.Module):
    """A VGG classifier."""

    def __init__(self, counts: Sequence[int], width: int = 64, hidden: int = 4096):
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for stage, count in enumerate(counts):
            for _ in range(count):
                after = width * min(2**stage, 8)
                layers += [
                    nn.Conv2d(before, after, 3, padding=1),
                    nn.ReLU(inplace=True),
                ]
                before = after
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(49 * before, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, 1000),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of images [b, 3, 224, 224]."""
        return self.classifier(self.features(x).flatten(1))


class Bottleneck(nn.Module):
    """A residual block."""

    def __init__(self, before: int, width: int, stride: int, project: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        if project:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, 4 * width, 1, stride, bias=False),
                nn.BatchNorm2d(4 * width),
            )
        self.project = project

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies the block."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(y)))))
        return torch.relu(y + (self.downsample(x) if self.project else x))


class Trunk(nn.Module):
    """A ResNet without its classifier."""

    def __init__(self, blocks: Sequence[int], width: int = 64):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        before = width
        for group, count in enumerate(blocks):
            layers = []
            for index in range(count):
                stride = 2 if group and not index else 1
                inner = width * 2**group
                layers.append(Bottleneck(before, inner, stride, index == 0))
                before = 4 * inner
            setattr(self, f"layer{group + 1}", nn.Sequential(*layers))

    def maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The maps behind each group."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        out = []
        for group in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = group(x)
            out.append(x)
        return out


class ResNet(Trunk):
    """With its classifier."""

    def __init__(self, blocks: Sequence[int] = RESNET_50, width: int = 64):
        super().__init__(blocks, width)
        self.fc = nn.Linear(32 * width, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of images."""
        return self.fc(self.maps(x)[-1].mean((2, 3)))


class ConvNorm(nn.Module):
    """Convolution, norm, ReLU."""

    def __init__(self, before: int, after: int, size, stride: int = 1, pad=0):
        super().__init__()
        self.conv = nn.Conv2d(before, after, size, stride, pad, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies the three."""
        return torch.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Branches of an inception block, each a chain, the last of which may fork.

    `branches`: name -> steps (channels, size); a size of 1 does not pad. A fork is a tuple of two
    steps. `pool`: channels of the 1x1 behind the mean pooling; none with `reduce`.
    """

    def __init__(self, before: int, branches, pool: int = 0, reduce: bool = False):
        super().__init__()
        self.chains, self.reduce, self.after = [], reduce, 0
        for name, steps in branches.items():
            chain, inner = [], before
            for i, step in enumerate(steps, 1):
                fork = isinstance(step[0], tuple)
                names = []
                for letter, (after, size) in zip(
                    "ab", step if fork else [step], strict=False
                ):
                    sizes = (size, size) if isinstance(size, int) else size
                    strided = reduce and i == len(steps)
                    pad = 0 if strided else tuple(n // 2 for n in sizes)
                    key = name if len(steps) == 1 else f"{name}_{i}"
                    key += letter if fork else ""
                    layer = ConvNorm(inner, after, sizes, 2 if strided else 1, pad)
                    setattr(self, key, layer)
                    names.append(key)
                inner = after
                chain.append(names)
            self.chains.append(chain)
            self.after += inner * len(chain[-1])
        if reduce:
            self.after += before
        else:
            self.branch_pool = ConvNorm(before, pool, 1)
            self.after += pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies the branches."""
        out = []
        for chain in self.chains:
            y = x
            for names in chain[:-1]:
                y = getattr(self, names[0])(y)
            out += [getattr(self, name)(y) for name in chain[-1]]
        if self.reduce:
            out.append(functional.max_pool2d(x, 3, 2))
        else:
            out.append(self.branch_pool(functional.avg_pool2d(x, 3, 1, 1)))
        return torch.cat(out, 1)


class InceptionV3(nn.Module):
    """Inception-v3 without its auxiliary head; `share` is one over the width."""

    def __init__(self, share: int = 1):
        super().__init__()

        def n(*channels: int):
            return [c // share for c in channels]

        stem = ((3, 32), (32, 32), (32, 64), (64, 80), (80, 192))
        names = ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")
        for name, (before, after) in zip(names, stem, strict=True):
            size = int(name[-1])
            before = before if before == 3 else before // share
            stride, pad = 2 if name[:2] == "1a" else 1, 1 if name[:2] == "2b" else 0
            layer = ConvNorm(before, after // share, size, stride, pad)
            setattr(self, f"Conv2d_{name}", layer)
        before = 192 // share
        [c1, c5, c3, cd] = n(64, 48, 64, 96)
        blocks = {}
        for name, pool in (("5b", 32), ("5c", 64), ("5d", 64)):
            branches = {
                "branch1x1": [(c1, 1)],
                "branch5x5": [(c5, 1), (c1, 5)],
                "branch3x3dbl": [(c3, 1), (cd, 3), (cd, 3)],
            }
            blocks[name] = (branches, pool // share, False)
        branches = {
            "branch3x3": [(384 // share, 3)],
            "branch3x3dbl": [(c3, 1), (cd, 3), (cd, 3)],
        }
        blocks["6a"] = (branches, 0, True)
        for name, wide in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
            [i, o] = n(wide, 192)
            row, column = (1, 7), (7, 1)
            branches = {
                "branch1x1": [(o, 1)],
                "branch7x7": [(i, 1), (i, row), (o, column)],
                "branch7x7dbl": [(i, 1), (i, column), (i, row), (i, column), (o, row)],
            }
            blocks[name] = (branches, o, False)
        [a, b] = n(192, 320)
        branches = {
            "branch3x3": [(a, 1), (b, 3)],
            "branch7x7x3": [(a, 1), (a, (1, 7)), (a, (7, 1)), (a, 3)],
        }
        blocks["7a"] = (branches, 0, True)
        [c, d] = n(384, 448)
        fork = ((c, (1, 3)), (c, (3, 1)))
        for name in ("7b", "7c"):
            branches = {
                "branch1x1": [(b, 1)],
                "branch3x3": [(c, 1), fork],
                "branch3x3dbl": [(d, 1), (c, 3), fork],
            }
            blocks[name] = (branches, a, False)
        self.names = [f"Mixed_{name}" for name in blocks]
        for name, (branches, pool, reduce) in zip(
            self.names, blocks.values(), strict=True
        ):
            layer = Mixed(before, branches, pool, reduce)
            setattr(self, name, layer)
            before = layer.after
        self.fc = nn.Linear(before, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of images [b, 3, 299, 299] in [-1, 1]."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_3b_1x1(functional.max_pool2d(x, 3, 2))
        x = functional.max_pool2d(self.Conv2d_4a_3x3(x), 3, 2)
        for name in self.names:
            x = getattr(self, name)(x)
        return self.fc(x.mean((2, 3)))


class DnCNN(nn.Module):
    """The blind denoiser: a numbered stack, as published."""

    def __init__(self, depth: int = 20, features: int = 64):
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(3, features, 3, padding=1, bias=False),
            nn.ReLU(inplace=True),
        ]
        for _ in range(depth - 2):
            layers += [
                nn.Conv2d(features, features, 3, padding=1, bias=False),
                nn.BatchNorm2d(features),
                nn.ReLU(inplace=True),
            ]
        layers.append(nn.Conv2d(features, 3, 3, padding=1, bias=False))
        self.dncnn = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The noise in images."""
        return self.dncnn(x)


class FPN(nn.Module):
    """The part of the segmentation network behind its ResNet."""

    def __init__(self, width: int = 64, pyramid: int = 256, smooth: int = 128):
        super().__init__()
        self.toplayer = nn.Conv2d(32 * width, pyramid, 1)
        for i, factor in ((1, 16), (2, 8), (3, 4)):
            setattr(self, f"latlayer{i}", nn.Conv2d(factor * width, pyramid, 1))
        for i in (1, 2, 3, 4):
            setattr(self, f"smooth{i}_1", nn.Conv2d(pyramid, pyramid, 3, padding=1))
            setattr(self, f"smooth{i}_2", nn.Conv2d(pyramid, smooth, 3, padding=1))
        self.classify = nn.Conv2d(4 * smooth, 21, 3, padding=1)

    def forward(self, c2, c3, c4, c5) -> torch.Tensor:
        """Logits at the size of the finest map."""

        def to(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
            size = [int(n) for n in like.shape[2:]]
            return functional.interpolate(
                x, size=size, mode="bilinear", align_corners=False
            )

        levels = [self.toplayer(c5)]
        for i, c in enumerate((c4, c3, c2), 1):
            lateral = getattr(self, f"latlayer{i}")(c)
            levels.append(to(levels[-1], lateral) + lateral)
        smoothed = []
        for i, level in enumerate(levels, 1):
            level = getattr(self, f"smooth{i}_1")(level)
            smoothed.append(getattr(self, f"smooth{i}_2")(level))
        joined = torch.cat([to(s, smoothed[-1]) for s in smoothed], 1)
        return self.classify(joined)


class FPNSegmentation(nn.Module):
    """Segmentation by a ResNet's pyramid."""

    def __init__(self, blocks: Sequence[int] = RESNET_101, width: int = 64, **options):
        super().__init__()
        self.resnet = Trunk(blocks, width)
        self.fpn = FPN(width, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits at a quarter of the resolution."""
        return self.fpn(*self.resnet.maps(x))
