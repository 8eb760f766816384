"""Which channels can be scaled together without changing what a graph computes.

Every channel of a tensor gets a *variable*: the number by which it may be divided. A convolution or
matrix product divides its output channels in its weights and multiplies its input channels, so that
both sides are free. Operators in between with `f(x / s) = f(x) / s` for s > 0 hand variables on,
and additions unite those of their operands: a residual stream is scaled as a whole or not at all.
What is left over is *pinned* to one.
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxfold.ir.constants import constant_array, int_constant, is_constant
from onnxfold.ir.graph import (
    captured_values,
    input_at,
    int_attribute,
    ints_attribute,
    is_op,
    producer,
    string_attribute,
)
from onnxfold.ir.ops import Pad
from onnxfold.ir.shapes import dim, rank
from onnxfold.linear.axes import axis_after
from onnxfold.linear.hosts import Host, host_of
from onnxfold.quantize.channel_constants import added_constant, multiplied_constant, normalized
from onnxfold.quantize.channel_variables import Ceiling, ChannelScales, HostSides, Placement
from onnxfold.rewrite.rule import Reject

Carrier = Callable[[ChannelScales, ir.Node], "Sequence[Placement | None] | str"]
"""The variables of the outputs, or why the inputs must stay as they are."""


def channel_scales(graph: ir.Graph) -> ChannelScales:
    """Find the variables of a graph whose shapes are inferred; nested graphs are left alone."""
    found = ChannelScales()
    for node in graph:
        for captured in captured_values(node):
            found.pin(captured, "a body of control flow reads it", node)
        host = host_of(node)
        if isinstance(host, Host):
            _read_host(found, host)
        else:
            _hand_on(found, node, host)
    for output in graph.outputs:
        source = producer(output)
        if source is not None:
            found.pin(output, "it is an output of the model", source)
    return found


def _hand_on(found: ChannelScales, node: ir.Node, refused: Reject | None) -> None:
    """Give the outputs of an operator the variables of its inputs, or pin the inputs."""
    carrier = _CARRIERS.get(node.op_type) if node.domain == "" else None
    outcome: Sequence[Placement | None] | str = _not_homogeneous(node)
    if carrier is not None:
        outcome = carrier(found, node)
    elif refused is not None:
        outcome = refused.reason
    if isinstance(outcome, str):
        for value in node.inputs:
            found.pin(value, outcome, node)
        return
    for output, placement in zip(node.outputs, outcome, strict=False):
        if placement is not None:
            found.placements[output] = placement


def _not_homogeneous(node: ir.Node) -> str:
    return f"{node.op_type} does not commute with a scale"


def _read_host(found: ChannelScales, host: Host) -> None:
    inputs = None
    placement = found.placements.get(host.x)
    if placement is not None and (placement.axis, placement.ids.size) == (
        host.in_axis,
        host.in_channels,
    ):
        inputs = placement.ids
    if inputs is None:
        found.pin(host.x, "its channels lie along another axis", host.node)
    for value in host.node.inputs[1:]:
        found.pin(value, "it is a weight", host.node)
    outputs = None
    if host.out_axis is not None and _takes_output_scale(host):
        outputs = found.variables.fresh(host.out_channels)
        found.placements[host.node.outputs[0]] = Placement(host.out_axis, outputs)
    found.sides.append(HostSides(host, inputs, outputs))


def _takes_output_scale(host: Host) -> bool:
    """Whether the bias is one number per output channel: that of a Gemm may be anything."""
    return host.bias is None or host.bias.shape in ((host.out_channels,), (1, host.out_channels))


def _data_input(node: ir.Node) -> ir.Value:
    x = node.inputs[0]
    assert x is not None
    return x


def _unchanged(found: ChannelScales, node: ir.Node) -> Sequence[Placement | None] | str:
    if len(node.outputs) > 1 and any(output.uses() for output in node.outputs[1:]):
        return "more than one of its outputs is read"
    return [found.placements.get(_data_input(node))]


def _silent(found: ChannelScales, node: ir.Node) -> Sequence[Placement | None] | str:
    """What reads nothing but the shape."""
    return [None]


def _prelu(found: ChannelScales, node: ir.Node) -> Sequence[Placement | None] | str:
    if not is_constant(input_at(node, 1)):
        return "the slope of the PRelu is computed"
    return _unchanged(found, node)


def _clip(found: ChannelScales, node: ir.Node) -> Sequence[Placement | None] | str:
    """`max(x, 0)` is homogeneous; a ceiling is noted, and holds for whoever scales."""
    low, high = _bound(node, 1, "min"), _bound(node, 2, "max")
    if low != 0:
        return "a Clip that does not start at zero does not commute with a scale"
    if high is None:
        return "the bounds of the Clip are computed"
    placement = found.placements.get(_data_input(node))
    if placement is None:
        return [None]
    if np.isfinite(high):
        found.ceilings.append(Ceiling(node.outputs[0], placement.ids, high))
    return [placement]


def _bound(node: ir.Node, index: int, name: str) -> float | None:
    """A bound of a Clip; infinite when it has none, None when it is computed."""
    if name in node.attributes:
        return node.attributes[name].as_float()
    value = input_at(node, index)
    if value is None:
        return -np.inf if name == "min" else np.inf
    array = constant_array(value)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def _pad(found: ChannelScales, node: ir.Node) -> Sequence[Placement | None] | str:
    pad, placement = Pad.of(node), found.placements.get(_data_input(node))
    if pad is None or placement is None:
        return [None]
    if pad.mode == "constant" and pad.value != 0:
        return "it pads with a value that is not zero"
    if pad.pads is None or pad.pads[placement.axis] != (0, 0):
        return "it may pad the channels"
    return [placement]


def _resize(found: ChannelScales, node: ir.Node) -> Sequence[Placement | None] | str:
    placement = found.placements.get(_data_input(node))
    if placement is None:
        return [None]
    if string_attribute(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize":
        return "a Resize that crops writes a value of its own"
    if dim(node.outputs[0], placement.axis) != placement.ids.size:
        return "it may resize the channels"
    return [placement]


def _sum(found: ChannelScales, node: ir.Node) -> Sequence[Placement | None] | str:
    values = [value for value in node.inputs if value is not None]
    placements = [found.placements[value] for value in values if value in found.placements]
    if not placements:
        return [None]
    constants = [value for value in values if is_constant(value)]
    if len(values) == 2 and len(constants) == 1:
        return added_constant(found, node, *(v for v in values if v not in constants), *constants)
    known, first = rank(node.outputs[0]), placements[0]
    if known is None or any(rank(value) != known for value in values):
        return "an addition broadcasts its operands"
    columns = [found.along(value, first.axis, node) for value in values]
    united = [ids for ids in columns if ids is not None and ids.size == first.ids.size]
    if len(united) != len(values):
        return "an addition broadcasts its channels"
    for ids in united[1:]:
        found.variables.unite(united[0], ids)
    return [first]


def _product(found: ChannelScales, node: ir.Node) -> Sequence[Placement | None] | str:
    """A product with a constant, or with a gate that no scale reaches, hands the scale on."""
    left, right = node.inputs[0], node.inputs[1]
    assert left is not None
    assert right is not None
    scaled = [value for value in (left, right) if value in found.placements]
    if len(scaled) != 1:
        return _not_homogeneous(node) if scaled else multiplied_constant(found, node)
    other = right if scaled[0] is left else left
    if scaled[0] is right and is_op(node, "Div"):
        return "it divides by the tensor"
    placement = found.placements[scaled[0]]
    known = rank(node.outputs[0])
    if known is None or rank(scaled[0]) != known or (rank(other) or 0) > known:
        return "a product broadcasts the tensor"
    if dim(node.outputs[0], placement.axis) != placement.ids.size:
        return "a product broadcasts the channels"
    return [placement]


def _concat(found: ChannelScales, node: ir.Node) -> Sequence[Placement | None] | str:
    values = [value for value in node.inputs if value is not None]
    placed = [found.placements[value] for value in values if value in found.placements]
    known = rank(node.outputs[0])
    if not placed or known is None:
        return [None] if not placed else "the rank of a Concat is not known"
    axis, channels = int_attribute(node, "axis", 0) % known, placed[0].axis
    columns = [found.along(value, channels, node) for value in values]
    ids = [each for each in columns if each is not None]
    if len(ids) != len(columns):
        return "the channels of a Concat are not known"
    if axis == channels:
        return [Placement(axis, np.concatenate(ids))]
    for each in ids[1:]:
        found.variables.unite(ids[0], each)
    return [Placement(channels, ids[0])]


def _split(found: ChannelScales, node: ir.Node) -> Sequence[Placement | None] | str:
    placement = found.placements.get(_data_input(node))
    if placement is None:
        return [None] * len(node.outputs)
    axis = int_attribute(node, "axis", 0) % (rank(_data_input(node)) or 1)
    if axis != placement.axis:
        return [placement] * len(node.outputs)
    extents = [dim(output, axis) for output in node.outputs]
    known = [extent for extent in extents if extent is not None]
    if len(known) != len(extents) or sum(known) != placement.ids.size:
        return "the extents of a Split are not known"
    parts = np.split(placement.ids, np.cumsum(known)[:-1])
    return [Placement(axis, part) for part in parts]


def _slice(found: ChannelScales, node: ir.Node) -> Sequence[Placement | None] | str:
    x = _data_input(node)
    placement, known = found.placements.get(x), rank(x)
    if placement is None or known is None:
        return [None]
    starts = ints_attribute(node, "starts", ()) or int_constant(input_at(node, 1))
    ends = ints_attribute(node, "ends", ()) or int_constant(input_at(node, 2))
    if starts is None or ends is None:
        return "the bounds of a Slice are computed"
    given = ints_attribute(node, "axes", ()) or int_constant(input_at(node, 3))
    axes = [axis % known for axis in (given or range(len(starts)))]
    steps = int_constant(input_at(node, 4)) or (1,) * len(starts)
    if placement.axis not in axes:
        return [placement]
    at = axes.index(placement.axis)
    ids = placement.ids[slice(starts[at], ends[at], steps[at])] if steps[at] > 0 else None
    if ids is None or ids.size != dim(node.outputs[0], placement.axis):
        return "a Slice takes channels in an order that cannot be followed"
    return [Placement(placement.axis, ids)]


def _rearranged(found: ChannelScales, node: ir.Node) -> Sequence[Placement | None] | str:
    placement = found.placements.get(_data_input(node))
    if placement is None:
        return [None]
    axis = axis_after(node, placement.axis)
    if axis is None:
        return "the channels cannot be followed through a reshape"
    return [Placement(axis, placement.ids)]


def _reduced(found: ChannelScales, node: ir.Node) -> Sequence[Placement | None] | str:
    x = _data_input(node)
    placement, known = found.placements.get(x), rank(x)
    if placement is None or known is None:
        return [None]
    given = ints_attribute(node, "axes", ()) or int_constant(input_at(node, 1))
    axes = {axis % known for axis in given} if given else set()
    if not axes or placement.axis in axes:
        return "it reduces over the channels"
    if int_attribute(node, "keepdims", 1):
        return [placement]
    return [Placement(placement.axis - sum(a < placement.axis for a in axes), placement.ids)]


def _depth_to_space(found: ChannelScales, node: ir.Node) -> Sequence[Placement | None] | str:
    """The channels that become one plane share a variable."""
    placement = found.placements.get(_data_input(node))
    if placement is None:
        return [None]
    block = int_attribute(node, "blocksize", 1)
    phases = block * block
    if string_attribute(node, "mode", "DCR") == "DCR":
        table = placement.ids.reshape(phases, -1)
    else:
        table = placement.ids.reshape(-1, phases).T
    for row in table[1:]:
        found.variables.unite(table[0], row)
    return [Placement(1, table[0])]


_CARRIERS: dict[str, Carrier] = {
    **dict.fromkeys(
        (
            *("Relu", "LeakyRelu", "Identity", "Dropout", "MaxPool", "AveragePool"),
            *("GlobalAveragePool", "GlobalMaxPool"),
        ),
        _unchanged,
    ),
    **dict.fromkeys(("Add", "Sub", "Sum"), _sum),
    **dict.fromkeys(("Mul", "Div"), _product),
    **dict.fromkeys(("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"), _rearranged),
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum"), _reduced),
    **dict.fromkeys(("Shape", "Size"), _silent),
    **dict.fromkeys(
        ("BatchNormalization", "InstanceNormalization", "LayerNormalization"), normalized
    ),
    "PRelu": _prelu,
    "Clip": _clip,
    "Pad": _pad,
    "Resize": _resize,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "DepthToSpace": _depth_to_space,
}
