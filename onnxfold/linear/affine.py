"""Nodes that compute `scale · x + shift` per channel: normalizations and constant arithmetic."""

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxfold.algebra.normalisation import batchnorm_as_affine
from onnxfold.algebra.refusal import Refusal
from onnxfold.ir.constants import FLOAT_TYPES, float_constant, is_constant
from onnxfold.ir.graph import is_op, producer
from onnxfold.ir.ops import BatchNormalization
from onnxfold.ir.shapes import dim, rank
from onnxfold.rewrite.rule import Reject

Array = NDArray[np.float64]
ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Neg"})
AFFINE_OPS = ARITHMETIC | {"BatchNormalization"}


@dataclass(frozen=True, slots=True)
class Affine:
    """`y = scale · x + shift` along one axis of a tensor.

    Attributes:
        scale: float64, shape (channels,), or () when it is the same everywhere.
        shift: float64, of the shape of `scale`.
        axis: The channel axis, not negative; None when both are the same everywhere.
    """

    scale: Array
    shift: Array
    axis: int | None

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        return bool((self.scale == 1).all()) and not self.shifts

    @property
    def shifts(self) -> bool:
        """Whether any shift is not zero."""
        return bool(self.shift.any())

    @property
    def keeps_order(self) -> bool:
        """Whether every scale is positive, so that comparisons come out the same."""
        return bool((self.scale > 0).all())

    def without_shift(self) -> "Affine":
        """The scale alone."""
        return Affine(self.scale, np.zeros_like(self.shift), self.axis)

    def along(self, axis: int) -> "Affine":
        """The same numbers along another axis of a rearranged tensor."""
        return Affine(self.scale, self.shift, None if self.axis is None else axis)

    def part(self, start: int, stop: int) -> "Affine":
        """What it does to channels `start` to `stop`."""
        if self.axis is None:
            return self
        return Affine(self.scale[start:stop], self.shift[start:stop], self.axis)

    def channels(self, count: int) -> tuple[Array, Array] | None:
        """Scale and shift for `count` channels, or None when it is made for another number."""
        if self.scale.shape == (count,):
            return self.scale, self.shift
        if self.axis is not None:
            return None
        return np.broadcast_to(self.scale, (count,)), np.broadcast_to(self.shift, (count,))

    def after(self, inner: "Affine") -> "Affine | None":
        """`self(inner(x))`; None when the two work along different axes."""
        axes = {a for a in (self.axis, inner.axis) if a is not None}
        if len(axes) > 1:
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            scale = self.scale * inner.scale
            shift = self.scale * inner.shift + self.shift
        return Affine(scale, np.broadcast_to(shift, scale.shape), axes.pop() if axes else None)


IDENTITY = Affine(np.ones(()), np.zeros(()), None)


@dataclass(frozen=True, slots=True)
class AffineNode:
    """A node that applies an `Affine` to its one variable input `x`."""

    node: ir.Node
    x: ir.Value
    affine: Affine


def affine_of(node: ir.Node | None) -> AffineNode | Reject | None:
    """Read `node` as a channel affine.

    Returns:
        The view; None when the node is nothing of the kind; a `Reject` when it nearly is.
    """
    if node is None:
        return None
    if is_op(node, "BatchNormalization"):
        return _of_batch_normalization(node)
    if is_op(node, "Neg"):
        return _uniform(node, -1.0, 0.0)
    if is_op(node, "Add", "Sub", "Mul", "Div"):
        return _of_arithmetic(node)
    return None


def _uniform(node: ir.Node, scale: float, shift: float) -> AffineNode | None:
    x = node.inputs[0]
    if x is None or x.dtype not in FLOAT_TYPES or is_constant(x):
        return None
    return AffineNode(node, x, Affine(np.asarray(scale), np.asarray(shift), None))


def _of_batch_normalization(node: ir.Node) -> AffineNode | Reject | None:
    norm = BatchNormalization.of(node)
    if norm is None:
        return None
    if norm.training:
        return Reject("it normalizes with the statistics of its own batch", node)
    scale, bias = float_constant(norm.scale), float_constant(norm.bias)
    mean, variance = float_constant(norm.mean), float_constant(norm.variance)
    if scale is None or bias is None or mean is None or variance is None:
        return Reject("its parameters are not constants", node)
    if rank(norm.x) in (0, 1) or len({each.shape for each in (scale, bias, mean, variance)}) > 1:
        return Reject("its parameters do not fit its input", node)
    numbers = batchnorm_as_affine(scale, bias, mean, variance, norm.epsilon)
    if isinstance(numbers, Refusal):
        return Reject(numbers.reason, node)
    return AffineNode(node, norm.x, Affine(*numbers, axis=1))


