"""Sliding windows with constant weights, read as maps: Conv, ConvTranspose, AveragePool."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxfold.algebra.convmap import ConvMap
from onnxfold.algebra.cost import Footprint
from onnxfold.algebra.extents import ExtentRule, conv_extent, conv_transpose_extent
from onnxfold.algebra.operators import average_pool, conv, conv_transpose
from onnxfold.ir.constants import FLOAT_TYPES, constant_tensor, float_constant
from onnxfold.ir.graph import int_attribute, ints_attribute
from onnxfold.ir.ops import Conv, ConvTranspose, SlidingWindow
from onnxfold.ir.shapes import dim, tensor_extents
from onnxfold.linear.expression import Expression, Operands
from onnxfold.rewrite.rule import Reject


def of_convolution(view: Conv | ConvTranspose) -> Operands | Reject:
    """What a Conv or ConvTranspose reads, with its map; a `Reject` when it cannot be known."""
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


def of_average_pool(node: ir.Node) -> Operands | Reject | None:
    """What an AveragePool reads, with its map; a `Reject` where its border is no convolution."""
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
