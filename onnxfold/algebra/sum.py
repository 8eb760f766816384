"""Add maps that read the same input and write the same positions."""

import math
from collections.abc import Sequence
from functools import reduce

import numpy as np

from onnxfold.algebra.convmap import Array, ConvMap, is_zero, padded, trimmed
from onnxfold.algebra.groups import with_groups
from onnxfold.algebra.refusal import AlgebraError, Cause, Refusal, by_axis


def sum_of(maps: Sequence[ConvMap]) -> ConvMap | Refusal:
    """The map `x ↦ Σ_j maps[j](x)`, exact at every output with no condition on borders.

    Origins are aligned by zero taps, groups made as coarse as needed. Two maps with different
    reduced rates have no common kernel, unless one of them reads nothing.

    Returns:
        The sum in gcd(groups) groups, or a refusal (`RATES`).

    Raises:
        AlgebraError: If there is no map, or channels or ranks differ.
    """
    if not maps:
        raise AlgebraError("a sum needs at least one map")
    aligned = align(maps)
    if isinstance(aligned, Refusal):
        return aligned
    channels = (maps[0].out_channels, maps[0].in_channels)
    if any((m.out_channels, m.in_channels) != channels for m in maps):
        raise AlgebraError("the maps of a sum have the same channels")
    groups = math.gcd(*(m.groups for m in maps))
    parts = [with_groups(m, groups) for m in aligned]
    with np.errstate(over="ignore", invalid="ignore"):
        kernel: Array = reduce(np.add, [m.kernel for m in parts])
        bias: Array = reduce(np.add, [m.bias for m in parts])
    first = parts[0]
    return trimmed(ConvMap(kernel, bias, groups, first.origin, first.up, first.stride))


def align(maps: Sequence[ConvMap]) -> list[ConvMap] | Refusal:
    """Bring maps to the same rates, origin and taps by zero taps; channels may differ.

    Returns:
        The maps in their order, or a refusal (`RATES`).

    Raises:
        AlgebraError: If the ranks differ.
    """
    if any(m.rank != maps[0].rank for m in maps):
        raise AlgebraError("the maps have the same number of spatial axes")
    reading = [m for m in maps if not is_zero(m)] or [maps[0]]
    up, stride = reading[0].up, reading[0].stride
    for m in reading:
        if (m.up, m.stride) != (up, stride):
            return Refusal(
                Cause.RATES,
                f"one branch upsamples by {by_axis(up)} and strides by {by_axis(stride)}, another "
                f"upsamples by {by_axis(m.up)} and strides by {by_axis(m.stride)}",
            )
    origin = tuple(min(column) for column in zip(*(m.origin for m in reading), strict=True))
    last = tuple(max(column) for column in zip(*(m.last for m in reading), strict=True))
    return [_spread(m, origin, last, up, stride) for m in maps]


def _spread(
    conv_map: ConvMap,
    origin: tuple[int, ...],
    last: tuple[int, ...],
    up: tuple[int, ...],
    stride: tuple[int, ...],
) -> ConvMap:
    if is_zero(conv_map):
        taps = tuple(b - a + 1 for a, b in zip(origin, last, strict=True))
        kernel: Array = np.zeros((*conv_map.kernel.shape[:2], *taps))
    elif conv_map.origin == origin and conv_map.last == last:
        return conv_map
    else:
        kernel = padded(
            conv_map.kernel,
            [a - first for a, first in zip(conv_map.origin, origin, strict=True)],
            [end - b for b, end in zip(conv_map.last, last, strict=True)],
        )
    return ConvMap(kernel, conv_map.bias, conv_map.groups, origin, up, stride)
