"""SwiftNet: a ladder decoder that blends after every bilinear upsampling.

Orsic et al., "In Defense of Pre-trained ImageNet Architectures for Real-time Semantic Segmentation
of Road-driving Images" (CVPR 2019). A backbone's stages are tapped before their last activation; a
pyramid pooling sits on the last; each step up adds a 1x1 of the tapped map to the upsampled one and
blends by 3x3, BN and ReLU standing in front of every convolution. The pyramid form runs one
backbone on three sizes of the image and adds maps of equal size. Linear are a projection with the
bilinear upsampling and the sum, and, in the pooling, the average, 1x1 and upsampling; the BN behind
those sums are what is hard: each has a ReLU in front of the convolution that follows.
"""

from __future__ import annotations

from examples.zoo import torchvision_schemas  # isort: skip  # noqa: F401  before torchvision
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from examples.seeds.merging import ConvNorm
from examples.seeds.resnet import ResNet18


def _before(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
    )


def _raised(x: Tensor, like: Tensor) -> Tensor:
    size = (int(like.shape[2]), int(like.shape[3]))
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


class ResNetTaps(nn.Module):
    """ResNet-18 whose four stages are given out before their last activation."""

    channels = (64, 128, 256, 512)

    def __init__(self) -> None:
        super().__init__()
        trunk = ResNet18(lambda inputs, outputs, stride: ConvNorm(inputs, outputs, 3, stride))
        self.stem, self.pool, self.stages = trunk.stem, trunk.pool, trunk.stages

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return maps at a quarter, an eighth, … of the input's size."""
        x = self.pool(functional.relu(self.stem(image)))
        taps = []
        for index in range(0, len(self.stages), 2):
            taps.append(self.stages[index + 1].total(self.stages[index](x)))
            x = functional.relu(taps[-1])
        return taps


class MobileNetTaps(nn.Module):
    """MobileNetV2 whose linear bottlenecks are tapped at four sizes."""

    channels = (24, 32, 96, 320)
    _ENDS = (4, 7, 14, 18)

    def __init__(self) -> None:
        super().__init__()
        self.layers = torchvision.models.mobilenet_v2(weights=None).features[: self._ENDS[-1]]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return maps at a quarter, an eighth, … of the input's size."""
        taps = []
        x = image
        for index, layer in enumerate(self.layers, 1):
            x = layer(x)
            if index in self._ENDS:
                taps.append(x)
        return taps


class PyramidPooling(nn.Module):
    """Averages over grids, each reduced and brought back, joined and fused."""

    def __init__(self, inputs: int, width: int, grids: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        self.enter = _before(inputs, width, 1)
        self.grids = grids
        self.levels = nn.ModuleList(_before(width, width // len(grids), 1) for _ in grids)
        self.fuse = _before(width + width // len(grids) * len(grids), width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, width, H, W]."""
        x = self.enter(x)
        maps = [x]
        for grid, level in zip(self.grids, self.levels, strict=True):
            maps.append(_raised(level(functional.adaptive_avg_pool2d(x, grid)), x))
        return self.fuse(torch.cat(maps, 1))


class SwiftNet(nn.Module):
    """Backbone, pyramid pooling, ladder decoder, classifier.

    Args:
        taps: The backbone.
        grids: Rows and columns of the pooling; each divides the coarsest map.
        classes: Channels of the output.
        width: Channels of the decoder.
    """

    def __init__(
        self,
        taps: ResNetTaps | MobileNetTaps,
        grids: tuple[tuple[int, int], ...] = ((8, 16), (4, 8), (2, 4), (1, 2)),
        classes: int = 19,
        width: int = 128,
    ) -> None:
        super().__init__()
        self.taps = taps
        *lower, top = taps.channels
        self.pooling = PyramidPooling(top, width, grids)
        self.laterals = nn.ModuleList(_before(each, width, 1) for each in reversed(lower))
        self.blends = nn.ModuleList(_before(width, width, 3) for _ in lower)
        self.classify = _before(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits of the input's size, [N, classes, H, W]."""
        *lower, top = self.taps(image)
        x = self.pooling(top)
        for tap, lateral, blend in zip(reversed(lower), self.laterals, self.blends, strict=True):
            x = blend(_raised(x, tap) + lateral(tap))
        return _raised(self.classify(x), image)


class SwiftNetPyramid(nn.Module):
    """One backbone on three sizes of the image; maps of equal size are added.

    Args:
        classes: Channels of the output.
        width: Channels of the decoder.
    """

    def __init__(self, classes: int = 19, width: int = 128) -> None:
        super().__init__()
        self.taps = ResNetTaps()
        self.project = nn.ModuleList(_before(each, width, 1) for each in self.taps.channels)
        self.blends = nn.ModuleList(_before(width, width, 3) for _ in range(5))
        self.classify = _before(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits of the input's size, [N, classes, H, W]."""
        half = functional.interpolate(image, scale_factor=0.5, mode="bilinear")
        quarter = functional.interpolate(image, scale_factor=0.25, mode="bilinear")
        levels: list[list[Tensor]] = [[] for _ in range(6)]
        for shift, each in enumerate((image, half, quarter)):
            for index, tap in enumerate(self.taps(each)):
                levels[index + shift].append(self.project[index](tap))
        sums = [sum(maps[1:], maps[0]) for maps in levels]
        x = sums.pop()
        for blend in self.blends:
            lower = sums.pop()
            x = blend(_raised(x, lower) + lower)
        return _raised(self.classify(x), image)
