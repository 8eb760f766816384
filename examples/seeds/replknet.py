"""RepLKNet: depthwise kernels up to 31x31, trained with a 5x5 kernel beside each.

Ding et al., "Scaling Up Your Kernels to 31x31: Revisiting Large Kernel Design in CNNs" (CVPR 2022).
A block normalises, widens by 1x1, convolves depthwise with both kernels (each with a BN), narrows
by 1x1 and adds its input; feed-forward blocks of two 1x1 stand between. The two depthwise branches
are linear and merge; the authors leave every other BN in place. `examples/zoo/heads.py` has a
small network of such blocks for segmentation; this one has the widths of RepLKNet-31B at five
blocks.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from examples.seeds.merging import ConvNorm, PlainConvNorm, as_conv


class LargeKernel(nn.Module):
    """A large and a small depthwise kernel, each with BN, summed."""

    def __init__(self, channels: int, large: int, small: int) -> None:
        super().__init__()
        self.channels = channels
        self.large = ConvNorm(channels, channels, large, groups=channels)
        self.small = ConvNorm(channels, channels, small, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both branches."""
        return self.large(x) + self.small(x)

    def merged(self) -> nn.Module:
        """One large depthwise convolution."""
        return as_conv(self.large.kernel() + self.small.kernel(), groups=self.channels)


class LargeKernelBlock(nn.Module):
    """BN, 1x1, large depthwise, 1x1, plus the input."""

    def __init__(self, channels: int, large: int) -> None:
        super().__init__()
        self.before = nn.BatchNorm2d(channels)
        self.widen = PlainConvNorm(channels, channels, 1)
        self.depthwise = LargeKernel(channels, large, 5)
        self.narrow = PlainConvNorm(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the shape of ``x``."""
        hidden = functional.relu(self.widen(self.before(x)))
        return x + self.narrow(functional.relu(self.depthwise(hidden)))


class FeedForward(nn.Module):
    """BN, 1x1, GELU, 1x1, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before = nn.BatchNorm2d(channels)
        self.widen = PlainConvNorm(channels, 4 * channels, 1)
        self.narrow = PlainConvNorm(4 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the shape of ``x``."""
        return x + self.narrow(functional.gelu(self.widen(self.before(x))))


class RepLKNet(nn.Module):
    """Stem, four stages of large kernel and feed-forward blocks, BN, pooling, classifier."""

    def __init__(
        self,
        widths: tuple[int, ...] = (128, 256, 512, 1024),
        depths: tuple[int, ...] = (1, 1, 2, 1),
        kernels: tuple[int, ...] = (31, 29, 27, 13),
        classes: int = 10,
    ) -> None:
        super().__init__()
        first = widths[0]
        layers: list[nn.Module] = [
            *(PlainConvNorm(3, first, 3, 2), nn.ReLU()),
            *(PlainConvNorm(first, first, 3, groups=first), nn.ReLU()),
            *(PlainConvNorm(first, first, 1), nn.ReLU()),
            *(PlainConvNorm(first, first, 3, 2, groups=first), nn.ReLU()),
        ]
        inputs = first
        for width, depth, kernel in zip(widths, depths, kernels, strict=True):
            if width != inputs:
                layers += [PlainConvNorm(inputs, width, 1), nn.ReLU()]
                layers += [PlainConvNorm(width, width, 3, 2, groups=width), nn.ReLU()]
            for _ in range(depth):
                layers += [LargeKernelBlock(width, kernel), FeedForward(width)]
            inputs = width
        self.layers = nn.Sequential(*layers, nn.BatchNorm2d(inputs))
        self.classify = nn.Linear(inputs, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits of shape [N, classes]."""
        return self.classify(self.layers(image).mean((2, 3)))
