"""ResNet-18 (He et al., "Deep Residual Learning for Image Recognition") around any 3x3 block."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from examples.seeds.merging import ConvNorm

Block = Callable[[int, int, int], nn.Module]
"""Makes a 3x3 layer with its BN: channels in, channels out, stride."""


class Residual(nn.Module):
    """Two 3x3 layers beside a skip, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, block: Block) -> None:
        super().__init__()
        self.first = block(inputs, outputs, stride)
        self.second = block(outputs, outputs, 1)
        same = inputs == outputs and stride == 1
        self.skip = nn.Identity() if same else ConvNorm(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs, H / stride, W / stride]."""
        return functional.relu(self.total(x))

    def total(self, x: Tensor) -> Tensor:
        """The sum, before its activation."""
        return self.second(functional.relu(self.first(x))) + self.skip(x)


class ResNet18(nn.Module):
    """The trunk with a 1x1 convolution for a classifier.

    Args:
        block: What stands for the 3x3 convolutions of the residual blocks.
        classes: Channels of the output.
        width: Channels of the first stage; every other stage doubles them.
    """

    def __init__(self, block: Block, classes: int = 10, width: int = 64) -> None:
        super().__init__()
        self.stem = ConvNorm(3, width, 7, 2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        stages = []
        inputs = width
        for outputs, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
            stages.append(Residual(inputs, outputs, stride, block))
            stages.append(Residual(outputs, outputs, 1, block))
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.classify = nn.Conv2d(inputs, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits of shape [N, classes]."""
        x = self.stages(self.pool(functional.relu(self.stem(image))))
        return self.classify(functional.adaptive_avg_pool2d(x, 1)).flatten(1)
