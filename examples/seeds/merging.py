"""How blocks that are trained with several branches become one convolution: the formulas.

A block that has a merged form implements ``merged() -> nn.Module``; `reparameterize` replaces every
such block of a network. The arithmetic runs in the dtype of the weights, so a network in float64
can be compared with its merged form almost exactly.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Kernel:
    """The map ``y = weight * x + bias`` of a convolution whose kernel sits in the middle.

    Attributes:
        weight: [C_out, C_in / groups, height, width], both extents odd.
        bias: [C_out].
    """

    weight: Tensor
    bias: Tensor

    def __add__(self, other: Kernel) -> Kernel:
        """The sum of two parallel branches, the smaller kernel in the middle of the larger."""
        height = max(self.weight.shape[2], other.weight.shape[2])
        width = max(self.weight.shape[3], other.weight.shape[3])
        return Kernel(
            _grown(self.weight, height, width) + _grown(other.weight, height, width),
            self.bias + other.bias,
        )

    def then_norm(self, norm: nn.modules.batchnorm._BatchNorm) -> Kernel:
        """This map followed by a BN in evaluation mode."""
        scale, shift = scale_and_shift(norm)
        return self.then_affine(scale, shift)

    def then_affine(self, scale: Tensor, shift: Tensor) -> Kernel:
        """This map followed by a factor and a constant, both [C_out]."""
        return Kernel(self.weight * scale.reshape(-1, 1, 1, 1), self.bias * scale + shift)

    def then_pointwise(self, point: Kernel) -> Kernel:
        """This map followed by a 1x1 convolution without groups."""
        matrix = point.weight[:, :, 0, 0]
        return Kernel(
            torch.einsum("om,mihw->oihw", matrix, self.weight), matrix @ self.bias + point.bias
        )


def scale_and_shift(norm: nn.modules.batchnorm._BatchNorm) -> tuple[Tensor, Tensor]:
    """A BN in evaluation mode as factor and constant, both [C]."""
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def _grown(weight: Tensor, height: int, width: int) -> Tensor:
    rows, columns = height - weight.shape[2], width - weight.shape[3]
    return functional.pad(weight, [columns // 2, columns // 2, rows // 2, rows // 2])


def of_conv(conv: nn.Conv2d) -> Kernel:
    """The kernel of a convolution; a dilated one has zeros between its taps."""
    bias = conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias
    return Kernel(spread(conv.weight, conv.dilation[0]), bias)


def spread(weight: Tensor, dilation: int) -> Tensor:
    """The taps of a dilated kernel, with the zeros between them."""
    if dilation == 1:
        return weight
    height = (weight.shape[2] - 1) * dilation + 1
    width = (weight.shape[3] - 1) * dilation + 1
    dense = weight.new_zeros(*weight.shape[:2], height, width)
    dense[:, :, ::dilation, ::dilation] = weight
    return dense


def identity(channels: int, groups: int, like: Tensor) -> Kernel:
    """The kernel that does nothing, 1×1."""
    width = channels // groups
    weight = torch.eye(width, dtype=like.dtype).repeat(groups, 1).reshape(channels, width, 1, 1)
    return Kernel(weight, like.new_zeros(channels))


def average(channels: int, groups: int, size: int, like: Tensor) -> Kernel:
    """The kernel of an average pooling that counts the padding."""
    one = identity(channels, groups, like)
    return Kernel(one.weight.expand(-1, -1, size, size) / size**2, one.bias)


def chained(first: Kernel, second: Kernel, groups: int = 1) -> Kernel:
    """``second`` after a pointwise ``first``, both with ``groups``.

    Exact at the border if what ``second`` reads there is the bias of ``first``.
    """
    outer = second.weight.unflatten(0, (groups, -1))
    inner = first.weight[:, :, 0, 0].unflatten(0, (groups, -1))
    weight = torch.einsum("gomhw,gmi->goihw", outer, inner).flatten(0, 1)
    through = torch.einsum("gomhw,gm->go", outer, first.bias.unflatten(0, (groups, -1)))
    return Kernel(weight, second.bias + through.flatten())


def as_conv(kernel: Kernel, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution with this kernel that pads half of it on every side."""
    weight = kernel.weight
    height, width = weight.shape[2:]
    conv = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        (height, width),
        stride,
        (height // 2, width // 2),
        groups=groups,
        dtype=weight.dtype,
    )
    with torch.no_grad():
        conv.weight.copy_(weight)
        conv.bias.copy_(kernel.bias)
    return conv


class ConvNorm(nn.Module):
    """A convolution without bias followed by BN; merged, it is one convolution.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        kernel: Extent, or height and width; padded by half of it.
        stride: Step of both axes.
        groups: Groups of channels.
        dilation: Distance of the taps.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        extents = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = tuple(dilation * (extent // 2) for extent in extents)
        self.conv = nn.Conv2d(
            inputs, outputs, extents, stride, padding, dilation, groups, bias=False
        )
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and normalise."""
        return self.norm(self.conv(x))

    def kernel(self) -> Kernel:
        """Both as one kernel, dense where the convolution is dilated."""
        return of_conv(self.conv).then_norm(self.norm)

    def merged(self) -> nn.Module:
        """One convolution, of the same dilation."""
        scale, shift = scale_and_shift(self.norm)
        conv = copy.deepcopy(self.conv)
        with torch.no_grad():
            conv.weight.mul_(scale.reshape(-1, 1, 1, 1))
            conv.bias = nn.Parameter(shift)
        return conv


class PlainConvNorm(ConvNorm):
    """The same, in a network whose authors leave this BN behind when they merge."""

    def merged(self) -> nn.Module:
        """Itself, unmerged."""
        return self


@torch.no_grad()
def reparameterize(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in which every block with a merged form has taken it."""
    return _replaced(copy.deepcopy(model)).eval()


def _replaced(module: nn.Module) -> nn.Module:
    if hasattr(module, "merged"):
        return module.merged()
    for name, child in module.named_children():
        setattr(module, name, _replaced(child))
    return module
