"""Small networks of our own, for what the model packages lack in the form the zoo needs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SemanticFpn(nn.Module):
    """A backbone of four feature maps under a semantic FPN decoder.

    Lateral 1x1 convolutions bring every level to ``width`` channels, the top-down path adds each
    level to the upsampled one above it, a smoothing branch takes each level to the resolution of
    the first (3x3 convolution, BN, ReLU, bilinear upsampling), and their sum is classified.

    Args:
        backbone: Module whose output is a list of maps, each half the size of the one before.
        channels: Channels of each of those maps.
        width: Channels of the decoder.
        classes: Channels of the output, which has a quarter of the input's resolution.
    """

    def __init__(
        self, backbone: nn.Module, channels: list[int], width: int = 64, classes: int = 19
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.lateral = nn.ModuleList(nn.Conv2d(each, width, 1) for each in channels)
        self.smooth = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
            )
            for _ in channels
        )
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits of shape [N, classes, H / 4, W / 4]."""
        features = self.backbone(image)
        levels = [conv(each) for conv, each in zip(self.lateral, features, strict=True)]
        for index in range(len(levels) - 2, -1, -1):
            levels[index] = levels[index] + functional.interpolate(
                levels[index + 1], scale_factor=2.0, mode="nearest"
            )
        total = self.smooth[0](levels[0])
        for index in range(1, len(levels)):
            total = total + functional.interpolate(
                self.smooth[index](levels[index]),
                scale_factor=float(2**index),
                mode="bilinear",
                align_corners=False,
            )
        return self.classify(total)


class LargeKernelBlock(nn.Module):
    """A residual block around a large depthwise convolution with a small one beside it.

    The form of RepLKNet while training: BN, 1x1 up, large and small depthwise convolutions each
    with its own BN, their sum, ReLU, 1x1 down, and the input added back.
    """

    def __init__(self, channels: int, kernel: int, small: int = 5) -> None:
        super().__init__()
        self.before = nn.BatchNorm2d(channels)
        self.up = _conv_bn(channels, channels, 1)
        self.large = _conv_bn(channels, channels, kernel, groups=channels)
        self.small = _conv_bn(channels, channels, small, groups=channels)
        self.down = _conv_bn(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the shape of ``x``."""
        hidden = functional.relu(self.up(self.before(x)))
        hidden = functional.relu(self.large(hidden) + self.small(hidden))
        return x + self.down(hidden)


def _conv_bn(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class LargeKernelNet(nn.Module):
    """Three stages of `LargeKernelBlock` and a segmentation head with a transposed convolution."""

    def __init__(self, classes: int = 11) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _conv_bn(3, 24, 3, stride=2),
            nn.ReLU(),
            _conv_bn(24, 24, 3, groups=24),
            nn.ReLU(),
            _conv_bn(24, 48, 3, stride=2),
            nn.ReLU(),
        )
        self.stage1 = nn.Sequential(LargeKernelBlock(48, 31), LargeKernelBlock(48, 29))
        self.down = nn.Sequential(_conv_bn(48, 64, 1), nn.ReLU(), _conv_bn(64, 64, 3, 2, 64))
        self.stage2 = nn.Sequential(LargeKernelBlock(64, 13), LargeKernelBlock(64, 13))
        self.up = nn.Sequential(
            nn.ConvTranspose2d(64, 32, 4, stride=4, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 32, 3, stride=2, padding=1, output_padding=1, groups=8),
            nn.BatchNorm2d(32),
        )
        self.classify = nn.Conv2d(32, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits of shape [N, classes, H, W]."""
        return self.classify(self.up(self.stage2(self.down(self.stage1(self.stem(image))))))


class StandardisedConv2d(nn.Conv2d):
    """A convolution whose weight is standardised per output channel in the forward pass.

    Mean and variance are spelled out, so that the graph computes the weight with ordinary
    arithmetic; PyTorch's shorter form calls batch normalisation in training mode, which ONNX
    Runtime does not run.
    """

    epsilon = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with the standardised weight."""
        mean = self.weight.mean(dim=(1, 2, 3), keepdim=True)
        centred = self.weight - mean
        variance = (centred * centred).mean(dim=(1, 2, 3), keepdim=True)
        return functional.conv2d(
            x,
            centred / torch.sqrt(variance + self.epsilon),
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )


def standardise_in_graph(model: nn.Module) -> nn.Module:
    """Give every weight-standardised convolution of timm the arithmetic form; returns ``model``."""
    for module in model.modules():
        if type(module).__name__ in ("StdConv2d", "StdConv2dSame"):
            if getattr(module, "same_pad", False):
                raise ValueError("a dynamically padded convolution has no arithmetic form here")
            module.__class__ = StandardisedConv2d
    return model


class Picked(nn.Module):
    """A model whose output is a mapping or a structure, reduced to the tensors under ``keys``."""

    def __init__(self, model: nn.Module, *keys: str | int) -> None:
        super().__init__()
        self.model = model
        self.keys = keys

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the picked tensors, bare when there is one."""
        outputs = self.model(image)
        picked = tuple(outputs[key] for key in self.keys)
        return picked[0] if len(picked) == 1 else picked
