"""EdgeSegNet: residual bottlenecks, a reduced global path, and refinement by sums.

Lin, Chwyl and Wong, "EdgeSegNet: A Compact Network for Semantic Segmentation" (2019). Residual
bottlenecks normalise before they convolve; bottleneck reductions shrink a map far, so that a
bilinear resize brings it back; a refine module adds two convolved maps and normalises the sum. The
paper's widths come from a machine search; ours are round. Linear are the sums in the refine modules
with what is in front of them (convolutions, resizes) and the BN behind; a BN whose input is read
elsewhere too, with a ReLU behind it, belongs to neither convolution next to it.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


def _before(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2),
    )


class Bottleneck(nn.Module):
    """Three layers, each normalised first, beside a projection; halves the size."""

    def __init__(self, inputs: int, inside: int, outputs: int, stride: int = 2) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _before(inputs, inside, 1),
            _before(inside, inside, 3, stride),
            _before(inside, outputs, 1),
        )
        self.skip = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs, H / stride, W / stride]."""
        return self.layers(x) + self.skip(x)


class Reduction(nn.Module):
    """A wide step down and two layers at the smaller size: the global path."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(inputs, outputs, 2 * stride - 1, stride, stride - 1)
        self.layers = nn.Sequential(_before(outputs, outputs, 3), _before(outputs, outputs, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs, H / stride, W / stride]."""
        entered = self.enter(x)
        return entered + self.layers(entered)


class Refine(nn.Module):
    """Two maps convolved and added, then normalised and convolved once more."""

    def __init__(self, first: int, second: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(first, outputs, 3, padding=1)
        self.second = nn.Conv2d(second, outputs, 3, padding=1)
        self.after = _before(outputs, outputs, 1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return a tensor of the size of both."""
        return self.after(self.first(first) + self.second(second))


class EdgeSegNet(nn.Module):
    """Stem, three residual bottlenecks, two global paths, two refine modules."""

    def __init__(self, classes: int = 20, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 7, 2, 3), nn.MaxPool2d(3, 2, 1))
        self.level1 = Bottleneck(width, 4 * width, 4 * width, 1)
        self.level2 = Bottleneck(4 * width, 4 * width, 6 * width)
        self.level3 = Bottleneck(6 * width, 6 * width, 8 * width)
        self.global2 = Reduction(4 * width, 4 * width, 4)
        self.global3 = Reduction(8 * width, 4 * width, 2)
        self.refine2 = Refine(6 * width, 4 * width, 4 * width)
        self.refine1 = Refine(4 * width, 4 * width, 4 * width)
        self.classify = nn.Conv2d(4 * width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits of shape [N, classes, H, W]."""
        level1 = self.level1(self.stem(image))
        level2 = self.level2(level1)
        level3 = self.level3(level2)
        refined = self.refine2(level2, _resized(self.global3(level3), 4))
        refined = self.refine1(level1 + _resized(self.global2(level1), 4), _resized(refined, 2))
        return _resized(self.classify(refined), 4)


def _resized(x: Tensor, factor: int) -> Tensor:
    return functional.interpolate(
        x, scale_factor=float(factor), mode="bilinear", align_corners=False
    )
