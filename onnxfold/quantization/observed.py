"""Which values a calibration has to know so that any layers may be left in float later on."""

from collections.abc import Iterator

import onnx_ir as ir

from onnxfold.calibrate.instrument import observable_values
from onnxfold.ir.graph import is_op
from onnxfold.targets.layers import Layer, layer_of
from onnxfold.targets.pointwise import region_behind
from onnxfold.targets.target import Target

_JOINS = ("Add", "Mul", "Concat")
_HAND_ON = (
    *("MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "Resize"),
    *("DepthToSpace", "SpaceToDepth", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"),
    *("Slice", "Split", "Expand", "Tile", "Gather"),
)


def observed_values(model: ir.Model, target: Target, excluded: frozenset[str]) -> list[str]:
    """The values that a plan may quantize, whatever else is excluded.

    Where a layer is left in float, its neighbours' Q/DQ move: to what it reads, to what it computes
    and to what activations and movements make of that. Values inside an activation are left out
    unless the plan itself wants them.

    Args:
        model: With its shapes inferred.
        target: Whose plans they are.
        excluded: What stays float in all of them.
    """
    planned = target.plan(model.graph, excluded).sources()
    borders = {value for node in model.graph for value in _borders(node)} - _inside(model.graph)
    wanted = planned.keys() | {value.name for value in borders}
    return [name for name in observable_values(model) if name in wanted]


def _inside(graph: ir.Graph) -> set[ir.Value]:
    """The values inside activations of several operators, and between these and the next ones."""
    found: set[ir.Value] = set()
    for node in graph:
        for value in node.outputs:
            region = region_behind(value) if value.uses() else None
            if region is None or len(region.nodes) == 1:
                continue
            found.update(output for inner in region.nodes for output in inner.outputs)
            if not region.exit.uses() or region_behind(region.exit) is None:
                found.discard(region.exit)
    return found


def _borders(node: ir.Node) -> Iterator[ir.Value]:
    read: tuple[ir.Value | None, ...] = ()
    if isinstance(layer_of(node), Layer):
        read = tuple(node.inputs[:1])
    elif is_op(node, *_JOINS):
        read = tuple(node.inputs)
    elif not is_op(node, *_HAND_ON):
        return
    yield from (value for value in read if value is not None)
    yield from map(_behind_activations, node.outputs)


def _behind_activations(value: ir.Value) -> ir.Value:
    while value.uses() and (region := region_behind(value)) is not None:
        value = region.exit
    return value
