"""L³U-Net: a U-Net of few channels whose image is folded into them first.

Okman et al., "L3U-net: Low-Latency Lightweight U-net Based Image Segmentation Model for Parallel
CNN Processors" (2022). Patches of factor × factor pixels become channels, a small U-Net of 1x1 and
3x3 layers with BN runs at the smaller resolution, and its last channels are unfolded into pixels
again. Linear are the fold with the first convolution and its BN (one strided convolution), the last
convolution with the unfold (one transposed convolution), and every convolution with its BN. The
widths are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from examples.seeds.merging import ConvNorm, of_conv


class Fold(nn.Module):
    """Patches into channels, by row, column, channel: [N, f · f · C, H / f, W / f]."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return the folded image."""
        batch, channels, height, width = x.shape
        f = self.factor
        x = x.reshape(batch, channels, height // f, f, width // f, f)
        return x.permute(0, 3, 5, 1, 2, 4).reshape(batch, f * f * channels, height // f, width // f)


class Unfold(nn.Module):
    """The inverse of `Fold`."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return the image, [N, C, H · f, W · f]."""
        batch, channels, height, width = x.shape
        f = self.factor
        x = x.reshape(batch, f, f, channels // (f * f), height, width)
        return x.permute(0, 3, 4, 1, 5, 2).reshape(
            batch, channels // (f * f), height * f, width * f
        )


class FoldedConv(nn.Module):
    """A fold and the convolution behind it; merged, one strided convolution."""

    def __init__(self, channels: int, outputs: int, kernel: int, factor: int) -> None:
        super().__init__()
        self.fold = Fold(factor)
        self.conv = ConvNorm(channels * factor * factor, outputs, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs, H / factor, W / factor]."""
        return self.conv(self.fold(x))

    def merged(self) -> nn.Module:
        """One strided convolution."""
        f = self.fold.factor
        kernel = of_conv(self.conv.conv).then_norm(self.conv.norm)
        outputs, inputs, height, width = kernel.weight.shape
        weight = kernel.weight.reshape(outputs, f, f, inputs // (f * f), height, width)
        weight = weight.permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)
        padding = f * (height // 2)
        conv = nn.Conv2d(weight.shape[1], outputs, weight.shape[2:], f, padding, dtype=weight.dtype)
        with torch.no_grad():
            conv.weight.copy_(weight)
            conv.bias.copy_(kernel.bias)
        return conv


def _layer(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(ConvNorm(inputs, outputs, kernel), nn.ReLU())


class L3UNet(nn.Module):
    """Fold, three levels down, three up with joined skips, unfold.

    Args:
        factor: Extent of the patches.
        stem: Kernel of the first convolution on the folded image.
        classes: Channels of the output.
        width: Channels of the first level.
    """

    def __init__(self, factor: int, stem: int = 1, classes: int = 4, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(FoldedConv(3, 64, stem, factor), nn.ReLU(), _layer(64, width))
        self.down = nn.ModuleList(_layer(width << level, width << level) for level in range(3))
        self.widen = nn.ModuleList(_layer(width << level, 2 * width << level) for level in range(3))
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * width << level, width << level, 3, 2, 1, 1)
            for level in reversed(range(3))
        )
        self.join = nn.ModuleList(
            _layer(2 * width << level, width << level) for level in reversed(range(3))
        )
        self.last = nn.Sequential(
            _layer(width, 64, 1), nn.Conv2d(64, classes * factor * factor, 1), Unfold(factor)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return logits of shape [N, classes, H, W]."""
        x = self.stem(image)
        skips = []
        for down, widen in zip(self.down, self.widen, strict=True):
            skips.append(down(x))
            x = widen(self.pool(skips[-1]))
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([up(x), skips.pop()], 1))
        return self.last(x)
