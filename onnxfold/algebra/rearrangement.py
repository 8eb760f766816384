"""Moves between space and channels: data folding, pixel shuffle, nearest upsampling."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from onnxfold.algebra.convmap import ConvMap, trimmed
from onnxfold.algebra.groups import map_from_columns
from onnxfold.algebra.refusal import AlgebraError

Positions = npt.NDArray[np.int64]
Order = Literal["DCR", "CRD"]


def block_positions(channels: int, block: Sequence[int], order: Order) -> Positions:
    """Which (channel, *phase) of the fine side each folded channel holds.

    Args:
        channels: Channels of the fine side.
        block: Block size per axis.
        order: "DCR" puts the phase before the channel (ONNX SpaceToDepth), "CRD" the channel
            before the phase (PixelUnshuffle); the last axis' phase runs fastest in both.

    Returns:
        Shape (channels · prod(block), 1 + rank).
    """
    count = math.prod(block)
    phases = np.array(list(np.ndindex(*block)), np.int64).reshape(count, len(tuple(block)))
    if order == "DCR":
        channel = np.tile(np.arange(channels), count)
        phase = np.repeat(phases, channels, axis=0)
    else:
        channel = np.repeat(np.arange(channels), count)
        phase = np.tile(phases, (channels, 1))
    return np.concatenate([channel[:, None], phase], axis=1).astype(np.int64)


def space_to_depth(channels: int, block: Sequence[int], order: Order = "DCR") -> ConvMap:
    """SpaceToDepth ("DCR") or PixelUnshuffle ("CRD"): one-hot taps, s = block."""
    return phases_to_channels(channels, block, block_positions(channels, block, order))


def depth_to_space(channels: int, block: Sequence[int], order: Order = "DCR") -> ConvMap:
    """DepthToSpace; `channels` counts the outputs, so the input has channels · prod(block)."""
    return channels_to_phases(channels, block, block_positions(channels, block, order))


def phases_to_channels(channels: int, block: Sequence[int], positions: Positions) -> ConvMap:
    """`y[j][o] = x[c_j][block·o + phase_j]`, any (channel, *phase) list: t = phase, s = block.

    Args:
        channels: Input channels.
        block: Block size per axis.
        positions: Shape (out_channels, 1 + rank); row j is (c_j, *phase_j). This is any patch
            folding, Focus slices included, with repeated or missing phases allowed.

    Raises:
        AlgebraError: If a row lies outside the channels or the block.
    """
    rows = _checked(channels, block, positions)
    count, rank = rows.shape[0], rows.shape[1] - 1
    kernel = np.zeros((count, 1, *block))
    kernel[(np.arange(count), np.zeros(count, np.int64), *rows[:, 1:].T)] = 1.0
    like = ConvMap(kernel, np.zeros(count), count, (0,) * rank, (1,) * rank, tuple(block))
    return trimmed(map_from_columns(like, kernel, rows[:, :1], like.bias, channels))


def channels_to_phases(channels: int, block: Sequence[int], positions: Positions) -> ConvMap:
    """`y[c_j][block·i + phase_j] = x[j][i]`: t = −phase, u = block; what nobody writes is zero.

    Args:
        channels: Output channels.
        block: Block size per axis.
        positions: Shape (in_channels, 1 + rank); row j is (c_j, *phase_j).

    Raises:
        AlgebraError: If a row lies outside the channels or the block.
    """
    rows = _checked(channels, block, positions)
    rank = rows.shape[1] - 1
    writers = np.bincount(rows[:, 0], minlength=channels)
    by_channel = np.argsort(rows[:, 0], kind="stable")
    slot = np.arange(rows.shape[0]) - np.repeat(np.cumsum(writers) - writers, writers)
    target, phase = rows[by_channel, 0], rows[by_channel, 1:]
    columns = np.zeros((channels, int(writers.max())), np.int64)
    columns[target, slot] = by_channel
    kernel = np.zeros((*columns.shape, *block))
    kernel[(target, slot, *(np.asarray(block, np.int64) - 1 - phase).T)] = 1.0
    one = (1,) * rank
    like = ConvMap(kernel, np.zeros(channels), 1, tuple(1 - b for b in block), tuple(block), one)
    return trimmed(map_from_columns(like, kernel, columns, like.bias, rows.shape[0]))


def nearest_upsample(channels: int, factors: Sequence[int]) -> ConvMap:
    """`y[o] = x[⌊o / n⌋]`: depthwise ones at t = −(n − 1) … 0, u = n."""
    rank = len(tuple(factors))
    origin = tuple(1 - n for n in factors)
    kernel = np.ones((channels, 1, *factors))
    return ConvMap(kernel, np.zeros(channels), channels, origin, tuple(factors), (1,) * rank)


def _checked(channels: int, block: Sequence[int], positions: Positions) -> Positions:
    rows = np.asarray(positions, np.int64)
    if rows.ndim != 2 or rows.shape[1] != 1 + len(tuple(block)):
        raise AlgebraError(f"positions of shape {rows.shape} for {len(tuple(block))} axes")
    if (rows < 0).any() or (rows >= np.asarray((channels, *block))).any():
        raise AlgebraError("a position lies outside the channels or the block")
    return rows
