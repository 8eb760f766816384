"""Typed views of the operators that passes fold.

`View.of(node)` reads a node once: schema defaults are filled in, left-out inputs are None, and the
passes never touch `node.inputs[3]` or an attribute by name. A view of another operator is None.
"""

from dataclasses import dataclass
from typing import Self

import onnx_ir as ir

from onnxfold.ir.constants import constant_array, int_constant
from onnxfold.ir.graph import (
    float_attribute,
    input_at,
    int_attribute,
    ints_attribute,
    is_op,
    string_attribute,
    used_outputs,
)
from onnxfold.ir.shapes import dim, static_shape


@dataclass(frozen=True, slots=True)
class SlidingWindow:
    """Where a convolution or pooling kernel reads, per spatial axis.

    Attributes:
        kernel_shape: Extent of the kernel.
        strides: Distance between two windows.
        dilations: Distance between two taps.
        pads: `(begin_0, …, end_0, …)` as in ONNX; meaningful only when `auto_pad` is NOTSET.
        auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER.
    """

    kernel_shape: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str

    @classmethod
    def of(cls, node: ir.Node, kernel_shape: tuple[int, ...]) -> Self:
        """Read the window attributes of a Conv, ConvTranspose or pooling node."""
        ones = (1,) * len(kernel_shape)
        return cls(
            kernel_shape=kernel_shape,
            strides=ints_attribute(node, "strides", ones),
            dilations=ints_attribute(node, "dilations", ones),
            pads=ints_attribute(node, "pads", (0,) * (2 * len(kernel_shape))),
            auto_pad=string_attribute(node, "auto_pad", "NOTSET"),
        )

    @property
    def spans(self) -> tuple[int, ...]:
        """Extent that the dilated kernel covers."""
        return tuple(
            (kernel - 1) * dilation + 1
            for kernel, dilation in zip(self.kernel_shape, self.dilations, strict=True)
        )

    def explicit_pads(self, x: ir.Value) -> tuple[int, ...] | None:
        """The pads as numbers; None when SAME_* meets an input whose extents are not known.

        Source of the SAME_* formula: the ONNX operator specification of Conv.
        """
        if self.auto_pad == "NOTSET":
            return self.pads
        if self.auto_pad == "VALID":
            return (0,) * (2 * len(self.kernel_shape))
        begins: list[int] = []
        ends: list[int] = []
        for axis, (stride, span) in enumerate(zip(self.strides, self.spans, strict=True)):
            extent = dim(x, axis + 2)
            if extent is None:
                return None
            outputs = -(-extent // stride)
            total = max(0, (outputs - 1) * stride + span - extent)
            small, large = total // 2, total - total // 2
            begins.append(small if self.auto_pad == "SAME_UPPER" else large)
            ends.append(large if self.auto_pad == "SAME_UPPER" else small)
        return (*begins, *ends)


@dataclass(frozen=True, slots=True)
class Conv:
    """Conv: `x` (N, C_in, …), `weight` (C_out, C_in/group, …), `bias` (C_out,) or None."""

    node: ir.Node
    x: ir.Value
    weight: ir.Value
    bias: ir.Value | None
    window: SlidingWindow
    group: int

    @classmethod
    def of(cls, node: ir.Node | None) -> Self | None:
        """The view, or None when `node` is no Conv or its kernel extent is not known."""
        parts = _convolution(node, "Conv")
        return None if parts is None else cls(*parts)


@dataclass(frozen=True, slots=True)
class ConvTranspose:
    """ConvTranspose: `x` (N, C_in, …), `weight` (C_in, C_out/group, …), `bias` (C_out,) or None."""

    node: ir.Node
    x: ir.Value
    weight: ir.Value
    bias: ir.Value | None
    window: SlidingWindow
    group: int

    @classmethod
    def of(cls, node: ir.Node | None) -> Self | None:
        """The view, or None when `node` is no ConvTranspose or its kernel is not known."""
        parts = _convolution(node, "ConvTranspose")
        return None if parts is None else cls(*parts)


_ConvolutionParts = tuple[ir.Node, ir.Value, ir.Value, ir.Value | None, SlidingWindow, int]


def _convolution(node: ir.Node | None, op_type: str) -> _ConvolutionParts | None:
    """Node, x, weight, bias, window and group of a convolution of that type."""
    if node is None or not is_op(node, op_type):
        return None
    x, weight = input_at(node, 0), input_at(node, 1)
    if x is None or weight is None:
        return None
    kernel_shape = ints_attribute(node, "kernel_shape", ())
    if not kernel_shape:
        shape = static_shape(weight)
        if shape is None:
            return None
        kernel_shape = shape[2:]
    window = SlidingWindow.of(node, kernel_shape)
    return node, x, weight, input_at(node, 2), window, int_attribute(node, "group", 1)


@dataclass(frozen=True, slots=True)
class BatchNormalization:
    """BatchNormalization: `x` (N, C, …) and four parameters of shape (C,).

    Attributes:
        training: Whether the node normalizes with the statistics of its own batch. True for
            `training_mode=1`, for more than one used output, and for the forms that operator sets
            before 9 allow (`is_test=0` up to 6, statistics per position with `spatial=0`).
    """

    node: ir.Node
    x: ir.Value
    scale: ir.Value
    bias: ir.Value
    mean: ir.Value
    variance: ir.Value
    epsilon: float
    training: bool

    @classmethod
    def of(cls, node: ir.Node | None) -> Self | None:
        """The view, or None when `node` is no BatchNormalization."""
        if node is None or not is_op(node, "BatchNormalization") or len(node.inputs) != 5:
            return None
        x, scale, bias, mean, variance = node.inputs
        if x is None or scale is None or bias is None or mean is None or variance is None:
            return None
        return cls(
            node=node,
            x=x,
            scale=scale,
            bias=bias,
            mean=mean,
            variance=variance,
            epsilon=float_attribute(node, "epsilon", 1e-5),
            training=_normalizes_with_batch_statistics(node),
        )


def _normalizes_with_batch_statistics(node: ir.Node) -> bool:
    if int_attribute(node, "training_mode", 0) or used_outputs(node) not in ([], [0]):
        return True
    version = node.version or 0
    if version < 7 and not int_attribute(node, "is_test", 0):
        return True
    return version < 9 and not int_attribute(node, "spatial", 1)


@dataclass(frozen=True, slots=True)
class Gemm:
    """Gemm: `alpha · A' · B' + beta · C`, with `x` = A (M, K) and `weight` = B."""

    node: ir.Node
    x: ir.Value
    weight: ir.Value
    bias: ir.Value | None
    alpha: float
    beta: float
    transposed_x: bool
    transposed_weight: bool

    @classmethod
    def of(cls, node: ir.Node | None) -> Self | None:
        """The view, or None when `node` is no Gemm."""
        if node is None or not is_op(node, "Gemm"):
            return None
        x, weight = input_at(node, 0), input_at(node, 1)
        if x is None or weight is None:
            return None
        return cls(
            node=node,
            x=x,
            weight=weight,
            bias=input_at(node, 2),
            alpha=float_attribute(node, "alpha", 1.0),
            beta=float_attribute(node, "beta", 1.0),
            transposed_x=bool(int_attribute(node, "transA", 0)),
            transposed_weight=bool(int_attribute(node, "transB", 0)),
        )


@dataclass(frozen=True, slots=True)
class MatMul:
    """MatMul with a matrix on the right: `x` (…, K) times `weight` (K, N)."""

    node: ir.Node
    x: ir.Value
    weight: ir.Value

    @classmethod
    def of(cls, node: ir.Node | None) -> Self | None:
        """The view, or None when `node` is no MatMul or its right operand is no matrix."""
        if node is None or not is_op(node, "MatMul"):
            return None
        x, weight = input_at(node, 0), input_at(node, 1)
        if x is None or weight is None or weight.shape is None or len(weight.shape) != 2:
            return None
        return cls(node=node, x=x, weight=weight)


@dataclass(frozen=True, slots=True)
class Pad:
    """Pad with every form of its inputs resolved.

    Attributes:
        pads: `(begin, end)` per axis of `x`, or None when they are not constant or the rank of
            `x` is not known.
        value: What constant mode writes, or None when that is not a constant.
        mode: constant, reflect, edge or wrap.
    """

    node: ir.Node
    x: ir.Value
    pads: tuple[tuple[int, int], ...] | None
    value: float | None
    mode: str

    @classmethod
    def of(cls, node: ir.Node | None) -> Self | None:
        """The view, or None when `node` is no Pad."""
        if node is None or not is_op(node, "Pad"):
            return None
        x = input_at(node, 0)
        if x is None:
            return None
        return cls(
            node=node,
            x=x,
            pads=pads_by_axis(node, x),
            value=_pad_value(node),
            mode=string_attribute(node, "mode", "constant"),
        )


def _pad_value(node: ir.Node) -> float | None:
    if "value" in node.attributes:
        return node.attributes["value"].as_float()
    value = input_at(node, 2)
    if value is None:
        return 0.0
    array = constant_array(value)
    return None if array is None or array.size != 1 else float(array.reshape(-1)[0])


def pads_by_axis(node: ir.Node, x: ir.Value) -> tuple[tuple[int, int], ...] | None:
    """The `(begin, end)` pads of a Pad node for every axis of `x`, or None."""
    given = ints_attribute(node, "pads", ()) or int_constant(input_at(node, 1))
    if given is None:
        return None
    axes_value = input_at(node, 3)
    if axes_value is None:
        rank = len(given) // 2
        return tuple((given[axis], given[axis + rank]) for axis in range(rank))
    axes = int_constant(axes_value)
    if axes is None or x.shape is None or len(given) != 2 * len(axes):
        return None
    rank = len(x.shape)
    resolved = [(0, 0)] * rank
    for position, axis in enumerate(axes):
        if not -rank <= axis < rank:
            return None
        resolved[axis % rank] = (given[position], given[position + len(axes)])
    return tuple(resolved)
