"""Diverse Branch Blocks: four branches of different depth that are one convolution.

Ding et al., "Diverse Branch Block: Building a Convolution as an Inception-like Unit" (CVPR 2021).
A k×k convolution is trained as the sum of k×k, of 1x1, of 1x1 and average pooling, and of 1x1 and
k×k, with a BN behind every one of them. A BN in front of a padded window would break the border, so
that BN pads as well, with the value it gives to zero: the whole block is linear and merges exactly.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from examples.seeds.merging import (
    ConvNorm,
    Kernel,
    as_conv,
    average,
    chained,
    identity,
    of_conv,
    scale_and_shift,
)
from examples.seeds.resnet import ResNet18


class NormThenPad(nn.Module):
    """A BN that pads its result with what it makes of zero, the border written in place."""

    def __init__(self, channels: int, padding: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, C, H + 2 · padding, W + 2 · padding]."""
        x = self.norm(x)
        width = self.padding
        if width == 0:
            return x
        x = functional.pad(x, [width] * 4)
        _, shift = scale_and_shift(self.norm)
        border = shift.reshape(1, -1, 1, 1)
        x[:, :, :width, :] = border
        x[:, :, -width:, :] = border
        x[:, :, :, :width] = border
        x[:, :, :, -width:] = border
        return x


class NormThenShiftedPad(NormThenPad):
    """The same in plain arithmetic: zeros padded around what differs from the border's value."""

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, C, H + 2 · padding, W + 2 · padding]."""
        _, shift = scale_and_shift(self.norm)
        border = shift.reshape(1, -1, 1, 1)
        return functional.pad(self.norm(x) - border, [self.padding] * 4) + border


class NormThenConcatPad(NormThenPad):
    """The same by joining rows and columns of the border's value to the tensor."""

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, C, H + 2 · padding, W + 2 · padding]."""
        x = self.norm(x)
        _, shift = scale_and_shift(self.norm)
        border = shift.reshape(1, -1, 1, 1)
        batch, channels, height, width = x.shape
        row = border.expand(batch, channels, self.padding, width)
        x = torch.cat([row, x, row], 2)
        column = border.expand(batch, channels, height + 2 * self.padding, self.padding)
        return torch.cat([column, x, column], 3)


class NearIdentity(nn.Conv2d):
    """A pointwise convolution that learns how it differs from doing nothing."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(channels, channels, 1, groups=groups, bias=False)
        self.register_buffer("start", identity(channels, groups, self.weight).weight)

    def total(self) -> Tensor:
        """The weight it convolves with."""
        return self.weight + self.start

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with identity plus weight."""
        return functional.conv2d(x, self.total(), groups=self.groups)


class DiverseBranchBlock(nn.Module):
    """k×k, 1x1, 1x1 → average and 1x1 → k×k, summed.

    A depthwise block has no 1x1 branch, averages its input as it is, and its sequence is twice as
    wide inside.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        stride: Step of both axes.
        kernel: Odd extent of the window, padded by half of it.
        groups: Groups of channels.
        norm_then_pad: How the BN in front of a window pads.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int = 1,
        kernel: int = 3,
        groups: int = 1,
        norm_then_pad: Callable[[int, int], NormThenPad] = NormThenPad,
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.groups = kernel, stride, groups
        padding = kernel // 2
        depthwise = groups == outputs
        self.direct = ConvNorm(inputs, outputs, kernel, stride, groups)
        self.point = None if depthwise else ConvNorm(inputs, outputs, 1, stride, groups)
        self.before_average = None
        if not depthwise:
            self.before_average = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, groups=groups, bias=False),
                norm_then_pad(outputs, padding),
            )
        self.average = nn.AvgPool2d(kernel, stride, padding if depthwise else 0)
        self.after_average = nn.BatchNorm2d(outputs)
        inside = 2 * inputs if depthwise else inputs
        self.before_window = nn.Sequential(
            nn.Conv2d(inputs, inside, 1, groups=groups, bias=False)
            if depthwise
            else NearIdentity(inputs, groups),
            norm_then_pad(inside, padding),
        )
        self.window = nn.Conv2d(inside, outputs, kernel, stride, groups=groups, bias=False)
        self.after_window = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the branches."""
        total = self.direct(x)
        if self.point is not None:
            total = total + self.point(x)
        pooled = x if self.before_average is None else self.before_average(x)
        total = total + self.after_average(self.average(pooled))
        return total + self.after_window(self.window(self.before_window(x)))

    def merged(self) -> nn.Module:
        """One convolution."""
        total = self.direct.kernel() + self._averaged() + self._sequence()
        if self.point is not None:
            total = total + self.point.kernel()
        return as_conv(total, self.stride, self.groups)

    def _averaged(self) -> Kernel:
        outputs = self.after_average.num_features
        pooling = average(outputs, self.groups, self.kernel, self.window.weight)
        if self.before_average is None:
            return pooling.then_norm(self.after_average)
        conv, padded = self.before_average
        before = of_conv(conv).then_norm(padded.norm)
        return chained(before, pooling, self.groups).then_norm(self.after_average)

    def _sequence(self) -> Kernel:
        conv, padded = self.before_window
        weight = conv.total() if isinstance(conv, NearIdentity) else conv.weight
        first = Kernel(weight, weight.new_zeros(weight.shape[0])).then_norm(padded.norm)
        chain = chained(first, of_conv(self.window), self.groups)
        return chain.then_norm(self.after_window)


class BlockStack(nn.Module):
    """A dense, a strided and a depthwise block in a row, to try a way of padding."""

    def __init__(self, norm_then_pad: Callable[[int, int], NormThenPad] = NormThenPad) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            DiverseBranchBlock(inputs, outputs, stride, kernel, groups, norm_then_pad)
            for inputs, outputs, stride, kernel, groups in (
                (3, 16, 1, 3, 1),
                (16, 32, 2, 5, 1),
                (32, 32, 1, 3, 32),
                (32, 32, 1, 3, 4),
            )
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return [N, 32, H / 2, W / 2]."""
        for block in self.blocks:
            image = functional.relu(block(image))
        return image


class MobileNet(nn.Module):
    """MobileNet (Howard et al., 2017) whose k×k layers are diverse branch blocks."""

    _STAGES = (
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        *((512, 1),) * 5,
        (1024, 2),
        (1024, 1),
    )

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = [DiverseBranchBlock(3, 32, 2), nn.ReLU()]
        inputs = 32
        for outputs, stride in self._STAGES:
            layers += [DiverseBranchBlock(inputs, inputs, stride, groups=inputs), nn.ReLU()]
            layers += [ConvNorm(inputs, outputs, 1), nn.ReLU()]
            inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.classify = nn.Linear(inputs, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits of shape [N, classes]."""
        return self.classify(self.layers(image).mean((2, 3)))


def dbb_mobilenet() -> nn.Module:
    """MobileNet of diverse branch blocks."""
    return MobileNet()


def dbb_resnet18() -> nn.Module:
    """ResNet-18 of diverse branch blocks."""
    return ResNet18(DiverseBranchBlock)
