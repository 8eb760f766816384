"""Moves a channel affine upwards, into the operators that compute its input.

`plan(value, affine)` walks from a value towards its producers until every path ends in something
that can take the numbers for free: a convolution, a matrix product, a constant, another affine.
`emit(plan)` records the changed operators and the ones in between. Nothing is computed twice: every
value on the way has one reader.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxfold.ir.constants import constant_tensor, float_constant, is_constant
from onnxfold.ir.graph import (
    has_other_readers,
    int_attribute,
    ints_attribute,
    is_op,
    producer,
    string_attribute,
)
from onnxfold.ir.ops import BatchNormalization
from onnxfold.ir.shapes import dim, rank
from onnxfold.linear.affine import (
    Affine,
    AffineNode,
    affine_of,
    broadcast_shape,
)
from onnxfold.linear.axes import axis_before
from onnxfold.linear.batchnorm import emit_batch_normalization
from onnxfold.linear.hosts import Host, emit_scaled_outputs, host_of
from onnxfold.linear.reach import is_within_reach
from onnxfold.rewrite.builder import Builder
from onnxfold.rewrite.rule import Reject


@dataclass(frozen=True, slots=True)
class Keep:
    """The affine is the identity here: the value stays."""

    value: ir.Value


@dataclass(frozen=True, slots=True)
class IntoHost:
    """A convolution or matrix product takes the affine into its weights."""

    host: Host
    affine: Affine


@dataclass(frozen=True, slots=True)
class IntoBatchNormalization:
    """A BatchNormalization takes the affine into its scale and bias.

    Attributes:
        view: The normalization.
        joined: What both compute together, along axis 1.
    """

    view: BatchNormalization
    joined: Affine


@dataclass(frozen=True, slots=True)
class IntoConstant:
    """A constant takes the affine itself."""

    value: ir.Value
    affine: Affine
    rank: int


@dataclass(frozen=True, slots=True)
class Through:
    """The operator stays as it is; its inputs change.

    Attributes:
        node: The operator.
        inputs: A plan per input that changes; None keeps the input (an axis list, say).
    """

    node: ir.Node
    inputs: tuple["Plan | None", ...]


Plan = Keep | IntoHost | IntoBatchNormalization | IntoConstant | Through
Carrier = Callable[[ir.Node, Affine], "Plan | Reject"]


def plan(value: ir.Value, affine: Affine) -> Plan | Reject:
    """How `affine(value)` can be computed without a node of its own.

    Returns:
        The plan, or the reason why there is none, naming the node in the way.
    """
    if affine.is_identity:
        return Keep(value)
    if is_constant(value):
        return _into_constant(value, affine)
    node = producer(value)
    if node is None:
        return Reject("its input is an input of the graph", _any_reader(value))
    if has_other_readers(value):
        return Reject("what it reads has another reader", node)
    if _any_reader(value).graph is not node.graph:
        # A body of Loop would compute again in every turn what is moved into it.
        return Reject("what it reads is computed outside the body of control flow", node)
    if (host := host_of(node)) is not None:
        return host if isinstance(host, Reject) else _into_host(host, affine)
    if (norm := BatchNormalization.of(node)) is not None:
        return _into_batch_normalization(norm, affine)
    carrier = _CARRIERS.get(node.op_type) if node.domain == "" else None
    if carrier is None:
        return Reject("no linear operator before it can take it", node)
    return carrier(node, affine)


def plan_at(step: AffineNode) -> Plan | Reject:
    """How the output of an affine node can be computed without that node."""
    if not is_within_reach(step.x, frozenset(_CARRIERS)):
        return Reject("too many operators lie before it", step.node)
    return plan(step.x, step.affine)


def _any_reader(value: ir.Value) -> ir.Node:
    return next(iter(value.uses())).node


def _into_constant(value: ir.Value, affine: Affine) -> Plan | Reject:
    tensor = constant_tensor(value)
    assert tensor is not None
    shape = list(tensor.shape.numpy())
    known, lacks_axis = len(shape), affine.axis is not None and affine.axis < 0
    if lacks_axis:
        shape.append(affine.scale.size)
    elif affine.axis is not None:
        shape[affine.axis] = affine.scale.size
    if math.prod(shape) > max(tensor.size, affine.scale.size):
        return Reject("a constant on the way would grow", _any_reader(value))
    return IntoConstant(value, affine, known)


def _into_host(host: Host, affine: Affine) -> Plan | Reject:
    if affine.axis is not None and affine.axis != host.out_axis:
        return Reject("it does not work along the output channels", host.node)
    if affine.channels(host.out_channels) is None:
        return Reject("its constant broadcasts the channels to another number", host.node)
    adds_node = is_op(host.node, "MatMul") and affine.shifts
    if adds_node and (affine.scale == 1).all():
        return Reject("a MatMul has no bias to take a shift", host.node)
    return IntoHost(host, affine)


def _into_batch_normalization(view: BatchNormalization, affine: Affine) -> Plan | Reject:
    numbers = affine_of(view.node)
    if not isinstance(numbers, AffineNode):
        assert numbers is not None
        return numbers
    if affine.axis not in (None, 1) or affine.channels(numbers.affine.scale.size) is None:
        return Reject("it does not work along the channels of the normalization", view.node)
    joined = affine.after(numbers.affine)
    assert joined is not None
    return IntoBatchNormalization(view, joined)


def _through(node: ir.Node, index: int, inner: Plan | Reject) -> Plan | Reject:
    """`node` unchanged but for the one input that carries the data."""
    if isinstance(inner, Reject):
        return inner
    return Through(node, tuple(inner if i == index else None for i in range(len(node.inputs))))


def _concat(node: ir.Node, affine: Affine) -> Plan | Reject:
    known = rank(node.outputs[0])
    if known is None:
        return Reject("the rank of a Concat on the way is not known", node)
    axis = int_attribute(node, "axis", 0) % known
    parts: list[Plan] = []
    start = 0
    for value in node.inputs:
        assert value is not None
        part = affine
        if affine.axis == axis:
            extent = dim(value, axis)
            if extent is None:
                return Reject("the channels of a Concat on the way are not known", node)
            part, start = affine.part(start, start + extent), start + extent
        inner = plan(value, part)
        if isinstance(inner, Reject):
            return inner
        parts.append(inner)
    return Through(node, tuple(parts))


def _sum(node: ir.Node, affine: Affine) -> Plan | Reject:
    """The scale goes into every operand; the shift into one, preferably a constant."""
    known = rank(node.outputs[0])
    operands = [value for value in node.inputs if value is not None]
    if known is None or any(rank(v) != known for v in operands if not is_constant(v)):
        return Reject("an addition on the way broadcasts its operands", node)
    if affine.axis is not None and any(
        dim(v, affine.axis) != dim(node.outputs[0], affine.axis)
        for v in operands
        if not is_constant(v)
    ):
        return Reject("an addition on the way broadcasts its channels", node)
    negated = is_op(node, "Sub")
    order = sorted(range(len(operands)), key=lambda i: not is_constant(operands[i]))
    refusal: Reject | None = None
    for taker in order if affine.shifts else order[:1]:
        outcome = _sum_with_shift_in(node, operands, affine, taker, negated and taker == 1)
        if not isinstance(outcome, Reject):
            return outcome
        refusal = refusal or outcome
    assert refusal is not None
    return refusal


def _sum_with_shift_in(
    node: ir.Node, operands: Sequence[ir.Value], affine: Affine, taker: int, negated: bool
) -> Plan | Reject:
    known = rank(node.outputs[0])
    assert known is not None
    shift = -affine.shift if negated else affine.shift
    inners: list[Plan] = []
    for index, value in enumerate(operands):
        part = affine.without_shift()
        if index == taker:
            part = Affine(affine.scale, shift, affine.axis)
        if is_constant(value):
            part = _aligned_to_constant(part, known, value)
        inner = plan(value, part)
        if isinstance(inner, Reject):
            return inner
        inners.append(inner)
    return Through(node, tuple(inners))


def _aligned_to_constant(affine: Affine, tensor_rank: int, constant: ir.Value) -> Affine:
    """The affine with its axis counted in a constant that may have fewer axes.

    The axis may become negative: the constant then has no such axis yet and gains it.
    """
    tensor = constant_tensor(constant)
    assert tensor is not None
    if affine.axis is None:
        return affine
    return affine.along(affine.axis - (tensor_rank - len(tensor.shape)))


def _product(node: ir.Node, affine: Affine) -> Plan | Reject:
    """Multiplication by a constant takes a scale into the constant."""
    step = affine_of(node)
    if not isinstance(step, AffineNode):
        return Reject("no linear operator before it can take it", node)
    if affine.shifts:
        return Reject("a multiplication on the way cannot take a shift", node)
    if is_op(node, "Div"):
        return _through(node, 0, plan(step.x, affine))
    known = rank(node.outputs[0])
    index = 0 if node.inputs[1] is step.x else 1
    constant = node.inputs[index]
    assert constant is not None
    if known is None:
        return Reject("the rank of a multiplication on the way is not known", node)
    return _through(node, index, plan(constant, _aligned_to_constant(affine, known, constant)))


def _homogeneous(node: ir.Node, affine: Affine) -> Plan | Reject:
    """`f(s·x) = s·f(x)` for s > 0: ReLU and its leaky kin."""
    if affine.shifts or not affine.keeps_order:
        return Reject("a shift or a negative scale cannot move past the activation", node)
    x = node.inputs[0]
    assert x is not None
    return _through(node, 0, plan(x, affine))


def _monotone(node: ir.Node, affine: Affine) -> Plan | Reject:
    """`max(s·x + t) = s·max(x) + t` for s > 0."""
    if len(node.outputs) > 1:
        return Reject("the indices of a MaxPool on the way are read", node)
    if not affine.keeps_order:
        return Reject("a negative scale cannot move past the maximum", node)
    if affine.axis not in (None, 1):
        return Reject("it does not work along the channels of the pooling", node)
    x = node.inputs[0]
    assert x is not None
    return _through(node, 0, plan(x, affine))


def _average(node: ir.Node, affine: Affine) -> Plan | Reject:
    """An average of s·x + t is s·average + t where no counted padding is read."""
    if affine.axis not in (None, 1):
        return Reject("it does not work along the channels of the pooling", node)
    may_pad = string_attribute(node, "auto_pad", "NOTSET").startswith("SAME")
    counts_padding = int_attribute(node, "count_include_pad", 0) and (
        may_pad or any(ints_attribute(node, "pads", ()))
    )
    if affine.shifts and (counts_padding or int_attribute(node, "ceil_mode", 0)):
        return Reject("a shift cannot move past an average that counts padding", node)
    x = node.inputs[0]
    assert x is not None
    return _through(node, 0, plan(x, affine))


def _rearranged(node: ir.Node, affine: Affine) -> Plan | Reject:
    """Transpose, Reshape and their kin keep every element; only the axis is called otherwise."""
    x = node.inputs[0]
    assert x is not None
    if affine.axis is None:
        return _through(node, 0, plan(x, affine))
    axis = axis_before(node, affine.axis)
    if axis is None:
        return Reject("the channels cannot be followed through a reshape", node)
    return _through(node, 0, plan(x, affine.along(axis)))


_CARRIERS: dict[str, Carrier] = {
    "Concat": _concat,
    "Add": _sum,
    "Sub": _sum,
    "Sum": _sum,
    "Mul": _product,
    "Div": _product,
    "Relu": _homogeneous,
    "LeakyRelu": _homogeneous,
    "MaxPool": _monotone,
    "GlobalMaxPool": _monotone,
    "AveragePool": _average,
    "GlobalAveragePool": _average,
    "Transpose": _rearranged,
    "Reshape": _rearranged,
    "Flatten": _rearranged,
    "Squeeze": _rearranged,
    "Unsqueeze": _rearranged,
}


def emit(step: Plan, build: Builder) -> ir.Value:
    """Record what a plan says, and return the value that equals `affine(value)`."""
    match step:
        case Keep(value):
            return value
        case IntoHost(host, affine):
            return emit_scaled_outputs(host, affine, build)
        case IntoBatchNormalization(view, joined):
            return emit_batch_normalization(view, view.x, joined, build)
        case IntoConstant(value, affine, known):
            return _emit_constant(value, affine, known, build)
        case Through(node, inputs):
            changed = [
                node.inputs[index] if inner is None else emit(inner, build)
                for index, inner in enumerate(inputs)
            ]
            return build.like(node, changed)


def _emit_constant(value: ir.Value, affine: Affine, known: int, build: Builder) -> ir.Value:
    numbers, tensor = float_constant(value), constant_tensor(value)
    assert numbers is not None
    assert tensor is not None
    axis = affine.axis
    if axis is not None and axis < 0:
        numbers = numbers.reshape((1,) * -axis + numbers.shape)
        known, axis = known - axis, 0
    shape = broadcast_shape(Affine(affine.scale, affine.shift, axis), known)
    with np.errstate(over="ignore", invalid="ignore"):
        folded = numbers * affine.scale.reshape(shape) + affine.shift.reshape(shape)
    return build.constant(np.asarray(folded), tensor.dtype, value.name)
