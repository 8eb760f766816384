"""Moves a channel affine downwards, into the operator that reads its output.

`pull(value)` looks upwards from the input of a linear operator for an affine that may be taken out,
and says what the operator would then read instead: `value = affine(source)`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxfold.ir.constants import int_constant
from onnxfold.ir.graph import (
    has_other_readers,
    input_at,
    int_attribute,
    ints_attribute,
    is_op,
    producer,
)
from onnxfold.ir.shapes import dim, rank
from onnxfold.linear.affine import (
    AFFINE_OPS,
    ARITHMETIC,
    IDENTITY,
    Affine,
    AffineNode,
    affine_of,
    is_part_of_activation,
)
from onnxfold.linear.axes import axis_after
from onnxfold.linear.hosts import Host, host_of
from onnxfold.linear.reach import is_within_reach
from onnxfold.rewrite.builder import Builder
from onnxfold.rewrite.rule import Reject


@dataclass(frozen=True, slots=True)
class Pulled:
    """`value = affine(source)`, where `source` is what remains when the affine is taken out.

    Attributes:
        affine: What was taken out.
        value: The value to read when there is no operator to record again.
        through: An operator between the affine and the reader, recorded again over `inputs`.
        inputs: What remains of each input of `through`; None keeps that input.
        taken: The affine nodes that become superfluous, nearest to the reader first.
    """

    affine: Affine
    value: ir.Value
    taken: tuple[ir.Node, ...]
    through: ir.Node | None = None
    inputs: tuple["Pulled | None", ...] = ()


Carrier = Callable[[ir.Node], "Pulled | Reject | None"]


def pull(value: ir.Value, reader: ir.Node) -> Pulled | Reject | None:
    """The affine that can be taken out of `value`.

    Args:
        value: What `reader` reads.
        reader: A linear operator, or an operator on the way to one.

    Returns:
        What was found; None when there is nothing; a `Reject` when there is, but in the way.
    """
    node = producer(value)
    if node is None or node.domain != "":
        return None
    step = affine_of(node)
    if isinstance(step, AffineNode):
        return _pull_affine(step, reader)
    if step is not None or (carrier := _CARRIERS.get(node.op_type)) is None:
        return None
    if has_other_readers(value) or reader.graph is not node.graph:
        return None
    return carrier(node)


def pull_above(node: ir.Node) -> Pulled | Reject | None:
    """The affine that can be taken out of the first input of `node`."""
    x = input_at(node, 0)
    if x is None or not is_within_reach(x, frozenset(_CARRIERS) | AFFINE_OPS):
        return None
    return pull(x, node)


def _pull_affine(step: AffineNode, reader: ir.Node) -> Pulled | Reject:
    if is_op(step.node, *ARITHMETIC) and is_part_of_activation(step.node):
        return Reject("it belongs to an activation or normalization", step.node)
    value = step.node.outputs[0]
    if not _keeps_channels(step):
        return Reject("its constant may broadcast the tensor to more channels", step.node)
    if has_other_readers(value):
        if not _all_readers_take(value, step.affine):
            return Reject("it has another reader that cannot take it", step.node)
        # What lies further up would have to be recorded once per reader.
        return Pulled(step.affine, step.x, (step.node,))
    further = pull(step.x, reader) if not has_other_readers(step.x) else None
    if isinstance(further, Pulled):
        joined = step.affine.after(further.affine)
        if joined is not None:
            taken = (step.node, *further.taken)
            return Pulled(joined, further.value, taken, further.through, further.inputs)
    return Pulled(step.affine, step.x, (step.node,))


def _keeps_channels(step: AffineNode) -> bool:
    """Whether the input is known to have as many channels as the output.

    A normalization demands it; a constant of C numbers stretches an input of one channel to C.
    """
    axis = step.affine.axis
    if axis is None or is_op(step.node, "BatchNormalization"):
        return True
    return dim(step.x, axis) == step.affine.scale.size


def _all_readers_take(value: ir.Value, affine: Affine) -> bool:
    """Whether every reader is a linear operator that this affine can go into.

    With one that cannot, the affine would have to stay, and nothing would be gained.
    """
    if value.is_graph_output():
        return False
    for reader, index in value.uses():
        host = host_of(reader)
        if not isinstance(host, Host) or index != 0 or refusal(host, affine) is not None:
            return False
    return True


def refusal(host: Host, affine: Affine) -> Reject | None:
    """Why `affine` cannot go into the input side of `host`; None when it can."""
    if affine.axis is not None and affine.axis != host.in_axis:
        return Reject("it does not work along the input channels", host.node)
    if affine.channels(host.in_channels) is None:
        return Reject("its constant broadcasts the channels to another number", host.node)
    if affine.shifts and host.pads_border:
        return Reject(
            "its shift is not zero, and the zeros that pad the border come after it", host.node
        )
    return None


def _carried(node: ir.Node, index: int, inner: Pulled, affine: Affine) -> Pulled:
    inputs = tuple(inner if i == index else None for i in range(len(node.inputs)))
    return Pulled(affine, node.outputs[0], inner.taken, node, inputs)


def _concat(node: ir.Node) -> Pulled | Reject | None:
    known = rank(node.outputs[0])
    if known is None or int_attribute(node, "axis", 0) % known != 1:
        return None
    values = [value for value in node.inputs if value is not None]
    found = [pull(value, node) for value in values]
    pulled = [inner if isinstance(inner, Pulled) else None for inner in found]
    if not any(pulled):
        return next((inner for inner in found if isinstance(inner, Reject)), None)
    affine = _joined(values, pulled)
    if isinstance(affine, str):
        return Reject(affine, node)
    taken = tuple(step for inner in pulled if inner is not None for step in inner.taken)
    return Pulled(affine, node.outputs[0], taken, node, tuple(pulled))


def _joined(values: Sequence[ir.Value], pulled: Sequence[Pulled | None]) -> Affine | str:
    scales, shifts = [], []
    for value, inner in zip(values, pulled, strict=True):
        affine = IDENTITY if inner is None else inner.affine
        extent = dim(value, 1)
        numbers = None if extent is None else affine.channels(extent)
        if numbers is None or affine.axis not in (None, 1):
            return "the channels of a Concat on the way are not known"
        scales.append(numbers[0])
        shifts.append(numbers[1])
    return Affine(np.concatenate(scales), np.concatenate(shifts), 1)


def _homogeneous(node: ir.Node) -> Pulled | Reject | None:
    """`f(s·x) = s·f(x)` for s > 0."""
    return _unary(node, lambda affine: affine.keeps_order and not affine.shifts)


def _monotone(node: ir.Node) -> Pulled | Reject | None:
    """`max(s·x + t) = s·max(x) + t` for s > 0."""
    if len(node.outputs) > 1:
        return None
    return _unary(node, lambda affine: affine.keeps_order and affine.axis in (None, 1))


def _unary(node: ir.Node, commutes: Callable[[Affine], bool]) -> Pulled | Reject | None:
    x = node.inputs[0]
    inner = None if x is None else pull(x, node)
    if not isinstance(inner, Pulled):
        return inner
    if not commutes(inner.affine):
        return Reject("a shift or a negative scale cannot move past it", node)
    return _carried(node, 0, inner, inner.affine)


def _average(node: ir.Node) -> Pulled | Reject | None:
    """An average of s·x + t over places is s·average + t where no padding is counted."""
    x = node.inputs[0]
    inner = None if x is None else pull(x, node)
    if not isinstance(inner, Pulled):
        return inner
    if inner.affine.axis not in (None, 1) or not _averages_places(node):
        return Reject("the average is not over places alone", node)
    counts = int_attribute(node, "count_include_pad", 0) or int_attribute(node, "ceil_mode", 0)
    if inner.affine.shifts and counts:
        return Reject("it counts padding, which a shift cannot move past", node)
    return _carried(node, 0, inner, inner.affine)


def _averages_places(node: ir.Node) -> bool:
    """Whether batch and channels stay apart, and where they are."""
    if not is_op(node, "ReduceMean"):
        return True
    known, given = rank(node.inputs[0]), input_at(node, 1)
    axes = int_constant(given) if given is not None else ints_attribute(node, "axes", ())
    if known is None or not axes:
        return False
    return all(axis % known > 1 for axis in axes)


def _rearranged(node: ir.Node) -> Pulled | Reject | None:
    x = node.inputs[0]
    inner = None if x is None else pull(x, node)
    if not isinstance(inner, Pulled):
        return inner
    if inner.affine.axis is None:
        return _carried(node, 0, inner, inner.affine)
    axis = axis_after(node, inner.affine.axis)
    if axis is None:
        return Reject("the channels cannot be followed through a reshape", node)
    return _carried(node, 0, inner, inner.affine.along(axis))


_CARRIERS: dict[str, Carrier] = {
    "Concat": _concat,
    "Relu": _homogeneous,
    "LeakyRelu": _homogeneous,
    "MaxPool": _monotone,
    "GlobalMaxPool": _monotone,
    "AveragePool": _average,
    "GlobalAveragePool": _average,
    "ReduceMean": _average,
    "Transpose": _rearranged,
    "Reshape": _rearranged,
    "Flatten": _rearranged,
    "Squeeze": _rearranged,
    "Unsqueeze": _rearranged,
}


def emit_source(pulled: Pulled, build: Builder) -> ir.Value:
    """Record what remains when the affine is taken out, and return it."""
    node = pulled.through
    if node is None:
        return pulled.value
    inputs = [
        node.inputs[index] if inner is None else emit_source(inner, build)
        for index, inner in enumerate(pulled.inputs)
    ]
    return build.like(node, inputs)
