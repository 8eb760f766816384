"""Write a map as the parameters of one Conv, ConvTranspose or matrix product."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxfold.algebra.convmap import Array, ConvMap, describe, padded, trimmed
from onnxfold.algebra.dilation import undilated
from onnxfold.algebra.extents import AxisExtent, ExtentRule
from onnxfold.algebra.groups import with_groups
from onnxfold.algebra.operators import transposed_channels
from onnxfold.algebra.refusal import AlgebraError, Cause, Refusal


@dataclass(frozen=True, slots=True, eq=False)
class ConvParameters:
    """ONNX Conv.

    Attributes:
        weight: float64, shape (out_channels, in_channels / group, *kernel).
        bias: float64, shape (out_channels,).
        strides: Per axis.
        pads_begin: Per axis, never negative.
        pads_end: Per axis, never negative.
        dilations: Per axis.
        group: The `group` attribute.
    """

    weight: Array
    bias: Array
    strides: tuple[int, ...]
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]
    dilations: tuple[int, ...]
    group: int

    @property
    def pads(self) -> tuple[int, ...]:
        """The `pads` attribute: all begins, then all ends."""
        return self.pads_begin + self.pads_end


@dataclass(frozen=True, slots=True, eq=False)
class ConvTransposeParameters:
    """ONNX ConvTranspose.

    Attributes:
        weight: float64, shape (in_channels, out_channels / group, *kernel).
        bias: float64, shape (out_channels,).
        strides: Per axis.
        pads_begin: Per axis, never negative.
        pads_end: Per axis, never negative.
        output_padding: Per axis, less than the stride.
        dilations: Per axis.
        group: The `group` attribute.
    """

    weight: Array
    bias: Array
    strides: tuple[int, ...]
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilations: tuple[int, ...]
    group: int

    @property
    def pads(self) -> tuple[int, ...]:
        """The `pads` attribute: all begins, then all ends."""
        return self.pads_begin + self.pads_end


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis laid out: zero taps added in front and behind, and the pads that then fit."""

    front: int
    back: int
    begin: int
    end: int
    output_padding: int = 0


def to_conv(
    conv_map: ConvMap, extents: Sequence[AxisExtent], *, zero_taps: bool = True
) -> ConvParameters | Refusal:
    """Write a map with u = 1 as a Conv: `pad_begin = −origin`, taps d apart as a dilation.

    The pad at the end is what gives the wanted output size: known sizes leave a choice of `stride`
    values, of which the one that equals the begin is preferred; a rule leaves exactly one.

    Args:
        conv_map: The map; its groups are kept.
        extents: Per axis, the known sizes or the rule.
        zero_taps: Whether a pad that would be negative may be made 0 by zero taps in the kernel
            (exact, but they cost).

    Returns:
        The parameters, or a refusal: `RATES` where the map upsamples, `NEGATIVE_PAD` where
        `zero_taps` would be needed and is False, `EXTENTS` where the rule is not that of a Conv
        with this stride.

    Raises:
        AlgebraError: If the extents do not have one entry per axis.
    """
    _check_rank(conv_map, extents)
    if any(u != 1 for u in conv_map.up):
        return Refusal(Cause.RATES, "the map upsamples, and a Conv cannot")
    kernel, dilations = undilated(conv_map)
    origin = trimmed(conv_map).origin
    axes = []
    for axis, extent in enumerate(extents):
        s, d, n = conv_map.stride[axis], dilations[axis], kernel.shape[axis + 2]
        offsets = _conv_offsets(extent, s)
        if isinstance(offsets, Refusal):
            return offsets
        axes.append(_conv_axis(origin[axis], n, d, s, offsets))
    refused = _refuse_zero_taps(axes, zero_taps)
    if refused is not None:
        return refused
    return ConvParameters(
        weight=_with_zero_taps(kernel, axes),
        bias=conv_map.bias,
        strides=conv_map.stride,
        pads_begin=tuple(a.begin for a in axes),
        pads_end=tuple(a.end for a in axes),
        dilations=dilations,
        group=conv_map.groups,
    )


