"""ExpandNets: a convolution trained as three in a row without activations between.

Guo, Alvarez and Salzmann, "ExpandNets: Linear Over-parameterization to Train Compact Convolutional
Networks" (NeurIPS 2020). A k×k layer becomes 1x1 to many channels, k×k among these, and 1x1 back;
the padding is given to the first, so that its bias fills the border and the chain is exactly one
k×k convolution, with its BN behind it. The whole block is linear.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from examples.seeds.merging import as_conv, chained, of_conv


class Expanded(nn.Module):
    """1x1 (padded), k×k, 1x1, BN; merged, one convolution.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        kernel: Odd extent of the window.
        stride: Step of both axes.
        rate: How many times more channels there are inside.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, rate: int = 4
    ) -> None:
        super().__init__()
        self.stride = stride
        self.widen = nn.Conv2d(inputs, rate * inputs, 1, padding=kernel // 2)
        self.window = nn.Conv2d(rate * inputs, rate * outputs, kernel, stride)
        self.narrow = nn.Conv2d(rate * outputs, outputs, 1)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs, H / stride, W / stride]."""
        return self.norm(self.narrow(self.window(self.widen(x))))

    def merged(self) -> nn.Module:
        """One convolution."""
        inner = chained(of_conv(self.widen), of_conv(self.window))
        narrow = of_conv(self.narrow)
        kernel = inner.then_pointwise(narrow).then_norm(self.norm)
        return as_conv(kernel, self.stride)


class ExpandNet(nn.Module):
    """A small encoder and decoder of expanded layers."""

    def __init__(self, classes: int = 12, width: int = 16) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            (
                Expanded(3, width, 3, 2),
                Expanded(width, 2 * width, 3, 2),
                Expanded(2 * width, 4 * width, 5, 2),
            )
        )
        self.middle = Expanded(4 * width, 4 * width)
        self.up = nn.ModuleList((Expanded(4 * width, 2 * width), Expanded(2 * width, width)))
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits of shape [N, classes, H / 2, W / 2]."""
        x = image
        skips = []
        for layer in self.down:
            x = functional.relu(layer(x))
            skips.append(x)
        x = functional.relu(self.middle(skips.pop()))
        for layer in self.up:
            x = functional.interpolate(functional.relu(layer(x)), scale_factor=2.0) + skips.pop()
        return self.classify(x)
