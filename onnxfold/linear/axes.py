"""Follows one axis of a tensor through operators that only rearrange it."""

import math

import onnx_ir as ir

from onnxfold.ir.graph import input_at, ints_attribute, is_op
from onnxfold.ir.shapes import dim, rank


def axis_before(node: ir.Node, axis: int) -> int | None:
    """Which axis of the input of `node` its output axis `axis` is; None when it is none.

    An output axis of a reshape is an input axis when it has the same extent and the same number
    of elements behind it; extents in front may be dynamic.
    """
    x = input_at(node, 0)
    if x is None:
        return None
    if is_op(node, "Transpose"):
        return _before_transpose(node, x, axis)
    return _same_place(node.outputs[0], axis, x)


def axis_after(node: ir.Node, axis: int) -> int | None:
    """Which axis of the output of `node` its input axis `axis` is; None when it is none."""
    x = input_at(node, 0)
    if x is None:
        return None
    if is_op(node, "Transpose"):
        permutation = _permutation(node, x)
        return None if permutation is None else permutation.index(axis)
    return _same_place(x, axis, node.outputs[0])


def _permutation(node: ir.Node, x: ir.Value) -> tuple[int, ...] | None:
    known = rank(x)
    default = () if known is None else tuple(reversed(range(known)))
    return ints_attribute(node, "perm", default) or None


def _before_transpose(node: ir.Node, x: ir.Value, axis: int) -> int | None:
    permutation = _permutation(node, x)
    return None if permutation is None else permutation[axis]


def _same_place(source: ir.Value, axis: int, target: ir.Value) -> int | None:
    extent, behind = dim(source, axis), _elements_behind(source, axis)
    target_rank = rank(target)
    if extent is None or extent == 1 or behind is None or target_rank is None:
        return None
    for candidate in range(target_rank):
        if dim(target, candidate) == extent and _elements_behind(target, candidate) == behind:
            return candidate
    return None


def _elements_behind(value: ir.Value, axis: int) -> int | None:
    known = rank(value)
    if known is None:
        return None
    extents = [dim(value, later) for later in range(axis + 1, known)]
    numbers = [extent for extent in extents if extent is not None]
    return math.prod(numbers) if len(numbers) == len(extents) else None
