"""Operators that copy elements from place to place, read as maps with taps of one.

Concat, Split, Gather and Slice of channels, strided slices of the image, padding by zeros, and
nearest upsampling, whatever the extents are. Chains through Reshape and Transpose are `tracing`'s.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxfold.algebra.convmap import ConvMap
from onnxfold.algebra.cost import Block, Footprint, footprint
from onnxfold.algebra.extents import ExtentRule
from onnxfold.algebra.operators import channel_selection, matrix
from onnxfold.algebra.rearrangement import depth_to_space, nearest_upsample, space_to_depth
from onnxfold.ir.constants import constant_array, float_constant, int_constant
from onnxfold.ir.graph import input_at, int_attribute, ints_attribute, is_op, string_attribute
from onnxfold.ir.shapes import dim, rank
from onnxfold.linear.expression import Expression, Operands
from onnxfold.rewrite.rule import Reject

BLOCK_OPS = frozenset({"SpaceToDepth", "DepthToSpace"})
MOVEMENT_OPS = BLOCK_OPS | {"Concat", "Split", "Gather", "Slice", "Pad", "Resize", "Upsample"}

_MAX_SELECTION = 1 << 22
"""A selection of channels is a matrix; a larger one is not written out."""

_TRIED_OUTPUTS = 8
"""Rounding modes repeat with every source pixel; so many of them show which pixel is taken."""


def of_movement(value: ir.Value, node: ir.Node) -> Operands | Reject | None:
    """What `value`, an output of `node`, copies, with the maps that say from where.

    Returns:
        The operands; None when the node is no map of images; a `Reject` when it nearly is one.
    """
    known = rank(value)
    if known is None or known < 3:
        return None
    if is_op(node, "Concat"):
        return _of_concat(node, known)
    x = node.inputs[0]
    if x is None or rank(x) != known or dim(x, 1) is None:
        return None
    if is_op(node, "Split"):
        return _of_split(value, node, x, known)
    if is_op(node, "Gather"):
        return _of_gather(node, x, known)
    if is_op(node, "Slice"):
        return _of_slice(node, x, known)
    if is_op(node, "Pad"):
        return _of_pad(node, x, known)
    if is_op(node, *BLOCK_OPS):
        return _of_blocks(node, x, known)
    return _of_resize(node, x, known)


def _axis(node: ir.Node, known: int, default: int) -> int:
    axis = int_attribute(node, "axis", default)
    return axis + known if axis < 0 else axis


# Channels


def _of_concat(node: ir.Node, known: int) -> Operands | None:
    sizes = [dim(value, 1) for value in node.inputs]
    if _axis(node, known, 0) != 1 or not all(sizes):
        return None
    total, start = sum(size or 0 for size in sizes), 0
    operands: list[tuple[ir.Value, Expression]] = []
    for value, size in zip(node.inputs, sizes, strict=True):
        if value is None or size is None or total * size > _MAX_SELECTION:
            return None
        embedding = _embedding(start, size, total, known - 2)
        operands.append((value, replace(embedding, is_aligned=True)))
        start += size
    return operands


def _of_split(value: ir.Value, node: ir.Node, x: ir.Value, known: int) -> Operands | None:
    sizes = [dim(output, 1) for output in node.outputs]
    if _axis(node, known, 0) != 1 or not all(sizes) or sum(s or 0 for s in sizes) != dim(x, 1):
        return None
    position = list(node.outputs).index(value)
    start = sum(size or 0 for size in sizes[:position])
    return _selected(x, range(start, start + (sizes[position] or 0)), known - 2)


def _of_gather(node: ir.Node, x: ir.Value, known: int) -> Operands | None:
    indices = int_constant(node.inputs[1])
    array = constant_array(node.inputs[1])
    channels = dim(x, 1) or 0
    if _axis(node, known, 0) != 1 or not indices or array is None or array.ndim != 1:
        return None
    return _selected(x, [i + channels if i < 0 else i for i in indices], known - 2)


def _selected(x: ir.Value, indices: Sequence[int], spatial: int) -> Operands | None:
    channels = dim(x, 1) or 0
    if not indices or len(indices) * channels > _MAX_SELECTION:
        return None
    numbers: Callable[[], ConvMap] = lambda: channel_selection(indices, channels, spatial)  # noqa: E731
    return [(x, _pointwise(tuple(indices), channels, spatial, numbers))]


def _embedding(start: int, size: int, total: int, spatial: int) -> Expression:
    def numbers() -> ConvMap:
        weight = np.zeros((total, size))
        weight[np.arange(start, start + size), np.arange(size)] = 1.0
        return matrix(weight, rank=spatial)

    picks = (*(-1,) * start, *range(size), *(-1,) * (total - start - size))
    return _pointwise(picks, size, spatial, numbers)


def _pointwise(
    picks: tuple[int, ...], in_channels: int, spatial: int, numbers: Callable[[], ConvMap]
) -> Expression:
    one = (1,) * spatial
    block = _block(picks)
    blocks = None if block is None else (block,)
    shape = Footprint(len(picks), in_channels, 1, ((0,),) * spatial, one, one, blocks)
    return Expression(shape, (ExtentRule(),) * spatial, numbers, shifts=False, picks=picks)


def _block(picks: Sequence[int]) -> Block | None:
    """Where the picked channels lie, if they are neighbours on both sides and in order."""
    rows = [row for row, channel in enumerate(picks) if channel >= 0]
    if not rows or rows[-1] - rows[0] + 1 != len(rows):
        return None
    first, count = picks[rows[0]], len(rows)
    if list(picks[rows[0] : rows[-1] + 1]) != list(range(first, first + count)):
        return None
    return rows[0], rows[0] + count, first, first + count


# Places


@dataclass(frozen=True, slots=True)
class _Shift:
    """`y[o] = x[stride · o + start]` on one axis, with so many outputs.

    Attributes:
        start: Where the first output lies; negative where zeros are put in front.
        stride: How far apart the outputs lie.
        rule: How many there are.
    """

    start: int
    stride: int
    rule: ExtentRule


def _shifted(x: ir.Value, shifts: Sequence[_Shift]) -> Operands:
    channels, one = dim(x, 1) or 0, (1,) * len(shifts)
    origin = tuple(shift.start for shift in shifts)
    stride = tuple(shift.stride for shift in shifts)

    def numbers() -> ConvMap:
        ones = np.ones((channels, 1, *one))
        return ConvMap(ones, np.zeros(channels), channels, origin, one, stride)

    offsets = tuple((start,) for start in origin)
    shape = Footprint(channels, channels, channels, offsets, one, stride)
    rules = tuple(shift.rule for shift in shifts)
    return [(x, Expression(shape, rules, numbers, shifts=False))]


@dataclass(frozen=True, slots=True)
class _Cut:
    """One axis of a Slice."""

    axis: int
    start: int
    end: int
    step: int


def _of_slice(node: ir.Node, x: ir.Value, known: int) -> Operands | Reject | None:
    cuts = _cuts(node, known)
    if cuts is None or any(cut.axis == 0 for cut in cuts):
        return None
    if [cut.axis for cut in cuts] == [1]:
        indices = range(dim(x, 1) or 0)[cuts[0].start : cuts[0].end : cuts[0].step]
        return _selected(x, indices, known - 2)
    if any(cut.axis == 1 for cut in cuts):
        return Reject("it slices channels and places at once", node)
    shifts = [_Shift(0, 1, ExtentRule())] * (known - 2)
    for cut in cuts:
        shift = _cut_shift(cut, dim(x, cut.axis))
        if shift is None:
            return Reject("where it begins depends on extents that are not known", node)
        shifts[cut.axis - 2] = shift
    return _shifted(x, shifts)


def _cuts(node: ir.Node, known: int) -> list[_Cut] | None:
    """The axes that a Slice cuts; None when they are not constants."""
    if (node.version or 10) < 10:
        starts = ints_attribute(node, "starts", ())
        ends = ints_attribute(node, "ends", ())
        axes = ints_attribute(node, "axes", tuple(range(len(starts))))
        steps = (1,) * len(starts)
    else:
        given = [input_at(node, index) for index in range(1, 5)]
        first, last = int_constant(given[0]), int_constant(given[1])
        if first is None or last is None:
            return None
        starts, ends = first, last
        found_axes = tuple(range(len(starts))) if given[2] is None else int_constant(given[2])
        found_steps = (1,) * len(starts) if given[3] is None else int_constant(given[3])
        if found_axes is None or found_steps is None:
            return None
        axes, steps = found_axes, found_steps
    normal = [axis + known if axis < 0 else axis for axis in axes]
    return [_Cut(*cut) for cut in zip(normal, starts, ends, steps, strict=True)]


def _cut_shift(cut: _Cut, extent: int | None) -> _Shift | None:
    """`⌈(n − start − cropped) / step⌉` outputs, when that holds at every extent."""
    if cut.step < 1:
        return None
    if extent is not None:
        start, end, step = slice(cut.start, cut.end, cut.step).indices(extent)
        if end <= start:
            return None
        return _Shift(start, step, ExtentRule(1, step - 1 - start - (extent - end), step))
    to_the_end = cut.end >= np.iinfo(np.int32).max
    if cut.start < 0 or not (to_the_end or cut.end < 0):
        return None
    cropped = 0 if to_the_end else -cut.end
    return _Shift(cut.start, cut.step, ExtentRule(1, cut.step - 1 - cut.start - cropped, cut.step))


def _of_pad(node: ir.Node, x: ir.Value, known: int) -> Operands | Reject | None:
    pads = pads_of(node, known)
    if pads is None or string_attribute(node, "mode", "constant") != "constant":
        return None
    if any(pads[0]) or any(pads[1]) or not _pads_with_zero(node):
        return Reject("it pads with something else than zeros, or more than the image", node)
    shifts = [_Shift(-begin, 1, ExtentRule(1, begin + end, 1)) for begin, end in pads[2:]]
    return _shifted(x, shifts)


def pads_of(node: ir.Node, known: int) -> list[tuple[int, int]] | None:
    """Begin and end of every axis of a Pad; None when they are not constants."""
    if (node.version or 11) < 11:
        numbers: tuple[int, ...] | None = ints_attribute(node, "pads", ())
    else:
        numbers = int_constant(input_at(node, 1))
    if numbers is None or len(numbers) % 2:
        return None
    axes: tuple[int, ...] | None = tuple(range(known))
    if input_at(node, 3) is not None:
        axes = int_constant(input_at(node, 3))
    half = len(numbers) // 2
    if axes is None or len(axes) != half:
        return None
    pads = [(0, 0)] * known
    for axis, begin, end in zip(axes, numbers[:half], numbers[half:], strict=True):
        pads[axis] = (begin, end)
    return pads


def _pads_with_zero(node: ir.Node) -> bool:
    if (node.version or 11) < 11:
        attribute = node.attributes.get("value")
        return attribute is None or attribute.as_float() == 0
    value = input_at(node, 2)
    if value is None:
        return True
    number = float_constant(value)
    return number is not None and not number.any()


def _of_blocks(node: ir.Node, x: ir.Value, known: int) -> Operands | None:
    block, channels = int_attribute(node, "blocksize", 1), dim(x, 1) or 0
    if known != 4 or channels * channels * block**4 > _MAX_SELECTION:
        return None
    size = (block, block)
    if is_op(node, "SpaceToDepth"):
        found = space_to_depth(channels, size)
        rules = (ExtentRule(1, 0, block),) * 2
    else:
        mode = string_attribute(node, "mode", "DCR")
        found = depth_to_space(channels // block**2, size, "DCR" if mode == "DCR" else "CRD")
        rules = (ExtentRule(block, 0, 1),) * 2
    return [(x, Expression(footprint(found), rules, lambda: found, shifts=False))]


def _of_resize(node: ir.Node, x: ir.Value, known: int) -> Operands | Reject | None:
    if string_attribute(node, "mode", "nearest") != "nearest":
        return None
    factors = _factors(node, x, known)
    if factors is None or any(not _repeats_pixels(node, factor) for factor in factors):
        return Reject("it does not repeat every pixel the same number of times", node)
    channels, one = dim(x, 1) or 0, (1,) * len(factors)
    offsets = tuple(tuple(range(1 - factor, 1)) for factor in factors)
    shape = Footprint(channels, channels, channels, offsets, tuple(factors), one)
    rules = tuple(ExtentRule(factor, 0, 1) for factor in factors)
    numbers: Callable[[], ConvMap] = lambda: nearest_upsample(channels, factors)  # noqa: E731
    return [(x, Expression(shape, rules, numbers, shifts=False))]


def _factors(node: ir.Node, x: ir.Value, known: int) -> list[int] | None:
    """Whole scales of the spatial axes; None when they are not known, or not whole."""
    if "axes" in node.attributes:
        return None
    output = node.outputs[0]
    scales = float_constant(_scales(node))
    if scales is not None and scales.size:
        if scales.size != known or (scales[:2] != 1).any() or (scales % 1).any():
            return None
        return [int(scale) for scale in scales[2:]] if (scales >= 1).all() else None
    extents = [(dim(x, axis), dim(output, axis)) for axis in range(2, known)]
    if dim(x, 1) != dim(output, 1) or input_at(node, 3) is None:
        return None
    if any(small is None or large is None or large % small for small, large in extents):
        return None
    return [(large or 0) // (small or 1) for small, large in extents]


def _scales(node: ir.Node) -> ir.Value | None:
    had_scales_second = is_op(node, "Upsample") or (node.version or 11) < 11
    return input_at(node, 1 if had_scales_second else 2)


def _repeats_pixels(node: ir.Node, factor: int) -> bool:
    """Whether output o shows pixel ⌊o / factor⌋, by the formulas of the Resize specification."""
    if is_op(node, "Upsample") or (node.version or 11) < 11:
        transformation, rounding = "asymmetric", "floor"
    else:
        transformation = string_attribute(node, "coordinate_transformation_mode", "half_pixel")
        rounding = string_attribute(node, "nearest_mode", "round_prefer_floor")
    outputs = np.arange(factor * _TRIED_OUTPUTS)
    if transformation == "asymmetric":
        places = outputs / factor
    elif transformation in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric"):
        places = (outputs + 0.5) / factor - 0.5
    else:
        return False
    rounded = {
        "floor": np.floor(places),
        "ceil": np.ceil(places),
        "round_prefer_floor": np.ceil(places - 0.5),
        "round_prefer_ceil": np.floor(places + 0.5),
    }
    taken = rounded.get(rounding)
    if taken is None:
        return False
    return bool((np.clip(taken, 0, _TRIED_OUTPUTS - 1) == outputs // factor).all())
