"""Where OpenVINO's CPU plugin wants its Q/DQ.

It fuses whatever is pointwise behind a Conv into it, and the next quantization as well: so pairs
stand behind complete activations, never inside. What a Conv writes may be float; integers in and
out of an addition or a Concat keep everything in one kernel. Biases stay float.

Found out by compiling small graphs with version 2026.4 and reading `runtimePrecision`.
"""

from collections.abc import Iterable

import onnx_ir as ir

from onnxfold.calibrate.scheme import INT8, UINT8_NON_NEGATIVE, Scheme
from onnxfold.ir.constants import is_constant
from onnxfold.ir.graph import is_op, string_attribute
from onnxfold.ir.shapes import dim, rank
from onnxfold.quantize.plan import Plan, WeightSite
from onnxfold.targets.layers import Layer, layer_name, layers_of
from onnxfold.targets.placement import Dialect, place
from onnxfold.targets.pointwise import region_behind
from onnxfold.targets.signs import Signs

_ENOUGH_ROWS = 16
_MISCOMPUTED = "OpenVINO goes wrong on INT8 products of two matrices with few rows"
_JOINS = ("Add", "Mul", "Concat")
_POOLS = ("AveragePool", "GlobalAveragePool", "ReduceMean")
_MOVES = (
    *("MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split"),
    "SpaceToDepth",
)


def plan(graph: ir.Graph, excluded: frozenset[str] = frozenset()) -> Plan:
    """What to quantize for OpenVINO on a CPU.

    Args:
        graph: Of a float model, shapes inferred.
        excluded: Names of layers that stay float. Other nodes, by the name of their first output,
            are not made to compute with integers.
    """
    layers, float_layers = layers_of(graph, excluded)
    for name in [name for name, layer in layers.items() if _is_miscomputed(layer)]:
        float_layers[name] = _MISCOMPUTED
        del layers[name]
    barred = frozenset(node for node in graph if layer_name(node) in excluded) | _inside(graph)
    placement = place(graph, DIALECT, layers, barred, _schemes(layers.values()))
    return Plan(
        sites=placement.sites,
        weights=tuple(WeightSite(name, 1, layer.axis) for name, layer in layers.items()),
        biases=(),
        float_layers=float_layers,
        shapes_of_integers=True,
    )


def _is_miscomputed(layer: Layer) -> bool:
    """Whether it is a product of two matrices with few rows and without a bias.

    Where such a product hands integers to another one, as in squeeze-and-excitation, version 2026.4
    computes zeros or rubbish. Up to 8 rows were seen to be wrong, and 15 right.
    """
    if not is_op(layer.node, "MatMul") or rank(layer.x) not in (None, 2):
        return False
    rows = dim(layer.x, 0)
    return rows is None or rows < _ENOUGH_ROWS


def _schemes(layers: Iterable[Layer]) -> dict[ir.Value, Scheme]:
    """A ConvTranspose computes with integers only where its zero point is 0."""
    signs = Signs()
    return {
        layer.x: UINT8_NON_NEGATIVE if signs.is_non_negative(layer.x) else INT8
        for layer in layers
        if is_op(layer.node, "ConvTranspose")
    }


def _inside(graph: ir.Graph) -> frozenset[ir.Node]:
    """The nodes of activations with more than one operator."""
    found: set[ir.Node] = set()
    for node in graph:
        for value in node.outputs:
            region = region_behind(value) if value.uses() else None
            if region is not None and len(region.nodes) > 1:
                found.update(region.nodes)
    return frozenset(found)


def _computes(node: ir.Node) -> bool:
    if node.outputs[0].dtype not in (None, ir.DataType.FLOAT):
        return False
    if is_op(node, *_JOINS):
        return not any(map(is_constant, node.inputs))
    return is_op(node, *_POOLS)


def _moves(node: ir.Node) -> bool:
    if is_op(node, "DepthToSpace"):
        # It cannot move a zero point that a Concat has made one per channel.
        x = node.inputs[0]
        return x is not None and Signs().is_non_negative(x)
    if is_op(node, "Resize"):
        # With sizes that are computed it interpolates in float and hands nothing on.
        known = all(value is None or is_constant(value) for value in node.inputs[1:])
        return known and string_attribute(node, "mode", "nearest") == "nearest"
    return is_op(node, *_MOVES) and not (is_op(node, "MaxPool") and len(node.outputs) > 1)


def _tail(node: ir.Node) -> ir.Value:
    """What the kernel writes: all pointwise operators behind it are part of it."""
    value = node.outputs[0]
    if is_op(node, "Concat", *_POOLS):
        return value
    while (region := region_behind(value)) is not None:
        value = region.exit
    return value


DIALECT = Dialect(
    computes=_computes,
    gathers=lambda _: False,
    moves=_moves,
    reads_constants=False,
    requantizes_moves=False,
    tail=_tail,
    needs_output=lambda _: False,
    reaches=lambda layer: is_op(layer.node, "Conv", "ConvTranspose"),
)
