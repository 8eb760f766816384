"""What a map costs, from its footprint alone, so that nothing is multiplied out to ask."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxfold.algebra.convmap import ConvMap, tap_mask, used_on_axis
from onnxfold.algebra.refusal import AlgebraError, Cause, Refusal

Block = tuple[int, int, int, int]
"""First output channel and the one behind the last, and the same of the input."""

_MANY_BLOCKS = 16
"""From here on it is not worth keeping account of blocks: exporters split into a handful."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """The shape of a map without its numbers.

    Attributes:
        out_channels: Output channels.
        in_channels: Input channels over all groups.
        groups: Channel groups.
        offsets: Per axis, the sorted tap indices t that may be nonzero.
        up: u per axis, coprime with s.
        stride: s per axis.
        blocks: Between which channels weights may be nonzero, where that is less than all; None
            where it is not known to be. What they show about groups is in `groups`.
    """

    out_channels: int
    in_channels: int
    groups: int
    offsets: tuple[tuple[int, ...], ...]
    up: tuple[int, ...]
    stride: tuple[int, ...]
    blocks: tuple[Block, ...] | None = None

    @property
    def taps(self) -> tuple[int, ...]:
        """Per axis, the kernel size that a Conv with a dilation needs."""
        return tuple(_grid(offsets) for offsets in self.offsets)

    @property
    def weights(self) -> int:
        """Numbers in the kernel."""
        return self.out_channels * self.in_channels // self.groups * math.prod(self.taps)

    @property
    def parameters(self) -> int:
        """Numbers in kernel and bias."""
        return self.weights + self.out_channels

    def multiply_adds(self, out_extents: Sequence[int]) -> int:
        """Multiply-adds for one image; with u > 1 an output reads one u-th of the taps, on average.

        Args:
            out_extents: Output size per axis.
        """
        return self.weights * math.prod(out_extents) // math.prod(self.up)


def footprint(conv_map: ConvMap) -> Footprint:
    """The footprint of a map: its groups as they are, its zero taps left out."""
    offsets, used = [], tap_mask(conv_map)
    for axis in range(conv_map.rank):
        positions = np.flatnonzero(used_on_axis(used, axis)) + conv_map.origin[axis]
        offsets.append(tuple(positions.tolist()) or (0,))
    return Footprint(
        conv_map.out_channels,
        conv_map.in_channels,
        conv_map.groups,
        tuple(offsets),
        conv_map.up,
        conv_map.stride,
    )


def composed_footprint(outer: Footprint, inner: Footprint) -> Footprint | Refusal:
    """The footprint of `compose`, or larger; a refusal (`PERIODIC`) unless gcd(s1, u2) = 1.

    Raises:
        AlgebraError: If channels or ranks do not fit.
    """
    if outer.in_channels != inner.out_channels or len(outer.up) != len(inner.up):
        raise AlgebraError("the footprints do not fit together")
    if any(math.gcd(s1, u2) != 1 for s1, u2 in zip(inner.stride, outer.up, strict=True)):
        return Refusal(Cause.PERIODIC, "a stride followed by upsampling is no single convolution")
    offsets, up, stride = [], [], []
    for axis, (t1s, t2s) in enumerate(zip(inner.offsets, outer.offsets, strict=True)):
        u2, s1 = outer.up[axis], inner.stride[axis]
        u, s = inner.up[axis] * u2, s1 * outer.stride[axis]
        factor = math.gcd(u, s)
        every = {u2 * t1 + s1 * t2 for t1 in t1s for t2 in t2s}
        kept = sorted(t // factor for t in every if t % factor == 0)
        offsets.append(tuple(kept) or (0,))
        up.append(u // factor)
        stride.append(s // factor)
    blocks = _composed_blocks(outer, inner)
    return Footprint(
        outer.out_channels,
        inner.in_channels,
        max(
            _joint_groups(outer, inner),
            _groups_of(blocks, outer.out_channels, inner.in_channels),
        ),
        tuple(offsets),
        tuple(up),
        tuple(stride),
        blocks,
    )


def summed_footprint(parts: Sequence[Footprint]) -> Footprint | Refusal:
    """The footprint of `sum_of`, or larger; a refusal (`RATES`) where the rates differ.

    Raises:
        AlgebraError: If there is no part, or channels differ.
    """
    if not parts:
        raise AlgebraError("a sum needs at least one part")
    first = parts[0]
    channels = (first.out_channels, first.in_channels)
    if any((p.out_channels, p.in_channels) != channels for p in parts):
        raise AlgebraError("the parts of a sum have the same channels")
    if any((p.up, p.stride) != (first.up, first.stride) for p in parts):
        return Refusal(Cause.RATES, "the branches have different rates")
    columns = zip(*(p.offsets for p in parts), strict=True)
    offsets = tuple(tuple(sorted(set().union(*column))) for column in columns)
    blocks = _joint_blocks(parts)
    groups = max(math.gcd(*(p.groups for p in parts)), _groups_of(blocks, *channels))
    return Footprint(*channels, groups, offsets, first.up, first.stride, blocks)


def multiply_adds(conv_map: ConvMap, out_extents: Sequence[int]) -> int:
    """Multiply-adds of a map for one image, in the groups it has and with dilation used."""
    return footprint(conv_map).multiply_adds(out_extents)


def parameter_count(conv_map: ConvMap) -> int:
    """Numbers in kernel and bias of a map, in the groups it has and with dilation used."""
    return footprint(conv_map).parameters


def _joint_groups(outer: Footprint, inner: Footprint) -> int:
    if outer.groups == outer.in_channels:
        return inner.groups
    if inner.groups == inner.in_channels == inner.out_channels:
        return outer.groups
    return math.gcd(outer.groups, inner.groups)


def _composed_blocks(outer: Footprint, inner: Footprint) -> tuple[Block, ...] | None:
    if outer.blocks is None and inner.blocks is None:
        return None
    found = {
        (first, last, low, high)
        for first, last, begin, end in _blocks(outer)
        for start, stop, low, high in _blocks(inner)
        if start < end and begin < stop
    }
    return _if_few(found)


def _joint_blocks(parts: Sequence[Footprint]) -> tuple[Block, ...] | None:
    if any(part.blocks is None for part in parts):
        return None
    return _if_few({block for part in parts for block in _blocks(part)})


def _blocks(shape: Footprint) -> tuple[Block, ...]:
    everything = ((0, shape.out_channels, 0, shape.in_channels),)
    return everything if shape.blocks is None else shape.blocks


def _if_few(blocks: set[Block]) -> tuple[Block, ...] | None:
    return tuple(sorted(blocks)) if 0 < len(blocks) < _MANY_BLOCKS else None


def _groups_of(blocks: tuple[Block, ...] | None, out_channels: int, in_channels: int) -> int:
    """The largest number of contiguous, equal groups that these blocks do not cross."""
    if blocks is None:
        return 1
    common = math.gcd(out_channels, in_channels)
    for groups in range(min(common, len(blocks)), 1, -1):
        rows, columns = out_channels // groups, in_channels // groups
        if common % groups == 0 and all(
            first // rows == (last - 1) // rows == low // columns == (high - 1) // columns
            for first, last, low, high in blocks
        ):
            return groups
    return 1


def _grid(offsets: tuple[int, ...]) -> int:
    if len(offsets) == 1:
        return 1
    distance = math.gcd(*(t - offsets[0] for t in offsets)) or 1
    return (offsets[-1] - offsets[0]) // distance + 1
