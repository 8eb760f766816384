"""ECBSR: 3x3 layers trained with edge filters beside them, for super-resolution.

Zhang, Zeng and Zhang, "Edge-oriented Convolution Block for Real-time Super Resolution on Mobile
Devices" (ACM MM 2021). A 3x3 is summed with a 1x1 → 3x3 sequence and with three branches in which
a 1x1 is followed by a depthwise Sobel (two directions) or Laplace filter, scaled and shifted for
every channel. Between the two layers of a sequence the border is filled with the bias of the first,
so the whole block is linear and one 3x3 convolution, PReLU behind it. The repeated input is added
at the end and the pixels are shuffled: linear as well.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from examples.seeds.merging import Kernel, as_conv, chained, of_conv

_SOBEL = ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0))
_LAPLACE = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))


class PointThenWindow(nn.Module):
    """1x1, the border filled with its bias in place, and a 3x3 window.

    Args:
        inputs: Channels that come in.
        inside: Channels between the layers.
    """

    def __init__(self, inputs: int, inside: int) -> None:
        super().__init__()
        self.point = nn.Conv2d(inputs, inside, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs, H, W]."""
        x = functional.pad(self.point(x), [1, 1, 1, 1])
        border = self.point.bias.reshape(1, -1, 1, 1)
        x[:, :, :1, :] = border
        x[:, :, -1:, :] = border
        x[:, :, :, :1] = border
        x[:, :, :, -1:] = border
        return self.window(x)

    def window(self, x: Tensor) -> Tensor:
        """The second layer on its padded input."""
        raise NotImplementedError

    def kernel(self) -> Kernel:
        """Both layers as one kernel."""
        raise NotImplementedError


class Sequence(PointThenWindow):
    """With a dense 3x3."""

    def __init__(self, inputs: int, outputs: int, rate: int = 2) -> None:
        super().__init__(inputs, rate * outputs)
        self.conv = nn.Conv2d(rate * outputs, outputs, 3)

    def window(self, x: Tensor) -> Tensor:
        """Convolve."""
        return self.conv(x)

    def kernel(self) -> Kernel:
        """Both layers as one kernel."""
        return chained(of_conv(self.point), of_conv(self.conv))


class Edge(PointThenWindow):
    """With a fixed depthwise filter, scaled and shifted."""

    def __init__(self, inputs: int, outputs: int, stencil: Tensor) -> None:
        super().__init__(inputs, outputs)
        self.scale = nn.Parameter(1e-3 * torch.randn(outputs, 1, 1, 1))
        self.shift = nn.Parameter(1e-3 * torch.randn(outputs))
        self.register_buffer("stencil", stencil.repeat(outputs, 1, 1, 1))

    def window(self, x: Tensor) -> Tensor:
        """Convolve every channel with its scaled filter."""
        return functional.conv2d(x, self.scale * self.stencil, self.shift, groups=len(self.shift))

    def kernel(self) -> Kernel:
        """Both layers as one kernel."""
        taps = (self.scale * self.stencil).squeeze(1)
        dense = torch.diag_embed(taps.permute(1, 2, 0)).permute(2, 3, 0, 1)
        return chained(of_conv(self.point), Kernel(dense, self.shift))


class EdgeBlock(nn.Module):
    """3x3 + 1x1 → 3x3 + two Sobel + Laplace, then PReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        sobel = torch.tensor(_SOBEL)
        self.direct = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.sequence = Sequence(inputs, outputs)
        self.edges = nn.ModuleList(
            Edge(inputs, outputs, stencil)
            for stencil in (sobel, sobel.T.contiguous(), torch.tensor(_LAPLACE))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs, H, W]."""
        total = self.direct(x) + self.sequence(x)
        for edge in self.edges:
            total = total + edge(x)
        return total

    def merged(self) -> nn.Module:
        """One 3x3 convolution."""
        kernel = of_conv(self.direct) + self.sequence.kernel()
        for edge in self.edges:
            kernel = kernel + edge.kernel()
        return as_conv(kernel)


class EcbSr(nn.Module):
    """Blocks with PReLU, pixel shuffle, and the input repeated for every new pixel."""

    def __init__(self, depth: int = 4, width: int = 16, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor
        widths = (1, *(width,) * depth)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [EdgeBlock(inputs, outputs), nn.PReLU(outputs)]
        self.layers = nn.Sequential(*layers, EdgeBlock(width, factor * factor))
        self.shuffle = nn.PixelShuffle(factor)

    def forward(self, luminance: Tensor) -> Tensor:
        """Return [N, 1, H · factor, W · factor]."""
        repeated = torch.cat([luminance] * self.factor**2, 1)
        return self.shuffle(self.layers(luminance) + repeated)
