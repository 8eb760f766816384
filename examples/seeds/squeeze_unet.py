"""Squeeze U-Net: a U-Net of fire modules.

Beheshti and Johnsson, "Squeeze U-Net: A Memory and Energy Efficient Image Segmentation Network"
(CVPR Workshops 2020). A fire module squeezes by 1x1 and expands by a 1x1 and a 3x3 whose results
are joined; going up, a transposed convolution squeezes and doubles the size, two transposed ones
expand, and the skip is joined. Linear are the parallel expansions (1x1 and 3x3 of one tensor that
end in a Concat), and the Concat of the skip with the convolution that reads it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Fire(nn.Module):
    """Squeeze by 1x1, expand by 1x1 and 3x3, join."""

    def __init__(self, inputs: int, squeezed: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1, stride)
        self.point = nn.Conv2d(squeezed, outputs // 2, 1)
        self.window = nn.Conv2d(squeezed, outputs // 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs, H / stride, W / stride]."""
        x = functional.relu(self.squeeze(x))
        return functional.relu(torch.cat([self.point(x), self.window(x)], 1))


class RisingFire(nn.Module):
    """The same with transposed convolutions; the first doubles the size."""

    def __init__(self, inputs: int, squeezed: int, outputs: int) -> None:
        super().__init__()
        self.squeeze = nn.ConvTranspose2d(inputs, squeezed, 2, 2)
        self.point = nn.ConvTranspose2d(squeezed, outputs // 2, 1)
        self.window = nn.ConvTranspose2d(squeezed, outputs // 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs, 2 · H, 2 · W]."""
        x = functional.relu(self.squeeze(x))
        return functional.relu(torch.cat([self.point(x), self.window(x)], 1))


class SqueezeUNet(nn.Module):
    """Four levels down by fire modules, four up, a 1x1 at the end."""

    def __init__(self, classes: int = 12, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList(
            nn.Sequential(
                Fire(width << level, width >> 1 << level, 2 * width << level, 2),
                Fire(2 * width << level, width >> 1 << level, 2 * width << level),
            )
            for level in range(4)
        )
        self.up = nn.ModuleList(
            RisingFire(2 * width << level, width >> 1 << level, width << level)
            for level in reversed(range(4))
        )
        self.join = nn.ModuleList(
            Fire(2 * width << level, width >> 1 << level, width << level)
            for level in reversed(range(4))
        )
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits of shape [N, classes, H, W]."""
        x = functional.relu(self.stem(image))
        skips = []
        for level in self.down:
            skips.append(x)
            x = level(x)
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([up(x), skips.pop()], 1))
        return self.classify(x)
