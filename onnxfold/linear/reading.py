"""What a node computes, as a sum of maps of the tensors that it reads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxfold.algebra.convmap import ConvMap
from onnxfold.algebra.cost import Footprint
from onnxfold.algebra.extents import ExtentRule, conv_extent, conv_transpose_extent
from onnxfold.algebra.operators import (
    average_pool,
    channel_affine,
    conv,
    conv_transpose,
)
from onnxfold.ir.constants import FLOAT_TYPES, constant_tensor, float_constant, is_constant
from onnxfold.ir.graph import int_attribute, ints_attribute, is_op
from onnxfold.ir.ops import Conv, ConvTranspose, SlidingWindow
from onnxfold.ir.shapes import dim, rank, tensor_extents
from onnxfold.linear.affine import AFFINE_OPS, AffineNode, affine_of
from onnxfold.linear.expression import Expression
from onnxfold.rewrite.rule import Reject

SUM_OPS = frozenset({"Add", "Sub", "Sum"})
WINDOW_OPS = frozenset({"Conv", "ConvTranspose", "AveragePool"})
LINEAR_OPS = SUM_OPS | AFFINE_OPS | WINDOW_OPS

_BROADCASTING_VERSION = 7
"""Since this operator set version additions and multiplications broadcast as numpy does."""


@dataclass(frozen=True, slots=True)
class Reading:
    """`output = Σ_j expression_j(value_j)`.

    Attributes:
        node: The node.
        operands: What it reads, with the map applied to each.
        dtype: The floating-point type of all of it.
        is_in_place: Whether every operand is known to have the extents of the output. When not, an
            addition may repeat an operand along an axis, which no kernel in between may see.
    """

    node: ir.Node
    operands: tuple[tuple[ir.Value, Expression], ...]
    dtype: ir.DataType
    is_in_place: bool = True

    @property
    def output(self) -> ir.Value:
        """What the node computes."""
        return self.node.outputs[0]


def reading_of(node: ir.Node | None) -> Reading | Reject | None:
    """Read `node` as a sum of multirate convolutions of images (N, C, spatial…).

    Returns:
        The view; None when the node is nothing of the kind; a `Reject` when it nearly is.
    """
    if node is None or not is_op(node, *LINEAR_OPS):
        return None
    if (node.version or _BROADCASTING_VERSION) < _BROADCASTING_VERSION:
        return None
    dtype = node.outputs[0].dtype
    if dtype is None or dtype not in FLOAT_TYPES:
        return None
    operands = _operands(node)
    if operands is None or isinstance(operands, Reject):
        return operands
    if any(value.dtype != dtype for value, _ in operands):
        return Reject("its operands are of different types", node)
    is_sum = len(operands) > 1
    in_place = not is_sum or all(_same_extents(value, node.outputs[0]) for value, _ in operands)
    return Reading(node, tuple(operands), dtype, in_place)


_Operands = Sequence[tuple[ir.Value, Expression]]


def _operands(node: ir.Node) -> _Operands | Reject | None:
    if is_op(node, "AveragePool"):
        return _of_average_pool(node)
    if (view := Conv.of(node) or ConvTranspose.of(node)) is not None:
        return _of_convolution(view)
    step = affine_of(node)
    if isinstance(step, AffineNode):
        return _of_affine(step)
    return _of_sum(node) if step is None and is_op(node, *SUM_OPS) else step


def _of_convolution(view: Conv | ConvTranspose) -> _Operands | Reject | None:
    pads = _explicit_pads(view)
    if pads is None:
        return Reject("its pads depend on extents that are not known", view.node)
    weight = constant_tensor(view.weight)
    if weight is None or weight.dtype not in FLOAT_TYPES or _is_unknown(view.bias):
        return Reject("its weight or bias is not a floating-point constant", view.node)
    shape = tensor_extents(weight)
    if 0 in shape or len(shape) != len(view.window.kernel_shape) + 2:
        return Reject("its weight is empty", view.node)
    window = _Window.of(view.window, pads)
    if isinstance(view, Conv):
        return [(view.x, _conv_expression(view, shape, window))]
    return [(view.x, _conv_transpose_expression(view, shape, window))]


def _is_unknown(bias: ir.Value | None) -> bool:
    tensor = constant_tensor(bias)
    return bias is not None and (tensor is None or tensor.dtype not in FLOAT_TYPES)


def _explicit_pads(view: Conv | ConvTranspose) -> tuple[int, ...] | None:
    """The pads as numbers; those of a ConvTranspose may follow from the size of its output."""
    if isinstance(view, Conv):
        return view.window.explicit_pads(view.x)
    derived = view.window.auto_pad != "NOTSET" or "output_shape" in view.node.attributes
    return None if derived else view.window.pads


@dataclass(frozen=True, slots=True)
class _Window:
    """A sliding window whose pads are known, one entry per axis in each field."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @classmethod
    def of(cls, window: SlidingWindow, pads: Sequence[int]) -> "_Window":
        half = len(window.kernel_shape)
        return cls(
            window.kernel_shape,
            window.strides,
            window.dilations,
            tuple(pads[:half]),
            tuple(pads[half:]),
        )

    @property
    def ones(self) -> tuple[int, ...]:
        return (1,) * len(self.kernel)

    def downward(self, out_channels: int, in_channels: int, groups: int) -> Footprint:
        """The footprint of a Conv: tap k at d·k − p."""
        offsets = tuple(
            tuple(range(-p, d * k - p, d))
            for k, d, p in zip(self.kernel, self.dilations, self.begin, strict=True)
        )
        return Footprint(out_channels, in_channels, groups, offsets, self.ones, self.strides)

    def upward(self, out_channels: int, in_channels: int, groups: int) -> Footprint:
        """The footprint of a ConvTranspose: tap k at p − d·k."""
        offsets = tuple(
            tuple(range(p - d * (k - 1), p + 1, d))
            for k, d, p in zip(self.kernel, self.dilations, self.begin, strict=True)
        )
        return Footprint(out_channels, in_channels, groups, offsets, self.strides, self.ones)

    def conv_rules(self) -> tuple[ExtentRule, ...]:
        columns = (self.kernel, self.strides, self.begin, self.end, self.dilations)
        return tuple(map(conv_extent, *columns))

    def conv_transpose_rules(self, extra: Sequence[int]) -> tuple[ExtentRule, ...]:
        columns = (self.kernel, self.strides, self.begin, self.end, self.dilations, extra)
        return tuple(map(conv_transpose_extent, *columns))


