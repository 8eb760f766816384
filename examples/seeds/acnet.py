"""ACNet: a square kernel strengthened by a horizontal and a vertical one.

Ding et al., "ACNet: Strengthening the Kernel Skeletons for Powerful CNN via Asymmetric Convolution
Blocks" (ICCV 2019). Every 3x3 convolution of ResNet-18 becomes a sum of a 3x3, a 1x3 and a 3x1
convolution, each with its own BN. The whole block is linear: it merges into one 3x3 convolution.
"""

from __future__ import annotations

from torch import Tensor, nn

from examples.seeds.merging import ConvNorm, as_conv
from examples.seeds.resnet import ResNet18


class AsymmetricBlock(nn.Module):
    """3x3 + 1x3 + 3x1, each with BN."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.square = ConvNorm(inputs, outputs, 3, stride)
        self.vertical = ConvNorm(inputs, outputs, (3, 1), stride)
        self.horizontal = ConvNorm(inputs, outputs, (1, 3), stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the three branches."""
        return self.square(x) + self.vertical(x) + self.horizontal(x)

    def merged(self) -> nn.Module:
        """One 3x3 convolution."""
        kernel = self.square.kernel() + self.vertical.kernel() + self.horizontal.kernel()
        return as_conv(kernel, self.stride)


def acnet_resnet18(width: int = 64) -> nn.Module:
    """ResNet-18 of asymmetric blocks."""
    return ResNet18(AsymmetricBlock, width=width)
