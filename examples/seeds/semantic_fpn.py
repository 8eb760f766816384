"""Semantic FPN with normalised laterals, the decoder under which FastViT is trained to segment.

Kirillov et al., "Panoptic Feature Pyramid Networks" (CVPR 2019), with the settings customary for
light backbones: every level takes a 1x1 lateral with BN, the nearest-upsampled level above is
added, a 3x3 smooths the sum, and one 3x3, BN, ReLU for every doubling brings the level to the
finest resolution, where all are added and classified. Linear are the laterals with the nearest
upsampling and the smoothing behind their sum, and the bilinear upsampling in front of the last sum.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from examples.seeds.merging import PlainConvNorm


class SemanticFpn(nn.Module):
    """The decoder over a backbone of four feature maps.

    Args:
        backbone: Module whose output is a list of maps, each half the size of the one before.
        channels: Channels of each of those maps.
        width: Channels of the decoder.
        classes: Channels of the output, which has a quarter of the input's resolution.
    """

    def __init__(
        self, backbone: nn.Module, channels: list[int], width: int = 128, classes: int = 19
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.laterals = nn.ModuleList(PlainConvNorm(each, width, 1) for each in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        self.heads = nn.ModuleList(
            nn.ModuleList(PlainConvNorm(width, width, 3) for _ in range(max(1, level)))
            for level in range(len(channels))
        )
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits of shape [N, classes, H / 4, W / 4]."""
        features = self.backbone(image)
        levels = [layer(each) for layer, each in zip(self.laterals, features, strict=True)]
        for index in range(len(levels) - 2, -1, -1):
            above = functional.interpolate(levels[index + 1], scale_factor=2.0, mode="nearest")
            levels[index] = levels[index] + above
        raised = [self._raised(index, level) for index, level in enumerate(levels)]
        total = raised[0]
        for each in raised[1:]:
            total = total + each
        return self.classify(total)

    def _raised(self, index: int, level: Tensor) -> Tensor:
        x = self.smooth[index](level)
        for layer in self.heads[index]:
            x = torch.relu(layer(x))
            if index:
                x = functional.interpolate(x, scale_factor=2.0, mode="bilinear")
        return x
