"""QARepVGG in the trunk of YOLOv6-N: branches whose sum is normalised once more.

Chu et al., "Make RepVGG Greater Again: A Quantization-Aware Approach" (AAAI 2024): 3x3 with BN,
1x1 without, the identity, their sum, and a BN behind it. All of that is linear and one 3x3
convolution; the authors keep the last BN. The trunk is that of YOLOv6-N (Li et al., "YOLOv6 v3.0: A
Full-Scale Reloading"): five stages, a cross-stage pooling pyramid, and a neck that fuses three
levels at a time; two 1x1 convolutions read the finest map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from examples.seeds.merging import ConvNorm, as_conv, identity, of_conv


class MergedQuantizable(nn.Module):
    """What the authors run: one convolution, the last BN, ReLU."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs, H / stride, W / stride]."""
        return functional.relu(self.norm(self.conv(x)))


class QuantizableBlock(nn.Module):
    """3x3 with BN + 1x1 + identity, then BN and ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.dense = ConvNorm(inputs, outputs, 3, stride)
        self.point = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.has_identity = inputs == outputs and stride == 1
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs, H / stride, W / stride]."""
        total = self.dense(x) + self.point(x)
        if self.has_identity:
            total = total + x
        return functional.relu(self.norm(total))

    def merged(self) -> nn.Module:
        """One 3x3 convolution and the last BN."""
        kernel = self.dense.kernel() + of_conv(self.point)
        if self.has_identity:
            kernel = kernel + identity(self.point.out_channels, 1, self.point.weight)
        return MergedQuantizable(as_conv(kernel, self.stride), self.norm)


def _blocks(inputs: int, outputs: int, count: int) -> nn.Sequential:
    return nn.Sequential(
        QuantizableBlock(inputs, outputs),
        *(QuantizableBlock(outputs, outputs) for _ in range(count - 1)),
    )


class ConvNormReLU(nn.Sequential):
    """A convolution with BN and ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(ConvNorm(inputs, outputs, kernel, stride), nn.ReLU())


class PoolingPyramid(nn.Module):
    """Three max poolings in a row, joined, beside a bypass."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        inside = outputs // 2
        self.enter = nn.Sequential(
            ConvNormReLU(inputs, inside, 1),
            ConvNormReLU(inside, inside, 3),
            ConvNormReLU(inside, inside, 1),
        )
        self.bypass = ConvNormReLU(inputs, inside, 1)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.leave = nn.Sequential(
            ConvNormReLU(4 * inside, inside, 1), ConvNormReLU(inside, inside, 3)
        )
        self.join = ConvNormReLU(2 * inside, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs, H, W]."""
        maps = [self.enter(x)]
        for _ in range(3):
            maps.append(self.pool(maps[-1]))
        return self.join(torch.cat([self.bypass(x), self.leave(torch.cat(maps, 1))], 1))


class FuseThree(nn.Module):
    """A coarse map upsampled, one of this size and a fine one downsampled, joined."""

    def __init__(self, coarse: int, here: int, fine: int, outputs: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(coarse, outputs, 2, 2)
        self.here = ConvNormReLU(here, outputs, 1)
        self.fine = ConvNormReLU(fine, outputs, 1)
        self.down = ConvNormReLU(outputs, outputs, 3, 2)
        self.join = ConvNormReLU(3 * outputs, outputs, 1)

    def forward(self, coarse: Tensor, here: Tensor, fine: Tensor) -> Tensor:
        """Return [N, outputs, H, W] of the size of ``here``."""
        maps = [self.up(coarse), self.here(here), self.down(self.fine(fine))]
        return self.join(torch.cat(maps, 1))


class Yolov6Trunk(nn.Module):
    """Backbone and neck of YOLOv6-N, with two 1x1 convolutions on the finest map."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = QuantizableBlock(3, 16, 2)
        widths, counts = (16, 32, 64, 128, 256), (2, 4, 6, 2)
        self.stages = nn.ModuleList(
            nn.Sequential(QuantizableBlock(inputs, outputs, 2), _blocks(outputs, outputs, count))
            for inputs, outputs, count in zip(widths[:-1], widths[1:], counts, strict=True)
        )
        self.pyramid = PoolingPyramid(256, 256)
        self.reduce0 = ConvNormReLU(256, 64, 1)
        self.fuse0 = FuseThree(64, 128, 64, 64)
        self.blocks0 = _blocks(64, 64, 4)
        self.reduce1 = ConvNormReLU(64, 32, 1)
        self.fuse1 = FuseThree(32, 64, 32, 32)
        self.blocks1 = _blocks(32, 32, 4)
        self.down1 = ConvNormReLU(32, 32, 3, 2)
        self.blocks2 = _blocks(64, 64, 4)
        self.down0 = ConvNormReLU(64, 64, 3, 2)
        self.blocks3 = _blocks(128, 128, 4)
        self.classify = nn.Conv2d(32, classes, 1)
        self.regress = nn.Conv2d(32, 4, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return logits and boxes at an eighth of the input's size, and the two coarser maps."""
        maps = [self.stem(image)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        _, fine, middle, coarse, top = maps
        reduced0 = self.reduce0(self.pyramid(top))
        merged0 = self.blocks0(self.fuse0(reduced0, coarse, middle))
        reduced1 = self.reduce1(merged0)
        out2 = self.blocks1(self.fuse1(reduced1, middle, fine))
        out1 = self.blocks2(torch.cat([self.down1(out2), reduced1], 1))
        out0 = self.blocks3(torch.cat([self.down0(out1), reduced0], 1))
        return self.classify(out2), self.regress(out2), out1, out0
