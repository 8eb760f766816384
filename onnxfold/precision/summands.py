"""How many numbers an operator adds up for one element of its result."""

import math
from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxfold.ir.constants import int_constant
from onnxfold.ir.graph import input_at, int_attribute, ints_attribute
from onnxfold.ir.shapes import dim, rank, static_shape


def summands(node: ir.Node) -> int | None:
    """How many numbers the node adds up at most; None when a dynamic extent hides it.

    Args:
        node: An operator that `KNOWN` lists.
    """
    return KNOWN[node.op_type](node)


def _extent(x: ir.Value | None, axes: Sequence[int]) -> int | None:
    extents = [extent for axis in axes if (extent := dim(x, axis)) is not None]
    return math.prod(extents) if len(extents) == len(axes) else None


def _reduction(node: ir.Node) -> int | None:
    """Axes are an attribute before opset 13 or 18, and an input since."""
    x, given = node.inputs[0], input_at(node, 1)
    axes = ints_attribute(node, "axes", ()) if given is None else int_constant(given)
    if axes is None:
        return None
    if not axes and int_attribute(node, "noop_with_empty_axes", 0):
        return 1
    return _extent(x, axes) if axes else _all(x)


def _all(x: ir.Value | None) -> int | None:
    shape = None if x is None else static_shape(x)
    return None if shape is None else math.prod(shape)


def _behind(first_axis: int) -> Callable[[ir.Node], int | None]:
    def count(node: ir.Node) -> int | None:
        length = rank(node.inputs[0])
        return None if length is None else _extent(node.inputs[0], range(first_axis, length))

    return count


def _from_axis(node: ir.Node, default: int) -> int | None:
    """All axes from the attribute `axis` on."""
    length = rank(node.inputs[0])
    if length is None:
        return None
    axis = int_attribute(node, "axis", default)
    return _extent(node.inputs[0], range(axis % length if length else 0, length))


def _softmax(node: ir.Node) -> int | None:
    """Before opset 13 the axes from `axis` on are one."""
    if (node.version or 0) < 13:
        return _from_axis(node, 1)
    return dim(node.inputs[0], int_attribute(node, "axis", -1))


def _window(node: ir.Node) -> int | None:
    return math.prod(ints_attribute(node, "kernel_shape", ())) or None


def _cumulative(node: ir.Node) -> int | None:
    axis = int_constant(input_at(node, 1))
    return dim(node.inputs[0], axis[0]) if axis else None


KNOWN: dict[str, Callable[[ir.Node], int | None]] = {
    "ReduceSum": _reduction,
    "ReduceMean": _reduction,
    "ReduceL1": _reduction,
    "ReduceL2": _reduction,
    "ReduceSumSquare": _reduction,
    "GlobalAveragePool": _behind(2),
    "GlobalLpPool": _behind(2),
    "AveragePool": _window,
    "LpPool": _window,
    "CumSum": _cumulative,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "InstanceNormalization": _behind(2),
    "GroupNormalization": _behind(1),
    "LayerNormalization": lambda node: _from_axis(node, -1),
    "RMSNormalization": lambda node: _from_axis(node, -1),
    "LpNormalization": lambda node: dim(node.inputs[0], int_attribute(node, "axis", -1)),
    "LRN": lambda node: int_attribute(node, "size", 1),
}
"""The operators that add up."""