def _conv_expression(view: Conv, shape: Sequence[int], window: _Window) -> Expression:
    def numbers() -> ConvMap:
        return conv(
            _widened(view.weight),
            None if view.bias is None else _widened(view.bias),
            strides=window.strides,
            pads_begin=window.begin,
            dilations=window.dilations,
            group=view.group,
        )

    footprint = window.downward(shape[0], shape[1] * view.group, view.group)
    return Expression(footprint, window.conv_rules(), numbers, shifts=view.bias is not None)


def _conv_transpose_expression(
    view: ConvTranspose, shape: Sequence[int], window: _Window
) -> Expression:
    def numbers() -> ConvMap:
        return conv_transpose(
            _widened(view.weight),
            None if view.bias is None else _widened(view.bias),
            strides=window.strides,
            pads_begin=window.begin,
            dilations=window.dilations,
            group=view.group,
        )

    footprint = window.upward(shape[1] * view.group, shape[0], view.group)
    extra = ints_attribute(view.node, "output_padding", (0,) * len(window.kernel))
    rules = window.conv_transpose_rules(extra)
    return Expression(footprint, rules, numbers, shifts=view.bias is not None)


def _widened(value: ir.Value) -> np.ndarray:
    numbers = float_constant(value)
    assert numbers is not None  # asked when the node was read
    return numbers


def _of_average_pool(node: ir.Node) -> _Operands | Reject | None:
    x = node.inputs[0]
    kernel_shape = ints_attribute(node, "kernel_shape", ())
    channels = dim(x, 1)
    if x is None or channels is None or not kernel_shape:
        return None
    view = SlidingWindow.of(node, kernel_shape)
    pads = view.explicit_pads(x)
    if pads is None or int_attribute(node, "ceil_mode", 0):
        return Reject("its windows depend on extents that are not known, or are cut short", node)
    if any(pads) and not int_attribute(node, "count_include_pad", 0):
        return Reject("it does not count its padding, so its border is no convolution", node)
    window = _Window.of(view, pads)

    def numbers() -> ConvMap:
        return average_pool(
            channels,
            window.kernel,
            strides=window.strides,
            pads_begin=window.begin,
            dilations=window.dilations,
        )

    footprint = window.downward(channels, channels, channels)
    return [(x, Expression(footprint, window.conv_rules(), numbers, shifts=False))]


def _of_affine(step: AffineNode) -> _Operands | Reject | None:
    channels, known = dim(step.x, 1), rank(step.x)
    if channels is None or known is None or known < 3:
        return None
    numbers = step.affine.channels(channels)
    if numbers is None or step.affine.axis not in (None, 1):
        return Reject("its constant is not per channel", step.node)
    if dim(step.node.outputs[0], 1) != channels:
        return None
    return [(step.x, _channelwise(*numbers, known - 2))]


def _of_sum(node: ir.Node) -> _Operands | Reject | None:
    output = node.outputs[0]
    channels, known = dim(output, 1), rank(output)
    if any(value is None or is_constant(value) for value in node.inputs) or (known or 3) < 3:
        return None
    if channels is None or known is None:
        return Reject("the rank or the channels of its result are not known", node)
    operands: list[tuple[ir.Value, Expression]] = []
    for index, value in enumerate(node.inputs):
        if value is None or not _is_added_in_place(value, output):
            return Reject("it may broadcast its operands", node)
        sign = -1.0 if index and is_op(node, "Sub") else 1.0
        expression = _channelwise(np.full(channels, sign), np.zeros(channels), known - 2)
        operands.append((value, expression))
    return operands


def _channelwise(scale: np.ndarray, shift: np.ndarray, spatial: int) -> Expression:
    channels, one = scale.size, (1,) * spatial
    footprint = Footprint(channels, channels, channels, ((0,),) * spatial, one, one)
    sign = int(scale[0]) if scale[0] in (1, -1) and (scale == scale[0]).all() else 0
    numbers: Callable[[], ConvMap] = lambda: channel_affine(scale, shift, spatial)  # noqa: E731
    return Expression(footprint, (ExtentRule(),) * spatial, numbers, bool(shift.any()), sign)


def _is_added_in_place(value: ir.Value, output: ir.Value) -> bool:
    """Whether an operand has the shape of the sum, as far as that is known; batches may differ."""
    axes = range(1, rank(output) or 0)
    return rank(value) == rank(output) and all(
        dim(value, axis) == dim(output, axis) for axis in axes
    )


def _same_extents(value: ir.Value, output: ir.Value) -> bool:
    """Whether two images have the same extents at every size of the dynamic axes."""
    if value.shape is None or output.shape is None:
        return False
    pairs = zip(value.shape[2:], output.shape[2:], strict=True)
    return all(a == b and a != ir.SymbolicDim(None) for a, b in pairs)
