"""The demonstration network: a small encoder-decoder in its training form.

Every structure that a compiler can fold occurs the way published networks have it:

    normalisation in the graph       Sub mean, Div deviation
    data folding (L3U-Net)           Reshape, Transpose, Reshape (2 x 2 pixels to channels), Conv
    RepVGG block                     3x3 + BN, 1x1 + BN, BN, summed, ReLU
    MobileOne block                  the same with several branches, depthwise then pointwise
    separable convolution            depthwise, BN, pointwise, BN with a skip and no nonlinearity
    upsampling                       ConvTranspose + BN; nearest; bilinear
    skips of the decoder             Add of two BN outputs; Concat
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

SIZE = 128
MEAN = (112.0, 112.0, 112.0)
DEVIATION = (62.0, 62.0, 62.0)


def conv_bn(
    inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Return a convolution that keeps the picture's size at stride 1, then BatchNorm."""
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Branches(nn.Module):
    """Parallel 3x3, 1x1 and identity branches, each with BatchNorm, summed, then ReLU.

    Args:
        inputs: Input channels.
        outputs: Output channels; the identity branch exists if these equal the inputs at stride 1.
        sizes: Kernel size of each convolution branch.
        stride: Stride of every branch.
        groups: Groups of every convolution.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        sizes: tuple[int, ...] = (3, 1),
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            conv_bn(inputs, outputs, size, stride, groups) for size in sizes
        )
        if inputs == outputs and stride == 1:
            self.branches.append(nn.BatchNorm2d(inputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return the rectified sum of the branches."""
        total: Tensor = self.branches[0](x)
        for branch in self.branches[1:]:
            total = total + branch(x)
        return functional.relu(total)


def mobile_one(channels: int) -> nn.Sequential:
    """Return a MobileOne block: depthwise branches (3x3 twice, 1x1), then pointwise (1x1 twice)."""
    return nn.Sequential(
        Branches(channels, channels, sizes=(3, 3, 1), groups=channels),
        Branches(channels, channels, sizes=(1, 1)),
    )


class LinearSkip(nn.Module):
    """x + separable(x): wholly linear, so that it equals one dense 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.separable = nn.Sequential(
            conv_bn(channels, channels, 3, groups=channels), conv_bn(channels, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum without an activation."""
        total: Tensor = x + self.separable(x)
        return total


class DemoNet(nn.Module):
    """Segments float32 [N, 3, 128, 128], RGB 0 to 255, into logits [N, classes, 128, 128]."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).reshape(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(DEVIATION).reshape(1, 3, 1, 1))
        # No padding in the stem: a padded zero is not a normalised pixel, so that the mean could
        # not be folded into a padded convolution exactly.
        self.stem = nn.Sequential(conv_bn(12, 24, 1), nn.ReLU())
        self.encode_half = Branches(24, 24)
        self.encode_quarter = nn.Sequential(Branches(24, 40, stride=2), Branches(40, 40))
        self.encode_eighth = nn.Sequential(
            Branches(40, 64, stride=2), LinearSkip(64), mobile_one(64), Branches(64, 64)
        )
        self.encode_sixteenth = nn.Sequential(
            Branches(64, 80, stride=2), LinearSkip(80), mobile_one(80), LinearSkip(80)
        )
        self.to_eighth = nn.Sequential(
            nn.ConvTranspose2d(80, 64, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(64)
        )
        self.skip_eighth = conv_bn(64, 64, 1)
        self.fuse_eighth = Branches(64, 64)
        self.to_quarter = conv_bn(64, 40, 1)
        self.fuse_quarter = nn.Sequential(conv_bn(80, 40, 3), nn.ReLU())
        self.to_half = conv_bn(40, 24, 1)
        self.skip_half = conv_bn(24, 24, 1)
        self.fuse_half = Branches(24, 24)
        self.classifier = nn.Conv2d(24, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits at the picture's own size."""
        x = (image - self.mean) / self.deviation
        # -1 keeps the batch axis dynamic with constant shapes in the exported graph.
        x = x.reshape(-1, 3, SIZE // 2, 2, SIZE // 2, 2).permute(0, 3, 5, 1, 2, 4)
        x = self.stem(x.reshape(-1, 12, SIZE // 2, SIZE // 2))
        half = self.encode_half(x)
        quarter = self.encode_quarter(half)
        eighth = self.encode_eighth(quarter)
        x = self.to_eighth(self.encode_sixteenth(eighth)) + self.skip_eighth(eighth)
        x = self.to_quarter(self.fuse_eighth(functional.relu(x)))
        x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        x = self.fuse_quarter(torch.cat((x, quarter), dim=1))
        x = functional.interpolate(
            self.to_half(x), scale_factor=2.0, mode="bilinear", align_corners=False
        )
        x = self.fuse_half(functional.relu(x + self.skip_half(half)))
        return functional.interpolate(
            self.classifier(x), scale_factor=2.0, mode="bilinear", align_corners=False
        )
