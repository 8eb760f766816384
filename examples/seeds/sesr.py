"""SESR: super-resolution by linear blocks that collapse.

Bhardwaj et al., "Collapsible Linear Blocks for Super-Efficient Super Resolution" (MLSys 2022). A
block is k×k to very many channels and 1x1 back, without activation between, plus the identity in
all but the first and last; merged it is one k×k convolution. A long skip crosses the network,
another adds the input to the last maps, and pixels are shuffled. Linear are the blocks, the skip
inside each, and the last block with the input's skip and the shuffle.
"""

from __future__ import annotations

from torch import Tensor, nn

from examples.seeds.merging import as_conv, identity, of_conv


class Collapsible(nn.Module):
    """k×k to many channels, 1x1 back, with or without the identity; merged, one convolution."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, skip: bool = False, inside: int = 256
    ) -> None:
        super().__init__()
        self.widen = nn.Conv2d(inputs, inside, kernel, padding=kernel // 2)
        self.narrow = nn.Conv2d(inside, outputs, 1)
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs, H, W]."""
        y = self.narrow(self.widen(x))
        return y + x if self.skip else y

    def merged(self) -> nn.Module:
        """One convolution."""
        kernel = of_conv(self.widen).then_pointwise(of_conv(self.narrow))
        if self.skip:
            kernel = kernel + identity(self.narrow.out_channels, 1, self.narrow.weight)
        return as_conv(kernel)


class Sesr(nn.Module):
    """First 5x5 block, 3x3 blocks with PReLU, last 5x5 block, pixel shuffle.

    Args:
        depth: How many 3x3 blocks.
        width: Channels between the blocks.
        shuffles: How often the size is doubled.
    """

    def __init__(self, depth: int = 5, width: int = 16, shuffles: int = 1) -> None:
        super().__init__()
        self.first = Collapsible(1, width, 5)
        self.act = nn.PReLU(width)
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [Collapsible(width, width, 3, skip=True), nn.PReLU(width)]
        self.layers = nn.Sequential(*layers)
        self.last = Collapsible(width, 4**shuffles, 5)
        self.shuffles = nn.Sequential(*(nn.PixelShuffle(2) for _ in range(shuffles)))

    def forward(self, luminance: Tensor) -> Tensor:
        """Return [N, 1, H · 2^shuffles, W · 2^shuffles]."""
        start = self.act(self.first(luminance))
        x = self.layers(start) + start
        return self.shuffles(self.last(x) + luminance)
