"""Channel groups: make them coarser, or read the finest ones back from the zeros."""

import math

import numpy as np
import numpy.typing as npt

from onnxfold.algebra.convmap import Array, ConvMap, Mask, nonzero
from onnxfold.algebra.refusal import AlgebraError

Columns = npt.NDArray[np.int64]


def finest_groups(conv_map: ConvMap) -> int:
    """The largest number of contiguous, equal groups that the zeros of the kernel allow."""
    return _finest(conv_map.kernel, input_columns(conv_map), conv_map.in_channels)


def with_finest_groups(conv_map: ConvMap) -> ConvMap:
    """The same map in the finest group structure that its zeros allow."""
    return with_groups(conv_map, finest_groups(conv_map))


def with_groups(conv_map: ConvMap, groups: int) -> ConvMap:
    """The same map with another number of groups.

    Coarser groups fill in zeros; finer ones are allowed where the kernel is zero outside them.

    Raises:
        AlgebraError: If the channels do not divide, or a tap would be lost.
    """
    if groups == conv_map.groups:
        return conv_map
    if groups < 1 or conv_map.in_channels % groups or conv_map.out_channels % groups:
        raise AlgebraError(
            f"{conv_map.in_channels} to {conv_map.out_channels} channels in {groups} groups"
        )
    if conv_map.groups % groups == 0:
        return _coarser(conv_map, groups)
    columns = input_columns(conv_map)
    kernel = _scattered(conv_map.kernel, columns, conv_map.in_channels, groups)
    return _replaced(conv_map, kernel, groups)


def input_columns(conv_map: ConvMap) -> Columns:
    """The input channel that every stored (output, input-in-group) entry of the kernel reads.

    Returns:
        Shape (out_channels, in_channels / groups).
    """
    width = conv_map.kernel.shape[1]
    group = np.arange(conv_map.out_channels) // (conv_map.out_channels // conv_map.groups)
    return np.asarray(group[:, None] * width + np.arange(width), np.int64)


def map_from_columns(
    like: ConvMap, kernel: Array, columns: Columns, bias: Array, in_channels: int
) -> ConvMap:
    """A map in its finest groups from entries that each name the input channel they read.

    Nothing is made dense on the way, so wide depthwise maps stay small.

    Args:
        like: Where origin and rates come from.
        kernel: Shape (out_channels, any width, *taps); entries of one channel add up.
        columns: Shape (out_channels, width); what zero entries name does not matter.
        bias: Shape (out_channels,).
        in_channels: Number of input channels.

    Raises:
        AlgebraError: If shapes do not fit.
    """
    groups = _finest(kernel, columns, in_channels)
    compact = _scattered(kernel, columns, in_channels, groups)
    return ConvMap(compact, bias, groups, like.origin, like.up, like.stride)


def _finest(kernel: Array, columns: Columns, in_channels: int) -> int:
    used: Mask = np.asarray(nonzero(kernel).any(axis=tuple(range(2, kernel.ndim))))
    rows = np.flatnonzero(used.any(axis=1))
    first = np.where(used, columns, in_channels)[rows].min(axis=1)
    last = np.where(used, columns, -1)[rows].max(axis=1)
    common = math.gcd(in_channels, kernel.shape[0])
    for groups in range(common, 1, -1):
        if common % groups:
            continue
        home = rows // (kernel.shape[0] // groups)
        width = in_channels // groups
        if (first // width == home).all() and (last // width == home).all():
            return groups
    return 1


def _scattered(kernel: Array, columns: Columns, in_channels: int, groups: int) -> Array:
    """Put every entry where `groups` groups store it."""
    rows, width = kernel.shape[0], in_channels // groups
    home = np.arange(rows) // (rows // groups) * width
    local = columns - home[:, None]
    if local.shape[1] == width and (local == np.arange(width)).all():
        return kernel
    row, entry = np.nonzero(nonzero(kernel).any(axis=tuple(range(2, kernel.ndim))))
    target = local[row, entry]
    if ((target < 0) | (target >= width)).any():
        raise AlgebraError(f"the kernel has taps outside {groups} groups")
    compact = np.zeros((rows, width, *kernel.shape[2:]))
    with np.errstate(over="ignore", invalid="ignore"):
        np.add.at(compact, (row, target), kernel[row, entry])
    return compact


def _coarser(conv_map: ConvMap, groups: int) -> ConvMap:
    ratio = conv_map.groups // groups
    taps = conv_map.taps
    height = conv_map.out_channels // conv_map.groups
    width = conv_map.kernel.shape[1]
    kernel = np.zeros((groups, ratio, height, ratio, width, *taps))
    part = np.arange(ratio)
    old = conv_map.kernel.reshape(groups, ratio, height, width, *taps)
    kernel[:, part, :, part] = np.moveaxis(old, 1, 0)
    return _replaced(conv_map, kernel.reshape(-1, ratio * width, *taps), groups)


def _replaced(conv_map: ConvMap, kernel: Array, groups: int) -> ConvMap:
    return ConvMap(kernel, conv_map.bias, groups, conv_map.origin, conv_map.up, conv_map.stride)
