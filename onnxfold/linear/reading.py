"""What a node computes, as a sum of maps of the tensors that it reads."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxfold.algebra.convmap import ConvMap
from onnxfold.algebra.cost import Footprint
from onnxfold.algebra.extents import ExtentRule
from onnxfold.algebra.operators import channel_affine
from onnxfold.ir.constants import FLOAT_TYPES, is_constant
from onnxfold.ir.graph import is_op, producer
from onnxfold.ir.ops import Conv, ConvTranspose
from onnxfold.ir.shapes import dim, rank
from onnxfold.linear.affine import (
    AFFINE_OPS,
    ARITHMETIC,
    AffineNode,
    affine_of,
    is_part_of_activation,
)
from onnxfold.linear.expression import Expression, Operands
from onnxfold.linear.filling import FILLING_OPS, filling_of
from onnxfold.linear.movement import MOVEMENT_OPS, of_movement
from onnxfold.linear.tracing import REARRANGEMENTS, rearrangement_of
from onnxfold.linear.windows import of_average_pool, of_convolution
from onnxfold.rewrite.rule import Reject

SUM_OPS = frozenset({"Add", "Sub", "Sum"})
WINDOW_OPS = frozenset({"Conv", "ConvTranspose", "AveragePool"})
MOVING_OPS = MOVEMENT_OPS | REARRANGEMENTS
"""Operators that move or copy elements, and compute nothing."""

CHAINED_OPS = REARRANGEMENTS | FILLING_OPS
"""Operators that mean something only together with those in front of them."""

COMPUTING_OPS = SUM_OPS | AFFINE_OPS | WINDOW_OPS | FILLING_OPS
LINEAR_OPS = COMPUTING_OPS | MOVING_OPS

_BROADCASTING_VERSION = 7
"""Since this operator set version additions and multiplications broadcast as numpy does."""


@dataclass(frozen=True, slots=True)
class Reading:
    """`output = Σ_j expression_j(value_j)`.

    Attributes:
        output: The value that is read so.
        nodes: The nodes in between, the last one first.
        operands: What is read, with the map applied to each.
        dtype: The floating-point type of all of it.
        is_in_place: Whether every operand is known to have the extents of the output. When not, an
            addition may repeat an operand along an axis, which no kernel in between may see.
        copies: How many tensors of the size of the output are written where nothing is computed.
    """

    output: ir.Value
    nodes: tuple[ir.Node, ...]
    operands: tuple[tuple[ir.Value, Expression], ...]
    dtype: ir.DataType
    is_in_place: bool = True
    copies: int | None = None

    @property
    def node(self) -> ir.Node:
        """The node that computes the output."""
        return self.nodes[0]


def reading_of(value: ir.Value | None) -> Reading | Reject | None:
    """Read what computes `value` as a sum of multirate convolutions of images (N, C, spatial…).

    Returns:
        The view; None when it is nothing of the kind; a `Reject` when it nearly is.
    """
    node = producer(value)
    if value is None or node is None or not is_op(node, *LINEAR_OPS):
        return None
    if (node.version or _BROADCASTING_VERSION) < _BROADCASTING_VERSION:
        return None
    if value.dtype is None or value.dtype not in FLOAT_TYPES:
        return None
    if is_op(node, *CHAINED_OPS) and (chained := _of_chain(value, node)) is not None:
        return chained
    operands = _operands(value, node)
    if operands is None or isinstance(operands, Reject):
        return operands
    if any(operand.dtype != value.dtype for operand, _ in operands):
        return Reject("its operands are of different types", node)
    if is_op(node, *MOVEMENT_OPS):
        return Reading(value, (node,), tuple(operands), value.dtype, copies=1)
    is_sum = len(operands) > 1
    in_place = not is_sum or all(_same_extents(operand, value) for operand, _ in operands)
    return Reading(value, (node,), tuple(operands), value.dtype, in_place)


def _of_chain(value: ir.Value, node: ir.Node) -> Reading | Reject | None:
    filled = filling_of(node)
    if isinstance(filled, Reject) or value.dtype is None:
        return filled if isinstance(filled, Reject) else None
    if filled is not None:
        operands = ((filled.source, filled.expression),)
        return Reading(value, filled.nodes, operands, value.dtype)
    found = rearrangement_of(node)
    if found is None:
        return None
    # A Reshape is no more than another look at the same numbers.
    copies = sum(not is_op(each, "Reshape") for each in found.nodes)
    return Reading(
        value, found.nodes, ((found.source, found.expression),), value.dtype, copies=copies
    )


def _operands(value: ir.Value, node: ir.Node) -> Operands | Reject | None:
    if is_op(node, *MOVEMENT_OPS):
        return of_movement(value, node)
    if is_op(node, "AveragePool"):
        return of_average_pool(node)
    if (view := Conv.of(node) or ConvTranspose.of(node)) is not None:
        return of_convolution(view)
    step = affine_of(node)
    if isinstance(step, AffineNode):
        return _of_affine(step)
    return _of_sum(node) if step is None and is_op(node, *SUM_OPS) else step


def _of_affine(step: AffineNode) -> Operands | Reject | None:
    channels, known = dim(step.x, 1), rank(step.x)
    if channels is None or known is None or known < 3:
        return None
    if is_op(step.node, *ARITHMETIC) and is_part_of_activation(step.node):
        return Reject("it belongs to an activation or normalization", step.node)
    numbers = step.affine.channels(channels)
    if numbers is None or step.affine.axis not in (None, 1):
        return Reject("its constant is not per channel", step.node)
    if dim(step.node.outputs[0], 1) != channels:
        return None
    return [(step.x, _channelwise(*numbers, known - 2))]


def _of_sum(node: ir.Node) -> Operands | Reject | None:
    output = node.outputs[0]
    channels, known = dim(output, 1), rank(output)
    if any(value is None or is_constant(value) for value in node.inputs) or (known or 3) < 3:
        return None
    if channels is None or known is None:
        return Reject("the rank or the channels of its result are not known", node)
    operands: list[tuple[ir.Value, Expression]] = []
    added = _signed(channels, known - 2, 1)
    for index, value in enumerate(node.inputs):
        if value is None or not _is_added_in_place(value, output):
            return Reject("it may broadcast its operands", node)
        is_subtracted = index > 0 and is_op(node, "Sub")
        operands.append((value, _signed(channels, known - 2, -1) if is_subtracted else added))
    return operands


def _signed(channels: int, spatial: int, sign: int) -> Expression:
    """The identity or its negative."""

    def numbers() -> ConvMap:
        return channel_affine(np.full(channels, float(sign)), np.zeros(channels), spatial)

    return _per_channel(channels, spatial, numbers, shifts=False, sign=sign)


def _channelwise(scale: np.ndarray, shift: np.ndarray, spatial: int) -> Expression:
    def numbers() -> ConvMap:
        return channel_affine(scale, shift, spatial)

    sign = int(scale[0]) if scale[0] in (1, -1) and (scale == scale[0]).all() else 0
    return _per_channel(scale.size, spatial, numbers, shifts=bool(shift.any()), sign=sign)


def _per_channel(
    channels: int, spatial: int, numbers: Callable[[], ConvMap], *, shifts: bool, sign: int
) -> Expression:
    one = (1,) * spatial
    footprint = Footprint(channels, channels, channels, ((0,),) * spatial, one, one)
    return Expression(footprint, (ExtentRule(),) * spatial, numbers, shifts, sign)


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
