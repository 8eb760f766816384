"""Constants that scale with the channels of a tensor: what is added, and what a norm multiplies by.

They are weights of a kind. A vector that is added to a tensor is divided like the tensor; the gain
and the shift of a normalization, or a vector that multiplies what cannot be scaled, give variables
of its own to their output.
"""

from collections.abc import Sequence

import onnx_ir as ir

from onnxfold.ir.constants import constant_tensor, float_constant, is_constant
from onnxfold.ir.graph import input_at, int_attribute, is_op
from onnxfold.ir.ops import BatchNormalization
from onnxfold.ir.shapes import dim, rank, tensor_extents
from onnxfold.linear.affine import channel_vector
from onnxfold.quantize.channel_variables import ChannelScales, ConstantSide, Placement

Outcome = Sequence[Placement | None] | str


def added_constant(found: ChannelScales, node: ir.Node, x: ir.Value, constant: ir.Value) -> Outcome:
    """An addition of a constant to a tensor with variables."""
    placement, known = found.placements[x], rank(node.outputs[0])
    tensor = constant_tensor(constant)
    assert tensor is not None
    if known is None or rank(x) != known or len(tensor.shape) > known:
        return "an addition broadcasts its operands"
    if dim(node.outputs[0], placement.axis) != placement.ids.size:
        return "an addition broadcasts its channels"
    from_end = placement.axis - known
    extents = tensor_extents(tensor)
    if len(extents) < -from_end or extents[from_end] != placement.ids.size:
        return "the constant that is added is the same for all channels"
    index = 0 if node.inputs[0] is constant else 1
    found.constants.append(ConstantSide(node, index, from_end, placement.ids))
    return [placement]


def multiplied_constant(found: ChannelScales, node: ir.Node) -> Outcome:
    """A product of a tensor that cannot be scaled with one number per channel."""
    constants = [value for value in node.inputs if is_constant(value)]
    if not is_op(node, "Mul") or len(constants) != 1:
        return [None]
    index = 0 if node.inputs[0] is constants[0] else 1
    x, numbers = node.inputs[1 - index], float_constant(constants[0])
    if x is None or numbers is None or numbers.size == 1:
        return [None]
    placed = channel_vector(x, numbers)
    if isinstance(placed, str) or placed[1] is None or rank(x) is None:
        return [None]
    axis = placed[1]
    ids = found.variables.fresh(placed[0].size)
    known = rank(x)
    assert known is not None
    found.constants.append(ConstantSide(node, index, axis - known, ids))
    return [Placement(axis, ids)]


def normalized(found: ChannelScales, node: ir.Node) -> Outcome:
    """The gain and the shift of a normalization divide its output; its input stays as it is."""
    x, known = input_at(node, 0), rank(input_at(node, 0))
    if x is None or known is None:
        return [None]
    found.pin(x, f"{node.op_type} does not commute with a scale", node)
    axis = 1
    if is_op(node, "LayerNormalization"):
        axis = known - 1
        if int_attribute(node, "axis", -1) % known != axis:
            return [None]
    norm = BatchNormalization.of(node)
    parameters = [index for index in (1, 2) if input_at(node, index) is not None]
    numbers = [float_constant(node.inputs[index]) for index in parameters]
    given = [each for each in numbers if each is not None and each.ndim == 1]
    if (norm is not None and norm.training) or not given or len(given) != len(numbers):
        return [None]
    if any(output.uses() for output in node.outputs[1:]):
        return [None]
    ids = found.variables.fresh(given[0].size)
    found.constants += [ConstantSide(node, index, -1, ids) for index in parameters]
    return [Placement(axis, ids)]