def _of_arithmetic(node: ir.Node) -> AffineNode | Reject | None:
    left, right = node.inputs
    if left is None or right is None:
        return None
    constant_first = is_constant(left)
    if constant_first == is_constant(right):
        return None
    x, other = (right, left) if constant_first else (left, right)
    numbers = float_constant(other)
    if numbers is None or (constant_first and node.op_type == "Div"):
        return None
    if "broadcast" in node.attributes or "axis" in node.attributes:
        return Reject("it aligns its constant as operator sets before 7 do", node)
    placed = channel_vector(x, numbers)
    if isinstance(placed, str):
        return Reject(placed, node)
    vector, axis = placed
    if node.op_type == "Div" and not (np.isfinite(vector) & (vector != 0)).all():
        return Reject("it divides by zero or by infinity", node)
    return AffineNode(node, x, _arithmetic(node.op_type, vector, axis, constant_first))


def _arithmetic(op_type: str, vector: Array, axis: int | None, constant_first: bool) -> Affine:
    """`x op vector`, or `vector op x` for a constant first operand (never of a Div)."""
    one, zero = np.ones_like(vector), np.zeros_like(vector)
    match op_type:
        case "Mul":
            return Affine(vector, zero, axis)
        case "Div":
            with np.errstate(over="ignore"):
                return Affine(1 / vector, zero, axis)
        case "Add":
            return Affine(one, vector, axis)
        case _ if constant_first:
            return Affine(-one, vector, axis)
        case _:
            return Affine(one, -vector, axis)


def channel_vector(x: ir.Value, numbers: Array) -> tuple[Array, int | None] | str:
    """Read a constant that broadcasts against `x` as one number per channel.

    ONNX aligns shapes at the right, so `[C]` lies along the *last* axis of `x`, and only
    `[C, 1, 1]` or `[1, C, 1, 1]` along the channels of an image.

    Returns:
        The numbers, shape (channels,) or (), with the axis they lie along (None for a scalar); or
        the reason why the constant is not of that kind.
    """
    known = rank(x)
    if known is None and numbers.ndim > 0:
        return "the rank of its input is not known"
    if known is not None and numbers.ndim > known:
        return "its constant has more axes than the tensor, so it changes the shape"
    if numbers.size == 1:
        return numbers.reshape(()), None
    assert known is not None
    offset = known - numbers.ndim
    varying = [axis + offset for axis, extent in enumerate(numbers.shape) if extent != 1]
    if len(varying) != 1:
        return "its constant varies along more than one axis"
    if dim(x, varying[0]) not in (None, math.prod(numbers.shape)):
        return "its constant broadcasts the tensor to a larger shape"
    return numbers.reshape(-1), varying[0]


def broadcast_shape(affine: Affine, tensor_rank: int) -> tuple[int, ...]:
    """The shape in which the numbers of `affine` broadcast against a tensor of that rank."""
    if affine.axis is None:
        return ()
    return (-1, *(1,) * (tensor_rank - 1 - affine.axis))


def is_part_of_activation(node: ir.Node) -> bool:
    """Whether constant arithmetic at `node` belongs to a decomposed activation or normalization.

    `x · (1 + erf(x/√2)) · 0.5` and `(x − μ)/σ · γ + β` end in a constant that scales a product or
    a quotient of two tensors. Backends recognise these shapes and run them as one kernel; moving
    the constant away would hide them, and cost more than it saves.
    """
    value: ir.Value | None = node.outputs[0]
    while value is not None:
        producing = value.producer()
        step = affine_of(producing) if is_op(producing, *ARITHMETIC) else None
        if not isinstance(step, AffineNode):
            return is_op(producing, "Mul", "Div") and not _is_gated(producing)
        value = step.x
    return False


def _is_gated(product: ir.Node | None) -> bool:
    """Whether `product` is `x · sigmoid(…)`: SiLU and gates, which are whole with the product."""
    return product is not None and any(
        is_op(producer(value), "Sigmoid", "HardSigmoid") for value in product.inputs
    )
