"""Rows and columns of maps: Concat, Split, Gather of channels, without dense one-hot matrices."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxfold.algebra.convmap import Array, ConvMap, trimmed
from onnxfold.algebra.groups import Columns, input_columns, map_from_columns
from onnxfold.algebra.refusal import AlgebraError, Refusal
from onnxfold.algebra.sum import align


def stack_outputs(maps: Sequence[ConvMap]) -> ConvMap | Refusal:
    """`x ↦ Concat(maps[0](x), maps[1](x), …)` over channels: maps of one input, as one.

    Returns:
        The stacked map in its finest groups, or a refusal (`RATES`).

    Raises:
        AlgebraError: If there is no map, or input channels or ranks differ.
    """
    if not maps or any(m.in_channels != maps[0].in_channels for m in maps):
        raise AlgebraError("stacked maps read the same input channels")
    aligned = align(maps)
    if isinstance(aligned, Refusal):
        return aligned
    columns = [input_columns(m) for m in aligned]
    return _rows_of(aligned, columns, maps[0].in_channels)


def block_diagonal(maps: Sequence[ConvMap]) -> ConvMap | Refusal:
    """`Concat(x_0, x_1, …) ↦ Concat(maps[0](x_0), maps[1](x_1), …)`.

    Returns:
        The joint map in its finest groups, or a refusal (`RATES`).

    Raises:
        AlgebraError: If there is no map, or the ranks differ.
    """
    if not maps:
        raise AlgebraError("a block diagonal needs at least one map")
    aligned = align(maps)
    if isinstance(aligned, Refusal):
        return aligned
    return _rows_of(aligned, _side_by_side(aligned), sum(m.in_channels for m in maps))


def join_inputs(maps: Sequence[ConvMap]) -> ConvMap | Refusal:
    """`Concat(x_0, x_1, …) ↦ Σ_j maps[j](x_j)`: maps of different inputs, as one of their Concat.

    Returns:
        The joined map in its finest groups, or a refusal (`RATES`).

    Raises:
        AlgebraError: If there is no map, or output channels or ranks differ.
    """
    if not maps or any(m.out_channels != maps[0].out_channels for m in maps):
        raise AlgebraError("joined maps write the same output channels")
    aligned = align(maps)
    if isinstance(aligned, Refusal):
        return aligned
    kernel: Array = np.concatenate([m.kernel for m in aligned], axis=1)
    columns: Columns = np.concatenate(_side_by_side(aligned), axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        bias: Array = np.sum([m.bias for m in aligned], axis=0)
    total = sum(m.in_channels for m in maps)
    return map_from_columns(aligned[0], kernel, columns, bias, total)


def split_inputs(conv_map: ConvMap, sizes: Sequence[int]) -> list[ConvMap]:
    """Column blocks: `M(Concat(x_0, x_1, …)) = Σ_j M_j(x_j)`; the first block keeps the constant.

    Args:
        conv_map: A map that reads a Concat of channels.
        sizes: Channels of every operand of the Concat.

    Raises:
        AlgebraError: If the sizes do not add up to the input channels.
    """
    _check_sizes(sizes, conv_map.in_channels, "input")
    columns = input_columns(conv_map)
    blocks: list[ConvMap] = []
    start = 0
    for size in sizes:
        inside = (columns >= start) & (columns < start + size)
        used = np.flatnonzero(inside.any(axis=0))
        mask = inside[:, used].reshape(conv_map.out_channels, used.size, *(1,) * conv_map.rank)
        kernel = np.where(mask, conv_map.kernel[:, used], 0.0)
        bias = np.zeros(conv_map.out_channels) if blocks else conv_map.bias
        block = map_from_columns(conv_map, kernel, columns[:, used] - start, bias, size)
        blocks.append(trimmed(block))
        start += size
    return blocks


def select_outputs(conv_map: ConvMap, indices: Sequence[int]) -> ConvMap:
    """`x ↦ M(x)[indices]`: Split, Slice, Gather or shuffle of the output channels.

    Raises:
        AlgebraError: If an index lies outside the output channels, or there is none.
    """
    rows = _checked(indices, conv_map.out_channels)
    columns = input_columns(conv_map)[rows]
    kernel, bias = conv_map.kernel[rows], conv_map.bias[rows]
    return trimmed(map_from_columns(conv_map, kernel, columns, bias, conv_map.in_channels))


def split_outputs(conv_map: ConvMap, sizes: Sequence[int]) -> list[ConvMap]:
    """Row blocks: the maps of every output of a Split of channels.

    Raises:
        AlgebraError: If the sizes do not add up to the output channels.
    """
    _check_sizes(sizes, conv_map.out_channels, "output")
    ends = np.cumsum(sizes).tolist()
    ranges = [range(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    return [select_outputs(conv_map, rows) for rows in ranges]


def gather_inputs(conv_map: ConvMap, indices: Sequence[int], in_channels: int) -> ConvMap:
    """`x ↦ M(x[indices])`: fold a Split, Slice, Gather or shuffle in front of a map into it.

    Args:
        conv_map: A map with one input channel per index.
        indices: Which of the new input channels feeds each old one; repeats add up.
        in_channels: Number of new input channels.

    Raises:
        AlgebraError: If the indices do not match the map or lie outside `in_channels`.
    """
    sources = _checked(indices, in_channels)
    if sources.size != conv_map.in_channels:
        raise AlgebraError(f"{sources.size} indices for {conv_map.in_channels} input channels")
    columns = sources[input_columns(conv_map)]
    gathered = map_from_columns(conv_map, conv_map.kernel, columns, conv_map.bias, in_channels)
    return trimmed(gathered)


def _rows_of(maps: Sequence[ConvMap], columns: Sequence[Columns], in_channels: int) -> ConvMap:
    width = max(m.kernel.shape[1] for m in maps)
    spare = [((0, 0), (0, width - m.kernel.shape[1])) for m in maps]
    kernels = [
        np.pad(m.kernel, (*pads, *((0, 0),) * m.rank)) for m, pads in zip(maps, spare, strict=True)
    ]
    named = [np.pad(c, pads) for c, pads in zip(columns, spare, strict=True)]
    bias: Array = np.concatenate([m.bias for m in maps])
    return map_from_columns(
        maps[0], np.concatenate(kernels), np.concatenate(named), bias, in_channels
    )


def _side_by_side(maps: Sequence[ConvMap]) -> list[Columns]:
    starts = np.cumsum([0, *(m.in_channels for m in maps[:-1])]).tolist()
    return [input_columns(m) + start for m, start in zip(maps, starts, strict=True)]


def _check_sizes(sizes: Sequence[int], channels: int, side: str) -> None:
    if sum(sizes) != channels or min(sizes, default=0) < 1:
        raise AlgebraError(f"{channels} {side} channels split into {tuple(sizes)}")


def _checked(indices: Sequence[int], channels: int) -> npt.NDArray[np.int64]:
    chosen = np.asarray(indices, np.int64)
    if chosen.ndim != 1 or not chosen.size or ((chosen < 0) | (chosen >= channels)).any():
        raise AlgebraError(f"channel indices must lie in [0, {channels})")
    return chosen
