"""Where ONNX Runtime's CPU provider wants its Q/DQ.

It fuses DequantizeLinear → operator → QuantizeLinear into one integer kernel, and only that: a Conv
whose result is not quantized at once is computed in float from weights dequantized on every run. So
there is a pair behind every Conv and every operator with an integer kernel, activations are
unsigned (a ReLU vanishes in a quantization whose zero point is 0), and biases are integers.

Source of the rules: `onnxruntime/core/optimizer/qdq_transformer`, tried on version 1.31.
"""

from collections.abc import Mapping

import onnx_ir as ir

from onnxfold.ir.constants import constant_tensor, is_constant
from onnxfold.ir.graph import input_at, is_op, sole_reader, string_attribute
from onnxfold.ir.shapes import dim, tensor_extents
from onnxfold.quantize.plan import BiasSite, Plan, WeightSite
from onnxfold.targets.layers import Layer, layer_name, layers_of
from onnxfold.targets.placement import Dialect, Placement, is_captured, place
from onnxfold.targets.pointwise import region_behind
from onnxfold.targets.signs import clip_limits

_COMPUTES = ("Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid")
_MOVES = (
    *("MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split"),
    *("Expand", "Tile", "Gather", "DepthToSpace"),
)
_SWALLOWED = ("Relu", "Clip")


def plan(graph: ir.Graph, excluded: frozenset[str] = frozenset()) -> Plan:
    """What to quantize for ONNX Runtime on a CPU.

    Args:
        graph: Of a float model, shapes inferred.
        excluded: Names of layers that stay float. Other nodes, by the name of their first output,
            are not made to compute with integers.
    """
    layers, float_layers = layers_of(graph, excluded)
    for name, layer in list(layers.items()):
        if (reason := _refusal(layer)) is not None:
            float_layers[name] = reason
            del layers[name]
    barred = frozenset(node for node in graph if layer_name(node) in excluded) | _opaque(graph)
    placement = place(graph, DIALECT, layers, barred, {})
    return Plan(
        sites=placement.sites,
        weights=tuple(WeightSite(name, 1, layer.axis) for name, layer in layers.items()),
        biases=tuple(filter(None, map(_bias, layers.values()))),
        float_layers=float_layers,
        shielded=_shielded(graph, placement, float_layers),
        fenced=_fenced(graph, placement),
        shapes_of_integers=True,
    )


def _bias(layer: Layer) -> BiasSite | None:
    x = layer.x.name or ""
    if layer.bias is not None:
        return BiasSite(layer.name, x, layer.name, 2)
    addition = _addition_of_bias(layer.node)
    if addition is None:
        return None
    index = next(i for i, value in enumerate(addition.inputs) if is_constant(value))
    return BiasSite(layer.name, x, layer_name(addition), index)


def _addition_of_bias(node: ir.Node) -> ir.Node | None:
    """The Add behind a MatMul that ONNX Runtime makes a Gemm of, with the constant as its bias."""
    if not is_op(node, "MatMul"):
        return None
    reader, columns = sole_reader(node.outputs[0]), dim(node.inputs[1], -1)
    if reader is None or not is_op(reader, "Add"):
        return None
    constants = [
        tensor for value in reader.inputs if (tensor := constant_tensor(value)) is not None
    ]
    if len(constants) != 1 or tensor_extents(constants[0]) != (columns,):
        return None
    return reader


def _refusal(layer: Layer) -> str | None:
    if is_op(layer.node, "ConvTranspose"):
        return "ONNX Runtime has no integer kernel for ConvTranspose"
    if any(is_captured(value) for value in (layer.node.outputs[0], _tail(layer.node))):
        return "a body of control flow reads its output"
    return None


def _opaque(graph: ir.Graph) -> frozenset[ir.Node]:
    """Nodes of activations that run in float: each as a whole, in one kernel where there is one."""
    found: set[ir.Node] = set()
    for node in graph:
        for value in node.outputs:
            region = region_behind(value) if value.uses() else None
            if region is None or len(region.nodes) == 1:
                continue
            if not all(_computes(inner) or is_op(inner, *_SWALLOWED) for inner in region.nodes):
                found.update(region.nodes)
    return frozenset(found)


def _computes(node: ir.Node) -> bool:
    if not is_op(node, *_COMPUTES) or node.outputs[0].dtype not in (None, ir.DataType.FLOAT):
        return False
    if is_captured(node.outputs[0]) or all(map(is_constant, node.inputs)):
        return False
    return not (is_op(node, "AveragePool") and "dilations" in node.attributes)


def _moves(node: ir.Node) -> bool:
    if any(is_captured(output) for output in node.outputs):
        return False
    if is_op(node, "Resize"):
        return string_attribute(node, "mode", "nearest") == "nearest"
    return is_op(node, *_MOVES) and not (is_op(node, "MaxPool") and len(node.outputs) > 1)


def _tail(node: ir.Node) -> ir.Value:
    """What the kernel writes: a ReLU or Clip that it alone feeds vanishes in the quantization."""
    addition = _addition_of_bias(node)
    output = (node if addition is None else addition).outputs[0]
    reader = sole_reader(output)
    if reader is None or not is_op(reader, *_SWALLOWED) or reader.inputs[0] is not output:
        return output
    if is_op(reader, "Relu"):
        return reader.outputs[0]
    limits = clip_limits(reader)
    if limits is None or not limits[0] <= 0.0 <= limits[1] or limits[0] == limits[1]:
        return output
    return reader.outputs[0]


def _shielded(
    graph: ir.Graph, placement: Placement, float_layers: Mapping[str, str]
) -> frozenset[str]:
    """Float layers that read integers back.

    ONNX Runtime quantizes the weights of a float Conv, ConvTranspose or Gemm between a
    DequantizeLinear with a single scale and a QuantizeLinear, with one scale for all channels.
    """
    found = set()
    for node in graph:
        if is_op(node, "Conv", "ConvTranspose", "Gemm") and layer_name(node) in float_layers:
            x = input_at(node, 0)
            if x is not None and x.name in placement.written and (dim(x, 1) or 0) > 1:
                found.add(layer_name(node))
    return frozenset(found)


def _fenced(graph: ir.Graph, placement: Placement) -> frozenset[str]:
    """Where a GELU that was decomposed reads integers back, at once or moved about."""
    found = set()
    for node in graph:
        for value in node.outputs:
            if len(value.uses()) > 1 and _comes_back(value, placement):
                region = region_behind(value)
                if region is not None and any(
                    is_op(inner, "Erf", "Tanh") for inner in region.nodes
                ):
                    found.add(value.name or "")
    return frozenset(found)


def _comes_back(value: ir.Value, placement: Placement) -> bool:
    """Whether a float reader of `value` reads integers back: it dequantizes behind movements."""
    while value.name not in placement.written:
        node = value.producer()
        if node is None or not _moves(node) or node.inputs[0] is None:
            return False
        value = node.inputs[0]
    return True


DIALECT = Dialect(
    computes=_computes,
    gathers=lambda node: is_op(node, "Concat"),
    moves=_moves,
    reads_constants=True,
    requantizes_moves=True,
    tail=_tail,
    needs_output=lambda layer: is_op(layer.node, "Conv"),
    reaches=lambda layer: is_op(layer.node, "Conv"),
)
