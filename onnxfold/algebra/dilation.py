"""Taps that all lie on a coarser grid: a small kernel with a dilation."""

import math

import numpy as np

from onnxfold.algebra.convmap import Array, ConvMap, Mask, tap_mask, trimmed, used_on_axis


def undilated(conv_map: ConvMap) -> tuple[Array, tuple[int, ...]]:
    """The smallest kernel, and per axis the distance d of its taps.

    Tap k of the result sits at t = origin + d·k of the trimmed map, so `operators.dilated` of it
    is the trimmed kernel again. An axis with one tap has d = 1.

    Returns:
        Kernel of shape (out_channels, in_channels / groups, *fewer taps), and the dilations.
    """
    cut = trimmed(conv_map)
    used = tap_mask(cut)
    if np.count_nonzero(used) == used.size:  # every tap has its neighbour
        return cut.kernel, (1,) * cut.rank
    dilations = tuple(_distance(used, axis) for axis in range(cut.rank))
    grid = tuple(slice(None, None, d) for d in dilations)
    return cut.kernel[(slice(None), slice(None), *grid)], dilations


def _distance(used: Mask, axis: int) -> int:
    positions = np.flatnonzero(used_on_axis(used, axis))
    return math.gcd(*(int(p) for p in positions)) or 1
