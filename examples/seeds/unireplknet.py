"""UniRepLKNet: a large depthwise kernel trained with dilated small ones beside it.

Ding et al., "UniRepLKNet: A Universal Perception Large-Kernel ConvNet for Audio, Video, Point
Cloud, Time-Series and Image Recognition" (CVPR 2024), the size A. A 13x13 kernel is summed with
5x5, 7x7 (dilated 2) and 3x3 (dilated 3, 4, 5) ones, each with a BN, and one more BN follows: all of
that is linear and one 13x13 kernel. Behind it squeeze-and-excitation, two linear layers around
GELU and global response normalisation, a BN and a layer scale, which merge into the second layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from examples.seeds.merging import ConvNorm, as_conv, of_conv, scale_and_shift

_DILATED = {13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5))}
"""Extent and dilation of the kernels beside a large one."""


class DilatedBranches(nn.Module):
    """A large depthwise kernel and dilated small ones, each with BN, summed."""

    def __init__(self, channels: int, large: int) -> None:
        super().__init__()
        self.large = ConvNorm(channels, channels, large, groups=channels)
        self.small = nn.ModuleList(
            ConvNorm(channels, channels, extent, groups=channels, dilation=dilation)
            for extent, dilation in _DILATED[large]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the branches."""
        total = self.large(x)
        for branch in self.small:
            total = total + branch(x)
        return total

    def merged(self) -> nn.Module:
        """One depthwise convolution."""
        kernel = self.large.kernel()
        for branch in self.small:
            kernel = kernel + branch.kernel()
        return as_conv(kernel, groups=self.large.conv.groups)


class SqueezeExcite(nn.Module):
    """A gate on every channel, computed from the mean of all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, channels // 4, 1)
        self.up = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with every channel scaled."""
        gate = functional.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.up(functional.relu(self.down(gate))))


class ResponseNorm(nn.Module):
    """Global response normalisation of [N, H, W, C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.offset = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the shape of ``x``."""
        energy = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
        share = energy / (energy.mean(-1, keepdim=True) + 1e-6)
        return (self.gain * share + 1) * x + self.offset


class ToLast(nn.Module):
    """Channels to the end."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] → [N, H, W, C]."""
        return x.permute(0, 2, 3, 1)


class ToFirst(nn.Module):
    """Channels to the front."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, H, W, C] → [N, C, H, W]."""
        return x.permute(0, 3, 1, 2)


class ChannelLayerNorm(nn.LayerNorm):
    """Layer normalisation over the channels of [N, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the shape of ``x``."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Depthwise convolution, BN, squeeze-and-excitation, two linear layers, skip."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = (
            DilatedBranches(channels, kernel)
            if kernel in _DILATED
            else nn.Conv2d(
                channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False
            )
        )
        self.norm: nn.Module = nn.BatchNorm2d(channels)
        self.gate = SqueezeExcite(channels)
        self.widen = nn.Sequential(
            ToLast(), nn.Linear(channels, 4 * channels), nn.GELU(), ResponseNorm(4 * channels)
        )
        self.narrow = nn.Linear(4 * channels, channels, bias=False)
        self.first = ToFirst()
        self.after: nn.Module = nn.BatchNorm2d(channels)
        self.gamma: nn.Parameter | None = nn.Parameter(1e-6 * torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the shape of ``x``."""
        hidden = self.gate(self.norm(self.depthwise(x)))
        hidden = self.after(self.first(self.narrow(self.widen(hidden))))
        if self.gamma is not None:
            hidden = self.gamma.reshape(1, -1, 1, 1) * hidden
        return x + hidden

    def merged(self) -> nn.Module:
        """Both BN and the layer scale merged into what is in front of them; changes itself."""
        depthwise = self.depthwise
        if isinstance(depthwise, DilatedBranches):
            depthwise = depthwise.merged()
        kernel = of_conv(depthwise).then_norm(self.norm)
        self.depthwise = as_conv(kernel, groups=depthwise.groups)
        self.norm = nn.Identity()
        scale, shift = (part * self.gamma for part in scale_and_shift(self.after))
        self.narrow.weight.mul_(scale.reshape(-1, 1))
        self.narrow.bias = nn.Parameter(shift)
        self.after, self.gamma = nn.Identity(), None
        return self


class UniRepLKNet(nn.Module):
    """Stem, four stages with strided convolutions between them, pooling, classifier."""

    def __init__(
        self,
        widths: tuple[int, ...] = (40, 80, 160, 320),
        depths: tuple[int, ...] = (2, 2, 6, 2),
        kernels: tuple[int, ...] = (3, 13, 13, 13),
        classes: int = 10,
    ) -> None:
        super().__init__()
        first = widths[0]
        layers: list[nn.Module] = [
            *(nn.Conv2d(3, first // 2, 3, 2, 1), ChannelLayerNorm(first // 2, 1e-6), nn.GELU()),
            *(nn.Conv2d(first // 2, first, 3, 2, 1), ChannelLayerNorm(first, 1e-6)),
        ]
        inputs = first
        for width, depth, kernel in zip(widths, depths, kernels, strict=True):
            if width != inputs:
                layers += [nn.Conv2d(inputs, width, 3, 2, 1), ChannelLayerNorm(width, 1e-6)]
            layers += [Block(width, kernel) for _ in range(depth)]
            inputs = width
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(inputs, 1e-6)
        self.classify = nn.Linear(inputs, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits of shape [N, classes]."""
        return self.classify(self.norm(self.layers(image).mean((2, 3))))
