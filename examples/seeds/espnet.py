"""ESPNet: pyramids of dilated convolutions whose sums are joined.

Mehta et al., "ESPNet: Efficient Spatial Pyramid of Dilated Convolutions for Semantic Segmentation"
(ECCV 2018). A block reduces its channels by 1x1, convolves the result with dilations 1, 2, 4, 8 and
16, adds these up one after another, joins the partial sums and adds its input. Everything in a
block is linear up to its BN and PReLU, yet as one convolution it would be a dense kernel of 33x33:
it must stay as it is. What folds are the BN, and the joins with the image (input reinforcement).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_DILATIONS = (1, 2, 4, 8, 16)


class NormPReLU(nn.Sequential):
    """BN and PReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.BatchNorm2d(channels), nn.PReLU(channels))


class Pyramid(nn.Module):
    """1x1 or strided 3x3, dilated 3x3 in parallel, partial sums joined."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, dilations: int = 5) -> None:
        super().__init__()
        inside = outputs // dilations
        kernel = 1 if stride == 1 else 3
        self.reduce = nn.Conv2d(inputs, inside, kernel, stride, kernel // 2, bias=False)
        widths = [outputs - inside * (dilations - 1)] + [inside] * (dilations - 1)
        self.branches = nn.ModuleList(
            nn.Conv2d(inside, width, 3, padding=dilation, dilation=dilation, bias=False)
            for width, dilation in zip(widths, _DILATIONS[:dilations], strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs, H / stride, W / stride]."""
        reduced = self.reduce(x)
        first, *others = (branch(reduced) for branch in self.branches)
        sums = [others[0]]
        for branch in others[1:]:
            sums.append(sums[-1] + branch)
        return torch.cat([first, *sums], 1)


class Block(nn.Module):
    """A pyramid with BN and PReLU, beside a skip where nothing changes the shape."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, skip: bool = True) -> None:
        super().__init__()
        self.pyramid = Pyramid(inputs, outputs, stride)
        self.after = NormPReLU(outputs)
        self.skip = skip and inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs, H / stride, W / stride]."""
        total = self.pyramid(x)
        return self.after(total + x if self.skip else total)


class EspNet(nn.Module):
    """Encoder of three levels, each joined with the shrunken image, and a light decoder."""

    def __init__(self, classes: int = 20, depths: tuple[int, int] = (2, 3)) -> None:
        super().__init__()
        self.shrink = nn.AvgPool2d(3, 2, 1)
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), NormPReLU(16))
        self.join1 = NormPReLU(16 + 3)
        self.down2 = Block(16 + 3, 64, 2)
        self.level2 = nn.Sequential(*(Block(64, 64) for _ in range(depths[0])))
        self.join2 = NormPReLU(128 + 3)
        self.down3 = Block(128 + 3, 128, 2)
        self.level3 = nn.Sequential(*(Block(128, 128) for _ in range(depths[1])))
        self.join3 = NormPReLU(256)
        self.classify3 = nn.Conv2d(256, classes, 1, bias=False)
        self.up3 = nn.Sequential(
            nn.BatchNorm2d(classes),
            nn.ConvTranspose2d(classes, classes, 2, 2, bias=False),
            NormPReLU(classes),
        )
        self.project2 = nn.Conv2d(128 + 3, classes, 1, bias=False)
        self.fuse2 = nn.Sequential(NormPReLU(2 * classes), Block(2 * classes, classes, skip=False))
        self.up2 = nn.Sequential(
            nn.ConvTranspose2d(classes, classes, 2, 2, bias=False), NormPReLU(classes)
        )
        self.fuse1 = nn.Sequential(
            nn.Conv2d(16 + 3 + classes, classes, 3, padding=1, bias=False), NormPReLU(classes)
        )
        self.last = nn.ConvTranspose2d(classes, classes, 2, 2, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits of shape [N, classes, H, W]."""
        half = self.shrink(image)
        level1 = self.join1(torch.cat([self.stem(image), half], 1))
        start2 = self.down2(level1)
        level2 = self.join2(torch.cat([self.level2(start2), start2, self.shrink(half)], 1))
        start3 = self.down3(level2)
        level3 = self.join3(torch.cat([start3, self.level3(start3)], 1))
        up = self.up3(self.classify3(level3))
        up = self.up2(self.fuse2(torch.cat([self.project2(level2), up], 1)))
        return self.last(self.fuse1(torch.cat([up, level1], 1)))