def to_conv_transpose(
    conv_map: ConvMap, extents: Sequence[AxisExtent], *, zero_taps: bool = True
) -> ConvTransposeParameters | Refusal:
    """Write a map with s = 1 as a ConvTranspose: reversed taps, `pad_begin = last tap`, stride u.

    Args:
        conv_map: The map; its groups are kept.
        extents: Per axis, the known sizes or the rule.
        zero_taps: Whether a pad that would be negative may be made 0 by zero taps in the kernel.

    Returns:
        The parameters, or a refusal: `RATES` where the map strides, `NEGATIVE_PAD` where
        `zero_taps` would be needed and is False, `EXTENTS` where the rule is not that of a
        ConvTranspose with this stride.

    Raises:
        AlgebraError: If the extents do not have one entry per axis.
    """
    _check_rank(conv_map, extents)
    if any(s != 1 for s in conv_map.stride):
        return Refusal(Cause.RATES, "the map strides, and a ConvTranspose cannot")
    kernel, dilations = undilated(conv_map)
    last = trimmed(conv_map).last
    axes = []
    for axis, extent in enumerate(extents):
        u, d, n = conv_map.up[axis], dilations[axis], kernel.shape[axis + 2]
        offset = _conv_transpose_offset(extent, u)
        if isinstance(offset, Refusal):
            return offset
        axes.append(_conv_transpose_axis(last[axis], n, d, u, offset))
    refused = _refuse_zero_taps(axes, zero_taps)
    if refused is not None:
        return refused
    reversed_taps = np.flip(kernel, tuple(range(2, kernel.ndim)))
    weight = transposed_channels(_with_zero_taps(reversed_taps, axes), conv_map.groups)
    return ConvTransposeParameters(
        weight=weight,
        bias=conv_map.bias,
        strides=conv_map.up,
        pads_begin=tuple(a.begin for a in axes),
        pads_end=tuple(a.end for a in axes),
        output_padding=tuple(a.output_padding for a in axes),
        dilations=dilations,
        group=conv_map.groups,
    )


def to_matrix(conv_map: ConvMap) -> tuple[Array, Array] | Refusal:
    """Write a pointwise map as (W, b) with `y = W x + b`, W of shape (out, in), groups filled in.

    Returns:
        W and b in float64, or a refusal (`SPATIAL_TAPS`).
    """
    cut = trimmed(conv_map)
    if not cut.is_pointwise:
        return Refusal(
            Cause.SPATIAL_TAPS, f"a {describe(cut)} kernel with these rates is no matrix product"
        )
    dense = with_groups(cut, 1).kernel
    return dense.reshape(dense.shape[0], dense.shape[1]), cut.bias


def _conv_offsets(extent: AxisExtent, stride: int) -> tuple[int, int] | Refusal:
    """The smallest and largest e that give n_out = ⌊(n_in + e) / stride⌋."""
    if isinstance(extent, ExtentRule):
        if (extent.up, extent.stride) != (1, stride):
            return _wrong_rule(extent, f"a Conv of stride {stride}")
        return extent.offset, extent.offset
    low = stride * extent.n_out - extent.n_in
    return low, low + stride - 1


def _conv_axis(origin: int, taps: int, d: int, stride: int, offsets: tuple[int, int]) -> _Axis:
    front = max(0, -(-origin // d))
    begin = d * front - origin
    # n_out = ⌊(n_in + begin + end − reach) / stride⌋ + 1, hence end = e + reach − stride − begin.
    reach = d * (front + taps - 1) + 1
    lowest, highest = (e + reach - stride - begin for e in offsets)
    back = max(0, -(highest // d))
    lowest, highest = lowest + d * back, highest + d * back
    end = begin if lowest <= begin <= highest else max(lowest, 0)
    return _Axis(front, back, begin, end)


def _conv_transpose_offset(extent: AxisExtent, up: int) -> int | Refusal:
    """The e that gives n_out = up · n_in + e."""
    if isinstance(extent, ExtentRule):
        if (extent.up, extent.stride) != (up, 1):
            return _wrong_rule(extent, f"a ConvTranspose of stride {up}")
        return extent.offset
    return extent.n_out - up * extent.n_in


def _conv_transpose_axis(last: int, taps: int, d: int, up: int, offset: int) -> _Axis:
    front = max(0, -(last // d))
    begin = last + d * front
    # n_out = up·(n_in − 1) + output_padding + reach − begin − end.
    reach = d * (front + taps - 1) + 1
    end = reach - up - begin - offset
    back = max(0, -((end + up - 1) // d))
    end += d * back
    return _Axis(front, back, begin, max(end, 0), max(-end, 0))


def _wrong_rule(rule: ExtentRule, what: str) -> Refusal:
    return Refusal(
        Cause.EXTENTS,
        f"the output size is ({rule.up}·n + {rule.offset}) / {rule.stride}, which {what} cannot "
        "give at every size",
    )


def _refuse_zero_taps(axes: Sequence[_Axis], allowed: bool) -> Refusal | None:
    for axis, laid in enumerate(axes):
        if not allowed and (laid.front or laid.back):
            side = "begin" if laid.front else "end"
            return Refusal(
                Cause.NEGATIVE_PAD, f"the {side} of axis {axis} would need a negative pad"
            )
    return None


def _with_zero_taps(kernel: Array, axes: Sequence[_Axis]) -> Array:
    if not any(a.front or a.back for a in axes):
        return kernel
    return padded(kernel, [a.front for a in axes], [a.back for a in axes])


def _check_rank(conv_map: ConvMap, extents: Sequence[AxisExtent]) -> None:
    if len(extents) != conv_map.rank:
        raise AlgebraError(f"{len(extents)} extents for {conv_map.rank} spatial axes")
