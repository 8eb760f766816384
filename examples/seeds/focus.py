"""Focus: every second pixel of the image into channels, then a convolution.

The stem of YOLOv5 (Jocher et al., 2020). Four strided slices, one for every phase of a 2x2 patch,
are joined and convolved with BN: linear, and one convolution of stride 2. Networks differ in the
order in which they join the phases; `FocusOrders` holds a stem for each of the 24.
"""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor, nn
from torch.nn import functional

from examples.seeds.merging import ConvNorm

_PHASES = ((0, 0), (1, 0), (0, 1), (1, 1))
"""Row and column of the phases, in the order of YOLOv5."""

Phases = tuple[tuple[int, int], ...]


class Focus(nn.Module):
    """Slices, Concat, convolution with BN; merged, one strided convolution.

    Args:
        inputs: Channels of the image.
        outputs: Channels that go out.
        kernel: Extent of the convolution on the joined phases.
        phases: Row and column of each phase, in the order in which they are joined.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, phases: Phases = _PHASES
    ) -> None:
        super().__init__()
        self.phases = phases
        self.conv = ConvNorm(4 * inputs, outputs, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs, H / 2, W / 2]."""
        slices = [x[..., row::2, column::2] for row, column in self.phases]
        return self.conv(torch.cat(slices, 1))

    def merged(self) -> nn.Module:
        """One convolution of stride 2."""
        kernel = self.conv.kernel()
        outputs, inputs, height, width = kernel.weight.shape
        weight = kernel.weight.new_zeros(outputs, inputs // 4, 2 * height, 2 * width)
        parts = kernel.weight.chunk(4, 1)
        for (row, column), part in zip(self.phases, parts, strict=True):
            weight[:, :, row::2, column::2] = part
        padding = 2 * (height // 2)
        conv = nn.Conv2d(inputs // 4, outputs, weight.shape[2:], 2, padding, dtype=weight.dtype)
        with torch.no_grad():
            conv.weight.copy_(weight)
            conv.bias.copy_(kernel.bias)
        return conv


class FocusTrunk(nn.Module):
    """The stem and the two strided convolutions behind it, with SiLU."""

    def __init__(self, stem: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = stem or Focus(3, 32)
        self.layers = nn.Sequential(ConvNorm(32, 64, 3, 2), nn.SiLU(), ConvNorm(64, 64, 3, 2))

    def forward(self, image: Tensor) -> Tensor:
        """Return [N, 64, H / 8, W / 8]."""
        return self.layers(functional.silu(self.stem(image)))


class FocusOrders(nn.Module):
    """A stem for every order of the phases, each with its activation, summed."""

    def __init__(self) -> None:
        super().__init__()
        self.stems = nn.ModuleList(Focus(3, 8, 3, order) for order in permutations(_PHASES))

    def forward(self, image: Tensor) -> Tensor:
        """Return [N, 8, H / 2, W / 2]."""
        total = functional.relu(self.stems[0](image))
        for stem in list(self.stems)[1:]:
            total = total + functional.relu(stem(image))
        return total
