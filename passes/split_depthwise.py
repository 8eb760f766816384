"""Split a depthwise convolution with several outputs per channel into plain depthwise ones.

    channel g·m + j of a Conv with g groups of one channel and m outputs each
    = channel g of the j-th of m Convs with one output each

What it does:
    Replaces the convolution by m depthwise ones and a Concat, and takes the new order of channels
    into the weights of the convolution that reads them. Integer kernels for depthwise convolutions
    are fast with one output per channel only: on ONNX Runtime others take ten times as long.
When it applies:
    Every group has one input channel and m > 1 outputs, m at most 4; only a Conv without groups
    reads the result, activations in between aside; all weights are constants.
When it refuses:
    Other readers, since the channels change places.
Exactness:
    reassociated: the same products; the reader sums them in another order.
Example:
    before: c = Conv<group = 8>(x, w)  y = Conv(c, v)
    after:  a = Conv<group = 8>(x, w.folded)  b = Conv<group = 8>(x, w.folded.1)
            c = Concat<axis = 1>(a, b)  y = Conv(c, v.folded)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxfold.ir.constants import constant_array
from onnxfold.ir.graph import has_other_readers, is_op, sole_reader
from onnxfold.ir.ops import Conv
from onnxfold.ir.shapes import dim
from onnxfold.pipeline.passes import NoOptions, RulePass
from onnxfold.rewrite.builder import Builder
from onnxfold.rewrite.rule import AnyRule, Reject, Rule

_MOST = 4
_ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Elu")


@dataclass(frozen=True, slots=True)
class DepthwiseThenConv:
    """A depthwise convolution and the convolution that alone reads it.

    Attributes:
        depthwise: The former.
        multiplier: Its outputs per channel.
        activations: The operators in between, in order.
        reader: The latter.
    """

    depthwise: Conv
    multiplier: int
    activations: tuple[ir.Node, ...]
    reader: Conv


def match(node: ir.Node) -> DepthwiseThenConv | Reject | None:
    """A convolution behind a depthwise one, or one that nothing can be done about."""
    found = _behind_depthwise(node)
    own = Conv.of(node)
    if found is not None or own is None or _multiplier(own) is None:
        return found
    if _leads_to_conv(node.outputs[0]):
        return None
    return Reject("what reads it cannot take its channels in another order", node)


def _leads_to_conv(value: ir.Value) -> bool:
    """Whether the rule is going to be asked again at the reader."""
    while (reader := sole_reader(value)) is not None:
        if Conv.of(reader) is not None:
            return _behind_depthwise(reader) is not None
        if not is_op(reader, *_ACTIVATIONS):
            return False
        value = reader.outputs[0]
    return False


def _behind_depthwise(node: ir.Node) -> DepthwiseThenConv | None:
    reader = Conv.of(node)
    if reader is None or reader.group != 1 or constant_array(reader.weight) is None:
        return None
    activations: list[ir.Node] = []
    value = reader.x
    while (above := value.producer()) is not None and not has_other_readers(value):
        depthwise = Conv.of(above)
        if depthwise is not None:
            multiplier = _multiplier(depthwise)
            if multiplier is None:
                return None
            return DepthwiseThenConv(depthwise, multiplier, tuple(activations[::-1]), reader)
        inner = above.inputs[0] if above.inputs else None
        if inner is None or not is_op(above, *_ACTIVATIONS):
            return None
        activations.append(above)
        value = inner
    return None


def _multiplier(found: Conv) -> int | None:
    """Outputs per channel of a depthwise convolution that can be split."""
    outputs = dim(found.weight, 0)
    if found.group < 2 or dim(found.weight, 1) != 1 or outputs is None:
        return None
    if any(constant_array(v) is None for v in (found.weight, found.bias) if v is not None):
        return None
    multiplier = outputs // found.group
    return multiplier if 1 < multiplier <= _MOST else None


def rewrite(found: DepthwiseThenConv, build: Builder) -> ir.Value:
    """Record the plain depthwise convolutions, and their reader with its weights reordered."""
    parts = [_part(found, index, build) for index in range(found.multiplier)]
    joined = build.op("Concat", parts, {"axis": 1})
    joined.type, joined.shape = found.reader.x.type, found.reader.x.shape
    weight = constant_array(found.reader.weight)
    assert weight is not None
    # Channel (index, group) of the Concat was channel (group, index).
    by_group = weight.reshape(len(weight), -1, found.multiplier, *weight.shape[2:])
    reordered = by_group.swapaxes(1, 2).reshape(weight.shape)
    inputs = [
        joined,
        _constant(found.reader.weight, reordered, build),
        *found.reader.node.inputs[2:],
    ]
    return build.like(found.reader.node, inputs)


def _part(found: DepthwiseThenConv, index: int, build: Builder) -> ir.Value:
    inputs: list[ir.Value] = [found.depthwise.x]
    for value in (found.depthwise.weight, found.depthwise.bias):
        if value is not None:
            array = constant_array(value)
            assert array is not None
            inputs.append(_constant(value, array[index :: found.multiplier], build))
    output = build.like(found.depthwise.node, inputs)
    shape = output.shape
    if shape is not None:
        shape = ir.Shape([shape[0], found.depthwise.group, *shape[2:]])
    output.shape = shape
    for node in found.activations:
        output = build.like(node, [output, *node.inputs[1:]])
        output.shape = shape
    return output


def _constant(value: ir.Value, array: NDArray[Any], build: Builder) -> ir.Value:
    held = np.ascontiguousarray(array)
    return build.tensor(held, ir.DataType.from_numpy(held.dtype), value.name)


def rules(_: NoOptions) -> Sequence[AnyRule]:
    """The one rule."""
    return (RULE,)


RULE = Rule("outputs", frozenset({"Conv"}), match, rewrite)
PASS = RulePass("split_depthwise", rules, __doc__ or "")
